package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"nameplate/flasher/link"
)

// heardMost is the most text that waits to be looked at. More than that without
// sense in it is a board that babbles: the older half is dropped.
const heardMost = 64 << 10

// errQuiet: nothing came for as long as the caller would wait.
var errQuiet = errors.New("the console said nothing in time")

// console is the text that goes over a serial line.
type console struct {
	link link.Link
	baud int
	buf  [4096]byte
	in   []byte // what came and was not dropped; without CR
	used int    // how much of it belongs to the last answer and what was before
	calm calmer // in without the kernel's messages, where somebody wanted that
	// sought is how far in and calm.out were looked through for the end of an answer.
	sought struct{ in, calm int }
}

func newConsole(l link.Link, baud int) *console {
	return &console{link: l, baud: baud, in: make([]byte, 0, 4096)}
}

// send writes text, which may hold keys: it is wiped.
func (c *console) send(ctx context.Context, text []byte) error {
	defer clear(text)
	if err := c.link.Write(ctx, text); err != nil {
		return fmt.Errorf("writing to the console: %w", cause(ctx, err))
	}
	return nil
}

// more waits for at least one byte, for quiet at most.
func (c *console) more(ctx context.Context, quiet time.Duration) error {
	short, cancel := context.WithTimeoutCause(ctx, quiet, errQuiet)
	defer cancel()
	n, err := c.link.Read(short, c.buf[:])
	if err != nil {
		return fmt.Errorf("reading from the console: %w", cause(short, err))
	}
	c.take(c.buf[:n])
	return nil
}

// take adds what came, without copies of it staying behind in memory that was
// outgrown.
func (c *console) take(p []byte) {
	if len(c.in)+len(p) > heardMost {
		c.drop(len(c.in) / 2)
	}
	c.in = grow(c.in, len(p))
	for _, b := range p {
		if b != '\r' {
			c.in = append(c.in, b)
		}
	}
}

// drop forgets the first n bytes.
func (c *console) drop(n int) {
	rest := copy(c.in, c.in[n:])
	clear(c.in[rest:])
	c.in = c.in[:rest]
	c.begin()
}

// begin looks at what is there as if it had just come.
func (c *console) begin() {
	c.used, c.sought.in, c.sought.calm = 0, 0, 0
	c.calm.forget()
}

// grow makes room for n bytes more; memory that is outgrown is wiped.
func grow(b []byte, n int) []byte {
	room := len(b) + n
	if room <= cap(b) {
		return b
	}
	grown := make([]byte, len(b), 2*room)
	copy(grown, b)
	clear(b)
	return grown
}

// forget wipes all that came; it may be a key.
func (c *console) forget() {
	c.in = c.in[:cap(c.in)]
	clear(c.in)
	c.in = c.in[:0]
	c.begin()
	clear(c.buf[:])
}

// until reads until done says so. It ends with errQuiet when nothing came for
// quiet.
func (c *console) until(ctx context.Context, quiet time.Duration, done func() bool) error {
	for !done() {
		if err := c.more(ctx, quiet); err != nil {
			return err
		}
	}
	return nil
}

// wire is how long n bytes take on the line, with 8N1 and a little for gaps.
func (c *console) wire(n int) time.Duration {
	return time.Duration(n) * 12 * time.Second / time.Duration(c.baud)
}

// cause puts the reason why ctx ended in place of the bare context error of a link.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// The time that begins a message of the kernel (printk: "[%5lu.%06lu] "), and what
// may become one.
var (
	kernelTime  = regexp.MustCompile(`\A\[ {0,12}\d{1,7}\.\d{6}\]`)
	kernelStart = regexp.MustCompile(`\A\[ {0,12}(?:\d{1,7}(?:\.\d{0,6})?)?\z`)
)

// kernelTimeMost is more than such a time is long.
const kernelTimeMost = 32

// calmer takes the kernel's messages out of a text that grows: each from its time,
// wherever that is, to the end of its line. It looks at each byte once, whatever a
// board sends.
type calmer struct {
	out       []byte
	done      int  // how much of the text was looked at
	inMessage bool // and it ends in a message
}

// take goes on in text, which begins with what it was before.
func (c *calmer) take(text []byte) {
	c.out = grow(c.out, len(text)-c.done)
	for c.done < len(text) {
		rest := text[c.done:]
		if c.inMessage {
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				c.done = len(text)
				return
			}
			c.done, c.inMessage = c.done+end+1, false
			continue
		}
		at := bytes.IndexByte(rest, '[')
		if at < 0 {
			at = len(rest)
		}
		c.out, c.done, rest = append(c.out, rest[:at]...), c.done+at, rest[at:]
		if len(rest) == 0 {
			return
		}
		head := rest[:min(len(rest), kernelTimeMost)]
		if m := kernelTime.FindIndex(head); m != nil {
			c.done, c.inMessage = c.done+m[1], true
		} else if kernelStart.Match(head) {
			return
		} else {
			c.out, c.done = append(c.out, '['), c.done+1
		}
	}
}

func (c *calmer) forget() {
	clear(c.out[:cap(c.out)])
	*c = calmer{out: c.out[:0]}
}

// calm is text without the messages of the kernel, in memory of its own.
func calm(text []byte) []byte {
	var c calmer
	c.take(text)
	return append(c.out, text[c.done:]...)
}

// plain is text without escape sequences (ECMA-48, 5.4 and 8.3.89; OSC ends with
// BEL or ST) and other controls but the line feed.
func plain(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == 0x1B:
			i += escape(text[i:]) - 1
		case b == '\n' || b >= ' ' && b != 0x7F:
			out = append(out, b)
		}
	}
	return out
}

// escape is the length of the sequence that text begins with; one that is not
// complete goes on to the end.
func escape(text []byte) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			if text[i] >= 0x40 && text[i] <= 0x7E {
				return i + 1
			}
		}
		return len(text)
	case ']':
		if end := bytes.IndexAny(text, "\a\\"); end >= 0 {
			return end + 1
		}
		return len(text)
	}
	return 2
}
