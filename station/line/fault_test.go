package line_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"nameplate/records"
	"nameplate/station/line"
)

// P2 and P3: whatever event of the path cannot be recorded, and whether the
// ledger knows it or not, nothing happens that the event should have announced;
// the unit is finished afterwards, with one identity, and the history holds.
func TestP3EveryEventFails(t *testing.T) {
	for _, way := range ways {
		all := path(way)
		last := slices.Index(all, "unit.passed") // from here on three events are in one transaction
		for i, kind := range all {
			for _, f := range []fate{refused, lost, applied} {
				t.Run(fmt.Sprint(i, " ", kind, " ", f, "/", way), func(t *testing.T) {
					t.Parallel()
					d := &fakeDriver{}
					s := newStation(t, d)
					order, b := s.order(way, 1), boardFor(t, way, "a")
					place := at(b)
					issuer := &countingIssuer{Issuer: s.issuer}
					from := s.size()

					s.book.failAfter(count(all[:i], kind), kind, f)
					w := s.slot("slot-1", place, func(c *line.Config) { c.Issuer = issuer })
					if f == refused {
						wantVerdict(t, w.pass(order), records.Error, "disk-full")
					} else {
						w.attempt(order)
						if err := w.end(nil); !errors.Is(err, line.ErrStop) {
							t.Fatalf("Run ended with %v, want ErrStop", err)
						}
						s.restart()
					}
					// The story so far: what came before the event, the event if it
					// was applied, and how the passage was closed.
					done := all[:min(i, last)]
					switch {
					case f == applied && i >= last:
						done = all
					case f == applied:
						done = all[:i+1]
					}
					story := s.kinds(from)
					if !slices.Equal(story[:len(done)], done) {
						t.Fatalf("events %v, want first %v", story, done)
					}
					for _, k := range story[len(done):] {
						if !slices.Contains([]records.Kind{"unit.refused", "passage.closed", "station.started"}, k) {
							t.Errorf("after the failure: %s", k)
						}
					}
					writes, certificates := 0, 0
					if i > slices.Index(all, "write.begun") {
						writes = 1
					}
					if at := slices.Index(all, "certificate.issued"); at >= 0 && i >= at {
						certificates = 1 // this one is signed in the process, and unknown outside until it is written
					}
					if b.written() != writes || issuer.n != certificates {
						t.Errorf("%d writes and %d certificates, want %d and %d", b.written(), issuer.n, writes, certificates)
					}
					if open, err := s.book.OpenPassages(s.ctx); err != nil || len(open) > 0 {
						t.Errorf("%d passages are open (%v)", len(open), err)
					}

					w.end(nil)
					b.cut()
					want, code := records.Pass, ""
					if f == applied && i >= last {
						want, code = records.Error, "board-released"
					}
					wantVerdict(t, s.passage(place, order), want, code)
					s.holds(b, s.unit())
					s.oneIdentity(order, 1)
				})
			}
		}
	}
}

func count(kinds []records.Kind, kind records.Kind) (n int) {
	for _, k := range kinds {
		if k == kind {
			n++
		}
	}
	return n
}

// A disk that stays full closes nothing: the slot ends and says so, and the unit
// is finished when the station starts again.
func TestDiskStaysFull(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	order, b := s.order(records.SymmetricKey, 1), newBoard("a")
	w := s.slot("slot-1", at(b), nil)
	s.book.fail("write.begun", refused)
	s.book.fillUp()
	w.attempt(order)
	if err := w.end(nil); !errors.Is(err, line.ErrStop) {
		t.Errorf("Run ended with %v, want ErrStop", err)
	}
	if st := w.Status(); st.Code != "disk-full" || st.Sentence == "" || st.Next == "" {
		t.Errorf("the slot shows %+v", st)
	}
	if b.written() != 0 {
		t.Error("the board was written to")
	}
	s.restart()
	wantVerdict(t, s.passage(at(b), order), records.Pass, "")
	s.oneIdentity(order, 1)
}
