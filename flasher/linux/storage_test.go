package linux

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"nameplate/flasher"
)

// P2, P4: what the storage did not take has not arrived, whatever the cache says.
// A sync that takes no names is believed: there is no other.
func TestSyncThatFails(t *testing.T) {
	const failing = `sync(){ [ $# = 0 ]||{ echo "sync: error syncing '$1': Input/output error" >&2;return 1;};}`
	const old = `Y=;sync(){ [ $# = 0 ]||{ echo "sync: ignoring all arguments" >&2;};}`
	for _, sh := range []string{"bash", "dash", "busybox sh"} {
		for name, tt := range map[string]struct{ sync, code string }{
			"fails": {failing, "filesystem-sync-failed"},
			"old":   {old, ""},
		} {
			t.Run(sh+"/"+name, func(t *testing.T) {
				ctx := within(t)
				dir := t.TempDir()
				key := flasher.File{Path: filepath.Join(dir, "key.pem")}
				d := withShell(t, ctx, strings.Fields(sh), flasher.Options{Key: flasher.DeviceKey{In: inFile, File: key}})
				if err := d.shell.tell(ctx, []byte(tt.sync+"\n")); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(dir, "config.toml")
				p := flasher.Plan{Segments: []flasher.Segment{{Target: file, Mode: 0o600, Data: []byte("an identity")}}}
				wantCode(t, d.Write(ctx, p, nil), tt.code)
				_, err := fileKey{d}.Request(ctx, "gw")
				wantCode(t, err, tt.code)
			})
		}
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var r *flasher.Refusal
	if code == "" && err != nil || code != "" && (!errors.As(err, &r) || r.Code != code) {
		t.Errorf("%v, want %q", err, code)
	}
}

// P5: a shell that tells what it does, and a board that repeats what it was told,
// bring no secret into an error.
func TestWhatTheBoardSaysIsNotRepeated(t *testing.T) {
	secret := bytes.Repeat([]byte("SECRETKEY"), 100)
	for _, said := range []string{"+ d " + string(secret), string(secret) + " No space left on device", "U0VDUkVUS0VZ"} {
		err := storageRefused(statusUnwritable, []byte(said))
		if text := fmt.Sprint(err, err.Err); strings.Contains(text, "SECRETKEY") || strings.Contains(text, "U0VD") {
			t.Errorf("%.60q: %s", said, text)
		}
	}
	ctx := within(t)
	d := withShell(t, ctx, []string{"bash", "-x"}, flasher.Options{})
	p := flasher.Plan{Segments: []flasher.Segment{{Target: filepath.Join(t.TempDir(), "config.toml"), Mode: 0o600, Data: secret}}}
	if err := d.Write(ctx, p, nil); err != nil {
		t.Errorf("%v", err)
	}
}

// A board cannot make the station keep room for files that nobody asked for.
func TestFilesThatNobodyAskedFor(t *testing.T) {
	for _, said := range []string{"65536 -rw------- /etc/b\n", "3 -rw------- /etc/a\nQUJD\n3 -rw------- /etc/a\nQUJD\n",
		"3 -rw-r--r-- /etc/a\nQUJD\n3 -rw------- /etc/a\nQUJD\n"} {
		if _, err := firstBlocks([]flasher.File{{Path: "/etc/a", Mode: 0o600}}, []byte(said), map[string][]byte{}); err == nil {
			t.Errorf("%q was taken", said)
		}
	}
}

// Only an address that came with the hardware names a board, and only text is a
// serial number.
func TestWhatNamesABoard(t *testing.T) {
	for assigned, good := range map[string]bool{"": true, "0": true, "1": false, "2": false, "3": false} {
		if _, err := macAddress("eth0", "02:00:5e:10:00:01", assigned); (err == nil) != good {
			t.Errorf("addr_assign_type %q: %v", assigned, err)
		}
	}
	for serial, good := range map[string]bool{"sn-0042": true, "a b c d": true, "abc\x01def": false, "abc\x1b[2Jdef": false,
		strings.Repeat("<", 20_000): false, "sn-\xff\xff": false, " sn-0042": false} {
		if plausible(serial) != good {
			t.Errorf("%.20q", serial)
		}
	}
}
