package ek

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"nameplate/ca"
)

var (
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidManufacturer  = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel         = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion       = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSAN           = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Trim cuts the certificate out of what a TPM's NV index holds. Some vendors store
// it behind a header (TCG PC Client Specific Implementation 1.21, 7.3.2: tag 0x1001,
// type 0, size), many fill the index up behind it.
func Trim(nv []byte) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(nv, []byte{0x10, 0x01, 0x00}); ok {
		if len(rest) < 2 || int(binary.BigEndian.Uint16(rest)) > len(rest)-2 {
			return nil, errors.New("the header before the certificate says more bytes than there are")
		}
		nv = rest[2 : 2+binary.BigEndian.Uint16(rest)]
	}
	var value asn1.RawValue
	if _, err := asn1.Unmarshal(nv, &value); err != nil {
		return nil, fmt.Errorf("reading one ASN.1 value: %w", err)
	}
	if value.Class != asn1.ClassUniversal || value.Tag != asn1.TagSequence || !value.IsCompound {
		return nil, fmt.Errorf("it begins with an ASN.1 tag %d of class %d, not with a sequence", value.Tag, value.Class)
	}
	return value.FullBytes, nil
}

func read(nv []byte) (*x509.Certificate, error) {
	der, err := Trim(nv)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Check holds the certificate in der against the profile of an EK certificate, the
// endorsement key that the TPM has, and the operator's roots. The error joins one
// sentence for each check that failed. Revocation is no question here: vendors
// hardly publish any, and the station has no network.
func Check(der []byte, roots *Roots, ekPublic []byte, at time.Time) (Result, error) {
	r, failed := check(der, roots, ekPublic, at)
	return r, failed.join()
}

func check(der []byte, roots *Roots, ekPublic []byte, at time.Time) (Result, failures) {
	r, cert, failed := checkCertificate(der, ekPublic, at)
	if cert == nil {
		return r, failed
	}
	chains, err := lead(cert, roots, at)
	failed.wrap(untrusted, err, "it leads to no root that is trusted here (RFC 5280 6.1)")
	if err == nil {
		chain := chains[0]
		failed.checkStrength(chain)
		for _, c := range chain[1:] {
			r.Chain = append(r.Chain, c.Raw)
		}
		r.Anchor = ca.Digest(chain[len(chain)-1].Raw)
	}
	return r, failed
}

// maxChain is longer than any vendor's.
const maxChain = 8

// Verify makes the checks of Check again from what was recorded: the chain must
// lead, as it stands, to a root with one of the SHA-256 fingerprints in anchors.
func Verify(der []byte, chain [][]byte, anchors []string, ekPublic []byte, at time.Time) error {
	_, cert, failed := checkCertificate(der, ekPublic, at)
	if cert == nil {
		return failed.join()
	}
	if len(chain) == 0 || len(chain) > maxChain {
		failed.check(untrusted, false, "its chain has %d certificates (RFC 5280 6.1)", len(chain))
		return failed.join()
	}
	last := len(chain) - 1
	failed.check(untrusted, slices.Contains(anchors, ca.Digest(chain[last])), "its chain ends in %s, which is no root that the order trusts (RFC 5280 6.1)", ca.Digest(chain[last]))
	roots := newRoots()
	for i, raw := range chain {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			failed.wrap(untrusted, err, "its chain holds bytes that are not one certificate (RFC 5280 4.1)")
			return failed.join()
		}
		if i == last {
			roots.anchors.AddCert(c)
		} else {
			roots.intermediates.AddCert(c)
		}
	}
	chains, err := lead(cert, roots, at)
	if err != nil {
		failed.wrap(untrusted, err, "its chain does not lead to the root (RFC 5280 6.1)")
		return failed.join()
	}
	as := slices.IndexFunc(chains, func(c []*x509.Certificate) bool {
		return slices.EqualFunc(c[1:], chain, func(c *x509.Certificate, raw []byte) bool { return bytes.Equal(c.Raw, raw) })
	})
	failed.check(untrusted, as >= 0, "its chain holds certificates that do not belong to it (RFC 5280 6.1)")
	if as >= 0 {
		failed.checkStrength(chains[as])
	}
	return failed.join()
}

// checkCertificate makes all checks but those of the chain. It returns no
// certificate if there is none to go on with.
func checkCertificate(der []byte, ekPublic []byte, at time.Time) (Result, *x509.Certificate, failures) {
	var failed failures
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		failed.wrap(invalid, err, "the bytes are not one certificate (RFC 5280 4.1)")
		return Result{}, nil, failed
	}
	r := Result{DER: cert.Raw, Serial: fmt.Sprintf("%x", cert.SerialNumber), NotAfter: cert.NotAfter}
	failed.check(invalid, cert.Version == 3, "its version is %d, not 3 (RFC 5280 4.1.2.1)", cert.Version)
	failed.checkKey(cert, ekPublic)
	failed.checkUse(cert)
	failed.checkNames(cert, &r)
	for _, oid := range cert.UnhandledCriticalExtensions {
		failed.check(invalid, false, "it has the critical extension %s, which nobody here understands (RFC 5280 4.2)", oid)
	}
	cert.UnhandledCriticalExtensions = nil // said; the chain is another question
	failed.check(expired, !at.Before(cert.NotBefore) && !at.After(cert.NotAfter), "it is valid from %s to %s, not on %s (RFC 5280 4.1.2.5)",
		cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	return r, cert, failed
}

