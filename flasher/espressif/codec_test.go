package espressif

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"nameplate/flasher"
)

func packets(stream []byte) (out [][]byte) {
	var d deframer
	for _, b := range stream {
		if p, ok := d.push(b); ok {
			out = append(out, bytes.Clone(p))
		}
	}
	return out
}

func TestSLIP(t *testing.T) {
	for _, tt := range []struct{ packet, frame []byte }{
		{[]byte{1, 2, 3}, []byte{0xC0, 1, 2, 3, 0xC0}},
		{[]byte{0xC0}, []byte{0xC0, 0xDB, 0xDC, 0xC0}},
		{[]byte{0xDB}, []byte{0xC0, 0xDB, 0xDD, 0xC0}},
		{[]byte{0xDB, 0xDC, 0xC0, 0xDD}, []byte{0xC0, 0xDB, 0xDD, 0xDC, 0xDB, 0xDC, 0xDD, 0xC0}},
	} {
		if got := appendFrame(nil, tt.packet); !bytes.Equal(got, tt.frame) {
			t.Errorf("%x is framed as %x, want %x", tt.packet, got, tt.frame)
		}
		if got := packets(tt.frame); len(got) != 1 || !bytes.Equal(got[0], tt.packet) {
			t.Errorf("%x gives %x, want %x", tt.frame, got, tt.packet)
		}
	}
}

func TestSLIPFindsItsWayBack(t *testing.T) {
	good := []byte{0xC0, 7, 8, 9, 0xC0}
	long := append(append([]byte{0xC0}, make([]byte, maxPacket+1)...), 0xC0)
	for _, before := range [][]byte{
		{}, {0xC0}, {0xC0, 0xC0}, {0xC0, 1, 0xDB, 1, 2, 0xC0}, {0xC0, 1, 0xDB, 0xC0}, {0xDB}, long, []byte("boot:0x5 (DOWNLOAD)\r\n"),
	} {
		got := packets(append(bytes.Clone(before), good...))
		if len(got) == 0 || !bytes.Equal(got[len(got)-1], []byte{7, 8, 9}) {
			t.Errorf("after %.12x… the packet comes out as %x", before, got)
		}
	}
}

func FuzzSLIP(f *testing.F) {
	f.Add([]byte{0xC0, 1, 0xDB, 0xDC, 0xC0})
	f.Add([]byte{0xDB, 0xDB, 0xC0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range packets(b) {
			if len(p) == 0 || len(p) > maxPacket {
				t.Fatalf("a packet of %d bytes", len(p))
			}
		}
		if len(b) == 0 || len(b) > maxPacket {
			return
		}
		if got := packets(appendFrame(nil, b)); len(got) != 1 || !bytes.Equal(got[0], b) {
			t.Fatalf("%x came back as %x", b, got)
		}
	})
}

