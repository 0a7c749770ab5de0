package linux

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"nameplate/flasher"
)

// Limits of the way to a shell.
const (
	// listenFirst: a board that is just talking is heard out before anything is
	// typed, or its boot loader would take it for a key that stops it.
	listenFirst = 10 * time.Millisecond
	// settle is how long text must have stopped before it counts as all there is;
	// answerSettle is the same for a shell, which may be starting, nameSettle for a
	// login that was given a name, and starts the program that asks for a password.
	settle       = 300 * time.Millisecond
	answerSettle = time.Second
	nameSettle   = 4 * time.Second
	// unasked is how long a board that talks by itself must have stopped: it is
	// starting, and a key would stop its boot loader. One that counts down to its
	// start is listened to for bootSilence.
	unasked, bootSilence = 1500 * time.Millisecond, 5 * time.Second
	// wakeLimit is how long a console may take to say anything after a key.
	wakeLimit = time.Second
	// askLimit is for the next question of a login that has begun: a login
	// program waits up to five seconds after a wrong password.
	askLimit = 8 * time.Second
	// echoOff is how long a login gets to switch the echo off before a password is
	// typed.
	echoOff = 10 * time.Millisecond
	// lookLimit bounds a look at a console that never stops talking.
	lookLimit = 10 * time.Second
	// enterLimit bounds it all: a board that boots, slow profile scripts.
	enterLimit = 90 * time.Second
	// Tries before one gives up on a console that says nothing, on one that makes
	// no sense, and on a login that comes back before it asks for a password.
	silentTries, senselessTries, nameTries = 14, 14, 4
)

// tailMost is more than any prompt, and than an answer to the question.
const tailMost = 1 << 10

const interrupt = "\x03" // ^C

var (
	// errNoPrompt: the console speaks, but is neither a login nor a shell.
	errNoPrompt = errors.New("neither a login nor a shell was found in time")

	// "Last login: " is no prompt, also while the date behind it is on its way.
	loginPrompt    = regexp.MustCompile(`(?i)((?:last|failed)[ \t]+)?\blogin:[ \t]*\z`)
	passwordPrompt = regexp.MustCompile(`(?i)passw(?:or)?d\b[^\n:]{0,60}:[ \t]*\z`)
	// shellPrompt only makes us ask a little sooner; what answers decides.
	shellPrompt = regexp.MustCompile(`[#$>%] ?\z`)
	// countdown is a boot loader that a key would stop, loaderPrompt one that was
	// stopped.
	countdown    = regexp.MustCompile(`(?i)(?:autoboot|to (?:stop|interrupt|abort|cancel))\b[^\n]*\z`)
	loaderPrompt = regexp.MustCompile(`(?:=>|U-Boot>|grub>|barebox:/) ?\z|Unknown command '`)
	// bootText is a line of a system that is starting.
	bootText = regexp.MustCompile(`(?m)^\[[ 0-9.A-Z]{4,14}\] `)
)

// place is where a console is.
type place int

const (
	nowhere    place = iota // no sign of anything but perhaps an echo
	unknown                 // something was said
	atLogin                 // it asks for a name
	atPassword              // it asks for a password
	atShell                 // a shell answered
)

// mark is a question that only a shell can answer: it must add two numbers, so
// an echo of the question never looks like the answer.
type mark struct {
	token  string
	a, b   uint16
	answer *regexp.Regexp
}

func newMark() mark {
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails
	m := mark{token: fmt.Sprintf("np%x", r[4:]), a: binary.BigEndian.Uint16(r[:]), b: binary.BigEndian.Uint16(r[2:])}
	m.answer = regexp.MustCompile(fmt.Sprintf(`%s%d:(\d*):`, m.token, int(m.a)+int(m.b)))
	return m
}

// question is what asks a shell for the sum, and for the user.
func (m mark) question() string {
	return fmt.Sprintf("echo %s$((%d+%d)):$(id -u):", m.token, m.a, m.b)
}

