package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"nameplate/records"
)

// Do appends events. decide sees the present state, earlier callers of the same
// commit included, and returns what is to be added, or a refusal; it does no I/O,
// calls no method of the ledger, and keeps nothing of the view. An event that
// cannot follow, or that would give a name a second owner, refuses the caller as
// a whole and nobody else. When Do returns without error the events, which it
// returns, are on disk. An error that is ErrStateUnknown says nothing about
// them; any other says that none was recorded.
func (l *Ledger) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	var events []records.Event
	err := l.submit(ctx, func(g *group) error {
		drafts, err := decide(g)
		if err != nil {
			return err
		}
		for _, d := range drafts {
			e, err := g.append(d)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// group is one transaction. To the rules it is the View.
type group struct {
	w       *writer
	now, at time.Time
	behind  time.Duration
	stepped bool
	scrub   bool
	leaves  [][]byte // of the events so far
}

func (w *writer) newGroup() *group {
	g := &group{w: w, stepped: w.stepped}
	g.now, g.at, g.behind = w.reading()
	return g
}

// attempt runs the job in a savepoint. The first error is the job's own and
// leaves no trace of it; the second is the end of the transaction.
func (g *group) attempt(j *job) (own, fatal error) {
	if err := g.w.exec(g.w.s.savepoint); err != nil {
		return nil, refuse("setting a savepoint", err)
	}
	mark, scrub := len(g.leaves), g.scrub
	own = j.run(g)
	if own != nil {
		if fatalToTransaction(own) {
			return nil, own
		}
		g.leaves, g.scrub = g.leaves[:mark], scrub
		g.w.known.forget()
		if err := g.w.exec(g.w.s.undo); err != nil {
			return nil, refuse("going back to a savepoint", err)
		}
	}
	if err := g.w.exec(g.w.s.release); err != nil {
		return nil, refuse("releasing a savepoint", err)
	}
	return own, nil
}

// noteClock writes, once a step, that the clock was set back.
func (g *group) noteClock() error {
	if g.w.last.Sub(g.now) <= clockTolerance {
		g.stepped = false
		return nil
	}
	if g.stepped {
		return nil
	}
	g.stepped = true
	_, err := g.append(records.Draft{Actor: stationActor, Body: records.ClockStepped{Last: g.w.last, Now: g.now}})
	return err
}

// hash adds the group's events to the tree and stores the tiles they complete.
func (g *group) hash() (tree, error) {
	t := g.w.l.head.Load().clone()
	for _, leaf := range g.leaves {
		for _, tile := range t.add(leaf) {
			if err := g.exec1("storing tile", g.w.s.putTile, tile.level, tile.n, tile.hash[:]); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

// exec1 runs a statement that must change exactly one row.
func (g *group) exec1(doing string, s *sql.Stmt, args ...any) error {
	n, err := g.execN(doing, s, args...)
	if err == nil && n != 1 {
		return fmt.Errorf("%s: %d rows changed, not 1", doing, n)
	}
	return err
}

func (g *group) execN(doing string, s *sql.Stmt, args ...any) (int64, error) {
	r, err := s.ExecContext(background, args...)
	if err != nil {
		return 0, refuse(doing, err)
	}
	return r.RowsAffected()
}

// get reads the one row that the statement finds, if there is one.
func (g *group) get(doing string, s *sql.Stmt, dest any, args ...any) (bool, error) {
	switch err := s.QueryRowContext(background, args...).Scan(dest); {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, refuse(doing, err)
	}
	return true, nil
}
