package linux

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"nameplate/flasher"
)

// Limits of a conversation with a shell. Each is for silence or for one command,
// beside the time that the bytes need on the wire.
const (
	// startLimit is for the first words of the quiet shell.
	startLimit = 10 * time.Second
	// runLimit is for a command that only reads or computes.
	runLimit = 10 * time.Second
	// syncLimit is for a command that waits for the board's storage.
	syncLimit = 30 * time.Second
	// damageLimit: when something came and then nothing, the answer may have been
	// hit by a message of the kernel, and is asked for again.
	damageLimit = 700 * time.Millisecond
	// asksMost is how often that is done for one answer.
	asksMost = 6
	// runTries is how often a command is sent that the board did not get.
	runTries = 3
	// whoLimit is for finding out who is there when no answer came.
	whoLimit = 2 * time.Second
	// byeLimit is for the last word.
	byeLimit = 2 * time.Second
)

// A terminal takes a line of up to 4095 bytes, and keeps no more than that for a
// shell that is busy (Linux, N_TTY_BUF_SIZE): what is over is lost without a
// word. So lines are short, and little is under way.
const (
	lineMost   = 1000
	onTheWay   = 3000
	sumLength  = 16 // hex digits of the SHA-256 that goes with an answer
	answerMost = heardMost / 2
)

// prologue makes the shell ours. y prints what the last command left in o, and e,
// its status: an answer that was damaged on its way is asked for again, and
// nothing is done twice. Its checksum comes last: the board computes it while the
// line is busy with the rest. It is over c, too, which is the command as the board
// got it: an answer to what we did not say is none. n lives in this shell only,
// so what bears it comes from the board and the login that it began with. The
// history of the shell that we came through forgets our lines. What is in o may be
// a key: no child inherits it, and no shell that was told to trace its commands
// shows it. S is fsync where sync takes names, which is found out once, with a
// folder in memory, because a root that can only be read may not know fsync: a
// failure then is final, where the plain sync behind it would answer that all is
// well. p finds the nearest folder that is there, w; D does a folder and those
// between it and w.
const prologue = `PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH LC_ALL=C RANDFILE=/dev/null;export PATH LC_ALL RANDFILE;umask 077;unset o;set +xv 2>/dev/null
n=%[1]s o= e=0 s=0 k=0 c=
y(){ printf %%s "<$n $s $1 $e $o ";h=$(printf %%s "$s $1 $e $o$c"|sha256sum);printf %%s "${h%%"${h#????????????????}"} $n>";}
z(){ s=$1 e=$2;y 0;}
Y=;! sync /dev 2>/dev/null||Y=y
S(){ if [ "$Y" ];then sync "$@" 2>/dev/null;else sync 2>/dev/null;fi;}
p(){ w=$1;while [ ! -d "$w" ];do w=${w%%/*};w=${w:-/};done;}
D(){ S "$1"||return 1;[ "$1" = "$w" ]||{ set -- "${1%%/*}";D "${1:-/}";};}
H=${H:-$HOME/.ash_history};[ -f "$H" ]&&grep -q %[2]s "$H"&&sed -i /%[2]s/d "$H"&&{ [ -s "$H" ]||rm -f "$H";}
%[3]sm=;for c in %[4]s;do type $c>/dev/null 2>&1||m="$m $c";done
printf %%s "<$n tools$m $n>"
`

// tools is what a board must have.
const tools = "base64 cat chmod chown dd grep ls mkdir mv printf rm sha256sum sync tr wc"

// errDamaged: the answer was not to be had whole.
var errDamaged = errors.New("the answer came damaged each time")

// errLost: the board did not get the command as it was sent.
var errLost = errors.New("the command was lost on its way to the board")

// shell is a quiet shell of root on the board: no echo, no prompt, no history.
type shell struct {
	*console
	name string         // of this shell; see prologue
	seq  int            // of the last command
	asks int            // how often an answer was asked for again
	said map[int]string // what c is to be with each command; "" if not in here
}

// answer is what a command left.
type answer struct {
	status int
	out    []byte // valid until the next answer
}

// openShell logs in and prepares the shell, also with more lines than the prologue.
// There is one to log out of also when it fails, unless it is nil.
func openShell(ctx context.Context, c *console, who flasher.Console, more string) (*shell, error) {
	e := &entrance{console: c, who: who, mark: newMark()}
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	s := newShell(c)
	return s, s.prepare(ctx, e.mark, more)
}

func newShell(c *console) *shell {
	var name [4]byte
	_, _ = rand.Read(name[:]) // never fails
	return &shell{console: c, name: "n" + hex.EncodeToString(name[:])}
}

// prepare tells the shell what it needs. m is in the lines that its history has to
// forget.
func (s *shell) prepare(ctx context.Context, m mark, more string) error {
	said := regexp.MustCompile("<" + s.name + " tools((?: (?:" + strings.ReplaceAll(tools, " ", "|") + "))*) " + s.name + ">")
	for try := 1; ; try++ {
		lacks, err := s.reply(ctx, fmt.Sprintf(prologue, s.name, m.token, more, tools), said)
		missing := strings.Fields(lacks)
		switch {
		case errors.Is(err, errDamaged) && try < runTries:
			continue
		case errors.Is(err, errDamaged), errors.Is(err, errQuiet):
			return noPrompt(err)
		case err == nil && len(missing) > 0:
			return toolMissing(missing...)
		}
		return err
	}
}