func TestParseAnswer(t *testing.T) {
	ok := []byte{1, 0x0A, 4, 0, 0x83, 0x1D, 0xF0, 0x00, 0, 0, 0, 0}
	a, is := parseAnswer(ok)
	if !is || a.command != cmdReadReg || a.value != 0x00F01D83 || a.failed || len(a.data) != 0 {
		t.Errorf("got %+v, %v", a, is)
	}
	refused := []byte{1, 0x11, 4, 0, 0, 0, 0, 0, 1, 7, 0, 0}
	if a, is := parseAnswer(refused); !is || !a.failed || a.code != codeChecksum {
		t.Errorf("got %+v, %v", a, is)
	}
	for name, p := range map[string][]byte{
		"empty":              {},
		"a request":          append([]byte{0}, ok[1:]...),
		"without status":     {1, 0x0A, 0, 0, 1, 2, 3, 4},
		"two status bytes":   {1, 0x0A, 2, 0, 1, 2, 3, 4, 0, 0},
		"cut":                ok[:11],
		"with more":          append(bytes.Clone(ok), 0),
		"a length that lies": {1, 0x0A, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if a, is := parseAnswer(p); is {
			t.Errorf("%s was taken for %+v", name, a)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte{1, 0x0A, 4, 0, 0x83, 0x1D, 0xF0, 0x00, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		if a, ok := parseAnswer(p); ok && len(a.data)+packetHeader+statusSize != len(p) {
			t.Fatalf("%x gives %+v", p, a)
		}
	})
}

func TestChecksumVector(t *testing.T) {
	if got := checksum([]byte{1, 2, 4}); got != 0xE8 { // EF ^ 01 ^ 02 ^ 04
		t.Errorf("got %#x", got)
	}
}

func TestErrorsName(t *testing.T) {
	for err, want := range map[error]string{
		&romError{cmdDeflData, 0x0B}: "the chip refused FLASH_DEFL_DATA: deflate error (0B)",
		&romError{0x77, 0x99}:        "the chip refused command 77: unknown reason (99)",
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}

func row(name string, typ, subtype byte, offset, size, flags uint32) []byte {
	r := append([]byte{0xAA, 0x50, typ, subtype}, make([]byte, 28)...)
	binary.LittleEndian.PutUint32(r[4:], offset)
	binary.LittleEndian.PutUint32(r[8:], size)
	copy(r[12:28], name)
	binary.LittleEndian.PutUint32(r[28:], flags)
	return r
}

func digest(rows []byte) []byte {
	sum := md5.Sum(rows)
	return append(append([]byte{0xEB, 0xEB}, bytes.Repeat([]byte{0xFF}, 14)...), sum[:]...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestParseTable(t *testing.T) {
	nvs := row("nvs", 1, 2, 0x9000, 0x6000, 0)
	app := row("a_name_of_16_chr", 0, 0, 0x10000, 0x100000, 1)
	want := []flasher.Partition{
		{Name: "nvs", Type: 1, Subtype: 2, Offset: 0x9000, Size: 0x6000},
		{Name: "a_name_of_16_chr", Offset: 0x10000, Size: 0x100000, Encrypted: true},
	}
	var full []byte
	for i := range 96 {
		full = append(full, row(fmt.Sprint(i), 1, 6, uint32(0x9000+i*4096), 4096, 0)...)
	}
	for _, tt := range []struct {
		name  string
		table []byte
		err   string
	}{
		{"with MD5", join(nvs, app, digest(join(nvs, app)), rowEmpty), ""},
		{"without MD5", join(nvs, app, rowEmpty), ""},
		{"nothing after the MD5", join(nvs, app, digest(join(nvs, app))), ""},
		{"erased", join(rowEmpty, rowEmpty), "the table is empty"},
		{"no bytes", nil, "the table has no end"},
		{"cut", join(nvs, app)[:60], "the table has no end"},
		{"no end", full, "the table has no end"},
		{"a bit changed", join(nvs, row("a_name_of_16_chs", 0, 0, 0x10000, 0x100000, 1), digest(join(nvs, app))), "the table's MD5 is wrong"},
		{"other bytes", join(nvs, make([]byte, 32)), "row 1 has no magic number"},
		{"no size", join(row("nvs", 1, 2, 0x9000, 0, 0), rowEmpty), `partition "nvs" has an impossible place, 0x9000+0x0`},
		{"past 4 GiB", join(row("nvs", 1, 2, 0xFFFFF000, 0x2000, 0), rowEmpty), `partition "nvs" has an impossible place, 0xfffff000+0x2000`},
		{"overlap", join(app, row("nvs", 1, 2, 0xF000, 0x2000, 0), rowEmpty), `partitions "nvs" and "a_name_of_16_chr" overlap`},
		{"one name twice", join(nvs, row("nvs", 1, 2, 0x20000, 0x6000, 0), rowEmpty), `two partitions are called "nvs"`},
		{"a name that would spoil a screen", join(row("\x1b[2J", 1, 2, 0x9000, 0x6000, 0), rowEmpty), "row 0 has an unprintable name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseTable(tt.table)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func FuzzParseTable(f *testing.F) {
	nvs := row("nvs", 1, 2, 0x9000, 0x6000, 0)
	f.Add(join(nvs, digest(nvs)))
	f.Add(join(nvs, rowEmpty))
	f.Add(join(rowEmpty, rowEmpty))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := parseTable(b)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p.Size == 0 || uint64(p.Offset)+uint64(p.Size) > maxFlash {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// The table of chips agrees with itself: no word and no id names two chips.
func TestChipsAreTold(t *testing.T) {
	words, ids := map[uint32]string{}, map[uint32]string{}
	for _, c := range chips {
		for _, w := range c.magics {
			if other := words[w]; other != "" {
				t.Errorf("%s and %s have the word %08x", other, c.name, w)
			}
			words[w] = c.name
			if got, ok := chipByMagic(w); !ok || got.name != c.name {
				t.Errorf("%08x finds %q", w, got.name)
			}
		}
		if c.infoSize == infoWithID {
			if other := ids[c.id]; other != "" {
				t.Errorf("%s and %s have the id %d", other, c.name, c.id)
			}
			ids[c.id] = c.name
		}
	}
}

// Each refusal has a code of its own in kebab case, a sentence and a next step.
func TestRefusalsSpeak(t *testing.T) {
	cause := errors.New("cause")
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
	codes := map[string]bool{}
	for _, r := range []*flasher.Refusal{
		boardSilent(cause), commandRefused(cause), noLines(cause), chipUnknown(cause), chipUnexpected("A", "B"),
		boardLocked("A"), boardEncrypted(), macInvalid("m"), boardSwapped("m", "n"), readDiffers("hardware ID"), tableUnreadable(cause),
		partitionMissing("p"), partitionTooSmall("p", 1), partitionTooLarge("p", 1), partitionEncrypted("p"),
		misfit(cause), verifyFailed(cause),
	} {
		if !kebab.MatchString(r.Code) || codes[r.Code] {
			t.Errorf("code %q", r.Code)
		}
		codes[r.Code] = true
		for _, s := range []string{r.Sentence, r.Next} {
			if !strings.HasSuffix(s, ".") || strings.ToUpper(s[:1]) != s[:1] {
				t.Errorf("%s: %q is no sentence", r.Code, s)
			}
		}
	}
	src, err := os.ReadFile("refuse.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(src, []byte("Code: ")); n != len(codes) {
		t.Errorf("%d refusals are written, %d were looked at", n, len(codes))
	}
}
