package profile

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Start says when a passage begins in a slot.
type Start string

const (
	StartAuto    Start = "auto"    // as soon as the slot's port appears
	StartRequest Start = "request" // when somebody asks for it
)

// Station is station.yaml.
type Station struct {
	// Name stands in every event and on every checkpoint, and cannot change once
	// the ledger exists. 1 to 32 lower-case letters, digits and inner hyphens.
	Name string `yaml:"name"`
	// Listen is where the operator page and the API are served: a loopback
	// address and a port (0: a free one). Default 127.0.0.1:7440. Other addresses
	// are refused as long as callers are not told apart.
	Listen string `yaml:"listen,optional"`
	// Socket is the path of the API's unix socket, within the station's folder
	// or absolute. Default station.sock.
	Socket string `yaml:"socket,optional"`
	// Operator is the badge that passages are booked under when the request
	// names none: letters, digits and - . _, never a person's name. Without it
	// such passages are booked under the station itself.
	Operator string `yaml:"operator,optional"`
	// Slots are the places of the fixture; one device at a time in each.
	Slots []Slot `yaml:"slots"`

	src source
}

// Slot is one place of the fixture.
type Slot struct {
	// Name is unique on the station; same form as the station's.
	Name string `yaml:"name"`
	// Port is where the device is connected: a device file such as
	// /dev/serial/by-path/… (which stays the same whatever is plugged in first),
	// or rfc2217://HOST:PORT for a serial port behind TCP. Each port once.
	Port string `yaml:"port"`
	// Order is the work order that the slot's passages are made under when the
	// request names none.
	Order string `yaml:"order,optional"`
	// Start is auto (a passage starts when the port appears) or request. Default
	// auto.
	Start Start `yaml:"start,optional"`
	// At is where the operator sees the slot in the fixture. All slots have it or
	// none; without it the operator page shows them in the file's order.
	At Place `yaml:"at,optional"`
}

// Place is a place in the fixture, seen from the front: row 1 is at the top,
// column 1 at the left. The zero value is no place.
type Place struct {
	Row    int `yaml:"row"`
	Column int `yaml:"column"`
}

// maxSide bounds a fixture's rows and columns: more would be too small to read on
// a screen.
const maxSide = 16

func loadStation(file string) (Station, Problems, error) {
	s := Station{Listen: "127.0.0.1:7440", Socket: "station.sock"}
	d, err := decodeFile(file, &s)
	if err != nil {
		return s, nil, err
	}
	s.src = d.source
	d.name("name", s.Name)
	if at, err := netip.ParseAddrPort(s.Listen); err != nil || !at.Addr().IsLoopback() {
		d.bad("listen", fmt.Sprintf("listen is %q", s.Listen), "a loopback address and a port, such as 127.0.0.1:7440",
			"serve others through a proxy that checks who they are")
	}
	if s.Socket == "" || !filepath.IsLocal(s.Socket) && !filepath.IsAbs(s.Socket) {
		d.bad("socket", fmt.Sprintf("socket is %q", s.Socket), "a path within the station's folder, or an absolute one", "correct the path")
	}
	if _, given := d.lines["operator"]; given && !badgeForm.MatchString(s.Operator) {
		d.bad("operator", fmt.Sprintf("operator %q cannot be a badge", s.Operator), "1 to 32 letters, digits and - . _", "write the badge's number, not a name")
	}
	if len(s.Slots) == 0 {
		d.bad("slots", "slots is empty", "at least one slot", "add one with name and port")
	}
	names, ports, places := map[string]int{}, map[string]int{}, map[Place]int{}
	for i := range s.Slots {
		if s.Slots[i].Start == "" {
			s.Slots[i].Start = StartAuto
		}
		d.slot(fmt.Sprintf("slots[%d].", i), s.Slots[i], names, ports)
		d.place(fmt.Sprintf("slots[%d]", i), s.Slots[i].At, places)
	}
	for i := range s.Slots {
		at := fmt.Sprintf("slots[%d]", i)
		if _, given := d.lines[at+".at"]; !given && len(places) > 0 {
			d.bad(at, fmt.Sprintf("slot %q has no place in the fixture, others have", s.Slots[i].Name), "at: {row: ROW, column: COLUMN} for all slots, or for none", "add it")
		}
	}
	return s, d.problems, nil
}

var badgeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

func (d *decoder) slot(at string, s Slot, names, ports map[string]int) {
	d.name(at+"name", s.Name)
	if first, ok := names[s.Name]; ok && s.Name != "" {
		d.bad(at+"name", fmt.Sprintf("slot %q stands here a second time", s.Name),
			fmt.Sprintf("each name once (first in line %d)", first), "choose another name")
	}
	names[s.Name] = d.line(at + "name")
	if !portForm(s.Port) {
		d.bad(at+"port", fmt.Sprintf("%sport is %q", at, s.Port), "/dev/… or rfc2217://HOST:PORT", "see 'station ports' for what is connected")
	}
	if first, ok := ports[s.Port]; ok && s.Port != "" {
		d.bad(at+"port", fmt.Sprintf("port %s stands here a second time", s.Port),
			fmt.Sprintf("each port once (first in line %d)", first), "give the slot its own port")
	}
	ports[s.Port] = d.line(at + "port")
	if s.Order != "" && !orderForm.MatchString(s.Order) {
		d.bad(at+"order", fmt.Sprintf("%sorder is %q", at, s.Order), orderRule, "write the order's id")
	}
	d.oneOf(at+"start", string(s.Start), string(StartAuto), string(StartRequest))
}

// place judges where the slot at a path is, if it says so.
func (d *decoder) place(path string, p Place, places map[Place]int) {
	at := path + ".at"
	line, given := d.lines[at]
	if !given {
		return
	}
	good := true
	for _, side := range []struct {
		name string
		n    int
	}{{"row", p.Row}, {"column", p.Column}} {
		if side.n < 1 || side.n > maxSide {
			d.bad(at+"."+side.name, fmt.Sprintf("%s.%s is %d", at, side.name, side.n), fmt.Sprintf("1 to %d, from the fixture's top left", maxSide), "correct the number")
			good = false
		}
	}
	if !good {
		return
	}
	if first, ok := places[p]; ok {
		d.bad(at, fmt.Sprintf("row %d, column %d holds a second slot", p.Row, p.Column), fmt.Sprintf("each place once (first in line %d)", first), "give the slot its own place")
	}
	places[p] = line
}

// portForm knows the forms of flasher/link.Parse; whether anything is there is
// found out when the port is opened.
func portForm(uri string) bool {
	if at, ok := strings.CutPrefix(uri, "rfc2217://"); ok {
		return hostPort(at, true)
	}
	return strings.HasPrefix(uri, "/dev/") && filepath.Clean(uri) == uri
}

// hostPort checks HOST or HOST:PORT: a DNS name or an IP address, and nothing
// of a URL around it.
func hostPort(s string, needPort bool) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return false
		}
		host = h
	} else if needPort {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= 253 && hostForm.MatchString(host)
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
