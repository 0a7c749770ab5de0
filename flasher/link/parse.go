package link

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// maxAddr bounds host:port, because it is part of the name by which a port is
// reserved and a socket name holds 108 bytes (unix(7)).
const maxAddr = 80

// Parse returns the port that uri names: "/dev/..." is a serial port of this
// machine, "rfc2217://host:port" one behind a device server. Nothing is opened.
func Parse(uri string) (Port, error) {
	if strings.HasPrefix(uri, "/dev/") {
		return serialPort{path: uri}, nil
	}
	if addr, ok := strings.CutPrefix(uri, "rfc2217://"); ok {
		host, port, err := net.SplitHostPort(addr)
		if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@? ") {
			return nil, fmt.Errorf("parsing port %q: want rfc2217://host:port with a port number from 1 to 65535", uri)
		}
		if len(addr) > maxAddr {
			return nil, fmt.Errorf("parsing port %q: host and port are longer than %d characters", uri, maxAddr)
		}
		return comPort{uri: uri, addr: addr}, nil
	}
	return nil, fmt.Errorf("parsing port %q: want /dev/... (a serial port; /dev/serial/by-id/... keeps its name) or rfc2217://host:port (a device server)", uri)
}

// check refuses a mode that no carrier can have.
func (m Mode) check() error {
	if m.Baud <= 0 {
		return fmt.Errorf("baud rate %d is not a speed", m.Baud)
	}
	if m.Parity < NoParity || m.Parity > OddParity {
		return fmt.Errorf("parity %d is unknown", m.Parity)
	}
	return nil
}
