package linktest

import (
	"context"
	"sync"

	"nameplate/flasher/link"
)

// pipe is one direction of a Pair.
type pipe struct {
	mu     *sync.Mutex
	b      []byte
	ended  bool
	change chan struct{} // closed and made anew at each change
}

func (p *pipe) init(mu *sync.Mutex) { p.mu, p.change = mu, make(chan struct{}) }

// changed wakes all who wait. The lock is held.
func (p *pipe) changed() {
	close(p.change)
	p.change = make(chan struct{})
}

// end ends the pipe for both sides. The lock is held.
func (p *pipe) end() {
	p.ended, p.b = true, nil
	p.changed()
}

// await waits, with the lock held before and after, until ready or the end.
func (p *pipe) await(ctx context.Context, ready func() bool) error {
	for !p.ended && !ready() {
		change := p.change
		p.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if p.ended {
		return link.ErrGone
	}
	return nil
}

func (p *pipe) read(ctx context.Context, b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.await(ctx, func() bool { return len(p.b) > 0 || len(b) == 0 }); err != nil {
		return 0, err
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	p.changed()
	return n, nil
}

func (p *pipe) write(ctx context.Context, b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n < len(b) {
		if err := p.await(ctx, func() bool { return len(p.b) < pipeLimit }); err != nil {
			return n, err
		}
		k := min(len(b)-n, pipeLimit-len(p.b))
		p.b = append(p.b, b[n:n+k]...)
		n += k
		p.changed()
	}
	return n, nil
}

func (p *pipe) discard() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.b = nil
	p.changed()
	if p.ended {
		return link.ErrGone
	}
	return nil
}
