package link

import "errors"

var (
	errNoComPort = errors.New("far side refused COM-PORT-OPTION: it is not an RFC 2217 server")
	errNoBinary  = errors.New("far side refused binary transmission")
)

// options is the state of the Telnet negotiation: for each option what we do
// and what the far side does. As RFC 1143 has it, only a change is answered, so
// two sides that ask at once cannot start a loop.
type options struct {
	us, them [256]optionState
}

type optionState byte

const (
	off optionState = iota
	asked
	on
)

// hello asks for what the link needs and returns the words for it. WILL
// COM-PORT-OPTION is the client's part (RFC 2217 section 2); without BINARY both
// ways, carriage returns would be changed under way.
func (o *options) hello() []byte {
	for _, opt := range []byte{optBinary, optSGA, optComPort} {
		o.us[opt] = asked
	}
	for _, opt := range []byte{optBinary, optSGA} {
		o.them[opt] = asked
	}
	return []byte{
		iac, iacWILL, optComPort,
		iac, iacWILL, optBinary, iac, iacDO, optBinary,
		iac, iacWILL, optSGA, iac, iacDO, optSGA,
	}
}

// agreed reports whether the link can be used.
func (o *options) agreed() bool {
	return o.us[optComPort] == on && o.us[optBinary] == on && o.them[optBinary] == on
}

// take applies a word of the far side and returns our reply, if one is due. The
// error ends the link.
func (o *options) take(verb, opt byte) (reply []byte, err error) {
	known := opt == optBinary || opt == optSGA || opt == optComPort
	side, yes, no := &o.us[opt], byte(iacWILL), byte(iacWONT)
	if verb == iacWILL || verb == iacWONT {
		side, yes, no = &o.them[opt], iacDO, iacDONT
	}
	was := *side
	switch verb {
	case iacDO, iacWILL:
		if !known {
			return []byte{iac, no, opt}, nil
		}
		if *side = on; was == off {
			reply = []byte{iac, yes, opt}
		}
	case iacDONT, iacWONT:
		if *side = off; was == on {
			reply = []byte{iac, no, opt}
		}
		switch {
		case verb == iacDONT && opt == optComPort:
			err = errNoComPort
		case opt == optBinary:
			err = errNoBinary
		}
	}
	return reply, err
}
