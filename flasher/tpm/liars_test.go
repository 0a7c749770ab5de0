package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"testing"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
)

// Every lie is either refused on the spot, or handed out as it is, with the lie in
// it: whoever judges the evidence must find it, and find nothing else.
func TestLies(t *testing.T) {
	t.Parallel()
	refused := map[fixture.Lie]string{
		fixture.BorrowedKey:      "ek-handle-occupied", // by its certificate, which is the chip's own
		fixture.BorrowedIdentity: "tpm-activation-failed",
		fixture.SoftwareAK:       "tpm-activation-failed",
		fixture.WrongActivation:  "tpm-activation-failed",
		fixture.UnrestrictedAK:   "tpm-key-wrong",
		fixture.LooseKey:         "tpm-key-wrong",
		fixture.SignedByAnother:  "tpm-signature-wrong",
		fixture.Cut:              "tpm-unreadable",
	}
	// name is the one of a TPM2B_PUBLIC.
	name := func(public []byte) string {
		sum := sha256.Sum256(public[2:])
		return "\x00\x0b" + string(sum[:])
	}
	const certification, quote = "\xffTCG\x80\x17", "\xffTCG\x80\x18"
	for _, lie := range fixture.Lies {
		t.Run(string(lie), func(t *testing.T) {
			chip := chip(t)
			other := power(t, state(t, fixture.Config{Certificate: fixture.Padded}))
			liar := fixture.Liar(lie, chip, other)
			p, err := passage(t, liar)
			if code, ok := refused[lie]; ok {
				refusal(t, err, code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if lie == fixture.BorrowedCertificate {
				if theirs := open(t, other).Endorsement(); !bytes.Equal(p.e.Certificate, theirs.Certificate) || bytes.Equal(p.e.Public, theirs.Public) {
					t.Error("it borrowed nothing, or too much")
				}
				return
			}
			if lie == fixture.ReplayedActivation {
				if bytes.Equal(p.activated, p.secret) {
					t.Error("the answer is not an old one")
				}
				return
			}
			public, err := x509.ParseCertificateRequest(p.second.CSR)
			if err != nil || public.CheckSignature() != nil {
				t.Fatalf("the request is no good: %v", err)
			}
			said, sum := readAttest(t, p.second.Certified.Attest), sha256.Sum256(p.second.CSR)
			truth := attest{certification, string(sum[:]), name(p.second.Certified.Public)}
			signed := verifies(p.e.AK, p.second.Certified.Attest, signatureOf(t, p.second.Certified))
			if signed == (lie == fixture.BrokenSignature) {
				t.Errorf("the attestation key signed it: %v", signed)
			}
			lied := said
			switch lie {
			case fixture.SoftwareKey:
				if lied.name == truth.name {
					t.Error("it certified the key outside")
				}
				lied.name = truth.name
			case fixture.CertifiedAnother:
				if lied.name != name(p.e.AK) {
					t.Error("it certified another key than the attestation key")
				}
				lied.name = truth.name
			case fixture.CertifiedOtherRequest, fixture.ReplayedCertification:
				if lied.extra == truth.extra {
					t.Error("it certified this request")
				}
				lied.extra = truth.extra
			case fixture.Quoted:
				if lied.head != quote {
					t.Errorf("it says %x", lied.head)
				}
				lied.head, lied.name = truth.head, truth.name
			case fixture.ForgedMagic:
				if lied.head != "\x00TCG\x80\x17" {
					t.Errorf("it says %x", lied.head)
				}
				lied.head = truth.head
			}
			if lied != truth {
				t.Errorf("beside its lie it says %x, the truth is %x", lied, truth)
			}
		})
	}
}

// Without a certificate to hold it against, only the activation finds a key that
// is another chip's.
func TestBorrowedKeyWithoutACertificate(t *testing.T) {
	t.Parallel()
	bare := power(t, state(t, fixture.Config{Certificate: fixture.None}))
	c := open(t, fixture.Liar(fixture.BorrowedKey, bare, chip(t)))
	refusal(t, c.ProveEndorsement(limit(t)), "tpm-activation-failed")
}

type passageResult struct {
	e                 flasher.Endorsement
	secret, activated []byte
	first, second     flasher.KeyRequest
}

// passage is what a station does with a TPM.
func passage(t *testing.T, through tpm.Transport) (p passageResult, err error) {
	t.Helper()
	c, err := tpm.Open(limit(t), through)
	if err != nil {
		return p, err
	}
	p.e = c.Endorsement()
	if err := c.ProveEndorsement(limit(t)); err != nil {
		return p, err
	}
	p.secret = bytes.Repeat([]byte("secret"), 5)
	if p.activated, err = c.Activate(limit(t), challenge(t, p.e.Public, p.e.AK, p.secret)); err != nil {
		return p, err
	}
	if p.first, err = c.Request(limit(t), deviceHandle, "unit-1"); err != nil {
		return p, err
	}
	p.second, err = c.Request(limit(t), deviceHandle, "unit-2")
	return p, err
}

// verifies checks a signature by the P-256 key of a TPM2B_PUBLIC, whose point is
// at the end.
func verifies(public, signed, signature []byte) bool {
	n := len(public)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, public[n-66:n-34], public[n-32:]))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(signed)
	return ecdsa.VerifyASN1(key, sum[:], signature)
}
