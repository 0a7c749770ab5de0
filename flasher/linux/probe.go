package linux

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
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
	more := ""
	if d.options.TPM {
		more = talking
	}
	var err error
	if d.shell, err = openShell(ctx, newConsole(d.link, d.options.Baud), d.options.Console, more); err != nil {
		return err
	}
	if err := d.identify(ctx); err != nil {
		return err
	}
	if d.options.TPM {
		return d.openTPM(ctx)
	}
	return nil
}

// identity reads who the board is, twice: what the kernel says of it comes from
// buses that can err. The EFI variable is that of UEFI 2.10, 3.3; four bytes of
// attributes come before its value. h says what is there. w writes and removes a
// file where the nearest folder of a path is, and has v look at what that is on, if
// the board is of the right model: nobody is helped by an order's number that is
// given to a board that cannot keep it.
//
// v finds a folder's mount, the last of those with the longest path (proc(5):
// device, mount point, type, options), and for an overlay that of its upper folder.
// Where an overlay was made in another tree, that is itself, and nothing is known.
const identity = `
r(){ printf %%s "$1";shift;for f do [ -r "$f" ]&&{ tr -cd " -~"<"$f";break;};done;echo;}
m(){ r m /proc/device-tree/model /sys/firmware/devicetree/base/model /sys/class/dmi/id/product_name;}
i(){ m;r s /proc/device-tree/serial-number /sys/firmware/devicetree/base/serial-number /sys/class/dmi/id/product_serial
r a /sys/class/net/%[1]s/address
r t /sys/class/net/%[1]s/addr_assign_type;}
a=$(i) b=$(i);[ "$a" = "$b" ]||exit %[2]d
echo "$a";f=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
[ ! -r $f ]||echo b$(base64<$f)
type openssl>/dev/null 2>&1&&echo o
[ "$(m)" = m%[3]s ]&&g=1
h(){ [ ! -e "$1" ]&&[ ! -L "$1" ]||echo "$1";}
w(){ [ "$g" ]||return 0;p "$1";f=$w/.nameplate
x=$(dd if=/dev/zero of="$f" bs=16384 count=1 2>&1&&rm -f "$f" 2>&1)||{ rm -f "$f";echo "$x";exit %[4]d;}
v "$(cd "$w"&&pwd -P)"||exit %[5]d;}
v(){ [ -r %[6]s ]||return 0;a=$1 j= k=
while :;do l=0;while read -r x q t u _;do case $a/ in "${q%%/}"/*)[ ${#q} -lt $l ]||{ l=${#q} k="$x $t $q" b=$u;};;esac;done<%[6]s
case $k in "$j")return 0;;*" tmpfs /"*|*" ramfs /"*|*" rootfs /"*|/dev/ram[0-9]*|/dev/zram*)return 1;;esac
j=$k;case ,$b in *,upperdir=*)a=${b##*upperdir=};a=${a%%%%,*};;*)return 0;;esac;done;}
`

// mounts is what the kernel says that is mounted.
const mounts = "/proc/mounts"

const tpmDevice = "/dev/tpmrm0"

// identify learns who the board is and what it has, and refuses one that the
// product is not for.
func (d *device) identify(ctx context.Context) error {
	o := d.options
	lines := []string{"[ ! -c " + tpmDevice + " ]||h " + tpmDevice}
	if o.Key.Module != "" {
		lines = append(lines, "h "+quoted(o.Key.Module))
	}
	var trials []string
	for _, f := range append(stored(o), keyFile(o)...) {
		lines = append(lines, "h "+quoted(f.Path))
		if w := "w " + quoted(path.Dir(f.Path)); !slices.Contains(trials, w) {
			trials = append(trials, w)
		}
	}
	script := fmt.Sprintf(identity, o.Interface, statusDiffers, quoted(o.Chip), statusUnwritable, statusVolatile, mounts)
	out, status, err := d.shell.each(ctx, syncLimit, script, append(lines, trials...))
	if err != nil {
		return fmt.Errorf("identifying board: %w", err)
	}
	if status == statusDiffers {
		return readDiffers()
	}
	said, there := map[byte]string{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if there[line] = true; line == "" {
			continue
		}
		if _, ok := said[line[0]]; !ok {
			said[line[0]] = strings.TrimSpace(line[1:])
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
	if status != 0 {
		return storageRefused(status, out)
	}
	return nil
}

// burnt is addr_assign_type of an address that the hardware brought with it
// (NET_ADDR_PERM, linux/netdevice.h). Others were drawn at random, taken from
// another interface, or set by a program of the image: copies of it have the same.
const burnt = "0"

func macAddress(name, text, assigned string) (string, error) {
	if text == "" {
		return "", interfaceMissing(name)
	}
	foreign := assigned != "" && assigned != burnt // old kernels do not say
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || len(bytes.Trim(mac, "\x00")) == 0 || foreign {
		return "", macInvalid(name, text, foreign)
	}
	return mac.String(), nil
}

// placeholders is what stands where nobody wrote a serial number.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "system serial number", "serial number", "not specified", "not applicable",
	"not available", "none", "n/a", "na", "unknown", "oem", "o.e.m.", "empty", "invalid", "0123456789", "123456789", "1234567890",
}

// serialForm is what somebody who writes serial numbers may write.
var serialForm = regexp.MustCompile(`^[!-~][ -~]{2,62}[!-~]$`)

// plausible: text, not a placeholder, and not one character only.
func plausible(serial string) bool {
	return serialForm.MatchString(serial) && !slices.Contains(placeholders, serial) && strings.Trim(serial, serial[:1]) != ""
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
