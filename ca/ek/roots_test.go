package ek_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
)

func TestLoadRoots(t *testing.T) {
	v, w := newVendor(t, "Example Chips"), newVendor(t, "Other Chips")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "example.pem"), slices.Concat([]byte("Certificates of Example Chips:\n"), pemOf(v.issuing.cert, v.root.cert), []byte("\nthe end\n")))
	write(t, filepath.Join(dir, "other.crt"), pemOf(w.root.cert))
	write(t, filepath.Join(dir, "again.pem"), pemOf(w.root.cert))
	write(t, filepath.Join(dir, ".hidden"), []byte("not ours"))
	if err := os.Symlink("example.pem", filepath.Join(dir, "link.pem")); err != nil {
		t.Fatal(err)
	}
	roots, err := ek.LoadRoots(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := ca.Digest(v.root.cert.Raw), ca.Digest(w.root.cert.Raw)
	want := []string{a, b}
	slices.Sort(want)
	if got := roots.Fingerprints(); !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}

	key := newECC(t, elliptic.P256())
	bench := newBench(t, key)
	bench.vendor, bench.parent = v, v.issuing
	der := bench.der()
	if _, err := ek.Check(der, roots, bench.ekPublic, today); err != nil {
		t.Error(err)
	}
	only, err := roots.Only([]string{a})
	if err != nil || !slices.Equal(only.Fingerprints(), []string{a}) {
		t.Fatalf("%v, %v", only.Fingerprints(), err)
	}
	if _, err := ek.Check(der, only, bench.ekPublic, today); err != nil {
		t.Error(err)
	}
	// A root that came later does not count for the order.
	if only, err = roots.Only([]string{b}); err != nil {
		t.Fatal(err)
	}
	_, err = ek.Check(der, only, bench.ekPublic, today)
	expect(t, sentences(err), []string{"it leads to no root that is trusted here"})
	if only, err = roots.Only(nil); err != nil || len(only.Fingerprints()) != 0 {
		t.Errorf("%v, %v", only.Fingerprints(), err)
	}
	// One that went away stops it.
	_, err = loadRoots(t, v.root.cert).Only(want)
	expectCode(t, "a root went away", err, "ek-roots-changed")
	var nobody *ek.Roots
	_, err = nobody.Only(want)
	expectCode(t, "no roots at all", err, "ek-roots-changed")
	if nobody.Fingerprints() != nil {
		t.Error("nobody has fingerprints")
	}
	_, err = ek.Check(der, nobody, bench.ekPublic, today)
	expect(t, sentences(err), []string{"it leads to no root that is trusted here"})
}

// Every file that is not as it should be is named.
func TestLoadRootsRefuses(t *testing.T) {
	v := newVendor(t, "Example Chips")
	good := pemOf(v.root.cert)
	leaf := newBench(t, newECC(t, elliptic.P256()))
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(v.root.key)
	if err != nil {
		t.Fatal(err)
	}
	sha1 := parse(t, withSHA1(t, v.root.cert.Raw, v.root))
	ca := func(key crypto.Signer, alter func(*x509.Certificate)) []byte {
		return pemOf(newCA(t, "Example Chips CA", nil, key, alter).cert)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newECC(t, elliptic.P256())
	for name, tt := range map[string]struct {
		file []byte
		code string
	}{
		"DER":                    {v.root.cert.Raw, "ek-roots-unreadable"},
		"text":                   {[]byte("see the vendor's page\n"), "ek-roots-unreadable"},
		"empty":                  {nil, "ek-roots-unreadable"},
		"a private key":          {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "ek-roots-unreadable"},
		"a root and its key":     {slices.Concat(good, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), "ek-roots-unreadable"},
		"cut off":                {good[:len(good)-20], "ek-roots-unreadable"},
		"one good, one cut off":  {slices.Concat(good, good[:100]), "ek-roots-unreadable"},
		"one damaged, one good":  {slices.Concat(bytes.Replace(good, []byte("M"), []byte("!"), 1), good), "ek-roots-unreadable"},
		"no certificate in it":   {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hello")}), "ek-roots-unreadable"},
		"a TPM's certificate":    {pemOf(parse(t, leaf.der())), "ek-root-no-ca"},
		"a CA that may not sign": {ca(p256, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), "ek-root-no-ca"},
		"an expired root": {ca(p256, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, 0, 0)
		}), "ek-root-expired"},
		"a root of 1024 bits":     {ca(weak, nil), "ek-root-weak"},
		"a root on P-224":         {ca(newECC(t, elliptic.P224()), nil), "ek-root-weak"},
		"an Ed25519 root":         {ca(edwards, nil), "ek-root-weak"},
		"a root signed with SHA1": {pemOf(sha1), "ek-root-weak"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "a-good.pem"), good)
			write(t, filepath.Join(dir, "vendor.pem"), tt.file)
			_, err := ek.LoadRoots(dir)
			expectCode(t, name, err, tt.code)
			if !strings.Contains(err.Error(), filepath.Join(dir, "vendor.pem")) {
				t.Errorf("the file is not named: %v", err)
			}
			if strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a folder", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "more"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := ek.LoadRoots(dir)
		expectCode(t, "a folder", err, "ek-roots-unreadable")
	})
	t.Run("a link to nowhere", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("gone.pem", filepath.Join(dir, "link.pem")); err != nil {
			t.Fatal(err)
		}
		_, err := ek.LoadRoots(dir)
		expectCode(t, "a link", err, "ek-roots-unreadable")
	})
	t.Run("a CA alone", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "ca.pem"), pemOf(v.issuing.cert))
		_, err := ek.LoadRoots(dir)
		expectCode(t, "a CA alone", err, "ek-roots-missing")
	})
	_, err = ek.LoadRoots(t.TempDir())
	expectCode(t, "nothing", err, "ek-roots-missing")
	_, err = ek.LoadRoots(filepath.Join(t.TempDir(), "gone"))
	expectCode(t, "no folder", err, "ek-roots-unreadable")
}
