package ek_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for withSHA1
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
)

var (
	today = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	never = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

var (
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSAN          = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEK           = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

// pair is a CA.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// vendor is a TPM maker: a root and the CA below it that signs EK certificates.
type vendor struct{ root, issuing pair }

func newVendor(t testing.TB, name string) vendor {
	t.Helper()
	root := newCA(t, name+" root", nil, newECC(t, elliptic.P256()), nil)
	return vendor{root, newCA(t, name+" EK CA", &root, newECC(t, elliptic.P256()), nil)}
}

// newCA makes a CA; by is who signs it, itself if nil.
func newCA(t testing.TB, name string, by *pair, key crypto.Signer, alter func(*x509.Certificate)) pair {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    today.AddDate(-5, 0, 0), NotAfter: today.AddDate(25, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	if alter != nil {
		alter(c)
	}
	parent := pair{c, key}
	if by != nil {
		parent = *by
	}
	return pair{parse(t, sign(t, c, parent, key.Public())), key}
}

func sign(t testing.TB, template *x509.Certificate, parent pair, public any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// names are the TPM's attributes in a directory name, one RDN each.
func names(t testing.TB, attributes ...pkix.AttributeTypeAndValue) []byte {
	t.Helper()
	var rdns pkix.RDNSequence
	for _, a := range attributes {
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{a})
	}
	return directoryNames(t, rdns)
}

// directoryNames is a subject alternative name (RFC 5280 4.2.1.6).
func directoryNames(t testing.TB, all ...pkix.RDNSequence) []byte {
	t.Helper()
	var general []asn1.RawValue
	for _, rdns := range all {
		inner, err := asn1.Marshal(rdns)
		if err != nil {
			t.Fatal(err)
		}
		general = append(general, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: inner})
	}
	san, err := asn1.Marshal(general)
	if err != nil {
		t.Fatal(err)
	}
	return san
}

func attribute(oid asn1.ObjectIdentifier, value any) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: value}
}

func goodNames(t testing.TB) []byte {
	return names(t, attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidVersion, "id:00070055"))
}

// bench is one good EK certificate and what it is held against, for a test to
// alter.
type bench struct {
	t        testing.TB
	vendor   vendor
	parent   pair // who signs; the vendor's EK CA unless altered
	ekKey    crypto.Signer
	ekPublic []byte
	cert     *x509.Certificate
	san      pkix.Extension
	after    func([]byte) []byte
	trusted  []*x509.Certificate // what is in the folder of roots
	at       time.Time
}

func newBench(t testing.TB, key crypto.Signer) *bench {
	t.Helper()
	v := newVendor(t, "Example Chips")
	b := &bench{t: t, vendor: v, parent: v.issuing, ekKey: key, at: today, trusted: []*x509.Certificate{v.root.cert, v.issuing.cert},
		san: pkix.Extension{Id: oidSAN, Critical: true, Value: goodNames(t)}}
	b.cert = &x509.Certificate{
		SerialNumber: big.NewInt(0xbeef), NotBefore: today.AddDate(-1, 0, 0), NotAfter: never,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEK}, BasicConstraintsValid: true,
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		b.cert.KeyUsage, b.ekPublic = x509.KeyUsageKeyEncipherment, marshal(rsaPublic(k))
	case *ecdsa.PrivateKey:
		b.cert.KeyUsage, b.ekPublic = x509.KeyUsageKeyAgreement, marshal(eccPublic(t, k))
	}
	return b
}

func (b *bench) der() []byte {
	b.t.Helper()
	if b.san.Id != nil {
		b.cert.ExtraExtensions = append(b.cert.ExtraExtensions, b.san)
	}
	der := sign(b.t, b.cert, b.parent, b.ekKey.Public())
	if b.after != nil {
		der = b.after(der)
	}
	return der
}

func (b *bench) roots() *ek.Roots {
	b.t.Helper()
	return loadRoots(b.t, b.trusted...)
}

