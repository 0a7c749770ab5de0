package linux

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"nameplate/flasher"
	"nameplate/flasher/link"
)

// probe takes the board from whatever its console shows to a device that is known
// and ready to be written.
func (d *device) probe(ctx context.Context) error {
	// A console wired with more than three lines may wait for them (getty's
	// carrier, the terminal's flow control).
	if err := d.link.SetLines(ctx, true, true); err != nil && !errors.Is(err, link.ErrNoLines) {
		return fmt.Errorf("raising the lines: %w", err)
	}
	var err error
	if d.shell, err = openShell(ctx, newConsole(d.link, d.options.Baud), d.options.Console); err != nil {
		return err
	}
	if err := d.identify(ctx); err != nil {
		return err
	}
	if err := d.room(ctx); err != nil {
		return err
	}
	if d.options.TPM {
		return d.openTPM(ctx)
	}
	return nil
}

// identity reads who the board is, twice: what the kernel says of it comes from
// buses that can err. The EFI variable is that of UEFI 2.10, 3.3; four bytes of
// attributes come before its value. h says what is there.
const identity = `
r(){ printf %%s "$1";shift;for f do [ -r "$f" ]&&{ tr -cd " -~"<"$f";break;};done;echo;}
i(){ r m /proc/device-tree/model /sys/firmware/devicetree/base/model /sys/class/dmi/id/product_name
r s /proc/device-tree/serial-number /sys/firmware/devicetree/base/serial-number /sys/class/dmi/id/product_serial
r a /sys/class/net/%[1]s/address
r t /sys/class/net/%[1]s/addr_assign_type;}
a=$(i) b=$(i);[ "$a" = "$b" ]||exit %[2]d
echo "$a";f=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
[ ! -r $f ]||echo b$(base64<$f)
type openssl>/dev/null 2>&1&&echo o
h(){ [ ! -e "$1" ]&&[ ! -L "$1" ]||echo "$1";}
`

const tpmDevice = "/dev/tpmrm0"

// identify learns who the board is and what it has, and refuses one that the
// product is not for. Nothing is written on the board before that.
func (d *device) identify(ctx context.Context) error {
	o := d.options
	wanted := []string{tpmDevice}
	if o.Key.Module != "" {
		wanted = append(wanted, o.Key.Module)
	}
	for _, f := range append(stored(o), keyFile(o)...) {
		wanted = append(wanted, f.Path)
	}
	out, status, err := d.each(ctx, fmt.Sprintf(identity, o.Interface, statusDiffers), "h", wanted)
	if err != nil {
		return fmt.Errorf("identifying board: %w", err)
	}
	if status == statusDiffers {
		return readDiffers()
	}
	said, there := map[byte]string{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			said[line[0]], there[line] = strings.TrimSpace(line[1:]), true
		}
	}
	d.facts.Family, d.facts.Chip = (*Driver)(nil).Family(), said['m']
	if said['m'] != o.Chip {
		return modelUnexpected(said['m'], o.Chip)
	}
	mac, err := macAddress(o.Interface, said['a'], said['t'])
	if err != nil {
		return err
	}
	d.facts.HardwareIDs = []flasher.HardwareID{{Kind: "mac", Value: mac}}
	if serial := strings.ToLower(said['s']); plausible(serial) {
		d.facts.HardwareIDs = append(d.facts.HardwareIDs, flasher.HardwareID{Kind: "serial-number", Value: serial})
	}
	d.facts.Security = security(said['b'])
	d.facts.StoreBlank = true
	for _, f := range stored(o) {
		d.facts.StoreBlank = d.facts.StoreBlank && !there[f.Path]
	}
	switch {
	case o.TPM && !there[tpmDevice]:
		return tpmMissing()
	case o.Key.Module != "" && !there[o.Key.Module]:
		return moduleMissing(o.Key.Module)
	case o.Key.In == inFile:
		d.facts.KeyHeld = there[o.Key.File.Path]
		if !there["o"] {
			return toolMissing("openssl")
		}
	}
	return nil
}

// drawn is addr_assign_type of an address that the kernel drew at random
// (NET_ADDR_RANDOM, linux/netdevice.h): the next start gives another.
const drawn = "1"

func macAddress(name, text, assigned string) (string, error) {
	if text == "" {
		return "", interfaceMissing(name)
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || len(bytes.Trim(mac, "\x00")) == 0 || assigned == drawn {
		return "", macInvalid(name, text, assigned == drawn)
	}
	return mac.String(), nil
}

// placeholders is what stands where nobody wrote a serial number.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "system serial number", "serial number", "not specified", "not applicable",
	"not available", "none", "n/a", "na", "unknown", "oem", "o.e.m.", "empty", "invalid", "0123456789", "123456789", "1234567890",
}

// plausible: not a placeholder, and not one character only.
func plausible(serial string) bool {
	return len(serial) >= 4 && !slices.Contains(placeholders, serial) && strings.Trim(serial, serial[:1]) != ""
}

// security is what the firmware says of secure boot. A board without EFI says
// nothing that could be asked for here: its Raw is one zero byte.
func security(variable string) flasher.Security {
	raw, err := unbase64([]byte(variable))
	if err != nil || len(raw) != 5 {
		return flasher.Security{Raw: "00"}
	}
	return flasher.Security{SecureBoot: raw[4] == 1, Raw: hex.EncodeToString(raw)}
}

// trial writes and removes a file where the nearest folder of a path is. Nobody is
// helped by an order's number that is given to a board that cannot keep it.
const trial = `
w(){ d=$1;while [ ! -d "$d" ];do d=${d%%/*};d=${d:-/};done;f=$d/.nameplate
x=$(dd if=/dev/zero of="$f" bs=16384 count=1 2>&1&&rm -f "$f" 2>&1)||{ rm -f "$f";echo "$x";exit %d;};}
`

// room makes sure that the places for the identity can be written.
func (d *device) room(ctx context.Context) error {
	var folders []string
	for _, f := range append(stored(d.options), keyFile(d.options)...) {
		if dir := path.Dir(f.Path); !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	a, status, err := d.each(ctx, fmt.Sprintf(trial, statusUnwritable), "w", folders)
	if err != nil {
		return fmt.Errorf("looking for room: %w", err)
	}
	if status != 0 {
		return storageRefused(status, a)
	}
	return nil
}

// each calls a function of the shell for each path, as many at once as a terminal
// takes, and returns what they printed; up to the first that fails.
func (d *device) each(ctx context.Context, definition, function string, paths []string) (out []byte, status int, err error) {
	for len(paths) > 0 && status == 0 {
		script := definition
		for len(paths) > 0 && len(script)+4*len(paths[0]) < onTheWay-100 { // a quote takes four
			script += function + " " + quoted(paths[0]) + "\n"
			paths = paths[1:]
		}
		a, err := d.shell.run(ctx, syncLimit, script)
		if err != nil {
			return nil, 0, err
		}
		out, status = append(append(out, a.out...), '\n'), a.status
	}
	return out, status, nil
}
