package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
)

var today = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// workshop is a CA and one good leaf, as a template that a test alters.
type workshop struct {
	root, issuing authority.Pair
	parent        authority.Pair // what signs the leaf; the issuing CA unless altered
	key           *ecdsa.PrivateKey
	leaf          *x509.Certificate
	want          ca.Leaf
	der           []byte // set to bypass signing
}

func newWorkshop(t testing.TB) *workshop {
	t.Helper()
	var w workshop
	var err error
	if w.root, err = authority.CreateRoot("factory.example root", today); err != nil {
		t.Fatal(err)
	}
	if w.issuing, err = authority.CreateIssuing(w.root, "customer-a issuing CA", today); err != nil {
		t.Fatal(err)
	}
	w.parent = w.issuing
	w.key = newKey(t, elliptic.P256())
	w.leaf = &x509.Certificate{
		SerialNumber:       serial(127),
		Subject:            pkix.Name{CommonName: "sn-0001", Organization: []string{"customer-a"}},
		NotBefore:          today,
		NotAfter:           today.AddDate(20, 0, 0),
		KeyUsage:           x509.KeyUsageDigitalSignature,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		SubjectKeyId:       []byte("any name of the key "),
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	w.want = ca.Leaf{CommonName: "sn-0001", Organization: "customer-a", NotBefore: w.leaf.NotBefore, NotAfter: w.leaf.NotAfter}
	return &w
}

// check signs the leaf as it stands and holds it against want; what the test left
// empty in want is what the leaf has.
func (w *workshop) check(t testing.TB) []string {
	t.Helper()
	der := w.der
	if der == nil {
		der = sign(t, w.leaf, w.parent, &w.key.PublicKey)
	}
	if w.want.Serial == "" {
		w.want.Serial = fmt.Sprintf("%032x", w.leaf.SerialNumber)
	}
	if w.want.SPKI == "" {
		spki, err := x509.MarshalPKIXPublicKey(&w.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		w.want.SPKI = ca.Digest(spki)
	}
	return sentences(ca.CheckLeaf(der, w.issuing.Certificate, w.want))
}

func TestCheckLeaf(t *testing.T) {
	for _, tt := range []struct {
		name  string
		alter func(*workshop)
		want  []string // how each sentence begins
	}{
		{"as asked", func(w *workshop) {}, nil},
		{"basic constraints, but no CA", func(w *workshop) { w.leaf.BasicConstraintsValid = true }, nil},
		{"any date within the issuer's", func(w *workshop) { w.want.NotBefore, w.want.NotAfter = time.Time{}, time.Time{} }, nil},
		{"not a certificate", func(w *workshop) { w.der = []byte("hello") },
			[]string{"the bytes are not one certificate (RFC 5280 4.1)"}},
		{"something behind it", func(w *workshop) { w.der = append(sign(t, w.leaf, w.parent, &w.key.PublicKey), 0) },
			[]string{"the bytes are not one certificate (RFC 5280 4.1)"}},
		{"version 2", func(w *workshop) {
			v3, v2 := []byte{0xa0, 3, 2, 1, 2}, []byte{0xa0, 3, 2, 1, 1}
			w.der = resign(t, bytes.Replace(tbs(t, sign(t, w.leaf, w.parent, &w.key.PublicKey)), v3, v2, 1), w.parent)
		}, []string{"the version is 2, not 3 (RFC 5280 4.1.2.1)",
			"its authority key identifier", "it has no subject key identifier", "its key usage", "its extended key usage"}}, // version 2 has no extensions
		{"short serial", func(w *workshop) { w.leaf.SerialNumber = serial(126) },
			[]string{"the serial number 2000000000000000000000000000002a is not a positive number of 127 bits (RFC 5280 4.1.2.2)"}},
		{"serial of 20 octets", func(w *workshop) { w.leaf.SerialNumber = serial(159) },
			[]string{"the serial number 400000000000000000000000000000000000002a is not a positive number of 127 bits (RFC 5280 4.1.2.2)"}},
		{"another serial", func(w *workshop) { w.want.Serial = strings.Repeat("5", 32) },
			[]string{"the serial number is 4000000000000000000000000000002a, not 55555555555555555555555555555555 (RFC 5280 4.1.2.2)"}},
		{"SHA-384", func(w *workshop) { w.leaf.SignatureAlgorithm = x509.ECDSAWithSHA384 },
			[]string{"it is signed with ECDSA-SHA384, not ECDSA with SHA-256 (RFC 5758 3.2)"}},
		{"signed by a stranger of the same name", func(w *workshop) {
			named := &x509.Certificate{RawSubject: w.issuing.Certificate.RawSubject, SubjectKeyId: w.issuing.Certificate.SubjectKeyId}
			w.parent = authority.Pair{Certificate: named, Signer: newKey(t, elliptic.P256())}
		}, []string{"the issuer did not sign it (RFC 5280 4.1.1.3)"}},
		{"another issuer's name", func(w *workshop) {
			w.parent.Certificate = altered(w.parent.Certificate, func(c *x509.Certificate) {
				c.RawSubject, c.Subject = nil, pkix.Name{CommonName: "customer-b issuing CA"}
			})
		}, []string{`it names the issuer "CN=customer-b issuing CA", not "CN=customer-a issuing CA" (RFC 5280 4.1.2.4)`}},
		{"another issuer's key identifier", func(w *workshop) {
			w.parent.Certificate = altered(w.parent.Certificate, func(c *x509.Certificate) { c.SubjectKeyId = []byte("no") })
		}, []string{"its authority key identifier is not that of the issuer (RFC 5280 4.2.1.1)"}},
		{"another beginning", func(w *workshop) { w.leaf.NotBefore = today.Add(time.Second) },
			[]string{"it is valid from 2026-03-01T08:00:01Z, not from 2026-03-01T08:00:00Z (RFC 5280 4.1.2.5)"}},
		{"another end", func(w *workshop) { w.leaf.NotAfter = today.AddDate(10, 0, 0) },
			[]string{"it is valid until 2036-03-01T08:00:00Z, not until 2046-03-01T08:00:00Z (RFC 5280 4.1.2.5)"}},
		{"valid for no time", func(w *workshop) { w.leaf.NotAfter, w.want.NotAfter = w.leaf.NotBefore, w.leaf.NotBefore },
			[]string{"it is valid at no time (RFC 5280 4.1.2.5)"}},
		{"before the issuer", func(w *workshop) {
			w.leaf.NotBefore = today.Add(-time.Hour)
			w.want.NotBefore = w.leaf.NotBefore
		}, []string{"it is valid from 2026-03-01T07:00:00Z, but its issuer only from 2026-03-01T07:55:00Z (RFC 5280 4.1.2.5)"}},
		{"outlives the issuer", func(w *workshop) {
			w.leaf.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
			w.want.NotAfter = w.leaf.NotAfter
		}, []string{"it is valid until 9999-12-31T23:59:59Z, but its issuer only until 2055-03-01T08:00:00Z (RFC 5280 4.1.2.5)"}},
		{"another common name", func(w *workshop) { w.leaf.Subject.CommonName = "sn-0002" },
			[]string{`its subject is "CN=sn-0002,O=customer-a", not "CN=sn-0001,O=customer-a" (RFC 5280 4.1.2.6)`}},
		{"no common name", func(w *workshop) { w.leaf.Subject.CommonName = "" },
			[]string{`its subject is "O=customer-a", not "CN=sn-0001,O=customer-a" (RFC 5280 4.1.2.6)`, "its common name is no registration ID (RFC 5280 A.1)"}},
		{"two common names", func(w *workshop) {
			w.leaf.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "sn-0002"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "sn-0001"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "customer-a"}}
		}, []string{`its subject is "CN=sn-0001,O=customer-a", not "CN=sn-0001,O=customer-a" (RFC 5280 4.1.2.6)`}},
		{"another organization", func(w *workshop) { w.leaf.Subject.Organization = []string{"customer-b"} },
			[]string{`its subject is "CN=sn-0001,O=customer-b", not "CN=sn-0001,O=customer-a" (RFC 5280 4.1.2.6)`}},
		{"an organization nobody asked for", func(w *workshop) { w.want.Organization = "" },
			[]string{`its subject is "CN=sn-0001,O=customer-a", not "CN=sn-0001" (RFC 5280 4.1.2.6)`}},
		{"a unit nobody asked for", func(w *workshop) { w.leaf.Subject.OrganizationalUnit = []string{"line 1"} },
			[]string{`its subject is "CN=sn-0001,OU=line 1,O=customer-a", not "CN=sn-0001,O=customer-a" (RFC 5280 4.1.2.6)`}},
		{"upper case", func(w *workshop) { w.leaf.Subject.CommonName, w.want.CommonName = "SN-0001", "SN-0001" },
			[]string{"its common name is no registration ID (RFC 5280 A.1)"}},
		{"common name of 65", func(w *workshop) {
			w.leaf.Subject.CommonName = strings.Repeat("a", 65)
			w.want.CommonName = w.leaf.Subject.CommonName
		}, []string{"its common name is no registration ID (RFC 5280 A.1)"}},
		{"P-384", func(w *workshop) { w.key = newKey(t, elliptic.P384()) },
			[]string{"its key is not on P-256 (RFC 5480 2.1.1.1)"}},
		{"another key", func(w *workshop) { w.want.SPKI = strings.Repeat("0", 64) },
			[]string{"its key is not the one that was asked for (RFC 5280 4.1.2.7)"}},
		{"subject alternative name", func(w *workshop) { w.leaf.DNSNames = []string{"sn-0001"} },
			[]string{"it has the extension 2.5.29.17, which is no part of a device certificate (RFC 5280 4.2)"}},
		{"critical unknown extension", func(w *workshop) {
			w.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, []string{"it has the extension 1.2.3, which is no part of a device certificate (RFC 5280 4.2)"}},
		{"no subject key identifier", func(w *workshop) { w.leaf.SubjectKeyId = nil },
			[]string{"it has no subject key identifier (RFC 5280 4.2.1.2)"}},
		{"no key usage", func(w *workshop) { w.leaf.KeyUsage = 0 },
			[]string{"its key usage is not digitalSignature alone, marked critical (RFC 5280 4.2.1.3)"}},
		{"key usage too wide", func(w *workshop) { w.leaf.KeyUsage |= x509.KeyUsageKeyEncipherment },
			[]string{"its key usage is not digitalSignature alone, marked critical (RFC 5280 4.2.1.3)"}},
		{"key usage not critical", func(w *workshop) {
			w.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}}}
		}, []string{"its key usage is not digitalSignature alone, marked critical (RFC 5280 4.2.1.3)"}},
		{"a CA", func(w *workshop) { w.leaf.BasicConstraintsValid, w.leaf.IsCA = true, true },
			[]string{"it is a CA certificate (RFC 5280 4.2.1.9)"}},
		{"no extended key usage", func(w *workshop) { w.leaf.ExtKeyUsage = nil },
			[]string{"its extended key usage is not clientAuth alone (RFC 5280 4.2.1.12)"}},
		{"a server too", func(w *workshop) { w.leaf.ExtKeyUsage = append(w.leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
			[]string{"its extended key usage is not clientAuth alone (RFC 5280 4.2.1.12)"}},
		{"an unknown use too", func(w *workshop) { w.leaf.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
			[]string{"its extended key usage is not clientAuth alone (RFC 5280 4.2.1.12)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkshop(t)
			tt.alter(w)
			expect(t, w.check(t), tt.want)
		})
	}
}

func TestCheckIssuer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		alter func(c *x509.Certificate, w *workshop)
		want  []string
	}{
		{"as made", func(c *x509.Certificate, w *workshop) {}, nil},
		{"a CA below it", func(c *x509.Certificate, w *workshop) { c.MaxPathLen = 1 },
			[]string{"the issuing CA may have CAs below it (RFC 5280 4.2.1.9)"}},
		{"no limit", func(c *x509.Certificate, w *workshop) { c.MaxPathLen = -1 },
			[]string{"the issuing CA may have CAs below it (RFC 5280 4.2.1.9)"}},
		{"signs data too", func(c *x509.Certificate, w *workshop) { c.KeyUsage |= x509.KeyUsageDigitalSignature },
			[]string{"the issuing CA's key usage is not keyCertSign and cRLSign, marked critical (RFC 5280 4.2.1.3)"}},
		{"outlives the root", func(c *x509.Certificate, w *workshop) { c.NotAfter = today.AddDate(31, 0, 0) },
			[]string{"the issuing CA's validity is not within that of the root (RFC 5280 4.1.2.5)"}},
		{"another root of the same name", func(c *x509.Certificate, w *workshop) {
			other, err := authority.CreateRoot("factory.example root", today)
			if err != nil {
				t.Fatal(err)
			}
			w.root = other
		}, []string{"the root did not sign the issuing CA (RFC 5280 4.1.1.3)", "the issuing CA's authority key identifier is not that of the root (RFC 5280 4.2.1.1)"}},
		{"no CA", func(c *x509.Certificate, w *workshop) { c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, 0, false },
			[]string{"the issuing CA is not marked a CA, critical (RFC 5280 4.2.1.9)", "the issuing CA may have CAs below it (RFC 5280 4.2.1.9)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkshop(t)
			root := w.root
			made := altered(w.issuing.Certificate, func(c *x509.Certificate) { tt.alter(c, w) })
			der := sign(t, made, root, w.issuing.Signer.Public())
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, sentences(ca.CheckIssuer(cert, w.root.Certificate)), tt.want)
		})
	}
}

