package replay

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"nameplate/records"
)

// names knows who owns each name of each space. A ledger of ten years holds a
// hundred million names, so that every one takes at most 32 bytes: 16 of a
// salted hash and 8 of the owner in open-addressed tables, which grow by a
// seventh each. There are many tables, so that a growing one is a small part.
// A name that was given back stays, with owner 0.
type names struct {
	salt   [16]byte
	shards [1 << shardBits]shard
	live   map[records.Space]int64 // owned names
}

const (
	shardBits = 12
	// A table is grown when it is 15/16 full, by 1/7: at least 0.82 of its slots
	// are used, 24 bytes each.
	fullNum, fullDen     = 15, 16
	growthNum, growthDen = 8, 7
)

type shard struct {
	entries []entry
	used    int
}

type entry struct {
	key   [16]byte // all zero: free; a hash is not, save once in 2^128
	owner int64
}

func newNames() *names {
	n := &names{live: map[records.Space]int64{}}
	rand.Read(n.salt[:]) // nobody can prepare names that fall together
	return n
}

func (n *names) place(space records.Space, name string) ([16]byte, *shard) {
	b := make([]byte, 0, 128)
	b = append(b, n.salt[:]...)
	b = append(b, space...)
	b = append(b, 0)
	b = append(b, name...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:]), &n.shards[binary.BigEndian.Uint16(sum[30:])>>(16-shardBits)]
}

// entry returns the name's entry, made if there is none.
func (n *names) entry(space records.Space, name string) *entry {
	key, s := n.place(space, name)
	e := s.find(key)
	if e != nil && e.key == key {
		return e
	}
	if (s.used+1)*fullDen > len(s.entries)*fullNum {
		s.grow()
		e = s.find(key)
	}
	e.key = key
	s.used++
	return e
}

// find returns the entry of key, or the free one where it belongs; nil while
// there is no table.
func (s *shard) find(key [16]byte) *entry {
	if len(s.entries) == 0 {
		return nil
	}
	for i := binary.LittleEndian.Uint64(key[:]) % uint64(len(s.entries)); ; {
		e := &s.entries[i]
		if e.key == key || e.key == ([16]byte{}) {
			return e
		}
		if i++; i == uint64(len(s.entries)) {
			i = 0
		}
	}
}

func (s *shard) grow() {
	old := s.entries
	s.entries = make([]entry, max(8, len(old)*growthNum/growthDen+1))
	for _, e := range old {
		if e.key != ([16]byte{}) {
			*s.find(e.key) = e
		}
	}
}

// apply does what the mark says. It returns the owner that stands against it, if
// one does: another than the mark's, or 0 when nobody holds what is given back.
func (n *names) apply(m records.Mark) (owner int64, ok bool) {
	e := n.entry(m.Space, m.Name)
	switch {
	case m.Free && e.owner == m.Owner:
		e.owner = 0
		n.live[m.Space]--
	case m.Free, e.owner != 0 && e.owner != m.Owner:
		return e.owner, false
	case e.owner == 0:
		e.owner = m.Owner
		n.live[m.Space]++
	}
	return m.Owner, true
}

// owner is who owns the name, 0 if nobody does.
func (n *names) owner(space records.Space, name string) int64 {
	key, s := n.place(space, name)
	if e := s.find(key); e != nil && e.key == key {
		return e.owner
	}
	return 0
}
