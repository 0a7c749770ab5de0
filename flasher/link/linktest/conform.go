// Package linktest holds what tests need of package link: an in-process cable,
// a bad cable, and the suite that every carrier passes.
package linktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"nameplate/flasher/link"
)

// Harness is a fresh cable under test.
type Harness struct {
	Port   link.Port
	Far    io.ReadWriter // the device's end
	Unplug func()        // takes the far end away for good
	State  func() State  // what the device's end sees; Open and Parity are not looked at
	Lines  bool          // the carrier has DTR and RTS
}

// patience ends a call that would fail its test anyway.
const patience = 10 * time.Second

// more is what no carrier's buffers can swallow.
const more = 64 << 20

var mode = link.Mode{Baud: 115200}

// Conform runs the contract of link.Port and link.Link over what newHarness
// makes.
func Conform(t *testing.T, newHarness func(*testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, context.Context, Harness, link.Link)
	}{
		{"every byte value goes both ways", everyByte},
		{"a read ends with its context and loses nothing", readEnds},
		{"a blocked write ends with its context", writeEnds},
		{"an ended context ends every call", endedContext},
		{"the far end goes away during a read", goneReading},
		{"the far end goes away during a write", goneWriting},
		{"what came before the far end went away can be read", goneLater},
		{"lines start inactive and change together", lines},
		{"speed", speed},
		{"discard drops what came before and nothing after", discard},
		{"one user at a time", busy},
		{"close ends a read", closeEnds},
		{"reads and writes at the same time", atOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			h := newHarness(t)
			if !h.Port.Present(ctx) {
				t.Fatalf("%s is not present", h.Port.Path())
			}
			l, err := h.Port.Open(ctx, mode)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c.test(t, ctx, h, l)
		})
	}
}

