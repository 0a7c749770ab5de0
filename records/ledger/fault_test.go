package ledger_test

import (
	"errors"
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
)

// A failed COMMIT comes in two kinds that nobody can tell apart: failed and not
// on disk, failed but on disk. Either way the ledger says that it does not know,
// does nothing more, and shows the truth when it is opened again.
func TestCommitFails(t *testing.T) {
	broken := errors.New("the disk went away")
	tests := []struct {
		name   string
		commit func(func() error) error
		after  int64
	}{
		{"not on disk", func(func() error) error { return broken }, 2},
		{"on disk", func(commit func() error) error { return errors.Join(commit(), broken) }, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := create(t)
			l := open(t, path)
			do(t, l, passageOpened("slot-1"), passageOpened("slot-2"))
			l.Close()

			l = open(t, path)
			l.SetCommit(tt.commit)
			_, err := try(l, passageOpened("slot-3"))
			if !errors.Is(err, ledger.ErrStateUnknown) || !errors.Is(err, broken) {
				t.Fatalf("got %v, want ErrStateUnknown and its cause", err)
			}
			// Nothing is answered any more, in writing or reading.
			if _, err := try(l, passageOpened("slot-4")); !errors.Is(err, ledger.ErrStateUnknown) {
				t.Errorf("appending: %v", err)
			}
			if _, err := l.Unit(ctx, 1); !errors.Is(err, ledger.ErrStateUnknown) {
				t.Errorf("reading: %v", err)
			}
			if err := l.OutboxRetry(ctx, 1); !errors.Is(err, ledger.ErrStateUnknown) {
				t.Errorf("retrying: %v", err)
			}
			signer, _ := stationKey(t, l.Origin())
			if _, err := l.Checkpoint(ctx, signer); !errors.Is(err, ledger.ErrStateUnknown) {
				t.Errorf("signing: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}

			l = open(t, path)
			if l.Size() != tt.after {
				t.Errorf("%d events, want %d", l.Size(), tt.after)
			}
			checkAll(t, l)
			do(t, l, passageOpened("slot-5"))
			checkAll(t, l)
		})
	}
}

// Refused callers of a commit that fails keep their refusals: those are certain.
func TestRefusalSurvivesFailedCommit(t *testing.T) {
	l := open(t, create(t))
	l.SetCommit(func(func() error) error { return errors.New("the disk went away") })
	refusal := &records.Refusal{Code: "no", Sentence: "No.", Next: "Ask again."}
	_, err := l.Do(ctx, func(records.View) ([]records.Draft, error) { return nil, refusal })
	if err != refusal {
		t.Errorf("got %v, want the refusal", err)
	}
}

// Somebody who has the file open with another tool, in a transaction, is waited
// for and then named as the reason.
func TestLockedByAnotherTool(t *testing.T) {
	t.Parallel() // it waits for the whole busy timeout
	path := create(t)
	l := open(t, path)
	tool := holdLock(t, path)
	_, err := try(l, passageOpened("slot-1"))
	wantCode(t, err, "ledger-busy")
	tool()
	do(t, l, passageOpened("slot-1"))
	checkAll(t, l)
}
