package line_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"nameplate/ca"
	"nameplate/fixtures/boards"
	"nameplate/fixtures/fault"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
	"nameplate/records"
	"nameplate/station/line"
)

// refusal is what a slot shows and the ledger keeps of a board that was turned
// away.
type refusal struct {
	verdict              records.Verdict
	code, sentence, next string
	events               []records.Kind
}

var (
	unread   = []records.Kind{"passage.opened", "unit.refused", "passage.closed"}
	known    = []records.Kind{"passage.opened", "unit.identified", "unit.refused", "passage.closed"}
	brokeOff = []records.Kind{"passage.opened", "passage.closed"}
)

// wantRefusal compares, and asserts that what the slot showed is in the ledger.
func (s *station) wantRefusal(st line.Status, from int, want refusal) {
	s.Helper()
	if st.Verdict != want.verdict || st.Code != want.code || st.Sentence != want.sentence || st.Next != want.next {
		s.Fatalf("%s %s\n%s\n%s\nwant %s %s\n%s\n%s", st.Verdict, st.Code, st.Sentence, st.Next, want.verdict, want.code, want.sentence, want.next)
	}
	wantKinds(s, s.kinds(from), want.events...)
	for _, e := range s.events()[from:] {
		switch b := s.body(e).(type) {
		case records.PassageClosed:
			if b.Verdict != want.verdict || b.Code != want.code || b.Text != want.sentence {
				s.Errorf("passage.closed says %+v", b)
			}
		case records.UnitRefused:
			if b.Code != want.code || b.Sentence != want.sentence || b.Step == "" {
				s.Errorf("unit.refused says %+v", b)
			}
		case records.UnitFailed:
			if b.Code != want.code || b.Sentence != want.sentence || b.Step == "" {
				s.Errorf("unit.failed says %+v", b)
			}
		}
	}
}

func (s *station) body(e records.Event) records.Body {
	s.Helper()
	b, err := e.Body()
	must(s, err)
	return b
}

