package line_test

import (
	"context"
	"slices"
	"sync"

	"nameplate/flasher/link"
	"nameplate/station/line"

	"github.com/rs/zerolog"
)

// slot is a place in the fixture, and all that it has shown.
type slot struct {
	*line.Slot
	s *station

	mu      sync.Mutex
	shown   []line.Status
	changed chan struct{}
	ended   chan struct{} // closed when Run has returned
	err     error         // of Run
	stop    context.CancelCauseFunc
}

// slot starts a slot. change, which may be nil, alters its configuration.
func (s *station) slot(name string, port link.Port, change func(*line.Config)) *slot {
	s.Helper()
	w := &slot{s: s, changed: make(chan struct{}), ended: make(chan struct{})}
	c := line.Config{Slot: name, Port: port, Actor: self, Ledger: s.book, Issuer: s.issuer, Secrets: s, Jobs: s.job,
		Changed: w.show, Log: zerolog.New(s.log)}
	if change != nil {
		change(&c)
	}
	w.Slot = line.New(c)
	ctx, cancel := context.WithCancelCause(s.ctx)
	w.stop = cancel
	go func() {
		defer close(w.ended)
		w.err = w.Run(ctx)
	}()
	s.Cleanup(func() { w.end(nil) })
	return w
}

func (w *slot) show(st line.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown = append(w.shown, st)
	close(w.changed)
	w.changed = make(chan struct{})
}

// end stops the slot for the given reason and waits for it.
func (w *slot) end(cause error) error {
	w.stop(cause)
	<-w.ended
	return w.err
}

// await returns the first status from the n-th on that is as wanted, and its
// place. Run's end without it is the test's end.
func (w *slot) await(from int, want func(line.Status) bool) (line.Status, int) {
	w.s.Helper()
	ended := false
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.shown[min(from, len(w.shown)):], want)
		changed := w.changed
		if i >= 0 {
			defer w.mu.Unlock()
			return w.shown[from+i], from + i
		}
		w.mu.Unlock()
		if ended {
			w.s.Fatalf("slot %s ended: %v", w.Status().Slot, w.err)
		}
		select {
		case <-changed:
		case <-w.ended:
			ended = true // and look once more
		case <-w.s.ctx.Done():
			w.s.Fatalf("slot %s is in %+v and does not go on", w.Status().Slot, w.Status())
		}
	}
}

func over(st line.Status) bool { return st.State == line.Done }

// count is how much was shown so far.
func (w *slot) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.shown)
}

// pass runs one passage and returns how it ended.
func (w *slot) pass(order string) line.Status {
	w.s.Helper()
	from := w.count()
	must(w.s, w.Start(order, badge))
	st, _ := w.await(from, over)
	return st
}

// attempt runs one passage until its verdict or, if the ledger gives up, the
// slot's end.
func (w *slot) attempt(order string) {
	w.s.Helper()
	must(w.s, w.Start(order, badge))
	for {
		w.mu.Lock()
		is, changed := slices.ContainsFunc(w.shown, over), w.changed
		w.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-w.ended:
			return
		case <-w.s.ctx.Done():
			w.s.Fatalf("slot %s is in %+v and does not go on", w.Status().Slot, w.Status())
		}
	}
}
