package authority_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
)

var today = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// cas makes a root and an issuing CA for customer-a.
func cas(t testing.TB) (root, issuing authority.Pair) {
	t.Helper()
	root, err := authority.CreateRoot("factory.example root", today)
	if err != nil {
		t.Fatal(err)
	}
	issuing, err = authority.CreateIssuing(root, "customer-a issuing CA", today)
	if err != nil {
		t.Fatal(err)
	}
	return root, issuing
}

func open(t testing.TB) *authority.Authority {
	t.Helper()
	root, issuing := cas(t)
	a, err := authority.Open(authority.Config{Root: root.Certificate, Issuers: map[string]authority.Pair{"customer-a": issuing}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t testing.TB, cn string) ca.Request {
	t.Helper()
	csr, _, err := ca.InjectedKey(cn)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{Customer: "customer-a", CommonName: cn, Organization: "customer-a", CSR: csr,
		NotBefore: today.Add(-ca.Backdate), NotAfter: today.AddDate(25, 0, 0)}
}

func TestIssue(t *testing.T) {
	a := open(t)
	req := request(t, "sn-0001")
	req.NotAfter = req.NotAfter.Add(7 * time.Millisecond).In(time.FixedZone("line", 3600))
	got, err := a.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, got.DER)
	intermediates, roots := x509.NewCertPool(), x509.NewCertPool()
	intermediates.AddCert(parse(t, got.Chain[0]))
	roots.AddCert(parse(t, got.Chain[1]))
	if _, err := leaf.Verify(x509.VerifyOptions{Intermediates: intermediates, Roots: roots, CurrentTime: today.AddDate(24, 0, 0), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("verifying the chain: %v", err)
	}
	if len(got.Serial) != 32 || got.SPKI != ca.Digest(leaf.RawSubjectPublicKeyInfo) || !got.NotBefore.Equal(leaf.NotBefore) || !got.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("Issued does not describe its certificate: %+v", got)
	}
	want := ca.Leaf{CommonName: "sn-0001", Organization: "customer-a", SPKI: got.SPKI, Serial: got.Serial, NotBefore: req.NotBefore, NotAfter: today.AddDate(25, 0, 0)}
	if err := ca.CheckLeaf(got.DER, parse(t, got.Chain[0]), want); err != nil {
		t.Error(err)
	}
	if leaf.BasicConstraintsValid || len(leaf.DNSNames)+len(leaf.URIs)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		t.Error("the certificate has more than its profile")
	}
}

func TestIssueTakesNothingButTheKeyFromTheCSR(t *testing.T) {
	key := newKey(t, elliptic.P256())
	req := request(t, "sn-0001")
	req.Organization = ""
	req.CSR = csr(t, &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"customer-b"}}, DNSNames: []string{"factory.example"}}, key)
	got, err := open(t).Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, got.DER)
	if leaf.Subject.String() != "CN=sn-0001" || leaf.DNSNames != nil {
		t.Errorf("the certificate is for %q, %q", leaf.Subject, leaf.DNSNames)
	}
}

func TestIssueConcurrently(t *testing.T) {
	a := open(t)
	var mu sync.Mutex
	serials := map[string]bool{}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			csr, _, err := ca.InjectedKey("sn-0001")
			if err != nil {
				t.Error(err)
				return
			}
			got, err := a.Issue(t.Context(), ca.Request{Customer: "customer-a", CommonName: "sn-0001", CSR: csr, NotBefore: today, NotAfter: today.AddDate(20, 0, 0)})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			serials[got.Serial] = true
		})
	}
	all.Wait()
	if len(serials) != 16 {
		t.Errorf("%d serial numbers for 16 certificates", len(serials))
	}
}

