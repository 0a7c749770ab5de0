package linux

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"nameplate/flasher"
)

// The statuses with which our scripts say where they failed.
const (
	statusDiffers = 7 + iota
	statusUnwritable
	statusChecksum
	statusOwner
	statusFolder
	statusNoFolder
	statusNoKey
	statusRename
	statusSync
	statusVolatile
)

// writing tells the shell how a file is written: b begins it as a temporary file
// beside its place, d adds a piece, f compares the SHA-256 over all that was said,
// path, mode and owner too, so that nothing goes where another file was begun, gives it owner and mode, brings it to the storage, puts
// it into its place in one step, and brings the folder to the storage, with those
// above it where it is new. k keeps the first failure, so that only the end must be
// waited for; BusyBox's base64 fails with a word and without a status. A temporary
// file that was left behind is removed first.
const writing = `b(){ c= f=$1 d=${1%%/*} k=0;d=${d:-/};t=${d%%/}/.${f##*/}.nameplate;p "$d"
o=$({ [ ! -d "$f" ]||exit %[1]d;[ -d "$d" ]||(umask 022;mkdir -p "$d")||exit %[2]d;rm -f "$t"&&:>"$t"||exit %[3]d;} 2>&1)||k=$?;}
d(){ [ $k != 0 ]||o=$({ printf %%s "$1"|base64 -d>>"$t";} 2>&1);[ -z "$o" ]||[ $k != 0 ]||k=%[3]d;}
f(){ [ $k != 0 ]||o=$({ h=$({ printf %%s "$f $3 $4 ";cat "$t";}|sha256sum)&&[ "${h%%%% *}" = $2 ]||exit %[4]d
[ -z "$4" ]||chown "$4" "$t"||exit %[5]d
chmod $3 "$t"||exit %[6]d
S "$t"||exit %[7]d
mv -f "$t" "$f"||exit %[6]d
D "$d"||exit %[7]d;} 2>&1)||k=$?
[ $k = 0 ]||rm -f "$t";z $1 $k;}
`

// pieceSize is what goes in one line, in base64.
const pieceSize = (lineMost - 40) / 4 * 3

// writePasses: a second pass mends what noise did to the first.
const writePasses = 2

// Write implements flasher.Device. A file is there whole or as it was before; the
// last that is written is the one that names the others. All of it goes through
// the shell that identified the board, so it is the same board.
func (d *device) Write(ctx context.Context, p flasher.Plan, on func(flasher.Progress)) error {
	if on == nil {
		on = func(flasher.Progress) {}
	}
	var done, total int64
	for _, s := range p.Segments {
		total += int64(len(s.Data))
	}
	for _, s := range p.Segments {
		for pass := 1; ; pass++ {
			err := d.writeFile(ctx, s, func(n int) {
				on(flasher.Progress{Step: "write", Done: done + int64(n), Total: max(total, 1)})
			})
			if err == nil {
				break
			}
			if pass == writePasses || !errors.Is(err, errChecksum) && !errors.Is(err, errLost) {
				return fmt.Errorf("writing %s: %w", s.Target, final(err))
			}
			d.writer = false // what was lost may have been that
		}
		done += int64(len(s.Data))
	}
	return nil
}

// teachWriting tells the shell how files are written, unless it knows.
func (d *device) teachWriting(ctx context.Context) error {
	if d.writer {
		return nil
	}
	d.writer = true
	return d.shell.tell(ctx, fmt.Appendf(nil, writing, statusFolder, statusNoFolder, statusUnwritable, statusChecksum, statusOwner, statusRename, statusSync))
}

// writeFile writes one file. Several lines are under way, so that neither side
// waits for the other.
func (d *device) writeFile(ctx context.Context, s flasher.Segment, progress func(sent int)) error {
	if !tidy(s.Target) || !ownerForm.MatchString(s.Owner) {
		return fmt.Errorf("the plan was made for another board: %q of %q", s.Target, s.Owner)
	}
	w := &window{shell: d.shell, sent: len(writing)} // it may be under way, too
	if err := d.teachWriting(ctx); err != nil {
		return err
	}
	if err := w.say(ctx, []byte("b "+quoted(s.Target)+"\n")); err != nil {
		return err
	}
	for at := 0; at < len(s.Data); at += pieceSize {
		piece := s.Data[at:min(at+pieceSize, len(s.Data))]
		line := make([]byte, 0, lineMost) // wiped when it is sent
		line = append(base64.StdEncoding.AppendEncode(append(line, "d "...), piece), '\n')
		if err := w.say(ctx, line); err != nil {
			return err
		}
		progress(at + len(piece))
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %o %s ", s.Target, s.Mode, s.Owner)
	sum.Write(s.Data)
	seq, err := w.ask(ctx, fmt.Appendf(nil, "f %%d %x %o %s\n", sum.Sum(nil), s.Mode, quoted(s.Owner)), "")
	if err != nil {
		return err
	}
	a, err := w.answer(ctx, syncLimit, seq)
	if err != nil {
		return err
	}
	if a.status != 0 {
		return storageRefused(a.status, a.out)
	}
	return nil
}

// window keeps no more under way than a terminal takes for a shell that is busy.
// Lines have no answers; now and then the board is asked how far it is.
type window struct {
	*shell
	sent, taken int // bytes, and those that the board is known to have read
	asked       int // bytes sent before the last question
	questions   []question
}

type question struct{ seq, sent int }

// askEvery is how many bytes go before the board is asked.
const askEvery = onTheWay / 3

func (w *window) say(ctx context.Context, line []byte) error {
	for w.sent+len(line) > w.taken+onTheWay && len(w.questions) > 0 {
		q := w.questions[0]
		if _, err := w.answer(ctx, syncLimit, q.seq); err != nil {
			return err
		}
		w.questions, w.taken = w.questions[1:], q.sent
	}
	w.sent += len(line)
	if err := w.tell(ctx, line); err != nil {
		return err
	}
	if w.sent-w.asked < askEvery {
		return nil
	}
	seq, err := w.ask(ctx, []byte("z %d $k\n"), "")
	w.questions, w.asked = append(w.questions, question{seq, w.sent}), w.sent
	return err
}
