package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
)

// More than 256 events, so that the stored tree holds a tile, and the ledger
// opens although an old event was changed.
const units = 40

// The promise P7: a history that nobody touched has no finding, and each way of
// touching it has one.
func TestP7HistoryIsCheckable(t *testing.T) {
	h := newHistory(t, units)
	opts := replay.Options{Verifier: h.verifier}

	clean := h.replay(t, replay.Options{Verifier: h.verifier, Outside: h.signed})
	if !clean.OK() {
		t.Fatalf("findings in a clean history:\n%s", list(clean))
	}
	if clean.Events != h.size || clean.Units != units || clean.Orders != 2 || clean.Checkpoints != 2 || clean.Signed != h.size || clean.Outside != h.size {
		t.Errorf("report %+v", clean)
	}

	for _, c := range []struct {
		name string
		sql  []string
		want []string
	}{
		{"byte changed", []string{`UPDATE events SET bytes = CAST(replace(CAST(bytes AS TEXT), '"chip":"ESP32"', '"chip":"ESP31"') AS BLOB) WHERE seq = 14`},
			[]string{"event 212: the stored checkpoint over 212 events is not over these events: something among them was changed", "the stored tree is not that of the stored events", "the stored state of unit U14 is not what its events make"}},
		{"event removed", []string{`DELETE FROM events WHERE seq = 100`},
			[]string{"event 101: the numbering is broken: expected event 100, found event 101", "covers events that are not here"}},
		{"event unreadable", []string{`UPDATE events SET bytes = CAST('{' AS BLOB) WHERE seq = 100`},
			[]string{"event 100: the event cannot be read: decoding event: unexpected end of JSON input", "the stored state of unit U94 is not what its events make"}},
		{"two swapped", []string{`UPDATE events SET bytes = (SELECT bytes FROM events e WHERE e.seq = 201 - events.seq) WHERE seq IN (100, 101)`},
			[]string{"event 100: the event carries another's number: expected 100, found"}},
		{"unit's state edited", []string{`UPDATE units SET body = replace(body, '"accepted"', '"due"') WHERE id = 14`},
			[]string{"the stored state of unit U14 is not what its events make: expected {"}},
		{"unit's column edited", []string{`UPDATE units SET customer = 'customer-b' WHERE id = 14`},
			[]string{`the stored columns of unit U14 are not what its events make: expected order "WO-x509", customer "customer-a", state "released", found order "WO-x509", customer "customer-b", state "released"`}},
		{"unit removed", []string{`DELETE FROM units WHERE id = 14`},
			[]string{"event 14: unit U14 has no stored row", "events about units are not found through their units: expected 360, found 351"}},
		{"unit added", []string{`INSERT INTO units SELECT 15, ord, customer, state, body FROM units WHERE id = 14`},
			[]string{"a row is stored for unit U15, which no event made known"}},
		{"unit added at the end", []string{`INSERT INTO units SELECT 9999, ord, customer, state, body FROM units WHERE id = 14`},
			[]string{"a row is stored for unit U9999, which no event made known"}},
		{"event filed under another unit", []string{`UPDATE events SET unit = 4 WHERE seq = 20`},
			[]string{"event 20: the event is stored with another unit's: expected U14, found U4", "the stored state of unit U14"}},
		{"event filed under no unit", []string{`UPDATE events SET unit = NULL WHERE seq = 22`},
			[]string{"events about units are not found through their units: expected 360, found 359"}},
		{"order's state edited", []string{`UPDATE orders SET body = replace(body, '"live":20', '"live":19')`},
			[]string{"the stored state of order WO-x509 is not what its events make"}},
		{"order's column edited", []string{`UPDATE orders SET quota = 99 WHERE id = 'WO-x509'`},
			[]string{`the stored columns of order WO-x509 are not what its events make: expected customer "customer-a", 20 live of 40, found customer "customer-a", 20 live of 99`}},
		{"order removed", []string{`DELETE FROM orders WHERE id = 'WO-x509'`}, []string{"order WO-x509 has no stored row"}},
		{"order added", []string{`INSERT INTO orders SELECT 'WO-9', customer, live, quota, body FROM orders WHERE id = 'WO-x509'`},
			[]string{"a row is stored for order WO-9, which no event opened"}},
		{"owner edited", []string{`UPDATE owners SET owner = 4 WHERE space = 'hardware' AND owner = 14`},
			[]string{"the stored owner of the hardware mac=02:00:00:00:00:01 is not what the events make: expected unit U14, found unit U4"}},
		{"owner removed", []string{`DELETE FROM owners WHERE space = 'key' AND owner = 14`},
			[]string{"stored owners of space key are missing: expected 20, found 19"}},
		{"owner added", []string{`INSERT INTO owners (space, name, owner) VALUES ('slot', 'ghost', 3)`},
			[]string{"the stored owner of the slot ghost is not what the events make: expected nobody, found passage P3"}},
		{"checkpoint false", []string{`INSERT INTO checkpoints SELECT 50, text FROM checkpoints WHERE size = 212`},
			[]string{"the stored checkpoint over 50 events says another size: expected 50, found 212"}},
		{"checkpoint by another key", []string{`UPDATE checkpoints SET text = CAST(replace(CAST(text AS TEXT), '—', '— x') AS BLOB) WHERE size = 212`},
			[]string{"the stored checkpoint over 212 events is not the station's: checking signature: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			broken := h.copy(t)
			broken.sql(t, c.sql...)
			r := broken.replay(t, opts)
			if r.OK() {
				t.Fatal("nothing was found")
			}
			for _, want := range c.want {
				if !has(r, want) {
					t.Errorf("no finding says %q; found:\n%s", want, list(r))
				}
			}
		})
	}
}

