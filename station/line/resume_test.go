package line_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/field"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/line"
)

// What a unit's second passage does in a way, by where the first one died.
var (
	whole  = func(way string) []records.Kind { return path(way)[1:] }
	keeps  = func(way string) []records.Kind { return without(whole(way), "identity.claimed") }
	turned = func(string) []records.Kind { return []records.Kind{"unit.refused", "passage.closed"} }
)

// waits: what was made for the unit waits for it. An injected key is gone with its
// process; a board's own is found on it, and its certificate is in the ledger.
func waits(way string) []records.Kind {
	switch way {
	case records.X509:
		return fresh(way)
	case ownKey, tpmKey, records.TPM:
		return slices.Concat(identified(way), path(way)[slices.Index(path(way), "write.begun"):])
	}
	return without(keeps(way), made[way])
}

// fresh: what a write may have brought onto the board is made anew; but a key of
// the board's own is its own whatever was written, and keeps its certificate.
func fresh(way string) []records.Kind {
	if slices.Contains(proving, way) {
		return waits(way)
	}
	return afresh(way)
}

// again: all of it is on the board already.
func again(way string) []records.Kind {
	return slices.Concat(identified(way), path(way)[slices.Index(path(way), "unit.verified"):])
}

// identified is how a unit that is known begins.
func identified(way string) []records.Kind {
	return path(way)[1:slices.Index(path(way), "identity.claimed")]
}

func without(kinds []records.Kind, kind records.Kind) []records.Kind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k records.Kind) bool { return k == kind })
}

// afresh: what was made is given up, and made anew under the same claim.
func afresh(attestation string) []records.Kind {
	unmade := map[string]records.Kind{records.SymmetricKey: "secret.destroyed", records.X509: "certificate.voided"}[attestation]
	return slices.Concat([]records.Kind{"unit.identified", unmade}, path(attestation)[3:])
}

