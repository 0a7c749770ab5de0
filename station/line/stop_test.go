package line_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/station/line"
)

// P9: a board, or a driver, that never comes back frees its slot by the limit of
// the step, or of the whole passage, and the next board passes.
func TestP9EveryWaitEnds(t *testing.T) {
	const soon = 10 * time.Millisecond
	tests := []struct {
		name   string
		way    string
		moment string
		limit  func(*line.Limits)
		step   string
	}{
		{"identify", records.SymmetricKey, probing, func(l *line.Limits) { l.Identify = soon }, "identify"},
		{"activate", records.TPM, activating, func(l *line.Limits) { l.Identify = time.Second }, "identify"},
		{"key", ownKey, making, func(l *line.Limits) { l.Write = soon }, "key"},
		{"certify", tpmKey, certifying, func(l *line.Limits) { l.Write = time.Second }, "key"},
		{"write", records.SymmetricKey, halfway, func(l *line.Limits) { l.Write = soon }, "write"},
		{"verify", records.SymmetricKey, reading, func(l *line.Limits) { l.Verify = soon }, "verify"},
		{"passage", records.SymmetricKey, halfway, func(l *line.Limits) { l.Passage = time.Second }, "write"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &fakeDriver{}
			s := newStation(t, d)
			order := s.order(tt.way, 2)
			limits := s.limits
			tt.limit(&s.limits)
			place := at(boardFor(t, tt.way, "stuck"))
			w := s.slot("slot-1", place, nil)
			let := false
			d.on = func(ctx context.Context, moment string, b *board) error {
				if moment == closing && b.name == "stuck" {
					let = true
				}
				if moment == tt.moment && b.name == "stuck" {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			st := w.pass(order)
			wantVerdict(t, st, records.Error, "step-timeout")
			if st.Sentence != fmt.Sprintf("The step %q did not end within its limit.", tt.step) || st.Next == "" {
				t.Errorf("the slot shows %+v", st)
			}
			if !let && tt.moment != probing {
				t.Error("the board was not let go")
			}
			s.limits = limits
			place.put(boardFor(t, tt.way, "next"))
			wantVerdict(t, w.pass(order), records.Pass, "")
			s.replays()
		})
	}
}

// A ledger or an authority that hangs holds a slot no longer than the person who
// cancels wants.
func TestP9CancelReachesEveryStep(t *testing.T) {
	moments := map[string][]string{
		records.X509: {probing, writing, halfway, written, reading},
		ownKey:       {asking, making, keyed, requested},
		tpmKey:       {activating, activated, asking, making, keyed, certifying, requested},
	}
	for way, all := range moments {
		for _, moment := range all {
			t.Run(moment+"/"+way, func(t *testing.T) {
				d := &fakeDriver{}
				s := newStation(t, d)
				order, b := s.order(way, 1), boardFor(t, way, "a")
				w := s.slot("slot-1", at(b), nil)
				d.at(moment, func(ctx context.Context, _ *board) error {
					must(t, w.Cancel(badge))
					<-ctx.Done()
					return fmt.Errorf("talking to the board: %w", context.Cause(ctx))
				})
				wantVerdict(t, w.pass(order), records.Error, "cancelled")
				if open, err := s.book.OpenPassages(s.ctx); err != nil || len(open) > 0 {
					t.Errorf("%d passages are open (%v)", len(open), err)
				}
				wantVerdict(t, w.pass(order), records.Pass, "")
				s.oneIdentity(order, 1)
			})
		}
	}
}

// A cancel that comes when the fact is on disk already changes nothing of it, and
// the passage is closed once.
func TestCancelAfterTheFact(t *testing.T) {
	for _, way := range []string{records.X509, ownKey, tpmKey} {
		for _, kind := range []records.Kind{"unit.identified", "evidence.accepted", "identity.claimed", "certificate.issued", "write.begun", "unit.verified", "unit.released"} {
			if !slices.Contains(path(way), kind) {
				continue
			}
			t.Run(string(kind)+"/"+way, func(t *testing.T) {
				s := newStation(t, &fakeDriver{})
				order, b := s.order(way, 1), boardFor(t, way, "a")
				var w *slot
				w = s.slot("slot-1", at(b), func(c *line.Config) {
					c.Ledger = afterwards{s.book, kind, func() { w.Cancel(badge) }}
				})
				// The next event may still be on its way to the ledger: then it counts.
				if st := w.pass(order); st.Verdict != records.Pass {
					wantVerdict(t, st, records.Error, "cancelled")
					wantVerdict(t, s.passage(at(b), order), records.Pass, "")
				}
				if open, err := s.book.OpenPassages(s.ctx); err != nil || len(open) > 0 {
					t.Errorf("%d passages are open (%v)", len(open), err)
				}
				s.oneIdentity(order, 1)
			})
		}
	}
}

// afterwards does something right after an event was recorded.
type afterwards struct {
	line.Ledger
	kind records.Kind
	do   func()
}

func (a afterwards) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	events, err := a.Ledger.Do(ctx, decide)
	if slices.ContainsFunc(events, func(e records.Event) bool { return e.Kind == a.kind }) {
		a.do()
	}
	return events, err
}

// A station that stops closes its passages and says so, whatever stopped it: the
// refusal that another part met is not this board's.
func TestStationStops(t *testing.T) {
	for name, cause := range map[string]error{
		"asked to":              nil,
		"by an error elsewhere": errBroken,
		"by a refusal elsewhere": &records.Refusal{Code: "verify-mismatch", Sentence: "Somebody else's board is bad.",
			Next: "Ask there."},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(records.X509, 1), newBoard("a")
			from := s.size()
			w := s.slot("slot-1", at(b), nil)
			there := make(chan struct{})
			d.at(halfway, func(ctx context.Context, _ *board) error {
				close(there)
				<-ctx.Done()
				return fmt.Errorf("talking to the board: %w", context.Cause(ctx))
			})
			must(t, w.Start(order, badge))
			<-there
			if err := w.end(cause); err != nil {
				t.Errorf("Run ended with %v", err)
			}
			s.wantRefusal(w.Status(), from, refusal{records.Error, "station-stopping", `The station stopped during "write".`,
				"Start the station again with the board in its slot: it goes on where it stopped.",
				slices.Concat(path(records.X509)[:5], brokeOff[1:])})
			s.restart()
			wantVerdict(t, s.passage(at(b), order), records.Pass, "")
			s.oneIdentity(order, 1)
		})
	}
}
