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
	if err := d.survey(ctx); err != nil {
		return err
	}
	if d.options.TPM {
		return d.openTPM(ctx)
	}
	return nil
}

// identity reads who the board is, twice: what the kernel says of it comes from
// buses that can err. The EFI variable is that of UEFI 2.10, 3.3; four bytes of
// attributes come before its value.
const identity = `
r(){ printf %%s "$1";shift;for f do [ -r "$f" ]&&{ tr -cd " -~"<"$f";break;};done;echo;}
i(){ r m /proc/device-tree/model /sys/firmware/devicetree/base/model /sys/class/dmi/id/product_name
r s /proc/device-tree/serial-number /sys/firmware/devicetree/base/serial-number /sys/class/dmi/id/product_serial
r a /sys/class/net/%[1]s/address
r t /sys/class/net/%[1]s/addr_assign_type;}
a=$(i) b=$(i);[ "$a" = "$b" ]||exit %[2]d
echo "$a";f=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
[ ! -r $f ]||echo b$(base64<$f)`

// statusDiffers is the script's status when two readings differ.
const statusDiffers = 7

// identify learns who the board is, and refuses one that the product is not for.
func (d *device) identify(ctx context.Context) error {
	a, err := d.shell.run(ctx, runLimit, fmt.Sprintf(identity, d.options.Interface, statusDiffers))
	if err != nil {
		return fmt.Errorf("identifying board: %w", err)
	}
	if a.status == statusDiffers {
		return readDiffers()
	}
	said := map[byte]string{}
	for line := range bytes.Lines(a.out) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			said[line[0]] = strings.TrimSpace(string(line[1:]))
		}
	}
	d.facts.Family, d.facts.Chip = (*Driver)(nil).Family(), said['m']
	if said['m'] != d.options.Chip {
		return modelUnexpected(said['m'], d.options.Chip)
	}
	mac, err := macAddress(d.options.Interface, said['a'], said['t'])
	if err != nil {
		return err
	}
	d.facts.HardwareIDs = []flasher.HardwareID{{Kind: "mac", Value: mac}}
	if serial := strings.ToLower(said['s']); plausible(serial) {
		d.facts.HardwareIDs = append(d.facts.HardwareIDs, flasher.HardwareID{Kind: "serial-number", Value: serial})
	}
	d.facts.Security = security(said['b'])
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

// have says which of the things are there.
const have = `h(){ if [ -e "$1" ]||[ -L "$1" ];then echo "$1";fi;}
`

const tpmDevice = "/dev/tpmrm0"

// survey looks at the place for the identity, and whether the board has what is
// needed.
func (d *device) survey(ctx context.Context) error {
	o := d.options
	all := append(stored(o), keyFile(o)...)
	wanted := []string{tpmDevice}
	if o.Key.Module != "" {
		wanted = append(wanted, o.Key.Module)
	}
	var folders []string
	for _, f := range all {
		wanted = append(wanted, f.Path)
		if dir := path.Dir(f.Path); !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	out, err := d.each(ctx, have, "h", wanted)
	if err != nil {
		return fmt.Errorf("looking for files: %w", err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimSuffix(line, "\n")] = true
	}
	if o.TPM && !there[tpmDevice] {
		return tpmMissing()
	}
	if o.Key.Module != "" && !there[o.Key.Module] {
		return moduleMissing(o.Key.Module)
	}
	d.facts.StoreBlank = true
	for _, f := range stored(o) {
		d.facts.StoreBlank = d.facts.StoreBlank && !there[f.Path]
	}
	if o.Key.In == inFile {
		d.facts.KeyHeld = there[o.Key.File.Path]
		a, err := d.shell.run(ctx, runLimit, "type openssl>/dev/null 2>&1")
		if err != nil {
			return fmt.Errorf("looking for openssl: %w", err)
		}
		if a.status != 0 {
			return toolMissing("openssl")
		}
	}
	_, err = d.each(ctx, fmt.Sprintf(trial, statusUnwritable), "w", folders)
	return err
}

// each calls a function of the shell for each path, as many at once as a terminal
// takes, and returns what they printed.
func (d *device) each(ctx context.Context, definition, function string, paths []string) ([]byte, error) {
	var out []byte
	for len(paths) > 0 {
		script := definition
		for len(paths) > 0 && len(script)+4*len(paths[0]) < onTheWay-100 { // quotes take four
			script += function + " " + quoted(paths[0]) + "\n"
			paths = paths[1:]
		}
		a, err := d.shell.run(ctx, syncLimit, script)
		if err != nil {
			return nil, err
		}
		if a.status != 0 {
			return nil, storageRefused(a)
		}
		out = append(append(out, a.out...), '\n')
	}
	return out, nil
}
