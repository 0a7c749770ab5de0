package linux_test

import (
	"context"
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
