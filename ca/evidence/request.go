package evidence

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"nameplate/ca"
)

// Request is a device's certificate request, and the proof that its key is in the
// device's TPM if it is.
type Request struct {
	CSR        []byte // DER, PKCS#10
	CommonName string // the registration ID that the device was told to ask for

	InTPM     bool
	AK        []byte // TPM2B_PUBLIC of the attestation key, which CheckActivation proved
	Public    []byte // TPM2B_PUBLIC of the device key
	Attest    []byte // TPMS_ATTEST, as it was signed
	Signature []byte // TPMT_SIGNATURE
}

// maxCSR is many times a P-256 request with a long subject; a larger one is not
// worth parsing.
const maxCSR = 8 << 10

// CheckRequest refuses a certificate request that does not prove that the device
// holds the key in it, or, with InTPM, that the key was made in its TPM and cannot
// leave. It returns the SHA-256 of the subject public key info, lower-case hex.
// For a key in the TPM, it is one link of a chain: EK certificate, EK, the
// activation that binds the AK to it, AK, device key, request.
func CheckRequest(r Request) (spki string, err error) {
	csr, key, err := checkCSR(r)
	if err != nil {
		return "", err
	}
	if r.InTPM {
		ak, err := readAK(r.AK)
		if err != nil {
			return "", err
		}
		var failed findings
		failed.checkCertified(r, ak, key)
		if err := failed.refusal(ca.Refusal{Code: "key-not-in-tpm",
			Sentence: "The board did not prove that its device key was made in its TPM.",
			Next:     "Set the board aside: its key may have been made elsewhere, and copied."}); err != nil {
			return "", err
		}
	}
	return ca.Digest(csr.RawSubjectPublicKeyInfo), nil
}

// checkCSR looks at the key before the signature, so that nobody can make the
// station compute with a key of absurd size.
func checkCSR(r Request) (*x509.CertificateRequest, *ecdsa.PublicKey, error) {
	if len(r.CSR) > maxCSR {
		return nil, nil, &ca.Refusal{Code: "csr-unreadable", Sentence: "The certificate request is too long to be one.", Next: again,
			Err: fmt.Errorf("%d bytes, at most %d", len(r.CSR), maxCSR)}
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, nil, &ca.Refusal{Code: "csr-unreadable", Sentence: "The certificate request cannot be read.", Next: again,
			Err: fmt.Errorf("the bytes are not one PKCS#10 request (RFC 2986 4): %w", err)}
	}
	key, err := checkKey(csr.PublicKey, csr.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, nil, err
	}
	if csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, nil, &ca.Refusal{Code: "csr-signature", Sentence: "The certificate request is not signed with ECDSA and SHA-256.",
			Next: "Correct the device's firmware.", Err: fmt.Errorf("it is signed with %s (RFC 5758 3.2)", csr.SignatureAlgorithm)}
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, &ca.Refusal{Code: "csr-signature", Sentence: "The certificate request was not signed by the key it names.", Next: again,
			Err: fmt.Errorf("its signature is not by its key (RFC 2986 4.2): %w", err)}
	}
	if !namesOnly(csr, r.CommonName) {
		return nil, nil, &ca.Refusal{Code: "csr-name", Sentence: fmt.Sprintf("The certificate request is for %.64q, but the board was given %s.", csr.Subject.CommonName, r.CommonName), Next: again,
			Err: fmt.Errorf("its subject is %.200q, not the common name alone (RFC 2986 4.1)", csr.Subject)}
	}
	return csr, key, nil
}

// checkKey takes keys on P-256 in their one usual encoding, if not everybody knows
// the private key.
func checkKey(public any, spki []byte) (*ecdsa.PublicKey, error) {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, &ca.Refusal{Code: "csr-key", Sentence: "The certificate request is not for a P-256 key.",
			Next: "Correct the product's profile or the device's firmware: device keys are on P-256.", Err: fmt.Errorf("it is for a %T (RFC 5480 2.1.1.1)", public)}
	}
	if usual, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(usual, spki) {
		return nil, &ca.Refusal{Code: "csr-key", Sentence: "The key in the certificate request is not encoded as usual.", Next: "Correct the device's firmware.",
			Err: errors.Join(errors.New("its subject public key info is not a named curve and an uncompressed point (RFC 5480 2)"), err)}
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, &ca.Refusal{Code: "csr-key", Sentence: "The key in the certificate request is not on its curve.", Next: again,
			Err: fmt.Errorf("its point is invalid (SEC 1, 3.2.2): %w", err)}
	}
	if knownKeys()[x([32]byte(point[1:33]))] {
		return nil, &ca.Refusal{Code: "csr-key-known", Sentence: "The board's device key is one that everybody knows.",
			Next: "Stop the line and call the process engineer: these boards make their keys without randomness.",
			Err:  errors.New("its private key is a small number, one byte repeated, or printed in a standard (SEC 1, 3.2.1)")}
	}
	return key, nil
}

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// namesOnly says that the request's subject is the common name and nothing else.
func namesOnly(csr *x509.CertificateRequest, commonName string) bool {
	names := csr.Subject.Names
	return len(names) == 1 && names[0].Type.Equal(oidCommonName) && names[0].Value == commonName
}

// x is the first coordinate of a point on P-256. A key and its negative share it.
type x [32]byte

// knownKeys are what comes out of a generator that counts or repeats instead of
// drawing at random, and the examples that get copied out of standards.
var knownKeys = sync.OnceValue(func() map[x]bool {
	known := map[x]bool{}
	add := func(private []byte) {
		if key, err := ecdh.P256().NewPrivateKey(private); err == nil {
			known[x(key.PublicKey().Bytes()[1:33])] = true
		}
	}
	for d := 1; d <= 1024; d++ {
		small := make([]byte, 32)
		small[30], small[31] = byte(d>>8), byte(d)
		add(small)
	}
	for b := 1; b <= 255; b++ {
		add(bytes.Repeat([]byte{byte(b)}, 32))
	}
	for _, printed := range []string{
		"c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721", // RFC 6979 A.2.5
		"8e9b109e719098bf980487df1f5d77e9cb29606ebed2263b5f57c213df84f4b2", // RFC 7515 A.3
		"c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433", // RFC 5903 8.1
		"c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53", // RFC 5903 8.1
	} {
		private, err := hex.DecodeString(printed)
		if err != nil {
			panic(err)
		}
		add(private)
	}
	return known
})

// PossessionSize is the length of the random bytes that a device signs to show
// that it holds its key.
const PossessionSize = 32

// CheckPossession refuses a signature (ASN.1) that does not prove that the device
// holds the key in spki (DER): ECDSA on P-256 over the SHA-256 of the challenge.
func CheckPossession(challenge, spki, signature []byte) error {
	var failed findings
	failed.check(len(challenge) == PossessionSize, "the challenge has %d bytes, not %d", len(challenge), PossessionSize)
	public, err := x509.ParsePKIXPublicKey(spki)
	failed.wrap(err, "the public key cannot be read (RFC 5280 4.1.2.7)")
	if err == nil {
		key, ok := public.(*ecdsa.PublicKey)
		failed.check(ok && key.Curve == elliptic.P256(), "the key is not on P-256 (RFC 5480 2.1.1.1)")
		sum := sha256.Sum256(challenge)
		failed.check(!ok || ecdsa.VerifyASN1(key, sum[:], signature), "the key did not sign the challenge (RFC 5758 3.2)")
	}
	return failed.refusal(ca.Refusal{Code: "key-not-held",
		Sentence: "The board did not prove that it holds the key of its certificate.", Next: again})
}
