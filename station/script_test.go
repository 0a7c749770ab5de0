package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"nameplate/ca/authority"
	"nameplate/station/api"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata are the manual of the commands: what is typed, what is
// answered, and with which exit status. In them, 'station' is this program.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"station": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// tests removes the programs that were built, when all tests are done.
type tests struct{ *testing.M }

func (t tests) Run() int {
	code := t.M.Run()
	for _, path := range programs.built {
		os.RemoveAll(filepath.Dir(path))
	}
	return code
}

// TestScript runs the stories that need no board.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Cmds: scriptCommands, Setup: exampleSettings})
}

var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"status": status,
	"ready":  ready,
	"flip":   flip,
	"mode":   mode,
}

// exampleSettings lays the settings of configs/station, and the secrets they
// name, into the folder line-1. The address is the only thing changed: scripts
// run side by side.
func exampleSettings(e *testscript.Env) error {
	line := filepath.Join(e.WorkDir, "line-1")
	if err := os.CopyFS(line, os.DirFS("../configs/station")); err != nil {
		return err
	}
	settings := filepath.Join(line, "station.yaml")
	text, err := os.ReadFile(settings)
	if err != nil {
		return err
	}
	root, err := serviceRoot()
	if err != nil {
		return err
	}
	for _, dir := range []string{"secrets", "tpm-roots"} {
		if err := os.Mkdir(filepath.Join(line, dir), 0o700); err != nil {
			return err
		}
	}
	maker, err := authority.CreateRoot("A TPM maker's root", time.Now())
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		settings: []byte(strings.Replace(string(text), "127.0.0.1:7440", "127.0.0.1:0", 1)),
		filepath.Join(line, "secrets", "customer-a.key"):      []byte("c2VydmljZSBrZXkgb2YgY3VzdG9tZXItYQ==\n"),
		filepath.Join(line, "secrets", "customer-b.key"):      []byte("c2VydmljZSBrZXkgb2YgY3VzdG9tZXItYg==\n"),
		filepath.Join(line, "secrets", "customer-b-root.pem"): root,
		filepath.Join(line, "secrets", "gateway-console"):     []byte("open sesame\n"),
		filepath.Join(line, "tpm-roots", "maker.pem"):         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Certificate.Raw}),
		filepath.Join(e.WorkDir, "passphrase"):                []byte("correct horse battery staple\n"),
		filepath.Join(e.WorkDir, "other-passphrase"):          []byte("wrong\n"),
		filepath.Join(e.WorkDir, "no-passphrase"):             nil,
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	e.Setenv("NAMEPLATE_PASSPHRASE_FILE", filepath.Join(e.WorkDir, "passphrase"))
	return nil
}

// serviceRoot is some certificate in PEM.
func serviceRoot() ([]byte, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, cert, cert, public, private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// status N COMMAND... runs a command that must end with the exit status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		got = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if neg || got != want {
		ts.Fatalf("%s ended with status %d, not %d", strings.Join(args[1:], " "), got, want)
	}
}

// readyLimit bounds the wait for a daemon that a script has started.
const readyLimit = 30 * time.Second

// ready DIR STATE waits until the daemon in DIR answers that it is in that state.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	client := api.Dial(filepath.Join(ts.MkAbs(args[0]), "station.sock"), "")
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		st, err := client.Station(ctx)
		if err == nil && st.State == args[1] {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			ts.Fatalf("the station in %s is not %s after %s: %v", args[0], args[1], readyLimit, err)
		}
	}
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	data, err := os.ReadFile(file)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(file, data, 0o600))
}

// mode MODE FILE... checks that files have the mode.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
			ts.Fatalf("%s has mode %s, not %s", file, got, args[0])
		}
	}
}