func loadRoots(t testing.TB, certs ...*x509.Certificate) *ek.Roots {
	t.Helper()
	dir := t.TempDir()
	for i, c := range certs {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.pem", i)), pemOf(c))
	}
	roots, err := ek.LoadRoots(dir)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func pemOf(certs ...*x509.Certificate) []byte {
	var all []byte
	for _, c := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return all
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each kind of key, as vendors make certificates.
func TestCheckPasses(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"RSA-2048": newRSA(t, 2048), "P-256": newECC(t, elliptic.P256()), "P-384": newECC(t, elliptic.P384())} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key)
			der := b.der()
			r, err := ek.Check(der, b.roots(), b.ekPublic, b.at)
			if err != nil {
				t.Fatal(err)
			}
			want := [][]byte{b.vendor.issuing.cert.Raw, b.vendor.root.cert.Raw}
			if !slices.EqualFunc(r.Chain, want, bytes.Equal) || r.Anchor != ca.Digest(b.vendor.root.cert.Raw) || !bytes.Equal(r.DER, der) {
				t.Errorf("the chain has %d certificates and ends in %s", len(r.Chain), r.Anchor)
			}
			if r.Manufacturer != "IFX" || r.Model != "SLB9670" || r.Version != "id:00070055" || r.Serial != "beef" || !r.NotAfter.Equal(never) {
				t.Errorf("%+v", r)
			}
			if err := ek.Verify(r.DER, r.Chain, []string{r.Anchor}, b.ekPublic, b.at); err != nil {
				t.Error(err)
			}
		})
	}
}

