package espressif_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

// passage takes an identity onto the peer and reads it back.
func passage(ctx context.Context, p *peer, o flasher.Options) error {
	d, err := espressif.New().Probe(ctx, p.port, o)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	defer d.Close(ctx)
	if ids := d.Facts().HardwareIDs; len(ids) != 1 || ids[0].Value != "34:85:18:00:00:01" {
		return fmt.Errorf("hardware IDs are %v", ids)
	}
	plan, err := d.Plan(x509())
	if err != nil {
		return err
	}
	if err := d.Write(ctx, plan, nil); err != nil {
		return err
	}
	found, err := d.ReadBack(ctx, plan.Manifest)
	if err != nil {
		return err
	}
	if missing := plan.Manifest.Missing(found); len(missing) > 0 {
		return fmt.Errorf("%v missing", missing)
	}
	return d.Close(ctx)
}

// answers is how many answers a passage takes.
func answers(t *testing.T, o flasher.Options) int {
	n := 0
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		if err := passage(t.Context(), p, o); err != nil {
			t.Fatal(err)
		}
		n = p.n
	})
	return n
}

func TestAnswersMaySplitAnywhere(t *testing.T) {
	for at := range 90 {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			p.answer = func(_ int, _ byte, frame []byte) {
				cut := min(at, len(frame))
				p.send(frame[:cut])
				<-time.After(time.Millisecond)
				p.send(frame[cut:])
			}
			if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
				t.Errorf("split at %d: %v", at, err)
			}
		})
	}
}

func TestNoiseBetweenAnswersIsPassedOver(t *testing.T) {
	for _, noise := range [][]byte{
		[]byte("waiting for download\r\n"),
		{0xC0}, {0xC0, 0xC0, 0xC0}, {0xDB}, {0xDB, 0xC0}, {0xC0, 0xDB, 0x00},
		bytes.Repeat([]byte{0xFF, 0x00}, 2000),
		{0xC0, 1, 0x0A, 0xFF, 0xFF, 0, 0, 0, 0, 0xC0},         // a length that lies
		answerFrame(0x99, 7, nil, 0, 0),                       // an answer to nothing that was asked
		escape([]byte{0, 0x0A, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4}), // an echo of a request
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			p.answer = func(_ int, _ byte, frame []byte) { p.send(append(append([]byte{}, noise...), frame...)) }
			p.send(noise)
			if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
				t.Errorf("noise %.20x: %v", noise, err)
			}
		})
	}
}

// Seven of SYNC's eight answers may come whenever they like.
func TestRepeatedSyncAnswersAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		owed := 0
		sync := answerFrame(0x08, 0x20120707, nil, 0, 0)
		p.answer = func(n int, op byte, frame []byte) {
			if op == 0x08 && n > 1 {
				owed++
				return
			}
			if owed > 0 {
				owed--
				p.send(sync)
			}
			p.send(frame)
		}
		if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
			t.Error(err)
		}
	})
}

// One answer is lost, or comes after its limit: the passage ends well.
func TestLostOrLateAnswerIsAskedForAgain(t *testing.T) {
	for n := range answers(t, options("ESP32-C3")) {
		for name, after := range map[string]func(*peer, []byte){
			"lost": func(*peer, []byte) {},
			// The ROM does one thing after the other, so what is asked meanwhile is answered after it.
			"late": func(p *peer, frame []byte) { <-time.After(1200 * time.Millisecond); p.send(frame) },
		} {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				p.answer = func(i int, _ byte, frame []byte) {
					if i == n+1 {
						after(p, frame)
					} else {
						p.send(frame)
					}
				}
				if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
					t.Errorf("answer %d %s: %v", n+1, name, err)
				}
			})
		}
	}
}

