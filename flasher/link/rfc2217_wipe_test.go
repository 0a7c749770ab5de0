package link

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// keepingConn keeps every buffer that its user hands to it, as a debugger or a
// core file would see them later.
type keepingConn struct {
	net.Conn
	mu      sync.Mutex
	buffers [][]byte
}

func (c *keepingConn) keep(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buffers = append(c.buffers, b)
}

func (c *keepingConn) Read(b []byte) (int, error)  { c.keep(b); return c.Conn.Read(b) }
func (c *keepingConn) Write(b []byte) (int, error) { c.keep(b); return c.Conn.Write(b) }

// What goes to and comes from a board may be a key: the link keeps no copy of it.
func TestNothingStaysInTheBuffers(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	conn := &keepingConn{Conn: near}
	l := newComLink("pipe", conn)
	defer l.Close()
	if _, err := io.ReadFull(far, make([]byte, len(new(options).hello()))); err != nil {
		t.Fatal(err)
	}
	key := append(bytes.Repeat([]byte("secret key"), 2*dataPiece/10), iac)

	go func() {
		_, _ = io.ReadFull(far, make([]byte, len(appendEscaped(nil, key))))
		_, _ = far.Write([]byte("another key"))
	}()
	if err := l.Write(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(key, []byte("secret key")) {
		t.Error("the caller's own bytes were wiped")
	}
	l.Lock()
	err := l.await(t.Context(), func() bool { return len(l.arrived) == len("another key") })
	arrived := l.arrived
	l.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(t.Context(), make([]byte, 5)); err != nil { // the rest is never read
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // no goroutine looks at the buffers any more
		t.Fatal(err)
	}
	for _, b := range append(conn.buffers, arrived) {
		if b = b[:cap(b)]; bytes.Contains(b, []byte("key")) {
			t.Errorf("a buffer of %d bytes still holds a key", len(b))
		}
	}
}
