package home_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/records"
	"nameplate/records/batch"
	"nameplate/station/home"

	"golang.org/x/mod/sumdb/note"
)

const word = "correct horse"

func passphrase(t *testing.T, text string) ca.Passphrase {
	t.Helper()
	pass, err := ca.NewPassphrase([]byte(text))
	must(t, err)
	return pass
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks a refusal, whichever department it comes from.
func refused(t *testing.T, err error, code string) {
	t.Helper()
	var r *records.Refusal
	var c *ca.Refusal
	switch {
	case errors.As(err, &r):
	case errors.As(err, &c):
		r = (*records.Refusal)(c)
	default:
		t.Errorf("%v is no refusal, want %s", err, code)
		return
	}
	if r.Code != code || r.Sentence == "" || r.Next == "" {
		t.Errorf("refused with %+v, want %s with a sentence and an action", *r, code)
	}
}

// settings are the files of a small station.
func settings(t *testing.T, dir string) {
	t.Helper()
	for name, text := range map[string]string{
		"station.yaml": "name: line-1\noperator: badge-1\nslots:\n  - {name: a1, port: /dev/ttyUSB9, order: WO-1}\n",
		"customers/customer-a.yaml": "name: customer-a\nregistration_url: global.azure-devices-provisioning.net\nid_scope: 0ne0000A001\n" +
			"service: {endpoint: customer-a.azure-devices-provisioning.net, policy: enroll, key_file: secrets/a.key}\n",
		"products/c3-key.yaml": "name: c3-key\nfamily: espressif\nattestation: symmetricKey\nregistration_id: '{serial}'\noptions: {chip: ESP32-C3, store: {format: nvs}}\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

// made is a station's folder, made once: the stretching of keys takes its time.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nameplate-home")
	if err != nil {
		return "", err
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := made(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

var makeOnce sync.Once

// folder is a new station's folder.
func folder(t *testing.T) string {
	t.Helper()
	from, err := made()
	must(t, err)
	makeOnce.Do(func() {
		settings(t, from)
		must(t, home.Init(t.Context(), from, "line-1", passphrase(t, word)))
	})
	dir := t.TempDir()
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, from))
		if e.IsDir() {
			return os.MkdirAll(to, info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, info.Mode().Perm())
	}))
	return dir
}

// opened is a station whose folder this process has taken.
func opened(t *testing.T, dir string) *home.Home {
	t.Helper()
	h, err := home.Open(t.Context(), dir, time.Time{})
	must(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// Everything is for its owner alone; keys are encrypted; what others may read is
// meant for them.
func TestModes(t *testing.T) {
	dir := folder(t)
	h := opened(t, dir)
	must(t, h.Unlock(passphrase(t, word)))
	public := map[string]bool{"station.pub": true, "seal.pub": true, "root.pem": true, "customer-a.pem": true, "station.yaml": true}
	keys := 0
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			if path != dir && info.Mode().Perm() != 0o700 {
				t.Errorf("folder %s has mode %o", path, info.Mode().Perm())
			}
			return nil
		}
		if open := info.Mode().Perm()&0o077 != 0; open && !public[e.Name()] {
			t.Errorf("others may read %s (mode %o)", path, info.Mode().Perm())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".key":
			keys++
			if !bytes.Contains(text, []byte("BEGIN ENCRYPTED PRIVATE KEY")) {
				t.Errorf("%s is not encrypted", path)
			}
		case ".age":
			keys++
			if !bytes.HasPrefix(text, []byte("age-encryption.org/v1")) && !bytes.Contains(text, []byte("BEGIN AGE ENCRYPTED FILE")) {
				t.Errorf("%s is not encrypted", path)
			}
		}
		return nil
	}))
	if keys != 4 { // station, seal, root, customer-a
		t.Errorf("%d keys were looked at, want 4", keys)
	}
}

// One process has a folder; another one is refused and changes nothing, and the
// kernel gives the folder free with the process.
func TestLock(t *testing.T) {
	dir := folder(t)
	h := opened(t, dir)
	_, err := home.Open(t.Context(), dir, time.Time{})
	refused(t, err, "station-running")
	r, err := home.OpenReadOnly(t.Context(), dir) // looking is always allowed
	must(t, err)
	must(t, r.Close())
	must(t, h.Close())
	again, err := home.Open(t.Context(), dir, time.Time{})
	must(t, err)
	must(t, again.Close())
}

// A mistyped path never starts a second history.
func TestNothingIsMadeByOpening(t *testing.T) {
	dir := t.TempDir()
	settings(t, dir)
	before, err := os.ReadDir(dir)
	must(t, err)
	_, err = home.Open(t.Context(), dir, time.Time{})
	refused(t, err, "station-missing")
	_, err = home.OpenReadOnly(t.Context(), dir)
	refused(t, err, "station-missing")
	refused(t, home.IssueCA(dir, "customer-a", passphrase(t, word)), "station-missing")
	_, err = home.CAs(dir)
	refused(t, err, "station-missing")
	after, err := os.ReadDir(dir)
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("the folder holds %v now", after)
	}
}