// Replay can look at what the line refuses to go on with, and is what the
// refusal tells to run.
func TestReplayOfARefusedLedger(t *testing.T) {
	h := newHistory(t, units)
	for _, c := range []struct{ name, sql, want string }{
		{"the last event changed", `UPDATE events SET bytes = CAST(replace(CAST(bytes AS TEXT), '"customer"', '"Customer"') || ' ' AS BLOB) WHERE seq = 402`,
			"event 402: the stored checkpoint over 402 events is not over these events: something among them was changed"},
		{"the last event unreadable", `UPDATE events SET bytes = x'00' WHERE seq = 402`, "event 402: the event cannot be read: "},
		{"the last event gone", `DELETE FROM events WHERE seq = 402`, "the stored checkpoint over 402 events covers events that are not here"},
		{"an event of the edge gone", `DELETE FROM events WHERE seq = 390`, "event 391: the numbering is broken: expected event 390, found event 391"},
		{"a tile gone", `DELETE FROM tiles`, "the stored tree cannot be read: "},
		{"a tile changed", `UPDATE tiles SET hash = zeroblob(32)`, "the stored tree is not that of the stored events"},
	} {
		t.Run(c.name, func(t *testing.T) {
			broken := h.copy(t)
			broken.sql(t, c.sql)
			_, err := ledger.Open(ctx, ledger.Config{Path: broken.path, Station: "line-1"})
			var refusal *records.Refusal
			if !errors.As(err, &refusal) || refusal.Code != "ledger-damaged" || !strings.Contains(refusal.Next, "run 'station replay'") {
				t.Errorf("opening it for writing: %v", err)
			}
			if r := broken.replay(t, replay.Options{Verifier: h.verifier}); !has(r, c.want) {
				t.Errorf("no finding says %q; found:\n%s", c.want, list(r))
			}
		})
	}
}

// An event slipped in moves all that come after it.
func TestInserted(t *testing.T) {
	h := newHistory(t, units)
	// Its own checkpoints went too, or the ledger would not even open.
	h.sql(t, `DELETE FROM checkpoints`, `UPDATE events SET seq = -seq - 1 WHERE seq > 100`, `UPDATE events SET seq = -seq WHERE seq < 0`,
		`INSERT INTO events (seq, unit, bytes) SELECT 101, unit, bytes FROM events WHERE seq = 100`)
	r := h.replay(t, replay.Options{Verifier: h.verifier, Outside: h.signed})
	for _, want := range []string{
		"event 101: the event carries another's number: expected 101, found 100",
		"event 402: the checkpoint from elsewhere over 402 events is not over these events: something among them was changed",
	} {
		if !has(r, want) {
			t.Errorf("no finding says %q; found:\n%s", want, list(r))
		}
	}
}

