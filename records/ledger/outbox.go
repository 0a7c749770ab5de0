package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"nameplate/records"
)

// OutboxItem is an enrollment that the customer's service has not accepted yet.
// Tries, times and errors are no facts: they are not in the log, and replay does
// not know them.
type OutboxItem struct {
	Unit           records.UnitID
	RegistrationID string
	Customer       string
	Tries          int
	NextAt         time.Time // not before
	LastError      string
	State          string // OutboxDueState or OutboxAsideState
}

// States of an OutboxItem.
const (
	OutboxDueState   = "due"
	OutboxAsideState = "aside" // waits for a person
)

// OutboxCount is how a customer's outbox stands.
type OutboxCount struct {
	Customer             string
	Due, Aside, Accepted int
	Next                 time.Time // when the first due item is to be tried; zero if none is due
	// LastError is what the last try met; if it went well, what one of those met
	// that are still due; else empty.
	LastError string
}

const outboxColumns = "SELECT unit, registration_id, customer, tries, next_at, last_error, state FROM outbox "

// maxOutboxWait bounds what an item can be put off: twice the hour that is the
// longest wait a service is granted, so that a clock which is corrected by a
// little cuts no such wait short. A later NextAt was set while the clock ran
// ahead; the item is due now.
const maxOutboxWait = 2 * time.Hour

// OutboxDue returns the customer's items to be tried now, those that wait longest
// first, those of a clock that ran ahead last.
func (l *Ledger) OutboxDue(ctx context.Context, customer string, now time.Time, limit int) ([]OutboxItem, error) {
	// Two queries, because each can stop at its limit, and both at once could not.
	items, err := l.outbox(ctx, outboxColumns+"WHERE customer = ? AND state = 'due' AND next_at <= ? ORDER BY next_at, unit LIMIT ?",
		customer, now.UnixMicro(), limit)
	if err != nil || len(items) == limit {
		return items, err
	}
	ahead, err := l.outbox(ctx, outboxColumns+"WHERE customer = ? AND state = 'due' AND next_at > ? ORDER BY next_at, unit LIMIT ?",
		customer, now.Add(maxOutboxWait).UnixMicro(), limit-len(items))
	return append(items, ahead...), err
}

// OutboxAside returns the customer's items that wait for a person.
func (l *Ledger) OutboxAside(ctx context.Context, customer string) ([]OutboxItem, error) {
	return l.outbox(ctx, outboxColumns+"WHERE customer = ? AND state = 'aside' ORDER BY unit", customer)
}

func (l *Ledger) outbox(ctx context.Context, query string, args ...any) ([]OutboxItem, error) {
	var all []OutboxItem
	err := l.each(ctx, "reading outbox", query, args, func(rows *sql.Rows) error {
		var it OutboxItem
		var next int64
		if err := rows.Scan(&it.Unit, &it.RegistrationID, &it.Customer, &it.Tries, &next, &it.LastError, &it.State); err != nil {
			return err
		}
		it.NextAt = time.UnixMicro(next).UTC()
		all = append(all, it)
		return nil
	})
	return all, err
}

// OutboxNext returns when the customer's first due item is to be tried, and
// whether there is one. The time may have passed.
func (l *Ledger) OutboxNext(ctx context.Context, customer string, now time.Time) (time.Time, bool, error) {
	var first, last sql.NullInt64
	_, err := l.one(ctx, "reading outbox", `SELECT
		(SELECT min(next_at) FROM outbox WHERE customer = ?1 AND state = 'due'),
		(SELECT max(next_at) FROM outbox WHERE customer = ?1 AND state = 'due')`, []any{customer}, &first, &last)
	if err != nil || !first.Valid {
		return time.Time{}, false, err
	}
	return nextTry(first.Int64, last.Int64, now), true, nil
}

// nextTry is when the first of items is to be tried that are put off until first
// to last.
func nextTry(first, last int64, now time.Time) time.Time {
	at := time.UnixMicro(first).UTC()
	if last > now.Add(maxOutboxWait).UnixMicro() && at.After(now) {
		return now.UTC()
	}
	return at
}

