package nvs_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"nameplate/flasher/encode/nvs"
	"pgregory.net/rapid"
)

func mustEncode(t testing.TB, pages int, spaces ...nvs.Namespace) []byte {
	t.Helper()
	image, err := nvs.Encode(pages, spaces...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// entry returns entry i of a page.
func entry(image []byte, page, i int) []byte {
	return image[page*nvs.PageSize+64+32*i:][:32]
}

// The vectors come from images made by Espressif's own generator.
func TestEncodeMatchesVendorVectors(t *testing.T) {
	image := mustEncode(t, 6, nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "a", Value: nvs.Integer(uint8(1))},
		{Key: "b", Value: nvs.Integer(uint8(2))},
		{Key: "big", Value: nvs.Bytes(bytes.Repeat([]byte{0x5A}, 9000))},
	}})

	if got, want := hex.EncodeToString(image[28:32]), "842dbab9"; got != want {
		t.Errorf("CRC of the first page's header is %s, want %s", got, want)
	}
	want := append([]byte{0x00, 0x01, 0x01, 0xFF, 0x92, 0x93, 0x4C, 0x70}, "ident\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff"...)
	if got := entry(image, 0, 0); !bytes.Equal(got, want) {
		t.Errorf("namespace entry is\n%x, want\n%x", got, want)
	}
	// A blob of 9000 bytes that starts at entry 3 of a page.
	for _, piece := range []struct{ page, entry, number, size int }{
		{0, 3, 0, 3904}, {1, 0, 1, 4000}, {2, 0, 2, 1096},
	} {
		e := entry(image, piece.page, piece.entry)
		size := int(binary.LittleEndian.Uint16(e[24:]))
		if e[1] != 0x42 || int(e[3]) != piece.number || size != piece.size {
			t.Errorf("piece %d: type %#x, number %d, %d bytes; want type 0x42 and %d bytes", piece.number, e[1], e[3], size, piece.size)
		}
	}
	index := entry(image, 2, 1+(1096+31)/32)
	if index[1] != 0x48 || binary.LittleEndian.Uint32(index[24:]) != 9000 || index[28] != 3 || index[29] != 0 {
		t.Errorf("blob index is %x", index)
	}
	for page, state := range []uint32{0xFFFFFFFC, 0xFFFFFFFC, 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF} {
		if got := binary.LittleEndian.Uint32(image[page*nvs.PageSize:]); got != state {
			t.Errorf("state of page %d is %#x, want %#x", page, got, state)
		}
	}
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	one := func(key string, v nvs.Value) []nvs.Namespace {
		return []nvs.Namespace{{Name: "ident", Entries: []nvs.Entry{{Key: key, Value: v}}}}
	}
	tests := []struct {
		name   string
		pages  int
		spaces []nvs.Namespace
		full   bool
		want   string
	}{
		{"two pages", 2, nil, true, "a partition of 2 pages is too small, 3 are needed"},
		{"blob larger than two of three pages", 3, one("big", nvs.Bytes(make([]byte, 8000))), true, "do not fit into the partition"},
		{"key of 16", 3, one("0123456789abcdef", nvs.Text("x")), false, "the name has 16 characters, 15 is the limit"},
		{"empty key", 3, one("", nvs.Text("x")), false, "the name is empty"},
		{"namespace of 16", 3, []nvs.Namespace{{Name: "0123456789abcdef"}}, false, "the name has 16 characters"},
		{"namespace twice", 3, []nvs.Namespace{{Name: "a"}, {Name: "a"}}, false, "the name is used twice"},
		{"key twice", 3, []nvs.Namespace{{Name: "a", Entries: []nvs.Entry{{"k", nvs.Text("1")}, {"k", nvs.Text("2")}}}}, false, "the name is used twice"},
		{"string of 4000", 3, one("s", nvs.Text(strings.Repeat("s", 4000))), false, "the string has 4000 bytes, 3999 is the limit"},
		{"zero in a string", 3, one("s", nvs.Text("a\x00b")), false, "the string holds a zero byte"},
		{"unknown type", 3, one("s", nvs.Value{Type: 0x99}), false, "type 0x99 with 0 bytes cannot be stored"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := nvs.Encode(tt.pages, tt.spaces...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, nvs.ErrFull) != tt.full {
				t.Errorf("got %v, want %q (full: %v)", err, tt.want, tt.full)
			}
		})
	}
}