// A ledger that was cut off, or restored from a backup, is clean in itself: only
// a checkpoint kept elsewhere shows it.
func TestRestoredLedger(t *testing.T) {
	h := newHistory(t, units)
	old := h.copy(t)

	// The station goes on; the newest checkpoint leaves the house.
	l, err := ledger.Open(ctx, ledger.Config{Path: h.path, Station: "line-1"})
	must(t, err)
	_, err = l.Do(ctx, func(v records.View) ([]records.Draft, error) {
		return drafts(units, "WO-x509")(counted{v, l.Size()})
	})
	must(t, err)
	kept, err := l.Checkpoint(ctx, h.signer)
	must(t, err)
	must(t, l.Close())

	r := old.replay(t, replay.Options{Verifier: h.verifier})
	if !r.OK() {
		t.Errorf("findings without a checkpoint from elsewhere:\n%s", list(r))
	}
	const nothing = "No checkpoint from elsewhere was held against this ledger: nothing proves that this is the newest history, or the only one."
	if !slices.Contains(r.Caveats(), nothing) {
		t.Errorf("caveats %q", r.Caveats())
	}

	r = old.replay(t, replay.Options{Verifier: h.verifier, Outside: kept})
	want := fmt.Sprintf("the checkpoint from elsewhere over %d events covers events that are not here: expected %d events, found %d", h.size+10, h.size+10, h.size)
	if !has(r, want) || len(r.Findings) != 1 {
		t.Errorf("want only %q; found:\n%s", want, list(r))
	}

	// An older one is a prefix of what came after it.
	r = h.replay(t, replay.Options{Verifier: h.verifier, Outside: h.signed})
	if !r.OK() || r.Outside != h.size {
		t.Errorf("outside %d, findings:\n%s", r.Outside, list(r))
	}
	if want := fmt.Sprintf("The checkpoint from elsewhere covers %d of %d events: nothing proves that no later ones were cut off.", h.size, h.size+10); !slices.Contains(r.Caveats(), want) {
		t.Errorf("caveats %q", r.Caveats())
	}
}

// A checkpoint of a whole other history is one of another ledger.
func TestOutsideCheckpoint(t *testing.T) {
	h, other := newHistory(t, 4), newHistory(t, 4)
	for _, c := range []struct {
		name    string
		options replay.Options
		want    string
	}{
		{"another ledger's", replay.Options{Outside: other.signed}, "the checkpoint from elsewhere is another ledger's: expected "},
		{"another ledger's, with the key", replay.Options{Verifier: h.verifier, Outside: other.signed}, "the checkpoint from elsewhere is not the station's: checking signature: "},
		{"not one at all", replay.Options{Outside: []byte("a\nb")}, "the checkpoint from elsewhere is not the station's: it is no signed note"},
		{"bad size", replay.Options{Outside: []byte("a\n007\nAA==\n\n— x")}, `the checkpoint from elsewhere is not the station's: "007" is no size`},
		{"bad root", replay.Options{Outside: []byte("a\n7\nAA==\n\n— x")}, `the checkpoint from elsewhere is not the station's: "AA==" is no root`},
		{"too short", replay.Options{Outside: []byte("a\n7\n\n— x")}, `the checkpoint from elsewhere is not the station's: it lacks origin, size or root`},
	} {
		if r := h.replay(t, c.options); !has(r, c.want) {
			t.Errorf("%s: no finding says %q; found:\n%s", c.name, c.want, list(r))
		}
	}
	r := h.replay(t, replay.Options{})
	if !r.OK() || r.Signed != 0 || !slices.Contains(r.Caveats(), "No public key of the station was given: the checkpoints' signatures were not checked.") {
		t.Errorf("without a key: %+v, %q", r, r.Caveats())
	}
}

// forged is a ledger whose events somebody has rewritten who also rewrote all
// hashes; leaf returns nil to leave one out.
type forged struct {
	*ledger.Ledger
	leaf func(ledger.Leaf) []ledger.Leaf
}

