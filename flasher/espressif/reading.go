package espressif

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"slices"

	"nameplate/flasher"
)

// readTries: of three readings two must agree.
const readTries = 3

// agreed reads until the same came twice, what was read before among it. The
// ROM's answers carry no checksum: what decides about a board, and cannot be
// checked by itself, counts only so.
func agreed[T comparable](ctx context.Context, what string, read func(context.Context) (T, error), before ...T) (T, error) {
	for len(before) < readTries {
		is, err := read(ctx)
		if err != nil || slices.Contains(before, is) {
			return is, err
		}
		before = append(before, is)
	}
	var none T
	return none, readDiffers(what)
}

// hardwareID is what a reading is called when two differ.
const hardwareID = "hardware ID"

// reading is all that says who a board is and whether it may be written, as the
// ROM said it.
type reading struct {
	word     uint32 // at magicRegister
	readable bool   // registers can be read
	info     string // the answer to GET_SECURITY_INFO; empty if the ROM refused it
	// What follows is read of a chip that is known and not locked.
	mac, uid, fuses string // words as they come; fuses: words 0 and 6 of an ESP32
}

// read takes a reading.
func (r *rom) read(ctx context.Context) (reading, error) {
	var (
		is      reading
		refused *romError
		err     error
	)
	// The word is asked first, so that an ESP32 never sees a command that it does
	// not know.
	is.word, err = r.readReg(ctx, magicRegister)
	is.readable = err == nil
	if err != nil && !errors.As(err, &refused) {
		return is, fmt.Errorf("identifying chip: %w", err)
	}
	if c, ok := chipByMagic(is.word); !is.readable || !ok || c.infoSize > 0 {
		info, err := r.securityInfo(ctx)
		if err != nil && !errors.As(err, &refused) {
			return is, fmt.Errorf("identifying chip: %w", err)
		}
		is.info = string(info)
	}
	c, err := is.identify()
	if err != nil {
		return is, nil // the reading as it is gives the same error to who asks it
	}
	if is.mac, err = r.readRegs(ctx, c.mac, c.mac+4); err != nil {
		return is, fmt.Errorf("reading hardware IDs: %w", err)
	}
	if c.uid != 0 {
		if is.uid, err = r.readRegs(ctx, c.uid, c.uid+4, c.uid+8, c.uid+12); err != nil {
			return is, fmt.Errorf("reading hardware IDs: %w", err)
		}
	}
	if c.infoSize == 0 {
		if is.fuses, err = r.readRegs(ctx, esp32EfuseWord0, esp32EfuseWord6); err != nil {
			return is, fmt.Errorf("reading security state: %w", err)
		}
	}
	return is, nil
}

// readRegs returns the registers as they lie in memory.
func (r *rom) readRegs(ctx context.Context, addresses ...uint32) (string, error) {
	var b []byte
	for _, at := range addresses {
		w, err := r.readReg(ctx, at)
		if err != nil {
			return "", err
		}
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return string(b), nil
}

// identify finds out which chip answered. A chip that gives an id and has a
// known magic word must agree with itself; a locked one gives its id alone.
func (is reading) identify() (chip, error) {
	info := []byte(is.info)
	found, known := chipByMagic(is.word)
	known = known && is.readable
	if known && found.infoSize == 0 {
		return found, nil
	}
	if len(info) >= infoWithID {
		id := binary.LittleEndian.Uint32(info[12:])
		byID, ok := chipByID(id)
		if !ok || known && byID.name != found.name {
			return chip{}, chipUnknown(fmt.Errorf("chip id %d, magic word %08x", id, is.word))
		}
		found, known = byID, true
	}
	if len(info) >= infoPlain && binary.LittleEndian.Uint32(info)&flagSecureDownload != 0 {
		if found.name == "" {
			found.name = "chip"
		}
		return chip{}, boardLocked(found.name)
	}
	if !known || !is.readable || len(info) < found.infoSize {
		return chip{}, chipUnknown(fmt.Errorf("magic word %08x, %d bytes of security information", is.word, len(info)))
	}
	return found, nil
}

// judge returns the chip, or why such a board is refused.
func (is reading) judge(expected string) (chip, error) {
	c, err := is.identify()
	switch {
	case err != nil:
		return c, err
	case c.name != expected:
		return c, chipUnexpected(c.name, expected)
	case blank(is.macAddress()):
		return c, macInvalid(is.macAddress().String())
	case is.security().FlashEncryption:
		return c, boardEncrypted()
	}
	return c, nil
}

// Bits of the flags word of GET_SECURITY_INFO.
const (
	flagSecureBoot     = 1 << 0
	flagSecureDownload = 1 << 2
)

// security is the lock state. Raw is the chip's answer to GET_SECURITY_INFO, or
// the two eFuse words of an ESP32.
func (is reading) security() flasher.Security {
	if is.fuses == "" {
		info := []byte(is.info)
		return flasher.Security{
			SecureBoot:      binary.LittleEndian.Uint32(info)&flagSecureBoot != 0,
			FlashEncryption: odd(info[4]),
			Raw:             hex.EncodeToString(info),
		}
	}
	word0, word6 := binary.LittleEndian.Uint32([]byte(is.fuses)), binary.LittleEndian.Uint32([]byte(is.fuses[4:]))
	return flasher.Security{
		SecureBoot:      word6&(1<<4|1<<5) != 0,
		FlashEncryption: odd(byte(word0 >> 20 & 0x7F)),
		Raw:             fmt.Sprintf("%08x%08x", word0, word6),
	}
}

// odd: encryption is on when an odd number of the counter's bits is blown.
func odd(count byte) bool { return bits.OnesCount8(count)%2 == 1 }

// hardwareIDs is empty if the reading ended before them.
func (is reading) hardwareIDs() []flasher.HardwareID {
	if is.mac == "" {
		return nil
	}
	ids := []flasher.HardwareID{{Kind: "mac", Value: is.macAddress().String()}}
	if uid := []byte(is.uid); !blank(uid) { // "optional": some chips were made without
		ids = append(ids, flasher.HardwareID{Kind: "chip-uid", Value: hex.EncodeToString(uid)})
	}
	return ids
}

// name is how a person tells the board from another: the first ID that the
// other has not.
func (is reading) name(other reading) string {
	ids, others := is.hardwareIDs(), other.hardwareIDs()
	if len(ids) == 0 {
		return "one without an ID"
	}
	for _, id := range ids {
		if !slices.Contains(others, id) {
			return id.Value
		}
	}
	return ids[0].Value
}

// macAddress is the low half of the second word, then the first.
func (is reading) macAddress() net.HardwareAddr {
	low, high := binary.LittleEndian.Uint32([]byte(is.mac)), binary.LittleEndian.Uint32([]byte(is.mac[4:]))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, uint16(high)), low)
}

// blank: all zero or all ones, so nothing was ever written there.
func blank(b []byte) bool {
	return len(bytes.Trim(b, "\x00")) == 0 || len(bytes.Trim(b, "\xFF")) == 0
}
