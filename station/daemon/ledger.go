package daemon

import (
	"context"
	"errors"
	"fmt"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/home"
	"nameplate/station/line"
)

// lineLedger is the ledger with its fatal error in the line's words.
type lineLedger struct{ home.Ledger }

// Do is the ledger's Do.
func (l lineLedger) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	events, err := l.Ledger.Do(ctx, decide)
	if errors.Is(err, ledger.ErrStateUnknown) {
		err = fmt.Errorf("%w: %w", line.ErrStop, err)
	}
	return events, err
}