func value(t *rapid.T) nvs.Value {
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return nvs.Integer(rapid.Uint8().Draw(t, "u8"))
	case 1:
		return nvs.Integer(rapid.Int8().Draw(t, "i8"))
	case 2:
		return nvs.Integer(rapid.Uint16().Draw(t, "u16"))
	case 3:
		return nvs.Integer(rapid.Int16().Draw(t, "i16"))
	case 4:
		return nvs.Integer(rapid.Uint32().Draw(t, "u32"))
	case 5:
		return nvs.Integer(rapid.Int32().Draw(t, "i32"))
	case 6:
		return nvs.Integer(rapid.Uint64().Draw(t, "u64"))
	case 7:
		return nvs.Integer(rapid.Int64().Draw(t, "i64"))
	case 8:
		return nvs.Text(strings.Repeat("s", rapid.IntRange(0, nvs.MaxString).Draw(t, "length")))
	}
	n := rapid.IntRange(0, 12000).Draw(t, "size")
	return nvs.Bytes(bytes.Repeat([]byte{rapid.Byte().Draw(t, "fill")}, n))
}

func TestWhatIsEncodedIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spaces := make([]nvs.Namespace, rapid.IntRange(0, 3).Draw(t, "namespaces"))
		for i := range spaces {
			spaces[i].Name = fmt.Sprintf("space-%d", i)
			for j := range rapid.IntRange(0, 40).Draw(t, "entries") {
				spaces[i].Entries = append(spaces[i].Entries, nvs.Entry{Key: fmt.Sprintf("key-%d", j), Value: value(t)})
			}
		}
		image, err := nvs.Encode(rapid.IntRange(3, 64).Draw(t, "pages"), spaces...)
		if errors.Is(err, nvs.ErrFull) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		last := image[len(image)-nvs.PageSize:]
		if !bytes.Equal(last, bytes.Repeat([]byte{0xFF}, nvs.PageSize)) {
			t.Fatal("the last page is not empty")
		}
		store, err := nvs.Parse(image)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range spaces {
			for _, e := range ns.Entries {
				got, ok := store.Lookup(ns.Name, e.Key)
				if !ok || got.Type != e.Value.Type || !bytes.Equal(got.Data, e.Value.Data) {
					t.Fatalf("%s/%s: %d bytes of type %#x were stored, %d of %#x found", ns.Name, e.Key,
						len(e.Value.Data), e.Value.Type, len(got.Data), got.Type)
				}
			}
		}
	})
}

// What InUse leaves out is not needed.
func TestPartsInUseSuffice(t *testing.T) {
	ns := nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "url", Value: nvs.Text("global.azure-devices-provisioning.net")},
		{Key: "chain", Value: nvs.Bytes(bytes.Repeat([]byte("c"), 6000))},
	}}
	image := mustEncode(t, 4, ns)
	read := bytes.Repeat([]byte{0xFF}, len(image))
	for at := 0; at < len(image); at += nvs.PageSize {
		copy(read[at:], image[at:at+nvs.InUse(image[at:at+nvs.HeadSize])])
	}
	if !bytes.Equal(read, image) {
		t.Error("an image read only where it is in use differs")
	}
	if n := nvs.InUse(image[3*nvs.PageSize:][:nvs.HeadSize]); n != 0 {
		t.Errorf("%d bytes of an empty page are in use", n)
	}
}

func TestOneChangedByteLosesOnlyItsEntry(t *testing.T) {
	chain := bytes.Repeat([]byte("c"), 5000)
	image := mustEncode(t, 4, nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "id", Value: nvs.Text("device-1")},
		{Key: "chain", Value: nvs.Bytes(chain)},
	}})
	for at := range image {
		damaged := bytes.Clone(image)
		damaged[at] ^= 0x04
		store, err := nvs.Parse(damaged)
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := store.Lookup("ident", "id"); ok && string(v.Data) != "device-1" {
			t.Fatalf("byte %d changed: id reads as %q", at, v.Data)
		}
		if v, ok := store.Lookup("ident", "chain"); ok && !bytes.Equal(v.Data, chain) {
			t.Fatalf("byte %d changed: the chain reads as other bytes", at)
		}
	}
}