// reply types lines and waits for what they print; errDamaged says that something
// was printed, but not that.
func (s *shell) reply(ctx context.Context, lines string, want *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit+s.wire(len(lines)), errQuiet)
	defer cancel()
	s.drop(len(s.in))
	err := s.send(ctx, []byte(lines))
	for quiet := startLimit; err == nil; quiet = damageLimit {
		err = s.more(ctx, quiet)
		if m := want.FindSubmatch(calm(plain(tail(s.in)))); m != nil {
			s.drop(len(s.in))
			return string(m[len(m)-1]), nil
		}
	}
	if errors.Is(err, errQuiet) && len(s.in) > 0 && ctx.Err() == nil {
		return "", errDamaged
	}
	return "", err
}

// run lets the board run a script that is harmless to repeat, and returns what it
// printed.
func (s *shell) run(ctx context.Context, limit time.Duration, script string) (answer, error) {
	for try := 1; ; try++ {
		a, err := s.try(ctx, limit, script)
		if try == runTries || !errors.Is(err, errLost) && !errors.Is(err, errDamaged) {
			return a, final(err)
		}
	}
}

// once is run for a script that must not be repeated.
func (s *shell) once(ctx context.Context, limit time.Duration, script string) (answer, error) {
	a, err := s.try(ctx, limit, script)
	return a, final(err)
}

func (s *shell) try(ctx context.Context, limit time.Duration, script string) (answer, error) {
	seq, err := s.ask(ctx, []byte("c="+quoted(script)+";o=$(eval \"$c\");z %d $?\n"), script)
	if err != nil {
		return answer{}, err
	}
	return s.answer(ctx, limit, seq)
}

// each runs lines behind the definitions that they need, as many at once as a
// terminal takes, and returns what they printed, up to the first that fails.
func (s *shell) each(ctx context.Context, limit time.Duration, definitions string, lines []string) (out []byte, status int, err error) {
	for len(lines) > 0 && status == 0 {
		script := definitions
		for len(lines) > 0 && len(quoted(script+lines[0])) < onTheWay-50 {
			script += lines[0] + "\n"
			lines = lines[1:]
		}
		a, err := s.run(ctx, limit, script)
		if err != nil {
			return nil, 0, err
		}
		out, status = append(append(out, a.out...), '\n'), a.status
	}
	return out, status, nil
}

// ask sends a command, in which %d stands for its number, and which leaves c in the
// shell.
func (s *shell) ask(ctx context.Context, command []byte, c string) (seq int, err error) {
	defer clear(command)
	s.seq++
	if s.said == nil {
		s.said = map[int]string{}
	}
	s.said[s.seq] = c
	before, after, _ := bytes.Cut(command, []byte("%d"))
	text := make([]byte, 0, len(command)+8)
	text = append(strconv.AppendInt(append(text, before...), int64(s.seq), 10), after...)
	return s.seq, s.tell(ctx, text)
}

// tell sends lines that have no answer. They may hold keys: they are wiped.
func (s *shell) tell(ctx context.Context, lines []byte) error {
	for line := range bytes.Lines(lines) {
		if len(line) > lineMost || len(lines) > onTheWay {
			clear(lines)
			return fmt.Errorf("a command of %d bytes is too long for a terminal", len(lines))
		}
	}
	short, cancel := context.WithTimeoutCause(ctx, runLimit+s.wire(len(lines)), errQuiet)
	defer cancel()
	return s.explain(ctx, s.send(short, lines))
}

// answer waits for the answer to command seq. Commands run in their order: an
// answer to a later one says that this one has run as well.
func (s *shell) answer(ctx context.Context, limit time.Duration, seq int) (answer, error) {
	short, cancel := context.WithTimeoutCause(ctx, limit+s.wire(answerMost), errQuiet)
	defer cancel()
	s.drop(s.used)
	first := s.asks + 1
	for try := 0; ; try++ {
		a, err := s.hear(short, limit, seq, first, try == asksMost)
		if err == nil || !errors.Is(err, errDamaged) || try == asksMost {
			return a, s.explain(ctx, err)
		}
		if (&entrance{console: s.console, mark: newMark()}).place() > unknown {
			return a, s.explain(ctx, errQuiet)
		}
		s.asks++
		s.drop(len(s.in))
		if err := s.send(short, fmt.Appendf(nil, "y %d\n", s.asks)); err != nil {
			return a, s.explain(ctx, err)
		}
	}
}

