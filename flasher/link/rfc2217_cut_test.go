package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
)

// A write or command whose context ends when any number of its bytes are out
// leaves the far side's decoder in step: what is sent next arrives as itself.
func TestCutSendLeavesTheStreamInStep(t *testing.T) {
	data := []byte{'a', 0xff, 0xff, 'b', 0xff}
	for cut := range 1 + len(appendEscaped(nil, data)) {
		got := cutAfter(t, cut, func(ctx context.Context, l *comLink) error { return l.Write(ctx, data) })
		if words := got.words.String(); words != "[sub 2c 01 00 00 25 80 at "+string(rune('0'+len(got.bytes)-1))+"]" ||
			!bytes.HasSuffix(got.bytes, []byte("z")) || !bytes.HasPrefix(data, got.bytes[:len(got.bytes)-1]) {
			t.Errorf("data cut after %d bytes: % x %s", cut, got.bytes, words)
		}
	}
	for cut := range 15 {
		got := cutAfter(t, cut, func(ctx context.Context, l *comLink) error { return l.SetLines(ctx, true, false) })
		want := "[sub 2c 05 08 at 0][sub 2c 05 0c at 0][sub 2c 01 00 00 25 80 at 0]"
		if cut == 0 {
			want = "[sub 2c 01 00 00 25 80 at 0]"
		}
		if words := got.words.String(); words != want || string(got.bytes) != "z" {
			t.Errorf("command cut after %d bytes: % x %s", cut, got.bytes, words)
		}
	}
}

// cutAfter runs do against a far side that takes n bytes of it and then ends
// its context, sets the speed and writes "z", and returns what arrived.
func cutAfter(t *testing.T, n int, do func(context.Context, *comLink) error) *transcript {
	t.Helper()
	near, far := net.Pipe() // no buffer: what was not read was not sent
	defer far.Close()
	l := newComLink("pipe", near)
	defer l.Close()
	if _, err := io.ReadFull(far, make([]byte, len(new(options).hello()))); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cut := make(chan error, 1)
	go func() { cut <- do(ctx, l) }()
	stream := make([]byte, n)
	if _, err := io.ReadFull(far, stream); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-cut; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	next := make(chan error, 1)
	go func() {
		err := l.SetBaud(t.Context(), 9600)
		next <- errors.Join(err, l.Write(t.Context(), []byte("z")))
	}()
	b := make([]byte, 64)
	for !bytes.HasSuffix(stream, []byte("z")) {
		k, err := far.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		stream = append(stream, b[:k]...)
		if bytes.HasSuffix(stream, []byte{0x25, 0x80, iac, iacSE}) {
			far.Write([]byte{iac, iacSB, optComPort, comSetBaud + comAnswer, 0, 0, 0x25, 0x80, iac, iacSE})
		}
	}
	if err := <-next; err != nil {
		t.Fatal(err)
	}
	var got transcript
	if err := new(decoder).decode(stream, &got); err != nil {
		t.Fatal(err)
	}
	return &got
}
