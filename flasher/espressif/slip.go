package espressif

// SLIP framing of the serial bootloader (esptool documentation, "Serial
// Protocol", Packet Description): C0 starts and ends a packet, within it C0 is
// sent as DB DC and DB as DB DD.
const (
	slipEnd    = 0xC0
	slipEsc    = 0xDB
	slipEscEnd = 0xDC
	slipEscEsc = 0xDD
)

// maxPacket bounds what a packet from the board may hold. The longest answer
// used here has 8 + 64 + 4 bytes; anything near the bound is noise.
const maxPacket = 512

// appendFrame appends the packet, escaped and framed.
func appendFrame(dst, packet []byte) []byte {
	dst = append(dst, slipEnd)
	for _, b := range packet {
		switch b {
		case slipEnd:
			dst = append(dst, slipEsc, slipEscEnd)
		case slipEsc:
			dst = append(dst, slipEsc, slipEscEsc)
		default:
			dst = append(dst, b)
		}
	}
	return append(dst, slipEnd)
}

// deframer finds packets in a stream of bytes. It takes every C0 as an end and
// as a possible start, so that a lost or invented one costs a packet at most,
// never the phase; noise between packets comes out as a packet that parseAnswer refuses.
type deframer struct {
	packet  []byte
	escaped bool
	damaged bool // wrong escape or too long: dropped at the next C0
}

// push takes one byte and returns the packet that it ends, if it does. The
// packet is good until the next push.
func (d *deframer) push(b byte) ([]byte, bool) {
	switch {
	case b == slipEnd:
		packet, ok := d.packet, len(d.packet) > 0 && !d.escaped && !d.damaged
		d.packet, d.escaped, d.damaged = d.packet[:0], false, false
		return packet, ok
	case d.damaged:
	case len(d.packet) == maxPacket:
		d.damaged = true
	case d.escaped:
		d.escaped = false
		switch b {
		case slipEscEnd:
			d.packet = append(d.packet, slipEnd)
		case slipEscEsc:
			d.packet = append(d.packet, slipEsc)
		default:
			d.damaged = true
		}
	case b == slipEsc:
		d.escaped = true
	default:
		d.packet = append(d.packet, b)
	}
	return nil, false
}
