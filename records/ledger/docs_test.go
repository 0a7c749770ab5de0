package ledger_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// script copies a script out of docs/ledger.md.
func script(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```bash " + regexp.QuoteMeta(name) + "\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatalf("docs/ledger.md has no script %s", name)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, m[1], 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command("bash", append([]string{name}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", filepath.Base(name), err, out)
	}
	return strings.TrimSpace(string(out))
}

// P7: with docs/ledger.md, Debian's sqlite3, sha256sum and openssl, and nothing
// of ours, a stranger comes to the signed root.
func TestStrangerRecomputesTheRoot(t *testing.T) {
	for _, tool := range []string{"bash", "sqlite3", "sha256sum", "openssl"} {
		needTool(t, tool)
	}
	path := create(t)
	l := open(t, path)
	oneReleased(t, l)
	many(t, l, 3)
	private, public, err := note.GenerateKey(nil, l.Origin())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.Checkpoint(ctx, signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	checkpoint, key := filepath.Join(dir, "checkpoint"), filepath.Join(dir, "key")
	os.WriteFile(checkpoint, text, 0o600)
	os.WriteFile(key, []byte(public+"\n"), 0o600)

	said := strings.Split(run(t, script(t, "checkpoint.sh"), checkpoint, key), "\n")
	if len(said) != 3 || said[0] != "Signature Verified Successfully" || said[1] != fmt.Sprint(l.Size()) {
		t.Fatalf("checkpoint.sh says %q", said)
	}
	if root := run(t, script(t, "root.sh"), path, said[1]); root != said[2] {
		t.Errorf("root.sh says %s, the checkpoint %s", root, said[2])
	}

	os.WriteFile(checkpoint, []byte(strings.Replace(string(text), "\n13\n", "\n12\n", 1)), 0o600)
	if out, err := exec.Command("bash", script(t, "checkpoint.sh"), checkpoint, key).CombinedOutput(); err == nil {
		t.Errorf("a changed checkpoint passes: %s", out)
	}
}
