package line_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
	chips "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/tpm"
	"nameplate/records"
)

// failedAt is the story of a board that was found bad after an event. A claim for
// which nothing was made yet goes back.
func failedAt(way string, kind records.Kind) []records.Kind {
	if kind == "identity.claimed" {
		return slices.Concat(upTo(way, kind), []records.Kind{"identity.released", "unit.failed", "passage.closed"})
	}
	return slices.Concat(upTo(way, kind), []records.Kind{"unit.failed", "passage.closed"})
}

// accepted are the events in which proofs were taken.
func (s *station) accepted() (all []records.EvidenceAccepted) {
	s.Helper()
	for _, e := range s.events() {
		if b, ok := s.body(e).(records.EvidenceAccepted); ok {
			all = append(all, b)
		}
	}
	return all
}

// unclaimed asserts that a refusal has cost nothing: no unit, no claim.
func (s *station) unclaimed(order string) {
	s.Helper()
	if live, units := s.live(order), s.units(); live != 0 || len(units) != 0 {
		s.Errorf("%d of the quota are used, %d units are known", live, len(units))
	}
	for _, e := range s.events() {
		if e.Kind == "unit.refused" && e.Unit != 0 {
			s.Errorf("the refusal is kept under the name of unit %s", e.Unit)
		}
	}
	s.replays()
}

// The board proves what it can, the ledger keeps the proofs, and no private key
// goes to a board that has its own.
func TestP5KeysOfTheBoardsOwn(t *testing.T) {
	for _, way := range proving {
		t.Run(way, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(way, 1), boardFor(t, way, "a")
			wantVerdict(t, s.passage(at(b), order), records.Pass, "")
			u := s.unit()
			s.holds(b, u)
			s.oneIdentity(order, 1)
			for _, secret := range d.handed {
				if bytes.Contains(secret, []byte("PRIVATE")) || bytes.Contains(secret, []byte(flasher.ItemPrivateKey)) {
					t.Error("the driver was handed a private key")
				}
			}
			if len(b.secrets()) != 0 {
				t.Error("the board was sent a secret")
			}
			held, item := u.DeviceKey, flasher.ItemPrivateKey
			if way == records.TPM {
				held, item = ca.Digest(u.EK), flasher.ItemEndorsementKey
			}
			for _, e := range s.events() {
				verified, ok := s.body(e).(records.UnitVerified)
				if !ok {
					continue
				}
				i := slices.IndexFunc(verified.Found, func(it records.Item) bool { return it.How == string(flasher.ByPossession) })
				if i < 0 || verified.Found[i].Name != item || verified.Found[i].SHA256 != held {
					t.Errorf("found %+v, want possession of %s %s", verified.Found, item, held)
				}
			}
			for _, proof := range s.accepted() {
				switch {
				case proof.TPM != nil:
					said := proof.TPM
					if !bytes.Equal(said.EK, u.EK) || !bytes.Equal(said.AK, u.AK) || len(said.Nonce) != 32 || len(said.Answer) == 0 ||
						len(said.Certificate) == 0 || len(said.Chain) != 2 || said.Manufacturer == "" || said.Finding != "" {
						t.Errorf("of the TPM is kept: %+v", said)
					}
				case (proof.Key.Attest != nil) != (way == tpmKey) || proof.Key.SPKI != u.DeviceKey || len(proof.Key.CSR) == 0:
					t.Errorf("of the key is kept: %+v", proof.Key)
				}
			}
		})
	}
}

