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
		moment string
		limit  func(*line.Limits)
		step   string
	}{
		{"identify", probing, func(l *line.Limits) { l.Identify = soon }, "identify"},
		{"write", halfway, func(l *line.Limits) { l.Write = soon }, "write"},
		{"verify", reading, func(l *line.Limits) { l.Verify = soon }, "verify"},
		{"passage", halfway, func(l *line.Limits) { l.Passage = time.Second }, "write"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &fakeDriver{}
			s := newStation(t, d)
			order := s.order(records.SymmetricKey, 2)
			limits := s.limits
			tt.limit(&s.limits)
			place := at(newBoard("stuck"))
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
			place.put(newBoard("next"))
			wantVerdict(t, w.pass(order), records.Pass, "")
			s.replays()
		})
	}
}

// A ledger or an authority that hangs holds a slot no longer than the person who
// cancels wants.
func TestP9CancelReachesEveryStep(t *testing.T) {
	for _, moment := range []string{probing, writing, halfway, written, reading} {
		t.Run(moment, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(records.X509, 1), newBoard("a")
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

// A cancel that comes when the fact is on disk already changes nothing of it, and
// the passage is closed once.
func TestCancelAfterTheFact(t *testing.T) {
	for _, kind := range []records.Kind{"unit.identified", "identity.claimed", "certificate.issued", "write.begun", "unit.verified", "unit.released"} {
		t.Run(string(kind), func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order, b := s.order(records.X509, 1), newBoard("a")
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
