package line_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/line"
)

// P4: a board that does not show what it was given never passes, however it says
// so, in the passage that wrote it and in one that comes back to it.
func TestP4NoFalsePass(t *testing.T) {
	swap := func(of string) func(flasher.Manifest) flasher.Manifest {
		return func(found flasher.Manifest) flasher.Manifest {
			for i := range found {
				if found[i].Name == of {
					found[i].SHA256 = flasher.NewItem(of, nil, []byte("something else"), flasher.ByBytes).SHA256
				}
			}
			return found
		}
	}
	drop := func(of string) func(flasher.Manifest) flasher.Manifest {
		return func(found flasher.Manifest) flasher.Manifest {
			return slices.DeleteFunc(found, func(it flasher.Item) bool { return it.Name == of })
		}
	}
	tests := []struct {
		name, differ string
		found        func(flasher.Manifest) flasher.Manifest
	}{
		{"says that it holds nothing", "id_scope, registration_id, registration_url, symmetric_key", func(flasher.Manifest) flasher.Manifest { return flasher.Manifest{} }},
		{"says nothing", "id_scope, registration_id, registration_url, symmetric_key", func(flasher.Manifest) flasher.Manifest { return nil }},
		{"holds another ID", "registration_id", swap(flasher.ItemRegistrationID)},
		{"holds another key", "symmetric_key", swap(flasher.ItemSymmetricKey)},
		{"lacks the key", "symmetric_key", drop(flasher.ItemSymmetricKey)},
		{"lacks the scope", "id_scope", drop(flasher.ItemIDScope)},
		{"has empty digests", "id_scope, registration_id, registration_url, symmetric_key", func(found flasher.Manifest) flasher.Manifest {
			for i := range found {
				found[i].SHA256 = ""
			}
			return found
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &fakeDriver{found: tt.found}
			s := newStation(t, d)
			order, place := s.order(records.SymmetricKey, 1), at(newBoard("a"))
			want := refusal{records.Fail, "verify-mismatch", "The board does not hold what was written: " + tt.differ + " differ.",
				"Put it back once; if it happens again, set the board aside.",
				slices.Concat(path(records.SymmetricKey)[:5], []records.Kind{"unit.failed", "passage.closed"})}
			from := s.size()
			s.wantRefusal(s.passage(place, order), from, want)
			// It comes back, is read, is given a fresh key, and fails again.
			want.events = slices.Concat([]records.Kind{"passage.opened"}, afresh(records.SymmetricKey)[:4], want.events[5:])
			from = s.size()
			s.wantRefusal(s.passage(place, order), from, want)
			if u := s.unit(); u.State != records.Writing || u.Enrollment != "" {
				t.Errorf("the unit is %s, its enrollment %q", u.State, u.Enrollment)
			}
			d.found = nil
			wantVerdict(t, s.passage(place, order), records.Pass, "")
			s.oneIdentity(order, 1)
		})
	}
}

// P4: a plan that would write nothing that can be found again is not written.
func TestP4NothingToFindIsNoPass(t *testing.T) {
	s := newStation(t, planless{&fakeDriver{}})
	order, b := s.order(records.X509, 1), newBoard("a")
	wantVerdict(t, s.passage(at(b), order), records.Error, "station-error")
	if b.written() != 0 {
		t.Error("it was written")
	}
	s.replays()
}

// planless makes plans without a manifest.
type planless struct{ *fakeDriver }

func (d planless) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	v, err := d.fakeDriver.Probe(ctx, p, o)
	return planlessDevice{v}, err
}

type planlessDevice struct{ flasher.Device }

func (v planlessDevice) Plan(id flasher.Identity) (flasher.Plan, error) {
	p, err := v.Device.Plan(id)
	p.Manifest = nil
	return p, err
}

// P4: what the ledger keeps of a PASS says what was found, item by item, and how.
func TestP4RecordSaysWhatWasFound(t *testing.T) {
	for _, way := range ways {
		s := newStation(t, &fakeDriver{})
		b := boardFor(t, way, "a")
		wantVerdict(t, s.passage(at(b), s.order(way, 1)), records.Pass, "")
		for _, e := range s.events() {
			verified, ok := s.body(e).(records.UnitVerified)
			if !ok {
				continue
			}
			read := 0
			for _, it := range verified.Found {
				if it.How == string(flasher.ByPossession) {
					if (it.Proof != nil) != hasOwnKey(way) {
						t.Errorf("%s: found %+v", way, it)
					}
					continue
				}
				read++
				want := flasher.NewItem(it.Name, unhex(it.Salt), b.items[it.Name], flasher.ByBytes)
				if recordOf(want) != it || isSecret(it.Name) && it.Salt == "" {
					t.Errorf("found %+v, want %+v", it, want)
				}
			}
			if read != len(b.items) {
				t.Errorf("%d items were read, the board holds %d", read, len(b.items))
			}
		}
	}
}

func recordOf(it flasher.Item) records.Item {
	return records.Item{Name: it.Name, SHA256: it.SHA256, Salt: it.Salt, How: string(it.How)}
}