// OutboxStatus returns how each customer's outbox stands, by customer.
func (l *Ledger) OutboxStatus(ctx context.Context) ([]OutboxCount, error) {
	var all []OutboxCount
	err := l.each(ctx, "reading outbox", `SELECT c.customer, c.accepted,
		CASE c.last_error WHEN '' THEN coalesce((SELECT last_error FROM outbox o WHERE o.customer = c.customer AND o.state = 'due' AND last_error <> ''
			ORDER BY next_at DESC LIMIT 1), '') ELSE c.last_error END,
		(SELECT count(*) FROM outbox o WHERE o.customer = c.customer AND o.state = 'due'),
		(SELECT count(*) FROM outbox o WHERE o.customer = c.customer AND o.state = 'aside'),
		(SELECT min(next_at) FROM outbox o WHERE o.customer = c.customer AND o.state = 'due'),
		(SELECT max(next_at) FROM outbox o WHERE o.customer = c.customer AND o.state = 'due')
		FROM outbox_customers c ORDER BY c.customer`, nil, func(rows *sql.Rows) error {
		var c OutboxCount
		var first, last sql.NullInt64
		if err := rows.Scan(&c.Customer, &c.Accepted, &c.LastError, &c.Due, &c.Aside, &first, &last); err != nil {
			return err
		}
		if first.Valid {
			c.Next = nextTry(first.Int64, last.Int64, time.Now())
		}
		all = append(all, c)
		return nil
	})
	return all, err
}

// OutboxDefer counts a try for each of the units' items and puts the next off, by
// two hours at most. An item that is no longer due stays as it is.
func (l *Ledger) OutboxDefer(ctx context.Context, units []records.UnitID, next time.Time, why string) error {
	return l.submit(ctx, func(g *group) error {
		if last := g.now.Add(maxOutboxWait); next.After(last) {
			next = last
		}
		for _, unit := range units {
			if _, err := g.execN("putting off enrollment", g.w.s.deferOutbox, next.UnixMicro(), why, int64(unit)); err != nil {
				return err
			}
			if _, err := g.execN("noting trouble", g.w.s.setTrouble, why, int64(unit)); err != nil {
				return err
			}
		}
		return nil
	})
}

// OutboxNote sets the LastError of a customer who has had items, none of which was
// tried.
func (l *Ledger) OutboxNote(ctx context.Context, customer, why string) error {
	return l.submit(ctx, func(g *group) error {
		// Too rare to be prepared.
		if _, err := g.w.conn.ExecContext(background, "UPDATE outbox_customers SET last_error = ? WHERE customer = ?", why, customer); err != nil {
			return refuse("noting trouble", err)
		}
		return nil
	})
}

// OutboxRetry makes an item that was set aside due again, now.
func (l *Ledger) OutboxRetry(ctx context.Context, unit records.UnitID) error {
	return l.submit(ctx, func(g *group) error {
		n, err := g.execN("retrying enrollment", g.w.s.retryOutbox, g.now.UnixMicro(), int64(unit))
		if err == nil && n == 0 {
			return &records.Refusal{Code: "enrollment-not-aside", Sentence: fmt.Sprintf("No enrollment of unit %s is set aside.", unit),
				Next: "See 'station push status' for those that are."}
		}
		return err
	})
}

// enqueue makes the released unit's enrollment due.
func (g *group) enqueue(id records.UnitID) error {
	u, err := g.Unit(id)
	if err != nil {
		return err
	}
	if _, err := g.execN("storing customer", g.w.s.putCustomer, u.Customer); err != nil {
		return err
	}
	return g.exec1("storing enrollment", g.w.s.putOutbox, int64(id), u.RegistrationID, u.Customer, g.now.UnixMicro())
}

// accepted takes the unit's item out.
func (g *group) accepted(id records.UnitID) error {
	u, err := g.Unit(id)
	if err != nil {
		return err
	}
	if err := g.exec1("counting enrollment", g.w.s.countAccepted, u.Customer); err != nil {
		return err
	}
	return g.exec1("removing enrollment", g.w.s.dropOutbox, int64(id))
}

// rejected sets the unit's item aside.
func (g *group) rejected(id records.UnitID, b records.EnrollmentRejected) error {
	why := b.Code + ": " + b.Sentence
	if err := g.exec1("noting trouble", g.w.s.setTrouble, why, int64(id)); err != nil {
		return err
	}
	return g.exec1("setting enrollment aside", g.w.s.moveOutbox, why, int64(id))
}
