package ledger

import (
	"context"
	"fmt"

	"nameplate/records"
)

// Opened returns what an order was opened with, files included; the zero value
// if there is no such order.
func (l *Ledger) Opened(ctx context.Context, order string) (records.OrderOpened, error) {
	o, err := l.Order(ctx, order)
	if err != nil || o.ID == "" {
		return records.OrderOpened{}, err
	}
	events, err := l.events(ctx, "SELECT seq, bytes FROM events WHERE seq = ?", o.Seq)
	if err != nil {
		return records.OrderOpened{}, err
	}
	if len(events) == 1 {
		if b, err := events[0].Body(); err != nil {
			return records.OrderOpened{}, err
		} else if opened, ok := b.(records.OrderOpened); ok && opened.ID == order {
			return opened, nil
		}
	}
	return records.OrderOpened{}, fmt.Errorf("reading order %s: event %d does not open it; run 'station replay'", order, o.Seq)
}
