package ledger

import (
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// tileHeight is how many levels lie between stored hashes: a stored one covers
// 256 of those below, and at most 255 have to be read to compute any other.
const tileHeight = 8

// tree is the right edge of the Merkle tree: the roots of the complete subtrees
// that its size's binary digits name, largest first.
type tree struct {
	size  int64
	peaks []tlog.Hash
}

// tile is a hash worth storing: that of the n-th complete subtree of 2^level leaves.
type tile struct {
	level int
	n     int64
	hash  tlog.Hash
}

func (t tree) clone() tree {
	return tree{size: t.size, peaks: append(make([]tlog.Hash, 0, len(t.peaks)+1), t.peaks...)}
}

// add appends a leaf and returns the tiles that it completes.
func (t *tree) add(leaf []byte) []tile {
	var done []tile
	h := tlog.RecordHash(leaf)
	for level := 0; level < bits.TrailingZeros64(^uint64(t.size)); {
		last := len(t.peaks) - 1
		h = tlog.NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
		level++
		if level%tileHeight == 0 {
			done = append(done, tile{level: level, n: t.size >> level, hash: h})
		}
	}
	t.peaks = append(t.peaks, h)
	t.size++
	return done
}

// root is RFC 6962's tree hash, the peaks folded from the right.
func (t tree) root() (tlog.Hash, error) {
	if len(t.peaks) == 0 {
		return tlog.TreeHash(0, nil)
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	return h, nil
}

// loadTree rebuilds the edge of a tree from what is stored.
func loadTree(size int64, r tlog.HashReader) (tree, error) {
	t := tree{size: size}
	var indexes []int64
	for level := bits.Len64(uint64(size)) - 1; level >= 0; level-- {
		if size>>level&1 == 1 {
			indexes = append(indexes, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	var err error
	t.peaks, err = r.ReadHashes(indexes)
	return t, err
}
