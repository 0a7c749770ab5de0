package replay

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
	"nameplate/records/ledger"
)

// batchSize is how many events a core takes at once: enough that handing them
// over costs nothing beside the work, few enough that little memory waits.
const batchSize = 256

// read is one stored event, with all that can be known of it alone.
type read struct {
	seq   int64
	leaf  tlog.Hash
	event records.Event
	err   error // the event cannot be read
	marks []records.Mark
	bad   []error // what is wrong with the event as such
}

type batch struct {
	leaves []ledger.Leaf
	reads  []read
	done   chan struct{}
}

// history is the first pass. Events are decoded, hashed and checked on all
// cores, and then judged one after the other.
func (r *run) history(ctx context.Context) error {
	pending, err := r.checkpoints(ctx)
	if err != nil {
		return err
	}
	last := records.Event{}
	total := r.src.Size()
	for b, err := range r.batches(ctx) {
		if err != nil {
			return err
		}
		for i := range b.reads {
			e := &b.reads[i]
			if want := last.Seq + 1; e.seq != want {
				r.found(e.seq, "the numbering is broken", fmt.Sprintf("event %d", want), fmt.Sprintf("event %d", e.seq))
			}
			r.tree.add(e.leaf)
			pending = r.judgeTree(e.seq, pending)
			if e.err != nil {
				r.found(e.seq, "the event cannot be read: "+e.err.Error(), "", "")
				last.Seq = e.seq
				continue
			}
			r.judge(e, last)
			last = e.event
			last.Seq = e.seq
		}
		r.options.Progress(Progress{Pass: "events", Done: r.tree.size, Total: total})
	}
	r.report.Events, r.report.Root = r.tree.size, r.tree.root()
	if r.tree.size == total {
		stored, err := r.src.Root(ctx, total)
		if err != nil {
			r.found(0, "the stored tree cannot be read: "+err.Error(), "", "")
		} else if stored != r.report.Root {
			r.found(0, "the stored tree is not that of the stored events", stored.String(), r.report.Root.String())
		}
	}
	for _, c := range pending {
		r.found(0, c.name()+" covers events that are not here", fmt.Sprintf("%d events", c.size), fmt.Sprintf("%d", r.tree.size))
	}
	return nil
}