// Whenever the board falls silent, the cable goes or the caller gives up: the
// right error, in bounded time, lines released, port free.
func TestEveryStepEndsWell(t *testing.T) {
	o := options("ESP32-C3")
	o.Baud = 0 // at a higher speed, silence has an answer of its own: see below
	all := answers(t, o)
	for _, tt := range []struct {
		name string
		stop func(p *peer, cancel context.CancelFunc)
		is   func(error) bool
	}{
		{"silent", func(*peer, context.CancelFunc) {}, func(err error) bool {
			var r *flasher.Refusal
			return errors.As(err, &r) && r.Code == "board-silent"
		}},
		{"gone", func(p *peer, _ context.CancelFunc) { p.far.Unplug() }, func(err error) bool { return errors.Is(err, link.ErrGone) }},
		{"cancelled", func(_ *peer, cancel context.CancelFunc) { cancel() }, func(err error) bool {
			var r *flasher.Refusal
			return errors.Is(err, context.Canceled) && !errors.As(err, &r)
		}},
	} {
		for n := range all {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p.answer = func(i int, _ byte, frame []byte) {
					if i <= n {
						p.send(frame)
					} else if i == n+1 {
						tt.stop(p, cancel)
					}
				}
				start := time.Now()
				if err := passage(ctx, p, o); !tt.is(err) {
					t.Fatalf("%s after answer %d: %v", tt.name, n, err)
				}
				if took := time.Since(start); took > time.Minute {
					t.Errorf("%s after answer %d: it took %v", tt.name, n, took)
				}
				if s := p.far.State(); tt.name != "gone" && (s.Open || s.DTR || s.RTS) {
					t.Errorf("%s after answer %d: the port was left as %+v", tt.name, n, s)
				}
			})
		}
	}
}

func TestCloseResetsIntoTheApplicationEvenWhenCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []linktest.State
		p := newPeer(t)
		ctx, cancel := context.WithCancel(t.Context())
		d, err := espressif.New().Probe(ctx, p.port, options("ESP32-C3"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for p.far.State().Open {
				if s := p.far.State(); len(seen) == 0 || seen[len(seen)-1] != s {
					seen = append(seen, s)
				}
				<-time.After(time.Millisecond)
			}
		}()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := d.Close(ctx); err != nil {
			t.Errorf("closing twice: %v", err)
		}
		<-done
		reset := false
		for _, s := range seen {
			reset = reset || s.RTS && !s.DTR
		}
		if s := p.far.State(); !reset || s.DTR || s.RTS {
			t.Errorf("lines went through %+v and ended as %+v", seen, s)
		}
	})
}

// A cable that carries 115200 baud only costs time, not the passage.
func TestSpeedThatTheCableDoesNotCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.wide = 115200
		if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
			t.Error(err)
		}
	})
}

func TestAnotherBoardIsNeverWrittenNorRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		d, err := espressif.New().Probe(t.Context(), p.port, options("ESP32-C3"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close(t.Context())
		plan := mustPlan(t, d, x509())
		p.mu.Lock()
		p.regs[0x60008844]++
		before := bytes.Clone(p.flash)
		p.mu.Unlock()

		err = d.Write(t.Context(), plan, nil)
		r := refusal(t, err, "board-swapped")
		if want := "Another board is in the slot now: 34:85:18:00:00:01 was identified, 34:85:18:00:00:02 answers."; r.Sentence != want {
			t.Errorf("it says %q, want %q", r.Sentence, want)
		}
		if _, err2 := d.ReadBack(t.Context(), plan.Manifest); !errors.Is(err, flasher.ErrSwapped) || !errors.Is(err2, flasher.ErrSwapped) {
			t.Errorf("got %v and %v", err, err2)
		}
		if !bytes.Equal(p.flash, before) {
			t.Error("the other board was written")
		}
	})
}