// The cases that a live check and a replay have in common: one thing is altered
// at a time.
func TestCheck(t *testing.T) {
	key := newRSA(t, 2048)
	otherKey := newRSA(t, 2048)
	eccKey := newECC(t, elliptic.P256())
	for _, tt := range []struct {
		name  string
		alter func(*bench)
		code  string // of the refusal
		want  []string
	}{
		{"as made", func(b *bench) {}, "", nil},
		{"until 2050", func(b *bench) { b.cert.NotAfter = today.AddDate(24, 0, 0) }, "", nil},
		{"its last second", func(b *bench) { b.cert.NotAfter = b.at }, "", nil},
		{"a subject, and names that are not critical", func(b *bench) {
			b.cert.Subject = pkix.Name{CommonName: "unknown"}
			b.san.Critical = false
		}, "", nil},
		{"another use too", func(b *bench) {
			b.cert.UnknownExtKeyUsage = append(b.cert.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 2, 3})
		}, "", nil},
		{"all names in one RDN", func(b *bench) {
			b.san.Value = directoryNames(b.t, pkix.RDNSequence{{attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidVersion, "id:00070055")}})
		}, "", nil},
		{"names spread over two directory names", func(b *bench) {
			b.san.Value = directoryNames(b.t, pkix.RDNSequence{{attribute(oidManufacturer, "id:49465800")}, {attribute(oidModel, "SLB9670")}}, pkix.RDNSequence{{attribute(oidVersion, "1")}})
		}, "", nil},
		{"signed by the root itself", func(b *bench) { b.parent = b.vendor.root }, "", nil},

		{"no certificate", func(b *bench) { b.after = func([]byte) []byte { return []byte{0x30, 3, 2, 1, 1} } }, "ek-certificate-invalid",
			[]string{"the bytes are not one certificate (RFC 5280 4.1)"}},
		{"version 1", func(b *bench) {
			b.after = func(der []byte) []byte { return versionOne(b.t, der, b.parent) }
		}, "ek-certificate-invalid", []string{"its version is 1, not 3 (RFC 5280 4.1.2.1)", "its key usage lacks keyEncipherment", "its extended key usage lacks", "its subject alternative name does not say"}},
		{"another key", func(b *bench) { b.ekKey = otherKey }, "ek-certificate-other-key",
			[]string{"its key is not the endorsement key of the TPM (RFC 5280 4.1.2.7)"}},
		{"a key of another kind", func(b *bench) { b.ekKey = eccKey }, "ek-certificate-other-key",
			[]string{"its key is not the endorsement key of the TPM (RFC 5280 4.1.2.7)"}},
		{"no key usage", func(b *bench) { b.cert.KeyUsage = 0 }, "ek-certificate-invalid",
			[]string{"its key usage lacks keyEncipherment (RFC 5280 4.2.1.3)"}},
		{"the key usage of an ECC key", func(b *bench) { b.cert.KeyUsage = x509.KeyUsageKeyAgreement }, "ek-certificate-invalid",
			[]string{"its key usage lacks keyEncipherment (RFC 5280 4.2.1.3)"}},
		{"a CA", func(b *bench) { b.cert.IsCA = true }, "ek-certificate-invalid",
			[]string{"it is a CA certificate (RFC 5280 4.2.1.9)"}},
		{"may sign certificates", func(b *bench) { b.cert.KeyUsage |= x509.KeyUsageCertSign }, "ek-certificate-invalid",
			[]string{"it is a CA certificate (RFC 5280 4.2.1.9)"}},
		{"no extended key usage", func(b *bench) { b.cert.UnknownExtKeyUsage = nil }, "ek-certificate-invalid",
			[]string{"its extended key usage lacks 2.23.133.8.1, tcg-kp-EKCertificate (EK Credential Profile 3.2)"}},
		{"another extended key usage", func(b *bench) {
			b.cert.UnknownExtKeyUsage, b.cert.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, "ek-certificate-invalid", []string{"its extended key usage lacks 2.23.133.8.1, tcg-kp-EKCertificate (EK Credential Profile 3.2)"}},
		{"an attestation key's certificate", func(b *bench) { b.cert.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }, "ek-certificate-invalid",
			[]string{"its extended key usage lacks 2.23.133.8.1, tcg-kp-EKCertificate (EK Credential Profile 3.2)"}},
		{"a critical extension of its own", func(b *bench) {
			b.cert.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "ek-certificate-invalid", []string{"it has the critical extension 1.2.3, which nobody here understands (RFC 5280 4.2)"}},
		{"no names", func(b *bench) { b.san.Id = nil }, "ek-certificate-invalid",
			[]string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): there is none"}},
		{"a DNS name only", func(b *bench) {
			b.san.Id = nil
			b.cert.DNSNames = []string{"tpm.example"}
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): the manufacturer is missing"}},
		{"no manufacturer", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidModel, "SLB9670"), attribute(oidVersion, "1"))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): the manufacturer is missing"}},
		{"no model", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidManufacturer, "id:49465800"), attribute(oidVersion, "1"))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): the model is missing"}},
		{"an empty version", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidVersion, ""))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): 2.23.133.2.3 is not a short text"}},
		{"a version that is a number", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidVersion, 7))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): 2.23.133.2.3 is not a short text"}},
		{"a model that garbles the screen", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "\x1b[2J"), attribute(oidVersion, "1"))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): 2.23.133.2.2 is not a short text"}},
		{"names among others", func(b *bench) {
			b.san.Value = names(b.t, attribute(asn1.ObjectIdentifier{2, 5, 4, 10}, "Example Chips"), attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidVersion, "1"))
		}, "", nil},
		{"names that are no sequence", func(b *bench) { b.san.Value, b.san.Critical = []byte{4, 1, 1}, false }, "ek-certificate-invalid",
			[]string{"the bytes are not one certificate (RFC 5280 4.1)"}},
		{"a directory name that is none", func(b *bench) { b.san.Value = []byte{0x30, 4, 0xa4, 2, 4, 0} }, "ek-certificate-invalid",
			[]string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): asn1"}},
		{"two directory names in one", func(b *bench) { b.san.Value = []byte{0x30, 6, 0xa4, 4, 0x30, 0, 0x30, 0} }, "ek-certificate-invalid",
			[]string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): something follows a directory name"}},
		{"two models", func(b *bench) {
			b.san.Value = names(b.t, attribute(oidManufacturer, "id:49465800"), attribute(oidModel, "SLB9670"), attribute(oidModel, "SLB9672"), attribute(oidVersion, "1"))
		}, "ek-certificate-invalid", []string{"its subject alternative name does not say which TPM it is for (EK Credential Profile 3.2): 2.23.133.2.2 is there twice"}},
		{"expired", func(b *bench) { b.cert.NotAfter = b.at.Add(-time.Second) }, "ek-certificate-expired",
			[]string{"it is valid from 2025-03-01T08:00:00Z to 2026-03-01T07:59:59Z, not on 2026-03-01T08:00:00Z (RFC 5280 4.1.2.5)"}},
		{"not yet valid", func(b *bench) { b.cert.NotBefore = b.at.Add(time.Second) }, "ek-certificate-expired",
			[]string{"it is valid from 2026-03-01T08:00:01Z to 9999-12-31T23:59:59Z, not on 2026-03-01T08:00:00Z (RFC 5280 4.1.2.5)"}},
		{"altered after signing", func(b *bench) {
			b.after = func(der []byte) []byte { return bytes.Replace(der, []byte("SLB9670"), []byte("SLB9672"), 1) }
		}, "ek-certificate-untrusted", []string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"a vendor of the same name", func(b *bench) { b.parent = newVendor(b.t, "Example Chips").issuing }, "ek-certificate-untrusted",
			[]string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"signed with SHA-1", func(b *bench) {
			b.after = func(der []byte) []byte { return withSHA1(b.t, der, b.parent) }
		}, "ek-certificate-untrusted", []string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"an endorsement key of no template", func(b *bench) {
			p := rsaPublic(key)
			p.ObjectAttributes.FixedTPM = false
			b.ekPublic = marshal(p)
		}, "ek-unusable", []string{"the TPM's endorsement key is not of the TCG's kinds: its attributes are 0x000300b0"}},
		{"no endorsement key", func(b *bench) { b.ekPublic = nil }, "ek-unusable",
			[]string{"the TPM's endorsement key is not of the TCG's kinds: the bytes are not one TPM2B_PUBLIC"}},
		{"a vendor that is not trusted", func(b *bench) { b.trusted = []*x509.Certificate{newVendor(b.t, "Other Chips").root.cert} }, "ek-certificate-untrusted",
			[]string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"the vendor's CA missing", func(b *bench) { b.trusted = b.trusted[:1] }, "ek-certificate-untrusted",
			[]string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"the vendor's CA expired", func(b *bench) {
			b.below(newECC(b.t, elliptic.P256()), func(c *x509.Certificate) { c.NotAfter = b.at.Add(-time.Second) })
		}, "ek-certificate-untrusted", []string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"too many CAs", func(b *bench) {
			b.vendor.root = newCA(b.t, "short root", nil, newECC(b.t, elliptic.P256()), func(c *x509.Certificate) { c.MaxPathLenZero = true })
			b.below(newECC(b.t, elliptic.P256()), nil)
		}, "ek-certificate-untrusted", []string{"it leads to no root that is trusted here (RFC 5280 6.1)"}},
		{"expired, and its CA is younger", func(b *bench) {
			b.cert.NotAfter = b.at.Add(-time.Second)
			b.parent = newCA(b.t, "Example Chips EK CA", &b.vendor.root, newECC(b.t, elliptic.P256()), func(c *x509.Certificate) { c.NotBefore = b.at })
			b.vendor.issuing, b.trusted[1] = b.parent, b.parent.cert
		}, "ek-certificate-expired", []string{"it is valid from"}},
		{"expired together with its CA", func(b *bench) {
			b.cert.NotAfter = b.at.Add(-time.Hour)
			b.parent = newCA(b.t, "Example Chips EK CA", &b.vendor.root, newECC(b.t, elliptic.P256()), func(c *x509.Certificate) { c.NotAfter = b.at.Add(-time.Minute) })
			b.vendor.issuing, b.trusted[1] = b.parent, b.parent.cert
		}, "ek-certificate-expired", []string{"it is valid from"}},
		{"expired and of another vendor", func(b *bench) {
			b.cert.NotAfter = b.at.Add(-time.Second)
			b.trusted = []*x509.Certificate{newVendor(b.t, "Other Chips").root.cert}
		}, "ek-certificate-untrusted", []string{"it is valid from", "it leads to no root"}},
		{"several at once", func(b *bench) { b.ekKey, b.cert.NotAfter, b.trusted = otherKey, b.at.Add(-time.Second), b.trusted[:1] }, "ek-certificate-other-key",
			[]string{"its key is not the endorsement key", "it is valid from", "it leads to no root"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, key)
			tt.alter(b)
			der, roots := b.der(), b.roots()
			r, err := ek.Check(der, roots, b.ekPublic, b.at)
			expect(t, sentences(err), tt.want)

			_, finding, err := ek.Admit(ek.Require, der, roots, b.ekPublic, b.at)
			if tt.code == "" {
				if err != nil || finding != "" {
					t.Errorf("Admit: %v, %q", err, finding)
				}
				if err := ek.Verify(r.DER, r.Chain, roots.Fingerprints(), b.ekPublic, b.at); err != nil {
					t.Errorf("Verify: %v", err)
				}
				return
			}
			expectCode(t, "Admit", err, tt.code)
			kept, finding, err := ek.Admit(ek.Record, der, roots, b.ekPublic, b.at)
			if err != nil || finding == "" {
				t.Errorf("Admit, record: %v, %q", err, finding)
			}
			for _, sentence := range tt.want {
				if !strings.Contains(finding, sentence) {
					t.Errorf("the finding %q lacks %q", finding, sentence)
				}
			}
			if kept.DER != nil && !bytes.Equal(kept.DER, der) {
				t.Error("Admit, record: another certificate was kept")
			}
			// Whatever was recorded, replay does not take it either.
			if err := ek.Verify(der, [][]byte{b.vendor.issuing.cert.Raw, b.vendor.root.cert.Raw}, roots.Fingerprints(), b.ekPublic, b.at); err == nil && len(b.trusted) > 1 {
				t.Error("Verify took it")
			}
			_, finding, err = ek.Admit(ek.None, der, nil, nil, b.at)
			if err != nil || finding != "" {
				t.Errorf("Admit, none: %v, %q", err, finding)
			}
		})
	}
}