// P3, row by row of the unit's path: the station dies right after an event, or in
// an effect, the board loses its power, and both are started again.
func TestP3DeathAtEachStep(t *testing.T) {
	tests := []struct {
		name   string
		after  records.Kind // dies when it is on disk
		during string       // or dies at this moment
		in     func(way string) bool
		second func(way string) []records.Kind // what the passage after it writes, without passage.opened
		writes int                             // in both passages together
		same   bool
	}{
		{name: "something is in the slot", after: "passage.opened", second: whole, writes: 1},
		{name: "it was probed", during: probing, second: whole, writes: 1},
		{name: "its TPM is asked", during: activating, in: hasTPM, second: whole, writes: 1},
		{name: "its TPM has answered", during: activated, in: hasTPM, second: whole, writes: 1},
		{name: "it is known", after: "unit.identified", second: whole, writes: 1},
		{name: "its TPM is believed", after: "evidence of a TPM", in: hasTPM, second: whole, writes: 1},
		{name: "it has a claim", after: "identity.claimed", second: keeps, writes: 1},
		// A key that was not kept is as if it had never been; one that was is found.
		{name: "it is asked for a key", during: asking, in: hasOwnKey, second: keeps, writes: 1},
		{name: "it has made a key", during: making, in: hasOwnKey, second: keeps, writes: 1},
		{name: "it has kept the key", during: keyed, in: hasOwnKey, second: keeps, writes: 1},
		{name: "its TPM certifies the key", during: certifying, in: func(way string) bool { return way == tpmKey }, second: keeps, writes: 1},
		{name: "its request is made", during: requested, in: hasOwnKey, second: keeps, writes: 1},
		{name: "its key is believed", after: "evidence of a key", in: hasOwnKey, second: keeps, writes: 1},
		// A sealed key waits, and so does a board's own; an injected one is gone with
		// its process.
		{name: "something was made", after: "made", in: func(way string) bool { return made[way] != "" }, second: waits, writes: 1},
		{name: "a write is planned", during: planned, second: waits, writes: 1},
		// From here on the board is read before anything else.
		{name: "a write was announced", after: "write.begun", second: fresh, writes: 1},
		{name: "a write begins", during: writing, second: fresh, writes: 1},
		{name: "half is written", during: halfway, second: fresh, writes: 2},
		{name: "all is written", during: written, second: again, writes: 1, same: true},
		{name: "it is read back", during: reading, second: again, writes: 1, same: true},
		{name: "it is verified", after: "unit.verified", second: again, writes: 1, same: true},
		{name: "it is released", after: "unit.released", second: turned, writes: 1, same: true},
		{name: "it is let go", during: closing, second: turned, writes: 1, same: true},
	}
	for _, tt := range tests {
		for _, way := range ways {
			if tt.in != nil && !tt.in(way) {
				continue
			}
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				d := &fakeDriver{}
				s := newStation(t, d)
				order, b := s.order(way, 1), boardFor(t, way, "a")
				place := at(b)
				signed := &countingIssuer{Issuer: s.issuer}
				issuer := func(c *line.Config) { c.Issuer = signed }
				switch tt.after {
				case "made":
					s.book.fail(made[way], applied)
				case "evidence of a TPM":
					s.book.fail("evidence.accepted", applied)
				case "evidence of a key":
					s.book.failAfter(count(identified(way), "evidence.accepted"), "evidence.accepted", applied)
				default:
					s.book.fail(tt.after, applied)
				}
				d.at(tt.during, func(context.Context, *board) error { s.book.die(); return s.book.unknown() })
				w := s.slot("slot-1", place, issuer)
				if tt.during == closing {
					// The passage is closed by then: nothing of it is lost.
					wantVerdict(t, w.pass(order), records.Pass, "")
				} else {
					w.attempt(order)
				}
				if err := w.end(nil); !errors.Is(err, line.ErrStop) && tt.during != closing {
					t.Fatalf("Run ended with %v, want ErrStop; the slot shows %+v", err, w.Status())
				}
				var before records.Unit
				if all := s.units(); len(all) == 1 {
					before = all[0]
				}
				key := b.keyOf(t, way)
				s.restart()
				b.cut()
				from := s.size()
				st := s.slot("slot-1", place, issuer).pass(order)

				want := tt.second(way)
				wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, want)...)
				if want[0] == "unit.refused" {
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
				if hasOwnKey(way) {
					// One key, one certificate, whatever happened.
					if key != "" && u.DeviceKey != key || b.made() != 1 {
						t.Errorf("the key %s became %s, the board made %d", key, u.DeviceKey, b.made())
					}
					if signed.n != 1 || before.Cert != nil && u.Cert.Serial != before.Cert.Serial {
						t.Errorf("%d certificates were signed", signed.n)
					}
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

// holds asserts that the board's storage, and its keys, are what the ledger says of
// the unit.
func (s *station) holds(b *board, u records.Unit) {
	s.Helper()
	if b.holds(flasher.ItemRegistrationID) != u.RegistrationID || u.RegistrationID == "" {
		s.Errorf("the board holds %q, the ledger says %q", b.holds(flasher.ItemRegistrationID), u.RegistrationID)
	}
	switch u.Attestation {
	case records.SymmetricKey:
		key, err := s.Reveal(s.ctx, u.Secret.Ref)
		must(s, err)
		if b.holds(flasher.ItemSymmetricKey) != string(key) {
			s.Error("the key on the board is not the sealed one")
		}
	case records.X509:
		leaf, _ := decodePEM(b.holds(flasher.ItemCertificate))
		if string(leaf) != string(u.Cert.DER) {
			s.Error("the certificate on the board is not the one in the ledger")
		}
	case records.TPM:
		if public, err := b.chip.power().EK(s.ctx); err != nil || !bytes.Equal(public, u.EK) {
			s.Errorf("the ledger's endorsement key is not the one that tpm2-tools read (%v)", err)
		}
	}
	way := map[string]string{records.KeyInFile: ownKey, records.KeyInTPM: tpmKey}[u.Key]
	if way == "" {
		return
	}
	if key := b.keyOf(s, way); key != u.DeviceKey || key != u.Cert.SPKI || u.Cert.Key != u.Key {
		s.Errorf("the board holds the key %s, the ledger says %s, the certificate is for %s (%s)", key, u.DeviceKey, u.Cert.SPKI, u.Cert.Key)
	}
	if b.holds(flasher.ItemPrivateKey) != "" {
		s.Error("the board was given a private key")
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
					want = again(attestation)
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
			wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, again(attestation))...)
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
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(way, 1), boardFor(t, way, "a")
			place := at(b)
			w := s.slot("slot-1", place, nil)

			if hasTPM(way) {
				d.at(activating, func(context.Context, *board) error { place.put(nil); return nil })
				wantVerdict(t, w.pass(order), records.Error, "link-lost")
				place.put(b)
			}
			if hasOwnKey(way) {
				d.at(keyed, func(context.Context, *board) error { return link.ErrGone })
				wantVerdict(t, w.pass(order), records.Error, "link-lost")
			}
			d.at(halfway, func(ctx context.Context, _ *board) error { must(t, w.Cancel(badge)); <-ctx.Done(); return ctx.Err() })
			wantVerdict(t, w.pass(order), records.Error, "cancelled")
			d.at(halfway, func(context.Context, *board) error { place.put(nil); return link.ErrGone })
			wantVerdict(t, w.pass(order), records.Error, "link-lost")
			wantVerdict(t, w.pass(order), records.Error, "link-lost") // it is not there
			place.put(b)
			d.at(reading, func(context.Context, *board) error { return context.DeadlineExceeded })
			wantVerdict(t, w.pass(order), records.Error, "step-timeout")
			wantVerdict(t, w.pass(order), records.Pass, "")
			if hasOwnKey(way) && b.made() != 1 {
				t.Errorf("the board made %d keys", b.made())
			}
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
	for _, moment := range []string{activating, asking, certifying, writing, reading} {
		for _, way := range ways {
			if moment == activating && !hasTPM(way) || moment == asking && !hasOwnKey(way) || moment == certifying && way != tpmKey {
				continue
			}
			t.Run(moment+"/"+way, func(t *testing.T) {
				t.Parallel()
				d := &fakeDriver{}
				s := newStation(t, d)
				order, first, second := s.order(way, 2), boardFor(t, way, "first"), boardFor(t, way, "second")
				place := at(first)
				d.at(moment, func(context.Context, *board) error { place.put(second); return nil })
				wantVerdict(t, s.passage(place, order), records.Error, "board-swapped")
				if second.written() != 0 || second.made() != 0 {
					t.Error("the second board was written to, or made a key")
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
