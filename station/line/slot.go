package line

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"nameplate/records"
)

// presencePoll is how often an idle slot looks whether its port is there. It is
// short against the eight seconds an operator has for a unit, and long against
// the cost of a look.
const presencePoll = 150 * time.Millisecond

// Slot runs passages on one port, one at a time.
type Slot struct {
	cfg  Config
	wake chan struct{} // a start was asked for

	mu     sync.Mutex
	status Status
	cancel context.CancelCauseFunc // of the running passage
	asked  *start                  // accepted, not begun yet
}

// start is who wants a passage under which order.
type start struct {
	order string
	actor records.Actor
}

// New makes a slot. Run must be called for it to do anything.
func New(c Config) *Slot {
	return &Slot{cfg: c, wake: make(chan struct{}, 1),
		status: Status{Slot: c.Slot, State: Empty, Order: c.Order}}
}

// Status is the slot as it is now.
func (s *Slot) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Start asks for a passage with what is in the slot now. An empty order keeps
// the slot's order. It refuses while a passage runs.
func (s *Slot) Start(order string, actor records.Actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil || s.asked != nil {
		return s.busy()
	}
	if order == "" {
		order = s.status.Order
	}
	if order == "" {
		return errNoOrder(s.cfg.Slot)
	}
	s.asked = &start{order, actor}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// SetOrder gives the slot another order for the boards to come. It refuses while
// a passage runs or is about to: the board that is in belongs to the old one.
func (s *Slot) SetOrder(order string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil || s.asked != nil {
		return s.busy()
	}
	s.change(func(st *Status) {
		st.Order = order
		if st.State == Waiting {
			st.Code, st.Sentence, st.Next = "", "", "" // an order was all that it waited for
		}
	})
	return nil
}

func (s *Slot) busy() *records.Refusal {
	return &records.Refusal{Code: "slot-busy", Sentence: fmt.Sprintf("A passage is running in slot %s.", s.cfg.Slot),
		Next: "Wait for its verdict, or cancel it."}
}

// Cancel stops the running passage, or takes back a start that has not begun; it
// says so if there is neither.
func (s *Slot) Cancel(actor records.Actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != nil {
		s.asked = nil
		return nil
	}
	if s.cancel == nil {
		return &records.Refusal{Code: "slot-idle", Sentence: fmt.Sprintf("No passage is running in slot %s.", s.cfg.Slot),
			Next: "Nothing needs to be done."}
	}
	s.cancel(cancelled{actor})
	return nil
}

func errNoOrder(slot string) *records.Refusal {
	return &records.Refusal{Code: "no-order", Sentence: fmt.Sprintf("Slot %s has no order.", slot),
		Next: "Name one: 'station slot start " + slot + " --order ORDER', or order: in the station file."}
}

// Run takes boards until ctx ends. Its error wraps ErrStop.
func (s *Slot) Run(ctx context.Context) error {
	arrived := true // a port that is there at the start counts as arrived: a passage may have died here
	poll := time.NewTicker(presencePoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			ran, err := s.passage(ctx, nil)
			if err != nil {
				return err
			}
			arrived = arrived && !ran
		case <-poll.C:
			if !s.cfg.Port.Present(ctx) {
				arrived = true
				s.gone()
				continue
			}
			if !s.cfg.Auto || !arrived {
				s.waiting(nil)
				continue
			}
			order := s.Status().Order
			if order == "" {
				s.waiting(errNoOrder(s.cfg.Slot))
				continue
			}
			if _, err := s.passage(ctx, &start{order, s.cfg.Actor}); err != nil {
				return err
			}
			arrived = false
		}
	}
}

// passage runs one passage and shows how it ended. A start that somebody asked
// for goes before one that a board's arrival wants; if there is neither, because
// it was taken back, nothing happens.
func (s *Slot) passage(ctx context.Context, wanted *start) (ran bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if wanted = s.begin(wanted, cancel); wanted == nil {
		return false, nil
	}
	p := &passage{Config: s.cfg, order: wanted.order, actor: wanted.actor, show: s.update}
	p.log = s.cfg.Log.With().Str("slot", s.cfg.Slot).Str("order", wanted.order).Logger()
	end, err := p.run(ctx)
	s.update(func(st *Status) {
		s.cancel = nil
		st.State, st.Ended, st.Step, st.Done, st.Total = Done, time.Now(), "", 0, 0
		st.Verdict, st.Code, st.Sentence, st.Next = end.Verdict, end.Refusal.Code, end.Refusal.Sentence, end.Refusal.Next
	})
	return true, err
}

// begin decides who starts the passage and shows that it runs, in one: nobody
// can ask for a start in between.
func (s *Slot) begin(wanted *start, cancel context.CancelCauseFunc) *start {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != nil {
		wanted, s.asked = s.asked, nil
	}
	if wanted != nil {
		s.cancel = cancel
		s.change(func(st *Status) {
			*st = Status{Slot: st.Slot, Order: wanted.order, State: Running, Started: time.Now()}
		})
	}
	return wanted
}

// gone shows an empty slot; the last verdict stays in sight until the next board.
func (s *Slot) gone() {
	if s.Status().State != Empty {
		s.update(func(st *Status) { st.State = Empty })
	}
}

// waiting shows that a board is there and what it waits for. What was said of
// the board before it is gone with that.
func (s *Slot) waiting(why *records.Refusal) {
	st := s.Status()
	if st.State == Done || (st.State == Waiting && (why == nil || st.Code == why.Code)) {
		return
	}
	s.update(func(st *Status) {
		*st = Status{Slot: st.Slot, Order: st.Order, State: Waiting}
		if why != nil {
			st.Code, st.Sentence, st.Next = why.Code, why.Sentence, why.Next
		}
	})
}

func (s *Slot) update(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(change)
}

// change is update with mu held.
func (s *Slot) change(change func(*Status)) {
	change(&s.status)
	if s.cfg.Changed != nil {
		s.cfg.Changed(s.status)
	}
}

// ErrStop says that nothing may be done any more until the station has started
// anew: what the ledger holds is not known, or it cannot be written to.
var ErrStop = errors.New("the station must stop and start again")
