package ledger_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
)

// The test binary is also the program that dies: with LEDGER_CHILD set it
// appends to that ledger until something ends it.
func TestMain(m *testing.M) {
	if path := os.Getenv("LEDGER_CHILD"); path != "" {
		child(path)
		return
	}
	os.Exit(m.Run())
}

// child opens passages from several goroutines, in slots whose names no earlier
// child used, and prints the sequence number of each once the ledger has
// accepted it, or the refusal.
func child(path string) {
	l, err := ledger.Open(ctx, ledger.Config{Path: path, Station: "line-1"})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	run, _ := strconv.Atoi(os.Getenv("LEDGER_RUN"))
	count, _ := strconv.Atoi(os.Getenv("LEDGER_COUNT"))
	var printing sync.Mutex
	var all sync.WaitGroup
	callers := 8
	if os.Getenv("LEDGER_CALLERS") == "1" {
		callers = 1
	}
	for g := range callers {
		all.Go(func() {
			for i := 0; count == 0 || i < count; i++ {
				events, err := try(l, passageOpened(fmt.Sprintf("slot-%d-%d-%d", run, g, i)), records.Draft{Actor: badge,
					Body: records.ActionDenied{Action: "order open", Sentence: strings.Repeat("x", 1500)}})
				printing.Lock()
				switch {
				case err == nil:
					fmt.Println("stored", events[0].Seq)
				case code(err) != "":
					fmt.Println("refused", code(err))
				default:
					fmt.Println("failed", err)
				}
				printing.Unlock()
			}
		})
	}
	all.Wait()
	fmt.Println("close:", l.Close())
}

func childCommand(path string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "LEDGER_CHILD="+path), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// P2, P3: kill -9 at any instant loses nothing that was acknowledged, and leaves
// a ledger that opens, folds and hashes.
func TestKilledAtAnyInstant(t *testing.T) {
	path := create(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var acked []int64
	for run := range 8 {
		cmd := childCommand(path, "LEDGER_RUN="+strconv.Itoa(run))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := 20 + random.IntN(300) // acknowledgements; commits go on meanwhile
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			seq, err := strconv.ParseInt(strings.TrimPrefix(lines.Text(), "stored "), 10, 64)
			if err != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			acked = append(acked, seq)
			if n == kill {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()

		if run%2 == 1 { // whoever looks first finds all of it
			checkAll(t, openReadOnly(t, path))
		}
		l := open(t, path)
		f := checkAll(t, l)
		for _, seq := range acked {
			if seq > l.Size() || f.events[seq-1].Kind != "passage.opened" {
				t.Fatalf("event %d was acknowledged and is not there", seq)
			}
		}
		root, err := l.Root(ctx, l.Size())
		if err != nil || root != rootOf(leafHashes(t, l)) {
			t.Fatalf("the tree is not that of the events (%v)", err)
		}
		signer, _ := stationKey(t, l.Origin())
		if _, err := l.Checkpoint(ctx, signer); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged", len(acked))
	integrity(t, path)
}

// A second process finds the ledger taken, and free again once the first is dead.
func TestSecondProcessIsRefused(t *testing.T) {
	path := create(t)
	l := open(t, path)
	out, err := childCommand(path).Output()
	if err == nil || !strings.Contains(string(out), "Another program is writing to "+path) {
		t.Errorf("the second process says %q, %v", out, err)
	}
	l.Close()
	if out, err := childCommand(path, "LEDGER_COUNT=1").Output(); err != nil {
		t.Errorf("after Close: %s, %v", out, err)
	}
}

// underStrace runs a child whose system calls fail as the injections say, on the
// ledger's write-ahead log alone, and returns what the child printed.
func underStrace(t *testing.T, path, syscalls string, injections ...string) []string {
	t.Helper()
	needTool(t, "strace")
	args := []string{"-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-P", path + "-wal", "-e", "trace=" + syscalls}
	for _, i := range injections {
		args = append(args, "-e", "inject="+i)
	}
	cmd := exec.Command("strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), "LEDGER_CHILD="+path, "LEDGER_COUNT=60", "LEDGER_CALLERS=1")
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "ptrace") && os.Getenv("NAMEPLATE_TOOLS") != "1" {
		t.Skipf("skipped: strace may not trace here: %s", out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// A full disk refuses, loses nothing, and is forgotten once there is space.
func TestDiskFull(t *testing.T) {
	path := create(t)
	said := underStrace(t, path, "pwrite64", "pwrite64:error=ENOSPC:when=40..60")
	stored, refused, storedAfter := 0, 0, 0
	for _, line := range said {
		switch {
		case strings.HasPrefix(line, "stored"):
			stored++
			if refused > 0 {
				storedAfter++
			}
		case line == "refused disk-full":
			refused++
		case line != "close: <nil>":
			t.Errorf("the child says %q", line)
		}
	}
	if refused == 0 || storedAfter == 0 {
		t.Fatalf("%d stored, %d refused, %d stored afterwards: %q", stored, refused, storedAfter, said)
	}
	l := open(t, path)
	checkAll(t, l)
	if l.Size() != int64(2*stored) {
		t.Errorf("%d events, want %d", l.Size(), 2*stored)
	}
	integrity(t, path)
}

// A flush that fails leaves the state unknown: nothing more is said or done until
// the ledger is opened again.
func TestFlushFails(t *testing.T) {
	path := create(t)
	said := underStrace(t, path, "fdatasync,fsync", "fdatasync,fsync:error=EIO:when=10")
	stored, unknown := 0, 0
	for _, line := range said {
		switch {
		case strings.HasPrefix(line, "stored") && unknown == 0:
			stored++
		case strings.HasPrefix(line, "failed "+ledger.ErrStateUnknown.Error()):
			unknown++
		case !strings.HasPrefix(line, "close:"):
			t.Errorf("the child says %q", line)
		}
	}
	if stored == 0 || stored+unknown != 60 {
		t.Fatalf("%d stored, %d unknown: %q", stored, unknown, said)
	}
	l := open(t, path)
	checkAll(t, l)
	if n := l.Size(); n != int64(2*stored) && n != int64(2*stored+2) {
		t.Errorf("%d events, want %d or one call's more", n, 2*stored)
	}
	integrity(t, path)
}
