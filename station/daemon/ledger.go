package daemon

import (
	"context"
	"errors"
	"fmt"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/line"
)

// stationLedger is the ledger as line and pushers see it: its fatal error in the
// line's words, and, in builds for crash tests only, the points to die at.
type stationLedger struct{ *ledger.Ledger }

// Do is the ledger's Do.
func (l stationLedger) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	events, err := l.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		drafts, err := decide(v)
		for _, d := range drafts {
			crashPoint("before", d.Body.Kind())
		}
		return drafts, err
	})
	for _, e := range events {
		crashPoint("after", e.Kind)
	}
	if errors.Is(err, ledger.ErrStateUnknown) {
		err = fmt.Errorf("%w: %w", line.ErrStop, err)
	}
	return events, err
}
