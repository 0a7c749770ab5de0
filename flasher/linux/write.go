package linux

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"nameplate/flasher"
)

// The statuses with which our scripts say where they failed.
const (
	statusUnwritable = 8 + iota
	statusChecksum
	statusOwner
	statusFolder
	statusNoFolder
	statusNoKey
	statusRename
	statusUnusable
)

// writing tells the shell how a file is written: b begins it as a temporary file
// beside its place, d adds a piece, f compares the SHA-256, gives it owner and
// mode, brings it to the storage, puts it into its place in one step, and brings
// the folder to the storage. k keeps the first failure, so pieces need not be
// waited for. A temporary file that was left behind is removed first.
const writing = `b(){ f=$2 d=${2%%/*} k=0 w=;d=${d:-/};t=${d%%/}/.${f##*/}.nameplate
o=$({ [ ! -d "$f" ]||exit %[1]d;[ -d "$d" ]||{ (umask 022;mkdir -p "$d")||exit %[2]d;echo w;};rm -f "$t"&&:>"$t"||exit %[3]d;} 2>&1)||k=$?
[ -z "$o" ]||w=1;z $1 $k;}
d(){ [ $k != 0 ]||{ o=$({ printf %%s "$2"|base64 -d>>"$t";} 2>&1)||k=%[3]d;};z $1 $k;}
f(){ [ $k != 0 ]||{ o=$({ h=$(sha256sum<"$t")&&[ "${h%%%% *}" = $2 ]||exit %[4]d
[ -z "$4" ]||chown "$4" "$t"||exit %[5]d
chmod $3 "$t"&&S "$t"&&mv -f "$t" "$f"||exit %[6]d
if [ "$w" ];then sync;else S "$d";fi;} 2>&1)||k=$?;}
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
	if !d.writer {
		script := fmt.Sprintf(writing, statusFolder, statusNoFolder, statusUnwritable, statusChecksum, statusOwner, statusRename)
		if _, err := d.shell.tell(ctx, script); err != nil {
			return fmt.Errorf("preparing to write: %w", err)
		}
		d.writer = true
	}
	var done, total int64
	for _, s := range p.Segments {
		total += int64(len(s.Data))
	}
	progress := func(n int) {
		done += int64(n)
		on(flasher.Progress{Step: "write", Done: min(done, total), Total: max(total, 1)})
	}
	for _, s := range p.Segments {
		for pass := 1; ; pass++ {
			before := done
			err := d.writeFile(ctx, s, progress)
			if err == nil {
				break
			}
			if pass == writePasses || !errors.Is(err, errChecksum) && !errors.Is(err, errLost) {
				return fmt.Errorf("writing %s: %w", s.Target, final(err))
			}
			done = before
		}
	}
	return nil
}

// writeFile writes one file. Several lines are under way, so that neither side
// waits for the other.
func (d *device) writeFile(ctx context.Context, s flasher.Segment, progress func(int)) error {
	if !tidy(s.Target) || !ownerForm.MatchString(s.Owner) {
		return fmt.Errorf("the plan was made for another board: %q of %q", s.Target, s.Owner)
	}
	w := &window{shell: d.shell}
	if err := w.say(ctx, []byte("b %d "+quoted(s.Target)+"\n")); err != nil {
		return err
	}
	for at := 0; at < len(s.Data); at += pieceSize {
		piece := s.Data[at:min(at+pieceSize, len(s.Data))]
		line := make([]byte, 0, lineMost+40) // wiped when it is sent
		line = append(line, "d %d "...)
		line = base64.StdEncoding.AppendEncode(line, piece)
		if err := w.say(ctx, append(line, '\n')); err != nil {
			return err
		}
		progress(len(piece))
	}
	sum := sha256.Sum256(s.Data)
	last := fmt.Sprintf("f %%d %s %o %s\n", hex.EncodeToString(sum[:]), s.Mode, quoted(s.Owner))
	if err := w.say(ctx, []byte(last)); err != nil {
		return err
	}
	a, err := w.last(ctx)
	if err != nil {
		return err
	}
	if a.status != 0 {
		return storageRefused(a)
	}
	return nil
}

// window keeps no more under way than a terminal takes for a shell that is busy.
type window struct {
	*shell
	sent []sent
	size int // of all of it
}

type sent struct{ seq, size int }

func (w *window) say(ctx context.Context, line []byte) error {
	for len(w.sent) > 0 && w.size+len(line)+20 > onTheWay {
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
	size := len(line)
	seq, err := w.ask(ctx, line)
	if err != nil {
		return err
	}
	w.sent, w.size = append(w.sent, sent{seq, size}), w.size+size
	return nil
}

// wait waits for the first that is under way.
func (w *window) wait(ctx context.Context) error {
	first := w.sent[0]
	w.sent, w.size = w.sent[1:], w.size-first.size
	if w.done >= first.seq {
		return nil
	}
	_, err := w.answer(ctx, syncLimit, first.seq)
	return err
}

// last waits for the last one and returns its answer.
func (w *window) last(ctx context.Context) (answer, error) {
	return w.answer(ctx, syncLimit, w.sent[len(w.sent)-1].seq)
}
