package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"regexp"
	"strconv"
	"strings"

	"nameplate/records"
)

// pageRows is how many rows an iterator reads at once. Between pages it holds no
// connection, so a slow consumer, or one that reads something else meanwhile,
// blocks nobody.
const pageRows = 256

// UnitQuery selects units; empty fields select all.
type UnitQuery struct {
	Order, Customer string
	State           records.UnitState
	After           records.UnitID // only those that became known after this one
	Limit           int            // 0: no limit
}

// Leaf is one event as it is stored, and as it is hashed.
type Leaf struct {
	Seq   int64
	Bytes []byte
}

// UnitLeaf is a stored event and the unit that it is filed under.
type UnitLeaf struct {
	Unit records.UnitID
	Leaf
}

// Unit returns the unit, or the zero Unit if there is none.
func (l *Ledger) Unit(ctx context.Context, id records.UnitID) (records.Unit, error) {
	var u records.Unit
	var body []byte
	found, err := l.one(ctx, "reading unit", "SELECT body FROM units WHERE id = ?", []any{int64(id)}, &body)
	if err != nil || !found {
		return u, err
	}
	return u, decodeRow("unit "+id.String(), body, &u)
}

// Order returns the order, or the zero Order if there is none. The files that it
// was opened with are not in it; they are in its order.opened event.
func (l *Ledger) Order(ctx context.Context, id string) (records.Order, error) {
	var o records.Order
	var body []byte
	found, err := l.one(ctx, "reading order", "SELECT body FROM orders WHERE id = ?", []any{id}, &body)
	if err != nil || !found {
		return o, err
	}
	return o, decodeRow("order "+id, body, &o)
}

// Orders returns all orders by name.
func (l *Ledger) Orders(ctx context.Context) ([]records.Order, error) {
	var all []records.Order
	err := l.each(ctx, "reading orders", "SELECT id, body FROM orders ORDER BY id", nil, func(rows *sql.Rows) error {
		var id string
		var body sql.RawBytes
		if err := rows.Scan(&id, &body); err != nil {
			return err
		}
		var o records.Order
		if err := decodeRow("order "+id, body, &o); err != nil {
			return err
		}
		all = append(all, o)
		return nil
	})
	return all, err
}

// Units yields the selected units in the order in which they became known.
func (l *Ledger) Units(ctx context.Context, q UnitQuery) iter.Seq2[records.Unit, error] {
	where := []string{"id > ?"}
	var values []any
	for _, c := range []struct{ column, value string }{{"ord", q.Order}, {"customer", q.Customer}, {"state", string(q.State)}} {
		if c.value != "" {
			where = append(where, c.column+" = ?")
			values = append(values, c.value)
		}
	}
	query := "SELECT id, body FROM units WHERE " + strings.Join(where, " AND ") + " ORDER BY id LIMIT ?"
	type place struct {
		after records.UnitID
		given int
	}
	return pages(place{after: q.After}, func(at place) (page []records.Unit, next place, err error) {
		want := pageRows
		if q.Limit > 0 {
			want = min(want, q.Limit-at.given)
		}
		args := append(append([]any{int64(at.after)}, values...), want)
		err = l.each(ctx, "reading units", query, args, func(rows *sql.Rows) error {
			var id records.UnitID
			var body sql.RawBytes
			if err := rows.Scan(&id, &body); err != nil {
				return err
			}
			var u records.Unit
			if err := decodeRow("unit "+id.String(), body, &u); err != nil {
				return err
			}
			page = append(page, u)
			at.after = id
			at.given++
			return nil
		})
		return page, at, err
	})
}