func (f *failures) checkKey(cert *x509.Certificate, ekPublic []byte) {
	ek, err := Public(ekPublic)
	if err != nil {
		f.wrap(unusable, err, "the TPM's endorsement key is not of the TCG's kinds")
		return
	}
	var same bool
	switch k := ek.Key.(type) {
	case *rsa.PublicKey:
		same = k.Equal(cert.PublicKey)
		f.check(invalid, cert.KeyUsage&x509.KeyUsageKeyEncipherment != 0, "its key usage lacks keyEncipherment (RFC 5280 4.2.1.3)")
	case *ecdsa.PublicKey:
		same = k.Equal(cert.PublicKey)
		f.check(invalid, cert.KeyUsage&x509.KeyUsageKeyAgreement != 0, "its key usage lacks keyAgreement (RFC 5280 4.2.1.3)")
	}
	f.check(otherKey, same, "its key is not the endorsement key of the TPM (RFC 5280 4.1.2.7)")
}

func (f *failures) checkUse(cert *x509.Certificate) {
	f.check(invalid, !cert.IsCA && cert.KeyUsage&x509.KeyUsageCertSign == 0, "it is a CA certificate (RFC 5280 4.2.1.9)")
	f.check(invalid, slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal), "its extended key usage lacks %s, tcg-kp-EKCertificate (EK Credential Profile 3.2)", oidEKCertificate)
}

// checkNames reads the TPM's attributes. crypto/x509 calls a critical subject
// alternative name unhandled if it holds nothing but a directory name, as an EK
// certificate's does: it is handled here.
func (f *failures) checkNames(cert *x509.Certificate, r *Result) {
	var san []byte
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSAN) {
			san = e.Value
		}
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSAN.Equal)
	names, err := tpmNames(san)
	if err != nil {
		f.wrap(invalid, err, "its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2)")
		return
	}
	r.Manufacturer, r.Model, r.Version = vendor(names[0]), names[1], names[2]
}

// tpmNames are manufacturer, model and version out of the directory names in a
// subject alternative name; vendors put them into one RDN or into three.
func tpmNames(san []byte) (names [3]string, err error) {
	if san == nil {
		return names, errors.New("there is none")
	}
	var general []asn1.RawValue
	if rest, err := asn1.Unmarshal(san, &general); err != nil {
		return names, err
	} else if len(rest) > 0 {
		return names, errors.New("something follows it")
	}
	for _, g := range general {
		if g.Class != asn1.ClassContextSpecific || g.Tag != 4 { // directoryName (RFC 5280 4.2.1.6)
			continue
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(g.Bytes, &rdns); err != nil {
			return names, err
		} else if len(rest) > 0 {
			return names, errors.New("something follows a directory name")
		}
		for _, rdn := range rdns {
			for _, a := range rdn {
				i := slices.IndexFunc([]asn1.ObjectIdentifier{oidManufacturer, oidModel, oidVersion}, a.Type.Equal)
				if i < 0 {
					continue
				}
				text, ok := a.Value.(string)
				if !ok || !printable(text) {
					return names, fmt.Errorf("%s is not a short text", a.Type)
				}
				if names[i] != "" && names[i] != text {
					return names, fmt.Errorf("%s is there twice", a.Type)
				}
				names[i] = text
			}
		}
	}
	for i, what := range []string{"manufacturer", "model", "version"} {
		if names[i] == "" {
			return names, fmt.Errorf("the %s is missing", what)
		}
	}
	return names, nil
}

// printable keeps out what would garble a screen or a log.
func printable(s string) bool {
	return s != "" && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) < 0
}

// vendor spells a manufacturer out: id: and the hex of at most four letters (TCG
// Vendor ID Registry 1). What is not letters stays as it is.
func vendor(id string) string {
	digits, ok := strings.CutPrefix(id, "id:")
	if !ok {
		return id
	}
	letters, err := hex.DecodeString(digits)
	if err != nil {
		return id
	}
	text := strings.TrimRight(string(letters), "\x00 ")
	for _, r := range text {
		if r < '!' || r > '~' {
			return id
		}
	}
	if text == "" {
		return id
	}
	return text
}

// lead finds the chains from a certificate to a root. If the certificate itself is
// not valid at that time, checkCertificate said so, and whom it leads to is still
// of interest: today, or while it was valid.
func lead(cert *x509.Certificate, roots *Roots, at time.Time) ([][]*x509.Certificate, error) {
	from, until := cert.NotBefore, cert.NotAfter
	if !at.Before(from) && !at.After(until) {
		return cert.Verify(roots.options(at))
	}
	today := *cert
	today.NotBefore, today.NotAfter = at, at
	chains, err := today.Verify(roots.options(at))
	if err == nil {
		return chains, nil
	}
	if at.Before(from) {
		return cert.Verify(roots.options(from))
	}
	return cert.Verify(roots.options(until))
}

// checkStrength looks at the keys and signatures of a chain that crypto/x509 found.
// It refuses MD5 and SHA-1 itself, but takes RSA keys of 1024 bits.
func (f *failures) checkStrength(chain []*x509.Certificate) {
	for _, c := range chain[1:] {
		if err := strong(c); err != nil {
			f.wrap(untrusted, err, fmt.Sprintf("its chain is weak at %q", c.Subject))
		}
	}
}

// strong refuses a CA key that could be broken.
func strong(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("an RSA key of %d bits (NIST SP 800-131A 3)", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Params().BitSize < 256 {
			return fmt.Errorf("a key on %s (NIST SP 800-131A 3)", k.Params().Name)
		}
	default:
		return fmt.Errorf("a key that is neither RSA nor ECDSA, %s (NIST SP 800-131A 3)", c.PublicKeyAlgorithm)
	}
	return nil
}