// What the certificate of an endorsement key must be is the order's to say; what
// was wrong with it is kept where it is only recorded.
func TestEKCertificates(t *testing.T) {
	today := time.Now().UTC().Format(time.DateOnly)
	const aside = "Set the board aside."
	tests := []struct {
		chip, code, sentence, next string
		finding                    string // how it begins; "": there is nothing to say
	}{
		{"bare", "ek-certificate-missing", "The board's TPM has no EK certificate, and this product asks for one.",
			aside + " If none of the TPMs have one, the product's profile must not require it.", "the TPM holds no EK certificate"},
		{"expired", "ek-certificate-expired", "The board's EK certificate (id:00001014 swtpm) is not valid on " + today + ".",
			"Check the station's clock. If it is right, set the board aside.", "it is valid from "},
		{"exchanged", "ek-certificate-other-key", "The board's EK certificate (id:00001014 swtpm) is that of another TPM.",
			aside + " Report it: a TPM or a certificate was exchanged.", "its key is not the endorsement key of the TPM"},
		{"foreign", "ek-certificate-untrusted", "The board's EK certificate (id:00001014 swtpm) does not lead to a TPM vendor that this order trusts.",
			aside + " If you do buy from this vendor, put its certificates into the folder of EK roots and open a new order.", "it leads to no root that is trusted here"},
		{chip: "genuine"}, {chip: "padded"}, {chip: "prefixed"}, {chip: "unborn"},
	}
	for _, tt := range tests {
		for _, policy := range []ek.Policy{ek.Require, ek.Record, ek.None} {
			for _, way := range []string{records.TPM, tpmKey} {
				t.Run(tt.chip+"/"+string(policy)+"/"+way, func(t *testing.T) {
					t.Parallel()
					s := newStation(t, &fakeDriver{})
					s.policy = policy
					order, place := s.order(way, 1), at(withTPM(t, "a", tt.chip))
					from := s.size()
					st := s.passage(place, order)
					if policy == ek.Require && tt.code != "" {
						s.wantRefusal(st, from, refusal{records.Fail, tt.code, tt.sentence, tt.next, unread})
						s.unclaimed(order)
						place.put(withTPM(t, "b", "genuine"))
						wantVerdict(t, s.passage(place, order), records.Pass, "")
						s.oneIdentity(order, 1)
						return
					}
					wantVerdict(t, st, records.Pass, "")
					wantKinds(t, s.kinds(from), path(way)...)
					said := s.accepted()[0].TPM
					if policy == ek.None && (said.Finding != "" || said.Manufacturer != "" || said.Chain != nil) {
						t.Errorf("nobody asked, and yet: %+v", said)
					}
					if policy == ek.Record && (!strings.HasPrefix(said.Finding, tt.finding) || (tt.finding == "") != (said.Finding == "")) {
						t.Errorf("the finding is %q, want %q", said.Finding, tt.finding)
					}
					if (said.Certificate == nil) != (tt.chip == "bare") {
						t.Errorf("%d bytes of certificate are kept", len(said.Certificate))
					}
					s.holds(place.in(), s.unit())
					s.oneIdentity(order, 1)
				})
			}
		}
	}
}

// A TPM that does not open its challenge gives the board no name, and costs
// nothing; when the truth is told, the same board passes.
func TestFailedActivation(t *testing.T) {
	const aside = "Set the board aside: what answers there is not the TPM that it says it is."
	tests := []struct {
		name string
		lie  func(t *testing.T, d *fakeDriver)
		want refusal
	}{
		{"another answer", func(_ *testing.T, d *fakeDriver) {
			d.answer = func(b []byte) []byte { b[0] ^= 1; return b }
		}, refusal{records.Fail, "tpm-activation-failed", "The board's TPM did not prove that it holds its endorsement key.", aside, unread}},
		{"no answer", func(_ *testing.T, d *fakeDriver) {
			d.answer = func([]byte) []byte { return nil }
		}, refusal{records.Fail, "tpm-activation-failed", "The board's TPM did not prove that it holds its endorsement key.", aside, unread}},
		{"a challenge for another object", func(t *testing.T, d *fakeDriver) {
			other := attestationKey(t, "other")
			d.shown = func(e *flasher.Endorsement) { e.AK = other }
		}, refusal{records.Fail, "tpm-activation-failed", "The TPM did not prove that it holds its endorsement key.",
			"Set the board aside: its TPM may be false, or stand for another one.", unread}},
		{"an endorsement key as attestation key", func(_ *testing.T, d *fakeDriver) {
			d.shown = func(e *flasher.Endorsement) { e.AK = e.Public }
		}, refusal{records.Fail, "ak-unusable", "The attestation key that the board's TPM shows proves nothing.",
			"Set the board aside: this station makes that key itself, and never of this kind.", unread}},
		{"half an endorsement key", func(_ *testing.T, d *fakeDriver) {
			d.shown = func(e *flasher.Endorsement) { e.Public = e.Public[:100] }
		}, refusal{records.Fail, "ek-unusable", "The board's endorsement key is not of a kind that TPM makers provide.",
			"Set the board aside: its TPM was changed, or is of a kind that this station does not know.", unread}},
	}
	for _, tt := range tests {
		for _, way := range []string{records.TPM, tpmKey} {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				d := &fakeDriver{}
				s := newStation(t, d)
				order, place := s.order(way, 1), at(withTPM(t, "a", "genuine"))
				tt.lie(t, d)
				from := s.size()
				s.wantRefusal(s.passage(place, order), from, tt.want)
				s.unclaimed(order)
				d.answer, d.shown = nil, nil
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				s.oneIdentity(order, 1)
			})
		}
	}
}

