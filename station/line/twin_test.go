package line_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"reflect"
	"testing"

	"nameplate/ca/ek"
	chips "nameplate/fixtures/tpm"
	"nameplate/flasher/tpm"
	"nameplate/records"
)

// P1: a TPM whose state was copied names one unit. The copy is set aside, whatever
// the first has come to, and the first goes on.
func TestP1CopiedTPM(t *testing.T) {
	for _, way := range []string{records.TPM, tpmKey} {
		for _, after := range []records.Kind{"unit.identified", "identity.claimed", "write.begun", "unit.released"} {
			t.Run(string(after)+"/"+way, func(t *testing.T) {
				t.Parallel()
				s := newStation(t, &fakeDriver{})
				order, first, second := s.order(way, 2), withTPM(t, "first", "genuine"), withTPM(t, "second", "genuine")
				s.book.fail(after, applied)
				s.dies(at(first), order)
				s.restart()
				live, from := s.live(order), s.size()
				s.wantRefusal(s.passage(at(second), order), from, refusal{records.Fail, "board-id-twice",
					"The board shares a hardware ID with unit U3, but its mac is second and not first: two boards with one ID.",
					"Set the board aside and report the pair to the board's supplier.", unread})
				if e := s.events()[from+1]; e.Unit != 3 {
					t.Errorf("the refusal is about unit %s", e.Unit)
				}
				if s.live(order) != live {
					t.Errorf("%d of the quota were used, %d are", live, s.live(order))
				}
				if after != "unit.released" {
					wantVerdict(t, s.passage(at(first), order), records.Pass, "")
				}
				s.holds(first, s.unit())
				s.oneIdentity(order, 1)
			})
		}
	}
}

// P1: one TPM in two slots is one board seen twice, or a copy of it.
func TestP1SameTPMInTwoSlots(t *testing.T) {
	for _, way := range []string{records.TPM, tpmKey} {
		d := &fakeDriver{}
		s := newStation(t, d)
		order := s.order(way, 2)
		b, twin := withTPM(t, "a", "genuine"), withTPM(t, "a", "genuine")
		d.at(writing, func(context.Context, *board) error {
			from := s.size()
			s.wantRefusal(s.passage2("slot-2", twin, order), from, refusal{records.Error, "board-in-two-slots",
				"Unit U3 is in another slot right now (passage P2): one board seen twice, or two boards with one hardware ID.",
				"Leave the other board where it is, take this one out and set it aside.", unread})
			return nil
		})
		wantVerdict(t, s.passage(at(b), order), records.Pass, "")
		s.oneIdentity(order, 1)
	}
}

// A board that shows the endorsement key of another, known or not, takes nothing of
// the other's: it cannot open what is made for that key.
func TestP1BorrowedEK(t *testing.T) {
	unheld := refusal{records.Fail, "tpm-activation-failed", "The TPM did not prove that it holds its endorsement key.",
		"Set the board aside: its TPM may be false, or stand for another one.", unread}
	for _, after := range []records.Kind{"", "unit.identified", "write.begun", "unit.released"} {
		t.Run("owner at "+string(after), func(t *testing.T) {
			t.Parallel()
			s := newStation(t, &fakeDriver{})
			order, owner, thief := s.order(records.TPM, 2), withTPM(t, "owner", "genuine"), withTPM(t, "thief", "other")
			thief.tpm = chips.Liar(chips.BorrowedIdentity, thief.chip, owner.chip)
			if after != "" {
				s.book.fail(after, applied)
				s.dies(at(owner), order)
				s.restart()
			}
			before, from := s.units(), s.size()
			s.wantRefusal(s.passage(at(thief), order), from, unheld)
			if after := s.units(); !reflect.DeepEqual(before, after) || s.events()[from+1].Unit != 0 {
				t.Errorf("units %+v became %+v", before, after)
			}
			if after != "unit.released" {
				wantVerdict(t, s.passage(at(owner), order), records.Pass, "")
			}
			thief.tpm = thief.chip
			wantVerdict(t, s.passage(at(thief), order), records.Pass, "")
			s.oneIdentity(order, 2)
		})
	}
}

