package line_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"nameplate/flasher/espressif"
	"nameplate/records"
	"nameplate/station/line"
)

func auto(order string) func(*line.Config) {
	return func(c *line.Config) { c.Auto, c.Order = true, order }
}

func empty(st line.Status) bool   { return st.State == line.Empty }
func waiting(st line.Status) bool { return st.State == line.Waiting }
func running(st line.Status) bool { return st.State == line.Running }

// wantCode asserts a refusal to the caller, in words.
func wantCode(t testing.TB, err error, code, sentence, next string) {
	t.Helper()
	var r *records.Refusal
	if !errors.As(err, &r) || r.Code != code || r.Sentence != sentence || r.Next != next {
		t.Errorf("got %v, want %s: %s %s", err, code, sentence, next)
	}
}

// A board is started when it arrives, once; the next one when the first has gone.
func TestAutoStartsOnArrival(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order := s.order(records.SymmetricKey, 3)
	polls := make(chan struct{})
	place := &watchedPlace{place: at(nil), looked: polls}
	w := s.slot("slot-1", place, auto(order))

	next := 0
	for i := range 3 {
		place.put(newBoard(fmt.Sprint("board-", i)))
		var st line.Status
		st, next = w.await(next, over)
		wantVerdict(t, st, records.Pass, "")
		// It stays in while the slot looks again and again: no second passage.
		for range 3 {
			<-polls
		}
		if passes := len(s.units()); passes != i+1 || w.count() != next+1 {
			t.Fatalf("the slot went on by itself: %d units, %+v", passes, w.Status())
		}
		place.put(nil)
		st, next = w.await(next, empty)
		if st.Verdict != records.Pass || st.RegistrationID == "" {
			t.Errorf("the verdict is out of sight with the board: %+v", st)
		}
	}
	s.oneIdentity(order, 3)
}

// watchedPlace tells when a slot has looked at it.
type watchedPlace struct {
	*place
	looked chan struct{}
}

func (p *watchedPlace) Present(ctx context.Context) bool {
	defer func() {
		select {
		case p.looked <- struct{}{}:
		default:
		}
	}()
	return p.place.Present(ctx)
}

// A board that is in at the start counts as arrived: the station may have died
// with it.
func TestAutoStartsWhatIsThereAtTheStart(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order, place := s.order(records.X509, 1), at(newBoard("a"))
	s.book.fail("write.begun", applied)
	w := s.slot("slot-1", place, auto(order))
	<-w.ended
	s.restart()
	w = s.slot("slot-1", place, auto(order))
	st, _ := w.await(0, over)
	wantVerdict(t, st, records.Pass, "")
	s.oneIdentity(order, 1)
}

// Without an order nothing starts; the slot says what is missing, and a start
// that names one is taken and kept for the boards to come.
func TestAutoWaitsForAnOrder(t *testing.T) {
	const sentence, next = "Slot slot-1 has no order.", "Name one: 'station slot start slot-1 --order ORDER', or order: in the station file."
	s := newStation(t, &fakeDriver{})
	order, place := s.order(records.SymmetricKey, 2), at(newBoard("a"))
	w := s.slot("slot-1", place, auto(""))
	st, n := w.await(0, waiting)
	if st.Code != "no-order" || st.Sentence != sentence || st.Next != next || st.Verdict != "" {
		t.Errorf("the slot shows %+v", st)
	}
	wantCode(t, w.Start("", badge), "no-order", sentence, next)
	must(t, w.Start(order, badge))
	st, n = w.await(n, over)
	wantVerdict(t, st, records.Pass, "")
	if st.Code != "" {
		t.Errorf("the slot still shows %+v", st)
	}
	place.put(nil)
	_, n = w.await(n, empty)
	place.put(newBoard("b"))
	st, _ = w.await(n, over)
	wantVerdict(t, st, records.Pass, "")
	events := s.events()
	if a := events[len(events)-1].Actor; a != self {
		t.Errorf("a passage that started by itself was started by %v", a)
	}
}

// A slot that does not start by itself shows that a board waits, and nothing of
// the board before it.
func TestManualSlotWaits(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order, place := s.order(records.SymmetricKey, 2), at(newBoard("a"))
	w := s.slot("slot-1", place, func(c *line.Config) { c.Order = order })
	_, n := w.await(0, waiting)
	if len(s.units()) != 0 {
		t.Error("it started by itself")
	}
	must(t, w.Start("", badge)) // the slot's own order
	st, n := w.await(n, over)
	wantVerdict(t, st, records.Pass, "")
	place.put(nil)
	_, n = w.await(n, empty)
	place.put(newBoard("b"))
	if st, _ = w.await(n, waiting); st != (line.Status{Slot: "slot-1", Order: order, State: line.Waiting}) {
		t.Errorf("the next board waits under %+v", st)
	}
}