// A key's use is that of its kind.
func TestCheckKeyUsageOfECC(t *testing.T) {
	b := newBench(t, newECC(t, elliptic.P256()))
	b.cert.KeyUsage = x509.KeyUsageKeyEncipherment
	_, err := ek.Check(b.der(), b.roots(), b.ekPublic, b.at)
	expect(t, sentences(err), []string{"its key usage lacks keyAgreement (RFC 5280 4.2.1.3)"})
}

// below puts another EK CA below the root.
func (b *bench) below(key crypto.Signer, alter func(*x509.Certificate)) {
	b.t.Helper()
	first := newCA(b.t, "Example Chips CA", &b.vendor.root, newECC(b.t, elliptic.P256()), nil)
	b.parent = newCA(b.t, "Example Chips EK CA 2", &first, key, alter)
	b.vendor.issuing = b.parent
	b.trusted = []*x509.Certificate{b.vendor.root.cert, first.cert, b.parent.cert}
}

// An RSA key of 1024 bits signs what crypto/x509 still takes.
func TestWeakChain(t *testing.T) {
	b := newBench(t, newRSA(t, 2048))
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	b.parent = newCA(t, "weak EK CA", &b.vendor.root, weak, nil)
	der := b.der()
	want := []string{`its chain is weak at "CN=weak EK CA": an RSA key of 1024 bits (NIST SP 800-131A 3)`}
	chain := [][]byte{b.parent.cert.Raw, b.vendor.root.cert.Raw}
	expect(t, sentences(ek.Verify(der, chain, []string{ca.Digest(b.vendor.root.cert.Raw)}, b.ekPublic, b.at)), want)
}