// takeOver asks a shell the question from within a quiet one that takes its
// place. A shell is interactive only where its input and its output are
// terminals, so a pipe behind it silences it; after exec there is no other whose
// history would be written at its end. A second time does no harm.
func (m mark) takeOver() string {
	return ` export H="${H:-$HISTFILE}";unset HISTFILE;exec sh -c 'stty -echo;` + m.question() + `;sh 2>&1|cat;stty echo' 3>&-`
}

// entrance is the way from an open port to a shell of root.
type entrance struct {
	*console
	who  flasher.Console
	mark mark
	uid  string // of the shell that answered

	typed   string // the last line that may be echoed
	heard   bool   // the console has ever said anything
	named   int    // how often the user name was given
	hushed  bool   // and since then the console has fallen silent
	counted bool   // a boot loader's countdown was heard out
	gave    bool   // the password was given; it is given once
	left    bool   // a shell of somebody else was left
	tries   int    // to get a sign from a console that makes no sense
	idle    int    // of these, those at which the board did nothing by itself
}

// enter finds out where the console is and goes on from there until a quiet shell
// of root answers.
func (e *entrance) enter(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, enterLimit, errNoPrompt)
	defer cancel()
	here, err := e.look(ctx, listenFirst, unasked, enterLimit)
	for err == nil {
		if here == atShell && e.uid == "0" {
			return nil
		}
		here, err = e.step(ctx, here)
	}
	if errors.Is(err, errNoPrompt) {
		if !e.heard {
			return boardSilent(err)
		}
		if loaderPrompt.Match(plain(tail(e.in))) {
			return inBootLoader(err)
		}
		return noPrompt(err)
	}
	return err
}

// step does what leads on from here and looks what comes of it.
func (e *entrance) step(ctx context.Context, here place) (place, error) {
	switch here {
	case atShell:
		mine := e.gave || e.named > 0 || e.left
		e.left = true
		here, err := e.say(ctx, "exit", askLimit, settle)
		if mine {
			return here, notRoot(e.uid)
		}
		return here, err
	case atLogin:
		switch {
		case e.gave:
			return here, loginRefused()
		case e.named > 0 && !e.hushed:
			// Each return that was typed before the login had started brings the
			// prompt once more. A name given to all of them would be the next one's
			// password.
			e.hushed = true
			return e.leave(ctx)
		case e.who.User == "":
			return here, loginNeeded()
		case e.named == nameTries:
			return here, errNoPrompt
		}
		e.named, e.hushed = e.named+1, false
		return e.say(ctx, e.who.User, askLimit, nameSettle)
	case atPassword:
		if e.gave {
			return here, loginRefused()
		}
		if e.named == 0 { // somebody began and went away
			return e.say(ctx, "", askLimit, settle)
		}
		// A login shows its prompt and then switches the echo off.
		if _, err := e.hush(ctx, echoOff); err != nil {
			return nowhere, err
		}
		e.gave, e.typed = true, ""
		e.drop(len(e.in))
		line := append(make([]byte, 0, len(e.who.Password)+1), e.who.Password...) // wiped when it is sent
		if err := e.send(ctx, append(line, '\r')); err != nil {
			return nowhere, err
		}
		return e.look(ctx, askLimit, settle, lookLimit)
	}
	if countdown.Match(plain(tail(e.in))) && !e.counted {
		e.counted = true
		return e.look(ctx, bootSilence, bootSilence, enterLimit)
	}
	if !bootText.Match(e.in) {
		e.idle++
	}
	if !e.heard && e.idle > silentTries || e.idle > senselessTries {
		return here, errNoPrompt
	}
	e.tries++
	return e.nudge(ctx)
}

// leave waits for what comes of a name that was given: a password's prompt or a
// shell. What is typed before that would be taken for the password.
func (e *entrance) leave(ctx context.Context) (place, error) {
	for end := time.Now().Add(lookLimit); time.Now().Before(end); {
		if here := e.place(); here == atPassword || here == atShell {
			return here, nil
		}
		if err := e.more(ctx, nameSettle); errors.Is(err, errQuiet) {
			break
		} else if err != nil {
			return nowhere, err
		}
	}
	return e.place(), nil
}

