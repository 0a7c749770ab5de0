package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"nameplate/ca/evidence"
)

// asked is a certificate request as a test alters it.
type asked struct {
	key      crypto.Signer
	template *x509.CertificateRequest
	after    func(der []byte) []byte
	want     string // the common name that the device was given
}

// One thing is altered at a time.
func TestCheckRequest(t *testing.T) {
	otherKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ou := asn1.ObjectIdentifier{2, 5, 4, 11}
	for _, tt := range []struct {
		name  string
		alter func(*asked)
		code  string
		want  []string
	}{
		{"as asked", func(a *asked) {}, "", nil},
		{"with extensions, which nobody reads", func(a *asked) { a.template.DNSNames = []string{"sn-0001"} }, "", nil},
		{"nothing", func(a *asked) { a.after = func([]byte) []byte { return nil } }, "csr-unreadable",
			[]string{"the bytes are not one PKCS#10 request (RFC 2986 4)"}},
		{"something behind it", func(a *asked) { a.after = func(b []byte) []byte { return append(b, 0) } }, "csr-unreadable",
			[]string{"the bytes are not one PKCS#10 request (RFC 2986 4)"}},
		{"half of it", func(a *asked) { a.after = func(b []byte) []byte { return b[:len(b)/2] } }, "csr-unreadable",
			[]string{"the bytes are not one PKCS#10 request (RFC 2986 4)"}},
		{"too long", func(a *asked) {
			a.template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 8<<10)}}
		}, "csr-unreadable", []string{"8"}},
		{"an RSA key", func(a *asked) { a.key, a.template.SignatureAlgorithm = otherKey, x509.SHA256WithRSA }, "csr-key",
			[]string{"it is for a *rsa.PublicKey (RFC 5480 2.1.1.1)"}},
		{"a key on P-384", func(a *asked) {
			a.key, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		}, "csr-key", []string{"it is for a *ecdsa.PublicKey (RFC 5480 2.1.1.1)"}},
		{"a point on no curve", func(a *asked) {
			a.after = func(b []byte) []byte {
				point, _ := a.key.(*ecdsa.PrivateKey).PublicKey.Bytes()
				b[bytes.Index(b, point)+64] ^= 1
				return b
			}
		}, "csr-unreadable", []string{"the bytes are not one PKCS#10 request (RFC 2986 4)"}},
		{"a key with something behind it", func(a *asked) {
			a.after = func(b []byte) []byte { return extended(t, b, a.key) }
		}, "csr-key", []string{"its subject public key info is not a named curve and an uncompressed point (RFC 5480 2)"}},
		{"SHA-384", func(a *asked) { a.template.SignatureAlgorithm = x509.ECDSAWithSHA384 }, "csr-signature",
			[]string{"it is signed with ECDSA-SHA384 (RFC 5758 3.2)"}},
		{"signed by another key", func(a *asked) {
			a.after = func(b []byte) []byte { return showing(t, b, newKey(t).Public(), a.key) }
		}, "csr-signature", []string{"its signature is not by its key (RFC 2986 4.2)"}},
		{"altered after signing", func(a *asked) {
			a.after = func(b []byte) []byte { return bytes.Replace(b, []byte("sn-0001"), []byte("sn-0002"), 1) }
			a.want = "sn-0002"
		}, "csr-signature", []string{"its signature is not by its key (RFC 2986 4.2)"}},
		{"another name", func(a *asked) { a.template.Subject.CommonName = "sn-0002" }, "csr-name",
			[]string{`its subject is "CN=sn-0002", not the common name alone (RFC 2986 4.1)`}},
		{"upper case", func(a *asked) { a.template.Subject.CommonName = "SN-0001" }, "csr-name",
			[]string{`its subject is "CN=SN-0001", not the common name alone (RFC 2986 4.1)`}},
		{"no name", func(a *asked) { a.template.Subject.CommonName = "" }, "csr-name",
			[]string{`its subject is "", not the common name alone (RFC 2986 4.1)`}},
		{"two names", func(a *asked) {
			a.template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "sn-0001"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "sn-0001"}}
		}, "csr-name", []string{`its subject is "CN=sn-0001", not the common name alone (RFC 2986 4.1)`}},
		{"a unit too", func(a *asked) {
			a.template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "sn-0001"}, {Type: ou, Value: "line 1"}}
		}, "csr-name", []string{`its subject is`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &asked{key: newKey(t), want: "sn-0001", template: &x509.CertificateRequest{
				Subject: pkix.Name{CommonName: "sn-0001"}, SignatureAlgorithm: x509.ECDSAWithSHA256}}
			tt.alter(a)
			if k, ok := a.key.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P384() {
				a.template.SignatureAlgorithm = x509.ECDSAWithSHA384
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, a.template, a.key)
			if err != nil {
				t.Fatal(err)
			}
			if a.after != nil {
				der = a.after(der)
			}
			spki, err := evidence.CheckRequest(evidence.Request{CSR: der, CommonName: a.want})
			if tt.code != "" {
				expectCode(t, err, tt.code)
			} else if want, _ := x509.MarshalPKIXPublicKey(a.key.Public()); spki != hex.EncodeToString(digest(want)) {
				t.Errorf("the digest of the key is %s", spki)
			}
			expect(t, sentences(err), tt.want)
		})
	}
}

