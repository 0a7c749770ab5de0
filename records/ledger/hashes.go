package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// hashReader computes any hash of the tree from the events and the tiles. It
// remembers the blocks it has read, because proofs of neighbouring events need
// the same ones.
type hashReader struct {
	ctx    context.Context
	l      *Ledger
	blocks map[block][]tlog.Hash
}

// block is the n-th group of 256 hashes of a stored level.
type block struct {
	level int
	n     int64
}

// maxBlocks bounds the memory of a hashReader: 64 blocks of 8 KiB.
const maxBlocks = 64

// HashReader gives every hash of the tree that is complete at the present size,
// for tlog.ProveRecord, tlog.ProveTree and tlog.TreeHash. It is for one
// goroutine; make another for another.
func (l *Ledger) HashReader(ctx context.Context) tlog.HashReader {
	return &hashReader{ctx: ctx, l: l, blocks: map[block][]tlog.Hash{}}
}

func (r *hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := r.hash(level, n)
		if err != nil {
			return nil, err
		}
		hashes[i] = h
	}
	return hashes, nil
}

// hash computes the n-th hash of a level from those of the stored level below.
func (r *hashReader) hash(level int, n int64) (tlog.Hash, error) {
	up := level % tileHeight
	first, count := n<<up, int64(1)<<up
	b := block{level: level - up, n: first >> tileHeight}
	offset := first & (1<<tileHeight - 1)
	stored, err := r.read(b, offset+count)
	if err != nil {
		return tlog.Hash{}, err
	}
	row := append([]tlog.Hash(nil), stored[offset:offset+count]...)
	for ; len(row) > 1; row = row[:len(row)/2] {
		for i := range len(row) / 2 {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return row[0], nil
}

// read returns at least the first want hashes of the block.
func (r *hashReader) read(b block, want int64) ([]tlog.Hash, error) {
	if got := r.blocks[b]; int64(len(got)) >= want {
		return got, nil
	}
	query := "SELECT n, hash FROM tiles WHERE n >= ? AND n < ? AND level = ? ORDER BY n"
	if b.level == 0 {
		query = "SELECT seq - 1, bytes FROM events WHERE seq > ? AND seq <= ? AND 0 = ? ORDER BY seq"
	}
	first, end := b.n<<tileHeight, (b.n+1)<<tileHeight
	hashes := make([]tlog.Hash, 0, 1<<tileHeight)
	whole := true
	err := r.l.each(r.ctx, "reading hashes", query, []any{first, end, b.level}, func(rows *sql.Rows) error {
		var n int64
		var bytes sql.RawBytes
		if err := rows.Scan(&n, &bytes); err != nil {
			return err
		}
		switch {
		case !whole || n != first+int64(len(hashes)): // after a gap nothing is of use
			whole = false
		case b.level == 0:
			hashes = append(hashes, tlog.RecordHash(bytes))
		case len(bytes) == tlog.HashSize:
			hashes = append(hashes, tlog.Hash(bytes))
		default:
			whole = false
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if int64(len(hashes)) < want {
		return nil, damaged(fmt.Sprintf("of the hashes of level %d from number %d on, %d are wanted and %d are there", b.level, first, want, len(hashes)), nil)
	}
	if len(r.blocks) >= maxBlocks {
		clear(r.blocks)
	}
	r.blocks[b] = hashes
	return hashes, nil
}