// attestationKey is that of another chip, TPM2B_PUBLIC.
func attestationKey(t *testing.T, chip string) []byte {
	t.Helper()
	c, err := tpm.Open(t.Context(), newModule(t, chip))
	must(t, err)
	return c.Endorsement().AK
}

// A TPM that lies is found out, whatever it lies about, by the station or already
// by who speaks with it; and costs nothing but the claim that it has by then. When
// the liar is gone, the board passes; so does the board whose name it wanted.
func TestLyingTPM(t *testing.T) {
	const (
		aside   = "Set the board aside: its TPM may be false."
		another = "Set the board aside: its TPM may be false, or stand for another one."
	)
	occupied := refusal{records.Fail, "ek-handle-occupied",
		"Where the TPM's endorsement key belongs (0x81010001) is another key than the one that its EK certificate is for.",
		"Set the board aside; whoever made its image has to free that handle (tpm2_evictcontrol -C o -c 0x81010001), then it can be put in again.", unread}
	exchanged := refusal{records.Fail, "ek-certificate-other-key", "The board's EK certificate (id:00001014 swtpm) is that of another TPM.",
		"Set the board aside. Report it: a TPM or a certificate was exchanged.", unread}
	unheld := refusal{records.Fail, "tpm-activation-failed", "The TPM did not prove that it holds its endorsement key.", another, unread}
	unproved := refusal{records.Fail, "tpm-activation-failed", "The board's TPM did not prove that it holds its endorsement key.",
		"Set the board aside: what answers there is not the TPM that it says it is.", unread}
	disobeyed := refusal{records.Fail, "tpm-key-wrong", "The TPM made another kind of key than it was asked for.", aside, unread}
	unreadable := refusal{records.Error, "tpm-unreadable", "What the board's TPM answers cannot be understood.",
		"Check that the board has a TPM 2.0 and that no other program uses it, then put the board in again; if it happens again, set the board aside.", unread}
	outside := refusal{records.Fail, "key-not-in-tpm", "The board did not prove that its device key was made in its TPM.",
		"Set the board aside: its key may have been made elsewhere, and copied.", failedAt(tpmKey, "identity.claimed")}
	forged := refusal{records.Fail, "tpm-signature-wrong", "The TPM signed, but not with the key that it shows.",
		"Put the board in again; if it happens again, set the board aside: its TPM may be false.", failedAt(tpmKey, "identity.claimed")}
	loose := disobeyed
	loose.events = outside.events
	undone := refusal{records.Fail, "verify-mismatch", "The board does not hold what was written: endorsement_key differ.",
		"Put it back once; if it happens again, set the board aside.", failedAt(records.TPM, "write.begun")}
	repeated := outside
	repeated.events = slices.Concat([]records.Kind{"passage.opened"}, identified(tpmKey), []records.Kind{"unit.failed", "passage.closed"})
	tests := map[chips.Lie]struct {
		// dies is where the first passage dies, if the lie begins with the second.
		dies     records.Kind
		key, tpm refusal // by the way in which the board gets its identity; the zero one: it passes
	}{
		chips.BorrowedKey:           {key: occupied, tpm: occupied},
		chips.BorrowedCertificate:   {key: exchanged, tpm: exchanged},
		chips.BorrowedIdentity:      {key: unheld, tpm: unheld},
		chips.SoftwareAK:            {key: unheld, tpm: unheld},
		chips.UnrestrictedAK:        {key: disobeyed, tpm: disobeyed},
		chips.WrongActivation:       {key: unproved, tpm: unproved},
		chips.ReplayedActivation:    {key: unproved, tpm: undone},
		chips.SoftwareKey:           {key: outside},
		chips.LooseKey:              {key: loose},
		chips.SignedByAnother:       {key: forged},
		chips.CertifiedAnother:      {key: outside},
		chips.CertifiedOtherRequest: {key: outside},
		chips.Quoted:                {key: outside},
		chips.ForgedMagic:           {key: outside},
		chips.BrokenSignature:       {key: outside},
		chips.ReplayedCertification: {dies: "certificate.issued", key: repeated},
		chips.Cut:                   {key: unreadable, tpm: unreadable},
	}
	for _, lie := range chips.Lies {
		tt, known := tests[lie]
		if !known {
			t.Errorf("nobody says what becomes of %s", lie)
		}
		for _, way := range []string{records.TPM, tpmKey} {
			t.Run(string(lie)+"/"+way, func(t *testing.T) {
				t.Parallel()
				want, dies := tt.key, tt.dies
				if way == records.TPM {
					want, dies = tt.tpm, ""
				}
				if lie == chips.ReplayedActivation && way == tpmKey {
					dies = "identity.claimed" // of the two ways, only the other asks twice in a passage
				}
				s := newStation(t, &fakeDriver{})
				order, b, owner := s.order(way, 2), withTPM(t, "a", "genuine"), withTPM(t, "b", "other")
				b.tpm = chips.Liar(lie, b.chip, owner.chip)
				place := at(b)
				if dies != "" {
					s.book.fail(dies, lost)
					s.dies(place, order)
					s.restart()
				}
				from, before := s.size(), s.live(order)
				st := s.passage(place, order)
				if want.code == "" {
					wantVerdict(t, st, records.Pass, "")
				} else {
					s.wantRefusal(st, from, want)
					claimed := count(want.events, "identity.claimed") - count(want.events, "identity.released")
					if live := s.live(order); live != before+claimed {
						t.Errorf("%d of the quota are used, want %d", live, before+claimed)
					}
					if before+count(want.events, "identity.claimed") == 0 && dies == "" {
						s.unclaimed(order)
					}
					b.tpm = b.chip
					wantVerdict(t, s.passage(place, order), records.Pass, "")
				}
				wantVerdict(t, s.passage(at(owner), order), records.Pass, "")
				s.oneIdentity(order, 2)
			})
		}
	}
}

