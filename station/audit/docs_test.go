package audit_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The script of docs/ledger.md checks the evidence of a true history with sqlite3
// and openssl alone, and does not pass what was altered.
func TestStrangerChecksEvidence(t *testing.T) {
	needTool(t, "bash", "sqlite3", "openssl", "sha256sum", "base32")
	h := newHistory(t)
	page, err := os.ReadFile("../../docs/ledger.md")
	must(t, err)
	m := regexp.MustCompile("(?s)```bash evidence.sh\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("docs/ledger.md has no script evidence.sh")
	}
	script := filepath.Join(t.TempDir(), "evidence.sh")
	must(t, os.WriteFile(script, m[1], 0o700))
	run := func(path string, seq int64) (string, error) {
		out, err := exec.Command("bash", script, path, fmt.Sprint(seq)).CombinedOutput()
		return string(out), err
	}

	const (
		ofTPM = `^endorsement key [a-z2-7]{52}
✔ it was made in a TPM, cannot leave it, and only opens challenges
✔ the attestation key was made in a TPM, cannot leave it, and signs only what the TPM says
✔ the TPM found in the challenge what was in it
✔ the certificate is for the endorsement key
✔ its chain leads to its root
root [0-9a-f]{64}
$`
		ofKey = `^✔ the request is signed by its key
✔ the digest is that of the key in the request
`
		inTPM = `✔ the key was made in a TPM and cannot leave it
✔ the key in the TPM is the one in the request
✔ a TPM made the attestation, and it certifies a key
✔ it was made for this request
✔ it is about this key
✔ the attestation key signed it
`
		holds = `^✔ the key is the one that was found
✔ the device holds the key
$`
	)
	for _, tt := range []struct {
		name string
		seq  int64
		want string
		cut  []string // what the event says under each name is altered
	}{
		{"the TPM of a gateway", h.gateway.tpm, ofTPM, []string{"ek", "ak", "nonce", "answer", "certificate"}},
		{"a key in the TPM", h.safe.key, ofKey + inTPM + "$", []string{"csr", "public", "attest", "signature", "spki"}},
		{"a key in a file", h.plain.key, ofKey + "$", []string{"csr", "spki"}},
		{"possession of a key in the TPM", h.safe.verified, holds, []string{"challenge", "public", "signature"}},
		{"possession of a key in a file", h.plain.verified, holds, []string{"challenge", "public", "signature"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := run(h.path, tt.seq)
			if err != nil || !regexp.MustCompile(tt.want).MatchString(out) {
				t.Fatalf("%v:\n%s", err, out)
			}
			for _, field := range tt.cut {
				altered := filepath.Join(t.TempDir(), "ledger.db")
				sql := func(statement string) {
					t.Helper()
					if out, err := exec.Command("sqlite3", altered, statement).CombinedOutput(); err != nil {
						t.Fatalf("%s: %v: %s", statement, err, out)
					}
				}
				if out, err := exec.Command("sqlite3", h.path, ".backup "+altered).CombinedOutput(); err != nil {
					t.Fatalf("copying the ledger: %v: %s", err, out)
				}
				// The 17th character after the field's name becomes another: past the sizes
				// that come first.
				sql(fmt.Sprintf(`DROP TRIGGER events_stay; WITH t AS (SELECT CAST(bytes AS TEXT) AS s, instr(CAST(bytes AS TEXT), '"%s":"') + length('"%[1]s":"') + 16 AS at FROM events WHERE seq = %d)
					UPDATE events SET bytes = CAST((SELECT substr(s, 1, at - 1) || CASE substr(s, at, 1) WHEN 'a' THEN 'b' ELSE 'a' END || substr(s, at + 1) FROM t) AS BLOB) WHERE seq = %[2]d`, field, tt.seq))
				if out, err := run(altered, tt.seq); err == nil || strings.Count(out, "✔") == strings.Count(tt.want, "✔") {
					t.Errorf("%s was altered, and the script says %v:\n%s", field, err, out)
				}
			}
		})
	}
}
