package link_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

func TestRFC2217Conforms(t *testing.T) {
	linktest.Conform(t, func(t *testing.T) linktest.Harness {
		s := newServer(t)
		return linktest.Harness{Port: s.port(), Far: s, Unplug: s.unplug, State: s.state, Lines: true}
	})
}

func openServer(t *testing.T, s *server, m link.Mode) link.Link {
	t.Helper()
	l, err := s.port().Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// The far port gets its whole mode, and both lines go inactive, before Open
// returns. 65535 baud and an escaped byte in the value: 00 00 ff ff.
func TestRFC2217SetsTheWholeMode(t *testing.T) {
	s := newServer(t, func(s *server) { s.banner = "ser2net port 3001\r\n" })
	l := openServer(t, s, link.Mode{Baud: 65535, Parity: link.EvenParity})
	want := []string{"5 09", "5 0c", "1 00 00 ff ff", "2 08", "3 03", "4 01", "5 01"}
	if got := s.commands(); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	// The banner was not the board's.
	if _, err := s.Write([]byte("board")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 32)
	if n, err := l.Read(t.Context(), b); err != nil || string(b[:n]) != "board" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestRFC2217ServerThatIsNone(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(*server)
		text  string
	}{
		{"no COM-PORT-OPTION", func(s *server) { s.refuse = 44 }, "it is not an RFC 2217 server"},
		{"no binary transmission", func(s *server) { s.refuse = 0 }, "refused binary transmission"},
		{"parity not there", func(s *server) {
			s.confirm = func(code byte, value []byte) []byte {
				if code == 3 {
					return []byte{1}
				}
				return value
			}
		}, "far port refused parity 3, it has 01"},
		{"another speed", func(s *server) {
			s.confirm = func(code byte, value []byte) []byte {
				if code == 1 {
					return []byte{0, 0, 0x25, 0x80}
				}
				return value
			}
		}, "far port refused 115200 baud, it has 9600"},
		{"a speed cut short", func(s *server) {
			s.confirm = func(code byte, value []byte) []byte { return value[:1] }
		}, "a speed of no meaning"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, c.alter)
			_, err := s.port().Open(t.Context(), link.Mode{Baud: 115200, Parity: link.EvenParity})
			if err == nil || !strings.Contains(err.Error(), c.text) || errors.Is(err, link.ErrGone) {
				t.Fatal(err)
			}
		})
	}
}

// Dividers give odd speeds.
func TestRFC2217TakesASpeedThatIsNearEnough(t *testing.T) {
	s := newServer(t, func(s *server) {
		s.confirm = func(code byte, value []byte) []byte {
			if code == 1 {
				return []byte{0, 1, 0xc2 + 1, 0} // 115456
			}
			return value
		}
	})
	openServer(t, s, link.Mode{Baud: 115200})
}

func TestRFC2217PortWithoutLines(t *testing.T) {
	s := newServer(t, func(s *server) {
		s.confirm = func(code byte, value []byte) []byte {
			if code == 5 && value[0] > 3 {
				return nil
			}
			return value
		}
	})
	l := openServer(t, s, link.Mode{Baud: 115200})
	if err := l.SetLines(t.Context(), false, true); !errors.Is(err, link.ErrNoLines) {
		t.Error(err)
	}
}

func TestRFC2217PortWithALineMissing(t *testing.T) {
	s := newServer(t, func(s *server) {
		s.confirm = func(code byte, value []byte) []byte {
			if code == 5 && value[0] == 8 {
				return []byte{9}
			}
			return value
		}
	})
	l := openServer(t, s, link.Mode{Baud: 115200})
	if err := l.SetLines(t.Context(), true, false); !errors.Is(err, link.ErrNoLines) {
		t.Error(err)
	}
	if err := l.SetLines(t.Context(), false, true); err != nil {
		t.Error(err)
	}
}

// The confirmation of a command whose caller gave up is not taken for that of
// the next one.
func TestRFC2217LateConfirmation(t *testing.T) {
	asked := make(chan struct{})
	s := newServer(t, func(s *server) {
		s.confirm = func(code byte, value []byte) []byte {
			switch {
			case code == 5 && value[0] == 11: // RTS on: not yet
				close(asked)
				return nil
			case code == 5 && value[0] == 9 && s.state().RTS: // DTR off, behind it
				s.raw([]byte{0xff, 250, 44, 105, 11, 0xff, 240})
			}
			return value
		}
	})
	l := openServer(t, s, link.Mode{Baud: 115200})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if err := l.SetLines(ctx, true, true); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := l.SetLines(t.Context(), false, false); err != nil {
		t.Error(err)
	}
}

