package linux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// within is a context that ends before the tests' own patience does.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// withShell is a device whose shell is a process of this machine.
func withShell(t *testing.T, ctx context.Context, command []string, o flasher.Options) *device {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatalf("%s is not installed, and NAMEPLATE_TOOLS=1 demands it", command[0])
		}
		t.Skipf("%s is not installed", command[0])
	}
	port, far := linktest.Pair(nil)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	history := filepath.Join(t.TempDir(), "history")
	m := newMark()
	if err := os.WriteFile(history, []byte("ls\n"+m.takeOver()+"\npwd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "H="+history)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		far.Unplug()
		_ = cmd.Wait() // it was killed
	})
	l, err := port.Open(ctx, link.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tpmDevice); err == nil {
		t.Skipf("this machine has a %s, with which tests shall not talk", tpmDevice)
	}
	s := newShell(newConsole(l, 115200))
	if err := s.prepare(ctx, m, talking); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(history); err != nil || string(text) != "ls\npwd\n" {
		t.Errorf("the history is %q, %v", text, err)
	}
	return &device{link: l, options: o, shell: s}
}

// The scripts mean the same to every shell that a board may have for sh, with the
// commands that it may have.
func TestScriptsInEachShell(t *testing.T) {
	for _, command := range []string{"dash", "bash --posix", "bash", "busybox sh"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			dir := filepath.Join(t.TempDir(), "it's a $HOME")
			key := flasher.File{Path: filepath.Join(dir, "new/secrets/key.pem"), Mode: 0o640}
			d := withShell(t, ctx, strings.Fields(command), flasher.Options{Key: flasher.DeviceKey{In: inFile, File: key}})

			var p flasher.Plan
			for i, size := range []int{0, 1, pieceSize, blockSize, blockSize + 1, 40000} {
				data := make([]byte, size)
				_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
				name := filepath.Join(dir, fmt.Sprintf("new/sub %d", i), "file")
				p.Segments = append(p.Segments, flasher.Segment{Target: name, Mode: 0o604, Data: data})
				p.Manifest = append(p.Manifest, flasher.NewItem(name, []byte("salt"), data, flasher.ByBytes))
			}
			if found, err := d.ReadBack(ctx, p.Manifest); err != nil || len(found) != 0 {
				t.Fatalf("found %v, %v", found, err)
			}
			last := flasher.Progress{}
			err := d.Write(ctx, p, func(p flasher.Progress) {
				if p.Done < last.Done || p.Done > p.Total {
					t.Errorf("progress %+v after %+v", p, last)
				}
				last = p
			})
			if err != nil || last.Done != last.Total {
				t.Fatalf("%v (%v), progress %+v", err, errors.Unwrap(err), last)
			}
			if found, err := d.ReadBack(ctx, p.Manifest); err != nil || !reflect.DeepEqual(found, p.Manifest) {
				t.Fatalf("found %v, %v", found, err)
			}
			for _, s := range p.Segments {
				if info, err := os.Stat(s.Target); err != nil || info.Mode() != 0o604 {
					t.Errorf("%v, %v", info, err)
				}
				if info, err := os.Stat(filepath.Dir(s.Target)); err != nil || info.Mode() != fs.ModeDir|0o755 {
					t.Errorf("%v, %v", info, err)
				}
			}

			request, err := fileKey{d}.Request(ctx, "gw/1,CN=x")
			if err != nil {
				t.Fatalf("%v (%v)", err, errors.Unwrap(err))
			}
			csr, err := x509.ParseCertificateRequest(request.CSR)
			if err != nil || csr.Subject.CommonName != "gw/1,CN=x" {
				t.Fatal(csr.Subject, err)
			}
			if info, err := os.Stat(key.Path); err != nil || info.Mode() != 0o640 {
				t.Errorf("%v, %v", info, err)
			}
			item := flasher.Item{Name: flasher.ItemPrivateKey, How: flasher.ByPossession}
			found, err := d.ReadBack(ctx, []flasher.Item{item})
			if err != nil || len(found) != 1 || !bytes.Equal(found[0].Proof.Public, csr.RawSubjectPublicKeyInfo) {
				t.Fatalf("found %+v, %v", found, err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "new/*/.*")); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}

			out, status, err := d.shell.each(ctx, runLimit, fmt.Sprintf(identity, "lo", statusDiffers, "''", statusUnwritable, statusVolatile, os.DevNull),
				[]string{"h /etc/passwd", "h /etc/none", "w " + quoted(dir)})
			if err != nil || status != 0 || !bytes.Contains(out, []byte("\na00:00:00:00:00:00\n")) ||
				!bytes.Contains(out, []byte("\n/etc/passwd\n")) || bytes.Contains(out, []byte("none")) {
				t.Errorf("status %d, %v, %s", status, err, out)
			}
			// This machine's shells have no TPM to open, and live.
			var r *flasher.Refusal
			if _, err := d.Send(ctx, make([]byte, tpmHeader)); !errors.As(err, &r) || r.Code != "tpm-silent" {
				t.Errorf("got %v", err)
			}
			if err := d.shell.bye(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// frameOf is an answer; c is the command as the shell got it, where that counts.
func frameOf(name string, seq, asked, status int, out string, c ...string) string {
	body := fmt.Sprintf("%d %d %d %s", seq, asked, status, out)
	sum := sha256.Sum256([]byte(body + strings.Join(c, "")))
	return fmt.Sprintf("<%s %d %d %d %s %s %s>", name, seq, asked, status, out, hex.EncodeToString(sum[:8]), name)
}

func TestFrames(t *testing.T) {
	good := frameOf("n1", 3, 0, 1, "a b\nc")
	for _, tt := range []struct {
		name, text string
		whole      bool
		sound      bool
	}{
		{"whole", "noise" + good + "noise", true, true},
		{"with a kernel's message in it", good[:12] + "[   12.345678] usb: <n1 x\n" + good[12:], true, true},
		{"with one in its end", good[:len(good)-2] + "[    0.123456] x\n" + good[len(good)-2:], true, true},
		{"with noise in it", good[:20] + "usb" + good[20:], true, false},
		{"with another status", strings.Replace(good, " 1 ", " 0 ", 1), true, false},
		{"with another number", strings.Replace(good, "<n1 3", "<n1 4", 1), true, false},
		{"of another shell", strings.ReplaceAll(good, "n1", "n2"), false, false},
		{"not yet whole", good[:len(good)-1], false, false},
		{"its own command", `y(){ printf %s "<$n $s $1 $e $o ";h=1;printf %s "$h $n>";}`, false, false},
		{"nothing", "", false, false},
		{"too short", "<n1 3 0 n1>", true, false},
		{"negative", frameOf("n1", -3, 0, 1, ""), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &shell{console: newConsole(nil, 115200), name: "n1"}
			s.take([]byte(tt.text))
			f, whole := s.frame()
			if whole != tt.whole || f.sound != tt.sound {
				t.Fatalf("got %+v, %v", f, whole)
			}
			if f.sound && (f.seq != 3 || f.status != 1 || string(f.out) != "a b\nc") {
				t.Errorf("got %+v with %q", f, f.out)
			}
		})
	}
}

// What a board sends is never taken for an answer unless its checksum is right,
// and never ends the station.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(frameOf("n1", 3, 0, 1, "a")))
	f.Add([]byte("<n1 3 0 0 0123456789abcdef mExample n1><n1 4"))
	f.Add([]byte("320 -rw-r--r-- /etc/a\nQUJD\n0 -rw------- /etc/b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &shell{console: newConsole(nil, 115200), name: "n1"}
		s.take(text)
		if fr, ok := s.frame(); ok && fr.sound && !bytes.Contains(s.in, []byte(frameOf("n1", fr.seq, fr.asked, fr.status, string(fr.out)))) &&
			!bytes.Contains(calm(s.in), []byte(frameOf("n1", fr.seq, fr.asked, fr.status, string(fr.out)))) {
			t.Errorf("%q counts as %+v", text, fr)
		}
		files := map[string][]byte{}
		sizes, err := firstBlocks([]flasher.File{{Path: "/etc/a"}, {Path: "/etc/b", Mode: 0o600}}, text, files)
		for name, size := range sizes {
			if name != "/etc/a" && name != "/etc/b" {
				t.Errorf("%q was not asked for", name)
			}
			if err == nil && (size > largestFile || len(files[name]) > size) {
				t.Errorf("%q: %d bytes of %d", name, len(files[name]), size)
			}
		}
		_, _ = publicKey(text)
		_, _ = macAddress("eth0", string(text), "")
		_ = security(string(text))
	})
}

