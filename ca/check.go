package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Leaf is what a device certificate is held against.
type Leaf struct {
	CommonName   string
	Organization string // "": the subject has none
	SPKI         string // SHA-256 of the subject public key info, lower-case hex
	Serial       string // 32 hex digits
	// NotBefore and NotAfter, when given, are compared to the second; the zero
	// time asks only that the date lies within the issuer's.
	NotBefore, NotAfter time.Time
}

// The extensions a device certificate may have (RFC 5280 section 4.2.1).
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	leafExtensions      = []asn1.ObjectIdentifier{oidSubjectKeyID, oidKeyUsage, oidBasicConstraints, oidAuthorityKeyID, oidExtKeyUsage}

	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
)

// CheckLeaf holds the certificate in der against the profile of a device
// certificate, its issuer and what was asked for. The error joins one sentence
// for each check that failed. It proves nothing about the issuer itself
// (CheckIssuer does), and revocation is no question here.
func CheckLeaf(der []byte, issuer *x509.Certificate, want Leaf) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the bytes are not one certificate (RFC 5280 4.1): %w", err)
	}
	var failed findings
	failed.check(cert.Version == 3, "the version is %d, not 3 (RFC 5280 4.1.2.1)", cert.Version)
	failed.checkSerial(cert.SerialNumber, want.Serial)
	failed.check(cert.SignatureAlgorithm == x509.ECDSAWithSHA256, "it is signed with %s, not ECDSA with SHA-256 (RFC 5758 3.2)", cert.SignatureAlgorithm)
	failed.wrap(cert.CheckSignatureFrom(issuer), "the issuer did not sign it (RFC 5280 4.1.1.3)")
	failed.check(bytes.Equal(cert.RawIssuer, issuer.RawSubject), "it names the issuer %q, not %q (RFC 5280 4.1.2.4)", cert.Issuer, issuer.Subject)
	failed.checkDates(cert, issuer, want)
	failed.checkSubject(cert, want)
	failed.check(isP256(cert.PublicKey), "its key is not on P-256 (RFC 5480 2.1.1.1)")
	failed.check(Digest(cert.RawSubjectPublicKeyInfo) == want.SPKI, "its key is not the one that was asked for (RFC 5280 4.1.2.7)")
	failed.checkLeafExtensions(cert, issuer)
	return errors.Join(failed...)
}

// CheckIssuer holds an issuing CA's certificate against its profile and the root
// that signed it, in the manner of CheckLeaf. The root is trusted as given.
func CheckIssuer(issuer, root *x509.Certificate) error {
	var failed findings
	failed.checkAuthority("issuing CA", issuer)
	failed.check(issuer.MaxPathLen == 0 && issuer.MaxPathLenZero, "the issuing CA may have CAs below it (RFC 5280 4.2.1.9)")
	failed.wrap(issuer.CheckSignatureFrom(root), "the root did not sign the issuing CA (RFC 5280 4.1.1.3)")
	failed.check(bytes.Equal(issuer.RawIssuer, root.RawSubject), "the issuing CA names the issuer %q, not %q (RFC 5280 4.1.2.4)", issuer.Issuer, root.Subject)
	failed.check(len(root.SubjectKeyId) > 0 && bytes.Equal(issuer.AuthorityKeyId, root.SubjectKeyId), "the issuing CA's authority key identifier is not that of the root (RFC 5280 4.2.1.1)")
	failed.check(!issuer.NotBefore.Before(root.NotBefore) && !issuer.NotAfter.After(root.NotAfter), "the issuing CA's validity is not within that of the root (RFC 5280 4.1.2.5)")
	return errors.Join(failed...)
}

// CheckRoot holds a self-signed root's certificate against its profile.
func CheckRoot(root *x509.Certificate) error {
	var failed findings
	failed.checkAuthority("root", root)
	failed.wrap(root.CheckSignatureFrom(root), "the root did not sign itself (RFC 5280 4.1.1.3)")
	failed.check(bytes.Equal(root.RawIssuer, root.RawSubject), "the root names the issuer %q, not itself (RFC 5280 4.1.2.4)", root.Issuer)
	return errors.Join(failed...)
}

// findings collects one sentence per failed check.
type findings []error

func (f *findings) check(ok bool, sentence string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf(sentence, args...))
	}
}

func (f *findings) wrap(err error, sentence string) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", sentence, err))
	}
}

// checkSerial wants 16 octets with the top bit clear and the next one set: always
// positive, always the same length, 126 random bits (RFC 5280 asks for at most 20
// octets and never 0).
func (f *findings) checkSerial(serial *big.Int, want string) {
	f.check(serial.Sign() > 0 && serial.BitLen() == 127, "the serial number %x is not a positive number of 127 bits (RFC 5280 4.1.2.2)", serial)
	f.check(fmt.Sprintf("%032x", serial) == want, "the serial number is %032x, not %s (RFC 5280 4.1.2.2)", serial, want)
}