// showing puts another public key of the same kind into a request, whose signature
// stays that of the old one.
func showing(t *testing.T, der []byte, shown crypto.PublicKey, signed crypto.Signer) []byte {
	t.Helper()
	old, err := x509.MarshalPKIXPublicKey(signed.Public())
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(shown)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(der, old, spki, 1)
}

// extended signs a request anew, with one more element in its SubjectPublicKeyInfo,
// which crypto/x509 passes over.
func extended(t *testing.T, der []byte, key crypto.Signer) []byte {
	t.Helper()
	type info struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue
	}
	type request struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	var r request
	var i info
	if _, err := asn1.Unmarshal(der, &r); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(r.Info.FullBytes, &i); err != nil {
		t.Fatal(err)
	}
	i.Key = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(slices.Clone(i.Key.Bytes), 5, 0)}
	raw, err := asn1.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(rand.Reader, digest(raw), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r.Info, r.Signature = asn1.RawValue{FullBytes: raw}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	if der, err = asn1.Marshal(r); err != nil {
		t.Fatal(err)
	}
	return der
}

// Keys that a broken generator makes, and those that are printed in standards,
// checked against the public points printed there.
func TestKnownKeys(t *testing.T) {
	minus3 := new(big.Int).Sub(elliptic.P256().Params().N, big.NewInt(3))
	for name, key := range map[string]struct{ private, x string }{
		"one":        {"0000000000000000000000000000000000000000000000000000000000000001", "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"},
		"1000":       {"00000000000000000000000000000000000000000000000000000000000003e8", ""},
		"minus 3":    {hex.EncodeToString(minus3.Bytes()), ""},
		"all 0xaa":   {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", ""},
		"RFC 6979":   {"c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721", "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"},
		"RFC 7515":   {"8e9b109e719098bf980487df1f5d77e9cb29606ebed2263b5f57c213df84f4b2", "7fcdce2770f6c45d4183cbee6fdb4b7b580733357be9ef13bacf6e3c7bd15445"},
		"RFC 5903 i": {"c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433", "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180"},
		"RFC 5903 r": {"c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53", "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"},
	} {
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unhex(key.private))
		if err != nil {
			t.Fatal(err)
		}
		point, err := private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if x := hex.EncodeToString(point[1:33]); key.x != "" && x != key.x {
			t.Errorf("%s: the point begins with %s, the standard prints %s", name, x, key.x)
		}
		_, err = evidence.CheckRequest(evidence.Request{CSR: newCSR(t, private, "sn-0001"), CommonName: "sn-0001"})
		expectCode(t, err, "csr-key-known")
	}
}

func TestCheckPossession(t *testing.T) {
	key := newKey(t)
	challenge := bytes.Repeat([]byte{9}, 32)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest(challenge))
	if err != nil {
		t.Fatal(err)
	}
	if err := evidence.CheckPossession(challenge, spki, signature); err != nil {
		t.Error(sentences(err))
	}
	other, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaSPKI, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	short, err := ecdsa.SignASN1(rand.Reader, key, digest(challenge[:8]))
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(challenge)
	flipped[31] ^= 1
	for name, tt := range map[string]struct {
		challenge, spki, signature []byte
		want                       string
	}{
		"another challenge": {flipped, spki, signature, "the key did not sign the challenge (RFC 5758 3.2)"},
		"another key":       {challenge, other, signature, "the key did not sign the challenge (RFC 5758 3.2)"},
		"an RSA key":        {challenge, rsaSPKI, signature, "the key is not on P-256 (RFC 5480 2.1.1.1)"},
		"no key":            {challenge, nil, signature, "the public key cannot be read (RFC 5280 4.1.2.7)"},
		"no signature":      {challenge, spki, nil, "the key did not sign the challenge (RFC 5758 3.2)"},
		"a longer one":      {challenge, spki, append(slices.Clone(signature), 0), "the key did not sign the challenge (RFC 5758 3.2)"},
		"a short challenge": {challenge[:8], spki, short, "the challenge has 8 bytes, not 32"},
	} {
		t.Run(name, func(t *testing.T) {
			err := evidence.CheckPossession(tt.challenge, tt.spki, tt.signature)
			expectCode(t, err, "key-not-held")
			expect(t, sentences(err), []string{tt.want})
		})
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
