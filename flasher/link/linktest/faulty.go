package linktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"nameplate/flasher/link"
)

// Faults is what goes wrong on a cable; the zero value is a good one. Bytes are
// counted as the station reads and writes them, both ways together and over all
// Links of the port. Stall and cut each happen once: to the Link that is open
// then, and for the rest of its life; the next Link works.
type Faults struct {
	Seed       uint64  // the same seed and the same traffic give the same faults
	Drop       float64 // probability that a byte is lost
	Corrupt    float64 // probability that a byte has one bit turned over
	StallAfter int     // bytes after which nothing moves any more; 0 is never
	CutAfter   int     // bytes after which the cable is gone; 0 is never
}

// Faulty returns p with a bad cable. It counts and alters bytes only: lines,
// speed and Discard work until the cable is cut.
func Faulty(p link.Port, f Faults) link.Port {
	return &faultyPort{Port: p, faults: f, stall: f.StallAfter, cut: f.CutAfter}
}

type faultyPort struct {
	link.Port
	faults Faults

	mu         sync.Mutex
	stall, cut int // bytes until then; 0 is never
}

func (p *faultyPort) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := p.Port.Open(ctx, m)
	if err != nil {
		return nil, err
	}
	return &faultyLink{
		Link: l, port: p,
		in:  rand.New(rand.NewPCG(p.faults.Seed, 1)),
		out: rand.New(rand.NewPCG(p.faults.Seed, 2)),
	}, nil
}

type faultyLink struct {
	link.Link
	port    *faultyPort
	in, out *rand.Rand // one for each direction, which are two goroutines

	stalled, cut bool // guarded by port.mu
}

// room returns how many of n bytes may move before the next fault, or waits for
// ctx if the link stalls, or says that it is cut.
func (l *faultyLink) room(ctx context.Context, n int) (int, error) {
	l.port.mu.Lock()
	stalled, cut := l.stalled, l.cut
	for _, left := range []int{l.port.stall, l.port.cut} {
		if left > 0 {
			n = min(n, left)
		}
	}
	l.port.mu.Unlock()
	switch {
	case cut:
		return 0, fmt.Errorf("using a faulty cable: %w", link.ErrGone)
	case stalled:
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return n, nil
}

// moved counts bytes.
func (l *faultyLink) moved(n int) {
	l.port.mu.Lock()
	defer l.port.mu.Unlock()
	for _, fault := range []struct {
		left *int
		here *bool
	}{{&l.port.stall, &l.stalled}, {&l.port.cut, &l.cut}} {
		if *fault.left > 0 {
			*fault.left = max(*fault.left-n, 0)
			*fault.here = *fault.left == 0
		}
	}
}

// spoil drops and corrupts bytes of p in place.
func (l *faultyLink) spoil(p []byte, r *rand.Rand) []byte {
	kept := p[:0]
	for _, b := range p {
		if r.Float64() < l.port.faults.Drop {
			continue
		}
		if r.Float64() < l.port.faults.Corrupt {
			b ^= 1 << r.IntN(8)
		}
		kept = append(kept, b)
	}
	return kept
}

func (l *faultyLink) Read(ctx context.Context, p []byte) (int, error) {
	for {
		n, err := l.room(ctx, len(p))
		if err != nil {
			return 0, err
		}
		n, err = l.Link.Read(ctx, p[:n])
		if err != nil {
			return n, err
		}
		l.moved(n)
		if kept := l.spoil(p[:n], l.in); len(kept) > 0 || len(p) == 0 {
			return len(kept), nil
		}
	}
}

func (l *faultyLink) Write(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		n, err := l.room(ctx, min(len(p), 4<<10)) // a piece that a cancelled write need not spoil in vain
		if err != nil {
			return err
		}
		if err := l.Link.Write(ctx, l.spoil(append([]byte(nil), p[:n]...), l.out)); err != nil {
			return err
		}
		l.moved(n)
		p = p[n:]
	}
	return nil
}

func (l *faultyLink) SetLines(ctx context.Context, dtr, rts bool) error {
	return l.unlessCut(func() error { return l.Link.SetLines(ctx, dtr, rts) })
}

func (l *faultyLink) SetBaud(ctx context.Context, baud int) error {
	return l.unlessCut(func() error { return l.Link.SetBaud(ctx, baud) })
}

func (l *faultyLink) Discard(ctx context.Context) error {
	return l.unlessCut(func() error { return l.Link.Discard(ctx) })
}

func (l *faultyLink) unlessCut(do func() error) error {
	l.port.mu.Lock()
	cut := l.cut
	l.port.mu.Unlock()
	if cut {
		return fmt.Errorf("using a faulty cable: %w", link.ErrGone)
	}
	return do()
}