// hear waits for an answer to command seq or a later one. errDamaged says that it
// came damaged, or that something came that may have been it; errLost, that the
// board was asked again, from number first on, and does not know the command.
func (s *shell) hear(ctx context.Context, limit time.Duration, seq, first int, last bool) (answer, error) {
	quiet, came := limit, false
	for {
		f, whole := s.frame()
		switch {
		case !whole:
		case !f.sound:
			return answer{}, errDamaged
		case f.seq >= seq:
			return answer{status: f.status, out: f.out}, nil
		case f.asked >= first:
			return answer{}, errLost
		default: // late
			s.drop(s.used)
			continue
		}
		err := s.more(ctx, quiet)
		if errors.Is(err, errQuiet) && came && !last && ctx.Err() == nil {
			return answer{}, errDamaged
		}
		if err != nil {
			return answer{}, err
		}
		if came = true; !last {
			quiet = damageLimit
		}
	}
}

// frame is what y prints: <n seq asked status out sum n>.
type frame struct {
	seq, asked, status int
	out                []byte
	sound              bool // its checksum is right: it came as it was sent, and so did the command
}

// frame finds the first whole frame in what came. One that a message of the kernel
// fell into is whole without that, or so its checksum says.
func (s *shell) frame() (frame, bool) {
	f, used := s.parse(s.in, &s.sought.in)
	if !f.sound && bytes.Contains(s.in, []byte("[")) {
		s.calm.take(s.in)
		if mended, _ := s.parse(s.calm.out, &s.sought.calm); mended.sound {
			f, used = mended, len(s.in)
		}
	}
	s.used = used
	return f, used > 0
}

// parse is parseFrame for text that grows: as long as no frame ends in it, only
// what is new is looked at.
func (s *shell) parse(text []byte, sought *int) (frame, int) {
	shut := " " + s.name + ">"
	if !bytes.Contains(text[max(0, *sought-len(shut)):], []byte(shut)) {
		*sought = len(text)
		return frame{}, 0
	}
	return parseFrame(text, s.name, s.said)
}

// parseFrame returns the first frame of shell name in text, and where it ends; 0
// if there is none yet.
func parseFrame(text []byte, name string, said map[int]string) (f frame, end int) {
	open, shut := []byte("<"+name+" "), []byte(" "+name+">")
	from := bytes.Index(text, open)
	if from < 0 {
		return f, 0
	}
	from += len(open)
	size := bytes.Index(text[from:], shut)
	if size < 0 {
		return f, 0
	}
	body, end := text[from:from+size], from+size+len(shut)
	at := bytes.LastIndexByte(body, ' ')
	if at < 0 {
		return f, end
	}
	parts, sent := bytes.SplitN(body[:at], []byte(" "), 4), string(body[at+1:])
	if len(parts) < 4 {
		return f, end
	}
	for i, n := range []*int{&f.seq, &f.asked, &f.status} {
		v, err := strconv.Atoi(string(parts[i]))
		if err != nil || v < 0 {
			return frame{}, end
		}
		*n = v
	}
	f.out = parts[3]
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %d %d %s%s", f.seq, f.asked, f.status, f.out, said[f.seq])
	f.sound = hex.EncodeToString(sum.Sum(nil))[:sumLength] == sent
	return f, end
}

// final is the refusal of what was tried often enough.
func final(err error) error {
	if errors.Is(err, errLost) || errors.Is(err, errDamaged) {
		return garbled(err)
	}
	return err
}

// explain says what became of a shell that does not answer any more.
func (s *shell) explain(ctx context.Context, err error) error {
	if !errors.Is(err, errQuiet) || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 3*whoLimit, err)
	defer cancel()
	e := &entrance{console: s.console, mark: newMark()}
	here := e.place()
	for _, line := range []string{"", " " + e.mark.question() + "$n"} {
		if here > unknown {
			break
		}
		var failed error
		if here, failed = e.say(ctx, line, whoLimit, settle); errors.Is(failed, err) {
			break // the console does not even take what is typed
		} else if failed != nil {
			return failed
		}
	}
	switch {
	case here == atShell && bytes.Contains(s.in, []byte(":"+s.name)):
		return garbled(err)
	case here > unknown:
		return boardRestarted(err)
	}
	return boardSilent(err)
}

// bye ends the shell, and with it the login. A board that is still busy with a
// command is interrupted, which ends them, too.
func (s *shell) bye(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, byeLimit, errQuiet)
	defer cancel()
	err := s.send(ctx, []byte("printf %s \"<$n bye>\";exit\n"))
	if err == nil {
		err = s.until(ctx, byeLimit, func() bool { return bytes.Contains(s.in, []byte("<"+s.name+" bye>")) })
	}
	if errors.Is(err, errQuiet) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), byeLimit)
		defer cancel()
		return errors.Join(err, s.send(ctx, []byte(interrupt)))
	}
	return err
}

// quoted is text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// unbase64 decodes what base64 printed on the board, into memory of its own.
func unbase64(out []byte) ([]byte, error) {
	b := make([]byte, base64.StdEncoding.DecodedLen(len(out)))
	n, err := base64.StdEncoding.Decode(b, out) // passes over line feeds
	if err != nil {
		return nil, fmt.Errorf("decoding the board's base64: %w", err)
	}
	return b[:n], nil
}
