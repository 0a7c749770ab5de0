package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"nameplate/ca"
)

// maxCSR is many times a P-256 request with a long subject; a larger one is not
// worth parsing.
const maxCSR = 8 << 10

// Issue signs a certificate for the key in the request's CSR. From the CSR it takes
// the public key and the proof that the asker holds the private one, nothing else:
// extensions and attributes asked for there are ignored, serial and profile are
// ours, and dates are cut to whole seconds. A certificate that the signing service
// got wrong in any field is not returned.
func (a *Authority) Issue(ctx context.Context, req ca.Request) (ca.Issued, error) {
	if err := ctx.Err(); err != nil {
		return ca.Issued{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	by, ok := a.issuers[req.Customer]
	if !ok {
		return ca.Issued{}, customerUnknown(req.Customer)
	}
	req.NotBefore = req.NotBefore.UTC().Truncate(time.Second)
	req.NotAfter = req.NotAfter.UTC().Truncate(time.Second)
	if err := checkSubject(req); err != nil {
		return ca.Issued{}, err
	}
	if err := checkValidity(req, by.cert); err != nil {
		return ca.Issued{}, err
	}
	csr, err := checkCSR(req)
	if err != nil {
		return ca.Issued{}, err
	}
	template, err := leaf(req, csr)
	if err != nil {
		return ca.Issued{}, err
	}
	want := ca.Leaf{
		CommonName:   req.CommonName,
		Organization: req.Organization,
		SPKI:         ca.Digest(csr.RawSubjectPublicKeyInfo),
		Serial:       fmt.Sprintf("%032x", template.SerialNumber),
		NotBefore:    req.NotBefore,
		NotAfter:     req.NotAfter,
	}
	answer, err := by.service.CreateCertificate(&apiv1.CreateCertificateRequest{
		Template: template, // the service writes into it: never share one
		CSR:      csr,
		Lifetime: req.NotAfter.Sub(req.NotBefore), // refused when 0, even though the template has its dates
	})
	if err != nil {
		return ca.Issued{}, fmt.Errorf("signing a certificate for %s: %w", req.CommonName, err)
	}
	der := answer.Certificate.Raw
	if err := ca.CheckLeaf(der, by.cert, want); err != nil {
		return ca.Issued{}, &ca.Refusal{Code: "certificate-wrong",
			Sentence: fmt.Sprintf("The issuing CA of %s returned a certificate that is not what was asked for.", req.Customer),
			Next:     "Stop issuing for this customer and call the process engineer.", Err: err}
	}
	return ca.Issued{DER: der, Chain: by.chain, Serial: want.Serial, NotBefore: want.NotBefore, NotAfter: want.NotAfter, SPKI: want.SPKI}, nil
}

// Chain is what stands above a customer's certificates, DER: issuing CA, root. It
// is shared and not to be changed.
func (a *Authority) Chain(customer string) ([][]byte, error) {
	by, ok := a.issuers[customer]
	if !ok {
		return nil, customerUnknown(customer)
	}
	return by.chain, nil
}

func customerUnknown(customer string) error {
	return &ca.Refusal{Code: "customer-unknown", Sentence: fmt.Sprintf("There is no issuing CA for the customer %q.", customer),
		Next: "Make one with 'station ca', or correct the order."}
}

// leaf is the profile of a device certificate; ca.CheckLeaf is its other half.
func leaf(req ca.Request, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{CommonName: req.CommonName}
	if req.Organization != "" {
		subject.Organization = []string{req.Organization}
	}
	return &x509.Certificate{
		SerialNumber:       serial,
		Subject:            subject,
		NotBefore:          req.NotBefore,
		NotAfter:           req.NotAfter,
		KeyUsage:           x509.KeyUsageDigitalSignature, // crypto/x509 marks it critical
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		SubjectKeyId:       keyID(csr.RawSubjectPublicKeyInfo),
		PublicKey:          csr.PublicKey,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, nil
}

func checkSubject(req ca.Request) error {
	if err := ca.CheckCommonName(req.CommonName); err != nil {
		return err
	}
	if req.Organization == "" {
		return nil
	}
	return ca.CheckName("organization", req.Organization)
}

// checkValidity keeps a certificate within its issuer's life: path validation
// would refuse it in the field from the day the issuer ends, and nothing could
// renew it there.
func checkValidity(req ca.Request, by *x509.Certificate) error {
	no := func(sentence, next string) error {
		return &ca.Refusal{Code: "validity", Sentence: sentence, Next: next}
	}
	switch {
	case !req.NotAfter.After(req.NotBefore):
		return no(fmt.Sprintf("A certificate from %s to %s would be valid at no time.", day(req.NotBefore), day(req.NotAfter)), "Correct the validity in the product's profile.")
	case req.NotBefore.Before(by.NotBefore):
		return no(fmt.Sprintf("A certificate from %s would begin before its issuing CA, on %s.", day(req.NotBefore), day(by.NotBefore)), "Check the station's clock.")
	case req.NotAfter.After(by.NotAfter):
		return no(fmt.Sprintf("A certificate until %s would outlive its issuing CA, which ends on %s.", day(req.NotAfter), day(by.NotAfter)), "Shorten the validity in the product's profile, or make a new issuing CA.")
	}
	return nil
}

func day(t time.Time) string { return t.Format(time.DateOnly) }

// checkCSR reads a hostile request. The key is looked at before the signature, so
// that nobody can make the station compute with a key of absurd size.
func checkCSR(req ca.Request) (*x509.CertificateRequest, error) {
	const again = "Set the board aside if a second passage ends the same way."
	if len(req.CSR) > maxCSR {
		return nil, &ca.Refusal{Code: "csr-unreadable", Sentence: "The certificate request is too long to be one.", Next: again,
			Err: fmt.Errorf("%d bytes, at most %d", len(req.CSR), maxCSR)}
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, &ca.Refusal{Code: "csr-unreadable", Sentence: "The certificate request cannot be read.", Next: again, Err: err}
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, &ca.Refusal{Code: "csr-key", Sentence: "The certificate request is not for a P-256 key.",
			Next: "Correct the product's profile or the device's firmware: device keys are on P-256.", Err: fmt.Errorf("a %T, %s", csr.PublicKey, csr.PublicKeyAlgorithm)}
	}
	if csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, &ca.Refusal{Code: "csr-signature", Sentence: "The certificate request is not signed with ECDSA and SHA-256.",
			Next: "Correct the device's firmware.", Err: errors.New(csr.SignatureAlgorithm.String())}
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, &ca.Refusal{Code: "csr-signature", Sentence: "The certificate request was not signed by the key it names.", Next: again, Err: err}
	}
	if cn := csr.Subject.CommonName; cn != "" && cn != req.CommonName {
		return nil, &ca.Refusal{Code: "csr-name", Sentence: fmt.Sprintf("The certificate request is for %.64q, but the board was given %s.", cn, req.CommonName), Next: again}
	}
	return csr, nil
}
