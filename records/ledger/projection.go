package ledger

import (
	"context"
	"database/sql"
	"iter"

	"nameplate/records"
)

// UnitRow is a unit as stored: the state folded from its events as JSON, and
// beside it the columns that the look-ups go by. Replay compares all of it.
type UnitRow struct {
	ID       records.UnitID
	Order    string
	Customer string
	State    records.UnitState
	Body     []byte
}

// OrderRow is an order as stored.
type OrderRow struct {
	ID          string
	Customer    string
	Live, Quota int
	Body        []byte
}

// OwnerRow says that the name belongs to the owner.
type OwnerRow struct {
	Space records.Space
	Name  string
	Owner int64
}

// UnitRows yields every unit's row, by ID.
func (l *Ledger) UnitRows(ctx context.Context) iter.Seq2[UnitRow, error] {
	return pages(int64(-1<<63), func(after int64) (page []UnitRow, next int64, err error) {
		err = l.each(ctx, "reading units", "SELECT id, ord, customer, state, body FROM units WHERE id > ? ORDER BY id LIMIT ?", []any{after, pageRows}, func(rows *sql.Rows) error {
			var r UnitRow
			if err := rows.Scan(&r.ID, &r.Order, &r.Customer, &r.State, &r.Body); err != nil {
				return err
			}
			page = append(page, r)
			after = int64(r.ID)
			return nil
		})
		return page, after, err
	})
}

// OrderRows yields every order's row, by ID.
func (l *Ledger) OrderRows(ctx context.Context) iter.Seq2[OrderRow, error] {
	return pages("", func(after string) (page []OrderRow, next string, err error) {
		err = l.each(ctx, "reading orders", "SELECT id, customer, live, quota, body FROM orders WHERE id > ? ORDER BY id LIMIT ?", []any{after, pageRows}, func(rows *sql.Rows) error {
			var r OrderRow
			if err := rows.Scan(&r.ID, &r.Customer, &r.Live, &r.Quota, &r.Body); err != nil {
				return err
			}
			page = append(page, r)
			after = r.ID
			return nil
		})
		return page, after, err
	})
}

// OwnerRows yields every owned name, by space and name.
func (l *Ledger) OwnerRows(ctx context.Context) iter.Seq2[OwnerRow, error] {
	return pages(OwnerRow{}, func(after OwnerRow) (page []OwnerRow, next OwnerRow, err error) {
		err = l.each(ctx, "reading owners", "SELECT space, name, owner FROM owners WHERE (space, name) > (?, ?) ORDER BY space, name LIMIT ?", []any{string(after.Space), after.Name, pageRows}, func(rows *sql.Rows) error {
			var r OwnerRow
			if err := rows.Scan(&r.Space, &r.Name, &r.Owner); err != nil {
				return err
			}
			page = append(page, r)
			after = r
			return nil
		})
		return page, after, err
	})
}