func (f *findings) checkDates(cert, issuer *x509.Certificate, want Leaf) {
	from, until := instant(cert.NotBefore), instant(cert.NotAfter)
	f.check(want.NotBefore.IsZero() || cert.NotBefore.Equal(want.NotBefore), "it is valid from %s, not from %s (RFC 5280 4.1.2.5)", from, instant(want.NotBefore))
	f.check(want.NotAfter.IsZero() || cert.NotAfter.Equal(want.NotAfter), "it is valid until %s, not until %s (RFC 5280 4.1.2.5)", until, instant(want.NotAfter))
	f.check(cert.NotAfter.After(cert.NotBefore), "it is valid at no time (RFC 5280 4.1.2.5)")
	f.check(!cert.NotBefore.Before(issuer.NotBefore), "it is valid from %s, but its issuer only from %s (RFC 5280 4.1.2.5)", from, instant(issuer.NotBefore))
	f.check(!cert.NotAfter.After(issuer.NotAfter), "it is valid until %s, but its issuer only until %s (RFC 5280 4.1.2.5)", until, instant(issuer.NotAfter))
}

// instant is a time that is formatted only if somebody prints it.
type instant time.Time

func (t instant) String() string { return time.Time(t).UTC().Format(time.RFC3339) }

func (f *findings) checkSubject(cert *x509.Certificate, want Leaf) {
	names := 1
	if want.Organization != "" {
		names = 2
	}
	ok := len(cert.Subject.Names) == names
	for _, n := range cert.Subject.Names {
		switch {
		case n.Type.Equal(oidCommonName):
			ok = ok && n.Value == want.CommonName
		case n.Type.Equal(oidOrganization):
			ok = ok && n.Value == want.Organization
		default:
			ok = false
		}
	}
	asked := "CN=" + want.CommonName
	if want.Organization != "" {
		asked += ",O=" + want.Organization
	}
	f.check(ok, "its subject is %q, not %q (RFC 5280 4.1.2.6)", cert.Subject, asked)
	f.wrap(CheckCommonName(cert.Subject.CommonName), "its common name is no registration ID (RFC 5280 A.1)")
}

func (f *findings) checkLeafExtensions(cert, issuer *x509.Certificate) {
	var usageCritical bool
	for _, e := range cert.Extensions {
		usageCritical = usageCritical || e.Id.Equal(oidKeyUsage) && e.Critical
		f.check(slices.ContainsFunc(leafExtensions, e.Id.Equal), "it has the extension %s, which is no part of a device certificate (RFC 5280 4.2)", e.Id)
	}
	f.check(len(issuer.SubjectKeyId) > 0 && bytes.Equal(cert.AuthorityKeyId, issuer.SubjectKeyId), "its authority key identifier is not that of the issuer (RFC 5280 4.2.1.1)")
	f.check(len(cert.SubjectKeyId) > 0, "it has no subject key identifier (RFC 5280 4.2.1.2)")
	f.check(cert.KeyUsage == x509.KeyUsageDigitalSignature && usageCritical, "its key usage is not digitalSignature alone, marked critical (RFC 5280 4.2.1.3)")
	f.check(!cert.IsCA, "it is a CA certificate (RFC 5280 4.2.1.9)")
	f.check(len(cert.UnknownExtKeyUsage) == 0 && slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}), "its extended key usage is not clientAuth alone (RFC 5280 4.2.1.12)")
}

// checkAuthority is the part of the CA profile that root and issuing CA share.
func (f *findings) checkAuthority(who string, cert *x509.Certificate) {
	critical := func(oid asn1.ObjectIdentifier) bool {
		for _, e := range cert.Extensions {
			if e.Id.Equal(oid) {
				return e.Critical
			}
		}
		return false
	}
	f.check(isP256(cert.PublicKey), "the %s's key is not on P-256 (RFC 5480 2.1.1.1)", who)
	f.check(len(cert.SubjectKeyId) > 0, "the %s has no subject key identifier (RFC 5280 4.2.1.2)", who)
	f.check(cert.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign && critical(oidKeyUsage), "the %s's key usage is not keyCertSign and cRLSign, marked critical (RFC 5280 4.2.1.3)", who)
	f.check(cert.BasicConstraintsValid && cert.IsCA && critical(oidBasicConstraints), "the %s is not marked a CA, critical (RFC 5280 4.2.1.9)", who)
}

func isP256(key any) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P256()
}
