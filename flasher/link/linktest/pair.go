package linktest

import (
	"context"
	"fmt"
	"sync"

	"nameplate/flasher/link"
)

// pipeLimit is how much a direction of a Pair holds before its writer waits,
// about what a tty holds.
const pipeLimit = 64 << 10

// State is what the device's end of a cable sees of the other.
type State struct {
	Open     bool
	DTR, RTS bool
	Baud     int
	Parity   link.Parity
}

// Pair returns a port and the device's end of the cable behind it. on, which
// may be nil, is told each change of State in the station's own goroutine,
// before Open, SetLines, SetBaud or Close returns: so what a device does at a
// reset is done when the driver goes on. It may write to the Far and must not
// read from it.
func Pair(on func(State)) (link.Port, *Far) {
	f := &Far{on: on}
	f.toFar.init(&f.mu)
	f.toNear.init(&f.mu)
	return pairPort{f}, f
}

// Far is the device's end of a Pair.
type Far struct {
	on func(State)

	mu            sync.Mutex
	state         State
	unplugged     bool
	toFar, toNear pipe
}

// Read waits for bytes from the station; after Unplug it returns link.ErrGone.
func (f *Far) Read(p []byte) (int, error) {
	return f.toFar.read(context.Background(), p)
}

// Write hands bytes to the station. It waits while the station's buffer is full.
func (f *Far) Write(p []byte) (int, error) {
	return f.toNear.write(context.Background(), p)
}

// State returns what the station's end looks like now.
func (f *Far) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Unplug pulls the cable for good: bytes under way are lost, both ends' calls
// return link.ErrGone, and the port is not present.
func (f *Far) Unplug() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unplugged = true
	f.toFar.end()
	f.toNear.end()
}

// change alters the state and tells it.
func (f *Far) change(alter func(*State)) error {
	f.mu.Lock()
	alter(&f.state)
	s, gone := f.state, f.unplugged
	f.mu.Unlock()
	if gone {
		return link.ErrGone
	}
	if f.on != nil {
		f.on(s)
	}
	return nil
}

type pairPort struct{ far *Far }

func (p pairPort) Path() string { return "pair" }

func (p pairPort) Present(context.Context) bool {
	p.far.mu.Lock()
	defer p.far.mu.Unlock()
	return !p.far.unplugged
}

func (p pairPort) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.far.mu.Lock()
	busy := p.far.state.Open && !p.far.unplugged
	p.far.mu.Unlock()
	if busy {
		return nil, fmt.Errorf("opening pair: %w", link.ErrBusy)
	}
	err := p.far.change(func(s *State) { *s = State{Open: true, Baud: m.Baud, Parity: m.Parity} })
	if err != nil {
		return nil, fmt.Errorf("opening pair: %w", err)
	}
	l := &pairLink{far: p.far}
	l.alive, l.end = context.WithCancel(context.Background())
	return l, nil
}

// pairLink is the station's end of a Pair.
type pairLink struct {
	far   *Far
	alive context.Context
	end   context.CancelFunc
}

// do runs a waiting call that also ends when the link is closed.
func (l *pairLink) do(ctx context.Context, op func(context.Context) error) error {
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.alive, cancel)()
	err := both.Err()
	if err == nil {
		err = op(both)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	} else if l.alive.Err() != nil {
		err = link.ErrGone
	}
	return fmt.Errorf("using pair: %w", err)
}

func (l *pairLink) Read(ctx context.Context, p []byte) (n int, err error) {
	err = l.do(ctx, func(ctx context.Context) error { n, err = l.far.toNear.read(ctx, p); return err })
	return n, err
}

func (l *pairLink) Write(ctx context.Context, p []byte) error {
	return l.do(ctx, func(ctx context.Context) error { _, err := l.far.toFar.write(ctx, p); return err })
}

func (l *pairLink) SetLines(ctx context.Context, dtr, rts bool) error {
	return l.do(ctx, func(context.Context) error {
		return l.far.change(func(s *State) { s.DTR, s.RTS = dtr, rts })
	})
}

func (l *pairLink) SetBaud(ctx context.Context, baud int) error {
	if baud <= 0 {
		return fmt.Errorf("using pair: %d is not a speed", baud)
	}
	return l.do(ctx, func(context.Context) error { return l.far.change(func(s *State) { s.Baud = baud }) })
}

func (l *pairLink) Discard(ctx context.Context) error {
	return l.do(ctx, func(context.Context) error { return l.far.toNear.discard() })
}

func (l *pairLink) Close() error {
	if l.alive.Err() == nil {
		l.end()
		_ = l.far.change(func(s *State) { *s = State{Baud: s.Baud, Parity: s.Parity} }) // unplugged: closed all the same
	}
	return nil
}
