package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"

	"nameplate/records"
	"nameplate/records/ledger"
)

// projections holds the stored orders and names against those that the events
// make.
func (r *run) projections(ctx context.Context) error {
	left := maps.Clone(r.orders)
	for row, err := range r.src.OrderRows(ctx) {
		if err != nil {
			return err
		}
		o, ok := r.orders[row.ID]
		if !ok {
			r.found(0, fmt.Sprintf("a row is stored for order %s, which no event opened", row.ID), "", "")
			continue
		}
		delete(left, row.ID)
		body, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encoding order %s: %w", o.ID, err)
		}
		if !bytes.Equal(body, row.Body) {
			r.found(0, fmt.Sprintf("the stored state of order %s is not what its events make", row.ID), string(body), string(row.Body))
		}
		columns := func(customer string, live, quota int) string {
			return fmt.Sprintf("customer %q, %d live of %d", customer, live, quota)
		}
		if want, is := columns(o.Customer, o.Live, o.Quota), columns(row.Customer, row.Live, row.Quota); is != want {
			r.found(0, fmt.Sprintf("the stored columns of order %s are not what its events make", row.ID), want, is)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		r.found(0, fmt.Sprintf("order %s has no stored row", id), "", "")
	}
	r.report.Orders = len(r.orders)

	agree := map[records.Space]int64{}
	for row, err := range r.src.OwnerRows(ctx) {
		if err != nil {
			return err
		}
		if owner := r.names.owner(row.Space, row.Name); owner != row.Owner {
			r.found(0, fmt.Sprintf("the stored owner of the %s %s is not what the events make", row.Space, row.Name), owned(row.Space, owner), owned(row.Space, row.Owner))
			if owner == 0 {
				continue
			}
		}
		agree[row.Space]++
	}
	for _, space := range slices.Sorted(maps.Keys(r.names.live)) {
		r.report.Names += r.names.live[space]
		if r.names.live[space] != agree[space] {
			r.found(0, fmt.Sprintf("stored owners of space %s are missing", space), fmt.Sprint(r.names.live[space]), fmt.Sprint(agree[space]))
		}
	}
	return nil
}

// stored is a unit as stored: its row, its events, and its enrollment if it is in
// the outbox.
type stored struct {
	row    ledger.UnitRow
	events []ledger.UnitLeaf
	outbox *ledger.OutboxRow
}

// units is the second pass: each unit by itself. One goroutine reads the rows,
// the events and the outbox side by side, all by unit; all cores decode, fold and compare.
func (r *run) units(ctx context.Context) error {
	work := make(chan stored, 2*runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for s := range work {
				r.unit(s)
			}
		})
	}
	err := r.readUnits(ctx, work)
	close(work)
	workers.Wait()
	if err != nil {
		return err
	}
	if folded := r.folded.Load(); folded != r.aboutUnits {
		r.found(0, "events about units are not found through their units", fmt.Sprint(r.aboutUnits), fmt.Sprint(folded))
		return nil // without them counts mean nothing
	}
	return r.counts(ctx)
}

func (r *run) readUnits(ctx context.Context, work chan<- stored) error {
	next, stop := iter.Pull2(r.src.UnitLeaves(ctx))
	defer stop()
	leaf, err, more := next()
	o, stopOutbox := newOutbox(r.src.OutboxRows(ctx))
	defer stopOutbox()
	total := int64(len(r.known))
	for row, rowErr := range r.src.UnitRows(ctx) {
		if rowErr != nil {
			return rowErr
		}
		for len(r.known) > 0 && r.known[0] < row.ID {
			r.missingUnit()
		}
		if len(r.known) == 0 || r.known[0] > row.ID {
			r.found(0, fmt.Sprintf("a row is stored for unit %s, which no event made known", row.ID), "", "")
			continue
		}
		r.known = r.known[1:]
		s := stored{row: row}
		if err := r.strays(o, func(id records.UnitID) bool { return id < row.ID }); err != nil {
			return err
		}
		if s.outbox, err = o.take(func(id records.UnitID) bool { return id == row.ID }); err != nil {
			return err
		}
		for ; more && err == nil && leaf.Unit <= row.ID; leaf, err, more = next() {
			if leaf.Unit == row.ID {
				s.events = append(s.events, leaf)
			}
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		work <- s
		if r.report.Units++; r.report.Units%batchSize == 0 || r.report.Units == total {
			r.options.Progress(Progress{Pass: "units", Done: r.report.Units, Total: total})
		}
	}
	for len(r.known) > 0 {
		r.missingUnit()
	}
	return r.strays(o, func(records.UnitID) bool { return true })
}

func (r *run) missingUnit() {
	r.found(int64(r.known[0]), fmt.Sprintf("unit %s has no stored row", r.known[0]), "", "")
	r.known = r.known[1:]
}

// unit folds one unit's events and compares.
func (r *run) unit(s stored) {
	row := s.row
	var u records.Unit
	for _, leaf := range s.events {
		e, err := records.Decode(leaf.Bytes)
		if err != nil {
			continue // the first pass has said so
		}
		r.folded.Add(1)
		if e.Unit != row.ID {
			r.found(e.Seq, "the event is stored with another unit's", e.Unit.String(), row.ID.String())
			continue
		}
		r.missingSeal(e)
		if err := r.claim(u, e); err != nil {
			r.found(e.Seq, err.Error(), "", "")
		}
		if err := r.check(u, r.orders[e.Order], e); err != nil {
			r.found(e.Seq, err.Error(), "", "")
		}
		next, err := records.ApplyUnit(u, e)
		if err != nil {
			r.found(e.Seq, err.Error(), "", "")
			continue
		}
		u = next
	}
	body, err := json.Marshal(u)
	if err != nil {
		r.found(0, fmt.Sprintf("the state of unit %s cannot be written: %s", row.ID, err), "", "")
		return
	}
	if !bytes.Equal(body, row.Body) {
		r.found(0, fmt.Sprintf("the stored state of unit %s is not what its events make", row.ID), string(body), string(row.Body))
	}
	r.enrollment(row.ID, u, s.outbox)
	columns := func(order, customer string, state records.UnitState) string {
		return fmt.Sprintf("order %q, customer %q, state %q", order, customer, state)
	}
	if want, is := columns(u.Order, u.Customer, u.State), columns(row.Order, row.Customer, row.State); is != want {
		r.found(0, fmt.Sprintf("the stored columns of unit %s are not what its events make", row.ID), want, is)
	}
}

// claim checks that what a unit was given is what its order says.
func (r *run) claim(u records.Unit, e records.Event) error {
	if e.Kind != (records.IdentityClaimed{}).Kind() {
		return nil
	}
	b, err := e.Body()
	if err != nil {
		return err
	}
	c, o := b.(records.IdentityClaimed), r.orders[e.Order]
	serial := o.Serial(c.Number)
	want := records.IdentityClaimed{Customer: o.Customer, Number: c.Number, Serial: serial,
		RegistrationID: o.RegistrationIDFor(serial, u.Hardware), RegistrationURL: o.Terms.RegistrationURL,
		IDScope: o.Terms.IDScope, Attestation: o.Terms.Attestation, Key: o.Terms.Key}
	if c != want {
		return fmt.Errorf("the claim is not what order %s gives unit %s: expected %+v, found %+v", o.ID, u.ID, want, c)
	}
	return nil
}