func everyByte(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	var want []byte
	for b := range 256 {
		want = append(want, byte(b), 0xff, byte(b), 0xff, 0xff, '\r', '\n', '\r', 0)
	}
	if err := l.Write(ctx, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(h.Far, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("far end got % x, %v", got, err)
	}
	mustWrite(t, h.Far, want)
	mustRead(t, ctx, l, want)
}

func readEnds(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if n, err := l.Read(short, make([]byte, 8)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("silent far end: read %d, %v", n, err)
	}
	mustWrite(t, h.Far, []byte("late"))
	if n, err := l.Read(short, make([]byte, 8)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ended context: read %d, %v", n, err)
	}
	mustRead(t, ctx, l, []byte("late"))
}

func writeEnds(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	// 0xff, because a carrier that escapes must not end in the midst of it.
	if err := l.Write(short, bytes.Repeat([]byte{0xff}, more)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("far end does not read: %v", err)
	}
	// The far end wakes up: the link still works, whatever was cut off.
	arrived := make(chan error, 1)
	go func() {
		arrived <- readTo(h.Far, []byte("mark"))
	}()
	if err := l.SetBaud(ctx, 9600); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(ctx, []byte("mark")); err != nil {
		t.Fatal(err)
	}
	if err := <-arrived; err != nil {
		t.Fatal(err)
	}
}

// readTo reads until it has seen mark after any number of 0xff.
func readTo(r io.Reader, mark []byte) error {
	var seen []byte
	b := make([]byte, 32<<10)
	for {
		n, err := r.Read(b)
		if err != nil {
			return err
		}
		seen = bytes.TrimLeft(append(seen, b[:n]...), "\xff")
		if bytes.Equal(seen, mark) {
			return nil
		}
		if !bytes.HasPrefix(mark, seen) {
			return fmt.Errorf("far end got %q", seen)
		}
	}
}

func endedContext(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, err := range map[string]error{
		"Read":     second(l.Read(ended, make([]byte, 1))),
		"Write":    l.Write(ended, []byte("x")),
		"SetLines": l.SetLines(ended, true, true),
		"SetBaud":  l.SetBaud(ended, 9600),
		"Discard":  l.Discard(ended),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.Close()
	if _, err := h.Port.Open(ended, mode); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v", err)
	}
}

func goneReading(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	got := make(chan error, 1)
	go func() { got <- second(l.Read(ctx, make([]byte, 8))) }()
	h.Unplug()
	if err := <-got; !errors.Is(err, link.ErrGone) {
		t.Fatal(err)
	}
	if err := second(l.Read(ctx, make([]byte, 8))); !errors.Is(err, link.ErrGone) {
		t.Errorf("next read: %v", err)
	}
	if err := l.Write(ctx, []byte("x")); !errors.Is(err, link.ErrGone) {
		t.Errorf("write: %v", err)
	}
	if err := l.SetBaud(ctx, 9600); !errors.Is(err, link.ErrGone) {
		t.Errorf("speed: %v", err)
	}
	if h.Port.Present(ctx) {
		t.Error("still present")
	}
	l.Close()
	if _, err := h.Port.Open(ctx, mode); !errors.Is(err, link.ErrGone) {
		t.Errorf("open: %v", err)
	}
}

func goneWriting(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	got := make(chan error, 1)
	go func() { got <- l.Write(ctx, make([]byte, more)) }()
	if _, err := io.ReadFull(h.Far, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	h.Unplug()
	if err := <-got; !errors.Is(err, link.ErrGone) {
		t.Fatal(err)
	}
}

// goneLater holds only that the link says so in the end: what a carrier had
// under way may be lost with the cable.
func goneLater(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	mustWrite(t, h.Far, []byte("last words"))
	mustRead(t, ctx, l, []byte("last"))
	h.Unplug()
	for n, err := 0, error(nil); err == nil; {
		n, err = l.Read(ctx, make([]byte, 1))
		if err != nil && !errors.Is(err, link.ErrGone) || err == nil && n != 1 {
			t.Fatalf("read %d, %v", n, err)
		}
	}
}

func lines(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	if !h.Lines {
		if err := l.SetLines(ctx, true, false); !errors.Is(err, link.ErrNoLines) {
			t.Fatal(err)
		}
		return
	}
	if s := h.State(); s.DTR || s.RTS {
		t.Fatalf("at open: %+v", s)
	}
	for _, want := range [][2]bool{{true, false}, {false, true}, {true, true}, {false, false}} {
		if err := l.SetLines(ctx, want[0], want[1]); err != nil {
			t.Fatal(err)
		}
		if s := h.State(); s.DTR != want[0] || s.RTS != want[1] {
			t.Fatalf("want DTR %t, RTS %t: %+v", want[0], want[1], s)
		}
	}
}

func speed(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	if got := h.State().Baud; got != mode.Baud {
		t.Fatalf("opened with %d: far end has %d", mode.Baud, got)
	}
	for _, want := range []int{921600, 74880, 65535, 115200} {
		if err := l.Write(ctx, []byte("before")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(h.Far, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if err := l.SetBaud(ctx, want); err != nil {
			t.Fatal(err)
		}
		if got := h.State().Baud; got != want {
			t.Fatalf("want %d, far end has %d", want, got)
		}
	}
	for _, bad := range []int{0, -1} {
		if l.SetBaud(ctx, bad) == nil {
			t.Errorf("speed %d accepted", bad)
		}
	}
}

func discard(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	if err := l.Discard(ctx); err != nil {
		t.Fatal(err)
	}
	old := bytes.Repeat([]byte("old\xff"), 500)
	for i := range 20 {
		mustWrite(t, h.Far, old)
		if i%2 == 0 {
			mustRead(t, ctx, l, old[:3])
		}
		if err := l.Discard(ctx); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, h.Far, []byte("new"))
		mustRead(t, ctx, l, []byte("new"))
	}
}

func busy(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	if _, err := h.Port.Open(ctx, mode); !errors.Is(err, link.ErrBusy) {
		t.Fatal(err)
	}
	mustWrite(t, h.Far, []byte("undisturbed"))
	mustRead(t, ctx, l, []byte("undisturbed"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := h.Port.Open(ctx, mode)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func closeEnds(t *testing.T, ctx context.Context, _ Harness, l link.Link) {
	got := make(chan error, 1)
	go func() { got <- second(l.Read(ctx, make([]byte, 1))) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, link.ErrGone) {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func atOnce(t *testing.T, ctx context.Context, h Harness, l link.Link) {
	want := make([]byte, 64<<10)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	go io.Copy(h.Far, h.Far) // an echo; ends with the harness
	wrote := make(chan error, 1)
	go func() {
		for p := want; len(p) > 0; p = p[1024:] {
			if err := l.Write(ctx, p[:1024]); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	mustRead(t, ctx, l, want)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
}

func second(_ int, err error) error { return err }

func mustWrite(t *testing.T, far io.Writer, p []byte) {
	t.Helper()
	if _, err := far.Write(p); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, ctx context.Context, l link.Link, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	for at := 0; at < len(got); {
		n, err := l.Read(ctx, got[at:])
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", at, len(got), err)
		}
		at += n
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read %.80q, want %.80q", got, want)
	}
}
