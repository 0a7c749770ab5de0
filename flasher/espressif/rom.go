package espressif

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"nameplate/flasher/link"
)

// Limits of waiting, by the esptool documentation and its defaults.
const (
	// answerLimit bounds one try of a command that the ROM answers at once; with
	// askTries it makes the 3 s that esptool gives an ordinary command.
	answerLimit = time.Second
	askTries    = 3
	// actLimit is for a command after which the ROM works first; to it comes
	// time for the size of the work.
	actLimit = 3 * time.Second
	// syncLimit is short because a ROM that does not listen yet loses the SYNC.
	syncLimit = 100 * time.Millisecond
	// The ROM erases everything before it answers FLASH_DEFL_BEGIN. A block of a
	// deflated run can stand for the whole rest, which it programs before it answers.
	eraseLimitPerMB   = 30 * time.Second
	programLimitPerMB = 40 * time.Second
	md5LimitPerMB     = 8 * time.Second
	// After a lost answer the line must be quiet for settleQuiet before the next command,
	// so that the late answer is not taken for its; a board that never stops talking gets settleLimit.
	settleQuiet = 100 * time.Millisecond
	settleLimit = time.Second
)

const (
	readSize  = 64    // the most that READ_FLASH_SLOW returns
	blockSize = 0x400 // of the ROM's flash commands
	syncs     = 8     // answers of the ROM to one SYNC
)

// errSilent: the board did not answer within the limit.
var errSilent = errors.New("the board did not answer in time")

// errNoMD5: what came as an MD5 is not even hex.
var errNoMD5 = fmt.Errorf("the answer to %s is no MD5", cmdFlashMD5)

// rom is the conversation with a ROM loader: each command one method.
type rom struct {
	link link.Link
	in   deframer
	buf  [1024]byte
	got  []byte // part of buf that was read and not looked at
	// stale: an answer is still owed and may come late.
	stale bool
}

// newROM begins a conversation. The deframer gets room for the longest packet
// from the start, so that no copy of a key stays behind in one that was outgrown.
func newROM(l link.Link) *rom {
	return &rom{link: l, in: deframer{packet: make([]byte, 0, maxPacket)}}
}

// forget wipes what was read last; it may be a key.
func (r *rom) forget() {
	clear(r.buf[:])
	clear(r.in.packet[:cap(r.in.packet)])
	r.got = nil
}

// do sends a command and waits for its answer. Answers to other commands, late
// or repeated, are passed over; but a ROM that does not know a command at all
// repeats its last answer with "bad message" in it.
func (r *rom) do(ctx context.Context, limit time.Duration, c command, data []byte, sum uint32) (answer, error) {
	if r.stale {
		if err := r.settle(ctx, settleQuiet, settleLimit); err != nil {
			return answer{}, err
		}
		r.stale = false
	}
	r.in, r.got = deframer{packet: r.in.packet[:0]}, nil

	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSilent)
	defer cancel()
	request := appendRequest(nil, c, data, sum)
	frame := appendFrame(nil, request)
	defer clear(request) // they may hold keys
	defer clear(frame)
	if err := r.link.Write(ctx, frame); err != nil {
		r.stale = true
		return answer{}, fmt.Errorf("sending %s: %w", c, cause(ctx, err))
	}
	for {
		a, err := r.next(ctx)
		switch {
		case err != nil:
			r.stale = true
			return answer{}, fmt.Errorf("waiting for the answer to %s: %w", c, err)
		case a.failed && (a.command == c || a.code == codeBadMessage):
			r.stale = true // a refusal may come more than once
			return answer{}, &romError{c, a.code}
		case a.command != c || a.failed:
		default:
			return a, nil
		}
	}
}

// ask is do for a command that can be sent again when it or its answer was lost
// or damaged on the way.
func (r *rom) ask(ctx context.Context, limit time.Duration, c command, data []byte, sum uint32) (answer, error) {
	for try := 1; ; try++ {
		a, err := r.do(ctx, limit, c, data, sum)
		if try > 1 {
			r.stale = true // the earlier try may still be answered
		}
		if err == nil || try == askTries || !lostOnTheWay(err) {
			return a, err
		}
	}
}

func lostOnTheWay(err error) bool {
	var refused *romError
	if errors.As(err, &refused) {
		return refused.code == codeBadMessage || refused.code == codeChecksum
	}
	return errors.Is(err, errSilent)
}

// next returns the next well-formed answer.
func (r *rom) next(ctx context.Context) (answer, error) {
	for {
		for i, b := range r.got {
			if packet, ok := r.in.push(b); ok {
				if a, ok := parseAnswer(packet); ok {
					r.got = r.got[i+1:]
					return a, nil
				}
			}
		}
		n, err := r.link.Read(ctx, r.buf[:])
		if err != nil {
			return answer{}, cause(ctx, err)
		}
		r.got = r.buf[:n]
	}
}

// settle drops what arrives until the line is quiet, or for limit.
func (r *rom) settle(ctx context.Context, quiet, limit time.Duration) error {
	r.got = nil
	whole, cancel := context.WithTimeoutCause(ctx, limit, errSilent)
	defer cancel()
	for {
		one, cancel := context.WithTimeoutCause(whole, quiet, errSilent)
		_, err := r.link.Read(one, r.buf[:])
		err = cause(one, err)
		cancel()
		if errors.Is(err, errSilent) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("draining the line: %w", err)
		}
	}
}

