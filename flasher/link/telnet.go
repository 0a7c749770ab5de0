package link

import (
	"bytes"
	"errors"
)

// Telnet commands (RFC 854) and the options used here (RFC 856, 858, 2217).
const (
	iacSE   = 240
	iacSB   = 250
	iacWILL = 251
	iacWONT = 252
	iacDO   = 253
	iacDONT = 254
	iac     = 255

	optBinary  = 0
	optSGA     = 3 // suppress go ahead
	optComPort = 44
)

// maxSub bounds a subnegotiation. The longest that RFC 2217 knows is a signature
// text; the rest is at most five bytes.
const maxSub = 1024

// errSub: the far side began a subnegotiation and did not end it in time.
var errSub = errors.New("far side sent an endless Telnet subnegotiation")

// sink takes what a decoder finds, in the order of the stream. The slices are
// valid during the call only; an error ends the decoding.
type sink interface {
	data(p []byte) error
	option(verb, opt byte) error // verb: iacWILL, iacWONT, iacDO, iacDONT
	sub(p []byte) error          // option and payload, unescaped
}

// decoder takes a Telnet stream apart, however it was cut into pieces.
type decoder struct {
	state    decodeState
	verb     byte
	inSub    bool
	buffered []byte // the subnegotiation so far
}

type decodeState byte

const (
	plain     decodeState = iota
	afterIAC              // the byte after IAC
	afterVerb             // the option after WILL, WONT, DO, DONT
)

// decode feeds the next piece of the stream. After an error the stream has no
// meaning any more.
func (d *decoder) decode(p []byte, to sink) error {
	for len(p) > 0 {
		n := 1
		var err error
		switch d.state {
		case plain:
			if n = bytes.IndexByte(p, iac); n < 0 {
				n = len(p)
			}
			if n > 0 {
				err = d.run(p[:n], to)
			} else {
				n, d.state = 1, afterIAC
			}
		case afterIAC:
			d.state = plain
			err = d.command(p[0], to)
		case afterVerb:
			d.state = plain
			err = to.option(d.verb, p[0])
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// run takes bytes without a meaning of their own.
func (d *decoder) run(p []byte, to sink) error {
	if !d.inSub {
		return to.data(p)
	}
	if len(d.buffered)+len(p) > maxSub {
		return errSub
	}
	d.buffered = append(d.buffered, p...)
	return nil
}

// command takes the byte after an IAC.
func (d *decoder) command(b byte, to sink) error {
	if b == iac {
		return d.run([]byte{iac}, to)
	}
	complete := d.inSub && b == iacSE
	d.inSub = false // any other command in a subnegotiation: its end was lost
	switch b {
	case iacSE:
		if complete {
			return to.sub(d.buffered)
		}
	case iacSB:
		d.inSub, d.buffered = true, d.buffered[:0]
	case iacWILL, iacWONT, iacDO, iacDONT:
		d.verb, d.state = b, afterVerb
	}
	return nil // all others (no operation, are you there, go ahead …) mean nothing here
}

// appendEscaped appends p with every IAC doubled.
func appendEscaped(dst, p []byte) []byte {
	for {
		n := bytes.IndexByte(p, iac)
		if n < 0 {
			return append(dst, p...)
		}
		dst = append(dst, p[:n+1]...)
		dst = append(dst, iac)
		p = p[n+1:]
	}
}

// cutInPair reports whether escaped data, cut at its end, has lost the second
// half of a doubled IAC.
func cutInPair(escaped []byte) bool {
	n := 0
	for n < len(escaped) && escaped[len(escaped)-1-n] == iac {
		n++
	}
	return n%2 == 1
}
