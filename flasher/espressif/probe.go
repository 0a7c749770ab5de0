package espressif

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/encode/nvs"
	"nameplate/flasher/link"
)

// baudSettle is what the chip needs to switch its UART.
const baudSettle = 50 * time.Millisecond

// anyFlash is the size told to the ROM until the real one is known. The ROM uses
// it as a bound only, and what is read until then lies in the first 40 KiB.
const anyFlash = 16 << 20

// largestStore bounds the memory and the time that a board's own table can cost
// the station. ESP-IDF advises against NVS partitions over 128 KiB.
const largestStore = 1 << 20

// probe takes the board from whatever it is doing to a device that is known and
// ready to be written.
func (d *device) probe(ctx context.Context) error {
	if err := d.meet(ctx); err != nil {
		return err
	}
	if d.options.Baud > 0 && d.options.Baud != firstBaud {
		err := d.changeBaud(ctx)
		if err == nil {
			return d.survey(ctx)
		}
		if errors.Is(err, link.ErrGone) || ctx.Err() != nil {
			return err
		}
		// This adapter, cable or board does not carry the speed. Only a
		// reset brings the chip back to where it can be heard.
		if err := d.rom.link.SetBaud(ctx, firstBaud); err != nil {
			return fmt.Errorf("going back to %d baud: %w", firstBaud, err)
		}
		if err := d.meet(ctx); err != nil {
			return err
		}
	}
	if err := d.survey(ctx); err != nil {
		return err
	}
	is, err := agreed(ctx, hardwareID, d.rom.read, d.is)
	if err != nil {
		return err
	}
	return d.take(is)
}

// meet resets the board into its loader and learns who it is. A board that looks
// as if it must be refused is looked at again at once; one that looks good a
// moment later, by changeBaud or by probe.
func (d *device) meet(ctx context.Context) error {
	if err := d.rom.enterDownload(ctx); err != nil {
		if errors.Is(err, link.ErrNoLines) {
			return noLines(err)
		}
		return fmt.Errorf("entering download mode: %w", err)
	}
	is, err := d.rom.read(ctx)
	if err != nil {
		return err
	}
	if d.take(is) == nil {
		return nil
	}
	if is, err = agreed(ctx, hardwareID, d.rom.read, is); err != nil {
		return err
	}
	return d.take(is)
}

// take makes a reading what is known of the board, or refuses it.
func (d *device) take(is reading) error {
	c, err := is.judge(d.options.Chip)
	if err != nil {
		return err
	}
	d.is, d.chip = is, c
	d.facts.Family, d.facts.Chip = (*Driver)(nil).Family(), c.name
	d.facts.HardwareIDs, d.facts.Security = is.hardwareIDs(), is.security()
	return nil
}

// changeBaud raises the speed and makes sure that the chip is still heard.
func (d *device) changeBaud(ctx context.Context) error {
	if err := d.rom.changeBaud(ctx, d.options.Baud); err != nil {
		return err
	}
	if err := d.rom.link.SetBaud(ctx, d.options.Baud); err != nil {
		return fmt.Errorf("setting the port to %d baud: %w", d.options.Baud, err)
	}
	if err := pause(ctx, baudSettle); err != nil {
		return err
	}
	if err := d.rom.link.Discard(ctx); err != nil {
		return err
	}
	return d.sameBoard(ctx)
}

// survey connects the flash, reads the partition table and looks at the place
// for the identity.
func (d *device) survey(ctx context.Context) error {
	if err := d.rom.spiAttach(ctx); err != nil {
		return err
	}
	if err := d.rom.spiSetParams(ctx, anyFlash); err != nil {
		return err
	}
	parts, err := d.rom.readTable(ctx)
	if err != nil {
		return err
	}
	size, err := agreed(ctx, "image header", func(ctx context.Context) (uint32, error) { return d.rom.flashSize(ctx, d.chip) })
	if err != nil {
		return err
	}
	if size == 0 {
		size = end(parts) // no image to ask: at least this much, or nothing would work
	}
	if end(parts) > size {
		return tableUnreadable(fmt.Errorf("the partitions end at %#x, the flash at %#x", end(parts), size))
	}
	d.facts.FlashSize, d.facts.Partitions = size, parts
	if err := d.rom.spiSetParams(ctx, size); err != nil {
		return err
	}
	if d.part, err = identityPartition(parts, d.options.Store.Partition); err != nil {
		return err
	}
	d.facts.StoreBlank, err = d.rom.holds(ctx, d.part.Offset, bytes.Repeat([]byte{0xFF}, int(d.part.Size)))
	return err
}

func identityPartition(parts []flasher.Partition, name string) (flasher.Partition, error) {
	for _, p := range parts {
		switch {
		case p.Name != name || p.Type != typeData || p.Subtype != subtypeNVS:
		case p.Encrypted:
			return p, partitionEncrypted(name)
		case p.Offset%sectorSize != 0 || p.Size%sectorSize != 0 || p.Offset < tableOffset+sectorSize:
			return p, tableUnreadable(fmt.Errorf("partition %q has an impossible place, %#x+%#x", name, p.Offset, p.Size))
		case p.Size < nvs.MinPages*nvs.PageSize:
			return p, partitionTooSmall(name, p.Size)
		case p.Size > largestStore:
			return p, partitionTooLarge(name, p.Size)
		default:
			return p, nil
		}
	}
	return flasher.Partition{}, partitionMissing(name)
}

// sameBoard makes sure that the board which was identified still answers.
func (d *device) sameBoard(ctx context.Context) error {
	is, err := agreed(ctx, hardwareID, d.rom.read, d.is)
	if err != nil {
		return fmt.Errorf("checking that the board is still the same: %w", err)
	}
	if is != d.is {
		return boardSwapped(d.is.name(is), is.name(d.is))
	}
	return nil
}