// What was recorded is held against itself and the order: one part altered at a
// time.
func TestVerify(t *testing.T) {
	b := newBench(t, newRSA(t, 2048))
	der := b.der()
	other := newVendor(t, "Other Chips")
	cross := newCA(t, "Example Chips root", &other.root, b.vendor.root.key, nil)
	issuing, root := b.vendor.issuing.cert.Raw, b.vendor.root.cert.Raw
	anchor := ca.Digest(root)
	for _, tt := range []struct {
		name    string
		der     []byte
		chain   [][]byte
		anchors []string
		want    []string
	}{
		{"as recorded", der, [][]byte{issuing, root}, []string{anchor}, nil},
		{"one of several roots", der, [][]byte{issuing, root}, []string{strings.Repeat("0", 64), anchor}, nil},
		{"a cross-signed root", der, [][]byte{issuing, cross.cert.Raw, other.root.cert.Raw}, []string{ca.Digest(other.root.cert.Raw)}, nil},
		{"no chain", der, nil, []string{anchor}, []string{"its chain has 0 certificates (RFC 5280 6.1)"}},
		{"an endless chain", der, slices.Repeat([][]byte{issuing}, 9), []string{anchor}, []string{"its chain has 9 certificates (RFC 5280 6.1)"}},
		{"no root", der, [][]byte{issuing}, []string{anchor}, []string{"its chain ends in " + ca.Digest(issuing) + ", which is no root that the order trusts (RFC 5280 6.1)"}},
		{"no CA between", der, [][]byte{root}, []string{anchor}, []string{"its chain does not lead to the root (RFC 5280 6.1)"}},
		{"the other way round", der, [][]byte{root, issuing}, []string{anchor},
			[]string{"its chain ends in " + ca.Digest(issuing), "its chain holds certificates that do not belong to it (RFC 5280 6.1)"}},
		{"a certificate too many", der, [][]byte{issuing, other.issuing.cert.Raw, root}, []string{anchor}, []string{"its chain holds certificates that do not belong to it (RFC 5280 6.1)"}},
		{"one twice", der, [][]byte{issuing, issuing, root}, []string{anchor}, []string{"its chain holds certificates that do not belong to it (RFC 5280 6.1)"}},
		{"another root", der, [][]byte{issuing, other.root.cert.Raw}, []string{anchor},
			[]string{"its chain ends in " + ca.Digest(other.root.cert.Raw), "its chain does not lead to the root (RFC 5280 6.1)"}},
		{"another CA", der, [][]byte{other.issuing.cert.Raw, root}, []string{anchor}, []string{"its chain does not lead to the root (RFC 5280 6.1)"}},
		{"damaged", der, [][]byte{issuing[:100], root}, []string{anchor}, []string{"its chain holds bytes that are not one certificate (RFC 5280 4.1)"}},
		{"a root that the order does not trust", der, [][]byte{issuing, root}, nil, []string{"its chain ends in " + anchor}},
		{"no certificate", nil, [][]byte{issuing, root}, []string{anchor}, []string{"the bytes are not one certificate (RFC 5280 4.1)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, sentences(ek.Verify(tt.der, tt.chain, tt.anchors, b.ekPublic, b.at)), tt.want)
		})
	}
}

