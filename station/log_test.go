package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// P5: a secret that gets into a log line, by whatever way, does not come out.
func TestLogHidesSecrets(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	bytes64 := func(n int) string {
		b := make([]byte, n)
		rand.Read(b)
		return base64.StdEncoding.EncodeToString(b)
	}
	key32, key64 := bytes64(32), bytes64(64)
	for _, c := range []struct{ name, text, secret string }{
		{"a private key", "cannot use " + strings.TrimSpace(private), body(private)},
		{"an EC private key", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----", "MHcCAQEE"},
		{"a key that was cut off", private[:60], private[30:50]},
		{"a key of 32 bytes", "key is " + key32 + " here", key32},
		{"a key of 64 bytes", "key is " + key64, key64},
		{"a key that begins with a sign", "key is +" + key32[1:], key32[1:]},
		{"a key that begins with a stroke", "/" + key32[1:], key32[1:]},
		{"a token", "SharedAccessSignature sr=x&sig=" + strings.ReplaceAll(key32, "+", "%2B") + "&se=1", strings.ReplaceAll(key32, "+", "%2B")},
		{"a connection string", "HostName=h;SharedAccessKey=short;x", "short"},
		{"an age identity", identity.String(), identity.String()},
	} {
		for _, asJSON := range []bool{true, false} {
			out := logged(t, asJSON, c.text)
			if strings.Contains(out, c.secret) {
				t.Errorf("%s (JSON %t) got through: %s", c.name, asJSON, out)
			}
			if !strings.Contains(out, "[redacted]") || !strings.Contains(out, "told") || strings.Count(out, "\n") != 3 {
				t.Errorf("%s (JSON %t): the line is not what it was: %q", c.name, asJSON, out)
			}
			for lines := bufio.NewScanner(strings.NewReader(out)); asJSON && lines.Scan(); {
				if !json.Valid(lines.Bytes()) {
					t.Errorf("%s: the line is no JSON any more: %s", c.name, lines.Text())
				}
			}
		}
	}
}

// body is the middle of a PEM block.
func body(text string) string { return strings.Split(text, "\n")[1] }

// What is looked up in logs stays readable.
func TestLogKeepsNames(t *testing.T) {
	for _, text := range []string{
		"registration_id sensor-c3-000001-7cdfa1000001", "U12 P7 WO-0001",
		"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", // a SHA-256
		"/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0",
		"reading rfc2217://127.0.0.1:4001: connection reset by peer",
	} {
		if out := logged(t, true, text); !strings.Contains(out, text) {
			t.Errorf("%q came out as %q", text, out)
		}
	}
}

// logged is what a log holds after the text came in as a message, as a field and
// as an error.
func logged(t *testing.T, asJSON bool, text string) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log := newLog(file, asJSON, false)
	log.Info().Msg("told " + text)
	log.Warn().Str("field", text).Msg("told")
	log.Error().Err(errors.New(text)).Bytes("raw", []byte(text)).Msg("told")
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(out, "\x00"))
}
