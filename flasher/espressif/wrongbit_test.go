package espressif_test

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/fault"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
)

// The ROM's answers have no checksum. These tests turn over bits of them.

// withUID gives the peer a chip UID.
func withUID(t *testing.T) *peer {
	p := newPeer(t)
	for i := range uint32(4) {
		p.regs[0x6000885C+4*i] = 0x03020100 + 0x04040404*i
	}
	return p
}

var goodFacts = flasher.Facts{
	Family: "espressif", Chip: "ESP32-C3",
	HardwareIDs: []flasher.HardwareID{{Kind: "mac", Value: "34:85:18:00:00:01"}, {Kind: "chip-uid", Value: "000102030405060708090a0b0c0d0e0f"}},
	Security:    flasher.Security{Raw: "0000000000000000000000000500000000000000"},
	FlashSize:   0x400000,
	Partitions:  []flasher.Partition{{Name: "nvs", Type: 1, Subtype: 2, Offset: 0x9000, Size: 0x6000}},
	StoreBlank:  true,
}

// wholePassage is a passage that may end in one way only.
func wholePassage(t *testing.T, p *peer, o flasher.Options) error {
	ctx := t.Context()
	d, err := espressif.New().Probe(ctx, p.port, o)
	if err != nil {
		return fmt.Errorf("probing: %w (%v)", err, errors.Unwrap(err))
	}
	defer d.Close(ctx)
	if f := d.Facts(); !reflect.DeepEqual(f, goodFacts) {
		return fmt.Errorf("facts are %+v", f)
	}
	plan, err := d.Plan(symmetric())
	if err != nil {
		return err
	}
	if err := d.Write(ctx, plan, nil); err != nil {
		return fmt.Errorf("writing: %w (%v)", err, errors.Unwrap(err))
	}
	found, err := d.ReadBack(ctx, plan.Manifest)
	if err != nil {
		return fmt.Errorf("reading back: %w (%v)", err, errors.Unwrap(err))
	}
	if missing := plan.Manifest.Missing(found); len(missing) > 0 {
		return fmt.Errorf("reading back: %v missing", missing)
	}
	return nil
}

// Whatever bit of whatever answer is wrong: the board's true IDs, its true state,
// and a whole identity on it. Nothing wrong is believed, nothing good refused.
func TestOneWrongBitChangesNothing(t *testing.T) {
	const bitsOfEach = 8
	for name, change := range map[string]func(*peer, *flasher.Options){
		"at 460800 baud, table with MD5": func(p *peer, _ *flasher.Options) {
			sum := md5.Sum(p.flash[0x8000:0x8020])
			copy(p.flash[0x8020:], append(append([]byte{0xEB, 0xEB}, bytes.Repeat([]byte{0xFF}, 14)...), sum[:]...))
		},
		"at the first speed, table without MD5": func(_ *peer, o *flasher.Options) { o.Baud = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			luck := rand.New(rand.NewPCG(1, 2))
			start := func(t *testing.T) (*peer, flasher.Options) {
				p, o := withUID(t), options("ESP32-C3")
				copy(p.flash, []byte{0xE9, 0, 0, 0x20}) // an image for 4 MB
				change(p, &o)
				return p, o
			}
			var lengths []int // of each answer
			synctest.Test(t, func(t *testing.T) {
				p, o := start(t)
				p.answer = func(_ int, _ byte, frame []byte) { lengths = append(lengths, len(frame)); p.send(frame) }
				if err := wholePassage(t, p, o); err != nil {
					t.Fatal(err)
				}
			})
			for n, length := range lengths {
				if n < 7 { // of the answers to SYNC, one stands for all
					continue
				}
				for range bitsOfEach {
					at := luck.IntN(8 * length)
					var op byte
					var err error
					synctest.Test(t, func(t *testing.T) {
						p, o := start(t)
						p.answer = func(i int, is byte, frame []byte) {
							if i == n+1 {
								op = is
								frame[at/8] ^= 1 << (at % 8)
							}
							p.send(frame)
						}
						err = wholePassage(t, p, o)
					})
					if err != nil {
						t.Errorf("bit %d of byte %d of answer %d of %d (%02x): %v", at%8, at/8, n+1, len(lengths), op, err)
					}
				}
			}
		})
	}
}

