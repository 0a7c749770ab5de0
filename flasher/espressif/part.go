package espressif

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"nameplate/flasher"
)

// The partition table (ESP-IDF API Guides, "Partition Tables"; gen_esp32part):
// rows of 32 bytes, then a row with the MD5 of those before it, then FF.
const (
	tableOffset = 0x8000
	tableSize   = 0xC00
	rowSize     = 32

	typeData      = 0x01
	subtypeNVS    = 0x02
	flagEncrypted = 1 << 0
	maxFlash      = 1 << 27 // the largest size that an image header can name
	labelSize     = 16
	sectorSize    = 4096
	rowFlagsAt    = 28
	rowLabelAt    = 12
	rowMD5At      = 16
)

var (
	rowMagic = []byte{0xAA, 0x50}
	md5Magic = []byte{0xEB, 0xEB}
	rowEmpty = bytes.Repeat([]byte{0xFF}, rowSize)
)

// endsTable tells whether a row is the last one that means anything.
func endsTable(row []byte) bool {
	return bytes.Equal(row, rowEmpty) || bytes.HasPrefix(row, md5Magic)
}

// parseTable reads a partition table. b may end after the row that ends the
// table. A table without MD5 is legal (CONFIG_PARTITION_TABLE_MD5=n); one with a
// wrong MD5, overlapping or twice named partitions is refused.
func parseTable(b []byte) ([]flasher.Partition, error) {
	var parts []flasher.Partition
	for at := 0; ; at += rowSize {
		if at+rowSize > min(len(b), tableSize) {
			return nil, errors.New("the table has no end")
		}
		row := b[at : at+rowSize]
		if endsTable(row) {
			sum := md5.Sum(b[:at])
			if bytes.HasPrefix(row, md5Magic) && !bytes.Equal(row[rowMD5At:], sum[:]) {
				return nil, errors.New("the table's MD5 is wrong")
			}
			break
		}
		if !bytes.HasPrefix(row, rowMagic) {
			return nil, fmt.Errorf("row %d has no magic number", at/rowSize)
		}
		label, _, _ := bytes.Cut(row[rowLabelAt:rowLabelAt+labelSize], []byte{0})
		if bytes.ContainsFunc(label, func(c rune) bool { return c < ' ' || c > '~' }) {
			return nil, fmt.Errorf("row %d has an unprintable name", at/rowSize)
		}
		p := flasher.Partition{
			Name:      string(label),
			Type:      row[2],
			Subtype:   row[3],
			Offset:    binary.LittleEndian.Uint32(row[4:]),
			Size:      binary.LittleEndian.Uint32(row[8:]),
			Encrypted: binary.LittleEndian.Uint32(row[rowFlagsAt:])&flagEncrypted != 0,
		}
		if uint64(p.Offset)+uint64(p.Size) > maxFlash || p.Size == 0 {
			return nil, fmt.Errorf("partition %q has an impossible place, %#x+%#x", p.Name, p.Offset, p.Size)
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, errors.New("the table is empty")
	}
	return parts, checkLayout(parts)
}

func checkLayout(parts []flasher.Partition) error {
	names := map[string]bool{}
	for _, p := range parts {
		if names[p.Name] {
			return fmt.Errorf("two partitions are called %q", p.Name)
		}
		names[p.Name] = true
	}
	ordered := slices.SortedFunc(slices.Values(parts), func(a, b flasher.Partition) int { return int(a.Offset) - int(b.Offset) })
	for i := 1; i < len(ordered); i++ {
		if before := ordered[i-1]; before.Offset+before.Size > ordered[i].Offset {
			return fmt.Errorf("partitions %q and %q overlap", before.Name, ordered[i].Name)
		}
	}
	return nil
}

// end returns the first offset after all partitions.
func end(parts []flasher.Partition) uint32 {
	var e uint32
	for _, p := range parts {
		e = max(e, p.Offset+p.Size)
	}
	return e
}

// readTable reads the table and checks it. Its own MD5 tells a right reading of
// a good table; any other is made again, before a board is refused for a wrong
// bit or written at a wrong place.
func (r *rom) readTable(ctx context.Context) ([]flasher.Partition, error) {
	table, err := r.tableRows(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading partition table: %w", err)
	}
	parts, err := parseTable([]byte(table))
	if err == nil && hasMD5([]byte(table)) {
		return parts, nil
	}
	if table, err = agreed(ctx, "partition table", r.tableRows, table); err != nil {
		return nil, fmt.Errorf("reading partition table: %w", err)
	}
	if parts, err = parseTable([]byte(table)); err != nil {
		return nil, tableUnreadable(err)
	}
	return parts, nil
}

// tableRows reads as much of the table as is used.
func (r *rom) tableRows(ctx context.Context) (string, error) {
	var table []byte
	for len(table) < tableSize {
		piece := make([]byte, readSize)
		if err := r.readFlash(ctx, uint32(tableOffset+len(table)), piece); err != nil {
			return "", err
		}
		table = append(table, piece...)
		if slices.ContainsFunc(slices.Collect(slices.Chunk(piece, rowSize)), endsTable) {
			break
		}
	}
	return string(table), nil
}

// hasMD5 tells whether the row that ends the table holds its MD5.
func hasMD5(table []byte) bool {
	for row := range slices.Chunk(table, rowSize) {
		if endsTable(row) {
			return bytes.HasPrefix(row, md5Magic)
		}
	}
	return false
}

// flashSize reads what size of flash the firmware was built for, from the
// header of the image that is booted first (byte 3, high nibble: 1 MB << n). The
// flash chip's own answer (RDID) needs the SPI controller's registers, which
// differ by chip, and could only be larger than what the firmware uses. 0: there
// is no such image.
func (r *rom) flashSize(ctx context.Context, c chip) (uint32, error) {
	header := make([]byte, readSize)
	if err := r.readFlash(ctx, c.bootloader, header); err != nil {
		return 0, fmt.Errorf("reading the image header: %w", err)
	}
	const imageMagic, largest = 0xE9, 7
	if nibble := header[3] >> 4; header[0] == imageMagic && nibble <= largest {
		return 1 << 20 << nibble, nil
	}
	return 0, nil
}