// Leaves yields the stored events from sequence number from on, byte for byte,
// up to the last one there is when it gets there.
func (l *Ledger) Leaves(ctx context.Context, from int64) iter.Seq2[Leaf, error] {
	return pages(from, func(from int64) (page []Leaf, next int64, err error) {
		err = l.each(ctx, "reading events", "SELECT seq, bytes FROM events WHERE seq >= ? ORDER BY seq LIMIT ?", []any{from, pageRows}, func(rows *sql.Rows) error {
			var leaf Leaf
			if err := rows.Scan(&leaf.Seq, &leaf.Bytes); err != nil {
				return err
			}
			page = append(page, leaf)
			from = leaf.Seq + 1
			return nil
		})
		return page, from, err
	})
}

// UnitLeaves yields the stored events that are filed under units, unit by unit,
// those of one oldest first.
func (l *Ledger) UnitLeaves(ctx context.Context) iter.Seq2[UnitLeaf, error] {
	type place struct{ unit, seq int64 }
	const query = "SELECT unit, seq, bytes FROM events WHERE unit IS NOT NULL AND (unit, seq) > (?, ?) ORDER BY unit, seq LIMIT ?"
	return pages(place{unit: math.MinInt64}, func(at place) (page []UnitLeaf, next place, err error) {
		err = l.each(ctx, "reading units' events", query, []any{at.unit, at.seq, pageRows}, func(rows *sql.Rows) error {
			var leaf UnitLeaf
			if err := rows.Scan(&leaf.Unit, &leaf.Seq, &leaf.Bytes); err != nil {
				return err
			}
			page = append(page, leaf)
			at = place{int64(leaf.Unit), leaf.Seq}
			return nil
		})
		return page, at, err
	})
}

// UnitEvents returns the events that name the unit, oldest first.
func (l *Ledger) UnitEvents(ctx context.Context, id records.UnitID) ([]records.Event, error) {
	return l.events(ctx, "SELECT seq, bytes FROM events WHERE unit = ? ORDER BY seq", int64(id))
}

// OpenPassages returns the passage.opened events of the passages that are open,
// oldest first, each with the unit that is in it, if one is.
func (l *Ledger) OpenPassages(ctx context.Context) ([]records.Event, error) {
	open, err := l.events(ctx, "SELECT seq, bytes FROM events WHERE seq IN (SELECT owner FROM owners WHERE space = ?) ORDER BY seq", string(records.SlotSpace))
	if err != nil {
		return nil, err
	}
	in := map[records.PassageID]records.UnitID{}
	err = l.each(ctx, "reading open passages", "SELECT name, owner FROM owners WHERE space = ?", []any{string(records.BoardSpace)}, func(rows *sql.Rows) error {
		var name string
		var passage records.PassageID
		if err := rows.Scan(&name, &passage); err != nil {
			return err
		}
		unit, ok := parseUnitID(name)
		if !ok {
			return notAUnit(name, passage)
		}
		in[passage] = unit
		return nil
	})
	for i := range open {
		open[i].Unit = in[open[i].Passage]
	}
	return open, err
}