// P3: an endorsement key that the station puts where it belongs is there, or is
// made again and is the same.
func TestP3DeathWhileTheEKIsMade(t *testing.T) {
	for _, moment := range []string{endorsing, endorsed} {
		for _, way := range []string{records.TPM, tpmKey} {
			t.Run(moment+"/"+way, func(t *testing.T) {
				t.Parallel()
				d := &fakeDriver{}
				s := newStation(t, d)
				order, b := s.order(way, 1), withTPM(t, "a", "unborn")
				d.at(moment, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
				s.dies(at(b), order)
				s.restart()
				b.cut()
				from := s.size()
				wantVerdict(t, s.passage(at(b), order), records.Pass, "")
				wantKinds(t, s.kinds(from), path(way)...)
				s.holds(b, s.unit())
				s.oneIdentity(order, 1)
			})
		}
	}
}

// The service knows RSA endorsement keys alone; for a key in the TPM any kind is as
// good a proof.
func TestOtherKindsOfEK(t *testing.T) {
	tests := []struct {
		kind   tpm.Kind
		name   string
		policy ek.Policy
	}{{tpm.P384, "P-384", ek.Require}, {tpm.P384, "P-384", ek.None}, {tpm.P256, "P-256", ek.Record}, {tpm.P256, "P-256", ek.None}}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.kind, " ", tt.policy), func(t *testing.T) {
			d := &fakeDriver{ek: tt.kind}
			s := newStation(t, d)
			s.policy = tt.policy
			attested, keyed, b := s.order(records.TPM, 1), s.order(tpmKey, 1), withTPM(t, "a", "genuine")
			from := s.size()
			s.wantRefusal(s.passage(at(b), attested), from, refusal{records.Fail, "ek-not-for-service",
				fmt.Sprintf("The board's endorsement key is %s; the provisioning service takes RSA-2048 only.", tt.name),
				"Correct the product's profile: these boards can be given an X.509 key in their TPM.", unread})
			s.unclaimed(attested)
			wantVerdict(t, s.passage(at(b), keyed), records.Pass, "")
			s.holds(b, s.unit())
			s.oneIdentity(keyed, 1)
		})
	}
}

