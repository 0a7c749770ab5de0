package ledger

import (
	"context"
	"database/sql"
	"iter"
	"math"

	"nameplate/records"
)

// SealRow is a sealed secret as stored beside the log, without its bytes: whether
// they are the right ones only the key that opens them can tell.
type SealRow struct {
	Ref   string
	Unit  records.UnitID
	Blank bool // there are no bytes: it was destroyed
}

// OutboxRow is an enrollment as stored in the outbox, without what is no fact.
type OutboxRow struct {
	Unit           records.UnitID
	RegistrationID string
	Customer       string
	State          string // OutboxDueState or OutboxAsideState
}

// SealRows yields every sealed secret's row, by reference.
func (l *Ledger) SealRows(ctx context.Context) iter.Seq2[SealRow, error] {
	return pages("", func(from string) (page []SealRow, next string, err error) {
		err = l.each(ctx, "reading sealed secrets", "SELECT ref, unit, coalesce(length(sealed), 0) = 0 FROM seals WHERE ref >= ? ORDER BY ref LIMIT ?", []any{from, pageRows}, func(rows *sql.Rows) error {
			var r SealRow
			if err := rows.Scan(&r.Ref, &r.Unit, &r.Blank); err != nil {
				return err
			}
			page = append(page, r)
			from = r.Ref + "\x00" // what sorts next
			return nil
		})
		return page, from, err
	})
}

// OutboxRows yields every row of the outbox, by unit.
func (l *Ledger) OutboxRows(ctx context.Context) iter.Seq2[OutboxRow, error] {
	return pages(int64(math.MinInt64), func(after int64) (page []OutboxRow, next int64, err error) {
		err = l.each(ctx, "reading outbox", "SELECT unit, registration_id, customer, state FROM outbox WHERE unit > ? ORDER BY unit LIMIT ?", []any{after, pageRows}, func(rows *sql.Rows) error {
			var r OutboxRow
			if err := rows.Scan(&r.Unit, &r.RegistrationID, &r.Customer, &r.State); err != nil {
				return err
			}
			page = append(page, r)
			after = int64(r.Unit)
			return nil
		})
		return page, after, err
	})
}
