package dps

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/outbox"
)

// TestSignature holds the token to one that an independent client made (key: 32
// bytes of 7; resource localhost).
func TestSignature(t *testing.T) {
	got := sign("Localhost", "provisioningserviceowner", bytes.Repeat([]byte{7}, 32), time.Unix(1795411338, 0))
	want := "SharedAccessSignature sr=localhost&sig=a0WEhBK%2BeYyU5JJKf0q582mzshhdIeNCP4IBMOfNEfI%3D&se=1795411338&skn=provisioningserviceowner"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTokenIsKeptUntilNearItsEnd(t *testing.T) {
	read := 0
	tok := &tokens{host: "h", policy: "p", key: func() (outbox.Secret, error) { read++; return outbox.Secret("AAAA"), nil }}
	start := time.Now()
	for _, c := range []struct {
		after time.Duration
		reads int
	}{{0, 1}, {49 * time.Minute, 1}, {51 * time.Minute, 2}, {52 * time.Minute, 2}, {-time.Hour, 3}} {
		if _, err := tok.get(start.Add(c.after)); err != nil || read != c.reads {
			t.Errorf("after %s: key read %d times, want %d (%v)", c.after, read, c.reads, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		header string
		status int
		want   time.Duration // 0: none
	}{
		{"5", 429, 5 * time.Second}, {"5", 503, 5 * time.Second}, {"5", 200, 0}, {"5", 500, 0}, {"", 429, 0},
		{"0", 429, time.Second}, {"86400", 429, time.Hour}, {strings.Repeat("9", 99), 429, time.Hour}, {"-1", 429, 0}, {"soon", 429, 0},
		{now.Add(2 * time.Minute).Format(http.TimeFormat), 429, 2 * time.Minute},
		{now.Add(-time.Minute).Format(http.TimeFormat), 429, time.Second},
	} {
		got := retryAfter(c.header, c.status, now)
		if want := now.Add(c.want); c.want == 0 && !got.IsZero() || c.want > 0 && !got.Equal(want) {
			t.Errorf("Retry-After %q with %d: %v", c.header, c.status, got)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"Precondition failed.":                "Precondition failed.",
		"a\x00b\n\tc\u2028d":                  "a b c d",
		"key CQkJCQkJCQkJCQkJCQkJCQ== is bad": "key … is bad",
		strings.Repeat("ab ", 100):            strings.Repeat("ab ", 66) + "ab…",
	} {
		if got := words(in); got != want {
			t.Errorf("words(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzAnswers feeds one body to every reader of answers.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"isSuccessful":true,"errors":[]}`,
		`{"isSuccessful":false,"errors":[{"registrationId":"dev-1","errorCode":409001,"errorStatus":"exists"}]}`,
		`{"registrationId":"dev-1","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"sha256Thumbprint":"00"}}}}},"provisioningStatus":"enabled","etag":"e"}`,
		`{"type":"symmetricKey","symmetricKey":{"primaryKey":"AAAA","secondaryKey":"AAAA"}}`,
		`{"registrationId":"dev-2","attestation":{"type":"tpm","tpm":{"endorsementKey":"AToA"}},"provisioningStatus":"enabled"}`,
		`{"errorCode":400004,"trackingId":"t","message":"m"}`,
		`[[[[[[]]]]]]`,
	} {
		f.Add([]byte(s), 400)
	}
	items := []outbox.Item{{RegistrationID: "dev-1", Attestation: records.SymmetricKey, Key: bytes.Repeat([]byte{9}, 32)}, {RegistrationID: "dev-2"}}
	c := &Client{tokens: &tokens{host: "service.example"}}
	secret := base64.StdEncoding.EncodeToString(items[0].Key)
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if errs, err := decodeBulk(body, items); err == nil {
			for id, e := range errs {
				if id != "dev-1" && id != "dev-2" {
					t.Errorf("error for %q", id)
				}
				refusedItem(items[0], e)
			}
		}
		var h held
		_ = decode(body, &h)
		var a attestation
		if decode(body, &a) == nil && a.SymmetricKey != nil {
			sameKey(a.SymmetricKey.PrimaryKey, items[0].Key)
		}
		e := c.trouble(answer{status: status, body: body})
		if e.Refusal.Sentence == "" || len(e.Refusal.Sentence) > 2000 || strings.Contains(e.Refusal.Sentence, secret) {
			t.Errorf("sentence %q", e.Refusal.Sentence)
		}
	})
}
