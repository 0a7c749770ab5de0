package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// presentLimit is the promise of Port.Present.
const presentLimit = time.Second

// serialPort is a tty of this machine, by its path.
type serialPort struct{ path string }

func (p serialPort) Path() string { return p.path }

func (p serialPort) Present(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, presentLimit)
	defer cancel()
	// Looked at, not opened: an open raises DTR and RTS.
	return inTime(ctx, func() error {
		if _, err := ttyNumber(p.path); err != nil {
			return err
		}
		return unix.Access(p.path, unix.R_OK|unix.W_OK)
	}) == nil
}

func (p serialPort) Open(ctx context.Context, m Mode) (Link, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("opening %s: %w", p.path, err)
	}
	// open(2) waits for a port whose last user's bytes are still leaving.
	opened := make(chan *serialLink)
	err := inTime(ctx, func() error {
		l, err := openSerial(p.path, m)
		if err != nil {
			return err
		}
		go func() {
			select {
			case opened <- l:
			case <-ctx.Done():
				l.Close()
			}
		}()
		return nil
	})
	if err != nil {
		return nil, serialError("opening", p.path, err)
	}
	select {
	case l := <-opened:
		return l, nil
	case <-ctx.Done():
		return nil, serialError("opening", p.path, ctx.Err())
	}
}

// openSerial opens a tty twice, and both descriptors are one tty. The library's
// sets the speed (the odd ones, too) and TIOCEXCL, but reads with select(2) and
// writes with a write(2) that not even Close releases. So bytes and lines go
// through a descriptor of our own, without blocking, where Go's poller ends
// every call.
func openSerial(path string, m Mode) (*serialLink, error) {
	number, err := ttyNumber(path)
	if err != nil {
		return nil, err
	}
	reservation, err := reserve("tty-" + number)
	if err != nil {
		return nil, err
	}
	l := &serialLink{path: path, mode: m, reservation: reservation}
	if err := l.open(); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *serialLink) open() (err error) {
	if l.tty, err = os.OpenFile(l.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	// Terminal programs and flashing tools at the bench take this lock, too.
	err = l.ioctl(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	} else if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	mode := l.mode.serial()
	if l.ioctl(func(fd int) error { _, err := unix.IoctlGetInt(fd, unix.TIOCMGET); return err }) == nil {
		// Linux raised DTR and RTS in open(2), both, which on the usual reset
		// circuits means neither reset nor boot. This drops both in one step.
		mode.InitialStatusBits = &serial.ModemOutputBits{}
	}
	l.port, err = serial.Open(l.path, mode)
	return err
}

// ttyNumber returns the device number behind path. It is the identity of a tty
// whatever link in /dev/serial it was reached by.
func ttyNumber(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if info.Mode()&fs.ModeCharDevice == 0 || !ok {
		return "", errors.New("not a serial port")
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// serial is the mode in the library's words.
func (m Mode) serial() *serial.Mode {
	parity := serial.NoParity
	switch m.Parity {
	case EvenParity:
		parity = serial.EvenParity
	case OddParity:
		parity = serial.OddParity
	}
	return &serial.Mode{BaudRate: m.Baud, DataBits: 8, Parity: parity, StopBits: serial.OneStopBit}
}

// serialError says what was being done and sorts causes into the contract's
// errors. A tty whose device was pulled answers EIO, ENXIO, ENODEV or end of
// file, depending on the driver and the moment.
func serialError(doing, path string, err error) error {
	var lib *serial.PortError
	errors.As(err, &lib)
	gone := lib != nil && (lib.Code() == serial.PortClosed || lib.Code() == serial.PortNotFound)
	for _, e := range []error{io.EOF, fs.ErrNotExist, fs.ErrClosed, unix.EBADF, unix.EIO, unix.ENXIO, unix.ENODEV} {
		gone = gone || errors.Is(err, e)
	}
	switch {
	case gone:
		return fmt.Errorf("%s %s: %w (%w)", doing, path, ErrGone, err)
	case errors.Is(err, unix.EBUSY), lib != nil && lib.Code() == serial.PortBusy:
		return fmt.Errorf("%s %s: %w (%w)", doing, path, ErrBusy, err)
	}
	return fmt.Errorf("%s %s: %w", doing, path, err)
}
