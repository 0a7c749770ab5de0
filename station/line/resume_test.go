package line_test

import (
	"context"
	"slices"
	"testing"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/field"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/records"
)

// What a unit's second passage does, by where the first one died.
var (
	whole  = func(a string) []records.Kind { return path(a)[1:] }
	keeps  = func(a string) []records.Kind { return without(path(a)[1:], "identity.claimed") }
	again  = []records.Kind{"unit.identified", "unit.verified", "unit.passed", "unit.released", "passage.closed"}
	fresh  = func(a string) []records.Kind { return afresh(a) }
	turned = []records.Kind{"unit.refused", "passage.closed"}
)

func without(kinds []records.Kind, kind records.Kind) []records.Kind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k records.Kind) bool { return k == kind })
}

// afresh: what was made is given up, and made anew under the same claim.
func afresh(attestation string) []records.Kind {
	unmade := map[string]records.Kind{records.SymmetricKey: "secret.destroyed", records.X509: "certificate.voided"}[attestation]
	return slices.Concat([]records.Kind{"unit.identified", unmade}, path(attestation)[3:])
}

// P3, row by row of the unit's path: the station dies right after an event, or in
// an effect, and is started again with the same board.
func TestP3DeathAtEachStep(t *testing.T) {
	tests := []struct {
		name   string
		after  records.Kind // dies when it is on disk
		during string       // or dies at this moment
		// second is what the passage after it writes, without passage.opened.
		symmetric, x509 []records.Kind
		writes          int // in both passages together
		same            bool
	}{
		{name: "something is in the slot", after: "passage.opened", symmetric: whole(records.SymmetricKey), x509: whole(records.X509), writes: 1},
		{name: "it was probed", during: probing, symmetric: whole(records.SymmetricKey), x509: whole(records.X509), writes: 1},
		{name: "it is known", after: "unit.identified", symmetric: whole(records.SymmetricKey), x509: whole(records.X509), writes: 1},
		{name: "it has a claim", after: "identity.claimed", symmetric: keeps(records.SymmetricKey), x509: keeps(records.X509), writes: 1},
		// A sealed key waits; an injected one is gone with its process.
		{name: "something was made", after: "made", symmetric: without(keeps(records.SymmetricKey), "secret.sealed"), x509: fresh(records.X509), writes: 1},
		{name: "a write is planned", during: planned, symmetric: without(keeps(records.SymmetricKey), "secret.sealed"), x509: fresh(records.X509), writes: 1},
		// From here on the board is read before anything else.
		{name: "a write was announced", after: "write.begun", symmetric: fresh(records.SymmetricKey), x509: fresh(records.X509), writes: 1},
		{name: "a write begins", during: writing, symmetric: fresh(records.SymmetricKey), x509: fresh(records.X509), writes: 1},
		{name: "half is written", during: halfway, symmetric: fresh(records.SymmetricKey), x509: fresh(records.X509), writes: 2},
		{name: "all is written", during: written, symmetric: again, x509: again, writes: 1, same: true},
		{name: "it is read back", during: reading, symmetric: again, x509: again, writes: 1, same: true},
		{name: "it is verified", after: "unit.verified", symmetric: again, x509: again, writes: 1, same: true},
		{name: "it is released", after: "unit.released", symmetric: turned, x509: turned, writes: 1, same: true},
		{name: "it is let go", during: closing, symmetric: turned, x509: turned, writes: 1, same: true},
	}
	for _, tt := range tests {
		for _, attestation := range attestations {
			t.Run(tt.name+"/"+attestation, func(t *testing.T) {
				d := &fakeDriver{}
				s := newStation(t, d)
				order, b := s.order(attestation, 1), newBoard("a")
				place := at(b)
				kind := tt.after
				if kind == "made" {
					kind = made[attestation]
				}
				s.book.fail(kind, applied)
				d.at(tt.during, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
				if tt.during == closing {
					// The passage is closed by then: nothing of it is lost.
					wantVerdict(t, s.passage(place, order), records.Pass, "")
				} else {
					s.dies(place, order)
				}
				var before records.Unit
				if all := s.units(); len(all) == 1 {
					before = all[0]
				}
				s.restart()
				from := s.size()
				st := s.passage(place, order)

				want := map[string][]records.Kind{records.SymmetricKey: tt.symmetric, records.X509: tt.x509}[attestation]
				wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, want)...)
				if slices.Equal(want, turned) {
					wantVerdict(t, st, records.Error, "board-released")
				} else {
					wantVerdict(t, st, records.Pass, "")
				}
				u := s.unit()
				if u.State != records.Released || b.written() != tt.writes {
					t.Errorf("the unit is %s after %d writes, want %d", u.State, b.written(), tt.writes)
				}
				if before.RegistrationID != "" && (u.RegistrationID != before.RegistrationID || u.Number != before.Number || u.Serial != before.Serial) {
					t.Errorf("%s (number %d) became %s (number %d)", before.RegistrationID, before.Number, u.RegistrationID, u.Number)
				}
				if tt.same && secretName(u) != secretName(before) {
					t.Errorf("what was found on the board, %s, was exchanged for %s", secretName(before), secretName(u))
				}
				s.holds(b, u)
				s.oneIdentity(order, 1)
			})
		}
	}
}

