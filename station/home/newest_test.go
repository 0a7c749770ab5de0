package home_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"nameplate/station/home"
)

// P1: a ledger put back from a backup would give identities out a second time. It
// does not continue what the station signed last, and is refused.
func TestP1RestoredLedgerIsRefused(t *testing.T) {
	dir := folder(t)
	yesterday, err := os.ReadFile(filepath.Join(dir, "ledger.db"))
	must(t, err)

	h := opened(t, dir)
	must(t, h.Unlock(passphrase(t, word)))
	must(t, order(t, h, "WO-1"))
	released(t, h, "WO-1", "00:00:5e:00:53:01")
	must(t, h.Sign(t.Context()))
	must(t, h.Close())
	h = opened(t, dir) // the newest one goes on
	must(t, h.Close())

	must(t, os.WriteFile(filepath.Join(dir, "ledger.db"), yesterday, 0o600))
	_, err = home.Open(t.Context(), dir, time.Time{})
	refused(t, err, "ledger-not-newest")
	h, err = home.OpenReadOnly(t.Context(), dir) // to look at, it opens
	must(t, err)
	must(t, h.Close())
}

// A statement that cannot be read proves nothing either way: it is named, and
// nothing is made until a person has looked.
func TestTornCheckpointIsRefused(t *testing.T) {
	dir := folder(t)
	h := opened(t, dir)
	must(t, h.Unlock(passphrase(t, word)))
	must(t, h.Sign(t.Context()))
	must(t, h.Close())
	must(t, os.WriteFile(filepath.Join(dir, "checkpoint.txt"), nil, 0o644))
	_, err := home.Open(t.Context(), dir, time.Time{})
	refused(t, err, "checkpoint-unreadable")
}
