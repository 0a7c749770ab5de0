package espressif

import (
	"encoding/binary"
	"fmt"
)

// command is a command code of the ROM loader (esptool documentation, "Serial
// Protocol", Commands).
type command byte

const (
	cmdSync         command = 0x08
	cmdReadReg      command = 0x0A
	cmdSPISetParams command = 0x0B
	cmdSPIAttach    command = 0x0D
	cmdReadFlash    command = 0x0E // the ROM's slow one
	cmdChangeBaud   command = 0x0F
	cmdDeflBegin    command = 0x10
	cmdDeflData     command = 0x11
	cmdFlashMD5     command = 0x13
	cmdSecurityInfo command = 0x14
)

var commandNames = map[command]string{
	cmdSync: "SYNC", cmdReadReg: "READ_REG", cmdSPISetParams: "SPI_SET_PARAMS", cmdSPIAttach: "SPI_ATTACH",
	cmdReadFlash: "READ_FLASH_SLOW", cmdChangeBaud: "CHANGE_BAUDRATE", cmdDeflBegin: "FLASH_DEFL_BEGIN",
	cmdDeflData: "FLASH_DEFL_DATA", cmdFlashMD5: "SPI_FLASH_MD5", cmdSecurityInfo: "GET_SECURITY_INFO",
}

func (c command) String() string {
	if name, ok := commandNames[c]; ok {
		return name
	}
	return fmt.Sprintf("command %02X", byte(c))
}

const (
	directionRequest = 0x00
	directionAnswer  = 0x01

	packetHeader = 8 // direction, command, length u16, checksum or value u32
	statusSize   = 4 // of the ROMs of ESP32 and later; only two bytes mean anything
)

// appendRequest appends a request packet, unframed.
func appendRequest(dst []byte, c command, data []byte, checksum uint32) []byte {
	dst = append(dst, directionRequest, byte(c))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, checksum)
	return append(dst, data...)
}

// checksum covers the payload of a data command, without its block header.
func checksum(payload []byte) uint32 {
	sum := byte(0xEF)
	for _, b := range payload {
		sum ^= b
	}
	return uint32(sum)
}

// answer is a well-formed answer of the ROM.
type answer struct {
	command command
	value   uint32
	data    []byte // without the status
	failed  bool
	code    romCode // if failed
}

// parseAnswer refuses what is no answer: noise, a request's echo, a packet
// whose length is wrong, a refusal without a reason.
func parseAnswer(p []byte) (answer, bool) {
	if len(p) < packetHeader+statusSize || p[0] != directionAnswer {
		return answer{}, false
	}
	body := p[packetHeader:]
	if int(binary.LittleEndian.Uint16(p[2:])) != len(body) {
		return answer{}, false
	}
	data, status := body[:len(body)-statusSize], body[len(body)-statusSize:]
	if status[0] != 0 && status[1] == 0 {
		return answer{}, false // a ROM that refuses says why: a wrong bit
	}
	return answer{
		command: command(p[1]),
		value:   binary.LittleEndian.Uint32(p[4:]),
		data:    data,
		failed:  status[0] != 0,
		code:    romCode(status[1]),
	}, true
}

// romCode is why the ROM refused a command.
type romCode byte

const (
	codeBadMessage romCode = 0x05
	codeChecksum   romCode = 0x07
)

var romCodes = map[romCode]string{
	codeBadMessage: "bad message", 0x06: "could not act", codeChecksum: "wrong checksum", 0x08: "flash write failed",
	0x09: "flash read failed", 0x0A: "read too long", 0x0B: "deflate error",
}

// romError is the ROM's "no" to a command.
type romError struct {
	command command
	code    romCode
}

func (e *romError) Error() string {
	why, ok := romCodes[e.code]
	if !ok {
		why = "unknown reason"
	}
	return fmt.Sprintf("the chip refused %s: %s (%02X)", e.command, why, byte(e.code))
}

func words(w ...uint32) []byte {
	b := make([]byte, 0, 4*len(w))
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}