func (l *Ledger) events(ctx context.Context, query string, args ...any) ([]records.Event, error) {
	var all []records.Event
	err := l.each(ctx, "reading events", query, args, func(rows *sql.Rows) error {
		var seq int64
		var bytes sql.RawBytes
		if err := rows.Scan(&seq, &bytes); err != nil {
			return err
		}
		var e records.Event
		if err := decodeRow(fmt.Sprintf("event %d", seq), bytes, &e); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	return all, err
}

// Sealed returns the encrypted secret. It refuses a destroyed one
// (secret-destroyed) and one that never was (secret-unknown).
func (l *Ledger) Sealed(ctx context.Context, ref string) ([]byte, error) {
	var sealed []byte
	found, err := l.one(ctx, "reading sealed secret", "SELECT sealed FROM seals WHERE ref = ?", []any{ref}, &sealed)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, &records.Refusal{Code: "secret-unknown", Sentence: fmt.Sprintf("There is no sealed secret %s.", ref),
			Next: "Check that this is the ledger of the station that made the unit."}
	case sealed == nil:
		return nil, &records.Refusal{Code: "secret-destroyed", Sentence: fmt.Sprintf("The sealed secret %s was destroyed.", ref),
			Next: "Put the board back in a slot: it gets a new one."}
	}
	return sealed, nil
}

var unitID = regexp.MustCompile(`^[Uu]([0-9]{1,18})$`)

func parseUnitID(s string) (records.UnitID, bool) {
	m := unitID.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return records.UnitID(n), err == nil
}

// Find returns the unit that a person means: by its name ("U12"), its
// registration ID, its serial, a hardware ID's value or a certificate's serial,
// as typed or in all upper or lower case. It refuses what names none
// (unit-unknown) or several (unit-ambiguous).
func (l *Ledger) Find(ctx context.Context, text string) (records.Unit, error) {
	text = strings.TrimSpace(text)
	if id, ok := parseUnitID(text); ok {
		if u, err := l.Unit(ctx, id); err != nil || u.ID != 0 {
			return u, err
		}
	}
	lower, upper := strings.ToLower(text), strings.ToUpper(text)
	var found []records.UnitID
	err := l.each(ctx, "finding unit", `
		SELECT owner FROM owners WHERE space = ? AND name = ?
		UNION SELECT owner FROM owners WHERE short IN (?, ?, ?)
		ORDER BY owner LIMIT 3`, []any{string(records.RegistrationSpace), lower, text, lower, upper}, func(rows *sql.Rows) error {
		var id records.UnitID
		if err := rows.Scan(&id); err != nil {
			return err
		}
		found = append(found, id)
		return nil
	})
	switch {
	case err != nil:
		return records.Unit{}, err
	case len(found) == 0:
		return records.Unit{}, &records.Refusal{Code: "unit-unknown", Sentence: fmt.Sprintf("No unit is called %q.", text),
			Next: "Give a unit (U12), a registration ID, a serial, a hardware ID or a certificate's serial; 'station unit list' shows them."}
	case len(found) > 1:
		return records.Unit{}, &records.Refusal{Code: "unit-ambiguous", Sentence: fmt.Sprintf("%q could be unit %s or %s.", text, found[0], found[1]),
			Next: "Give the unit (" + found[0].String() + ") or its registration ID."}
	}
	return l.Unit(ctx, found[0])
}

// one reads at most one row into dest.
func (l *Ledger) one(ctx context.Context, doing, query string, args []any, dest ...any) (found bool, err error) {
	l.turns.Lock()
	defer l.turns.Unlock()
	stmt, err := l.prepared(ctx, query)
	if err != nil {
		return false, err
	}
	switch err := stmt.QueryRowContext(ctx, args...).Scan(dest...); {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, refuse(doing, err)
	}
	return true, nil
}

// each calls scan, which must not read on its own, for every row.
func (l *Ledger) each(ctx context.Context, doing, query string, args []any, scan func(*sql.Rows) error) error {
	l.turns.Lock()
	defer l.turns.Unlock()
	stmt, err := l.prepared(ctx, query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return refuse(doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := rows.Err(); err != nil {
		return refuse(doing, err)
	}
	return nil
}

// prepared returns the query's statement. The texts are few and constant. The
// statements live as long as what they were prepared on.
func (l *Ledger) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if l.broken.Load() {
		return nil, ErrStateUnknown
	}
	if s, ok := l.queries.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := l.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, refuse("preparing a query", err)
	}
	if first, lost := l.queries.LoadOrStore(query, s); lost {
		s.Close()
		return first.(*sql.Stmt), nil
	}
	return s, nil
}

// pages yields what fetch returns, page by page, until a page is empty. Each
// page says where the next begins.
func pages[T, P any](first P, fetch func(P) (page []T, next P, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for at := first; ; {
			page, next, err := fetch(at)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			if len(page) == 0 {
				return
			}
			at = next
			for _, row := range page {
				if !yield(row, nil) {
					return
				}
			}
		}
	}
}

// decodeRow decodes a row that we wrote; one that does not decode was changed.
func decodeRow(what string, body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return damaged("what is stored of "+what+" is unreadable", err)
	}
	return nil
}
