package replay

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// tree computes the Merkle tree hash of RFC 6962 §2.1 in one pass: the roots of
// the complete subtrees that the size's binary digits name, largest first. It is
// written a second time here, apart from the ledger's, so that one cannot hide
// the other's mistake.
type tree struct {
	size  int64
	peaks []tlog.Hash
}

// add takes the hash of the next leaf.
func (t *tree) add(h tlog.Hash) {
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		h = tlog.NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
	}
	t.peaks = append(t.peaks, h)
	t.size++
}

func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		empty, _ := tlog.TreeHash(0, nil) // a constant: needs no reader and cannot fail
		return empty
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	return h
}

// checkpoint is what a C2SP checkpoint (c2sp.org/tlog-checkpoint) says.
type checkpoint struct {
	origin string
	size   int64
	root   tlog.Hash
	stored bool // kept in the ledger; else it came from elsewhere
}

func (c checkpoint) name() string {
	if c.stored {
		return fmt.Sprintf("the stored checkpoint over %d events", c.size)
	}
	return fmt.Sprintf("the checkpoint from elsewhere over %d events", c.size)
}

// parseCheckpoint reads a signed note; with v nil its signature is not checked.
func parseCheckpoint(signed []byte, v note.Verifier) (checkpoint, error) {
	var text string
	if v != nil {
		n, err := note.Open(signed, note.VerifierList(v))
		if err != nil {
			return checkpoint{}, fmt.Errorf("checking signature: %w", err)
		}
		text = n.Text
	} else {
		before, _, ok := strings.Cut(string(signed), "\n\n")
		if !ok {
			return checkpoint{}, errors.New("it is no signed note")
		}
		text = before + "\n"
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 4 {
		return checkpoint{}, errors.New("it lacks origin, size or root")
	}
	c := checkpoint{origin: lines[0]}
	var err error
	if c.size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.size < 0 || strconv.FormatInt(c.size, 10) != lines[1] {
		return checkpoint{}, fmt.Errorf("%q is no size", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return checkpoint{}, fmt.Errorf("%q is no root", lines[2])
	}
	copy(c.root[:], root)
	return c, nil
}
