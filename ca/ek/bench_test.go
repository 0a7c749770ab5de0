package ek_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"nameplate/ca/ek"
)

// BenchmarkCheck is the check of a certificate, its chain and its key, from bytes:
// promised is less than a millisecond. The chain is of P-256, of RSA as older
// vendors have it, or of P-384, where the two signatures alone take longer. It
// reports of-floor, the ratio of the medians to verifying the chain's signatures and
// nothing else, in the same run.
func BenchmarkCheck(b *testing.B) {
	for _, tt := range []struct {
		name          string
		root, issuing crypto.Signer
	}{
		{"P-256", newECC(b, elliptic.P256()), newECC(b, elliptic.P256())},
		{"RSA", newRSA(b, 4096), newRSA(b, 2048)},
		{"P-384", newECC(b, elliptic.P384()), newECC(b, elliptic.P384())},
	} {
		bench := newBench(b, newRSA(b, 2048))
		bench.vendor.root = newCA(b, "root", nil, tt.root, nil)
		bench.vendor.issuing = newCA(b, "EK CA", &bench.vendor.root, tt.issuing, nil)
		bench.parent = bench.vendor.issuing
		bench.trusted[0], bench.trusted[1] = bench.vendor.root.cert, bench.vendor.issuing.cert
		der, roots := bench.der(), bench.roots()
		links := []*x509.Certificate{parse(b, der), bench.vendor.issuing.cert, bench.vendor.root.cert}
		floor := func() error {
			for i, c := range links[1:] {
				if err := links[i].CheckSignatureFrom(c); err != nil {
					return err
				}
			}
			return nil
		}
		r, err := ek.Check(der, roots, bench.ekPublic, bench.at)
		if err != nil {
			b.Fatal(err)
		}
		for _, way := range []struct {
			name  string
			check func() error
		}{
			{"live", func() error {
				_, err := ek.Check(der, roots, bench.ekPublic, bench.at)
				return err
			}},
			{"replay", func() error {
				return ek.Verify(r.DER, r.Chain, []string{r.Anchor}, bench.ekPublic, bench.at)
			}},
		} {
			b.Run(way.name+"/"+tt.name, func(b *testing.B) {
				var bare, ours []time.Duration
				for b.Loop() {
					start := time.Now()
					if err := floor(); err != nil {
						b.Fatal(err)
					}
					middle := time.Now()
					if err := way.check(); err != nil {
						b.Fatal(err)
					}
					bare, ours = append(bare, middle.Sub(start)), append(ours, time.Since(middle))
				}
				b.ReportMetric(median(ours), "ns/op")
				b.ReportMetric(median(bare), "floor-ns/op")
				b.ReportMetric(median(bare)/median(ours), "of-floor")
			})
		}
	}
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2])
}
