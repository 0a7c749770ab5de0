package link_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

func TestSerialConforms(t *testing.T) {
	linktest.Conform(t, func(t *testing.T) linktest.Harness {
		far := newPTY(t)
		port, err := link.Parse(far.path)
		if err != nil {
			t.Fatal(err)
		}
		return linktest.Harness{Port: port, Far: far.master, Unplug: far.unplug, State: far.state}
	})
}

// The helper is this test program again, as another station.
const helperPort = "NAMEPLATE_LINK_TEST_PORT"

func TestMain(m *testing.M) {
	if uri := os.Getenv(helperPort); uri != "" {
		port, err := link.Parse(uri)
		if err == nil {
			_, err = port.Open(context.Background(), link.Mode{Baud: 115200})
		}
		if err != nil {
			fmt.Println(errors.Is(err, link.ErrBusy), err)
			os.Exit(0)
		}
		fmt.Println("open")
		io.Copy(io.Discard, os.Stdin) // until killed
	}
	os.Exit(m.Run())
}

func TestSerialPortIsHeldAgainstOtherProcesses(t *testing.T) {
	far := newPTY(t)
	port, _ := link.Parse(far.path)
	l, err := port.Open(t.Context(), link.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	another := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), helperPort+"="+far.path)
		return cmd
	}
	out, err := another().Output()
	if err != nil || !strings.HasPrefix(string(out), "true ") {
		t.Fatalf("another process, while we hold the port: %s%v", out, err)
	}
	l.Close()

	cmd := another()
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(stdout, b); err != nil || string(b) != "open\n" {
		t.Fatalf("another process, after we closed: %q, %v", b, err)
	}
	if _, err := port.Open(t.Context(), link.Mode{Baud: 115200}); !errors.Is(err, link.ErrBusy) {
		t.Errorf("while another process holds the port: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	again, err := port.Open(t.Context(), link.Mode{Baud: 115200})
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	again.Close()
}

// A tool that knows nothing of us but locks the tty is left alone.
func TestSerialPortLockedByAnotherTool(t *testing.T) {
	far := newPTY(t)
	if err := unix.Flock(far.slave, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	port, _ := link.Parse(far.path)
	if _, err := port.Open(t.Context(), link.Mode{Baud: 115200}); !errors.Is(err, link.ErrBusy) {
		t.Fatal(err)
	}
}

// One tty under two names is one port.
func TestSerialPortIsReservedUnderEveryName(t *testing.T) {
	far := newPTY(t)
	port, _ := link.Parse(far.path)
	l, err := port.Open(t.Context(), link.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// As /dev/serial/by-id has them.
	name := filepath.Join(t.TempDir(), "usb-adapter")
	if err := os.Symlink(far.path, name); err != nil {
		t.Fatal(err)
	}
	other, _ := link.Parse("/dev/.." + name)
	if _, err := other.Open(t.Context(), link.Mode{Baud: 115200}); !errors.Is(err, link.ErrBusy) {
		t.Fatal(err)
	}
}

func TestSerialPortThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		path string
		mode link.Mode
		gone bool
		text string
	}{
		{"/dev/nameplate-no-such-port", link.Mode{Baud: 115200}, true, "link is gone"},
		{"/dev/null", link.Mode{Baud: 115200}, false, "Invalid serial port"},
		{"/dev/shm", link.Mode{Baud: 115200}, false, "not a serial port"},
		{"/dev/null", link.Mode{}, false, "baud rate 0 is not a speed"},
		{"/dev/null", link.Mode{Baud: 9600, Parity: 7}, false, "parity 7 is unknown"},
	} {
		port, err := link.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = port.Open(t.Context(), c.mode)
		if err == nil || errors.Is(err, link.ErrGone) != c.gone || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	if port, _ := link.Parse("/dev/shm"); port.Present(t.Context()) {
		t.Error("a folder is present as a port")
	}
}