// A device writes the new entry before it erases the old one, and numbers the
// pieces of a rewritten blob from 0x80.
func TestLaterEntryCounts(t *testing.T) {
	first := mustEncode(t, 3, nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "id", Value: nvs.Text("old")}, {Key: "blob", Value: nvs.Bytes([]byte("old"))},
	}})
	second := mustEncode(t, 3, nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "id", Value: nvs.Text("new")}, {Key: "blob", Value: nvs.Bytes([]byte("new"))},
	}})
	newer := second[:nvs.PageSize]
	binary.LittleEndian.PutUint32(newer[4:], 7) // the sequence number of a later page
	fix(newer[28:32], newer[4:28])
	// blob piece at entry 3, its index at entry 5 (namespace, 2 entries of string before)
	piece, index := entry(newer, 0, 3), entry(newer, 0, 5)
	piece[3], index[29] = 0x80, 0x80
	fix(piece[4:8], piece[:4], piece[8:])
	fix(index[4:8], index[:4], index[8:])

	// The newer page lies before the older one.
	image := append(append(bytes.Clone(newer), first[:nvs.PageSize]...), first[nvs.PageSize:2*nvs.PageSize]...)
	store, err := nvs.Parse(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "blob"} {
		if v, ok := store.Lookup("ident", key); !ok || string(v.Data) != "new" {
			t.Errorf("%s reads as %q", key, v.Data)
		}
	}
}

// fix puts the format's CRC of parts into at. It is written out bit by bit, so
// that it shares nothing with the code under test.
func fix(at []byte, parts ...[]byte) {
	var sum uint32
	for _, b := range bytes.Join(parts, nil) {
		sum ^= uint32(b)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0xEDB88320
			} else {
				sum >>= 1
			}
		}
	}
	binary.LittleEndian.PutUint32(at, ^sum)
}

func TestParseRefusesWhatIsNoPartition(t *testing.T) {
	for _, n := range []int{0, 1, nvs.PageSize - 1, nvs.PageSize + 1} {
		if _, err := nvs.Parse(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were taken for a partition", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	image := mustEncode(f, 3, nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "id", Value: nvs.Text("device-1")},
		{Key: "n", Value: nvs.Integer(int64(-1))},
		{Key: "chain", Value: nvs.Bytes(bytes.Repeat([]byte("c"), 5000))},
	}})
	page := image[:nvs.PageSize] // short inputs keep the fuzzer quick
	f.Add(page, uint16(0), byte(0))
	f.Add(page, uint16(98), byte(0xFF))
	f.Add([]byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, image []byte, at uint16, with byte) {
		if len(image) > 0 {
			image = bytes.Clone(image)
			image[int(at)%len(image)] = with
		}
		// Make the header right, so that fuzzing reaches the entries, and one entry too.
		if len(image) >= nvs.PageSize {
			binary.LittleEndian.PutUint32(image, 0xFFFFFFFE)
			image[8] = 0xFE
			fix(image[28:32], image[4:28])
			e := entry(image, 0, int(at)%126)
			fix(e[4:8], e[:4], e[8:])
			if n := nvs.InUse(image[:nvs.HeadSize]); n < nvs.HeadSize || n > nvs.PageSize {
				t.Fatalf("%d bytes in use", n)
			}
		}
		store, err := nvs.Parse(image)
		if err != nil {
			return
		}
		for _, key := range []string{"id", "n", "chain"} {
			if v, ok := store.Lookup("ident", key); ok && len(v.Data) > len(image) {
				t.Fatalf("%s has %d bytes out of an image of %d", key, len(v.Data), len(image))
			}
		}
	})
}

// BenchmarkEncode makes the image of an X.509 identity for a partition of 24 KiB.
func BenchmarkEncode(b *testing.B) {
	ns := nvs.Namespace{Name: "ident", Entries: []nvs.Entry{
		{Key: "url", Value: nvs.Text("global.azure-devices-provisioning.net")},
		{Key: "scope", Value: nvs.Text("0ne00112233")},
		{Key: "id", Value: nvs.Text("device-000001")},
		{Key: "cert", Value: nvs.Bytes(bytes.Repeat([]byte("c"), 1800))},
		{Key: "key", Value: nvs.Bytes(bytes.Repeat([]byte("k"), 241))},
	}}
	for b.Loop() {
		if _, err := nvs.Encode(6, ns); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}
