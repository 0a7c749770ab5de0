package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// until runs a read or write that a deadline can end, and ends it when ctx
// does. The caller makes sure that nobody else uses the same deadline.
func until(ctx context.Context, setDeadline func(time.Time) error, op func() (int, error)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := setDeadline(time.Time{}); err != nil {
		return 0, fmt.Errorf("%w (%w)", os.ErrClosed, err) // its only cause
	}
	fell := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		setDeadline(time.Unix(1, 0))
		close(fell)
	})
	n, err := op()
	if !stop() {
		<-fell // or it would fall upon the next operation
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ctx.Err()
	}
	return n, err
}

// inTime runs an operation that nothing can interrupt (an ioctl that waits for
// an adapter) and leaves it behind when ctx ends first.
func inTime(ctx context.Context, op func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- op() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// monitor is a lock with a condition that can be awaited until a context ends,
// which sync.Cond cannot.
type monitor struct {
	sync.Mutex
	change chan struct{} // closed at the next change; nil if nobody waits
}

// changed wakes all who await. The lock is held.
func (m *monitor) changed() {
	if m.change != nil {
		close(m.change)
		m.change = nil
	}
}

// await waits until ready reports true. The lock is held on entry, on return
// and while ready runs.
func (m *monitor) await(ctx context.Context, ready func() bool) error {
	for !ready() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if m.change == nil {
			m.change = make(chan struct{})
		}
		change := m.change
		m.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		m.Lock()
	}
	return nil
}