// An order is taken up at once: a board that waited for one is started, and what
// the last board's verdict was stays in sight. A running board keeps its own.
func TestSetOrder(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	first, second := s.order(records.X509, 1), s.order(records.SymmetricKey, 1)
	place := at(newBoard("a"))
	w := s.slot("slot-1", place, auto(""))
	_, n := w.await(0, waiting)
	probing1, probed := make(chan struct{}), make(chan struct{})
	d.at(probing, func(context.Context, *board) error { close(probing1); <-probed; return nil })
	must(t, w.SetOrder(first))
	if st, _ := w.await(n+1, func(line.Status) bool { return true }); st != (line.Status{Slot: "slot-1", Order: first, State: line.Waiting}) {
		t.Errorf("the slot shows %+v", st)
	}
	<-probing1
	wantCode(t, w.SetOrder(second), "slot-busy", "A passage is running in slot slot-1.", "Wait for its verdict, or cancel it.")
	close(probed)
	st, n := w.await(n, over)
	wantVerdict(t, st, records.Pass, "")
	if st.Order != first {
		t.Errorf("the board was made under %s", st.Order)
	}
	place.put(nil)
	must(t, w.SetOrder(second))
	after, n := w.await(n+1, func(st line.Status) bool { return st.Order == second })
	if after.Verdict != records.Pass || after.Serial != st.Serial {
		t.Errorf("the verdict is out of sight: %+v", after)
	}
	_, n = w.await(n, empty)
	place.put(newBoard("b"))
	st, _ = w.await(n, over)
	wantVerdict(t, st, records.Pass, "")
	s.oneIdentity(first, 1)
	s.oneIdentity(second, 1)

	// A start that was accepted holds its order.
	looking, look := make(chan struct{}, 1), make(chan struct{})
	w = s.slot("slot-2", &slowPlace{place: at(nil), looking: looking, look: look}, auto(first))
	<-looking
	must(t, w.Start("", badge))
	wantCode(t, w.SetOrder(second), "slot-busy", "A passage is running in slot slot-2.", "Wait for its verdict, or cancel it.")
	must(t, w.Cancel(badge))
	must(t, w.SetOrder(second))
	close(look)
}

// Start is refused while a passage runs or is about to; Cancel when none is.
func TestStartAndCancel(t *testing.T) {
	const busy, idle = "A passage is running in slot slot-1.", "No passage is running in slot slot-1."
	d := &fakeDriver{}
	s := newStation(t, d)
	order := s.order(records.X509, 1)
	w := s.slot("slot-1", at(newBoard("a")), nil)
	wantCode(t, w.Cancel(badge), "slot-idle", idle, "Nothing needs to be done.")
	probes := make(chan struct{})
	d.at(probing, func(ctx context.Context, _ *board) error { close(probes); <-ctx.Done(); return context.Cause(ctx) })
	must(t, w.Start(order, badge))
	wantCode(t, w.Start(order, badge), "slot-busy", busy, "Wait for its verdict, or cancel it.")
	<-probes
	wantCode(t, w.Start(order, badge), "slot-busy", busy, "Wait for its verdict, or cancel it.")
	must(t, w.Cancel(badge))
	st, _ := w.await(0, over)
	if st.Verdict != records.Error || st.Code != "cancelled" || st.Sentence != `The passage was cancelled during "identify".` ||
		st.Next != "Put the board back when you want to go on: it keeps its identity." {
		t.Errorf("the slot shows %+v", st)
	}
	wantCode(t, w.Cancel(badge), "slot-idle", idle, "Nothing needs to be done.")
	wantVerdict(t, w.pass(order), records.Pass, "")
}

// A start that was accepted and has not begun can be taken back, and the board
// that has arrived meanwhile is still started by its arrival.
func TestCancelTakesBackAStart(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order := s.order(records.X509, 1)
	looking, look := make(chan struct{}, 1), make(chan struct{})
	place := &slowPlace{place: at(newBoard("a")), looking: looking, look: look}
	w := s.slot("slot-1", place, auto(order))
	<-looking // the slot is busy looking
	must(t, w.Start(order, badge))
	must(t, w.Cancel(badge))
	wantCode(t, w.Cancel(badge), "slot-idle", "No passage is running in slot slot-1.", "Nothing needs to be done.")
	close(look)
	st, _ := w.await(0, over)
	wantVerdict(t, st, records.Pass, "")
	if a := s.events()[1].Actor; a != self {
		t.Errorf("the passage was started by %v", a)
	}
}

