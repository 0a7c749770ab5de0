package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// These consoles are played, for what real ones do seldom. They live in a synctest
// bubble, where waiting costs no time.

// played is a console in this process. line answers each line that is typed.
type played struct {
	far    *linktest.Far
	port   link.Port
	line   func(p *played, text string)
	typed  []string
	uid    string
	silent bool // no echo
}

func play(t *testing.T, line func(*played, string)) *played {
	p := &played{line: line, uid: "0"}
	p.port, p.far = linktest.Pair(nil)
	t.Cleanup(p.far.Unplug)
	go func() {
		var text []byte
		buf := make([]byte, 256)
		for {
			n, err := p.far.Read(buf)
			if err != nil {
				return
			}
			for _, b := range buf[:n] {
				if b != '\r' && b != '\n' {
					text = append(text, b)
					continue
				}
				if !p.silent {
					p.say(string(text) + "\r\n")
				}
				p.typed = append(p.typed, string(text))
				p.line(p, string(text))
				text = nil
			}
		}
	}()
	return p
}

func (p *played) say(text string) { _, _ = p.far.Write([]byte(text)) }

// later says something when time has gone by.
func (p *played) later(after time.Duration, text string) {
	time.AfterFunc(after, func() { p.say(text) })
}

var asked = regexp.MustCompile(`^ .*echo (\w+)\$\(\((\d+)\+(\d+)\)\):\$\(id -u\):`)

// shell answers as a shell would, and shows a prompt.
func (p *played) shell(prompt, text string) {
	if m := asked.FindStringSubmatch(text); m != nil {
		a, _ := strconv.Atoi(m[2])
		b, _ := strconv.Atoi(m[3])
		p.say(fmt.Sprintf("%s%d:%s:\r\n", m[1], a+b, p.uid))
	}
	p.say(prompt)
}

// login is a login that ends in a shell.
func login(p *played, text string) {
	switch n := len(p.typed); {
	case p.typed[n-1] == "root" && !p.silent:
		p.say("Password: ")
		p.silent = true
	case n > 1 && p.typed[n-2] == "root" && p.silent:
		p.silent = false
		if text != "secret" {
			p.later(3*time.Second, "Login incorrect\r\ngateway login: ")
			return
		}
		p.say("\r\nLast login: ")
		p.later(100*time.Millisecond, "Mon Nov 23 11:22:31 on ttyS0\r\n")
		p.later(time.Second, "Welcome! Use of this console is denied to everybody else.\r\nroot@gateway:~# ")
		p.line = func(p *played, text string) { p.shell("root@gateway:~# ", text) }
	default:
		p.say("gateway login: ")
	}
}

func TestEntrance(t *testing.T) {
	const noise = "[   12.345678] usb 1-1: new high-speed USB device\r\n"
	for _, tt := range []struct {
		name string
		line func(*played, string)
		at   string // what the console says first
		uid  string
		code string // of a refusal; "" if a shell is reached
		try  int    // how often the password may have been typed
	}{
		{name: "login", line: login, try: 1},
		{name: "login that just asks", line: login, at: "\r\ngateway login: ", try: 1},
		{name: "open shell", line: func(p *played, text string) { p.shell("~ # ", text) }},
		{name: "shell with a prompt like no other", line: func(p *played, text string) { p.shell("\x1b]0;gw\a\x1b[1;32mgw\x1b[0m 今 ", text) }},
		{name: "shell that shows no prompt", line: func(p *played, text string) { p.silent = true; p.shell("", text) }},
		{name: "bracketed paste and questions to the terminal", line: func(p *played, text string) { p.shell("\x1b[?2004h# \x1b[6n", text) }},
		{name: "kernel messages behind the prompts", line: func(p *played, text string) { login(p, text); p.say(noise) }, try: 1},
		{name: "messages without a time behind the name's prompt", try: 1,
			line: func(p *played, text string) {
				login(p, text)
				if len(p.typed) == 1 {
					p.say("usb 1-1: new high-speed USB device\r\n")
				}
			}},
		{name: "console that is started by a key", line: func(p *played, text string) {
			p.say("BusyBox v1.35.0 built-in shell (ash)\r\n")
			p.line = func(p *played, text string) { p.shell("~ # ", text) }
			p.say("~ # ")
		}, at: "\r\nPlease press Enter to activate this console. "},
		{name: "a password's prompt that was left", at: "Password: ",
			line: func(p *played, text string) {
				p.later(3*time.Second, "\r\nLogin incorrect\r\ngateway login: ")
				p.typed, p.line = nil, login
			}, try: 1},
		{name: "returns that were typed before the login started", try: 1,
			line: func(p *played, text string) {
				switch {
				case len(p.typed) == 2:
					for i := range 3 {
						p.later(time.Duration(100+10*i)*time.Millisecond, "\r\ngateway login: ")
					}
				case text == "root":
					p.silent = true
					p.line = func(p *played, text string) {
						p.typed = append(p.typed[:len(p.typed)-1], "root", text)
						login(p, text)
						if p.silent {
							p.line = login
						}
					}
					p.later(50*time.Millisecond, "root\r\n")
					p.later(3*time.Second, "Password: ")
				}
			}},
		{name: "board that starts", line: login, at: "[    0.000000] Booting Linux\r\n[  OK  ] Started a service.\r\n", try: 1},
		{name: "shell of another user", uid: "1000",
			line: func(p *played, text string) {
				if text == "exit" {
					p.uid, p.typed, p.line = "0", nil, login
					p.later(time.Second, "\r\ngateway login: ")
					return
				}
				p.shell("$ ", text)
			}, try: 1},

		{name: "nothing at all", line: func(p *played, _ string) { p.silent = true }, code: "board-silent"},
		{name: "an echo", line: func(*played, string) {}, code: "no-prompt"},
		{name: "a boot loader", line: func(p *played, text string) { p.say("Unknown command '" + text + "' - try 'help'\r\n=> ") }, code: "board-in-boot-loader"},
		{name: "noise without end", line: func(p *played, text string) {
			for i := range 1000 {
				p.later(time.Duration(i)*100*time.Millisecond, noise)
			}
			p.line = func(*played, string) {}
		}, code: "no-prompt"},
		{name: "a wrong password", at: "gateway login: ", code: "login-refused", try: 1,
			line: func(p *played, text string) { login(p, strings.Replace(text, "secret", "wrong", 1)) }},
		{name: "a password that must be changed", code: "login-refused", try: 1,
			line: func(p *played, text string) {
				if text == "secret" {
					p.say("\r\nYou are required to change your password immediately.\r\nNew password: ")
					return
				}
				login(p, text)
			}},
		{name: "a login that forgets the name", code: "no-prompt", line: func(p *played, text string) { p.say("gateway login: ") }},
		{name: "root that is none", code: "not-root", try: 1, uid: "17", line: login},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := play(t, tt.line)
				if tt.uid != "" {
					p.uid = tt.uid
				}
				if p.silent = tt.name == "nothing at all" || tt.name == "shell that shows no prompt"; tt.at == "Password: " {
					p.silent = true
				}
				l, err := p.port.Open(t.Context(), link.Mode{Baud: 115200})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				p.say(tt.at)
				e := &entrance{console: newConsole(l, 115200), who: flasher.Console{User: "root", Password: flasher.Secret("secret")}, mark: newMark()}
				start := time.Now()
				err = e.enter(t.Context())
				took := time.Since(start)
				synctest.Wait()
				if tt.code == "" && (err != nil || e.uid != "0") {
					t.Errorf("after %q: %v (%v), user %q", p.typed, err, errors.Unwrap(err), e.uid)
				}
				var r *flasher.Refusal
				if tt.code != "" && (!errors.As(err, &r) || r.Code != tt.code) {
					t.Errorf("after %q: %v (%v), want a refusal %s", p.typed, err, errors.Unwrap(err), tt.code)
				}
				if took > enterLimit {
					t.Errorf("it took %v", took)
				}
				given := 0
				for _, line := range p.typed {
					if line == "secret" {
						given++
					}
				}
				if given > tt.try {
					t.Errorf("the password was typed %d times", given)
				}
			})
		})
	}
}

