package tpm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
)

// needTool skips without the tool, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("skipped: %s is not installed", name)
	}
}

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// made are the chips that were made for this run, by what is special about them:
// making one takes a second, copying its state nothing. A copy is the same chip.
var made struct {
	sync.Mutex
	dir   string
	chips map[fixture.Config]string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

func original(t testing.TB, c fixture.Config) string {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	made.Lock()
	defer made.Unlock()
	if dir, ok := made.chips[c]; ok {
		return dir
	}
	if made.dir == "" {
		dir, err := os.MkdirTemp("", "chips-")
		if err != nil {
			t.Fatal(err)
		}
		made.dir, made.chips = dir, map[fixture.Config]string{}
	}
	ca, err := fixture.NewCA(filepath.Join(made.dir, "ca"), "Example Chips")
	if err != nil {
		t.Fatal(err)
	}
	full := c
	full.CA, full.Dir = ca, filepath.Join(made.dir, "chip"+string(rune('a'+len(made.chips))))
	if err := fixture.Make(limit(t), full); err != nil {
		t.Fatal(err)
	}
	made.chips[c] = full.Dir
	return full.Dir
}

// state is a fresh state folder of a chip.
func state(t testing.TB, c fixture.Config) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chip")
	if err := os.CopyFS(dir, os.DirFS(original(t, c))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func power(t testing.TB, dir string) *fixture.TPM {
	t.Helper()
	chip, err := fixture.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

// chip is a running one as its vendor made it.
func chip(t testing.TB) *fixture.TPM {
	t.Helper()
	return power(t, state(t, fixture.Config{}))
}

func tool(t testing.TB, chip *fixture.TPM, name string, args ...string) string {
	t.Helper()
	needTool(t, name)
	out, err := chip.Tool(limit(t), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func open(t testing.TB, through tpm.Transport) *tpm.Conversation {
	t.Helper()
	c, err := tpm.Open(limit(t), through)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refusal is the error as the refusal that it must be.
func refusal(t testing.TB, err error, code string) *flasher.Refusal {
	t.Helper()
	var r *flasher.Refusal
	if !errors.As(err, &r) || r.Code != code {
		t.Fatalf("got %v (%+v), not the refusal %s", err, r, code)
	}
	if r.Sentence == "" || r.Next == "" {
		t.Errorf("%s says %q and %q", code, r.Sentence, r.Next)
	}
	return r
}

func shell(t testing.TB, stdin []byte, script string) string {
	t.Helper()
	cmd := exec.CommandContext(limit(t), "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		in.Write(stdin)
		in.Close()
	}()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}
