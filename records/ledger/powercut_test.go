package ledger_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nameplate/records/ledger"
)

// P2, P3: a power cut loses nothing that was acknowledged. The ledger lies on a
// file system of its own, in a file, which is shut down without writing anything
// back while callers append: what was not flushed by then is gone. This does not
// show a disk that lies about flushing, or torn sectors.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount a file system and shut it down")
	}
	needTool(t, "mkfs.ext4")
	if os.Getenv("LEDGER_MOUNTS") == "" {
		// Once more, among mounts of its own, which end with it however it ends.
		cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCut$", "-test.v")
		cmd.Env = append(os.Environ(), "LEDGER_MOUNTS=own")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			t.Skip("skipped: this root may not mount (a container without CAP_SYS_ADMIN)")
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	d := newDisk(t)
	path := filepath.Join(d.dir, "ledger.db")
	d.mount()
	if err := ledger.Create(ctx, path, "line-1"); err != nil {
		t.Fatal(err)
	}
	var acked []int64
	for run := range 5 {
		cmd := childCommand(path, "LEDGER_RUN="+strconv.Itoa(run))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 100 + 50*run {
			if !lines.Scan() {
				t.Fatal("the child ended by itself")
			}
			seq, err := strconv.ParseInt(strings.TrimPrefix(lines.Text(), "stored "), 10, 64)
			if err != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			acked = append(acked, seq)
		}
		// What the child says later nobody would have heard: for a flush that the
		// shutdown comes upon, ext4 can report success.
		d.cut()
		cmd.Process.Kill()
		cmd.Wait()
		d.unmount()
		d.mount()

		l := open(t, path)
		f := checkAll(t, l)
		for _, seq := range acked {
			if seq > l.Size() || f.events[seq-1].Kind != "passage.opened" {
				t.Fatalf("event %d was acknowledged and is not there", seq)
			}
		}
		signer, _ := stationKey(t, l.Origin())
		if _, err := l.Checkpoint(ctx, signer); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		integrity(t, path)
	}
	t.Logf("%d acknowledged", len(acked))
}

// disk is a file system in a file.
type disk struct {
	t          *testing.T
	image, dir string
}

func newDisk(t *testing.T) *disk {
	top := t.TempDir()
	d := &disk{t: t, image: filepath.Join(top, "disk"), dir: filepath.Join(top, "mounted")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", d.image)
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (d *disk) mount()   { d.t.Helper(); d.run("mount", "-o", "loop", d.image, d.dir) }
func (d *disk) unmount() { d.t.Helper(); d.run("umount", d.dir) }

// EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH of the kernel's fs/ext4/ext4.h:
// from now on nothing is written, the file system's own journal included.
const (
	shutdown = 0x8004587d
	noFlush  = 2
)

func (d *disk) cut() {
	d.t.Helper()
	var above, here unix.Stat_t
	if err := unix.Stat(filepath.Dir(d.dir), &above); err != nil {
		d.t.Fatal(err)
	}
	if err := unix.Stat(d.dir, &here); err != nil {
		d.t.Fatal(err)
	}
	if above.Dev == here.Dev {
		d.t.Fatal("the disk is not mounted: this would shut down another one")
	}
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noFlush); err != nil {
		d.t.Fatalf("shutting the disk down: %v", err)
	}
}
