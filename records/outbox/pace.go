package outbox

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The service counts operations in any 60 seconds. Operations are spaced so that
// a full minute's worth takes slack longer, and none starts until the one a full
// minute's worth before it is guard past: what the network then shifts is less
// than guard. Slack costs 1 % of the rate.
const (
	window = time.Minute
	slack  = 600 * time.Millisecond
	guard  = 300 * time.Millisecond
)

// Pace lets operations of one service start, never more than the allowed number
// in any 60 seconds. Every request to the service waits for it first, whoever
// sends it.
type Pace struct {
	limiter *rate.Limiter

	mu    sync.Mutex
	until time.Time   // held back
	began []time.Time // a ring: when each of the last full minute's worth began
	next  int
}

// NewPace allows perMinute operations a minute; less than one is one. The first
// starts a step from now: a program that has just died may have used up the
// present one.
func NewPace(perMinute int) *Pace {
	n := max(perMinute, 1)
	p := &Pace{limiter: rate.NewLimiter(rate.Every((window+slack)/time.Duration(n)), 1), began: make([]time.Time, n)}
	p.limiter.Allow()
	return p
}

// Wait returns when the caller may start one operation. The error is that of the
// context.
func (p *Pace) Wait(ctx context.Context) error {
	for {
		if err := sleepUntil(ctx, p.Held()); err != nil {
			return err
		}
		if err := p.limiter.Wait(ctx); err != nil {
			return err
		}
		// Late wake-ups may bring operations together, and a hold may have come
		// while we waited: then the step is given up and the next one awaited.
		free := p.begin(time.Now())
		if free.IsZero() {
			return nil
		}
		if err := sleepUntil(ctx, free); err != nil {
			return err
		}
	}
}

// begin books an operation that starts now, or says when to ask again.
func (p *Pace) begin(now time.Time) (free time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.After(now) {
		return p.until
	}
	if oldest := p.began[p.next]; !oldest.IsZero() && now.Before(oldest.Add(window+guard)) {
		return oldest.Add(window + guard)
	}
	p.began[p.next] = now
	p.next = (p.next + 1) % len(p.began)
	return time.Time{}
}

// Hold lets nothing start before t. A hold is never shortened.
func (p *Pace) Hold(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.After(p.until) {
		p.until = t
	}
}

// Held is the time before which nothing starts; it may have passed.
func (p *Pace) Held() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until
}

func sleepUntil(ctx context.Context, t time.Time) error {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