func secretName(u records.Unit) string {
	switch {
	case u.Secret != nil:
		return u.Secret.Ref
	case u.Cert != nil:
		return u.Cert.Serial
	}
	return ""
}

// holds asserts that the board's storage is what the ledger says of the unit.
func (s *station) holds(b *board, u records.Unit) {
	s.Helper()
	if b.holds(flasher.ItemRegistrationID) != u.RegistrationID || u.RegistrationID == "" {
		s.Errorf("the board holds %q, the ledger says %q", b.holds(flasher.ItemRegistrationID), u.RegistrationID)
	}
	if u.Attestation == records.SymmetricKey {
		key, err := s.Reveal(s.ctx, u.Secret.Ref)
		must(s, err)
		if b.holds(flasher.ItemSymmetricKey) != string(key) {
			s.Error("the key on the board is not the sealed one")
		}
		return
	}
	leaf, _ := decodePEM(b.holds(flasher.ItemCertificate))
	if string(leaf) != string(u.Cert.DER) {
		s.Error("the certificate on the board is not the one in the ledger")
	}
}

// A death can come twice: in the first passage while half is written, and in the
// second between giving the old up and making the new.
func TestP3DeathWhileMakingAnew(t *testing.T) {
	for _, attestation := range attestations {
		for _, kind := range []records.Kind{afresh(attestation)[1], made[attestation], "write.begun"} {
			for _, f := range []fate{refused, lost, applied} {
				t.Run(string(kind)+" "+string(f)+"/"+attestation, func(t *testing.T) {
					d := &fakeDriver{}
					s := newStation(t, d)
					order, b := s.order(attestation, 1), newBoard("a")
					place := at(b)
					d.at(halfway, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
					s.dies(place, order)
					claimed := s.unit().RegistrationID
					s.restart()

					s.book.fail(kind, f)
					if f == refused {
						wantVerdict(t, s.passage(place, order), records.Error, "disk-full")
					} else {
						s.dies(place, order)
						s.restart()
					}
					wantVerdict(t, s.passage(place, order), records.Pass, "")
					if u := s.unit(); u.RegistrationID != claimed {
						t.Errorf("%s became %s", claimed, u.RegistrationID)
					}
					s.holds(b, s.unit())
					s.oneIdentity(order, 1)
				})
			}
		}
	}
}

// A cable is pulled out of a real conversation in mid-write, and the power goes
// when the flash was just erased; the board comes back and gets the same identity.
func TestP3PulledCable(t *testing.T) {
	for name, faults := range map[string]boards.Faults{
		"in a block":      {PullAtBlock: 1},
		"after the erase": {PowerLostAfterErase: true},
	} {
		for _, attestation := range attestations {
			t.Run(name+"/"+attestation, func(t *testing.T) {
				t.Parallel()
				s := newStation(t, espressif.New())
				order := s.order(attestation, 1)
				place, b := newSocket(t), chip(t, func(c *boards.Config) { c.Faults = faults })
				place.insert(t, b)
				wantVerdict(t, s.passage(place.port, order), records.Error, "link-lost")
				claimed := s.unit().RegistrationID
				must(t, place.AwaitEmpty(s.ctx))

				// The firmware's own reader says what arrived: half a block can be all
				// there is to know.
				want := afresh(attestation)
				if id, err := field.ReadIdentity(b.FlashPath()); err == nil && id.RegistrationID == claimed {
					want = again
				}
				from := s.size()
				must(t, place.Insert(b))
				wantVerdict(t, s.passage(place.port, order), records.Pass, "")
				wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, want)...)
				if u := s.unit(); u.RegistrationID != claimed {
					t.Errorf("%s became %s", claimed, u.RegistrationID)
				}
				s.oneIdentity(order, 1)
			})
		}
	}
}

