package espressif

import "slices"

// magicRegister holds a word of ROM code that differs between chips.
const magicRegister = 0x40001000

// chip is what the driver must know of a chip. Sources: esptool's target
// descriptions; the eFuse tables of ESP-IDF (components/efuse/<chip>) for MAC and
// OPTIONAL_UNIQUE_ID.
type chip struct {
	name string
	// magics are the known words at magicRegister. The list grows with silicon
	// revisions, so an unknown word is no proof against a chip that gives its id.
	magics []uint32
	// infoSize is the length of its GET_SECURITY_INFO answer; 0: it has none.
	infoSize int
	// id is the number in that answer, of those chips that give one (infoSize 20).
	id uint32
	// bootloader is the flash offset of the image that is booted first.
	bootloader uint32
	// mac is the eFuse register with the low word of the factory MAC.
	mac uint32
	// uid is the eFuse register of OPTIONAL_UNIQUE_ID (BLOCK2, 128 bits); 0: it has none.
	uid uint32
	// encryptWord: the ROM's flash begin commands take a fifth word.
	encryptWord bool
}

const (
	infoWithID = 20
	infoPlain  = 12

	// eFuse words of the ESP32, which has no GET_SECURITY_INFO: FLASH_CRYPT_CNT
	// is bits 20-26 of word 0, ABS_DONE_0 and ABS_DONE_1 (secure boot 1 and 2)
	// are bits 4 and 5 of word 6.
	esp32EfuseWord0 = 0x3FF5A000
	esp32EfuseWord6 = 0x3FF5A018
)

// chips is never written.
var chips = [...]chip{
	{name: "ESP32", magics: []uint32{0x00F01D83}, bootloader: 0x1000, mac: 0x3FF5A004},
	{name: "ESP32-S2", magics: []uint32{0x000007C6}, infoSize: infoPlain, bootloader: 0x1000,
		mac: 0x3F41A044, uid: 0x3F41A05C, encryptWord: true},
	{name: "ESP32-S3", magics: []uint32{0x00000009}, infoSize: infoWithID, id: 9, bootloader: 0,
		mac: 0x60007044, uid: 0x6000705C, encryptWord: true},
	{name: "ESP32-C2", magics: []uint32{0x6F51306F, 0x7C41A06F, 0x0C21E06F}, infoSize: infoWithID, id: 12, bootloader: 0,
		mac: 0x60008840, encryptWord: true},
	{name: "ESP32-C3", magics: []uint32{0x6921506F, 0x1B31506F, 0x4881606F, 0x4361606F}, infoSize: infoWithID, id: 5, bootloader: 0,
		mac: 0x60008844, uid: 0x6000885C, encryptWord: true},
	{name: "ESP32-C6", magics: []uint32{0x2CE0806F}, infoSize: infoWithID, id: 13, bootloader: 0,
		mac: 0x600B0844, uid: 0x600B085C, encryptWord: true},
	{name: "ESP32-H2", magics: []uint32{0xD7B73E80}, infoSize: infoWithID, id: 16, bootloader: 0,
		mac: 0x600B0844, uid: 0x600B085C, encryptWord: true},
}

func chipByID(id uint32) (chip, bool) {
	return find(func(c chip) bool { return c.infoSize == infoWithID && c.id == id })
}

func chipByMagic(word uint32) (chip, bool) {
	return find(func(c chip) bool { return slices.Contains(c.magics, word) })
}

func find(is func(chip) bool) (chip, bool) {
	if i := slices.IndexFunc(chips[:], is); i >= 0 {
		return chips[i], true
	}
	return chip{}, false
}
