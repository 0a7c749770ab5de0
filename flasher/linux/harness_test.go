package linux_test

import (
	"context"
	"sync"
	"sync/atomic"

	"nameplate/fixtures/tpm"
	"nameplate/flasher/link"
)

// letGo is a port whose link can be let go without a word, as by a station that
// dies.
type letGo struct {
	link.Port
	link link.Link
}

func (p *letGo) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := p.Port.Open(ctx, m)
	p.link = l
	return l, err
}

// counter counts the commands that a TPM gets from a board's console.
type counter struct{ n atomic.Int64 }

func (c *counter) wrap(s tpm.Sender) tpm.Sender { return counted{s, c} }

type counted struct {
	tpm.Sender
	c *counter
}

func (s counted) Send(ctx context.Context, command []byte) ([]byte, error) {
	s.c.n.Add(1)
	return s.Sender.Send(ctx, command)
}

// keeper keeps every buffer that the driver reads into or writes from.
type keeper struct {
	link.Port
	mu      sync.Mutex
	buffers [][]byte
}

func (k *keeper) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := k.Port.Open(ctx, m)
	return keptLink{l, k}, err
}

func (k *keeper) keep(b []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buffers = append(k.buffers, b)
}

type keptLink struct {
	link.Link
	to *keeper
}

func (l keptLink) Read(ctx context.Context, b []byte) (int, error) {
	l.to.keep(b)
	return l.Link.Read(ctx, b)
}

func (l keptLink) Write(ctx context.Context, b []byte) error {
	l.to.keep(b)
	return l.Link.Write(ctx, b)
}
