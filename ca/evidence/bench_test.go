package evidence_test

import (
	"testing"

	"nameplate/ca/evidence"
)

func BenchmarkNewChallenge(b *testing.B) {
	for _, g := range goldens(b)[:3] {
		b.Run(g.Name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := evidence.NewChallenge(g.EK, g.Request.AK, g.Nonce); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheckActivation(b *testing.B) {
	for _, g := range goldens(b)[:3] {
		b.Run(g.Name, func(b *testing.B) {
			for b.Loop() {
				if err := evidence.CheckActivation(g.EK, g.Request.AK, g.Nonce, g.Answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheckRequest(b *testing.B) {
	r := goldens(b)[0].Request
	for _, inTPM := range []bool{false, true} {
		name := "file"
		if inTPM {
			name = "TPM"
		}
		r.InTPM = inTPM
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := evidence.CheckRequest(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