func TestIssueRefuses(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plain := func() *x509.CertificateRequest { return &x509.CertificateRequest{} }
	for _, tt := range []struct {
		name     string
		alter    func(*ca.Request)
		code     string
		sentence string
	}{
		{"customer", func(r *ca.Request) { r.Customer = "customer-b" }, "customer-unknown", `There is no issuing CA for the customer "customer-b".`},
		{"common name", func(r *ca.Request) { r.CommonName = "SN-0001" }, "registration-id-form", `The registration ID "SN-0001" has upper-case letters.`},
		{"long common name", func(r *ca.Request) { r.CommonName = strings.Repeat("a", 65) }, "common-name-long",
			`The registration ID "` + strings.Repeat("a", 65) + `" has 65 characters; a certificate's common name takes 64.`},
		{"organization", func(r *ca.Request) { r.Organization = "a\nb" }, "name-form", `The organization "a\nb" cannot stand in a certificate.`},
		{"no time", func(r *ca.Request) { r.NotAfter = r.NotBefore.Add(time.Millisecond) }, "validity", "A certificate from 2026-03-01 to 2026-03-01 would be valid at no time."},
		{"too early", func(r *ca.Request) { r.NotBefore = today.AddDate(-1, 0, 0) }, "validity", "A certificate from 2025-03-01 would begin before its issuing CA, on 2026-03-01."},
		{"outlives the issuer", func(r *ca.Request) { r.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }, "validity",
			"A certificate until 9999-12-31 would outlive its issuing CA, which ends on 2055-03-01."},
		{"one second too long", func(r *ca.Request) { r.NotAfter = today.AddDate(29, 0, 0).Add(time.Second) }, "validity",
			"A certificate until 2055-03-01 would outlive its issuing CA, which ends on 2055-03-01."},
		{"no CSR", func(r *ca.Request) { r.CSR = nil }, "csr-unreadable", "The certificate request cannot be read."},
		{"noise", func(r *ca.Request) { r.CSR = []byte("0\x82\xff\xff") }, "csr-unreadable", "The certificate request cannot be read."},
		{"huge", func(r *ca.Request) { r.CSR = make([]byte, 9000) }, "csr-unreadable", "The certificate request is too long to be one."},
		{"RSA", func(r *ca.Request) { r.CSR = csr(t, plain(), rsaKey) }, "csr-key", "The certificate request is not for a P-256 key."},
		{"Ed25519", func(r *ca.Request) { r.CSR = csr(t, plain(), edKey) }, "csr-key", "The certificate request is not for a P-256 key."},
		{"P-384", func(r *ca.Request) { r.CSR = csr(t, plain(), newKey(t, elliptic.P384())) }, "csr-key", "The certificate request is not for a P-256 key."},
		{"SHA-512", func(r *ca.Request) {
			r.CSR = csr(t, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA512}, newKey(t, elliptic.P256()))
		}, "csr-signature", "The certificate request is not signed with ECDSA and SHA-256."},
		{"tampered", func(r *ca.Request) { r.CSR = bytes.Replace(r.CSR, []byte("sn-0001"), []byte("sn-0002"), 1) }, "csr-signature", "The certificate request was not signed by the key it names."},
		{"another device's", func(r *ca.Request) {
			r.CSR = csr(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "sn-0002"}}, newKey(t, elliptic.P256()))
		}, "csr-name", `The certificate request is for "sn-0002", but the board was given sn-0001.`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := request(t, "sn-0001")
			tt.alter(&req)
			_, err := open(t).Issue(t.Context(), req)
			refused(t, err, tt.code, tt.sentence)
		})
	}
}

func TestIssueCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t).Issue(ctx, request(t, "sn-0001")); !errors.Is(err, context.Canceled) {
		t.Errorf("Issue: %v, want context.Canceled", err)
	}
}