// One TPM has an endorsement key of each kind. A board without a claim goes on under
// an order that asks for another; one with a claim is finished under its own order.
func TestOneTPMUnderTwoKindsOfOrders(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	s.policy = ek.None
	year := s.clock.now().AddDate(1, 0, 0)
	first, second := s.orderAs("first", tpmKey, 1, year), s.orderAs("second", tpmKey, 1, year)
	d.at(asking, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
	claimed, b := withTPM(t, "claimed", "genuine"), withTPM(t, "b", "other")
	s.dies(at(claimed), first)
	s.restart()
	wantVerdict(t, s.passage(at(b), first), records.Error, "order-exhausted")
	d.ek = tpm.P256
	from := s.size()
	s.wantRefusal(s.passage(at(claimed), second), from, refusal{records.Error, "board-other-order", "Unit U4 holds first-a000001 of order first.",
		"Finish it under order first.", known})
	wantVerdict(t, s.passage(at(b), second), records.Pass, "")
	s.holds(b, s.units()[1])
	s.oneIdentity(second, 1)
	d.ek = ""
	wantVerdict(t, s.passage(at(claimed), first), records.Pass, "")
	s.oneIdentity(first, 1)
}

// An EK certificate that expires between the look at it and the event was good, and
// stays so.
func TestEKCertificateExpiresMeanwhile(t *testing.T) {
	const years = 100
	d := &fakeDriver{}
	s := newStation(t, d)
	order, b := s.orderAs("long", records.TPM, 1, s.clock.now().AddDate(2*years, 0, 0)), withTPM(t, "a", "genuine")
	d.at(activating, func(context.Context, *board) error {
		s.clock.set(years * 365 * 24 * time.Hour)
		return nil
	})
	wantVerdict(t, s.passage(at(b), order), records.Pass, "")
	s.oneIdentity(order, 1)
}

// A driver that shows an endorsement key and asks no TPM gets no further, and stops
// nobody.
func TestNobodyToAskForAProof(t *testing.T) {
	s := newStation(t, mute{&fakeDriver{}})
	order := s.order(records.TPM, 1)
	wantVerdict(t, s.passage(at(withTPM(t, "a", "genuine")), order), records.Error, "station-error")
	s.unclaimed(order)
}

// mute finds boards whose TPM cannot be asked.
type mute struct{ *fakeDriver }

func (d mute) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	v, err := d.fakeDriver.Probe(ctx, p, o)
	return muteDevice{v}, err
}

type muteDevice struct{ flasher.Device }

func (muteDevice) Can() flasher.Powers { return flasher.Powers{} }

// A clock that was set back gives no claim and no certificate, whatever the board
// proves; a board that needs neither any more is finished.
func TestClockBehindProofs(t *testing.T) {
	const sentence, next = "The station's clock is 1h0m0s behind its own history.", "Set the clock, then put the board back."
	for _, way := range proving {
		t.Run(way, func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order, b, second := s.order(way, 2), boardFor(t, way, "a"), boardFor(t, way, "b")
			s.book.fail("identity.claimed", applied)
			s.dies(at(b), order)
			s.restart()
			s.clock.set(-time.Hour)
			from := s.size()
			s.wantRefusal(s.passage(at(second), order), from, refusal{records.Error, "clock-behind", sentence, next,
				slices.Concat([]records.Kind{"clock.stepped", "passage.opened"}, identified(way), unread[1:])})
			if s.live(order) != 1 {
				t.Errorf("%d claims", s.live(order))
			}
			from = s.size()
			st := s.passage(at(b), order)
			if way == records.TPM {
				wantVerdict(t, st, records.Pass, "")
			} else {
				s.wantRefusal(st, from, refusal{records.Error, "clock-behind", sentence, next,
					slices.Concat([]records.Kind{"passage.opened"}, identified(way), []records.Kind{"evidence.accepted"}, unread[1:])})
			}
			s.clock.set(0)
			if way != records.TPM {
				wantVerdict(t, s.passage(at(b), order), records.Pass, "")
			}
			wantVerdict(t, s.passage(at(second), order), records.Pass, "")
			s.oneIdentity(order, 2)
		})
	}
}
