package batch

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"time"
)

// maxPEM bounds one certificate in PEM form; a leaf of ours has about 900 bytes.
const maxPEM = 32 << 10

var pemBegin = []byte("-----BEGIN CERTIFICATE-----\n")
var pemEnd = []byte("-----END CERTIFICATE-----\n")

// nextCertificate reads one certificate, in the one spelling that pem.Encode
// gives. It returns io.EOF, alone, where the file ends between two.
func nextCertificate(r *bufio.Reader) ([]byte, error) {
	var text []byte
	for !bytes.HasSuffix(text, pemEnd) {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(text) == 0 && len(line) == 0 {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("a certificate ends early: %w", notEOF(err))
		}
		if text = append(text, line...); len(text) > maxPEM {
			return nil, fmt.Errorf("a certificate has more than %d bytes", maxPEM)
		}
		if !bytes.HasPrefix(text, pemBegin) {
			return nil, fmt.Errorf("something stands where a certificate should begin")
		}
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 || !bytes.Equal(pemOf(block.Bytes), text) {
		return nil, fmt.Errorf("a certificate is not in plain PEM form")
	}
	return block.Bytes, nil
}

func notEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// authorities are the CA certificates of a batch.
type authorities struct {
	count       int
	issuing     []*x509.Certificate
	roots       []*x509.Certificate
	issuingPool *x509.CertPool
	rootPool    *x509.CertPool
}

// parseCAs reads ca.pem: CA certificates, the self-signed ones being roots.
func parseCAs(text []byte) (authorities, error) {
	a := authorities{issuingPool: x509.NewCertPool(), rootPool: x509.NewCertPool()}
	r := bufio.NewReaderSize(bytes.NewReader(text), maxPEM)
	for {
		der, err := nextCertificate(r)
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return a, fmt.Errorf("certificate %d: %w", a.count+1, err)
		}
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return a, fmt.Errorf("certificate %d (%s) is not that of a CA", a.count+1, cert.Subject.CommonName)
		}
		if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
			if err := cert.CheckSignatureFrom(cert); err != nil {
				return a, fmt.Errorf("certificate %d (%s) names itself as issuer: %w", a.count+1, cert.Subject.CommonName, err)
			}
			a.roots = append(a.roots, cert)
			a.rootPool.AddCert(cert)
		} else {
			a.issuing = append(a.issuing, cert)
			a.issuingPool.AddCert(cert)
		}
		a.count++
	}
}

// rootDigests is never nil: the manifest says [] and not null.
func (a authorities) rootDigests() []string {
	digests := make([]string, 0, len(a.roots))
	for _, r := range a.roots {
		digests = append(digests, digest(r.Raw))
	}
	return digests
}

// issuerOf finds the issuing CA by name and key identifier, as RFC 5280 §4.2.1.1
// has it; nil if there is none.
func (a authorities) issuerOf(leaf *x509.Certificate) *x509.Certificate {
	for _, c := range a.issuing {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) && bytes.Equal(c.SubjectKeyId, leaf.AuthorityKeyId) {
			return c
		}
	}
	return nil
}

// checkLeaf says what is wrong with a unit's certificate: it must be the one the
// row names, for this registration ID, made by an issuing CA under a root of the
// batch for a device that identifies itself to a server.
func (a authorities) checkLeaf(leaf *x509.Certificate, row Row) error {
	got := *certificateOf(leaf)
	got.Key = row.Certificate.Key // which no certificate says
	if got != *row.Certificate {
		return fmt.Errorf("the row names certificate %s (serial %s, until %s), but the chain holds %s (serial %s, until %s)",
			row.Certificate.SHA256, row.Certificate.Serial, row.Certificate.NotAfter.Format(time.RFC3339),
			got.SHA256, got.Serial, got.NotAfter.Format(time.RFC3339))
	}
	if leaf.Subject.CommonName != row.RegistrationID {
		return fmt.Errorf("the certificate's common name is %q", leaf.Subject.CommonName)
	}
	opts := x509.VerifyOptions{Roots: a.rootPool, Intermediates: a.issuingPool,
		// Whether the certificate is in date today is the service's question; here
		// the question is whether the chain was ever good.
		CurrentTime: leaf.NotBefore.Add(time.Second),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("the chain does not lead to a root in %s: %w", CAFile, err)
	}
	return nil
}