// echoShell answers each command with what answer makes of its number, in a
// synctest bubble.
func echoShell(t *testing.T, answer func(far *linktest.Far, line string)) *shell {
	port, far := linktest.Pair(nil)
	t.Cleanup(far.Unplug)
	go func() {
		var line []byte
		b := make([]byte, 1)
		for {
			if _, err := far.Read(b); err != nil {
				return
			}
			if line = append(line, b[0]); b[0] == '\n' || b[0] == '\r' {
				answer(far, string(line))
				line = nil
			}
		}
	}()
	l, err := port.Open(t.Context(), link.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	return &shell{console: newConsole(l, 115200), name: "n1"}
}

func TestAnswersThatGoWrong(t *testing.T) {
	say := func(far *linktest.Far, text string) { _, _ = far.Write([]byte(text)) }
	good := frameOf("n1", 1, 0, 0, "yes", "true")
	for _, tt := range []struct {
		name   string
		answer func(n int, far *linktest.Far, line string) // the n-th line from 1
		code   string                                      // of the refusal; "" if the answer comes
		swap   bool
	}{
		{"late answer of an earlier command", func(n int, far *linktest.Far, _ string) { say(far, frameOf("n1", 0, 0, 0, "old")+good) }, "", false},
		{"damaged once", func(n int, far *linktest.Far, _ string) {
			if n == 1 {
				say(far, good[:20]+"\xff"+good[20:])
			} else {
				say(far, frameOf("n1", 1, 1, 0, "yes", "true"))
			}
		}, "", false},
		{"end lost", func(n int, far *linktest.Far, _ string) {
			if n == 1 {
				say(far, good[:20])
			} else {
				say(far, frameOf("n1", 1, 1, 0, "yes", "true"))
			}
		}, "", false},
		{"command lost once", func(n int, far *linktest.Far, line string) {
			switch {
			case n == 1:
				say(far, "sh: syntax error\n")
			case strings.HasPrefix(line, "y "):
				say(far, frameOf("n1", 0, 1, 0, ""))
			default:
				say(far, frameOf("n1", 2, 0, 0, "yes", "true"))
			}
		}, "", false},
		{"command damaged once", func(n int, far *linktest.Far, line string) {
			var asked int
			if _, err := fmt.Sscanf(line, "y %d", &asked); err == nil || n == 1 {
				say(far, frameOf("n1", 1, asked, 0, "", "trve"))
			} else {
				say(far, frameOf("n1", 2, 0, 0, "yes", "true"))
			}
		}, "", false},
		{"command damaged for ever", func(n int, far *linktest.Far, line string) {
			say(far, frameOf("n1", 1+n/(asksMost+1), 0, 0, "", "trve"))
		}, "console-garbled", false},
		{"damaged for ever", func(n int, far *linktest.Far, _ string) { say(far, good[:20]+"\xff"+good[20:]) }, "console-garbled", false},
		{"command lost for ever", func(n int, far *linktest.Far, line string) {
			var asked int
			if _, err := fmt.Sscanf(line, "y %d", &asked); err == nil {
				say(far, frameOf("n1", 0, asked, 0, ""))
			} else {
				say(far, "noise\n")
			}
		}, "console-garbled", false},
		{"silence", func(int, *linktest.Far, string) {}, "board-silent", false},
		{"a login", func(n int, far *linktest.Far, _ string) { say(far, "\r\ngateway login: ") }, "board-restarted", true},
		{"a login after a while", func(n int, far *linktest.Far, line string) {
			if n == 1 {
				say(far, "[    0.000000] Booting Linux\r\n")
			} else if !strings.HasPrefix(line, "y ") {
				say(far, "\r\ngateway login: ")
			}
		}, "board-restarted", true},
		{"another shell", func(n int, far *linktest.Far, line string) {
			if m := asked.FindStringSubmatch(line); m != nil {
				var a, b int
				fmt.Sscan(m[2], &a)
				fmt.Sscan(m[3], &b)
				say(far, fmt.Sprintf("%s%d:0:\r\n# ", m[1], a+b))
			}
		}, "board-restarted", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				s := echoShell(t, func(far *linktest.Far, line string) { n++; tt.answer(n, far, line) })
				start := time.Now()
				a, err := s.run(t.Context(), runLimit, "true")
				if tt.code == "" && (err != nil || string(a.out) != "yes") {
					t.Errorf("got %q, %v", a.out, err)
				}
				var r *flasher.Refusal
				if tt.code != "" && (!errors.As(err, &r) || r.Code != tt.code) {
					t.Errorf("got %v (%v), want a refusal %s", err, errors.Unwrap(err), tt.code)
				}
				if errors.Is(err, flasher.ErrSwapped) != tt.swap {
					t.Errorf("is %v a swap?", err)
				}
				if took := time.Since(start); took > 3*runLimit {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A command to the TPM whose answer says that it was lost is not sent again.
func TestOnceIsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		s := echoShell(t, func(far *linktest.Far, line string) {
			if strings.HasPrefix(line, "c=") {
				sent++
				_, _ = far.Write([]byte("noise\n"))
				return
			}
			_, _ = far.Write([]byte(frameOf("n1", 0, 1, 0, "")))
		})
		var r *flasher.Refusal
		if _, err := s.once(t.Context(), runLimit, "true"); !errors.As(err, &r) || r.Code != "console-garbled" || sent != 1 {
			t.Errorf("%v after %d times", err, sent)
		}
	})
}

func TestTooLongForATerminal(t *testing.T) {
	s := &shell{console: newConsole(brokenLink{}, 115200)}
	for _, text := range []string{strings.Repeat("a", lineMost+1), strings.Repeat("a\n", onTheWay)} {
		if err := s.tell(t.Context(), []byte(text)); err == nil || errors.Is(err, errFar) {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
}