// P10 over real conversations: each bad board is turned away in words that an
// operator can act on, nothing is claimed for it, and the next board passes in
// the same slot.
func TestP10BadBoards(t *testing.T) {
	const aside = "Put the board in again; if it happens again, set the board aside."
	silence := refusal{records.Error, "board-silent", "The board does not answer.",
		"Check that it has power and sits right in the slot, and that cable and adapter carry DTR and RTS; then put it in again.", unread}
	tests := []struct {
		name  string
		board func(*boards.Config)
		cable *linktest.Faults
		want  refusal
	}{
		{name: "another chip", board: func(c *boards.Config) { c.Chip = "ESP32" },
			want: refusal{records.Fail, "chip-unexpected", "This board carries an ESP32, but the product is built on the ESP32-C3.",
				"Put a board of this product into the slot, or choose the right work order.", unread}},
		{name: "silent", board: func(c *boards.Config) { c.Faults.Silent = true }, want: silence},
		{name: "nothing but noise", cable: &linktest.Faults{Seed: 1, Corrupt: 0.5}, want: silence},
		{name: "no such partition", board: func(c *boards.Config) {
			c.Partitions = []boards.Partition{{Name: "other", Type: 1, Subtype: 2, Offset: 0x9000, Size: 0x6000}}
		}, want: refusal{records.Fail, "partition-missing", `The board's partition table has no NVS partition "nvs".`,
			"Check that the board carries this product's firmware, and the partition's name in the product file.", unread}},
		{name: "partition too small", board: func(c *boards.Config) {
			c.Partitions = []boards.Partition{{Name: "nvs", Type: 1, Subtype: 2, Offset: 0x9000, Size: 0x2000}}
		}, want: refusal{records.Fail, "partition-too-small", `The partition "nvs" has 8192 bytes, which is too small for NVS.`,
			"NVS needs three pages of 4096 bytes: change the firmware's partition table.", unread}},
		{name: "encrypted partition", board: func(c *boards.Config) {
			c.Partitions = []boards.Partition{{Name: "nvs", Type: 1, Subtype: 2, Offset: 0x9000, Size: 0x6000, Encrypted: true}}
		}, want: refusal{records.Fail, "partition-encrypted", `The partition "nvs" is marked as encrypted, and the station writes it in plain.`,
			"Name another partition in the product file, or take the mark off in the firmware's partition table.", unread}},
		{name: "secure download mode", board: func(c *boards.Config) { c.SecureDownload = true },
			want: refusal{records.Fail, "board-locked", "This board's ESP32-C3 is locked: secure download mode is on.",
				"Set the board aside; the lock is a fuse and cannot be undone.", unread}},
		{name: "no address", board: func(c *boards.Config) { c.MAC = "00:00:00:00:00:00" },
			want: refusal{records.Fail, "mac-invalid", "The chip's own address reads as 00:00:00:00:00:00, which no chip has.", aside, unread}},
		{name: "a flash that does not hold", board: func(c *boards.Config) { c.Faults.StuckCells = []uint32{0x9000 + 32} },
			want: refusal{records.Fail, "flash-verify-failed", "The board's flash does not hold what was written to it, twice.",
				"Set the board aside: its flash may be bad.",
				[]records.Kind{"passage.opened", "unit.identified", "identity.claimed", "secret.sealed", "write.begun", "unit.failed", "passage.closed"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStation(t, espressif.New())
			order := s.order(records.SymmetricKey, 2)
			place := newSocket(t)
			port := place.port
			if tt.cable != nil {
				port = linktest.Faulty(port, *tt.cable)
			}
			place.insert(t, chip(t, tt.board))
			from := s.size()
			st := s.passage(port, order)
			s.wantRefusal(st, from, tt.want)
			claimed := 0
			if slices.Contains(tt.want.events, "identity.claimed") {
				claimed = 1
			}
			if live := s.live(order); live != claimed {
				t.Errorf("%d of the quota are used, want %d", live, claimed)
			}

			place.Remove()
			place.insert(t, chip(t, func(c *boards.Config) { c.Name, c.MAC, c.UID = "good", "34:85:18:00:00:02", [16]byte{2} }))
			wantVerdict(t, s.passage(place.port, order), records.Pass, "")
			s.replays()
		})
	}
}

// A bad line costs retries, not the unit.
func TestNoisyBoardPasses(t *testing.T) {
	t.Parallel()
	s := newStation(t, espressif.New())
	order := s.order(records.X509, 1)
	place := newSocket(t)
	place.insert(t, chip(t, func(c *boards.Config) {
		c.Faults = boards.Faults{Source: fault.New(1), Noise: 1, Drop: 0.01, Dribble: true}
	}))
	wantVerdict(t, s.passage(place.port, order), records.Pass, "")
	s.oneIdentity(order, 1)
}

// The board of another station, or one that is in use, is not written over.
func TestBoardWithAnIdentityIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	other := newStation(t, espressif.New())
	place := newSocket(t)
	place.insert(t, chip(t, nil))
	wantVerdict(t, other.passage(place.port, other.order(records.SymmetricKey, 1)), records.Pass, "")

	s := newStation(t, espressif.New())
	order := s.order(records.SymmetricKey, 1)
	from := s.size()
	s.wantRefusal(s.passage(place.port, order), from, refusal{records.Error, "board-not-blank",
		"The board is new here, but the place for its identity is not empty.",
		"Set the board aside; erase that partition if the board is known to be unused.", unread})
	if s.live(order) != 0 {
		t.Error("it was counted")
	}
}

// P1 at the slot: boards that history knows, or knows otherwise. b passed as U3.
func TestP1BoardsAgainstHistory(t *testing.T) {
	ids := []flasher.HardwareID{mac("aa"), uid("11")}
	tests := []struct {
		name    string
		board   *board // nil: the very board that passed
		another bool   // after a second board passed, with IDs bb and 22
		want    refusal
		about   bool // the refusal is kept under the unit's name
	}{
		{name: "same board after release", about: true,
			want: refusal{records.Error, "board-released", "This board was released already, as symmetrickey-a000001 (unit U3).",
				"Take it out. If its label says something else, set it aside: two boards with one hardware ID.", unread}},
		{name: "two boards with one MAC", board: newBoard("clone", mac("aa"), uid("33")), about: true,
			want: refusal{records.Fail, "board-id-twice",
				"The board shares a hardware ID with unit U3, but its chip-uid is 33 and not 11: two boards with one ID.",
				"Set the board aside and report the pair to the board's supplier.", unread}},
		{name: "IDs of two units", board: newBoard("mixed", mac("aa"), uid("22")), another: true,
			want: refusal{records.Fail, "board-mixed", "The board's hardware IDs belong to two units, U3 and U12.",
				"Set the board aside and call the process engineer.", unread}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order := s.order(records.SymmetricKey, 3)
			b := newBoard("b", ids...)
			place := at(b)
			wantVerdict(t, s.passage(place, order), records.Pass, "")
			if tt.another {
				place.put(newBoard("second", mac("bb"), uid("22")))
				wantVerdict(t, s.passage(place, order), records.Pass, "")
			}
			before, live := s.units(), s.live(order)
			if tt.board != nil {
				b = tt.board
			}
			place.put(b)
			from := s.size()
			s.wantRefusal(s.passage(place, order), from, tt.want)

			e := s.events()[from+1]
			said := s.body(e).(records.UnitRefused)
			if len(said.Hardware) != 2 || said.Hardware[1] != records.HardwareID(b.ids[1]) {
				t.Errorf("unit.refused names the hardware %v", said.Hardware)
			}
			if (e.Unit == 3) != tt.about {
				t.Errorf("unit.refused is about unit %s", e.Unit)
			}
			if s.live(order) != live || len(s.units()) != len(before) || s.units()[0].Verdict != records.Pass {
				t.Error("the refused board changed the unit or the order")
			}
			s.replays()
		})
	}
}

