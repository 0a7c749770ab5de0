package home

import (
	"context"

	"nameplate/records"
	"nameplate/records/ledger"
)

// Ledger is the station's ledger; in builds for crash tests, and in those only,
// it has points to die at.
type Ledger struct{ *ledger.Ledger }

// Do is the ledger's Do.
func (l Ledger) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
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
	return events, err
}