func TestAdmitWithoutCertificate(t *testing.T) {
	public := marshal(rsaPublic(newRSA(t, 2048)))
	roots := loadRoots(t, newVendor(t, "Example Chips").root.cert)
	for name, tt := range map[string]struct {
		nv   []byte
		code string
		says string
	}{
		"no index":        {nil, "ek-certificate-missing", "the TPM holds no EK certificate (EK Credential Profile 2.2)"},
		"never written":   {bytes.Repeat([]byte{0xff}, 1024), "ek-certificate-missing", "the TPM holds no EK certificate (EK Credential Profile 2.2)"},
		"zeros":           {make([]byte, 1024), "ek-certificate-missing", "the TPM holds no EK certificate (EK Credential Profile 2.2)"},
		"something else":  {[]byte("hello, this is no certificate"), "ek-certificate-invalid", "the NV index holds no certificate (EK Credential Profile 2.2)"},
		"a cut one":       {[]byte{0x30, 0x82, 4, 0, 1, 2, 3}, "ek-certificate-invalid", "the NV index holds no certificate (EK Credential Profile 2.2)"},
		"another message": {[]byte{0x30, 3, 2, 1, 1}, "ek-certificate-invalid", "the bytes are not one certificate (RFC 5280 4.1)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ek.Admit(ek.Require, tt.nv, roots, public, today)
			expectCode(t, name, err, tt.code)
			r, finding, err := ek.Admit(ek.Record, tt.nv, roots, public, today)
			if err != nil || !strings.HasPrefix(finding, tt.says) || r.DER != nil {
				t.Errorf("%v, %q, %x", err, finding, r.DER)
			}
			if r, finding, err := ek.Admit(ek.None, tt.nv, nil, public, today); err != nil || finding != "" || r.DER != nil {
				t.Errorf("%v, %q, %x", err, finding, r.DER)
			}
		})
	}
	if _, _, err := ek.Admit("sometimes", nil, roots, public, today); err == nil {
		t.Error("a policy that does not exist was taken")
	}
	if _, _, err := ek.Admit("", nil, roots, public, today); err == nil {
		t.Error("no policy was taken for one")
	}
}

