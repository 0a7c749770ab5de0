package evidence_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"nameplate/ca"
	"nameplate/ca/evidence"
)

const goldenFile = "testdata/golden.json"

// golden is what one TPM answered once. If a challenge comes out differently, old
// records can no longer be checked.
type golden struct {
	Name    string
	EK      []byte
	Nonce   []byte
	Object  []byte
	Secret  []byte
	Answer  []byte
	Request evidence.Request
}

func goldens(t testing.TB) []golden {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 5 {
		t.Fatalf("%d TPMs in %s, not 5", len(all), goldenFile)
	}
	return all
}

func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			c, answer, err := evidence.NewChallenge(g.EK, g.Request.AK, g.Nonce)
			if err != nil {
				t.Fatal(sentences(err))
			}
			if !bytes.Equal(c.Object, g.Object) || !bytes.Equal(c.Secret, g.Secret) {
				t.Error("the same keys and nonce gave another challenge")
			}
			if !bytes.Equal(answer, g.Answer) {
				t.Error("the same keys and nonce want another answer")
			}
			if err := evidence.CheckActivation(g.EK, g.Request.AK, g.Nonce, g.Answer); err != nil {
				t.Error(sentences(err))
			}
			spki, err := evidence.CheckRequest(g.Request)
			if err != nil || len(spki) != 64 {
				t.Error(spki, sentences(err))
			}
		})
	}
}

// Each part of a recorded activation is held against the others.
func TestActivationAlteredAnywhere(t *testing.T) {
	all := goldens(t)
	for i, g := range all {
		other := all[(i+1)%len(all)]
		flip := func(b []byte, at int) []byte {
			b = bytes.Clone(b)
			b[at] ^= 1
			return b
		}
		const failed = "tpm-activation-failed"
		for _, tt := range []struct {
			name  string
			alter func(*golden)
			code  string
		}{
			{"another answer", func(g *golden) { g.Answer = flip(g.Answer, 0) }, failed},
			{"the answer of another TPM", func(g *golden) { g.Answer = other.Answer }, failed},
			{"a shorter answer", func(g *golden) { g.Answer = g.Answer[:16] }, failed},
			{"a longer answer", func(g *golden) { g.Answer = append(slices.Clone(g.Answer), 0) }, failed},
			{"no answer", func(g *golden) { g.Answer = nil }, failed},
			{"another nonce", func(g *golden) { g.Nonce = flip(g.Nonce, 31) }, failed},
			{"another endorsement key", func(g *golden) { g.EK = other.EK }, failed},
			{"another attestation key", func(g *golden) { g.Request.AK = newLiar(t).ak.public }, failed},
			{"a short nonce", func(g *golden) { g.Nonce = g.Nonce[:31] }, ""},
			{"an endorsement key of no template", func(g *golden) { g.EK = flip(g.EK, 9) }, "ek-unusable"},
			{"no endorsement key", func(g *golden) { g.EK = nil }, "ek-unusable"},
			{"the device key as attestation key", func(g *golden) { g.Request.AK = g.Request.Public }, "ak-unusable"},
			{"no attestation key", func(g *golden) { g.Request.AK = nil }, "ak-unusable"},
		} {
			t.Run(g.Name+"/"+tt.name, func(t *testing.T) {
				g := g
				tt.alter(&g)
				expectCode(t, evidence.CheckActivation(g.EK, g.Request.AK, g.Nonce, g.Answer), tt.code)
				if _, _, err := evidence.NewChallenge(g.EK, g.Request.AK, g.Nonce); tt.code != failed {
					expectCode(t, err, tt.code)
				}
			})
		}
	}
}

// The nonce decides everything, and nothing of it is seen in the challenge.
func TestChallengeIsOfTheNonce(t *testing.T) {
	for _, g := range goldens(t) {
		seen := map[string]bool{}
		for n := range 8 {
			nonce := bytes.Repeat([]byte{byte(n)}, evidence.NonceSize)
			for range 2 {
				c, answer, err := evidence.NewChallenge(g.EK, g.Request.AK, nonce)
				if err != nil {
					t.Fatal(sentences(err))
				}
				if len(answer) != 32 {
					t.Errorf("%s: an answer of %d bytes", g.Name, len(answer))
				}
				seen[string(c.Object)+string(c.Secret)+string(answer)] = true
				for _, secret := range [][]byte{answer[:8], nonce[:8]} {
					if bytes.Contains(c.Object, secret) || bytes.Contains(c.Secret, secret) {
						t.Errorf("%s: %x stands in the challenge", g.Name, secret)
					}
				}
			}
		}
		if len(seen) != 8 {
			t.Errorf("%s: 8 nonces, twice each, gave %d challenges", g.Name, len(seen))
		}
	}
}

func expectCode(t *testing.T, err error, code string) {
	t.Helper()
	var got string
	r, ok := err.(*ca.Refusal)
	if ok {
		got = r.Code
	}
	if err == nil || got != code {
		t.Errorf("%v, code %q; want %q", err, got, code)
		return
	}
	if ok && (r.Sentence == "" || r.Next == "" || r.Err == nil) {
		t.Errorf("a refusal with something left out: %#v", r)
	}
}