// One board seen in two slots, or two boards with one MAC and no other ID: the
// first goes on undisturbed.
func TestP1SameBoardInTwoSlots(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	order := s.order(records.X509, 2)
	inWrite, goOn := make(chan struct{}), make(chan struct{})
	d.at(writing, func(ctx context.Context, _ *board) error {
		close(inWrite)
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return nil
	})
	first := s.slot("slot-1", at(newBoard("a", mac("aa"))), nil)
	must(t, first.Start(order, badge))
	<-inWrite
	from := s.size()
	second := s.slot("slot-2", at(newBoard("twin", mac("aa"))), nil)
	s.wantRefusal(second.pass(order), from, refusal{records.Error, "board-in-two-slots",
		"Unit U3 is in another slot right now (passage P2): one board seen twice, or two boards with one hardware ID.",
		"Leave the other board where it is, take this one out and set it aside.", unread})
	close(goOn)
	st, _ := first.await(0, over)
	wantVerdict(t, st, records.Pass, "")
	s.oneIdentity(order, 1)
}

// A certificate of another CA than the order was opened with reaches no board.
func TestIssuerIsTheOrders(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order := s.order(records.X509, 1)
	from := s.size()
	w := s.slot("slot-1", at(newBoard("a")), func(c *line.Config) {
		jobs := c.Jobs
		c.Jobs = func(ctx context.Context, id string) (line.Job, error) {
			job, err := jobs(ctx, id)
			job.Issuer = "the digest of an older CA"
			return job, err
		}
	})
	p := path(records.X509)
	s.wantRefusal(w.pass(order), from, refusal{records.Error, "issuer-changed",
		"The issuing CA of " + customer + " is not the one that order " + order + " was opened with.",
		"Start the station again; if that does not help, close the order and open a new one.",
		slices.Concat(p[:slices.Index(p, "identity.claimed")+1], unread[1:])})
}

// A hardware ID stays for ever and goes to the customer: what is none is not
// written down, and what the board said instead only as a quotation.
func TestHostileHardwareIDs(t *testing.T) {
	for said, quoted := range map[string]string{
		"abc\x01def":                      `"abc\x01def"`,
		"abc\xffdef":                      `"abc\xffdef"`,
		"gw4\u202e\u009b31m":              `"gw4\u202e\u009b31m"`,
		"ab" + strings.Repeat("c", 70000): `"ab` + strings.Repeat("c", 62) + `"`,
		"":                                `""`,
	} {
		s := newStation(t, &fakeDriver{})
		order, from := s.order(records.SymmetricKey, 1), s.size()
		bad := newBoard("bad", mac("02:00:00:00:00:01"), flasher.HardwareID{Kind: "serial-number", Value: said})
		s.wantRefusal(s.passage(at(bad), order), from, refusal{records.Fail, "hardware-id-unfit",
			"The board gives " + quoted + ` as its "serial-number", which is no hardware ID: 1 to 128 printable ASCII characters.`,
			"Set the board aside and report it to the board's supplier.", unread})
		s.unclaimed(order)
		for _, e := range s.events() {
			if b, ok := s.body(e).(records.UnitRefused); ok && (len(b.Hardware) != 1 || b.Hardware[0].Kind != "mac") {
				t.Errorf("%q: the refusal is of %v", said, b.Hardware)
			}
			if bytes.Contains(e.Data, []byte("ufffd")) || len(e.Data) > 1000 {
				t.Errorf("%q: %s holds %.200s", said, e.Kind, e.Data)
			}
		}
	}
}

