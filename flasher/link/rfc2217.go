package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// dialLimit: a device server of the same factory answers in milliseconds,
	// and one that is switched off must not hold a slot.
	dialLimit = 3 * time.Second
	// negotiationLimit is for a far side that accepts and then says nothing: no
	// Telnet server, or one that serves somebody else first.
	negotiationLimit = 5 * time.Second
	// answerLimit bounds the wait for a command's confirmation. A server may let
	// its output leave first: 64 KiB at 115200 baud take 5.7 s.
	answerLimit = 10 * time.Second
	// hangUpLimit is how long Open tries a far side that accepts and hangs up:
	// it may only just be noticing that its last client (a look by Present, this
	// station's last Link) has left. hangUpPause is the time between two tries.
	hangUpLimit = time.Second
	hangUpPause = 20 * time.Millisecond
)

// keepAlive notices within 11 s that the far machine is gone without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// Client commands of RFC 2217 section 3; the server's answer is the code + 100.
const (
	comSetBaud     = 1
	comSetDataSize = 2
	comSetParity   = 3
	comSetStopSize = 4
	comSetControl  = 5
	comPurge       = 12

	comAnswer        = 100
	comServerSuspend = 108
	comServerResume  = 109
)

// Values of SET-CONTROL and PURGE-DATA.
const (
	controlNoFlow  = 1
	controlDTROn   = 8
	controlDTROff  = 9
	controlRTSOn   = 11
	controlRTSOff  = 12
	purgeReceived  = 1
	dataSizeEight  = 8
	stopSizeSingle = 1
)

// comParity gives the values of SET-PARITY.
var comParity = map[Parity]byte{NoParity: 1, OddParity: 2, EvenParity: 3}

// comPort is a serial port behind a device server.
type comPort struct{ uri, addr string }

func (p comPort) Path() string { return p.uri }

// Present connects and hangs up: the connection alone leaves the lines alone.
func (p comPort) Present(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, presentLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Open says ErrBusy if this machine already uses the address, or if the far side
// goes on hanging up before it has said a word of Telnet: RFC 2217 has no word
// for busy, and that is what servers do with a second client.
func (p comPort) Open(ctx context.Context, m Mode) (Link, error) {
	l, err := p.open(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", p.uri, err)
	}
	return l, nil
}

func (p comPort) open(ctx context.Context, m Mode) (*comLink, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	reservation, err := reserve("rfc2217-" + p.addr)
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(hangUpLimit)
	defer limit.Stop()
	again := time.NewTicker(hangUpPause)
	defer again.Stop()
	for {
		l, err := p.connect(ctx, m)
		if err == nil {
			l.reservation = reservation
			return l, nil
		}
		if errors.Is(err, ErrBusy) {
			select {
			case <-again.C:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			case <-limit.C:
			}
		}
		reservation.Close()
		return nil, err
	}
}

func (p comPort) connect(ctx context.Context, m Mode) (*comLink, error) {
	dialer := net.Dialer{Timeout: dialLimit, KeepAliveConfig: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", p.addr)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	} else if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	l := newComLink(p.uri, conn)
	if err := l.start(ctx, m); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// start negotiates the options, then sets up the far port with its lines
// inactive.
func (l *comLink) start(ctx context.Context, m Mode) error {
	if err := l.negotiate(ctx); err != nil {
		return err
	}
	answers, err := l.ask(ctx,
		// Both lines in one segment. A server whose port has none (ser2net on such
		// a tty) does not confirm this, but it confirms what is behind.
		command{code: comSetControl, value: []byte{controlDTROff}, optional: true},
		command{code: comSetControl, value: []byte{controlRTSOff}, optional: true},
		command{code: comSetBaud, value: baudValue(m.Baud)},
		command{code: comSetDataSize, value: []byte{dataSizeEight}},
		command{code: comSetParity, value: []byte{comParity[m.Parity]}},
		command{code: comSetStopSize, value: []byte{stopSizeSingle}},
		command{code: comSetControl, value: []byte{controlNoFlow}})
	if err != nil {
		return err
	}
	l.noLines = answers[0] == nil || answers[1] == nil
	answers = answers[2:]
	if err := checkBaud(m.Baud, answers[0]); err != nil {
		return err
	}
	for i, want := range []byte{dataSizeEight, comParity[m.Parity], stopSizeSingle} {
		if got := answers[1+i]; len(got) != 1 || got[0] != want {
			return fmt.Errorf("far port refused %s %d, it has % x", [...]string{"data size", "parity", "stop size"}[i], want, got)
		}
	}
	l.Lock()
	l.arrived = l.arrived[:0] // a banner of the server, if any
	l.Unlock()
	return nil
}

func (l *comLink) SetLines(ctx context.Context, dtr, rts bool) error {
	d, r := byte(controlDTROff), byte(controlRTSOff)
	if dtr {
		d = controlDTROn
	}
	if rts {
		r = controlRTSOn
	}
	// The protocol has no word for both, so one segment brings them within
	// microseconds of each other.
	var answers [][]byte
	err := ctx.Err()
	if err == nil && l.noLines {
		err = ErrNoLines
	}
	if err == nil {
		answers, err = l.ask(ctx,
			command{code: comSetControl, value: []byte{d}},
			command{code: comSetControl, value: []byte{r}})
	}
	if err == nil && (answers[0][0] != d || answers[1][0] != r) {
		err = fmt.Errorf("%w (asked for %d and %d, got %d and %d)", ErrNoLines, d, r, answers[0][0], answers[1][0])
	}
	if err != nil {
		return fmt.Errorf("setting the lines of %s: %w", l.uri, err)
	}
	return nil
}

// SetBaud needs no wait of its own: the command is behind the data in the
// stream, and the server obeys in order.
func (l *comLink) SetBaud(ctx context.Context, baud int) error {
	err := Mode{Baud: baud}.check()
	if err == nil {
		var answers [][]byte
		if answers, err = l.ask(ctx, command{code: comSetBaud, value: baudValue(baud)}); err == nil {
			err = checkBaud(baud, answers[0])
		}
	}
	if err != nil {
		return fmt.Errorf("setting the speed of %s: %w", l.uri, err)
	}
	return nil
}

// Discard drops at the server what it holds, and here everything before the
// server's confirmation (see comSink.sub). A server that collects bytes before
// it sends them may send some after it: ser2net needs "chardelay: false".
func (l *comLink) Discard(ctx context.Context) error {
	if _, err := l.ask(ctx, command{code: comPurge, value: []byte{purgeReceived}}); err != nil {
		return fmt.Errorf("discarding input of %s: %w", l.uri, err)
	}
	return nil
}

func baudValue(baud int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(baud))
}

// checkBaud accepts the speed that the server says it has set within 2 %, which
// is what a UART tolerates: dividers give odd numbers.
func checkBaud(want int, answer []byte) error {
	if len(answer) < 4 {
		return errors.New("far port answered a speed of no meaning")
	}
	got := int64(binary.BigEndian.Uint32(answer))
	if diff := got - int64(want); 50*max(diff, -diff) > int64(want) {
		return fmt.Errorf("far port refused %d baud, it has %d", want, got)
	}
	return nil
}
