// Package nvs writes and reads the partition format of ESP-IDF's non-volatile
// storage library, version 2 (ESP-IDF API Reference, "Non-Volatile Storage
// Library", Internals; format as of esp-idf-nvs-partition-gen). An image is made
// whole, in memory, for a partition that is written in one go; the reader takes
// the bytes of any device, whatever they are.
package nvs

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	// PageSize is the unit of the format and of the flash's erase.
	PageSize = 4096
	// MinPages is the smallest partition: the library needs one empty page to
	// move data to, and a partition of two has been refused since version 2.
	MinPages = 3
	// MaxName is the longest namespace or key, in bytes: 16 with the closing zero.
	MaxName = 15
	// MaxString is the longest string, in bytes, without its closing zero: a
	// string never crosses a page.
	MaxString = 4000 - 1

	entrySize     = 32
	pageEntries   = 126
	entriesStart  = 64 // after the header and the entry states
	maxNamespaces = 254
	maxChunks     = 128 // numbers 00-7F; 80-FF is the other range of a rewritten blob

	version2 = 0xFE

	pageActive  = 0xFFFFFFFE
	pageFull    = 0xFFFFFFFC
	pageFreeing = 0xFFFFFFF8

	stateWritten = 2
)

// Type is how a value is stored; the numbers are the format's own.
type Type uint8

const (
	U8     Type = 0x01
	I8     Type = 0x11
	U16    Type = 0x02
	I16    Type = 0x12
	U32    Type = 0x04
	I32    Type = 0x14
	U64    Type = 0x08
	I64    Type = 0x18
	String Type = 0x21
	Blob   Type = 0x48

	blobData Type = 0x42 // one piece of a Blob
)

// intSize gives the bytes of an integer type, 0 for the others.
func (t Type) intSize() int {
	switch t {
	case U8, I8, U16, I16, U32, I32, U64, I64:
		return int(t & 0x0F)
	}
	return 0
}

// Value is one stored value. Data is the text of a String without its closing
// zero, the bytes of a Blob, or an integer, little-endian, in the width of its type.
type Value struct {
	Type Type
	Data []byte
}

// Text is a value for nvs_get_str.
func Text(s string) Value { return Value{String, []byte(s)} }

// Bytes is a value for nvs_get_blob: exactly b. No closing zero is added, so a
// firmware that hands PEM to a parser wanting one must add it itself.
func Bytes(b []byte) Value { return Value{Blob, b} }

// Integer is a value for nvs_get_u8 … nvs_get_i64, by the type of v.
func Integer[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64](v T) Value {
	data, _ := binary.Append(nil, binary.LittleEndian, v) // cannot fail: fixed size
	t := Type(len(data))
	if minusOne := T(0) - 1; minusOne < 0 {
		t |= 0x10
	}
	return Value{t, data}
}

// Entry is a value under its key.
type Entry struct {
	Key   string
	Value Value
}

// Namespace is a name and what it holds.
type Namespace struct {
	Name    string
	Entries []Entry
}

// crc is the format's CRC-32 everywhere: IEEE polynomial, but the register
// starts at 0. crc32.ChecksumIEEE starts at all ones and never matches.
func crc(parts ...[]byte) uint32 {
	sum := uint32(0xFFFFFFFF)
	for _, p := range parts {
		sum = crc32.Update(sum, crc32.IEEETable, p)
	}
	return sum
}

// span is how many entries an item with n bytes of data of its own takes.
func span(n int) int { return 1 + (n+entrySize-1)/entrySize }