// As it stands in the TPM, with what vendors put before and behind it.
func TestTrim(t *testing.T) {
	b := newBench(t, newRSA(t, 2048))
	der := b.der()
	header := func(n int) []byte { return []byte{0x10, 0x01, 0x00, byte(n >> 8), byte(n)} }
	for name, nv := range map[string][]byte{
		"as it is":               der,
		"zeros behind it":        slices.Concat(der, make([]byte, 500)),
		"ones behind it":         slices.Concat(der, bytes.Repeat([]byte{0xff}, 500)),
		"a header":               slices.Concat(header(len(der)), der),
		"a header and ones":      slices.Concat(header(len(der)), der, bytes.Repeat([]byte{0xff}, 500)),
		"a header with the rest": slices.Concat(header(len(der)+100), der, make([]byte, 100)),
	} {
		got, err := ek.Trim(nv)
		if err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %v, %d bytes", name, err, len(got))
		}
		if r, _, err := ek.Admit(ek.Require, nv, b.roots(), b.ekPublic, b.at); err != nil || !bytes.Equal(r.DER, der) {
			t.Errorf("%s: %v", name, err)
		}
		if r, _, _ := ek.Admit(ek.None, nv, nil, nil, b.at); !bytes.Equal(r.DER, der) {
			t.Errorf("%s: the certificate was not kept", name)
		}
	}
	for name, nv := range map[string][]byte{
		"nothing":               nil,
		"a header only":         header(0),
		"half a header":         header(0)[:4],
		"a header with too few": slices.Concat(header(len(der)+1), der),
		"a header that cuts":    slices.Concat(header(len(der)-1), der),
		"cut":                   der[:len(der)-1],
		"a number":              {2, 1, 1},
		"a set":                 {0x31, 0},
		"without end":           {0x30, 0x80, 0, 0},
	} {
		if got, err := ek.Trim(nv); err == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}

