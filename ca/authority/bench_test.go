package authority_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
)

// BenchmarkIssue measures Issue and the bare loop that does the same work with
// crypto/x509 alone, turn by turn in one run, and reports of-floor, the ratio of
// their medians: 1 is as fast as bare, and at least 0.9 is promised. Run
// with -cpu 1,2,… for the figure on more cores.
func BenchmarkIssue(b *testing.B) {
	root, issuing := cas(b)
	a, err := authority.Open(authority.Config{Root: root.Certificate, Issuers: map[string]authority.Pair{"customer-a": issuing}})
	if err != nil {
		b.Fatal(err)
	}
	req := request(b, "sn-0001")
	var mu sync.Mutex
	var bare, ours []time.Duration
	b.RunParallel(func(pb *testing.PB) {
		var myBare, myOurs []time.Duration
		for pb.Next() {
			start := time.Now()
			if err := issueBare(issuing, req); err != nil {
				b.Error(err)
				return
			}
			middle := time.Now()
			if _, err := a.Issue(b.Context(), req); err != nil {
				b.Error(err)
				return
			}
			myBare = append(myBare, middle.Sub(start))
			myOurs = append(myOurs, time.Since(middle))
		}
		mu.Lock()
		defer mu.Unlock()
		bare, ours = append(bare, myBare...), append(ours, myOurs...)
	})
	floor, issue := median(bare), median(ours)
	b.ReportMetric(issue, "ns/op")
	b.ReportMetric(floor, "floor-ns/op")
	b.ReportMetric(floor/issue, "of-floor")
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2])
}

// issueBare is the floor: parse and verify the request, sign, parse and verify the
// result.
func issueBare(by authority.Pair, req ca.Request) error {
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return err
	}
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return err
	}
	serial[0] &= 0x7f
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: req.CommonName, Organization: []string{req.Organization}},
		NotBefore:    req.NotBefore,
		NotAfter:     req.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		SubjectKeyId: make([]byte, 20),
	}, by.Certificate, csr.PublicKey, by.Signer)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	return cert.CheckSignatureFrom(by.Certificate)
}