// A board that talks without end and that nobody reads must not hide a
// confirmation.
func TestRFC2217ConfirmationBehindUnreadData(t *testing.T) {
	s := newServer(t, func(s *server) {
		s.confirm = func(code byte, value []byte) []byte {
			if code == 5 && value[0] == 8 {
				s.Write(make([]byte, 1<<20))
			}
			return value
		}
	})
	l := openServer(t, s, link.Mode{Baud: 115200})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := l.SetLines(ctx, true, false); err != nil {
		t.Fatal(err)
	}
	// Nothing of it is lost.
	for got, b := 0, make([]byte, 64<<10); got < 1<<20; {
		n, err := l.Read(ctx, b)
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		got += n
	}
}

func TestRFC2217FlowControl(t *testing.T) {
	s := newServer(t)
	l := openServer(t, s, link.Mode{Baud: 115200})
	// A command behind the suspension shows that it has been seen.
	s.raw([]byte{0xff, 250, 44, 108, 0xff, 240})
	if err := l.SetBaud(t.Context(), 9600); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := l.Write(short, []byte("held")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("suspended: %v", err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- l.Write(t.Context(), []byte("sent")) }()
	s.raw([]byte{0xff, 250, 44, 109, 0xff, 240})
	b := make([]byte, 16)
	got := ""
	for len(got) < 4 {
		n, err := s.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
	if err := <-wrote; err != nil || got != "sent" {
		t.Errorf("after the resumption: %q, %v", got, err)
	}
}

// Notices, signatures, unknown options and commands mean nothing to a board.
func TestRFC2217IgnoresTheRest(t *testing.T) {
	s := newServer(t)
	l := openServer(t, s, link.Mode{Baud: 115200})
	s.raw([]byte{
		0xff, 250, 44, 107, 0xff, 0xff, 0xff, 240, // NOTIFY-MODEMSTATE 0xff
		0xff, 250, 44, 106, 0x60, 0xff, 240, // NOTIFY-LINESTATE
		0xff, 250, 44, 100, 'v', '1', 0xff, 240, // SIGNATURE
		0xff, 250, 44, 105, 0xff, 240, // a confirmation of nothing
		0xff, 250, 44, 105, 8, 0xff, 240, // one that nobody asked for
		0xff, 250, 24, 1, 0xff, 240, // TERMINAL-TYPE
		0xff, 241, 0xff, 246, // no operation, are you there
		0xff, 251, 1, // WILL ECHO
		0xff, 253, 24, // DO TERMINAL-TYPE
		0xff, 253, 0, // DO BINARY, again
		'o', 'k',
	})
	b := make([]byte, 16)
	n, err := l.Read(t.Context(), b)
	if err != nil || string(b[:n]) != "ok" {
		t.Fatalf("% x, %v", b[:n], err)
	}
	// The refusals go out beside our own commands.
	want := []string{"refuses 254 1", "refuses 252 24"}
	var got []string
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !slices.Equal(got, want) {
		if err := l.Discard(ctx); err != nil {
			t.Fatal(err)
		}
		got = slices.DeleteFunc(s.commands(), func(c string) bool { return !strings.HasPrefix(c, "refuses") })
	}
}

func TestRFC2217HostileServer(t *testing.T) {
	for name, c := range map[string]struct {
		send []byte
		text string
	}{
		"endless subnegotiation": {append([]byte{0xff, 250, 44}, make([]byte, 4096)...), "endless Telnet subnegotiation"},
		"binary taken back":      {[]byte{0xff, 254, 0}, "refused binary transmission"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			l := openServer(t, s, link.Mode{Baud: 115200})
			s.raw(c.send)
			if _, err := l.Read(t.Context(), make([]byte, 1)); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Error(err)
			}
			if err := l.Write(t.Context(), []byte("x")); err == nil {
				t.Error("the link goes on")
			}
		})
	}
}

// Somebody else is connected to the device server.
func TestRFC2217ServerHangsUp(t *testing.T) {
	s := newServer(t)
	other, err := net.Dial("tcp", s.lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Write([]byte{0xff, 251, 44}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.port().Open(t.Context(), link.Mode{Baud: 115200}); !errors.Is(err, link.ErrBusy) {
		t.Error(err)
	}
}