func (f forged) Leaves(ctx context.Context, from int64) iter.Seq2[ledger.Leaf, error] {
	return func(yield func(ledger.Leaf, error) bool) {
		for leaf, err := range f.Ledger.Leaves(ctx, from) {
			if err != nil {
				yield(leaf, err)
				return
			}
			for _, l := range f.leaf(leaf) {
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

// What an event says against those before it is found whatever the hashes say.
func TestRules(t *testing.T) {
	h := newHistory(t, 4)
	// Events 3 to 12 are the first unit's: opened, identified (4), claimed (5),
	// sealed, begun, verified, passed, released, closed (11), enrolled.
	set := func(e *records.Event, b records.Body) {
		data, err := json.Marshal(b)
		must(t, err)
		e.Data = data
	}
	for _, c := range []struct {
		name   string
		seq    int64
		change func(*records.Event)
		want   string
	}{
		{"other station", 7, func(e *records.Event) { e.Station = "line-2" }, "event 7: the event is another station's: expected line-1, found line-2"},
		{"clock back", 7, func(e *records.Event) { e.Time = e.Time.Add(-time.Hour) }, "event 7: the event is earlier than the one before it: expected not before "},
		{"unknown kind", 7, func(e *records.Event) { e.Kind = "unit.blessed" }, `event 7: the event cannot be read: decoding event 7: unknown kind "unit.blessed"`},
		{"not JSON inside", 7, func(e *records.Event) { e.Data = []byte("[]") }, "event 7: the event cannot be read: decoding event 7 (write.begun): "},

		{"identified by nothing", 4, func(e *records.Event) { set(e, records.UnitIdentified{}) }, "event 4: event 4 identifies a unit by nothing"},
		{"second owner", 14, func(e *records.Event) {
			set(e, records.UnitIdentified{Hardware: []records.HardwareID{{Kind: "mac", Value: "02:00:00:00:00:00"}}})
		}, "event 14: the hardware mac=02:00:00:00:00:00 gets a second owner: expected unit U4, found unit U14"},
		{"unknown unit", 4, func(e *records.Event) { e.Unit = 99 }, "event 4: the unit is not known yet: expected a unit made known before, found U99"},
		{"passage not open", 12, func(e *records.Event) { e.Passage = 3 }, "event 12: applying event 12 (enrollment.accepted): passage P3 is not open"},
		{"identified in a passage that is none", 4, func(e *records.Event) { e.Passage = 99 }, "event 4: applying event 4 (unit.identified): passage P99 is not open"},
		{"closed twice", 12, func(e *records.Event) {
			e.Passage, e.Kind = 3, records.PassageClosed{}.Kind()
			set(e, records.PassageClosed{Slot: "slot-0", Verdict: records.Pass})
		}, "event 12: applying event 12 (passage.closed): passage P3 is not open"},
		{"closed twice, the slot", 12, func(e *records.Event) {
			e.Passage, e.Kind = 3, records.PassageClosed{}.Kind()
			set(e, records.PassageClosed{Slot: "slot-0", Verdict: records.Pass})
		}, "event 12: passage P3 gives back the slot slot-0: expected that it holds it, found nobody"},
		{"closed without its unit", 11, func(e *records.Event) { e.Unit = 0 }, "event 11: applying event 11 (passage.closed): unit U4 is in passage P3, not U0"},
		{"passage named wrong", 3, func(e *records.Event) { e.Passage = 1 }, "event 3: event 3 opens passage P1"},
		{"slot not held", 11, func(e *records.Event) { set(e, records.PassageClosed{Slot: "slot-9", Verdict: records.Pass}) },
			"event 11: passage P3 gives back the slot slot-9: expected that it holds it, found nobody"},
		{"no verdict", 11, func(e *records.Event) { set(e, records.PassageClosed{Slot: "slot-0", Verdict: "GOOD"}) },
			`event 11: applying event 11 (passage.closed) to order WO-symmetricKey: "GOOD" is no verdict`},
		{"quota", 1, func(e *records.Event) {
			b, err := e.Body()
			must(t, err)
			o := b.(records.OrderOpened)
			o.Quota = 1
			set(e, o)
		}, "event 25: applying event 25 (identity.claimed) to order WO-symmetricKey: its quota of 1 is used up"},
		{"terms", 1, func(e *records.Event) {
			b, err := e.Body()
			must(t, err)
			o := b.(records.OrderOpened)
			o.Terms.IDScope = "0ne99999999"
			set(e, o)
		}, "event 5: the claim is not what order WO-symmetricKey gives unit U4: expected {"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := ledger.OpenReadOnly(ctx, h.path)
			must(t, err)
			defer l.Close()
			r, err := replay.Run(ctx, forged{l, func(leaf ledger.Leaf) []ledger.Leaf {
				if leaf.Seq == c.seq {
					leaf.Bytes = edit(t, leaf.Bytes, c.change)
				}
				return []ledger.Leaf{leaf}
			}}, replay.Options{})
			must(t, err)
			if !has(r, c.want) {
				t.Errorf("no finding says %q; found:\n%s", c.want, list(r))
			}
		})
	}
}

// The caller's checks see every event of their kind, and what they say is a
// finding of that event.
func TestChecks(t *testing.T) {
	h := newHistory(t, 6)
	var seen, opened atomic.Int64
	r := h.replay(t, replay.Options{Checks: map[records.Kind]replay.Check{
		records.OrderOpened{}.Kind(): func(u records.Unit, o records.Order, e records.Event, b records.Body) error {
			opened.Add(1)
			if u.ID != 0 || o.ID != "" || b.(records.OrderOpened).ID != e.Order {
				t.Errorf("event %d comes with unit %+v and order %+v", e.Seq, u, o)
			}
			return nil
		},
		records.CertificateIssued{}.Kind(): func(u records.Unit, o records.Order, e records.Event, b records.Body) error {
			seen.Add(1)
			if u.ID != e.Unit || u.State != records.Claimed || u.Cert != nil || u.RegistrationID != b.(records.CertificateIssued).RegistrationID ||
				o.ID != u.Order || o.Terms.Attestation != records.X509 {
				t.Errorf("event %d comes with unit %+v and order %+v", e.Seq, u, o)
			}
			if b.(records.CertificateIssued).Serial == fmt.Sprintf("%032x", 3) {
				return errors.New("the certificate was not signed by the customer's CA")
			}
			return nil
		},
	}})
	if seen.Load() != 3 || opened.Load() != 2 || r.Checked != 5 {
		t.Errorf("%d certificates and %d orders were checked, the report says %d; want 3 and 2", seen.Load(), opened.Load(), r.Checked)
	}
	if len(r.Findings) != 1 || r.Findings[0].String() != "event 36: the certificate was not signed by the customer's CA" {
		t.Errorf("findings:\n%s", list(r))
	}
}

func TestProgressAndCancel(t *testing.T) {
	h := newHistory(t, units)
	var passes []string
	h.replay(t, replay.Options{Progress: func(p replay.Progress) {
		if p.Done > p.Total || p.Total == 0 {
			t.Errorf("progress %+v", p)
		}
		passes = append(passes, p.Pass)
	}})
	if got := strings.Join(slices.Compact(passes), " "); got != "events units" {
		t.Errorf("passes %q", got)
	}

	l, err := ledger.OpenReadOnly(ctx, h.path)
	must(t, err)
	defer l.Close()
	for _, pass := range []string{"events", "units"} {
		ended, cancel := context.WithCancel(ctx)
		_, err := replay.Run(ended, impatient{l, pass, cancel}, replay.Options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in %s: %v", pass, err)
		}
		if left := running(); len(left) > 0 {
			t.Errorf("cancelled in %s, these still run: %q", pass, left)
		}
	}
}

// impatient is a ledger whose reader gives up at the first row of a pass.
type impatient struct {
	*ledger.Ledger
	pass   string
	cancel func()
}

func (i impatient) Leaves(ctx context.Context, from int64) iter.Seq2[ledger.Leaf, error] {
	if i.pass == "events" {
		i.cancel()
	}
	return i.Ledger.Leaves(context.WithoutCancel(ctx), from)
}

func (i impatient) UnitRows(ctx context.Context) iter.Seq2[ledger.UnitRow, error] {
	if i.pass == "units" {
		i.cancel()
	}
	return i.Ledger.UnitRows(context.WithoutCancel(ctx))
}

// running names the functions of the package that some goroutine is in.
func running() (names []string) {
	stacks := make([]byte, 1<<20)
	for line := range strings.Lines(string(stacks[:runtime.Stack(stacks, true)])) {
		if strings.HasPrefix(line, "nameplate/records/replay.") {
			names = append(names, strings.TrimSpace(line))
		}
	}
	return names
}

// An empty ledger is a history too.
func TestEmpty(t *testing.T) {
	path := t.TempDir() + "/ledger.db"
	must(t, ledger.Create(ctx, path, "line-1"))
	h := &history{path: path}
	if r := h.replay(t, replay.Options{}); !r.OK() || r.Events != 0 {
		t.Errorf("%+v", r)
	}
}
