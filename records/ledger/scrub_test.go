package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
)

// P5: the power may go after a secret was destroyed and before the log was
// emptied. The next to open the ledger empties it before anything else.
func TestDestroyedSecretIsGoneAfterACrash(t *testing.T) {
	path := create(t)
	l := open(t, path)
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 1))
	u, _ := seen(t, l, "slot-1", "aa")
	mustClaim(t, l, u, "wo-1")
	do(t, l, sealed(u, "ref-1"))
	secret, err := l.Sealed(ctx, "ref-1")
	if err != nil {
		t.Fatal(err)
	}
	do(t, l, about(u, "", records.WriteBegun{Manifest: manifest}))
	openReadOnly(t, path) // keeps the log from being emptied
	do(t, l, about(u, "", records.SecretDestroyed{Ref: "ref-1", Reason: "not on the device"}))

	// What a kill leaves behind.
	left := filepath.Join(t.TempDir(), "ledger.db")
	stands := func(name string) bool {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(b, secret)
	}
	for _, side := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + side)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(left+side, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !stands(left + "-wal") {
		t.Fatal("the destroyed secret does not stand in the log, so this test shows nothing")
	}

	again := openWith(t, ledger.Config{Path: left, Station: "line-1"})
	do(t, again) // its answer comes after the log was emptied
	for _, side := range []string{"", "-wal"} {
		if stands(left + side) {
			t.Errorf("the destroyed secret still stands in %s", left+side)
		}
	}
	_, err = again.Sealed(ctx, "ref-1")
	wantCode(t, err, "secret-destroyed")
	checkAll(t, again)
}
