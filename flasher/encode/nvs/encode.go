package nvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrFull: the values do not fit with one page left empty.
var ErrFull = errors.New("the values do not fit into the partition")

// Encode makes the image of a partition of n pages. The same input gives the
// same bytes. It keeps the last page empty, as the library needs it. An error
// means that the input cannot be stored: too much (ErrFull), a name that is empty, too
// long or used twice, a string that is too long or holds a zero byte.
func Encode(pages int, spaces ...Namespace) ([]byte, error) {
	if pages < MinPages {
		return nil, fmt.Errorf("a partition of %d pages is too small, %d are needed: %w", pages, MinPages, ErrFull)
	}
	if len(spaces) > maxNamespaces {
		return nil, fmt.Errorf("%d namespaces are too many, %d is the limit", len(spaces), maxNamespaces)
	}
	w := &writer{image: make([]byte, pages*PageSize), page: -1}
	for i := range w.image {
		w.image[i] = 0xFF
	}
	if err := w.nextPage(); err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(spaces))
	for i, ns := range spaces {
		if err := checkName(ns.Name, names); err != nil {
			return nil, fmt.Errorf("namespace %q: %w", ns.Name, err)
		}
		index := uint8(i + 1)
		if err := w.put(0, ns.Name, Integer(index)); err != nil {
			return nil, fmt.Errorf("namespace %q: %w", ns.Name, err)
		}
		keys := make(map[string]bool, len(ns.Entries))
		for _, e := range ns.Entries {
			if err := checkName(e.Key, keys); err != nil {
				return nil, fmt.Errorf("key %q of namespace %q: %w", e.Key, ns.Name, err)
			}
			if err := w.put(index, e.Key, e.Value); err != nil {
				return nil, fmt.Errorf("key %q of namespace %q: %w", e.Key, ns.Name, err)
			}
		}
	}
	return w.image, nil
}

// CheckName tells why a namespace or key cannot be stored under this name.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name has %d characters, %d is the limit", len(name), MaxName)
	case strings.ContainsRune(name, 0):
		return errors.New("the name holds a zero byte")
	}
	return nil
}

func checkName(name string, used map[string]bool) error {
	if used[name] {
		return errors.New("the name is used twice")
	}
	used[name] = true
	return CheckName(name)
}

// writer fills an image from its first entry on.
type writer struct {
	image []byte
	page  int // being filled
	entry int // next free one in it
}

// nextPage closes the current page and opens another.
func (w *writer) nextPage() error {
	if (w.page+2)*PageSize >= len(w.image) {
		return ErrFull
	}
	if w.page >= 0 {
		binary.LittleEndian.PutUint32(w.image[w.page*PageSize:], pageFull)
	}
	w.page++
	w.entry = 0
	h := w.image[w.page*PageSize:][:entrySize]
	binary.LittleEndian.PutUint32(h, pageActive)
	binary.LittleEndian.PutUint32(h[4:], uint32(w.page))
	h[8] = version2
	binary.LittleEndian.PutUint32(h[28:], crc(h[4:28]))
	return nil
}

func (w *writer) room() int { return pageEntries - w.entry }

// need makes room for an item of n entries.
func (w *writer) need(n int) error {
	if w.room() >= n {
		return nil
	}
	return w.nextPage()
}

func (w *writer) put(ns uint8, key string, v Value) error {
	switch {
	case v.Type == String:
		return w.putString(ns, key, v.Data)
	case v.Type == Blob:
		return w.putBlob(ns, key, v.Data)
	case v.Type.intSize() != 0 && v.Type.intSize() == len(v.Data):
		if err := w.need(1); err != nil {
			return err
		}
		w.item(ns, v.Type, 0xFF, key, v.Data, nil)
		return nil
	}
	return fmt.Errorf("type %#02x with %d bytes cannot be stored", uint8(v.Type), len(v.Data))
}

func (w *writer) putString(ns uint8, key string, s []byte) error {
	if len(s) > MaxString {
		return fmt.Errorf("the string has %d bytes, %d is the limit", len(s), MaxString)
	}
	if strings.ContainsRune(string(s), 0) {
		return errors.New("the string holds a zero byte")
	}
	data := append(append(make([]byte, 0, len(s)+1), s...), 0)
	defer clear(data) // it may be a key
	if err := w.need(span(len(data))); err != nil {
		return err
	}
	w.item(ns, String, 0xFF, key, sized(data), data)
	return nil
}

// putBlob cuts b where pages end: each piece takes what is left of its page. The
// index follows the last piece, so a blob that was cut short has none.
func (w *writer) putBlob(ns uint8, key string, b []byte) error {
	chunks := 0
	for rest := b; chunks == 0 || len(rest) > 0; chunks++ {
		if chunks == maxChunks {
			return fmt.Errorf("the blob has more than %d pieces: %w", maxChunks, ErrFull)
		}
		if err := w.need(2); err != nil {
			return err
		}
		n := min(len(rest), (w.room()-1)*entrySize)
		w.item(ns, blobData, uint8(chunks), key, sized(rest[:n]), rest[:n])
		rest = rest[n:]
	}
	if err := w.need(1); err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	w.item(ns, Blob, 0xFF, key, append(head, uint8(chunks), 0), nil)
	return nil
}

// sized is the head of an item whose data follows in entries of its own.
func sized(data []byte) []byte {
	head := binary.LittleEndian.AppendUint16(nil, uint16(len(data)))
	return binary.LittleEndian.AppendUint32(append(head, 0xFF, 0xFF), crc(data))
}

// item writes one item at the next free entry; the caller has made room. head
// fills the entry's 8 data bytes from the left, the rest stays FF.
func (w *writer) item(ns uint8, t Type, chunk uint8, key string, head, data []byte) {
	page := w.image[w.page*PageSize:][:PageSize]
	e := page[entriesStart+w.entry*entrySize:][:entrySize]
	n := span(len(data))
	e[0], e[1], e[2], e[3] = ns, uint8(t), uint8(n), chunk
	clear(e[8:24])
	copy(e[8:24], key)
	copy(e[24:], head)
	binary.LittleEndian.PutUint32(e[4:], crc(e[:4], e[8:]))
	copy(page[entriesStart+(w.entry+1)*entrySize:], data)
	for i := w.entry; i < w.entry+n; i++ {
		page[entrySize+i/4] &^= (3 ^ stateWritten) << (2 * (i % 4)) // 3 is empty
	}
	w.entry += n
}
