package link_test

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"nameplate/flasher/link/linktest"
)

// pty is the device's end of a tty without hardware.
type pty struct {
	path   string
	master *os.File // not blocking, or closing it would not end a read
	slave  int      // held open, so that the master outlives a close of the port
	once   sync.Once
}

func newPTY(t *testing.T) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{master: master, slave: -1}
	t.Cleanup(p.unplug)
	p.control(func(fd int) {
		var number int
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
		}
		p.path = fmt.Sprintf("/dev/pts/%d", number)
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.slave, err = unix.Open(p.path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// control runs do on the master without making it blocking, as Fd would.
func (p *pty) control(do func(fd int)) {
	conn, err := p.master.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { do(int(fd)) })
	}
	if err != nil {
		panic(err)
	}
}

func (p *pty) unplug() {
	p.once.Do(func() {
		p.master.Close()
		unix.Close(p.slave)
	})
}

// state reads the speed that the other side has set.
func (p *pty) state() (s linktest.State) {
	p.control(func(fd int) {
		if termios, err := unix.IoctlGetTermios(fd, unix.TCGETS2); err == nil {
			s.Baud = int(termios.Ospeed)
		}
	})
	return s
}