// P5: whatever way a passage goes, the keys that were in it are in no file of the
// ledger, no log, and nothing that a slot shows, in any usual spelling.
func TestP5KeysStayHome(t *testing.T) {
	for _, attestation := range attestations {
		t.Run(attestation, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order, place := s.order(attestation, 10), at(nil)
			var secrets []string
			var shown []byte
			run := func(name string) {
				b := newBoard(name)
				place.put(b)
				w := s.slot("slot-1", place, nil)
				w.attempt(order)
				w.end(nil)
				text, err := json.Marshal(w.shown)
				must(t, err)
				shown = append(shown, text...)
				secrets = append(secrets, b.secrets()...)
				if s.book.dead {
					s.restart()
				}
			}
			run("passes")
			// A careless driver that prints all it was given.
			d.on = func(_ context.Context, moment string, b *board) error {
				if moment == written {
					return fmt.Errorf("writing %v %+v %#v %s %x: %w", d.handed, d.handed, d.handed, d.handed, d.handed, errBroken)
				}
				return nil
			}
			run("breaks")
			d.on = nil
			d.found = func(flasher.Manifest) flasher.Manifest { return nil }
			run("fails")
			d.found = nil
			s.book.fail("unit.verified", lost)
			run("dies")
			if len(secrets) != 4 {
				t.Fatalf("%d secrets were written, want 4", len(secrets))
			}

			places := map[string][]byte{"the log": s.log.bytes(), "what the slot showed": shown}
			for _, suffix := range []string{"", "-wal", "-shm"} {
				b, err := os.ReadFile(s.path + suffix)
				must(t, err)
				places["ledger.db"+suffix] = b
			}
			for where, content := range places {
				if where != "ledger.db-shm" && len(content) < 1000 {
					t.Errorf("only %d bytes of %s were looked at", len(content), where)
				}
				for _, secret := range secrets {
					for how, spelled := range spellings(secret) {
						if bytes.Contains(content, spelled) {
							t.Errorf("%s holds a key, %s", where, how)
						}
					}
				}
			}
		})
	}
}

// spellings are the ways in which a key could have got somewhere.
func spellings(secret string) map[string][]byte {
	raw := []byte(secret)
	out := map[string][]byte{"as it is": raw}
	add := func(what string, b []byte) {
		out[what+" in hex"] = []byte(hex.EncodeToString(b))
		out[what+" in HEX"] = bytes.ToUpper([]byte(hex.EncodeToString(b)))
		out[what+" as Go prints bytes"] = bytes.Trim(fmt.Append(nil, b), "[]")
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			out[what+" in "+name] = []byte(enc.EncodeToString(b))
		}
	}
	add("the key", raw)
	if der, _ := decodePEM(secret); der != nil {
		out["the DER"] = der
		add("the DER", der)
		for i, l := range bytes.Split(raw, []byte("\n")) {
			if len(l) >= 20 && !bytes.HasPrefix(l, []byte("-----")) {
				out[fmt.Sprint("line ", i, " of the PEM")] = l
			}
		}
	}
	return out
}

// P5: a key lives in memory until it was verified, and no longer, however the
// passage ends.
func TestP5KeysAreWiped(t *testing.T) {
	ends := map[string]func(*station, *fakeDriver){
		"passes":                 func(*station, *fakeDriver) {},
		"the plan is refused":    func(_ *station, d *fakeDriver) { d.at(planned, breaks) },
		"the write is not begun": func(s *station, _ *fakeDriver) { s.book.fail("write.begun", refused) },
		"nobody knows":           func(s *station, _ *fakeDriver) { s.book.fail("write.begun", lost) },
		"the write breaks":       func(_ *station, d *fakeDriver) { d.at(halfway, breaks) },
		"the read-back breaks":   func(_ *station, d *fakeDriver) { d.at(reading, breaks) },
		"verifying is lost":      func(s *station, _ *fakeDriver) { s.book.fail("unit.verified", lost) },
	}
	for name, spoil := range ends {
		for _, attestation := range attestations {
			t.Run(name+"/"+attestation, func(t *testing.T) {
				d := &fakeDriver{}
				s := newStation(t, d)
				order := s.order(attestation, 1)
				spoil(s, d)
				w := s.slot("slot-1", at(newBoard("a")), nil)
				w.attempt(order)
				w.end(nil)
				if len(d.handed) == 0 {
					t.Fatal("the driver was given nothing")
				}
				for i, secret := range d.handed {
					if len(bytes.Trim(secret, "\x00")) > 0 {
						t.Errorf("secret %d is still there: %d bytes", i, len(secret))
					}
				}
			})
		}
	}
}

func breaks(context.Context, *board) error { return errBroken }

// P5: when a unit is verified, no step after it has the key any more.
func TestP5KeyIsGoneWhenVerified(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	looked := false
	w := s.slot("slot-1", at(newBoard("a")), func(c *line.Config) {
		c.Ledger = afterwards{s.book, "unit.verified", func() {
			looked = true
			for _, secret := range d.handed {
				if len(bytes.Trim(secret, "\x00")) > 0 {
					t.Error("the key is still in memory")
				}
			}
		}}
	})
	wantVerdict(t, w.pass(s.order(records.X509, 1)), records.Pass, "")
	if !looked {
		t.Error("nothing was verified")
	}
}

// A sealed key that somebody exchanged is not written.
func TestExchangedSecretIsNotWritten(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order, b := s.order(records.SymmetricKey, 1), newBoard("a")
	s.book.fail("secret.sealed", applied)
	s.dies(at(b), order)
	s.restart()
	from := s.size()
	w := s.slot("slot-1", at(b), func(c *line.Config) { c.Secrets = exchanged{s} })
	s.wantRefusal(w.pass(order), from, refusal{records.Error, "secret-exchanged", "The sealed key of this unit is not the one that was sealed for it.",
		"Stop the station: somebody exchanged its secrets. Call the process engineer.", known})
	if b.written() != 0 {
		t.Error("it was written")
	}
}

type exchanged struct{ line.Secrets }

func (exchanged) Reveal(context.Context, string) ([]byte, error) { return make([]byte, 64), nil }
