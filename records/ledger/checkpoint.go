package ledger

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// StoredCheckpoint is a checkpoint that was signed and kept.
type StoredCheckpoint struct {
	Size int64
	Text []byte // the signed note
}

// Checkpoint signs "this many events, this root" for the present size, as a
// C2SP checkpoint (c2sp.org/tlog-checkpoint) in a signed note, and keeps it. For
// the same size and key it is the same bytes. A ledger opened for reading is
// first judged as Open does, and keeps nothing.
func (l *Ledger) Checkpoint(ctx context.Context, s note.Signer) ([]byte, error) {
	if l.writer == nil {
		if _, err := l.loadEdge(ctx); err != nil {
			return nil, err
		}
	}
	size := l.Size()
	root, err := l.Root(ctx, size)
	if err != nil {
		return nil, fmt.Errorf("computing root: %w", err)
	}
	text, err := note.Sign(&note.Note{Text: checkpointText(l.origin, size, root)}, s)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	if l.writer == nil {
		return text, nil
	}
	var kept []byte
	if _, err := l.one(ctx, "reading checkpoint", "SELECT text FROM checkpoints WHERE size = ?", []any{size}, &kept); err != nil {
		return nil, err
	}
	if string(kept) == string(text) {
		return text, nil
	}
	err = l.submit(ctx, func(g *group) error {
		return g.exec1("storing checkpoint", g.w.s.putCheckpoint, size, text)
	})
	if err != nil {
		return nil, err
	}
	return text, nil
}

// Checkpoints returns the kept checkpoints, smallest first.
func (l *Ledger) Checkpoints(ctx context.Context) ([]StoredCheckpoint, error) {
	var all []StoredCheckpoint
	err := l.each(ctx, "reading checkpoints", "SELECT size, text FROM checkpoints ORDER BY size", nil, func(rows *sql.Rows) error {
		var c StoredCheckpoint
		if err := rows.Scan(&c.Size, &c.Text); err != nil {
			return err
		}
		all = append(all, c)
		return nil
	})
	return all, err
}

// checkEdge holds the tree against the newest kept checkpoint: a file that was
// cut, or whose tiles were changed, does not open.
func (l *Ledger) checkEdge(ctx context.Context) error {
	var size int64
	var text []byte
	found, err := l.one(ctx, "reading the newest checkpoint", "SELECT size, text FROM checkpoints ORDER BY size DESC LIMIT 1", nil, &size, &text)
	if err != nil || !found {
		return err
	}
	if size > l.Size() {
		return damaged(fmt.Sprintf("a checkpoint was signed over %d events, and there are %d", size, l.Size()), nil)
	}
	root, err := l.Root(ctx, size)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(text), checkpointText(l.origin, size, root)+"\n") {
		return damaged(fmt.Sprintf("its first %d events are not those that its checkpoint was signed over", size), nil)
	}
	return nil
}

// checkpointText is the note's text: origin, size, root, a line each. It is not
// tlog.FormatTree, which writes another log's fixed first line.
func checkpointText(origin string, size int64, root tlog.Hash) string {
	return origin + "\n" + strconv.FormatInt(size, 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n"
}
