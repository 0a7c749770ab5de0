package espressif

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"slices"

	"nameplate/flasher"
)

// writePasses: a second pass mends what noise did to the first; a flash that
// still differs is bad.
const writePasses = 2

var errMismatch = errors.New("the chip's MD5 of its flash differs from what was sent")

// Write implements flasher.Device. The ROM erases the whole partition before the
// first byte, so a write that ends early leaves a storage without some or all
// items, never one that looks complete.
func (d *device) Write(ctx context.Context, p flasher.Plan, on func(flasher.Progress)) error {
	if on == nil {
		on = func(flasher.Progress) {}
	}
	for _, s := range p.Segments {
		if s.Target != d.part.Name || s.Offset != d.part.Offset || len(s.Data) != int(d.part.Size) {
			return fmt.Errorf("writing %q: the plan was made for another board", s.Target)
		}
	}
	for _, s := range p.Segments {
		if err := d.writeSegment(ctx, s, on); err != nil {
			return explain(fmt.Errorf("writing %q: %w", s.Target, err))
		}
	}
	return nil
}

func (d *device) writeSegment(ctx context.Context, s flasher.Segment, on func(flasher.Progress)) error {
	packed, err := deflate(s.Data)
	if err != nil {
		return err
	}
	defer packed.Wipe()
	for pass := 1; ; pass++ {
		err := d.writeOnce(ctx, s, packed, on)
		again := errors.Is(err, errMismatch) || retryable(err)
		if err == nil || !again {
			return err
		}
		if pass == writePasses {
			if errors.Is(err, errMismatch) {
				return verifyFailed(err)
			}
			return err
		}
	}
}

// writeOnce sends the segment and lets the chip check it.
func (d *device) writeOnce(ctx context.Context, s flasher.Segment, packed []byte, on func(flasher.Progress)) error {
	if err := d.sameBoard(ctx); err != nil {
		return err
	}
	size := uint32(len(s.Data))
	blocks := slices.Collect(slices.Chunk(packed, blockSize))

	on(flasher.Progress{Step: "erase", Total: int64(size)})
	if err := d.rom.deflBegin(ctx, size, s.Offset, len(blocks), d.chip.encryptWord); err != nil {
		return err
	}
	on(flasher.Progress{Step: "erase", Done: int64(size), Total: int64(size)})
	done := 0
	for i, block := range blocks {
		if err := d.rom.deflData(ctx, i, block, size); err != nil {
			return err
		}
		done += len(block)
		on(flasher.Progress{Step: "write", Done: int64(done), Total: int64(len(packed))})
	}
	// No FLASH_DEFL_END: it would leave the loader, and the ROM needs none.
	on(flasher.Progress{Step: "check", Total: int64(size)})
	right, err := d.rom.holds(ctx, s.Offset, s.Data)
	if err != nil {
		return err
	}
	if !right {
		return errMismatch
	}
	on(flasher.Progress{Step: "check", Done: int64(size), Total: int64(size)})
	return nil
}

// deflate packs the image: most of it is FF, so a sixth of the bytes goes over
// the wire, and every ROM from the ESP32 on unpacks.
func deflate(data []byte) (flasher.Secret, error) {
	// Room for all of it from the start, so that no copy of a key stays behind
	// in a buffer that was outgrown.
	out := bytes.NewBuffer(make([]byte, 0, len(data)+len(data)/8+64))
	z, err := zlib.NewWriterLevel(out, zlib.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("packing the image: %w", err)
	}
	if _, err := z.Write(data); err != nil {
		return nil, fmt.Errorf("packing the image: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("packing the image: %w", err)
	}
	return out.Bytes(), nil
}
