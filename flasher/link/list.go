package link

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Found is a serial port of this machine. All but Path may be empty.
type Found struct {
	Path   string // /dev/ttyUSB0: may name another device after a re-plug
	ByID   string // name in /dev/serial/by-id: follows the adapter, if it has a serial number of its own
	ByPath string // name in /dev/serial/by-path: follows the USB socket
	// What a USB device says about itself; VID and PID are four upper-case hex
	// digits.
	VID, PID, Serial, Product string
}

// List finds the serial ports with hardware behind them, sorted by path. It
// reads sysfs and opens no port: the library's own enumerator opens each ttyS to
// see whether it is real, which raises DTR and RTS and so can reset a board that
// somebody is working on.
func List() ([]Found, error) {
	return list("/sys", "/dev")
}

func list(sys, dev string) ([]Found, error) {
	class := filepath.Join(sys, "class/tty")
	ttys, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("listing serial ports: %w", err)
	}
	byID := linksTo(filepath.Join(dev, "serial/by-id"))
	byPath := linksTo(filepath.Join(dev, "serial/by-path"))
	var found []Found
	for _, tty := range ttys {
		device, err := filepath.EvalSymlinks(filepath.Join(class, tty.Name(), "device"))
		if err != nil {
			continue // a virtual terminal
		}
		if attribute(filepath.Join(class, tty.Name()), "type") == "0" {
			continue // PORT_UNKNOWN: a number reserved for a UART that is not there
		}
		path := filepath.Join(dev, tty.Name())
		if _, err := os.Stat(path); err != nil {
			continue // just unplugged
		}
		f := Found{Path: path, ByID: byID[path], ByPath: byPath[path]}
		if usb := usbDevice(sys, device); usb != "" {
			f.VID = strings.ToUpper(attribute(usb, "idVendor"))
			f.PID = strings.ToUpper(attribute(usb, "idProduct"))
			f.Serial = attribute(usb, "serial")
			f.Product = attribute(usb, "product")
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b Found) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// linksTo returns the symbolic links in dir by what they point to. A machine
// without such a folder has none.
func linksTo(dir string) map[string]string {
	links := map[string]string{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if target, err := filepath.EvalSymlinks(name); err == nil {
			links[target] = name
		}
	}
	return links
}

// usbDevice walks up from a tty's device to the USB device that it is part of.
func usbDevice(sys, device string) string {
	for dir := device; len(dir) > len(sys); dir = filepath.Dir(dir) {
		if attribute(dir, "idVendor") != "" {
			return dir
		}
	}
	return ""
}

// attribute reads a sysfs file; one that does not exist is empty.
func attribute(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b))
}