// What a board says may come to stand in a sentence; what is recorded of it is text
// and ends.
func TestSentencesEnd(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	d.at(probing, func(context.Context, *board) error {
		return &flasher.Refusal{Code: "chip-unknown", Sentence: strings.Repeat("x\xff", 1000), Next: "Set the board aside."}
	})
	order, from := s.order(records.X509, 1), s.size()
	s.wantRefusal(s.passage(at(newBoard("a")), order), from, refusal{records.Fail, "chip-unknown", strings.Repeat("x\uFFFD", 249) + "x…", "Set the board aside.", unread})
}

// What other parts refuse reaches the operator in their words; what breaks
// without words gets some.
func TestP10WhatOthersSay(t *testing.T) {
	locked := &ca.Refusal{Code: "station-locked", Sentence: "The station is locked.", Next: "Unlock it with 'station unlock'."}
	misfit := &flasher.Refusal{Code: "profile-does-not-fit", Sentence: "This identity cannot be stored.", Next: "Change the product."}
	const back = "Put it back once; if it happens again, set the board aside."
	upTo := func(kind records.Kind) []records.Kind {
		p := path(records.X509)
		return p[:slices.Index(p, kind)+1]
	}
	tests := []struct {
		name   string
		moment string
		err    error
		issue  error
		want   refusal
	}{
		{name: "the CA is locked", issue: locked, want: refusal{records.Error, locked.Code, locked.Sentence, locked.Next,
			slices.Concat(upTo("identity.claimed"), unread[1:])}},
		{name: "the CA breaks", issue: context.DeadlineExceeded, want: refusal{records.Error, "step-timeout", `The step "issue" did not end within its limit.`,
			"Put the board back once; if it happens again, set the board aside.", slices.Concat(upTo("identity.claimed"), brokeOff[1:])}},
		{name: "the profile does not fit", moment: planned, err: misfit, want: refusal{records.Error, misfit.Code, misfit.Sentence, misfit.Next,
			slices.Concat(upTo("certificate.issued"), unread[1:])}},
		{name: "an unknown chip", moment: probing, err: &flasher.Refusal{Code: "chip-unknown", Sentence: "The chip is not known.", Next: back},
			want: refusal{records.Fail, "chip-unknown", "The chip is not known.", back, unread}},
		{name: "the port is taken", moment: probing, err: link.ErrBusy, want: refusal{records.Error, "port-in-use",
			"Another program holds the port of this slot.", "Close that program, then put the board back.", brokeOff}},
		{name: "the cable is gone", moment: probing, err: link.ErrGone, want: refusal{records.Error, "link-lost",
			`The connection to the board broke during "identify".`, "Check the cable and put the board back: it goes on where it stopped.", brokeOff}},
		{name: "the driver breaks", moment: writing, err: errBroken, want: refusal{records.Error, "station-error",
			`The station could not finish "write".`, "Call the process engineer; the station's log says why.",
			slices.Concat(upTo("write.begun"), brokeOff[1:])}},
		{name: "the read-back breaks", moment: reading, err: errBroken, want: refusal{records.Error, "station-error",
			`The station could not finish "verify".`, "Call the process engineer; the station's log says why.",
			slices.Concat(upTo("write.begun"), brokeOff[1:])}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(records.X509, 1), newBoard("a")
			from := s.size()
			d.at(tt.moment, func(context.Context, *board) error { return tt.err })
			w := s.slot("slot-1", at(b), func(c *line.Config) {
				if tt.issue != nil {
					c.Issuer = failingIssuer{tt.issue}
				}
			})
			s.wantRefusal(w.pass(order), from, tt.want)
			w.end(nil)
			wantVerdict(t, s.passage(at(b), order), records.Pass, "")
			s.oneIdentity(order, 1)
		})
	}
}

type failingIssuer struct{ err error }

func (i failingIssuer) Issue(context.Context, ca.Request) (ca.Issued, error) {
	return ca.Issued{}, i.err
}

func (i failingIssuer) Chain(string) ([][]byte, error) { return nil, i.err }