// cause puts the reason why ctx ended in place of the bare context error of a link.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// sync makes the ROM measure the speed. It answers several times; the rest of
// the answers is read here, as far as it comes.
func (r *rom) sync(ctx context.Context) error {
	data := make([]byte, 36)
	copy(data, []byte{0x07, 0x07, 0x12, 0x20})
	for i := 4; i < len(data); i++ {
		data[i] = 0x55
	}
	if _, err := r.do(ctx, syncLimit, cmdSync, data, 0); err != nil {
		r.stale = false // the next try is another SYNC, whose answers are all alike
		return err
	}
	rest, cancel := context.WithTimeoutCause(ctx, syncLimit, errSilent)
	defer cancel()
	for range syncs - 1 {
		if _, err := r.next(rest); err != nil {
			if errors.Is(err, errSilent) {
				return nil
			}
			return err
		}
	}
	return nil
}

func (r *rom) readReg(ctx context.Context, address uint32) (uint32, error) {
	a, err := r.ask(ctx, answerLimit, cmdReadReg, words(address), 0)
	return a.value, err
}

func (r *rom) securityInfo(ctx context.Context) ([]byte, error) {
	a, err := r.ask(ctx, answerLimit, cmdSecurityInfo, nil, 0)
	return append([]byte(nil), a.data...), err
}

// spiAttach connects the flash on the pins that the eFuses name. ROMs of ESP32
// and later want a second word.
func (r *rom) spiAttach(ctx context.Context) error {
	_, err := r.ask(ctx, answerLimit, cmdSPIAttach, words(0, 0), 0)
	return err
}

// spiSetParams tells the ROM the flash's geometry: id, size, block, sector, page,
// status mask.
func (r *rom) spiSetParams(ctx context.Context, size uint32) error {
	_, err := r.ask(ctx, answerLimit, cmdSPISetParams, words(0, size, 65536, 4096, 256, 0xFFFF), 0)
	return err
}

// readFlash fills p from the flash at offset, whatever its length.
func (r *rom) readFlash(ctx context.Context, offset uint32, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), readSize)
		a, err := r.ask(ctx, answerLimit, cmdReadFlash, words(offset, uint32(n)), 0)
		if err != nil {
			return err
		}
		if len(a.data) < n {
			return fmt.Errorf("reading flash at %#x: %d bytes came, %d were asked for", offset, len(a.data), n)
		}
		copy(p, a.data[:n])
		p = p[n:]
		offset += uint32(n)
	}
	return nil
}

// changeBaud is answered at the old speed; the chip switches after it.
func (r *rom) changeBaud(ctx context.Context, baud int) error {
	_, err := r.do(ctx, actLimit, cmdChangeBaud, words(uint32(baud), 0), 0) // second word: the old rate, for stubs only
	return err
}

// deflBegin erases size bytes at offset and announces a zlib stream of so many
// blocks. The ROM takes the size of the unpacked data, in whole blocks.
func (r *rom) deflBegin(ctx context.Context, size, offset uint32, blocks int, encryptWord bool) error {
	data := words((size+blockSize-1)/blockSize*blockSize, uint32(blocks), blockSize, offset)
	if encryptWord {
		data = append(data, words(0)...)
	}
	_, err := r.ask(ctx, actLimit+perMB(eraseLimitPerMB, size), cmdDeflBegin, data, 0)
	return err
}

// deflData sends one block of the stream; size is what the whole stream unpacks
// to. Whether the ROM takes a block twice whose answer was lost only flashMD5 can tell.
func (r *rom) deflData(ctx context.Context, sequence int, block []byte, size uint32) error {
	data := append(words(uint32(len(block)), uint32(sequence), 0, 0), block...)
	defer clear(data)
	_, err := r.ask(ctx, actLimit+perMB(programLimitPerMB, size), cmdDeflData, data, checksum(block))
	return err
}

// flashMD5 lets the chip compute an MD5 over its flash. The ROM sends it as text.
func (r *rom) flashMD5(ctx context.Context, offset, size uint32) ([16]byte, error) {
	var sum [16]byte
	a, err := r.ask(ctx, actLimit+perMB(md5LimitPerMB, size), cmdFlashMD5, words(offset, size, 0, 0), 0)
	if err != nil {
		return sum, err
	}
	if n, err := hex.Decode(sum[:], a.data[:min(len(a.data), 32)]); err != nil || n != len(sum) {
		return sum, errNoMD5
	}
	return sum, nil
}

// holds lets the chip tell whether its flash at offset holds the data. No wrong
// bit in the answer makes a yes, but any makes a no: that is asked for twice.
func (r *rom) holds(ctx context.Context, offset uint32, data []byte) (bool, error) {
	want := md5.Sum(data)
	for try := 1; ; try++ {
		sum, err := r.flashMD5(ctx, offset, uint32(len(data)))
		switch {
		case err == nil && sum == want:
			return true, nil
		case err != nil && (!errors.Is(err, errNoMD5) || try == 2):
			return false, err
		case try == 2:
			return false, nil
		}
	}
}

func perMB(limit time.Duration, size uint32) time.Duration {
	return time.Duration(float64(limit) * float64(size) / (1 << 20))
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