// P3: an init that died left keys, perhaps an unnamed ledger, but no station; it
// says what to remove, and then goes through.
func TestInitAfterItsDeath(t *testing.T) {
	dir := folder(t)
	must(t, os.Rename(filepath.Join(dir, "ledger.db"), filepath.Join(dir, "ledger.new"))) // died before the last step
	refused(t, home.Init(t.Context(), dir, "line-1", passphrase(t, word)), "station-exists")
	_, err := home.Open(t.Context(), dir, time.Time{})
	refused(t, err, "station-missing")

	// It died while the ledger was made: the keys are not there yet.
	for _, name := range []string{"keys", "ca"} {
		must(t, os.RemoveAll(filepath.Join(dir, name)))
	}
	must(t, os.Rename(filepath.Join(dir, "ledger.new"), filepath.Join(dir, "ledger.new.new")))
	must(t, home.Init(t.Context(), dir, "line-1", passphrase(t, word)))
	must(t, opened(t, dir).Unlock(passphrase(t, word)))
	left, err := filepath.Glob(filepath.Join(dir, "ledger.new*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("init left %v", left)
	}
}

// Locked, the station does nothing that needs its keys, and a wrong passphrase
// changes nothing.
func TestVault(t *testing.T) {
	h := opened(t, folder(t))
	must(t, order(t, h, "WO-1"))
	locked := func() {
		t.Helper()
		if h.Vault.Unlocked() {
			t.Error("the station is unlocked")
		}
		_, err := h.Vault.Signer()
		refused(t, err, "station-locked")
		_, err = h.Vault.StationKey()
		refused(t, err, "station-locked")
		_, err = h.Vault.Issue(t.Context(), ca.Request{Customer: "customer-a"})
		refused(t, err, "station-locked")
		_, err = h.Seal("ref-1", []byte("secret"))
		refused(t, err, "station-locked")
		_, err = h.Reveal(t.Context(), "ref-1")
		refused(t, err, "station-locked")
		_, err = h.Export(t.Context(), h.Actor(), "customer-a", "", filepath.Join(t.TempDir(), "batch"))
		refused(t, err, "station-locked")
	}
	locked()
	refused(t, h.Unlock(passphrase(t, "wrong")), "passphrase-wrong")
	locked()
	must(t, h.Unlock(passphrase(t, word)))

	// What is signed bears the key that stands in station.pub.
	signer, err := h.Vault.Signer()
	must(t, err)
	verifier, err := h.Verifier()
	must(t, err)
	signed, err := note.Sign(&note.Note{Text: "text\n"}, signer)
	must(t, err)
	if _, err := note.Open(signed, note.VerifierList(verifier)); err != nil {
		t.Errorf("station.pub does not verify what station.key signs: %v", err)
	}
	key, err := h.Vault.StationKey()
	must(t, err)
	text, err := os.ReadFile(filepath.Join(h.Dir, "keys", "station.pub"))
	must(t, err)
	public, err := batch.ParsePublicKey(text)
	must(t, err)
	if public.Name() != h.Ledger.Origin() || len(key) != ed25519.PrivateKeySize {
		t.Errorf("the key is %s's, the ledger %s's", public.Name(), h.Ledger.Origin())
	}
}

// A public key of another station beside this one's private key.
func TestVaultWithExchangedKey(t *testing.T) {
	dir := folder(t)
	file := filepath.Join(dir, "keys", "station.pub")
	_, verifier, err := note.GenerateKey(nil, "nameplate.invalid/other/0000000000000000")
	must(t, err)
	must(t, os.WriteFile(file, []byte(verifier+"\n"), 0o644))
	h := opened(t, dir)
	refused(t, h.Unlock(passphrase(t, word)), "station-key-other")
	if h.Vault.Unlocked() {
		t.Error("the station is unlocked")
	}
}

// A customer that comes later gets its CA; an interrupted attempt says what to do.
func TestIssueCA(t *testing.T) {
	dir := folder(t)
	pass := passphrase(t, word)
	refused(t, home.IssueCA(dir, "customer-b", pass), "customer-unknown")
	refused(t, home.IssueCA(dir, "customer-a", pass), "ca-exists")
	must(t, os.Remove(filepath.Join(dir, "ca", "customer-a.pem")))
	refused(t, home.IssueCA(dir, "customer-a", pass), "ca-unfinished")
	must(t, os.Remove(filepath.Join(dir, "ca", "customer-a.key")))
	refused(t, home.IssueCA(dir, "customer-a", passphrase(t, "wrong")), "passphrase-wrong")
	must(t, home.IssueCA(dir, "customer-a", pass))
	list, err := home.CAs(dir)
	must(t, err)
	if len(list) != 2 || list[0].Name != "customer-a" || list[0].Subject != "Nameplate line-1 customer-a" || list[1].Name != "root" {
		t.Errorf("CAs: %+v", list)
	}
	h := opened(t, dir)
	must(t, h.Unlock(pass))
	root, issuing, err := h.Authorities()
	must(t, err)
	if len(issuing) != 1 || issuing[0].CheckSignatureFrom(root) != nil {
		t.Error("the root has not signed the customer's CA")
	}
}