// batches reads ahead and yields the events in order; the cores decode those to
// come meanwhile.
func (r *run) batches(ctx context.Context) iter.Seq2[*batch, error] {
	return func(yield func(*batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		cores := runtime.GOMAXPROCS(0)
		work, inOrder := make(chan *batch), make(chan *batch, 2*cores)
		var failed error // belongs to the reader until inOrder is closed
		var helpers sync.WaitGroup
		defer helpers.Wait()
		defer cancel()
		helpers.Go(func() {
			defer close(inOrder)
			defer close(work)
			b := &batch{done: make(chan struct{})}
			send := func() bool {
				for _, to := range []chan *batch{inOrder, work} {
					select {
					case to <- b:
					case <-ctx.Done():
						return false
					}
				}
				b = &batch{done: make(chan struct{})}
				return true
			}
			for leaf, err := range r.src.Leaves(ctx, 1) {
				if err != nil {
					failed = err
					return
				}
				if b.leaves = append(b.leaves, leaf); len(b.leaves) == batchSize && !send() {
					return
				}
			}
			if len(b.leaves) > 0 {
				send()
			}
		})
		for range cores {
			helpers.Go(func() {
				for b := range work {
					for _, leaf := range b.leaves {
						b.reads = append(b.reads, r.read(leaf))
					}
					b.leaves = nil
					close(b.done)
				}
			})
		}
		for b := range inOrder {
			select {
			case <-b.done:
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
			if !yield(b, nil) {
				return
			}
		}
		if failed == nil {
			failed = ctx.Err()
		}
		if failed != nil {
			yield(nil, failed)
		}
	}
}

// read decodes and checks one event by itself. It runs on all cores.
func (r *run) read(leaf ledger.Leaf) read {
	e := read{seq: leaf.Seq, leaf: tlog.RecordHash(leaf.Bytes)}
	if e.event, e.err = records.Decode(leaf.Bytes); e.err != nil {
		return e
	}
	if !records.ConcernsOrder(e.event.Kind) {
		// The others' marks need the order as it is then.
		var err error
		if e.marks, err = records.Marks(e.event, records.Order{}); err != nil {
			e.bad = append(e.bad, err)
		}
	}
	if e.event.Unit == 0 { // the others are checked with their units
		if err := r.check(records.Unit{}, records.Order{}, e.event); err != nil {
			e.bad = append(e.bad, err)
		}
	}
	return e
}

// check makes the caller's check of the event, which is decoded, if there is one.
// It runs on all cores.
func (r *run) check(u records.Unit, o records.Order, e records.Event) error {
	check := r.options.Checks[e.Kind]
	if check == nil {
		return nil
	}
	started := time.Now()
	body, err := e.Body()
	if err != nil {
		return err
	}
	err = check(u, o, e, body)
	atomic.AddInt64((*int64)(&r.report.ChecksTook), int64(time.Since(started)))
	atomic.AddInt64(&r.report.Checked, 1)
	return err
}

// judge holds an event against those before it.
func (r *run) judge(x *read, last records.Event) {
	e := x.event
	bad := func(what, expected, found string) { r.found(x.seq, what, expected, found) }
	if e.Seq != x.seq {
		bad("the event carries another's number", fmt.Sprint(x.seq), fmt.Sprint(e.Seq))
	}
	if e.Station != r.report.Station {
		bad("the event is another station's", r.report.Station, e.Station)
	}
	if e.Time.Before(last.Time) {
		bad("the event is earlier than the one before it", "not before "+last.Time.Format(time.RFC3339Nano), e.Time.Format(time.RFC3339Nano))
	}
	for _, err := range x.bad {
		bad(err.Error(), "", "")
	}
	if e.Unit != 0 {
		r.aboutUnits++
	}
	if e.Kind == (records.UnitIdentified{}).Kind() {
		switch {
		case int64(e.Unit) == x.seq:
			r.known = append(r.known, e.Unit)
		case int64(e.Unit) > x.seq:
			bad("the unit is not known yet", "a unit made known before", e.Unit.String())
		}
	}
	r.seal(e)
	p, open := r.passages[e.Passage]
	if err := records.CheckPassage(e, open, p.in); err != nil {
		bad(err.Error(), "", "")
	}
	if at, some := judged(e); some && (at.Before(p.opened) || at.After(e.Time)) {
		bad("the TPM was not judged within its passage", fmt.Sprintf("a time from %s to %s", p.opened.Format(time.RFC3339Nano), e.Time.Format(time.RFC3339Nano)), at.Format(time.RFC3339Nano))
	}
	var o records.Order
	if records.ConcernsOrder(e.Kind) {
		if e.Order != "" {
			next, err := records.ApplyOrder(r.orders[e.Order], e)
			if err != nil {
				bad(err.Error(), "", "")
			} else {
				r.orders[e.Order] = next
			}
			o = r.orders[e.Order]
		}
		var err error
		if x.marks, err = records.Marks(e, o); err != nil {
			bad(err.Error(), "", "")
		}
	}
	for _, m := range x.marks {
		owner, ok := r.names.apply(m)
		switch {
		case ok:
			r.place(e, m)
		case m.Free:
			bad(fmt.Sprintf("%s gives back the %s %s", owned(m.Space, m.Owner), m.Space, m.Name), "that it holds it", owned(m.Space, owner))
		default:
			bad(fmt.Sprintf("the %s %s gets a second owner", m.Space, m.Name), owned(m.Space, owner), owned(m.Space, m.Owner))
		}
	}
}

// passage is an open one.
type passage struct {
	opened time.Time
	in     records.UnitID // 0 if none yet
}

// judged is when the event says that it held a TPM's certificate against the
// order. What follows from it is for who knows certificates; that it is a time of
// the passage, and not one that suits the certificate, is seen here.
func judged(e records.Event) (at time.Time, some bool) {
	if e.Kind != (records.EvidenceAccepted{}).Kind() {
		return at, false
	}
	b, err := e.Body()
	if err != nil {
		return at, false // the fold says so
	}
	t := b.(records.EvidenceAccepted).TPM
	if t == nil {
		return at, false
	}
	return t.Judged, true
}

// place follows which passages are open: those that hold a slot.
func (r *run) place(e records.Event, m records.Mark) {
	p := records.PassageID(m.Owner)
	switch m.Space {
	case records.SlotSpace:
		if m.Free {
			delete(r.passages, p)
		} else {
			r.passages[p] = passage{opened: e.Time}
		}
	case records.BoardSpace:
		if is, open := r.passages[p]; open && !m.Free {
			is.in = e.Unit
			r.passages[p] = is
		}
	}
}

func owned(space records.Space, owner int64) string {
	switch {
	case owner == 0:
		return "nobody"
	case space == records.SlotSpace, space == records.BoardSpace:
		return "passage " + records.PassageID(owner).String()
	}
	return "unit " + records.UnitID(owner).String()
}

// checkpoints returns those that the tree shall be held against, smallest first.
func (r *run) checkpoints(ctx context.Context) ([]checkpoint, error) {
	r.report.keyless = r.options.Verifier == nil
	stored, err := r.src.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	var all []checkpoint
	add := func(text []byte, size int64, isStored bool) {
		where := "the checkpoint from elsewhere"
		if isStored {
			where = fmt.Sprintf("the stored checkpoint over %d events", size)
		}
		c, err := parseCheckpoint(text, r.options.Verifier)
		c.stored = isStored
		switch {
		case err != nil:
			r.found(0, where+" is not the station's: "+err.Error(), "", "")
		case c.origin != r.report.Origin:
			r.found(0, where+" is another ledger's", r.report.Origin, c.origin)
		case isStored && c.size != size:
			r.found(0, where+" says another size", fmt.Sprint(size), fmt.Sprint(c.size))
		default:
			all = append(all, c)
		}
	}
	for _, s := range stored {
		add(s.Text, s.Size, true)
	}
	if r.options.Outside != nil {
		add(r.options.Outside, 0, false)
	}
	slices.SortStableFunc(all, func(a, b checkpoint) int { return int(min(1, max(-1, a.size-b.size))) })
	return r.judgeTree(0, all), nil
}

// judgeTree compares the tree, as far as it has come, with the checkpoints over
// so many events, and returns those over more.
func (r *run) judgeTree(event int64, all []checkpoint) []checkpoint {
	for len(all) > 0 && all[0].size == r.tree.size {
		c := all[0]
		all = all[1:]
		if root := r.tree.root(); root != c.root {
			r.found(event, fmt.Sprintf("%s is not over these events: something among them was changed", c.name()), c.root.String(), root.String())
			continue
		}
		if !c.stored {
			r.report.Outside = c.size
			continue
		}
		r.report.Checkpoints++
		if !r.report.keyless {
			r.report.Signed = c.size
		}
	}
	return all
}
