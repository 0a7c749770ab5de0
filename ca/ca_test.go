package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"nameplate/ca"
)

func TestCheckCommonName(t *testing.T) {
	for _, ok := range []string{"a", "7", "sn-0001", "a.b_c:d-e", strings.Repeat("a", 64)} {
		if err := ca.CheckCommonName(ok); err != nil {
			t.Errorf("CheckCommonName(%q): %v", ok, err)
		}
	}
	for _, tt := range []struct{ cn, code, sentence string }{
		{"", "registration-id-form", `The registration ID "" is empty.`},
		{"SN-1", "registration-id-form", `The registration ID "SN-1" has upper-case letters.`},
		{"-sn", "registration-id-form", `The registration ID "-sn" begins or ends with '-'.`},
		{"sn.", "registration-id-form", `The registration ID "sn." begins or ends with '.'.`},
		{"sn/1", "registration-id-form", `The registration ID "sn/1" has the character '/'.`},
		{"sn\x00", "registration-id-form", `The registration ID "sn\x00" has the character '\x00'.`},
		{"sn\xff", "registration-id-form", `The registration ID "sn\xff" has the character '�'.`},
		{strings.Repeat("a", 65), "common-name-long", `The registration ID "` + strings.Repeat("a", 65) + `" has 65 characters; a certificate's common name takes 64.`},
		{strings.Repeat("a", 1000), "registration-id-form", `The registration ID "` + strings.Repeat("a", 256) + `…" has 1000 characters, more than 128.`},
	} {
		refused(t, ca.CheckCommonName(tt.cn), tt.code, tt.sentence)
	}
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"customer-a", "Société A & B, Ltd.", strings.Repeat("é", 64)} {
		if err := ca.CheckName("organization", ok); err != nil {
			t.Errorf("CheckName(%q): %v", ok, err)
		}
	}
	for _, bad := range []string{"", " a", "a\n", "a\x00b", "\xff", "\u202ea", strings.Repeat("é", 65)} {
		refused(t, ca.CheckName("organization", bad), "name-form", fmt.Sprintf("The organization %q cannot stand in a certificate.", bad))
	}
}

func TestPassphraseIsNeverPrinted(t *testing.T) {
	const secret = "correct horse battery"
	p, err := ca.NewPassphrase([]byte(secret + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if string(p.Bytes()) != secret {
		t.Fatalf("the passphrase is not the line without its end")
	}
	type holder struct {
		hidden ca.Passphrase // fmt does not call Format here
		Shown  *ca.Passphrase
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", p, &p, holder{p, &p})
	}
	if err := json.NewEncoder(&out).Encode([]any{p, holder{p, &p}}); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("unlocking", "with", p, "in", holder{p, &p})
	fmt.Fprintln(&out, errors.Join(fmt.Errorf("unlocking with %v", p)))
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint([]byte(secret))[1:20]} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the passphrase shows in:\n%s", out.String())
		}
	}
	taken := p.Bytes()
	p.Wipe()
	if p.Bytes() != nil || !bytes.Equal(taken, make([]byte, len(taken))) {
		t.Error("something is left after Wipe")
	}
	p.Wipe()
}

func TestPassphraseEmpty(t *testing.T) {
	for _, empty := range []string{"", "\n", "\r\n"} {
		_, err := ca.NewPassphrase([]byte(empty))
		refused(t, err, "passphrase-empty", "The passphrase is empty.")
	}
}

func TestInjectedKey(t *testing.T) {
	der, keyPEM, err := ca.InjectedKey("sn-0001")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Error(err)
	}
	block, rest := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		t.Fatalf("the key is not one block of PKCS#8 PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() || !key.PublicKey.Equal(csr.PublicKey) {
		t.Errorf("the key is a %T and not the P-256 key of the request", parsed)
	}
	if csr.Subject.String() != "CN=sn-0001" {
		t.Errorf("the request is for %q", csr.Subject)
	}
	_, _, err = ca.InjectedKey("SN-0001")
	refused(t, err, "registration-id-form", `The registration ID "SN-0001" has upper-case letters.`)
}

func refused(t *testing.T, err error, code, sentence string) {
	t.Helper()
	var no *ca.Refusal
	if !errors.As(err, &no) {
		t.Errorf("%v, want the refusal: %s", err, sentence)
		return
	}
	if no.Code != code || no.Sentence != sentence || no.Next == "" {
		t.Errorf("refused with %s: %s\nwant %s: %s", no.Code, no.Sentence, code, sentence)
	}
}