// A bit that is wrong now and then, in a command that decides, is never taken
// for the board's own; the refusal puts nothing on the board.
func TestAnIDThatIsNeverTheSameIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		probe bool // wrong from the start, otherwise after Probe
	}{{"from the start", true}, {"later", false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := withUID(t)
				shaky := false
				p.answer = func(n int, op byte, frame []byte) {
					p.mu.Lock()
					defer p.mu.Unlock()
					if shaky && op == 0x0A {
						p.regs[0x60008868]++ // the last word of the UID
					}
					p.send(frame)
				}
				shaky = tt.probe
				d, err := espressif.New().Probe(t.Context(), p.port, options("ESP32-C3"))
				if !tt.probe {
					if err != nil {
						t.Fatal(err)
					}
					defer d.Close(t.Context())
					p.mu.Lock()
					shaky = true
					p.mu.Unlock()
					plan := mustPlan(t, d, x509())
					err = d.Write(t.Context(), plan, nil)
					if _, err := d.ReadBack(t.Context(), plan.Manifest); err == nil {
						t.Error("a board without a steady ID was read")
					}
				}
				r := refusal(t, err, "board-read-differs")
				if r.Sentence != "The board's hardware ID was read differently twice." || r.Next != "Put the board back; check the cable." {
					t.Errorf("it says %q, %q", r.Sentence, r.Next)
				}
			})
		})
	}
}

// Two boards with one MAC are two boards.
func TestAnotherBoardWithTheSameMACIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := withUID(t)
		d, err := espressif.New().Probe(t.Context(), p.port, options("ESP32-C3"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close(t.Context())
		p.mu.Lock()
		p.regs[0x60008868] ^= 1 << 24
		p.mu.Unlock()
		plan := mustPlan(t, d, x509())
		r := refusal(t, d.Write(t.Context(), plan, nil), "board-swapped")
		const want = "Another board is in the slot now: 000102030405060708090a0b0c0d0e0f was identified, 000102030405060708090a0b0c0d0e0e answers."
		if r.Sentence != want {
			t.Errorf("it says %q, want %q", r.Sentence, want)
		}
		if _, err := d.ReadBack(t.Context(), plan.Manifest); !errors.Is(err, flasher.ErrSwapped) {
			t.Errorf("reading back: %v", err)
		}
	})
}

// The same over the wire, with simulated boards: from the first answer to
// beyond the last one of Probe.
func TestOneWrongBitOverTheWire(t *testing.T) {
	for n := 8; n <= 64; n += 2 {
		t.Run(fmt.Sprint("answer ", n), func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, boards.Config{Chip: "ESP32-S3", UID: [16]byte{0: 1, 15: 9},
				Faults: boards.Faults{Source: fault.New(uint64(n)), FlipAnswer: n}})
			d := mustProbe(t, ctx, f, options("ESP32-S3"))
			want := []flasher.HardwareID{{Kind: "mac", Value: b.MAC()}, {Kind: "chip-uid", Value: "01000000000000000000000000000009"}}
			if facts := d.Facts(); !reflect.DeepEqual(facts.HardwareIDs, want) || !facts.StoreBlank {
				t.Errorf("facts are %+v", facts)
			}
			plan := mustPlan(t, d, symmetric())
			if err := d.Write(ctx, plan, nil); err != nil {
				t.Fatal(err)
			}
			if missing := plan.Manifest.Missing(mustReadBack(t, ctx, d, plan.Manifest)); len(missing) > 0 {
				t.Errorf("%v missing", missing)
			}
		})
	}
}
