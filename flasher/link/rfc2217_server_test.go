package link_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// server is a strict RFC 2217 server for one client at a time, written from the
// RFCs with nothing of the client's. What it does not expect it reports as an
// error of the test.
type server struct {
	t       *testing.T
	lis     net.Listener
	toBoard *io.PipeReader // data from the client
	fromNet *io.PipeWriter

	// What a test may alter before the server starts.
	confirm func(code byte, value []byte) []byte // the value to confirm; nil: none
	refuse  byte                                 // an option to refuse
	banner  string

	mu   sync.Mutex
	conn net.Conn
	st   linktest.State
	log  []string // commands as they came
}

func newServer(t *testing.T, alter ...func(*server)) *server {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, lis: lis, refuse: 255}
	s.confirm = func(_ byte, value []byte) []byte { return value }
	s.toBoard, s.fromNet = io.Pipe()
	for _, a := range alter {
		a(s)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { s.unplug(); wg.Wait() })
	return s
}

func (s *server) port() link.Port {
	s.t.Helper()
	port, err := link.Parse("rfc2217://" + s.lis.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	return port
}

// unplug is the device server losing its power.
func (s *server) unplug() {
	s.lis.Close()
	s.toBoard.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

func (s *server) state() linktest.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

func (s *server) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *server) Read(p []byte) (int, error) { return s.toBoard.Read(p) }

// Write sends data of the board.
func (s *server) Write(p []byte) (int, error) {
	return len(p), s.raw(bytes.ReplaceAll(p, []byte{0xff}, []byte{0xff, 0xff}))
}

func (s *server) raw(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return io.ErrClosedPipe
	}
	_, err := s.conn.Write(p)
	return err
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	taken := s.conn != nil
	if !taken {
		s.conn = conn
	}
	s.mu.Unlock()
	if taken {
		return // as device servers do
	}
	defer func() {
		s.mu.Lock()
		s.conn = nil
		s.mu.Unlock()
	}()
	s.raw([]byte(s.banner))
	agreed := map[[2]byte]bool{}
	for r := bufio.NewReader(conn); ; {
		b, err := r.ReadByte()
		if err != nil {
			return
		}
		if b == 0xff {
			if b, err = r.ReadByte(); err != nil {
				return
			}
			if b != 0xff {
				if err := s.command(r, b, agreed); err != nil {
					return
				}
				continue
			}
		}
		if !agreed[[2]byte{251, 44}] || !agreed[[2]byte{251, 0}] || !agreed[[2]byte{253, 0}] {
			s.t.Errorf("server: data %#x before the negotiation was over", b)
		}
		if _, err := s.fromNet.Write([]byte{b}); err != nil {
			return
		}
	}
}

// command takes what follows an IAC. Its error is the connection's.
func (s *server) command(r *bufio.Reader, b byte, agreed map[[2]byte]bool) error {
	switch b {
	case 251, 253: // WILL, DO
		opt, err := r.ReadByte()
		if err != nil {
			return err
		}
		if opt != 0 && opt != 3 && (opt != 44 || b != 251) {
			s.t.Errorf("server: client asks for %d %d", b, opt)
		}
		if agreed[[2]byte{b, opt}] {
			s.t.Errorf("server: client asks twice for %d %d", b, opt)
		}
		answer := map[byte]byte{251: 253, 253: 251}[b] // WILL: DO; DO: WILL
		if opt == s.refuse {
			answer++ // DONT, WONT
		} else {
			agreed[[2]byte{b, opt}] = true
		}
		return s.raw([]byte{0xff, answer, opt})
	case 252, 254: // WONT, DONT
		opt, err := r.ReadByte()
		s.note(fmt.Sprintf("refuses %d %d", b, opt))
		return err
	case 250: // SB
		if !agreed[[2]byte{251, 44}] {
			s.t.Error("server: subnegotiation before COM-PORT-OPTION was agreed")
		}
		var sub []byte
		for {
			b, err := r.ReadByte()
			if err != nil {
				return err
			}
			if b == 0xff {
				if b, err = r.ReadByte(); err != nil {
					return err
				}
				if b == 240 {
					return s.obey(sub)
				}
				if b != 0xff {
					s.t.Errorf("server: IAC %d in a subnegotiation", b)
				}
			}
			sub = append(sub, b)
		}
	}
	s.t.Errorf("server: IAC %d", b)
	return nil
}

func (s *server) note(what string) {
	s.mu.Lock()
	s.log = append(s.log, what)
	s.mu.Unlock()
}

func (s *server) obey(sub []byte) error {
	if len(sub) < 3 || sub[0] != 44 {
		s.t.Errorf("server: subnegotiation % x", sub)
		return nil
	}
	code, value := sub[1], sub[2:]
	s.note(fmt.Sprintf("%d % x", code, value))
	s.mu.Lock()
	switch {
	case code == 1 && len(value) == 4:
		s.st.Baud = int(binary.BigEndian.Uint32(value))
	case code == 3 && len(value) == 1:
		parities := map[byte]link.Parity{1: link.NoParity, 2: link.OddParity, 3: link.EvenParity}
		s.st.Parity = parities[value[0]]
	case code == 5 && len(value) == 1 && (value[0] == 8 || value[0] == 9):
		s.st.DTR = value[0] == 8
	case code == 5 && len(value) == 1 && (value[0] == 11 || value[0] == 12):
		s.st.RTS = value[0] == 11
	case (code == 2 || code == 4 || code == 5 || code == 12) && len(value) == 1:
	default:
		s.t.Errorf("server: command %d % x", code, value)
	}
	s.mu.Unlock()
	value = s.confirm(code, value)
	if value == nil {
		return nil
	}
	answer := append([]byte{0xff, 250, 44, code + 100}, bytes.ReplaceAll(value, []byte{0xff}, []byte{0xff, 0xff})...)
	return s.raw(append(answer, 0xff, 240))
}
