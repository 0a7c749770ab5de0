package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/rig"
	"nameplate/station/api"

	"github.com/rogpeppe/go-internal/testscript"
)

// program is bin/station as it is shipped, built with further flags once.
func program(t *testing.T, flags ...string) string {
	t.Helper()
	key := strings.Join(flags, " ")
	programs.Lock()
	defer programs.Unlock()
	if path, ok := programs.built[key]; ok {
		return path
	}
	dir, err := os.MkdirTemp("", "nameplate-program")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "station")
	build := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, flags...), "-o", path, ".")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	programs.built[key] = path
	return path
}

var programs = struct {
	sync.Mutex
	built map[string]string
}{built: map[string]string{}}

// The program that is shipped has nothing in it that could make it die on
// command; the one for crash tests has.
func TestShippedProgramHasNoCrashPoint(t *testing.T) {
	for _, c := range []struct {
		flags []string
		want  bool
	}{{nil, false}, {[]string{"-tags", "crash"}, true}} {
		text, err := os.ReadFile(program(t, c.flags...))
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(text, []byte("NAMEPLATE_CRASH")); got != c.want {
			t.Errorf("go build %s: holds the crash point: %t, want %t", strings.Join(c.flags, " "), got, c.want)
		}
	}
}

// lineLimit bounds the small line; it takes some seconds.
const lineLimit = 2 * time.Minute

// TestLine takes four boards through two slots of a station that runs as a
// process of its own, one of them with a pulled cable; then the scripts of
// testdata/line work with what it left: each on a copy.
func TestLine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), lineLimit)
	defer cancel()
	out := t.TempDir()
	r, err := rig.New(ctx, rig.Config{Out: out, Station: program(t), Slots: 2, Seed: 1, PerMinute: 1000,
		Customers: []rig.Customer{{Name: "customer-a", IDScope: "0ne0000A001"}},
		Products:  []rig.Product{{Name: "c3-key", Chip: "ESP32-C3", Attestation: "symmetricKey"}, {Name: "esp32-cert", Chip: "ESP32", Attestation: "x509"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, product := range []string{"c3-key", "esp32-cert"} {
		if err := r.OpenOrder(ctx, rig.Order{ID: r.SlotOrder(i), Customer: "customer-a", Product: product, Quota: 3, SerialFormat: fmt.Sprintf("%c-%%04d", 'A'+i), First: 1}); err != nil {
			t.Fatal(err)
		}
	}
	station, err := r.Serve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	passages(ctx, t, r, station.Client)
	if err := rig.AwaitPushed(ctx, station.Client); err != nil {
		t.Fatal(err)
	}
	if err := station.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Run("secrets", func(t *testing.T) { secretsStayHome(t, out) })
	testscript.Run(t, testscript.Params{Dir: "testdata/line", RequireExplicitExec: true, Cmds: scriptCommands, Setup: func(e *testscript.Env) error {
		e.Setenv("NAMEPLATE_DIR", filepath.Join(e.WorkDir, "station"))
		e.Setenv("NAMEPLATE_PASSPHRASE_FILE", filepath.Join(e.WorkDir, "passphrase"))
		for _, name := range []string{"station", "passphrase"} {
			if err := copyTree(filepath.Join(out, name), filepath.Join(e.WorkDir, name)); err != nil {
				return err
			}
		}
		return nil
	}, Condition: func(cond string) (bool, error) {
		if cond != "sqlite3" {
			return false, fmt.Errorf("no condition %q here", cond)
		}
		_, err := exec.LookPath("sqlite3")
		if err != nil && os.Getenv("NAMEPLATE_TOOLS") == "1" {
			return false, fmt.Errorf("sqlite3 is not installed, and NAMEPLATE_TOOLS=1 demands it")
		}
		return err == nil, nil
	}})
}

// passages puts two boards into each slot, one after the other; the first board's
// cable is pulled while it is written, and it comes back.
func passages(ctx context.Context, t *testing.T, r *rig.Rig, client *api.Client) {
	t.Helper()
	follower := rig.Follow(ctx, client)
	for i, chip := range []string{"ESP32-C3", "ESP32"} {
		for n := range 2 {
			name := fmt.Sprintf("board-%d-%d", i+1, n+1)
			config := boards.Config{Name: name, Chip: chip, MAC: fmt.Sprintf("7c:df:a1:00:%02x:%02x", i+1, n+1), FlashPath: filepath.Join(filepath.Dir(r.StationDir()), "boards", name+".bin")}
			wants := []string{"PASS"}
			if i == 0 && n == 0 {
				config.Faults.PullAtBlock = 1
				wants = []string{"ERROR", "PASS"}
			}
			b, err := boards.New(config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			for _, want := range wants {
				s, err := r.Pass(ctx, follower, i, b)
				if err != nil {
					t.Fatal(err)
				}
				if s.Verdict != want {
					t.Fatalf("%s: %s %s, want %s", name, s.Verdict, s.Sentence, want)
				}
			}
		}
	}
}

// secretsStayHome looks for the boards' keys, in every form, in everything that
// the station wrote: P5.
func secretsStayHome(t *testing.T, out string) {
	needles := map[string][]byte{}
	flashes, err := filepath.Glob(filepath.Join(out, "boards", "*.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range flashes {
		flash, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for form, secret := range keysIn(t, flash) {
			needles[filepath.Base(file)+": "+form] = secret
		}
	}
	if len(needles) != 2*3+2*3 {
		t.Fatalf("found %d forms of keys on %d boards: the boards were not read", len(needles), len(flashes))
	}
	files := 0
	for _, root := range []string{filepath.Join(out, "station"), filepath.Join(out, "station.log")} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for what, needle := range needles {
				if bytes.Contains(text, needle) {
					t.Errorf("%s holds the key of %s", path, what)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 12 {
		t.Errorf("only %d files were looked at", files)
	}
}

var (
	symmetric = regexp.MustCompile(`[A-Za-z0-9+/]{86}==`)
	private   = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`)
)

// keysIn finds a board's key in its flash memory: as it stands there, as bytes,
// and as hex.
func keysIn(t *testing.T, flash []byte) map[string][]byte {
	t.Helper()
	if text := private.Find(flash); text != nil {
		block, _ := pem.Decode(text)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			key, err = x509.ParseECPrivateKey(block.Bytes)
		}
		if err != nil {
			t.Fatal(err)
		}
		scalar, err := key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{"PEM": bytes.Split(text, []byte("\n"))[1], "bytes": scalar, "hex": []byte(hex.EncodeToString(scalar))}
	}
	text := symmetric.Find(flash)
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(raw) != 64 {
		t.Fatalf("no key on a board: %v", err)
	}
	return map[string][]byte{"base64": text, "bytes": raw, "hex": []byte(hex.EncodeToString(raw))}
}

// copyTree copies a file or folder with its modes; sockets stay behind.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case e.IsDir():
			return os.MkdirAll(target, info.Mode().Perm())
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}
