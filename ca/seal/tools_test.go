package seal_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"

	"nameplate/ca/seal"
)

// TestAgeOpensTheSeal takes a station's secrets out with the age program alone, as
// somebody must who has the files and the passphrase but no station any more.
func TestAgeOpensTheSeal(t *testing.T) {
	program, err := exec.LookPath("age")
	if err != nil {
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatal("age is not installed, and NAMEPLATE_TOOLS=1 demands it")
		}
		t.Skip("age is not installed")
	}
	box, identity, _ := station(t, ours)
	ref, secret := seal.NewRef(), []byte{0, 1, '\n', 254, 255}
	sealed, err := box.Seal(ref, secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"seal.age": identity, "secret.age": sealed} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// age reads a passphrase from its terminal only.
	cmd := exec.CommandContext(t.Context(), program, "--decrypt", "--identity", "seal.age", "--output", "secret", "secret.age")
	cmd.Dir = dir
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	const patience = time.Minute // for a busy machine; age needs a second
	if err := terminal.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var screen bytes.Buffer
	buf := make([]byte, 256)
	for asked := false; ; {
		n, err := terminal.Read(buf)
		screen.Write(buf[:n])
		if err != nil {
			break // the program ended
		}
		if !asked && bytes.Contains(screen.Bytes(), []byte("passphrase")) {
			asked = true
			if _, err := terminal.WriteString("correct\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("age: %v\n%s", err, screen.String())
	}
	got, err := os.ReadFile(filepath.Join(dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte(ref+"\n"), secret...); !bytes.Equal(got, want) {
		t.Errorf("age found %q, want %q", got, want)
	}
}
