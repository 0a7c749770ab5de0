package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
	"nameplate/records/ledger"
)

// many appends n events.
func many(t testing.TB, l *ledger.Ledger, n int) {
	t.Helper()
	for n > 0 {
		var drafts []records.Draft
		for range min(n, 1000) {
			drafts = append(drafts, records.Draft{Actor: badge, Body: records.ActionDenied{Action: "order open", Code: "no", Sentence: "No."}})
		}
		do(t, l, drafts...)
		n -= len(drafts)
	}
}

// leafHashes reads all leaves and hashes them without the ledger's help.
func leafHashes(t testing.TB, l *ledger.Ledger) []tlog.Hash {
	t.Helper()
	var all []tlog.Hash
	for leaf, err := range l.Leaves(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tlog.RecordHash(leaf.Bytes))
	}
	return all
}

// rootOf is RFC 6962 section 2.1, read off the page: split at the largest power
// of two below n.
func rootOf(leaves []tlog.Hash) tlog.Hash {
	switch len(leaves) {
	case 0:
		h, _ := tlog.TreeHash(0, nil)
		return h
	case 1:
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return tlog.NodeHash(rootOf(leaves[:k]), rootOf(leaves[k:]))
}

func TestRootsAndProofs(t *testing.T) {
	path := create(t)
	l := open(t, path)
	sizes := []int64{0, 1, 2, 3, 255, 256, 257, 511, 512, 700, 65535, 65536, 65537, 66000}
	roots := map[int64]tlog.Hash{}
	for _, size := range sizes {
		many(t, l, int(size-l.Size()))
		root, err := l.Root(ctx, size)
		if err != nil {
			t.Fatal(err)
		}
		roots[size] = root
	}
	leaves := leafHashes(t, l)
	last := sizes[len(sizes)-1]
	for _, reopened := range []bool{false, true} {
		if reopened {
			l.Close()
			l = open(t, path)
		}
		hashes := l.HashReader(ctx)
		for _, size := range sizes {
			if roots[size] != rootOf(leaves[:size]) {
				t.Errorf("the root of %d events was %s, want %s", size, roots[size], rootOf(leaves[:size]))
			}
			again, err := l.Root(ctx, size)
			if err != nil || again != roots[size] {
				t.Errorf("the root of %d events of %d is %s, %v, want %s", size, last, again, err, roots[size])
			}
			if size == 0 {
				continue
			}
			proof, err := tlog.ProveTree(last, size, hashes)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(proof, last, roots[last], size, roots[size]); err != nil {
				t.Errorf("%d is not shown to be part of %d: %v", size, last, err)
			}
			record, err := tlog.ProveRecord(last, size-1, hashes)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(record, last, roots[last], size-1, leaves[size-1]); err != nil {
				t.Errorf("event %d is not shown to be in %d: %v", size, last, err)
			}
		}
	}
	if _, err := l.Root(ctx, last+1); err == nil {
		t.Error("there is a root of events that are not there")
	}
	if _, err := tlog.ProveRecord(last+1000, last+500, l.HashReader(ctx)); code(err) != "ledger-damaged" {
		t.Errorf("got %v for hashes that are not there", err)
	}
}

func stationKey(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	private, public, err := note.GenerateKey(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestCheckpoint(t *testing.T) {
	path := create(t)
	l := open(t, path)
	signer, verifier := stationKey(t, l.Origin())
	oneReleased(t, l)
	text, err := l.Checkpoint(ctx, signer)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		t.Fatal(err)
	}
	root, err := l.Root(ctx, l.Size())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s\n%d\n%s\n", l.Origin(), l.Size(), root); n.Text != want {
		t.Errorf("got  %q\nwant %q", n.Text, want)
	}
	if !strings.HasPrefix(l.Origin(), "nameplate.invalid/line-1/") {
		t.Errorf("origin %q", l.Origin())
	}
	again, err := l.Checkpoint(ctx, signer)
	if err != nil || string(again) != string(text) {
		t.Errorf("the second checkpoint of a size differs: %q, %v", again, err)
	}
	do(t, l, passageOpened("slot-9"))
	if _, err := l.Checkpoint(ctx, signer); err != nil {
		t.Fatal(err)
	}
	kept, err := l.Checkpoints(ctx)
	if err != nil || len(kept) != 2 || kept[0].Size != 10 || string(kept[0].Text) != string(text) || kept[1].Size != 11 {
		t.Errorf("kept %+v, %v", kept, err)
	}
	r := openReadOnly(t, path)
	if read, err := r.Checkpoint(ctx, signer); err != nil || string(read) != string(kept[1].Text) {
		t.Errorf("a reader signs %q, %v", read, err)
	}
}

// P7, as far as opening looks: what the newest checkpoint covers, at the edge.
func TestDamageIsFoundAtOpen(t *testing.T) {
	const forge = "DROP TRIGGER events_stay; DROP TRIGGER events_remain; "
	tests := []struct{ name, statement, sentence string }{
		{"an event changed", forge + "UPDATE events SET bytes = CAST(replace(CAST(bytes AS TEXT), '\"No.\"', '\"Yes\"') AS BLOB) WHERE seq = 600",
			"The ledger is damaged: its first 600 events are not those that its checkpoint was signed over."},
		{"events cut off", forge + "DELETE FROM events WHERE seq > 590", "The ledger is damaged: a checkpoint was signed over 600 events, and there are 590."},
		{"an event missing", forge + "DELETE FROM events WHERE seq = 550", "The ledger is damaged: of the hashes of level 0 from number 512 on, 64 are wanted and 37 are there."},
		{"a tile changed", "UPDATE tiles SET hash = zeroblob(32) WHERE n = 1", "The ledger is damaged: its first 600 events are not those that its checkpoint was signed over."},
		{"a tile missing", "DELETE FROM tiles WHERE n = 0", "The ledger is damaged: of the hashes of level 8 from number 0 on, 2 are wanted and 0 are there."},
		{"an event that is no event", forge + "UPDATE events SET bytes = x'00' WHERE seq = 600", "The ledger is damaged: what is stored of event 600 is unreadable."},
		{"the last event not signed over, and no event", forge + "INSERT INTO events (seq, bytes) VALUES (601, x'00')", "The ledger is damaged: what is stored of event 601 is unreadable."},
		{"no name", "DELETE FROM meta", "The ledger is damaged: it does not say whose it is."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := create(t)
			l := open(t, path)
			many(t, l, 600)
			signer, _ := stationKey(t, l.Origin())
			if _, err := l.Checkpoint(ctx, signer); err != nil {
				t.Fatal(err)
			}
			l.Close()
			if err := rawSQL(t, path, tt.statement); err != nil {
				t.Fatal(err)
			}
			_, err := ledger.Open(ctx, ledger.Config{Path: path, Station: "line-1"})
			wantCode(t, err, "ledger-damaged")
			if err != nil && !strings.Contains(err.Error(), tt.sentence) {
				t.Errorf("got  %v\nwant %s", err, tt.sentence)
			}

			// A reader looks on: replay can say what is wrong, and nobody signs it.
			r, err := ledger.OpenReadOnly(ctx, path)
			if tt.name == "no name" {
				wantCode(t, err, "ledger-damaged")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, err = r.Checkpoint(ctx, signer)
			wantCode(t, err, "ledger-damaged")
		})
	}
}