// A block that the chip saw damaged, and an image that did not come out right,
// are sent again.
func TestDamagedBlocksAreSentAgain(t *testing.T) {
	for name, damage := range map[string]func(p *peer, op byte, times int) []byte{
		"block refused twice": func(_ *peer, op byte, times int) []byte {
			if op == 0x11 && times <= 2 {
				return answerFrame(op, 0, nil, 1, 0x07)
			}
			return nil
		},
		"deflate error once": func(_ *peer, op byte, times int) []byte {
			if op == 0x11 && times == 3 {
				return answerFrame(op, 0, nil, 1, 0x0B)
			}
			return nil
		},
		"wrong MD5 once": func(_ *peer, op byte, times int) []byte {
			if op == 0x13 && times == 2 { // the first tells whether the storage is blank
				return answerFrame(op, 0, bytes.Repeat([]byte("0"), 32), 0, 0)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				times := map[byte]int{}
				p.answer = func(_ int, op byte, frame []byte) {
					times[op]++
					if instead := damage(p, op, times[op]); instead != nil {
						frame = instead
						if op == 0x11 { // the ROM did not take it
							p.stream.Reset()
						}
					}
					p.send(frame)
				}
				if err := passage(t.Context(), p, options("ESP32-C3")); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestChipIsIdentifiedOrRefused(t *testing.T) {
	plain := make([]byte, 12)
	for _, tt := range []struct {
		name     string
		word     uint32
		info     []byte
		expected string
		code     string // "" is accepted
	}{
		{"ESP32", 0x00F01D83, nil, "ESP32", ""},
		{"ESP32-S2", 0x000007C6, plain, "ESP32-S2", ""},
		{"ESP32-S3", 0x00000009, securityInfo(0, 9), "ESP32-S3", ""},
		{"ESP32-C2", 0x7C41A06F, securityInfo(0, 12), "ESP32-C2", ""},
		{"ESP32-C6", 0x2CE0806F, securityInfo(0, 13), "ESP32-C6", ""},
		{"ESP32-H2", 0xD7B73E80, securityInfo(0, 16), "ESP32-H2", ""},
		{"new silicon of a known chip", 0x12345678, securityInfo(0, 5), "ESP32-C3", ""},
		{"ESP8266", 0xFFF0C101, nil, "ESP32", "chip-unknown"},
		{"unknown id", 0x12345678, securityInfo(0, 77), "ESP32-C3", "chip-unknown"},
		{"id and word disagree", 0x00000009, securityInfo(0, 5), "ESP32-C3", "chip-unknown"},
		{"known word, no security information", 0x1B31506F, nil, "ESP32-C3", "chip-unknown"},
		{"known word, short security information", 0x1B31506F, plain, "ESP32-C3", "chip-unknown"},
		{"empty security information", 0x1B31506F, []byte{}, "ESP32-C3", "chip-unknown"},
		{"another chip", 0x1B31506F, securityInfo(0, 5), "ESP32", "chip-unexpected"},
		{"locked", 0x1B31506F, securityInfo(1<<2, 5), "ESP32-C3", "board-locked"},
		{"encrypted", 0x1B31506F, append(append(securityInfo(1, 5)[:4:4], 1), securityInfo(0, 5)[5:]...), "ESP32-C3", "board-encrypted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				p.regs = map[uint32]uint32{0x40001000: tt.word}
				for _, mac := range []uint32{0x3FF5A004, 0x3F41A044, 0x60007044, 0x60008840, 0x60008844, 0x600B0844} {
					p.regs[mac], p.regs[mac+4] = 0x18000001, 0x3485
				}
				if tt.expected == "ESP32-C2" { // its MAC words overlap another chip's
					p.regs[0x60008844] = 0x3485
				}
				p.info = tt.info
				d, err := espressif.New().Probe(t.Context(), p.port, options(tt.expected))
				if tt.code != "" {
					refusal(t, err, tt.code)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if f := d.Facts(); f.Chip != tt.expected || f.HardwareIDs[0].Value != "34:85:18:00:00:01" {
					t.Errorf("facts are %+v", f)
				}
				d.Close(t.Context())
			})
		})
	}
}

// lineless is a port whose carrier has no DTR and RTS.
type lineless struct{ link.Port }

func (p lineless) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := p.Port.Open(ctx, m)
	return linelessLink{l}, err
}

type linelessLink struct{ link.Link }

func (linelessLink) SetLines(context.Context, bool, bool) error { return link.ErrNoLines }

func TestPortWithoutLinesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		_, err := espressif.New().Probe(t.Context(), lineless{p.port}, options("ESP32-C3"))
		refusal(t, err, "port-without-lines")
		if p.far.State().Open {
			t.Error("the port was left open")
		}
	})
}

