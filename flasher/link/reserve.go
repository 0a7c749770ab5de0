package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// reserve takes a port for this process, before the port is touched: merely
// opening a tty raises its DTR and RTS, under the hands of whoever holds it,
// and root passes the tty's own TIOCEXCL. The reservation is a name in the
// abstract socket namespace (unix(7)): it conflicts within a process and
// between processes and users of one machine, and the kernel gives it back when
// the process dies, however it dies. `ss -xl` shows it.
func reserve(name string) (io.Closer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@nameplate/port/" + name})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("reserving port %s: %w", name, err)
	}
	return l, nil
}
