package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// statements are prepared once, on the writer's one connection. (Prepared
// through a transaction they would be prepared again in each.)
type statements struct {
	begin, commit, rollback  *sql.Stmt
	savepoint, undo, release *sql.Stmt

	putEvent, putTile, putCheckpoint *sql.Stmt

	getUnit, addUnit              *sql.Stmt
	claimUnit, moveUnit, setUnit  *sql.Stmt
	getOrder, putOrder            *sql.Stmt
	getOwner, putOwner, freeOwner *sql.Stmt
	getOwned                      *sql.Stmt
	putSeal, blankSeal            *sql.Stmt

	putOutbox, dropOutbox, moveOutbox, deferOutbox, retryOutbox *sql.Stmt
	putCustomer, countAccepted, setTrouble                      *sql.Stmt
}

func (s *statements) texts() []struct {
	stmt **sql.Stmt
	text string
} {
	return []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.begin, "BEGIN IMMEDIATE"},
		{&s.commit, "COMMIT"},
		{&s.rollback, "ROLLBACK"},
		{&s.savepoint, "SAVEPOINT caller"},
		{&s.undo, "ROLLBACK TO caller"},
		{&s.release, "RELEASE caller"},

		{&s.putEvent, "INSERT INTO events (seq, unit, bytes) VALUES (?, ?, ?)"},
		{&s.putTile, "INSERT INTO tiles (level, n, hash) VALUES (?, ?, ?)"},
		{&s.putCheckpoint, "INSERT INTO checkpoints (size, text) VALUES (?, ?) ON CONFLICT (size) DO UPDATE SET text = excluded.text"},

		{&s.getUnit, "SELECT body FROM units WHERE id = ?"},
		{&s.addUnit, "INSERT INTO units (body, state, ord, customer, id) VALUES (?, ?, ?, ?, ?)"},
		// SQLite rewrites the index of every column that is named, changed or not.
		{&s.claimUnit, "UPDATE units SET body = ?, state = ?, ord = ?, customer = ? WHERE id = ?"},
		{&s.moveUnit, "UPDATE units SET body = ?, state = ? WHERE id = ?"},
		{&s.setUnit, "UPDATE units SET body = ? WHERE id = ?"},
		{&s.getOrder, "SELECT body FROM orders WHERE id = ?"},
		{&s.putOrder, `INSERT INTO orders (id, customer, live, quota, body) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET live = excluded.live, body = excluded.body`},
		{&s.getOwner, "SELECT owner FROM owners WHERE space = ? AND name = ?"},
		{&s.getOwned, "SELECT name FROM owners WHERE space = ? AND owner = ? LIMIT 1"},
		{&s.putOwner, "INSERT INTO owners (space, name, owner) VALUES (?, ?, ?) ON CONFLICT (space, name) DO NOTHING"},
		{&s.freeOwner, "DELETE FROM owners WHERE space = ? AND name = ? AND owner = ?"},
		{&s.putSeal, "INSERT INTO seals (ref, unit, sealed) VALUES (?, ?, ?)"},
		{&s.blankSeal, "UPDATE seals SET sealed = NULL WHERE ref = ? AND sealed IS NOT NULL"},

		{&s.putOutbox, `INSERT INTO outbox (unit, registration_id, customer, state, tries, next_at, last_error)
			VALUES (?, ?, ?, 'due', 0, ?, '')`},
		{&s.dropOutbox, "DELETE FROM outbox WHERE unit = ?"},
		{&s.moveOutbox, "UPDATE outbox SET state = 'aside', tries = tries + 1, last_error = ? WHERE unit = ?"},
		{&s.deferOutbox, "UPDATE outbox SET tries = tries + 1, next_at = ?, last_error = ? WHERE unit = ? AND state = 'due'"},
		{&s.retryOutbox, "UPDATE outbox SET state = 'due', next_at = ? WHERE unit = ? AND state = 'aside'"},
		{&s.putCustomer, "INSERT INTO outbox_customers (customer, accepted, last_error) VALUES (?, 0, '') ON CONFLICT (customer) DO NOTHING"},
		{&s.countAccepted, "UPDATE outbox_customers SET accepted = accepted + 1, last_error = '' WHERE customer = ?"},
		{&s.setTrouble, "UPDATE outbox_customers SET last_error = ? WHERE customer = (SELECT customer FROM outbox WHERE unit = ?)"},
	}
}

func prepare(ctx context.Context, conn *sql.Conn) (*statements, error) {
	s := &statements{}
	for _, t := range s.texts() {
		stmt, err := conn.PrepareContext(ctx, t.text)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("preparing %q: %w", t.text, err), s.close())
		}
		*t.stmt = stmt
	}
	return s, nil
}

func (s *statements) close() error {
	var errs []error
	for _, t := range s.texts() {
		if *t.stmt != nil {
			errs = append(errs, (*t.stmt).Close())
		}
	}
	return errors.Join(errs...)
}