func TestManufacturer(t *testing.T) {
	for id, want := range map[string]string{
		"id:494E5443":  "INTC",
		"id:49465800":  "IFX",
		"id:53544d20":  "STM",
		"id:414D4400":  "AMD",
		"id:00001014":  "id:00001014", // as swtpm says it: no letters
		"id:":          "id:",
		"id:xyz":       "id:xyz",
		"id:1b5b324a":  "id:1b5b324a", // letters that would garble a screen
		"Nuvoton":      "Nuvoton",
		"id:4e544300":  "NTC",
		"id:474f4f47 ": "id:474f4f47 ",
	} {
		b := newBench(t, newECC(t, elliptic.P256()))
		b.san.Value = names(t, attribute(oidManufacturer, id), attribute(oidModel, "x"), attribute(oidVersion, "1"))
		r, err := ek.Check(b.der(), b.roots(), b.ekPublic, b.at)
		if err != nil || r.Manufacturer != want {
			t.Errorf("%q: %q, %v; want %q", id, r.Manufacturer, err, want)
		}
	}
}

func TestRefusalNamesTheVendor(t *testing.T) {
	b := newBench(t, newRSA(t, 2048))
	b.trusted = []*x509.Certificate{newVendor(t, "Other Chips").root.cert}
	_, _, err := ek.Admit(ek.Require, b.der(), b.roots(), b.ekPublic, b.at)
	if err == nil || !strings.Contains(err.Error(), "(IFX SLB9670)") {
		t.Errorf("%v", err)
	}
}

func FuzzTrim(f *testing.F) {
	b := newBench(f, newECC(f, elliptic.P256()))
	der := b.der()
	f.Add(der)
	f.Add(slices.Concat([]byte{0x10, 0x01, 0x00, byte(len(der) >> 8), byte(len(der))}, der, []byte{0xff, 0xff}))
	f.Fuzz(func(t *testing.T, nv []byte) {
		der, err := ek.Trim(nv)
		if err != nil {
			return
		}
		if again, err := ek.Trim(der); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x trimmed is %x, trimmed again %x: %v", nv, der, again, err)
		}
		if !bytes.Contains(nv, der) {
			t.Errorf("%x is no part of %x", der, nv)
		}
	})
}

// Whatever stands in a TPM, it is taken or refused; and nothing passes that the
// vendor did not sign.
func FuzzCheck(f *testing.F) {
	all := goldens(f)
	var roots []*ek.Roots
	for _, g := range all {
		roots = append(roots, g.roots(f))
		f.Add(g.NV)
	}
	f.Fuzz(func(t *testing.T, nv []byte) {
		for i, g := range all {
			der, err := ek.Trim(g.NV)
			if err != nil {
				t.Fatal(err)
			}
			r, _, err := ek.Admit(ek.Require, nv, roots[i], g.EK, g.At)
			if err == nil && !bytes.Equal(parse(t, r.DER).RawTBSCertificate, parse(t, der).RawTBSCertificate) {
				t.Errorf("another certificate passed: %x", r.DER)
			}
			for _, policy := range []ek.Policy{ek.Record, ek.None} {
				if _, _, err := ek.Admit(policy, nv, roots[i], g.EK, g.At); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// tbs is a TBSCertificate (RFC 5280 4.1).
type tbs struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions asn1.RawValue `asn1:"optional,explicit,tag:3"`
}

func tbsOf(t testing.TB, der []byte) tbs {
	t.Helper()
	var b tbs
	if _, err := asn1.Unmarshal(parse(t, der).RawTBSCertificate, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// versionOne is what crypto/x509 would not make: a certificate without extensions.
func versionOne(t testing.TB, der []byte, by pair) []byte {
	b := tbsOf(t, der)
	b.Version, b.Extensions = 0, asn1.RawValue{}
	return seal(t, b, crypto.SHA256, by)
}

// withSHA1 signs a certificate as vendors did long ago.
func withSHA1(t testing.TB, der []byte, by pair) []byte {
	b := tbsOf(t, der)
	b.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1} // ecdsa-with-SHA1 (RFC 3279 2.2.3)
	return seal(t, b, crypto.SHA1, by)
}

func seal(t testing.TB, b tbs, h crypto.Hash, by pair) []byte {
	t.Helper()
	raw, err := asn1.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	d := h.New()
	d.Write(raw)
	signature, err := by.key.Sign(rand.Reader, d.Sum(nil), h)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: raw}, b.Algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