// hush reads until the console has said nothing for quiet.
func (e *entrance) hush(ctx context.Context, quiet time.Duration) (place, error) {
	for end := time.Now().Add(lookLimit); time.Now().Before(end); {
		if err := e.more(ctx, quiet); errors.Is(err, errQuiet) {
			return e.place(), nil
		} else if err != nil {
			return nowhere, err
		}
	}
	return e.place(), nil
}

// nudge types what gives a sign of life: a return, which makes a login and a
// shell show their prompt, and again, because a login may be just starting; the
// question; and once, where neither did anything, an interrupt, because a shell
// that a dead session left behind may be in the middle of something, and it ends
// then. Such a shell does not even echo, so a console that does has time for it.
func (e *entrance) nudge(ctx context.Context) (place, error) {
	interruptAt := 3
	if e.heard {
		interruptAt = 5
	}
	switch {
	case e.gave:
	case e.tries == 1 || e.tries == 2 && e.heard:
		return e.say(ctx, "", wakeLimit, settle)
	case e.tries == interruptAt:
		return e.say(ctx, interrupt, wakeLimit, settle)
	case e.tries == interruptAt+1:
		return e.say(ctx, "", 2*wakeLimit, settle)
	}
	return e.say(ctx, e.mark.takeOver(), 2*wakeLimit, answerSettle)
}

// say types a line and looks what comes of it.
func (e *entrance) say(ctx context.Context, line string, first, settle time.Duration) (place, error) {
	e.drop(len(e.in))
	e.typed = line
	if err := e.send(ctx, []byte(line+"\r")); err != nil {
		return nowhere, err
	}
	return e.look(ctx, first, settle, lookLimit)
}

// look reads until the console is somewhere known, or has said something and
// then nothing for settle, or nothing at all for first; for limit at most.
func (e *entrance) look(ctx context.Context, first, settle, limit time.Duration) (place, error) {
	end := time.Now().Add(limit)
	for {
		here := e.place()
		if here > unknown || here == unknown && settle != answerSettle && shellPrompt.Match(plain(tail(e.in))) {
			return here, nil
		}
		quiet := first
		if here == unknown {
			quiet = settle
		}
		err := e.more(ctx, min(quiet, time.Until(end)))
		if errors.Is(err, errQuiet) {
			return here, nil
		}
		if err != nil {
			return nowhere, err
		}
	}
}

// place says where the text that came leaves us.
func (e *entrance) place() place {
	e.heard = e.heard || len(e.in) > 0
	text := calm(plain(tail(e.in)))
	for _, answer := range [][]byte{text, e.marked()} {
		if m := e.mark.answer.FindSubmatch(answer); m != nil {
			e.uid = string(m[1])
			return atShell
		}
	}
	if passwordPrompt.Match(text) {
		return atPassword
	}
	if promptsLogin(text) {
		return atLogin
	}
	if strings.HasPrefix(strings.TrimSpace(e.typed), string(bytes.TrimSpace(text))) {
		return nowhere // the echo
	}
	return unknown
}

// tail is the end of what came: what a console asks stands there, and a board that
// starts says a lot before, which is not looked at again with each byte.
func tail(in []byte) []byte { return in[max(0, len(in)-tailMost):] }

// marked is what may be the answer to the question where much has come behind it.
func (e *entrance) marked() []byte {
	at := bytes.LastIndex(e.in, []byte(e.mark.token))
	if at < 0 || at >= len(e.in)-tailMost {
		return nil
	}
	return calm(plain(e.in[at:min(at+tailMost, len(e.in))]))
}

func promptsLogin(text []byte) bool {
	m := loginPrompt.FindSubmatch(text)
	return m != nil && len(m[1]) == 0
}
