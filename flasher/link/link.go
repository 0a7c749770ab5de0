// Package link carries bytes and line levels between the station and a device.
// One contract, several carriers: a serial port, RFC 2217 over TCP, and an
// in-process pair for tests. linktest holds the fakes and the suite that every
// carrier passes.
package link

import (
	"context"
	"errors"
)

var (
	// ErrGone: the cable, the adapter or the far end is gone. Nothing more will
	// come through this Link.
	ErrGone = errors.New("link is gone")
	// ErrNoLines: this carrier has no DTR and RTS.
	ErrNoLines = errors.New("link has no DTR and RTS lines")
	// ErrBusy: somebody else holds the port.
	ErrBusy = errors.New("port is in use")
)

// Parity of a serial line.
type Parity int

const (
	NoParity Parity = iota
	EvenParity
	OddParity
)

// Mode is how a port is opened: 8 data bits, 1 stop bit.
type Mode struct {
	Baud   int
	Parity Parity
}

// Port is a place where a device can be connected.
type Port interface {
	// Path names the port as the configuration does.
	Path() string
	// Present tells, within a second and without touching the lines, whether the port could be
	// opened now: the path exists, the far end accepts.
	Present(ctx context.Context) bool
	// Open opens the port for this process alone; a port held by somebody else
	// is ErrBusy, an absent one ErrGone. DTR and RTS start inactive.
	Open(ctx context.Context, m Mode) (Link, error)
}

// Link is an open port. Read and Write may run at the same time in two
// goroutines; all else is for one goroutine. Every call ends when its context
// does, whatever the far side does.
type Link interface {
	// Read waits for at least one byte. It returns ErrGone when the far side is
	// gone and ctx's error when the context ends first; bytes are never lost to
	// a context that ended.
	Read(ctx context.Context, p []byte) (int, error)
	// Write hands over all of p or returns why not. After an error an unknown
	// part of p may have been sent.
	Write(ctx context.Context, p []byte) error
	// SetLines sets DTR and RTS (true = asserted) together, in one step where
	// the carrier can.
	SetLines(ctx context.Context, dtr, rts bool) error
	// SetBaud changes the speed after what was written has left.
	SetBaud(ctx context.Context, baud int) error
	// Discard drops what has arrived and was not read.
	Discard(ctx context.Context) error
	Close() error
}
