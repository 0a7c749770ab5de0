package link

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// closeDrain is how long Close lets written bytes leave. What is left then is
// dropped, or close(2) itself would wait up to half a minute for it. A second
// is the kernel's 4 KiB of output at 57600 baud, and more.
const closeDrain = time.Second

// drainPoll is how often Close looks whether the output is empty.
const drainPoll = 5 * time.Millisecond

// serialLink is an open tty.
type serialLink struct {
	path        string
	mode        Mode
	reservation io.Closer   // first taken, last given back
	tty         *os.File    // bytes and lines, not blocking
	port        serial.Port // speed, drain, discard

	closing sync.Once
	closed  error
}

func (l *serialLink) Read(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, ctx.Err()
	}
	n, err := until(ctx, l.tty.SetReadDeadline, func() (int, error) { return l.tty.Read(p) })
	if n > 0 {
		return n, nil // an error will come again
	}
	if err != nil {
		return 0, serialError("reading from", l.path, err)
	}
	return n, nil
}

func (l *serialLink) Write(ctx context.Context, p []byte) error {
	_, err := until(ctx, l.tty.SetWriteDeadline, func() (int, error) { return l.tty.Write(p) })
	if err != nil {
		return serialError("writing to", l.path, err)
	}
	return nil
}

func (l *serialLink) SetLines(ctx context.Context, dtr, rts bool) error {
	err := inTime(ctx, func() error {
		return l.ioctl(func(fd int) error {
			bits, err := unix.IoctlGetInt(fd, unix.TIOCMGET)
			if err != nil {
				return err
			}
			bits &^= unix.TIOCM_DTR | unix.TIOCM_RTS
			if dtr {
				bits |= unix.TIOCM_DTR
			}
			if rts {
				bits |= unix.TIOCM_RTS
			}
			// Both lines in one call: reset circuits look at the pair.
			return unix.IoctlSetPointerInt(fd, unix.TIOCMSET, bits)
		})
	})
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		err = ErrNoLines
	}
	if err != nil {
		return serialError("setting the lines of", l.path, err)
	}
	return nil
}

func (l *serialLink) SetBaud(ctx context.Context, baud int) error {
	mode := l.mode
	mode.Baud = baud
	err := mode.check()
	if err == nil {
		err = inTime(ctx, l.port.Drain)
	}
	if err == nil {
		err = inTime(ctx, func() error { return l.port.SetMode(mode.serial()) })
	}
	if err != nil {
		return serialError("setting the speed of", l.path, err)
	}
	l.mode = mode
	return nil
}

// Discard empties the kernel's buffers. What a USB adapter still holds (a few
// milliseconds of bytes) nobody can drop.
func (l *serialLink) Discard(ctx context.Context) error {
	if err := inTime(ctx, l.port.ResetInputBuffer); err != nil {
		return serialError("discarding input of", l.path, err)
	}
	return nil
}

// Close lets written bytes leave for closeDrain at most.
func (l *serialLink) Close() error {
	l.closing.Do(func() {
		l.drain()
		l.closed = l.release()
	})
	return l.closed
}

func (l *serialLink) drain() {
	limit := time.NewTimer(closeDrain)
	defer limit.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		waiting := 0
		err := l.ioctl(func(fd int) (err error) {
			waiting, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ)
			return err
		})
		if err != nil || waiting == 0 {
			return
		}
		select {
		case <-poll.C:
		case <-limit.C:
			_ = l.port.ResetOutputBuffer() // if it fails, close(2) waits longer
			return
		}
	}
}

// release closes what is open, in the order that keeps the port reserved to
// the end.
func (l *serialLink) release() error {
	var errs []error
	if l.port != nil {
		errs = append(errs, l.port.Close())
	}
	if l.tty != nil {
		errs = append(errs, l.tty.Close())
	}
	return errors.Join(append(errs, l.reservation.Close())...)
}

// ioctl runs do on our descriptor. It does not use (*os.File).Fd, which would
// make the descriptor blocking.
func (l *serialLink) ioctl(do func(fd int) error) error {
	conn, err := l.tty.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