func TestPlainText(t *testing.T) {
	for text, want := range map[string]string{
		"a\x1b[1;32mb\x1b[0mc":      "abc",
		"\x1b]0;title\agw# \x1b[6n": "gw# ",
		"\x1b]0;title\x1b\\gw":      "gw",
		"x\x1b":                     "x",
		"x\x1b[1;":                  "x",
		"x\x1b]0;never":             "x",
		"\x1b7a\x00\x7f\b\tb\nc":    "ab\nc",
		"é":                         "é",
	} {
		if got := string(plain([]byte(text))); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// Whatever a console says, in whatever pieces, the way in ends without a panic
// and never takes an echo for a shell.
func FuzzPlace(f *testing.F) {
	f.Add([]byte("gateway login: "))
	f.Add([]byte("\x1b[6n\x1b]0;x\a# \r\n[   12.345678] x\r\nPassword: "))
	f.Add([]byte(" exec sh -c 'echo np00000000$((1+2)):$(id -u):"))
	f.Fuzz(func(t *testing.T, text []byte) {
		e := &entrance{console: newConsole(nil, 115200), mark: newMark()}
		for piece := range bytes.SplitAfterSeq(text, []byte("\n")) {
			e.take(piece)
			if e.place() == atShell {
				t.Fatalf("%q counts as a shell", text)
			}
		}
	})
}

var errFar = errors.New("far")

// brokenLink is one on which nothing works.
type brokenLink struct{ link.Link }

func (brokenLink) Read(context.Context, []byte) (int, error) { return 0, errFar }
func (brokenLink) Write(context.Context, []byte) error       { return errFar }

func TestLinkThatBreaksIsNoRefusal(t *testing.T) {
	e := &entrance{console: newConsole(brokenLink{}, 115200), mark: newMark()}
	if err := e.enter(t.Context()); !errors.Is(err, errFar) {
		t.Errorf("got %v", err)
	}
}

// A boot loader that counts down is left alone: a key would stop it for good.
func TestBootLoaderIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started atomic.Bool
		p := play(t, func(p *played, text string) {
			if !started.Load() {
				t.Errorf("%q was typed to a boot loader", text)
			}
			login(p, text)
		})
		l, err := p.port.Open(t.Context(), link.Mode{Baud: 115200})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p.say("U-Boot 2023.01\r\nHit any key to stop autoboot:  3 ")
		for i, digit := range []string{"\b\b 2 ", "\b\b 1 ", "\b\b 0 \r\n", "\r\nStarting kernel ...\r\n"} {
			p.later(time.Duration(i+1)*time.Second, digit)
		}
		time.AfterFunc(5*time.Second, func() { started.Store(true) })
		p.later(6*time.Second, "\r\ngateway login: ")
		e := &entrance{console: newConsole(l, 115200), who: flasher.Console{User: "root", Password: flasher.Secret("secret")}, mark: newMark()}
		if err := e.enter(t.Context()); err != nil || e.uid != "0" {
			t.Errorf("%v, user %q, after %q", err, e.uid, p.typed)
		}
	})
}
