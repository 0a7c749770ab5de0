package line_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/line"
)

// errBroken is an error that nobody has words for.
var errBroken = errors.New("something broke")

// book is the ledger as station/daemon hands it to the line, with a place to
// make it fail.
type book struct {
	*ledger.Ledger

	mu   sync.Mutex
	kind records.Kind // fate strikes a transaction that holds it
	skip int          // after so many that hold it, too
	fate fate
	full bool // every transaction after the first that fate has struck is refused
	dead bool
}

// fail makes the next transaction fail that holds an event of this kind. After
// a failed COMMIT the ledger does nothing more until it is opened anew, so
// `applied` is also how a station dies right after an event.
func (b *book) fail(kind records.Kind, f fate) { b.failAfter(0, kind, f) }

// failAfter lets so many transactions with such an event through before.
func (b *book) failAfter(skip int, kind records.Kind, f fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.skip, b.kind, b.fate = skip, kind, f
}

// fillUp: once the disk is full it stays so.
func (b *book) fillUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full = true
}

// die: the station is dead; nothing it does from now on is ever known.
func (b *book) die() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
}

func (b *book) unknown() error { return fmt.Errorf("%w: %w", line.ErrStop, ledger.ErrStateUnknown) }

func (b *book) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	var struck fate
	events, err := b.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		drafts, err := decide(v)
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.dead {
			return nil, b.unknown()
		}
		if b.full && b.fate == "" && len(drafts) > 0 {
			return nil, full
		}
		holds := slices.ContainsFunc(drafts, func(d records.Draft) bool { return d.Body.Kind() == b.kind })
		if b.fate == "" || !holds {
			return drafts, nil
		}
		if b.skip > 0 {
			b.skip--
			return drafts, nil
		}
		struck, b.fate = b.fate, ""
		b.dead = struck != refused
		switch struck {
		case refused:
			return nil, full
		case lost:
			return nil, b.unknown()
		}
		return drafts, nil
	})
	if struck == applied {
		return nil, b.unknown()
	}
	return events, err
}
