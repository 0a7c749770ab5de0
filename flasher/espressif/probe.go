package espressif

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net"
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
		if err != nil && (errors.Is(err, link.ErrGone) || ctx.Err() != nil) {
			return err
		}
		if err != nil {
			// This adapter, cable or board does not carry the speed. Only a
			// reset brings the chip back to where it can be heard.
			if err := d.rom.link.SetBaud(ctx, firstBaud); err != nil {
				return fmt.Errorf("going back to %d baud: %w", firstBaud, err)
			}
			if err := d.meet(ctx); err != nil {
				return err
			}
		}
	}
	return d.survey(ctx)
}

// meet resets the board into its loader and learns who it is.
func (d *device) meet(ctx context.Context) error {
	if err := d.rom.enterDownload(ctx); err != nil {
		if errors.Is(err, link.ErrNoLines) {
			return noLines(err)
		}
		return fmt.Errorf("entering download mode: %w", err)
	}
	c, info, err := d.rom.identify(ctx)
	if err != nil {
		return err
	}
	if c.name != d.options.Chip {
		return chipUnexpected(c.name, d.options.Chip)
	}
	d.chip = c
	d.facts = flasher.Facts{Family: (*Driver)(nil).Family(), Chip: c.name}
	if d.facts.Security, err = d.rom.security(ctx, c, info); err != nil {
		return fmt.Errorf("reading security state: %w", err)
	}
	if d.facts.HardwareIDs, err = d.rom.hardwareIDs(ctx, c); err != nil {
		return fmt.Errorf("reading hardware IDs: %w", err)
	}
	return nil
}

// identify finds out which chip answers. A chip that gives an id and has a known
// magic word must agree with itself; a locked one gives its id alone. The word
// is asked first, so that an ESP32 never sees a command that it does not know.
func (r *rom) identify(ctx context.Context) (chip, []byte, error) {
	word, err := r.readReg(ctx, magicRegister)
	var refused *romError
	readable := !errors.As(err, &refused)
	if readable && err != nil {
		return chip{}, nil, fmt.Errorf("identifying chip: %w", err)
	}
	byWord, known := chipByMagic(word)
	known = known && readable
	if known && byWord.infoSize == 0 {
		return byWord, nil, nil
	}

	info, err := r.securityInfo(ctx)
	if err != nil && !errors.As(err, &refused) {
		return chip{}, nil, fmt.Errorf("identifying chip: %w", err)
	}
	found := byWord
	if len(info) >= infoWithID {
		id := binary.LittleEndian.Uint32(info[12:])
		byID, ok := chipByID(id)
		if !ok || known && byID.name != byWord.name {
			return chip{}, nil, chipUnknown(fmt.Errorf("chip id %d, magic word %08x", id, word))
		}
		found, known = byID, true
	}
	if len(info) >= infoPlain && binary.LittleEndian.Uint32(info)&flagSecureDownload != 0 {
		if found.name == "" {
			found.name = "chip"
		}
		return chip{}, nil, boardLocked(found.name)
	}
	if !known || !readable || len(info) < found.infoSize {
		return chip{}, nil, chipUnknown(fmt.Errorf("magic word %08x, %d bytes of security information", word, len(info)))
	}
	return found, info, nil
}

// Bits of the flags word of GET_SECURITY_INFO.
const (
	flagSecureBoot     = 1 << 0
	flagSecureDownload = 1 << 2
)

// security reads the lock state. Raw is the chip's answer to GET_SECURITY_INFO, or the two
// eFuse words of an ESP32.
func (r *rom) security(ctx context.Context, c chip, info []byte) (flasher.Security, error) {
	if c.infoSize > 0 {
		return flasher.Security{
			SecureBoot:      binary.LittleEndian.Uint32(info)&flagSecureBoot != 0,
			FlashEncryption: odd(info[4]),
			Raw:             hex.EncodeToString(info),
		}, nil
	}
	word0, err := r.readReg(ctx, esp32EfuseWord0)
	if err != nil {
		return flasher.Security{}, err
	}
	word6, err := r.readReg(ctx, esp32EfuseWord6)
	if err != nil {
		return flasher.Security{}, err
	}
	return flasher.Security{
		SecureBoot:      word6&(1<<4|1<<5) != 0,
		FlashEncryption: odd(byte(word0 >> 20 & 0x7F)),
		Raw:             fmt.Sprintf("%08x%08x", word0, word6),
	}, nil
}

// odd: encryption is on when an odd number of the counter's bits is blown.
func odd(count byte) bool { return bits.OnesCount8(count)%2 == 1 }

func (r *rom) hardwareIDs(ctx context.Context, c chip) ([]flasher.HardwareID, error) {
	mac, err := r.mac(ctx, c)
	if err != nil {
		return nil, err
	}
	ids := []flasher.HardwareID{{Kind: "mac", Value: mac}}
	if c.uid == 0 {
		return ids, nil
	}
	var uid []byte
	for i := range uint32(4) {
		w, err := r.readReg(ctx, c.uid+4*i)
		if err != nil {
			return nil, err
		}
		uid = append(uid, words(w)...)
	}
	if !blank(uid) { // "optional": some chips were made without
		ids = append(ids, flasher.HardwareID{Kind: "chip-uid", Value: hex.EncodeToString(uid)})
	}
	return ids, nil
}

// mac reads the factory MAC: the low half of the second word, then the first.
func (r *rom) mac(ctx context.Context, c chip) (string, error) {
	low, err := r.readReg(ctx, c.mac)
	if err != nil {
		return "", err
	}
	high, err := r.readReg(ctx, c.mac+4)
	if err != nil {
		return "", err
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(high))
	b = binary.BigEndian.AppendUint32(b, low)
	mac := net.HardwareAddr(b).String()
	if blank(b) {
		return "", macInvalid(mac)
	}
	return mac, nil
}

// blank: all zero or all ones, so nothing was ever written there.
func blank(b []byte) bool {
	return len(bytes.Trim(b, "\x00")) == 0 || len(bytes.Trim(b, "\xFF")) == 0
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
	if d.facts.Security.FlashEncryption {
		return boardEncrypted()
	}
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
	size, err := d.rom.flashSize(ctx, d.chip)
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
	sum, err := d.rom.flashMD5(ctx, d.part.Offset, d.part.Size)
	if err != nil {
		return err
	}
	d.facts.StoreBlank = sum == md5.Sum(bytes.Repeat([]byte{0xFF}, int(d.part.Size)))
	return nil
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
	mac, err := d.rom.mac(ctx, d.chip)
	if err != nil {
		return fmt.Errorf("checking that the board is still the same: %w", err)
	}
	if was := d.facts.HardwareIDs[0].Value; mac != was {
		return boardSwapped(was, mac)
	}
	return nil
}