// A real board that arrived whole before the death is read and not written again.
func TestP3WhatArrivedIsNotWrittenAgain(t *testing.T) {
	for _, attestation := range attestations {
		t.Run(attestation, func(t *testing.T) {
			t.Parallel()
			s := newStation(t, espressif.New())
			order := s.order(attestation, 1)
			place, b := newSocket(t), chip(t, nil)
			place.insert(t, b)
			s.book.fail("unit.verified", lost)
			s.dies(place.port, order)
			before, history := s.unit(), len(b.History())
			s.restart()
			from := s.size()
			wantVerdict(t, s.passage(place.port, order), records.Pass, "")
			wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, again)...)
			const flashDeflBegin = 0x10
			for _, c := range b.History()[history:] {
				if c.Op == flashDeflBegin {
					t.Error("the flash was written again")
				}
			}
			if now := secretName(s.unit()); now != secretName(before) {
				t.Errorf("%s became %s", secretName(before), now)
			}
			s.oneIdentity(order, 1)
		})
	}
}

// A passage that somebody cancels, that runs into its limit, or that loses its
// board in mid-write ends with an ERROR, and the next one finishes the unit.
func TestP3BrokenOffAndFinished(t *testing.T) {
	for _, attestation := range attestations {
		t.Run(attestation, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(attestation, 1), newBoard("a")
			place := at(b)
			w := s.slot("slot-1", place, nil)

			d.at(halfway, func(ctx context.Context, _ *board) error { must(t, w.Cancel(badge)); <-ctx.Done(); return ctx.Err() })
			wantVerdict(t, w.pass(order), records.Error, "cancelled")
			d.at(halfway, func(context.Context, *board) error { place.put(nil); return link.ErrGone })
			wantVerdict(t, w.pass(order), records.Error, "link-lost")
			wantVerdict(t, w.pass(order), records.Error, "link-lost") // it is not there
			place.put(b)
			d.at(reading, func(context.Context, *board) error { return context.DeadlineExceeded })
			wantVerdict(t, w.pass(order), records.Error, "step-timeout")
			wantVerdict(t, w.pass(order), records.Pass, "")
			s.holds(b, s.unit())
			s.oneIdentity(order, 1)
		})
	}
}

// Whatever happened to the first board, another one that comes under its hardware
// IDs never sees a byte of a secret that the first was, or may have been, sent.
func TestSecretThatMaySitOnOneBoardIsNeverWrittenToAnother(t *testing.T) {
	lie := func(found flasher.Manifest) flasher.Manifest { return found[1:] }
	tests := []struct {
		name   string
		during string
		after  records.Kind
		lie    func(flasher.Manifest) flasher.Manifest
	}{
		{name: "announced", after: "write.begun"},
		{name: "begun", during: writing},
		{name: "half written", during: halfway},
		{name: "written", during: written},
		{name: "read back", during: reading},
		{name: "verified", after: "unit.verified"},
		{name: "failed", lie: lie},
	}
	for _, tt := range tests {
		for _, attestation := range attestations {
			t.Run(tt.name+"/"+attestation, func(t *testing.T) {
				d := &fakeDriver{found: tt.lie}
				s := newStation(t, d)
				order := s.order(attestation, 1)
				first, clone := newBoard("first", mac("aa")), newBoard("clone", mac("aa"))
				place := at(first)
				s.book.fail(tt.after, applied)
				d.at(tt.during, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
				if tt.lie != nil {
					wantVerdict(t, s.passage(place, order), records.Fail, "verify-mismatch")
				} else {
					s.dies(place, order)
				}
				s.restart()

				d.found, d.on = nil, nil
				place.put(clone)
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				place.put(first)
				wantVerdict(t, s.passage(place, order), records.Error, "board-released")
				for _, secret := range first.secrets() {
					if slices.Contains(clone.secrets(), secret) {
						t.Error("both boards were sent the same secret")
					}
				}
				if len(clone.secrets()) != 1 {
					t.Errorf("the clone was sent %d secrets", len(clone.secrets()))
				}
				s.holds(clone, s.unit())
				s.oneIdentity(order, 1)
			})
		}
	}
}

// A board that is exchanged in mid-passage gets nothing of what was made for the
// first, becomes a unit of its own, and the first is finished when it returns.
func TestBoardSwappedInMidPassage(t *testing.T) {
	for _, moment := range []string{writing, reading} {
		for _, attestation := range attestations {
			t.Run(moment+"/"+attestation, func(t *testing.T) {
				d := &fakeDriver{}
				s := newStation(t, d)
				order, first, second := s.order(attestation, 2), newBoard("first"), newBoard("second")
				place := at(first)
				d.at(moment, func(context.Context, *board) error { place.put(second); return nil })
				wantVerdict(t, s.passage(place, order), records.Error, "board-swapped")
				if second.written() != 0 {
					t.Error("the second board was written to")
				}
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				place.put(first)
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				for _, secret := range first.secrets() {
					if slices.Contains(second.secrets(), secret) {
						t.Error("both boards were sent the same secret")
					}
				}
				for _, u := range s.units() {
					b := map[string]*board{"first": first, "second": second}[u.Hardware[0].Value]
					s.holds(b, u)
				}
				s.oneIdentity(order, 2)
			})
		}
	}
}