func TestCheckRoot(t *testing.T) {
	w := newWorkshop(t)
	expect(t, sentences(ca.CheckRoot(w.root.Certificate)), nil)
	expect(t, sentences(ca.CheckRoot(w.issuing.Certificate)), []string{
		"the root did not sign itself (RFC 5280 4.1.1.3)",
		`the root names the issuer "CN=factory.example root", not itself (RFC 5280 4.1.2.4)`,
	})
}

func FuzzCheckLeaf(f *testing.F) {
	w := newWorkshop(f)
	f.Add(sign(f, w.leaf, w.parent, &w.key.PublicKey))
	f.Add(w.root.Certificate.Raw)
	good := sign(f, w.leaf, w.parent, &w.key.PublicKey)
	f.Fuzz(func(t *testing.T, der []byte) {
		want := ca.Leaf{CommonName: "sn-0001", Organization: "customer-a", Serial: fmt.Sprintf("%032x", w.leaf.SerialNumber), SPKI: spki(t, w.key)}
		if err := ca.CheckLeaf(der, w.issuing.Certificate, want); err == nil && !bytes.Equal(tbs(t, der), tbs(t, good)) {
			t.Errorf("another certificate passed: %x", der)
		}
	})
}

// expect compares sentences with how each should begin.
func expect(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("failed checks:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func sentences(err error) []string {
	switch e := err.(type) {
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var all []string
		for _, one := range e.Unwrap() {
			all = append(all, one.Error())
		}
		return all
	}
	return []string{err.Error()}
}

func sign(t testing.TB, template *x509.Certificate, parent authority.Pair, public any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, public, parent.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// altered is a copy of a certificate, for use as a template or a parent.
func altered(cert *x509.Certificate, alter func(*x509.Certificate)) *x509.Certificate {
	c := *cert
	alter(&c)
	return &c
}

// tbs is the signed part of a certificate.
func tbs(t testing.TB, der []byte) []byte {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(cert.RawTBSCertificate)
}

// resign puts a signature of the parent under a TBSCertificate that crypto/x509
// would not make.
func resign(t testing.TB, tbs []byte, parent authority.Pair) []byte {
	t.Helper()
	sum := sha256.Sum256(tbs)
	signature, err := parent.Signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func serial(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return n.Add(n, big.NewInt(42))
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spki(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Digest(der)
}
