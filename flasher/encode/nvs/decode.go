package nvs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Store is what an image holds.
type Store struct {
	spaces map[string]uint8
	values map[slot]Value
}

type slot struct {
	space uint8
	key   string
}

// Lookup returns the value under a key of a namespace. The bytes are those of
// the image that was parsed, or a copy.
func (s *Store) Lookup(namespace, key string) (Value, bool) {
	index, ok := s.spaces[namespace]
	if !ok {
		return Value{}, false
	}
	v, ok := s.values[slot{index, key}]
	return v, ok
}

// Parse reads an image as the device would after a reset. What the device would
// not accept is not there: pages and entries whose CRC is wrong, erased entries,
// blobs that lack a piece. Of two entries with one name the later counts, as the
// library writes the new one before it erases the old. An error means that the
// bytes cannot be a partition at all.
func Parse(image []byte) (*Store, error) {
	if len(image) == 0 || len(image)%PageSize != 0 {
		return nil, fmt.Errorf("reading NVS: %d bytes are not a whole number of pages", len(image))
	}
	p := &parser{
		Store:  Store{spaces: map[string]uint8{}, values: map[slot]Value{}},
		chunks: map[chunk][]byte{},
		blobs:  map[slot]blobIndex{},
	}
	for _, page := range pagesInOrder(image) {
		p.page(page)
	}
	for at, index := range p.blobs {
		if b, ok := p.join(at, index); ok {
			p.values[at] = Value{Blob, b}
		}
	}
	return &p.Store, nil
}

// InUse tells from a page's header and entry states how many bytes of the page,
// from its start, must be read to know all that it holds: 0 for a page that the device
// would not look at. It lets a slow link leave out what was never written.
// head is the first HeadSize bytes of the page.
func InUse(head []byte) int {
	if !validPage(head) {
		return 0
	}
	for i := pageEntries - 1; i >= 0; i-- {
		if entryState(head, i) == stateWritten {
			return entriesStart + (i+1)*entrySize
		}
	}
	return HeadSize
}

// HeadSize is the part of a page that InUse looks at.
const HeadSize = entriesStart

func validPage(page []byte) bool {
	if len(page) < HeadSize {
		return false
	}
	switch binary.LittleEndian.Uint32(page) {
	case pageActive, pageFull, pageFreeing:
	default:
		return false
	}
	return page[8] == version2 && binary.LittleEndian.Uint32(page[28:]) == crc(page[4:28])
}

func entryState(page []byte, i int) byte { return page[entrySize+i/4] >> (2 * (i % 4)) & 3 }

// pagesInOrder returns the valid pages, the oldest first.
func pagesInOrder(image []byte) [][]byte {
	var pages [][]byte
	for page := range slices.Chunk(image, PageSize) {
		if validPage(page) {
			pages = append(pages, page)
		}
	}
	slices.SortStableFunc(pages, func(a, b []byte) int {
		return cmp.Compare(binary.LittleEndian.Uint32(a[4:]), binary.LittleEndian.Uint32(b[4:]))
	})
	return pages
}

type chunk struct {
	slot
	number uint8
}

type blobIndex struct {
	size         uint32
	count, first uint8
}

type parser struct {
	Store
	chunks map[chunk][]byte
	blobs  map[slot]blobIndex
}

func (p *parser) page(page []byte) {
	for i := 0; i < pageEntries; {
		n := 1
		if entryState(page, i) == stateWritten {
			if taken, ok := p.item(page, i); ok {
				n = taken
			}
		}
		i += n
	}
}

// item takes in the item at entry i and returns how many entries it covers.
func (p *parser) item(page []byte, i int) (int, bool) {
	e := page[entriesStart+i*entrySize:][:entrySize]
	if binary.LittleEndian.Uint32(e[4:]) != crc(e[:4], e[8:]) {
		return 0, false
	}
	keyEnd := bytes.IndexByte(e[8:24], 0)
	n := int(e[2])
	if keyEnd <= 0 || n < 1 || i+n > pageEntries {
		return 0, false
	}
	at := slot{e[0], string(e[8 : 8+keyEnd])}
	head := e[24:]
	switch t := Type(e[1]); {
	case t.intSize() > 0:
		if n != 1 {
			return 0, false
		}
		if at.space == 0 {
			return n, p.space(t, at.key, head[0])
		}
		p.set(at, Value{t, head[:t.intSize()]})
	case t == String:
		data, ok := itemData(page, i, n, head)
		if !ok || len(data) == 0 || bytes.IndexByte(data, 0) != len(data)-1 {
			return 0, false
		}
		p.set(at, Value{String, data[:len(data)-1]})
	case t == blobData:
		data, ok := itemData(page, i, n, head)
		if !ok {
			return 0, false
		}
		p.chunks[chunk{at, e[3]}] = data
	case t == Blob:
		if n != 1 {
			return 0, false
		}
		delete(p.values, at)
		p.blobs[at] = blobIndex{binary.LittleEndian.Uint32(head), head[4], head[5]}
	}
	return n, true
}

func (p *parser) set(at slot, v Value) {
	delete(p.blobs, at)
	p.values[at] = v
}

// space notes a namespace; the library takes the first entry of a name.
func (p *parser) space(t Type, name string, index uint8) bool {
	if t != U8 || index == 0 || index > maxNamespaces {
		return false
	}
	if _, known := p.spaces[name]; !known {
		p.spaces[name] = index
	}
	return true
}

// itemData returns the data that follows the head of item i, if its size, its
// span and its CRC agree.
func itemData(page []byte, i, n int, head []byte) ([]byte, bool) {
	size := int(binary.LittleEndian.Uint16(head))
	if span(size) != n {
		return nil, false
	}
	data := page[entriesStart+(i+1)*entrySize:][:size]
	return data, binary.LittleEndian.Uint32(head[4:]) == crc(data)
}

// join puts a blob together from its pieces.
func (p *parser) join(at slot, index blobIndex) ([]byte, bool) {
	var pieces [][]byte
	for i := range int(index.count) {
		data, ok := p.chunks[chunk{at, index.first + uint8(i)}]
		if !ok {
			return nil, false
		}
		pieces = append(pieces, data)
	}
	b := slices.Concat(pieces...) // in one go: what an outgrown buffer keeps may be a key
	return b, uint64(len(b)) == uint64(index.size)
}