func TestPlanIsTheSameEachTimeAndRefusesMisfits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		d, err := espressif.New().Probe(t.Context(), p.port, options("ESP32-C3"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close(t.Context())
		a, b := mustPlan(t, d, symmetric()), mustPlan(t, d, symmetric())
		if !bytes.Equal(a.Segments[0].Data, b.Segments[0].Data) || len(a.Manifest.Missing(b.Manifest)) > 0 {
			t.Error("two plans of one identity differ")
		}
		for _, it := range a.Manifest {
			if secret := it.Name == flasher.ItemSymmetricKey; (it.Salt != "") != secret {
				t.Errorf("%s has the salt %q", it.Name, it.Salt)
			}
		}
		for _, tt := range []struct {
			name string
			id   func(*flasher.Identity)
			says string
		}{
			{"chain too long", func(id *flasher.Identity) { id.Certificate = make([]byte, 20000) },
				`This identity cannot be stored as the product file says: key "cert" of namespace "ident": the values do not fit into the partition.`},
			{"no registration ID", func(id *flasher.Identity) { id.RegistrationID = "" },
				"This identity cannot be stored as the product file says: the identity has no registration_id."},
			{"no salt", func(id *flasher.Identity) { id.Salt = nil },
				"This identity cannot be stored as the product file says: the identity has no salt for its secrets."},
			{"unknown attestation", func(id *flasher.Identity) { id.Attestation = "tpm" },
				`This identity cannot be stored as the product file says: attestation "tpm" is not one this device family stores.`},
		} {
			id := x509()
			tt.id(&id)
			_, err := d.Plan(id)
			if r := refusal(t, err, "profile-does-not-fit"); r.Sentence != tt.says {
				t.Errorf("%s: it says %q, want %q", tt.name, r.Sentence, tt.says)
			}
		}
		if err := d.Write(t.Context(), flasher.Plan{Segments: []flasher.Segment{{Target: "nvs", Offset: 0x1000, Data: make([]byte, 0x6000)}}}, nil); err == nil {
			t.Error("a plan for another place was written")
		}
	})
}

// A hostile board may put anything into a well-framed answer.
func FuzzHostileAnswer(f *testing.F) {
	f.Add(byte(0x0A), uint32(0xFFFFFFFF), []byte{})
	f.Add(byte(0x0E), uint32(0), bytes.Repeat([]byte{0xAA, 0x50, 1, 2}, 16))
	f.Add(byte(0x0E), uint32(0), []byte{1})
	f.Add(byte(0x13), uint32(0), []byte("zz"))
	f.Add(byte(0x14), uint32(0), securityInfo(7, 0xFFFFFFFF))
	f.Fuzz(func(t *testing.T, to byte, value uint32, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			p.answer = func(_ int, op byte, frame []byte) {
				if op == to {
					frame = answerFrame(op, value, data, 0, 0)
				}
				p.send(frame)
			}
			if err := passage(t.Context(), p, options("ESP32-C3")); err == nil && to == 0x13 {
				t.Error("a write that the chip never confirmed passed")
			}
			if s := p.far.State(); s.Open || s.DTR || s.RTS {
				t.Errorf("the port was left as %+v", s)
			}
		})
	})
}