// A service that signs something else than it was asked is found out, whichever
// field it changed. CheckLeaf's own test has the whole list.
func TestIssueChecksWhatTheServiceSigned(t *testing.T) {
	for name, alter := range map[string]func(*x509.Certificate){
		"serial":     func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) },
		"subject":    func(c *x509.Certificate) { c.Subject.CommonName = "sn-0002" },
		"not before": func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Second) },
		"not after":  func(c *x509.Certificate) { c.NotAfter = c.NotBefore },
		"key":        func(c *x509.Certificate) { c.PublicKey = newKey(t, elliptic.P256()).Public() },
		"key usage":  func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign },
		"use":        func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"CA":         func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true },
		"SAN":        func(c *x509.Certificate) { c.DNSNames = []string{"factory.example"} },
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t)
			a.Lie("customer-a", alter)
			got, err := a.Issue(t.Context(), request(t, "sn-0001"))
			refused(t, err, "certificate-wrong", "The issuing CA of customer-a returned a certificate that is not what was asked for.")
			if got.DER != nil {
				t.Error("the certificate was returned all the same")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	root, issuing := cas(t)
	otherRoot, otherIssuing := cas(t)
	for _, tt := range []struct {
		name     string
		root     *x509.Certificate
		issuer   authority.Pair
		sentence string
	}{
		{"key of another CA", root.Certificate, authority.Pair{Certificate: issuing.Certificate, Signer: otherIssuing.Signer}, "The issuing CA of customer-a cannot be used."},
		{"another root", otherRoot.Certificate, issuing, "The issuing CA of customer-a cannot be used."},
		{"the root as issuing CA", root.Certificate, root, "The issuing CA of customer-a cannot be used."},
		{"an issuing CA as root", issuing.Certificate, issuing, "The root certificate cannot be used."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := authority.Open(authority.Config{Root: tt.root, Issuers: map[string]authority.Pair{"customer-a": tt.issuer}})
			refused(t, err, "ca-unfit", tt.sentence)
		})
	}
	for _, c := range []authority.Config{
		{Issuers: map[string]authority.Pair{"customer-a": issuing}},
		{Root: root.Certificate, Issuers: map[string]authority.Pair{"customer-a": {Certificate: issuing.Certificate}}},
	} {
		if _, err := authority.Open(c); err == nil {
			t.Errorf("Open(%+v) succeeded", c)
		}
	}
}

func TestCreateIssuingNeverOutlivesItsRoot(t *testing.T) {
	root, _ := cas(t)
	late, err := authority.CreateIssuing(root, "customer-b issuing CA", today.AddDate(10, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if !late.Certificate.NotAfter.Equal(root.Certificate.NotAfter) {
		t.Errorf("it ends on %s, its root on %s", late.Certificate.NotAfter, root.Certificate.NotAfter)
	}
	_, err = authority.CreateIssuing(root, "customer-b issuing CA", today.AddDate(31, 0, 0))
	refused(t, err, "root-expired", `The root "factory.example root" is valid from 2026-03-01 to 2056-03-01, not now.`)
	_, err = authority.CreateIssuing(root, "customer\nb", today)
	refused(t, err, "name-form", `The CA's name "customer\nb" cannot stand in a certificate.`)
}

func FuzzIssue(f *testing.F) {
	a := open(f)
	good := request(f, "sn-0001")
	f.Add(good.CSR)
	f.Add(csr(f, &x509.CertificateRequest{DNSNames: []string{"factory.example"}}, newKey(f, elliptic.P256())))
	f.Fuzz(func(t *testing.T, csr []byte) {
		req := good
		req.CSR = csr
		_, err := a.Issue(t.Context(), req)
		var no *ca.Refusal
		if err != nil && (!errors.As(err, &no) || no.Code == "certificate-wrong") {
			t.Errorf("not a refusal of the request: %v", err)
		}
	})
}

func csr(t testing.TB, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func refused(t *testing.T, err error, code, sentence string) {
	t.Helper()
	var no *ca.Refusal
	if !errors.As(err, &no) {
		t.Fatalf("%v, want the refusal: %s", err, sentence)
	}
	if no.Code != code || no.Sentence != sentence || no.Next == "" {
		t.Errorf("refused with %s: %s\nwant %s: %s", no.Code, no.Sentence, code, sentence)
	}
}
