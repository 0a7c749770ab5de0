package authority_test

// What others make of our certificates and keys: openssl and zlint.

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"nameplate/ca/authority"
)

// tool finds an outside program. Without it the test is skipped, unless
// NAMEPLATE_TOOLS=1 says that all tools must be there.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("NAMEPLATE_TOOLS") == "1":
		t.Fatalf("%s is not installed, and NAMEPLATE_TOOLS=1 demands it", name)
	default:
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestOpenSSLVerifiesTheChain(t *testing.T) {
	openssl := tool(t, "openssl")
	got, err := open(t).Issue(t.Context(), request(t, "sn-0001"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	save(t, dir, "leaf.pem", authority.EncodeCertificate(parse(t, got.DER)))
	save(t, dir, "issuing.pem", authority.EncodeCertificate(parse(t, got.Chain[0])))
	save(t, dir, "root.pem", authority.EncodeCertificate(parse(t, got.Chain[1])))
	verify := func(args ...string) (string, error) {
		args = append([]string{"verify", "-x509_strict", "-check_ss_sig", "-attime", "1900000000", "-CAfile", "root.pem"}, args...)
		return run(dir, "", openssl, args...)
	}
	if out, err := verify("-purpose", "sslclient", "-untrusted", "issuing.pem", "leaf.pem"); err != nil {
		t.Errorf("openssl refuses the chain: %v\n%s", err, out)
	}
	// It does check: a leaf may not serve, nor sign, nor stand without its issuer.
	if out, err := verify("-purpose", "sslserver", "-untrusted", "issuing.pem", "leaf.pem"); err == nil {
		t.Errorf("openssl takes the device for a server:\n%s", out)
	}
	if out, err := verify("leaf.pem"); err == nil {
		t.Errorf("openssl needs no issuing CA:\n%s", out)
	}
}

func TestOpenSSLOpensOurKeyFiles(t *testing.T) {
	openssl := tool(t, "openssl")
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, key := range map[string]crypto.Signer{"ec": newKey(t, elliptic.P256()), "ed25519": ed} {
		file, err := authority.EncodeKey(key, passphrase(t, "correct"))
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		want := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		save(t, dir, name+".pem", file)
		for _, command := range [][]string{{"pkey"}, {"pkcs8", "-topk8", "-nocrypt"}} {
			args := append(command, "-in", name+".pem", "-passin", "stdin")
			plain, err := run(dir, "correct\n", openssl, args...)
			if err != nil {
				t.Fatalf("openssl %s: %v\n%s", command[0], err, plain)
			}
			save(t, dir, name+".plain.pem", []byte(plain))
			public, err := run(dir, "", openssl, "pkey", "-in", name+".plain.pem", "-pubout")
			if err != nil || public != want {
				t.Errorf("openssl %s finds another key: %v\n%s", command[0], err, public)
			}
			if out, err := run(dir, "guess\n", openssl, args...); err == nil {
				t.Errorf("openssl %s opens it with another passphrase:\n%s", command[0], out)
			}
		}
	}
}

func TestOpenSSLEncryptedKeyOpensHere(t *testing.T) {
	openssl := tool(t, "openssl")
	key := newKey(t, elliptic.P256())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	save(t, dir, "plain.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	save(t, dir, "passphrase", []byte("correct\n"))
	if out, err := run(dir, "", openssl, "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "600000",
		"-in", "plain.pem", "-passout", "file:passphrase", "-out", "key.pem"); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	file, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := authority.DecodeKey(file, passphrase(t, "correct"))
	if err != nil || !key.Equal(got) {
		t.Errorf("DecodeKey: %v, another key: %t", err, err == nil)
	}
}

// The sources of rules that hold for a private PKI. The others are the browsers'.
func TestLintersFindNothing(t *testing.T) {
	rules, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{
		lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC8813, lint.Community,
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := open(t)
	got, err := a.Issue(t.Context(), request(t, "sn-0001"))
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"leaf": got.DER, "issuing CA": got.Chain[0], "root": got.Chain[1]} {
		cert, err := zx509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		passed := 0
		for rule, result := range zlint.LintCertificateEx(cert, rules).Results {
			if result.Status > lint.Pass {
				t.Errorf("%s: %s says %s: %s", name, rule, result.Status, result.Details)
			}
			if result.Status == lint.Pass {
				passed++
			}
		}
		if passed < 40 {
			t.Errorf("%s: only %d rules applied", name, passed)
		}
	}
}

func save(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(dir, stdin, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
