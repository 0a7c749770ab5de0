package line_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/line"
)

// P6: an order that cannot give anything gives nothing, and says so.
func TestP6OrdersThatGiveNothing(t *testing.T) {
	tests := []struct {
		name string
		make func(s *station) (order string)
		want refusal
	}{
		{"exhausted", func(s *station) string {
			id := s.order(records.X509, 1)
			wantVerdict(s, s.passage(at(newBoard("first")), id), records.Pass, "")
			return id
		}, refusal{records.Error, "order-exhausted", "All 1 units of order x509 are claimed.", "Take the board out and pick the next order.", known}},
		{"closed", func(s *station) string {
			id := s.order(records.X509, 1)
			s.do(func(records.View) ([]records.Draft, error) {
				return []records.Draft{{Actor: badge, Order: id, Body: records.OrderClosed{Reason: "done"}}}, nil
			})
			return id
		}, refusal{records.Error, "order-closed", "Order x509 is closed.", "Pick an open order.", known}},
		{"expired", func(s *station) string {
			id := s.orderAs("old", records.X509, 1, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
			return id
		}, refusal{records.Error, "order-expired", "Order old was valid until 2026-01-02T03:04:05Z.", "Ask for a new order.", known}},
		{"of a unit that has another's claim", func(s *station) string {
			s.book.fail("identity.claimed", applied)
			s.dies(at(newBoard("a")), s.order(records.SymmetricKey, 1))
			s.restart()
			return s.order(records.X509, 1)
		}, refusal{records.Error, "board-other-order", "Unit U3 holds symmetrickey-a000001 of order symmetricKey.",
			"Finish it under order symmetricKey.", known}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order := tt.make(s)
			live, from := s.live(order), s.size()
			issuer := &countingIssuer{Issuer: s.issuer}
			w := s.slot("slot-2", at(newBoard("a")), func(c *line.Config) { c.Issuer = issuer })
			s.wantRefusal(w.pass(order), from, tt.want)
			if s.live(order) != live || issuer.n != 0 {
				t.Errorf("%d of the quota were used and %d are, %d certificates were signed", live, s.live(order), issuer.n)
			}
			s.replays()
		})
	}
}

// An order that does not exist opens no passage.
func TestUnknownOrder(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	from := s.size()
	st := s.passage(at(newBoard("a")), "nothing")
	s.wantRefusal(st, from, refusal{records.Error, "order-unknown", `There is no order "nothing".`, "See 'station order list'.", nil})
}

// A unit that has its claim is finished whatever became of the order meanwhile.
func TestP6ClaimOutlivesItsOrder(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order, b := s.order(records.SymmetricKey, 1), newBoard("a")
	s.book.fail("secret.sealed", applied)
	s.dies(at(b), order)
	s.restart()
	s.do(func(records.View) ([]records.Draft, error) {
		return []records.Draft{{Actor: badge, Order: order, Body: records.OrderClosed{Reason: "done"}}}, nil
	})
	wantVerdict(t, s.passage(at(b), order), records.Pass, "")
	s.oneIdentity(order, 1)
}

// A clock that was set back stops claiming and issuing until it is right again;
// what is claimed stays claimed.
func TestClockBehind(t *testing.T) {
	const sentence, next = "The station's clock is 1h0m0s behind its own history.", "Set the clock, then put the board back."
	s := newStation(t, &fakeDriver{})
	order, b := s.order(records.X509, 2), newBoard("a")
	s.book.fail("identity.claimed", applied)
	s.dies(at(b), order)
	s.restart()
	issuer := &countingIssuer{Issuer: s.issuer}
	w := s.slot("slot-1", at(b), func(c *line.Config) { c.Issuer = issuer })

	s.clock.set(-time.Hour)
	from := s.size()
	s.wantRefusal(w.pass(order), from, refusal{records.Error, "clock-behind", sentence, next,
		slices.Concat([]records.Kind{"clock.stepped"}, known)})
	from = s.size()
	s.wantRefusal(s.passage2("slot-2", newBoard("b"), order), from, refusal{records.Error, "clock-behind", sentence, next, known})
	if issuer.n != 0 || s.live(order) != 1 {
		t.Errorf("%d certificates, %d claims", issuer.n, s.live(order))
	}
	s.clock.set(0)
	wantVerdict(t, w.pass(order), records.Pass, "")
	s.replays()
}

func (s *station) passage2(name string, b *board, order string) line.Status {
	s.Helper()
	w := s.slot(name, at(b), nil)
	defer w.end(nil)
	return w.pass(order)
}

// P6: boards that fail before anything was made for them use up no order; what they
// had claimed goes to the next. A claim whose board may be good waits for it.
func TestP6BadBoardsUseUpNoOrder(t *testing.T) {
	d := &fakeDriver{request: func(r *flasher.KeyRequest) { r.CSR = r.CSR[:len(r.CSR)-1] }}
	s := newStation(t, d)
	order := s.order(ownKey, 1)
	for i := range 3 {
		wantVerdict(t, s.passage(at(newBoard(fmt.Sprint("bad-", i))), order), records.Fail, "csr-unreadable")
		if live := s.live(order); live != 0 {
			t.Fatalf("%d of the quota are used after %d bad boards", live, i+1)
		}
	}
	d.request = nil
	good := at(newBoard("good"))
	d.at(asking, func(context.Context, *board) error { return errBroken })
	wantVerdict(t, s.passage(good, order), records.Error, "station-error")
	wantVerdict(t, s.passage(at(newBoard("late")), order), records.Error, "order-exhausted")
	st := s.passage(good, order)
	wantVerdict(t, st, records.Pass, "")
	if st.RegistrationID != "x509-device-a000001" {
		t.Errorf("the board became %s", st.RegistrationID)
	}
	s.oneIdentity(order, 1)
}

// P1 and P6 with everything at once: 24 boards through 8 slots, some of them
// twins, under an order for fewer than there are.
func TestP6QuotaHolds(t *testing.T) {
	const slots, each, quota, twins = 8, 3, 15, 4
	s := newStation(t, &fakeDriver{})
	order := s.order(records.X509, quota)
	var all sync.WaitGroup
	var mu sync.Mutex
	verdicts := map[string]int{}
	registered := map[string]string{}
	for i := range slots {
		place := at(nil)
		w := s.slot(fmt.Sprint("slot-", i), place, nil)
		all.Go(func() {
			for j := range each {
				// The first board of the first slots is one board's twin.
				name := fmt.Sprint("board-", i, "-", j)
				b := newBoard(name)
				if i < twins && j == 0 {
					b.ids = []flasher.HardwareID{mac("twin")}
				}
				place.put(b)
				st := w.pass(order)
				mu.Lock()
				if was, twice := registered[st.RegistrationID]; twice && st.Verdict == records.Pass {
					t.Errorf("%s went to %s and to %s", st.RegistrationID, was, name)
				}
				if st.Verdict == records.Pass {
					registered[st.RegistrationID] = name
				}
				verdicts[string(st.Verdict)+st.Code]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	turned := verdicts["ERRORboard-in-two-slots"] + verdicts["ERRORboard-released"]
	if verdicts["PASS"] != quota || verdicts["ERRORorder-exhausted"] != slots*each-quota-turned || turned > twins-1 {
		t.Errorf("%v", verdicts)
	}
	s.oneIdentity(order, quota)
}
