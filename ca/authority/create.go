package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"nameplate/ca"
)

// How long CA certificates are valid, in years. A device certificate lives for 20
// to 25 years and must not outlive its issuer, nor that its root.
const (
	rootYears    = 30
	issuingYears = 29
)

// Pair is a CA: its certificate and the signer of its key, which may be in memory
// or in a token.
type Pair struct {
	Certificate *x509.Certificate
	Signer      crypto.Signer
}

// CreateRoot makes a P-256 key and a self-signed root with the given common name,
// valid for 30 years. Nothing is stored.
func CreateRoot(commonName string, now time.Time) (Pair, error) {
	return create(commonName, now, rootYears, nil)
}

// CreateIssuing makes a P-256 key and the certificate of a CA that issues to
// devices only (path length 0), signed by root, valid for 29 years or until the
// root expires. One CA serves one customer; its common name should say which, and
// which station. Nothing is stored.
func CreateIssuing(root Pair, commonName string, now time.Time) (Pair, error) {
	if now.After(root.Certificate.NotAfter) || now.Before(root.Certificate.NotBefore) {
		return Pair{}, &ca.Refusal{Code: "root-expired",
			Sentence: fmt.Sprintf("The root %q is valid from %s to %s, not now.", root.Certificate.Subject.CommonName,
				root.Certificate.NotBefore.Format(time.DateOnly), root.Certificate.NotAfter.Format(time.DateOnly)),
			Next: "Check the station's clock; if it is right, make a new root."}
	}
	issuing, err := create(commonName, now, issuingYears, &root)
	if err != nil {
		return Pair{}, err
	}
	if err := ca.CheckIssuer(issuing.Certificate, root.Certificate); err != nil {
		return Pair{}, unfit(fmt.Sprintf("root %q", root.Certificate.Subject.CommonName), err)
	}
	return issuing, nil
}

func create(commonName string, now time.Time, years int, parent *Pair) (Pair, error) {
	if err := ca.CheckName("CA's name", commonName); err != nil {
		return Pair{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("making a CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("encoding a CA key: %w", err)
	}
	now = now.UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-ca.Backdate),
		NotAfter:              now.AddDate(years, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign, // crypto/x509 marks it critical
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // the issuing CAs
		SubjectKeyId:          keyID(spki),
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	signer := Pair{template, key}
	if parent != nil {
		signer = *parent
		template.MaxPathLen, template.MaxPathLenZero = 0, true
		if template.NotBefore.Before(parent.Certificate.NotBefore) {
			template.NotBefore = parent.Certificate.NotBefore
		}
		if template.NotAfter.After(parent.Certificate.NotAfter) {
			template.NotAfter = parent.Certificate.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Certificate, key.Public(), signer.Signer)
	if err != nil {
		return Pair{}, fmt.Errorf("signing the CA certificate %q: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("reading back the CA certificate %q: %w", commonName, err)
	}
	return Pair{cert, key}, nil
}

// newSerial is 16 random bytes with the top bit clear and the next one set: always
// positive, always of one length, 126 bits nobody can predict. RFC 5280 section
// 4.1.2.2 allows 20 octets and forbids 0.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}

// keyID names a P-256 key by the first 160 bits of SHA-256 over its public point
// (RFC 7093 section 2 method 1). The point is the end of the public key info.
func keyID(spki []byte) []byte {
	const point = 65 // uncompressed: 04, x, y (SEC 1 section 2.3.3)
	sum := sha256.Sum256(spki[len(spki)-point:])
	return sum[:20]
}
