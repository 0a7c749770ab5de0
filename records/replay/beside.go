package replay

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"nameplate/records"
	"nameplate/records/ledger"
)

// What lies beside the log is in no hash, and follows from the events all the
// same: which secrets are sealed, and which enrollments are due.

// sealSpace is where run.seals keeps the references of sealed secrets. Each
// belongs to its unit; once the secret is destroyed, to the unit's negative.
const sealSpace records.Space = "seal"

// seal follows which secrets are sealed.
func (r *run) seal(e records.Event) {
	body, _ := e.Body() // decoded by read
	switch b := body.(type) {
	case records.SecretSealed:
		s := r.seals.entry(sealSpace, b.Ref)
		if s.owner != 0 {
			r.found(e.Seq, fmt.Sprintf("the secret %s is sealed a second time", b.Ref), "", "")
			return
		}
		s.owner = int64(e.Unit)
	case records.SecretDestroyed:
		// If it is not the unit's live one, the unit's fold says so.
		if s := r.seals.entry(sealSpace, b.Ref); s.owner == int64(e.Unit) {
			s.owner = -s.owner
		}
	}
}

// sealed holds the stored secrets against those that the events seal. Those that
// it finds are nobody's from then on: what is left is missing, and the second
// pass, which knows the references, says so.
func (r *run) sealed(ctx context.Context) error {
	for row, err := range r.src.SealRows(ctx) {
		if err != nil {
			return err
		}
		s := r.seals.entry(sealSpace, row.Ref)
		unit, destroyed := records.UnitID(s.owner), false
		if unit < 0 {
			unit, destroyed = -unit, true
		}
		s.owner = 0
		switch {
		case unit == 0:
			r.found(0, fmt.Sprintf("a secret is stored as %q, which no event sealed", row.Ref), "", "")
		case row.Unit != unit:
			r.found(0, fmt.Sprintf("the secret %s is stored with another unit's", row.Ref), unit.String(), row.Unit.String())
		case destroyed && !row.Blank:
			r.found(0, fmt.Sprintf("the secret %s of unit %s was destroyed, and bytes of it are stored", row.Ref, unit), "", "")
		case !destroyed && row.Blank:
			r.found(0, fmt.Sprintf("the bytes of the secret %s of unit %s are gone, and no event destroyed them", row.Ref, unit), "", "")
		}
	}
	return nil
}

// missingSeal looks whether the event sealed a secret that is not stored.
func (r *run) missingSeal(e records.Event) {
	if e.Kind != (records.SecretSealed{}).Kind() {
		return
	}
	body, _ := e.Body() // decoded by unit
	if ref := body.(records.SecretSealed).Ref; r.seals.owner(sealSpace, ref) != 0 {
		r.found(e.Seq, fmt.Sprintf("the secret %s is not stored, though it was sealed", ref), "", "")
	}
}

// outbox goes through the stored enrollments beside the units: both are by unit.
type outbox struct {
	next func() (ledger.OutboxRow, error, bool)
	row  ledger.OutboxRow
	err  error
	more bool
}

func newOutbox(rows iter.Seq2[ledger.OutboxRow, error]) (o *outbox, stop func()) {
	o = &outbox{}
	o.next, stop = iter.Pull2(rows)
	o.row, o.err, o.more = o.next()
	return o, stop
}

// take returns the next enrollment if the condition holds for its unit, else nil.
func (o *outbox) take(condition func(records.UnitID) bool) (*ledger.OutboxRow, error) {
	if !o.more || o.err != nil || !condition(o.row.Unit) {
		return nil, o.err
	}
	row := o.row
	o.row, o.err, o.more = o.next()
	return &row, nil
}

// strays finds the enrollments, as far as the condition holds, that no stored
// unit has.
func (r *run) strays(o *outbox, condition func(records.UnitID) bool) error {
	for {
		row, err := o.take(condition)
		if row == nil || err != nil {
			return err
		}
		r.found(0, fmt.Sprintf("the outbox holds an enrollment of unit %s, and there is no such unit to hold it against", row.Unit), "", "")
	}
}

// enrollment holds what is stored of the unit's enrollment, nil if nothing is,
// against the unit as its events make it.
func (r *run) enrollment(id records.UnitID, u records.Unit, row *ledger.OutboxRow) {
	due := u.State == records.Released && u.Enrollment != records.EnrollmentDone
	switch {
	case !due && row != nil:
		r.found(0, fmt.Sprintf("the outbox holds an enrollment of unit %s, of which none is due", id), "", "")
	case due && row == nil:
		r.found(0, fmt.Sprintf("the enrollment of unit %s is not in the outbox, so that nobody pushes it", id), "", "")
	case due:
		columns := func(registration, customer string) string {
			return fmt.Sprintf("%q for customer %q", registration, customer)
		}
		if want, is := columns(u.RegistrationID, u.Customer), columns(row.RegistrationID, row.Customer); is != want {
			r.found(0, fmt.Sprintf("the enrollment of unit %s is not stored as its events make it", id), want, is)
		}
		// One that was rejected may be due again: to retry it is no fact.
		if row.State == ledger.OutboxAsideState && u.Enrollment != records.EnrollmentRefused {
			r.found(0, fmt.Sprintf("the enrollment of unit %s is set aside, and no event rejected it", id), "", "")
		}
	}
	if u.State == records.Released {
		r.count(u)
	}
}

// count counts the customers' accepted enrollments.
func (r *run) count(u records.Unit) {
	var accepted int64
	if u.Enrollment == records.EnrollmentDone {
		accepted = 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted[u.Customer] += accepted // 0 too: the stored count begins with the first release
}

// counts holds the stored counts of accepted enrollments against the units.
func (r *run) counts(ctx context.Context) error {
	stored, err := r.src.OutboxStatus(ctx)
	if err != nil {
		return err
	}
	for _, c := range stored {
		want, ok := r.accepted[c.Customer]
		delete(r.accepted, c.Customer)
		switch {
		case !ok:
			r.found(0, fmt.Sprintf("accepted enrollments are counted for customer %s, of which no unit was released", c.Customer), "", "")
		case int64(c.Accepted) != want:
			r.found(0, fmt.Sprintf("the count of accepted enrollments of customer %s is not what the events make", c.Customer), fmt.Sprint(want), fmt.Sprint(c.Accepted))
		}
	}
	for _, customer := range slices.Sorted(maps.Keys(r.accepted)) {
		r.found(0, fmt.Sprintf("the count of accepted enrollments of customer %s is missing", customer), "", "")
	}
	return nil
}
