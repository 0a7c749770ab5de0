package replay

import (
	"fmt"
	"testing"
	"unsafe"

	"nameplate/records"
)

// A name takes at most 32 bytes, whatever their number: the tables at any time
// hold at most that much room.
func TestNamesMemory(t *testing.T) {
	n := newNames()
	const keys = 300_000
	for i := range keys {
		if owner, ok := n.apply(records.Mark{Space: records.KeySpace, Name: fmt.Sprint(i), Owner: int64(i + 1)}); !ok {
			t.Fatalf("name %d is %d's", i, owner)
		}
	}
	var room uintptr
	for i := range n.shards {
		room += uintptr(len(n.shards[i].entries)) * unsafe.Sizeof(entry{})
	}
	if per := float64(room) / keys; per > 32 {
		t.Errorf("%.1f bytes a name", per)
	}
	for i := range keys {
		if owner := n.owner(records.KeySpace, fmt.Sprint(i)); owner != int64(i+1) {
			t.Fatalf("name %d is %d's", i, owner)
		}
	}
	if owner := n.owner(records.SecretSpace, "1"); owner != 0 {
		t.Errorf("the same name in another space is %d's", owner)
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	mark := func(owner int64, free bool) records.Mark {
		return records.Mark{Space: records.SlotSpace, Name: "a1", Owner: owner, Free: free}
	}
	for i, c := range []struct {
		mark  records.Mark
		owner int64
		ok    bool
	}{
		{mark(5, true), 0, false}, // nobody has it
		{mark(5, false), 5, true},
		{mark(5, false), 5, true}, // again: nothing changes
		{mark(6, false), 5, false},
		{mark(6, true), 5, false},
		{mark(5, true), 5, true},
		{mark(6, false), 6, true}, // given back, it can be taken
	} {
		if owner, ok := n.apply(c.mark); owner != c.owner || ok != c.ok {
			t.Errorf("step %d: got %d, %t; want %d, %t", i, owner, ok, c.owner, c.ok)
		}
	}
	if n.live[records.SlotSpace] != 1 {
		t.Errorf("%d live names", n.live[records.SlotSpace])
	}
}

func BenchmarkNames(b *testing.B) {
	n := newNames()
	i := int64(0)
	for b.Loop() {
		i++
		n.apply(records.Mark{Space: records.KeySpace, Name: fmt.Sprint(i), Owner: i})
	}
}

// A checkpoint comes from outside: whatever its bytes are, there is an answer.
func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte("origin\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAA\n"))
	f.Add([]byte("\n\n\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseCheckpoint(text, nil); err == nil && c.size < 0 {
			t.Errorf("size %d", c.size)
		}
	})
}
