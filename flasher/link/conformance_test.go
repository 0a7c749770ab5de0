//go:build conformance

// The client against RFC 2217 servers that we did not write. Debian's
// python3-serial and ser2net must be installed.
package link_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// startServer runs a server and returns what ends it.
func startServer(t *testing.T, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestConformancePyserialServer(t *testing.T) {
	linktest.Conform(t, func(t *testing.T) linktest.Harness {
		far := newPTY(t)
		lines := filepath.Join(t.TempDir(), "lines")
		if err := os.WriteFile(lines, []byte("??"), 0o600); err != nil {
			t.Fatal(err)
		}
		// Debian's interpreter, which has Debian's package.
		cmd := exec.Command("/usr/bin/python3", "testdata/rfc2217_server.py", far.path, lines)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stop := startServer(t, cmd)
		number, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatalf("the server did not start: %v", err)
		}
		port, err := link.Parse("rfc2217://127.0.0.1:" + strings.TrimSpace(number))
		if err != nil {
			t.Fatal(err)
		}
		return linktest.Harness{
			Port: port, Far: far.master, Lines: true,
			Unplug: func() { stop(); far.unplug() },
			State: func() linktest.State {
				s := far.state()
				b, _ := os.ReadFile(lines)
				s.DTR, s.RTS = string(b[:1]) == "1", string(b[1:2]) == "1"
				return s
			},
		}
	})
}

func TestConformanceSer2net(t *testing.T) {
	linktest.Conform(t, func(t *testing.T) linktest.Harness {
		far := newPTY(t)
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := lis.Addr().(*net.TCPAddr)
		lis.Close() // ser2net cannot choose a free port and tell
		dir := t.TempDir()
		config := filepath.Join(dir, "ser2net.yaml")
		// Without chardelay ser2net sends what it has read at once. With it (the
		// default) it may hold bytes for some milliseconds, past a purge.
		text := fmt.Sprintf(`%%YAML 1.1
---
connection: &board
  accepter: telnet(rfc2217),tcp,127.0.0.1,%d
  connector: serialdev,%s,115200n81,local
  options:
    chardelay: false
`, addr.Port, far.path)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stop := startServer(t, exec.Command("ser2net", "-n", "-d", "-u", "-c", config, "-P", filepath.Join(dir, "pid")))
		port, err := link.Parse("rfc2217://" + addr.String())
		if err != nil {
			t.Fatal(err)
		}
		for !port.Present(t.Context()) {
			if t.Context().Err() != nil {
				t.Fatal("ser2net does not listen")
			}
		}
		return linktest.Harness{
			Port: patient{port}, Far: far.master,
			Unplug: func() { stop(); far.unplug() }, State: far.state,
		}
	})
}

// patient opens again for a moment: ser2net may reset a connection that comes
// while it still lets go of the one before, such as that of Present.
type patient struct{ link.Port }

func (p patient) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for tries := 0; ; tries++ {
		l, err := p.Port.Open(ctx, m)
		if !errors.Is(err, link.ErrGone) || tries == 20 {
			return l, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}
