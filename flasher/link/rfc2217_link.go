package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

const (
	// bufferLimit: from here on nothing more is read from the network, and TCP
	// holds the far side back, except while a command waits for its answer,
	// which is behind the data.
	bufferLimit = 256 << 10
	// floodLimit ends a link whose far side sends data without end while it owes
	// an answer: seconds of the fastest serial line.
	floodLimit = 4 << 20
	// maxReplies bounds the replies to a far side that negotiates without end.
	maxReplies = 64
	// dataPiece is how much data goes out before a command may go between.
	dataPiece = 4 << 10
)

// comLink is an open connection to an RFC 2217 server. One goroutine takes the
// stream apart as it arrives; so a confirmation, a negotiation and flow control
// never wait for somebody to call Read.
type comLink struct {
	uri         string
	conn        net.Conn
	reservation io.Closer       // nil until the link is open
	alive       context.Context // ends with the link
	end         context.CancelFunc
	replies     chan []byte
	goroutines  sync.WaitGroup
	closing     sync.Once
	closed      error
	noLines     bool // as found at open

	sending    chan struct{} // holds a token while somebody writes to conn
	unfinished []byte        // what a cut write still owes the far side's decoder; guarded by sending

	monitor   // guards what follows
	arrived   []byte
	options   options
	spoke     bool // the far side has said a word of Telnet
	suspended bool // the far side wants no data now
	asking    int  // callers that wait for confirmations
	answers   map[kind][]*answer
	err       error // why the link ended
}

func newComLink(uri string, conn net.Conn) *comLink {
	l := &comLink{
		uri: uri, conn: conn,
		replies: make(chan []byte, maxReplies),
		sending: make(chan struct{}, 1),
		answers: map[kind][]*answer{},
	}
	l.alive, l.end = context.WithCancel(context.Background())
	l.replies <- l.options.hello()
	l.goroutines.Go(l.receive)
	l.goroutines.Go(l.reply)
	return l
}

// negotiate waits until both sides agree on what the link needs.
func (l *comLink) negotiate(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, negotiationLimit)
	defer cancel()
	l.Lock()
	defer l.Unlock()
	err := l.await(limited, func() bool { return l.options.agreed() || l.err != nil })
	switch {
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("far side did not agree to COM-PORT-OPTION and binary transmission within %v: it is not an RFC 2217 server, or it serves somebody else first", negotiationLimit)
	case err == nil && errors.Is(l.err, ErrGone) && !l.spoke:
		return fmt.Errorf("%w: the far side hung up at once", ErrBusy)
	case err == nil:
		return l.err
	}
	return err
}

func (l *comLink) Read(ctx context.Context, p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	err := ctx.Err()
	if err == nil && len(p) > 0 {
		err = l.await(ctx, func() bool { return len(l.arrived) > 0 || l.err != nil })
	}
	if err == nil && len(l.arrived) == 0 {
		err = l.err
	}
	if err != nil {
		return 0, fmt.Errorf("reading from %s: %w", l.uri, err)
	}
	n := copy(p, l.arrived)
	clear(l.arrived[:n]) // it may be a key
	l.arrived = l.arrived[n:]
	l.changed()
	return n, nil
}

func (l *comLink) Write(ctx context.Context, p []byte) error {
	// Room for the longest piece from the start, so that no copy of a key stays
	// behind in a buffer that was outgrown.
	escaped := make([]byte, 0, 2*min(len(p), dataPiece))
	defer func() { clear(escaped[:cap(escaped)]) }()
	for len(p) > 0 {
		n := min(len(p), dataPiece)
		escaped = appendEscaped(escaped[:0], p[:n])
		if err := l.sendData(ctx, escaped); err != nil {
			return fmt.Errorf("writing to %s: %w", l.uri, err)
		}
		p = p[n:]
	}
	return nil
}

func (l *comLink) sendData(ctx context.Context, escaped []byte) error {
	l.Lock()
	err := l.await(ctx, func() bool { return !l.suspended || l.err != nil })
	l.Unlock()
	if err != nil {
		return err
	}
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	sent, err := l.send(ctx, escaped)
	if err != nil && cutInPair(escaped[:sent]) {
		l.unfinished = []byte{iac}
	}
	return err
}

// acquire waits for the right to send.
func (l *comLink) acquire(ctx context.Context) error {
	select {
	case l.sending <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *comLink) release() { <-l.sending }

// send writes what an earlier send left unfinished, then b. With an error it
// says how much of b went out. The caller has acquired the right to send.
func (l *comLink) send(ctx context.Context, b []byte) (sent int, err error) {
	l.Lock()
	err = l.err
	l.Unlock()
	if err != nil {
		return 0, err
	}
	owed := len(l.unfinished)
	out := b
	if owed > 0 {
		out = slices.Concat(l.unfinished, b)
		defer clear(out)
	}
	n, err := until(ctx, l.conn.SetWriteDeadline, func() (int, error) { return l.conn.Write(out) })
	l.unfinished = l.unfinished[min(n, owed):]
	if err != nil && ctx.Err() == nil {
		err = l.fail(fmt.Errorf("%w (%w)", ErrGone, err))
	}
	return max(n-owed, 0), err
}

// reply sends what the negotiation has to say. It is a goroutine of its own, so
// that receive goes on when the far side does not take anything.
func (l *comLink) reply() {
	for {
		select {
		case b := <-l.replies:
			if l.acquire(l.alive) != nil {
				return
			}
			_, err := l.send(l.alive, b)
			l.release()
			if err != nil {
				return
			}
		case <-l.alive.Done():
			return
		}
	}
}

// receive takes the far side's stream apart until the link ends.
func (l *comLink) receive() {
	var d decoder
	b := make([]byte, 32<<10)
	for {
		l.Lock()
		err := l.await(l.alive, func() bool { return len(l.arrived) < bufferLimit || l.asking > 0 })
		l.Unlock()
		if err != nil {
			return
		}
		n, err := l.conn.Read(b)
		if err != nil {
			err = fmt.Errorf("%w (%w)", ErrGone, err)
		}
		if e := l.decode(&d, b[:n]); e != nil {
			err = e
		}
		clear(b[:n])
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// decode feeds the decoder, under the lock.
func (l *comLink) decode(d *decoder, p []byte) error {
	l.Lock()
	defer l.Unlock()
	defer l.changed()
	return d.decode(p, (*comSink)(l))
}

// fail ends the link; the first cause stays.
func (l *comLink) fail(cause error) error {
	l.Lock()
	defer l.Unlock()
	if l.err == nil {
		l.err = cause
		l.closed = l.conn.Close()
		l.end()
		l.changed()
	}
	return l.err
}

func (l *comLink) Close() error {
	l.closing.Do(func() {
		l.fail(fmt.Errorf("%w (closed)", ErrGone))
		l.goroutines.Wait()
		l.Lock()
		clear(l.arrived) // what nobody read may be part of a key too
		l.arrived = nil
		l.Unlock()
		if l.reservation != nil {
			l.closed = errors.Join(l.closed, l.reservation.Close())
		}
	})
	return l.closed
}
