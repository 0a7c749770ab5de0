package link

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A machine as the kernel shows it: a CP2102 adapter (usb-serial), a board with
// USB of its own (cdc-acm) and blank strings, a UART on the mainboard, a
// number without a UART, a virtual terminal, and a port unplugged just now.
func TestList(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	file := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	linkTo := func(target, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	tty := func(name, device string) {
		t.Helper()
		file(filepath.Join(sys, "devices", device, "tty", name, "dev"), "188:0\n")
		linkTo(filepath.Join(sys, "devices", device, "tty", name), filepath.Join(sys, "class/tty", name))
		linkTo(filepath.Join(sys, "devices", device), filepath.Join(sys, "class/tty", name, "device"))
	}
	usb := func(device, vid, pid, serial, product string) {
		t.Helper()
		for name, text := range map[string]string{"idVendor": vid, "idProduct": pid, "serial": serial, "product": product} {
			if text != "" {
				file(filepath.Join(sys, "devices", device, name), text+"\n")
			}
		}
	}

	usb("pci/usb1/1-2", "10c4", "ea60", "0001", "CP2102 USB to UART Bridge Controller")
	tty("ttyUSB0", "pci/usb1/1-2/1-2:1.0/ttyUSB0")
	file(filepath.Join(dev, "ttyUSB0"), "")
	linkTo(filepath.Join(dev, "ttyUSB0"), filepath.Join(dev, "serial/by-id/usb-Silicon_Labs_CP2102_0001-if00-port0"))
	linkTo(filepath.Join(dev, "ttyUSB0"), filepath.Join(dev, "serial/by-path/pci-usb-0:2:1.0-port0"))

	usb("pci/usb1/1-3", "303a", "1001", "", "")
	tty("ttyACM0", "pci/usb1/1-3/1-3:1.0")
	file(filepath.Join(dev, "ttyACM0"), "")

	tty("ttyS0", "pnp0/00:00")
	file(filepath.Join(sys, "class/tty/ttyS0/type"), "4\n")
	file(filepath.Join(dev, "ttyS0"), "")
	tty("ttyS1", "platform/serial8250")
	file(filepath.Join(sys, "class/tty/ttyS1/type"), "0\n")
	file(filepath.Join(dev, "ttyS1"), "")

	file(filepath.Join(sys, "class/tty/tty1/dev"), "4:1\n")
	file(filepath.Join(dev, "tty1"), "")

	tty("ttyUSB1", "pci/usb1/1-4/1-4:1.0/ttyUSB1")

	got, err := list(sys, dev)
	want := []Found{
		{Path: dev + "/ttyACM0", VID: "303A", PID: "1001"},
		{Path: dev + "/ttyS0"},
		{
			Path:   dev + "/ttyUSB0",
			ByID:   dev + "/serial/by-id/usb-Silicon_Labs_CP2102_0001-if00-port0",
			ByPath: dev + "/serial/by-path/pci-usb-0:2:1.0-port0",
			VID:    "10C4", PID: "EA60", Serial: "0001", Product: "CP2102 USB to UART Bridge Controller",
		},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

// Whatever this machine has, listing it works.
func TestListHere(t *testing.T) {
	if _, err := List(); err != nil {
		t.Error(err)
	}
}
