// Package audit plugs the checks of ca, of certificates and of what devices prove
// of their keys, into the replay of records: the two may not know each other.
package audit

import (
	"crypto/x509"
	"fmt"

	"nameplate/ca"
	"nameplate/records"
	"nameplate/records/replay"
)

// Checks are what replay asks about events beyond their fold. cas are the
// station's CA certificates: the root and the customers' issuing CAs.
func Checks(root *x509.Certificate, issuing []*x509.Certificate) map[records.Kind]replay.Check {
	issuers := make(map[string]*x509.Certificate, len(issuing))
	for _, c := range issuing {
		issuers[ca.Digest(c.Raw)] = c
	}
	return map[records.Kind]replay.Check{
		records.CertificateIssued{}.Kind(): func(_ records.Unit, o records.Order, _ records.Event, b records.Body) error {
			return certificate(b.(records.CertificateIssued), o, issuers, root)
		},
		records.OrderOpened{}.Kind(): func(_ records.Unit, _ records.Order, _ records.Event, b records.Body) error {
			return files(b.(records.OrderOpened))
		},
		records.EvidenceAccepted{}.Kind(): func(u records.Unit, o records.Order, _ records.Event, b records.Body) error {
			switch b := b.(records.EvidenceAccepted); {
			case b.TPM != nil:
				return tpm(u, o, *b.TPM)
			case b.Key != nil:
				return key(u, *b.Key)
			}
			return nil // the fold refuses it
		},
		records.UnitVerified{}.Kind(): func(u records.Unit, _ records.Order, _ records.Event, b records.Body) error {
			return verified(u, b.(records.UnitVerified))
		},
	}
}

// certificate holds a recorded certificate against its profile, its issuer, which
// the order names, and what else the event says of it.
func certificate(b records.CertificateIssued, o records.Order, issuers map[string]*x509.Certificate, root *x509.Certificate) error {
	issuer := issuers[b.Issuer]
	if issuer == nil {
		return fmt.Errorf("the certificate's issuer %s is not among the station's CAs", b.Issuer)
	}
	if b.Issuer != o.Terms.Issuer {
		return fmt.Errorf("the certificate's issuer %s is not that of the order, %s", b.Issuer, o.Terms.Issuer)
	}
	if err := ca.CheckIssuer(issuer, root); err != nil {
		return fmt.Errorf("the certificate's issuer: %w", err)
	}
	leaf, err := x509.ParseCertificate(b.DER)
	if err != nil {
		return fmt.Errorf("parsing the certificate: %w", err)
	}
	want := ca.Leaf{CommonName: b.RegistrationID, SPKI: b.SPKI, Serial: b.Serial}
	if o := leaf.Subject.Organization; len(o) > 0 {
		want.Organization = o[0] // the product's file decides it, not the CA's profile
	}
	return ca.CheckLeaf(b.DER, issuer, want)
}

// files holds the order's copies of product and customer against their digests.
func files(b records.OrderOpened) error {
	if got := ca.Digest(b.ProductFile); got != b.ProductSHA256 {
		return fmt.Errorf("the product file's digest is %s, the order says %s", got, b.ProductSHA256)
	}
	if got := ca.Digest(b.CustomerFile); got != b.CustomerSHA256 {
		return fmt.Errorf("the customer file's digest is %s, the order says %s", got, b.CustomerSHA256)
	}
	return nil
}
