package espressif_test

import (
	"bytes"
	"compress/zlib"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"io"
	"sync"
	"testing"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// peer is a ROM loader in this process, with a place to interfere with every
// answer. It is for what the simulated boards do not do; it knows nothing of
// strictness. It runs in a synctest bubble, where waiting costs no time.
type peer struct {
	port link.Port
	far  *linktest.Far

	// answer sends the n-th answer, counted from 1 over the peer's life; nil sends it as it is.
	answer func(n int, op byte, frame []byte)

	mu    sync.Mutex
	regs  map[uint32]uint32
	info  []byte // nil: GET_SECURITY_INFO is unknown
	flash []byte
	baud  int
	wide  int // the highest rate that the cable carries

	n      int
	stream bytes.Buffer
	at     uint32
}

// newPeer makes an ESP32-C3 with a partition table and an erased NVS partition.
func newPeer(t *testing.T) *peer {
	p := &peer{
		regs: map[uint32]uint32{0x40001000: 0x1B31506F, 0x60008844: 0x18000001, 0x60008848: 0xABCD3485},
		info: securityInfo(0, 5), flash: bytes.Repeat([]byte{0xFF}, 0x10000), baud: 115200, wide: 10_000_000,
	}
	copy(p.flash[0x8000:], partitionRow("nvs", 1, 2, 0x9000, 0x6000, 0))
	p.port, p.far = linktest.Pair(func(s linktest.State) {
		if s.RTS && !s.DTR { // reset
			p.mu.Lock()
			p.baud = 115200
			p.mu.Unlock()
		}
	})
	go p.run()
	t.Cleanup(p.far.Unplug)
	return p
}

func securityInfo(flags, id uint32) []byte {
	info := make([]byte, 20)
	binary.LittleEndian.PutUint32(info, flags)
	binary.LittleEndian.PutUint32(info[12:], id)
	return info
}

func partitionRow(name string, typ, subtype byte, offset, size, flags uint32) []byte {
	row := append([]byte{0xAA, 0x50, typ, subtype}, make([]byte, 28)...)
	binary.LittleEndian.PutUint32(row[4:], offset)
	binary.LittleEndian.PutUint32(row[8:], size)
	copy(row[12:28], name)
	binary.LittleEndian.PutUint32(row[28:], flags)
	return row
}

func (p *peer) run() {
	var frame []byte
	in := make([]byte, 4096)
	for {
		n, err := p.far.Read(in)
		if err != nil {
			return
		}
		for _, b := range in[:n] {
			if b != 0xC0 {
				frame = append(frame, b)
				continue
			}
			if len(frame) > 0 {
				p.request(unescape(frame))
			}
			frame = nil
		}
	}
}

func unescape(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte{0xDB, 0xDC}, []byte{0xC0})
	return bytes.ReplaceAll(b, []byte{0xDB, 0xDD}, []byte{0xDB})
}

func escape(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte{0xDB}, []byte{0xDB, 0xDD})
	b = bytes.ReplaceAll(b, []byte{0xC0}, []byte{0xDB, 0xDC})
	return append(append([]byte{0xC0}, b...), 0xC0)
}

func answerFrame(op byte, value uint32, data []byte, flag, code byte) []byte {
	out := []byte{1, op}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(data)+4))
	out = binary.LittleEndian.AppendUint32(out, value)
	return escape(append(append(out, data...), flag, code, 0, 0))
}

func (p *peer) request(r []byte) {
	p.mu.Lock()
	heard := p.far.State().Baud == p.baud && p.baud <= p.wide
	if len(r) < 8 || !heard {
		p.mu.Unlock()
		if !heard {
			_, _ = p.far.Write([]byte{0xFF, 0x00, 0xC0, 0xE3})
		}
		return
	}
	op, data := r[1], r[8:]
	value, out, ok := p.do(op, data)
	p.mu.Unlock()
	frame := answerFrame(op, value, out, 0, 0)
	if !ok {
		frame = answerFrame(op, 0, nil, 1, 0x05)
	}
	times := 1
	if op == 0x08 {
		times = 8
	}
	for range times {
		p.n++
		if p.answer != nil {
			p.answer(p.n, op, frame)
		} else {
			p.send(frame)
		}
	}
	if op == 0x0F {
		p.mu.Lock()
		p.baud = int(binary.LittleEndian.Uint32(data))
		p.mu.Unlock()
	}
}

func (p *peer) send(b []byte) { _, _ = p.far.Write(b) }

func (p *peer) do(op byte, data []byte) (value uint32, out []byte, ok bool) {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(data[4*i:]) }
	switch op {
	case 0x08, 0x0B, 0x0D, 0x0F:
	case 0x0A:
		value = p.regs[word(0)]
	case 0x0E:
		out = p.flash[word(0):][:64]
	case 0x10:
		p.at = word(3)
		p.stream.Reset()
		for i := range word(0) {
			p.flash[p.at+i] = 0xFF
		}
	case 0x11:
		p.stream.Write(data[16:])
		if z, err := zlib.NewReader(bytes.NewReader(p.stream.Bytes())); err == nil {
			image, _ := io.ReadAll(z)
			copy(p.flash[p.at:], image)
		}
	case 0x13:
		sum := md5.Sum(p.flash[word(0):][:word(1)])
		out = []byte(hex.EncodeToString(sum[:]))
	case 0x14:
		return 0, p.info, p.info != nil
	default:
		return 0, nil, false
	}
	return value, out, true
}