// slowPlace is a far machine that takes its time to say whether a board is there.
type slowPlace struct {
	*place
	looking, look chan struct{}
}

func (p *slowPlace) Present(ctx context.Context) bool {
	select {
	case p.looking <- struct{}{}:
	default:
	}
	select {
	case <-p.look:
	case <-ctx.Done():
	}
	return p.place.Present(ctx)
}

// A person's start that meets a board's arrival is one passage, the person's;
// no later start blocks the slot or anybody who looks at it.
func TestStartMeetsArrival(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	order := s.order(records.X509, 1)
	looking, look := make(chan struct{}, 1), make(chan struct{})
	place := &slowPlace{place: at(newBoard("a")), looking: looking, look: look}
	w := s.slot("slot-1", place, auto(order))
	<-looking
	must(t, w.Start(order, badge))
	look <- struct{}{} // and the board is there: both want a passage now
	st, n := w.await(0, over)
	wantVerdict(t, st, records.Pass, "")
	if a := s.events()[1].Actor; a != badge {
		t.Errorf("the passage was started by %v", a)
	}
	<-looking // no second passage was left over
	if w.count() != n+1 {
		t.Errorf("the slot went on: %+v", w.Status())
	}
	must(t, w.Start(order, badge))
	wantCode(t, w.Start(order, badge), "slot-busy", "A passage is running in slot slot-1.", "Wait for its verdict, or cancel it.")
	close(look)
	st, _ = w.await(n+1, over)
	wantVerdict(t, st, records.Error, "board-released")
}

// What a slot shows comes in order: each step once, its progress growing, and
// the verdict last, with nothing of the step left.
func TestStatusStream(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order := s.order(records.X509, 1)
	w := s.slot("slot-1", at(newBoard("a")), nil)
	last := w.pass(order)
	w.end(nil)
	shown := w.shown[slices.IndexFunc(w.shown, running):]
	var steps []string
	var progress int64
	for i, st := range shown {
		if st.Slot != "slot-1" || st.Order != order {
			t.Errorf("status %d is of slot %s, order %s", i, st.Slot, st.Order)
		}
		if st.Step != "" && (len(steps) == 0 || steps[len(steps)-1] != st.Step) {
			steps, progress = append(steps, st.Step), 0
		}
		if st.Done < progress || st.Done > st.Total {
			t.Errorf("status %d: %d of %d after %d", i, st.Done, st.Total, progress)
		}
		progress = st.Done
		if (st.Verdict != "") != (i == len(shown)-1) {
			t.Errorf("status %d of %d has verdict %q", i, len(shown), st.Verdict)
		}
	}
	if want := []string{"identify", "claim", "resume", "key", "issue", "write", "verify", "release"}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	u := s.unit()
	want := line.Status{Slot: "slot-1", State: line.Done, Order: order, Passage: 2, Unit: u.ID, Serial: u.Serial, RegistrationID: u.RegistrationID,
		Verdict: records.Pass, Started: last.Started, Ended: last.Ended}
	if last != want || last.Ended.Before(last.Started) {
		t.Errorf("at the end\n%+v, want\n%+v", last, want)
	}
}

// Real boards in two slots at once do not disturb one another.
func TestTwoSlotsWithRealBoards(t *testing.T) {
	t.Parallel()
	s := newStation(t, espressif.New())
	orders := map[string]string{}
	for _, a := range attestations {
		orders[a] = s.order(a, 1)
	}
	var all sync.WaitGroup
	for i, a := range attestations {
		place := newSocket(t)
		w := s.slot(fmt.Sprint("slot-", i), place.port, auto(orders[a]))
		b := numbered(t, i)
		all.Go(func() {
			if err := place.Insert(b); err != nil {
				t.Error(err)
				return
			}
			if st, _ := w.await(0, over); st.Verdict != records.Pass {
				t.Errorf("%+v", st)
			}
		})
		t.Cleanup(func() { place.Remove() })
	}
	all.Wait()
	for _, a := range attestations {
		s.oneIdentity(orders[a], 1)
	}
}
