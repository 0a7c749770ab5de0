package evidence_test

import (
	"bytes"
	"testing"

	"nameplate/ca/evidence"
)

// Whatever a board says, it is taken or refused; and nothing passes that says
// something else than what a TPM once said.
func FuzzCheckRequest(f *testing.F) {
	all := goldens(f)
	for _, g := range all {
		r := g.Request
		f.Add(r.CSR, r.AK, r.Public, r.Attest, r.Signature)
	}
	f.Fuzz(func(t *testing.T, csr, ak, public, attest, signature []byte) {
		r := evidence.Request{CSR: csr, CommonName: "sn-0001", InTPM: true, AK: ak, Public: public, Attest: attest, Signature: signature}
		if _, err := evidence.CheckRequest(r); err != nil {
			return
		}
		for _, g := range all {
			if bytes.Equal(g.Request.Attest, attest) && bytes.Equal(g.Request.CSR, csr) && bytes.Equal(g.Request.Public, public) && bytes.Equal(g.Request.AK, ak) {
				return
			}
		}
		t.Error("a made-up proof passed")
	})
}

func FuzzNewChallenge(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.EK, g.Request.AK)
	}
	nonce := make([]byte, evidence.NonceSize)
	f.Fuzz(func(t *testing.T, ek, ak []byte) {
		c, answer, err := evidence.NewChallenge(ek, ak, nonce)
		if err != nil {
			return
		}
		if len(c.Object) < 34 || len(c.Secret) < 66 {
			t.Errorf("a challenge of %d and %d bytes", len(c.Object), len(c.Secret))
		}
		if err := evidence.CheckActivation(ek, ak, nonce, answer); err != nil {
			t.Error(sentences(err))
		}
	})
}