// P1: the TPM of a unit is exchanged between two passages, against a new one or
// that of another unit; with its own it is finished.
func TestP1ExchangedTPM(t *testing.T) {
	for _, way := range []string{records.TPM, tpmKey} {
		for _, after := range []records.Kind{"unit.identified", "identity.claimed", "write.begun", "unit.verified"} {
			t.Run(string(after)+"/"+way, func(t *testing.T) {
				t.Parallel()
				s := newStation(t, &fakeDriver{})
				order, b, other := s.order(way, 2), withTPM(t, "a", "genuine"), withTPM(t, "b", "other")
				own := b.chip
				s.book.fail(after, applied)
				s.dies(at(b), order)
				s.restart()
				ek := func() string {
					for _, h := range s.unit().Hardware {
						if h.Kind == "ek" {
							return h.Value
						}
					}
					return ""
				}
				b.solder(other.chip)
				from := s.size()
				s.wantRefusal(s.passage(at(b), order), from, refusal{records.Fail, "board-id-twice",
					fmt.Sprintf("The board shares a hardware ID with unit U3, but its ek is %s and not %s: two boards with one ID.", registrationID(t, other.chip), ek()),
					"Set the board aside and report the pair to the board's supplier.", unread})
				wantVerdict(t, s.passage(at(other), order), records.Pass, "")
				from = s.size()
				s.wantRefusal(s.passage(at(b), order), from, refusal{records.Fail, "board-mixed",
					fmt.Sprintf("The board's hardware IDs belong to two units, U3 and %s.", s.units()[1].ID),
					"Set the board aside and call the process engineer.", unread})
				b.solder(own)
				wantVerdict(t, s.passage(at(b), order), records.Pass, "")
				s.oneIdentity(order, 2)
			})
		}
	}
}

// registrationID is what the service's own tools call the TPM.
func registrationID(t *testing.T, m *module) string {
	t.Helper()
	public, err := m.power().EK(t.Context())
	must(t, err)
	return ek.RegistrationID(public)
}

// A key that another unit made is a copy of that one's storage, wherever it turns
// up; without it the board makes one of its own.
func TestP1CopiedKey(t *testing.T) {
	for _, after := range []records.Kind{"evidence.accepted", "certificate.issued", "unit.released"} {
		t.Run("its owner at "+string(after), func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order, first, known, fresh := s.order(ownKey, 3), newBoard("first"), newBoard("known"), newBoard("new")
			s.book.fail(after, applied)
			s.dies(at(first), order)
			s.restart()
			s.book.fail("identity.claimed", applied)
			s.dies(at(known), order)
			s.restart()

			known.keep(first.own())
			live, from := s.live(order), s.size()
			s.wantRefusal(s.passage(at(known), order), from, refusal{records.Fail, "key-known", "The board holds the key of unit U3: its storage is a copy.",
				"Set the board aside and report it: images must be made before the first start, without keys.",
				[]records.Kind{"passage.opened", "unit.identified", "identity.released", "unit.failed", "passage.closed"}})
			fresh.keep(first.own())
			from = s.size()
			s.wantRefusal(s.passage(at(fresh), order), from, refusal{records.Fail, "board-holds-key", "The board is new here, but it holds a device key already.",
				"Set the board aside; remove that key if the board is known to be unused.", unread})
			if s.live(order) != live-1 || len(s.units()) != 2 {
				t.Errorf("%d of the quota are used, want %d; %d units", s.live(order), live-1, len(s.units()))
			}
			known.keep(nil)
			fresh.keep(nil)
			if after != "unit.released" {
				wantVerdict(t, s.passage(at(first), order), records.Pass, "")
			}
			wantVerdict(t, s.passage(at(known), order), records.Pass, "")
			wantVerdict(t, s.passage(at(fresh), order), records.Pass, "")
			s.oneIdentity(order, 3)
		})
	}
}

// A key that nobody asked the board to make may be known to others.
func TestKeyThatNobodyAskedFor(t *testing.T) {
	for _, way := range []string{ownKey, tpmKey} {
		t.Run(way, func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order, b := s.order(way, 1), boardFor(t, way, "a")
			give := func() {
				if way == ownKey {
					key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
					must(t, err)
					b.keep(key)
					return
				}
				c, err := tpm.Open(t.Context(), b.chip)
				must(t, err)
				_, err = c.Request(t.Context(), keyHandle, "somebody")
				must(t, err)
				must(t, c.Close(t.Context()))
			}
			take := func() {
				if way == ownKey {
					b.keep(nil)
					return
				}
				needTool(t, "tpm2_evictcontrol")
				_, err := b.chip.power().Tool(t.Context(), "tpm2_evictcontrol", "-C", "o", "-c", fmt.Sprintf("%#x", keyHandle))
				must(t, err)
			}
			const next = "Set the board aside; remove that key if the board is known to be unused."
			give()
			from := s.size()
			s.wantRefusal(s.passage(at(b), order), from, refusal{records.Fail, "board-holds-key", "The board is new here, but it holds a device key already.", next, unread})
			s.unclaimed(order)

			take()
			s.book.fail("unit.identified", applied)
			s.dies(at(b), order)
			s.restart()
			give()
			id := s.unit().ID
			from = s.size()
			s.wantRefusal(s.passage(at(b), order), from, refusal{records.Fail, "board-holds-key",
				fmt.Sprintf("Unit %s was never asked to make a key, but it holds one.", id), next, unread})
			if s.live(order) != 0 {
				t.Error("it was counted")
			}
			take()
			wantVerdict(t, s.passage(at(b), order), records.Pass, "")
			s.oneIdentity(order, 1)
		})
	}
}
