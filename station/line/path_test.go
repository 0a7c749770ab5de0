package line_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/fixtures/boards"
	"nameplate/fixtures/field"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/line"
)

// made is the event that says that the unit's secret material exists.
var made = map[string]records.Kind{records.SymmetricKey: "secret.sealed", records.X509: "certificate.issued",
	ownKey: "certificate.issued", tpmKey: "certificate.issued"}

// path is the whole story of a unit that meets no trouble.
func path(way string) []records.Kind {
	kinds := []records.Kind{"passage.opened", "unit.identified"}
	if hasTPM(way) {
		kinds = append(kinds, "evidence.accepted")
	}
	kinds = append(kinds, "identity.claimed")
	if hasOwnKey(way) {
		kinds = append(kinds, "evidence.accepted")
	}
	if way != records.TPM {
		kinds = append(kinds, made[way])
	}
	return append(kinds, "write.begun", "unit.verified", "unit.passed", "unit.released", "passage.closed")
}

// upTo is a way's path up to an event.
func upTo(way string, kind records.Kind) []records.Kind {
	p := path(way)
	return p[:slices.Index(p, kind)+1]
}

func wantKinds(t testing.TB, got []records.Kind, want ...records.Kind) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("events\n%v, want\n%v", got, want)
	}
}

func wantVerdict(t testing.TB, st line.Status, verdict records.Verdict, code string) {
	t.Helper()
	if st.Verdict != verdict || st.Code != code {
		t.Fatalf("the passage ended with %s %s (%s), want %s %s", st.Verdict, st.Code, st.Sentence, verdict, code)
	}
}

// socket is a simulated fixture place and the port that leads to it.
type socket struct {
	*boards.Socket
	port link.Port
}

func newSocket(t testing.TB) socket {
	t.Helper()
	s, err := boards.Listen("127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { s.Close() })
	port, err := link.Parse("rfc2217://" + s.Addr())
	must(t, err)
	return socket{s, port}
}

// chip makes a simulated board; change, which may be nil, alters it.
func chip(t testing.TB, change func(*boards.Config)) *boards.Board {
	t.Helper()
	cfg := boards.Config{Name: "board", Chip: "ESP32-C3", MAC: "34:85:18:00:00:01", UID: [16]byte{1, 2, 3}, FlashSize: 2 << 20,
		FlashPath: filepath.Join(t.TempDir(), "flash.bin")}
	if change != nil {
		change(&cfg)
	}
	b, err := boards.New(cfg)
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// numbered is the i-th of many boards.
func numbered(t testing.TB, i int) *boards.Board {
	t.Helper()
	return chip(t, func(c *boards.Config) {
		c.Name, c.MAC, c.UID = fmt.Sprint("board-", i), fmt.Sprintf("34:85:18:00:01:%02x", i), [16]byte{byte(i), 1}
	})
}

// insert puts a board in until the test ends.
func (s socket) insert(t testing.TB, b *boards.Board) {
	t.Helper()
	must(t, s.Insert(b))
	t.Cleanup(func() { s.Remove() })
}

// A bare board goes in, and what its firmware will find in its flash is what the
// ledger says it was given.
func TestPathOfABoard(t *testing.T) {
	for _, attestation := range attestations {
		t.Run(attestation, func(t *testing.T) {
			t.Parallel()
			s := newStation(t, espressif.New())
			order := s.order(attestation, 1)
			from := s.size()
			place, b := newSocket(t), chip(t, nil)
			place.insert(t, b)
			wantVerdict(t, s.passage(place.port, order), records.Pass, "")
			wantKinds(t, s.kinds(from), path(attestation)...)
			must(t, b.Await(s.ctx, boards.Application))
			s.oneIdentity(order, 1)

			u := s.unit()
			id, err := field.ReadIdentity(b.FlashPath())
			must(t, err)
			if id.RegistrationID != u.RegistrationID || id.IDScope != scope || id.RegistrationURL != host {
				t.Errorf("the board holds %s at %s (%s), the ledger says %s", id.RegistrationID, id.RegistrationURL, id.IDScope, u.RegistrationID)
			}
			if attestation == records.SymmetricKey {
				key, err := s.Reveal(s.ctx, u.Secret.Ref)
				must(t, err)
				if id.SymmetricKey != base64.StdEncoding.EncodeToString(key) || len(key) != 64 {
					t.Error("the key on the board is not the sealed one")
				}
				return
			}
			pair, err := tls.X509KeyPair(id.Certificate, id.PrivateKey) // and they belong together
			must(t, err)
			if hex.EncodeToString(pair.Leaf.SerialNumber.Bytes()) != u.Cert.Serial || pair.Leaf.Subject.CommonName != u.RegistrationID {
				t.Errorf("the board holds certificate %x of %s, the ledger says %s", pair.Leaf.SerialNumber, pair.Leaf.Subject.CommonName, u.Cert.Serial)
			}
			if len(pair.Certificate) != 2 || ca.Digest(pair.Certificate[1]) != u.Cert.Issuer {
				t.Error("the chain on the board does not end at the issuing CA")
			}
			if block, _ := pem.Decode(id.PrivateKey); block == nil || block.Type != "PRIVATE KEY" {
				t.Error("the key on the board is no PKCS#8 PEM")
			}
		})
	}
}

// P2: at the moment of each effect the event that announces it is in the ledger,
// and none that comes after it.
func TestP2DurableBeforeVisible(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			order := s.order(way, 1)
			last := func(effect string, want records.Kind) {
				t.Helper()
				events := s.events()
				if got := events[len(events)-1].Kind; got != want {
					t.Errorf("at %s the last event is %s, want %s", effect, got, want)
				}
			}
			before := func(kind records.Kind) records.Kind {
				p := path(way)
				return p[slices.Index(p, kind)-1]
			}
			proofs := 0
			if slices.Contains(proving, way) {
				proofs = 1
			}
			seen := map[string]int{}
			d.on = func(_ context.Context, moment string, b *board) error {
				seen[moment]++
				switch moment {
				case probing, activating, activated:
					last(moment, "passage.opened")
				case asking, making, keyed, certifying, requested:
					last(moment, "identity.claimed")
				case planned:
					last(moment, before("write.begun"))
				case writing:
					last(moment, "write.begun")
				case reading:
					last(moment, "write.begun")
					if len(s.unit().Manifest) != len(b.items)+proofs {
						t.Errorf("write.begun names %d items, the board holds %d and can prove %d", len(s.unit().Manifest), len(b.items), proofs)
					}
				case closing:
					last(moment, "passage.closed")
				}
				return nil
			}
			issuer := &countingIssuer{Issuer: s.issuer, before: func() { last("issuing", before("certificate.issued")) }}
			w := s.slot("slot-1", at(boardFor(t, way, "a")), func(c *line.Config) {
				c.Issuer = issuer
				c.Released = func(who string) {
					last("waking the pusher", "passage.closed")
					due, err := s.book.OutboxDue(s.ctx, who, s.clock.now(), 10)
					must(t, err)
					if who != customer || len(due) != 1 {
						t.Errorf("%d enrollments of %s are due", len(due), who)
					}
					seen["released"]++
				}
			})
			wantVerdict(t, w.pass(order), records.Pass, "")
			want := map[string]int{probing: 1, planned: 1, writing: 1, halfway: 1, written: 1, reading: 1, closing: 1, "released": 1}
			if hasTPM(way) {
				want[activating], want[activated] = 1, 1
			}
			if hasOwnKey(way) {
				want[asking], want[making], want[keyed], want[requested] = 1, 1, 1, 1
			}
			certificates := 1
			switch way {
			case tpmKey:
				want[certifying] = 1
			case records.SymmetricKey, records.TPM:
				certificates = 0
			}
			if !reflect.DeepEqual(seen, want) {
				t.Errorf("effects %v, want %v", seen, want)
			}
			if issuer.n != certificates {
				t.Errorf("%d certificates, want %d", issuer.n, certificates)
			}
			s.oneIdentity(order, 1)
		})
	}
}

// Every event of a passage says who started it, under which order, and about
// which unit.
func TestEventsNameActorOrderAndUnit(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			s := newStation(t, &fakeDriver{})
			order := s.order(way, 1)
			from := s.size()
			wantVerdict(t, s.passage(at(boardFor(t, way, "a")), order), records.Pass, "")
			wantKinds(t, s.kinds(from), path(way)...)
			u := s.unit()
			for i, e := range s.events()[from:] {
				unit := u.ID
				if i == 0 {
					unit = 0
				}
				if e.Actor != badge || e.Order != order || e.Unit != unit || int(e.Passage) != from+1 {
					t.Errorf("%s: actor %v, order %q, unit %s, passage %s", e.Kind, e.Actor, e.Order, e.Unit, e.Passage)
				}
			}
		})
	}
}

// The leaf is what the order says: valid from a little before now for the
// order's days, and no longer.
func TestLeafIsValidAsOrdered(t *testing.T) {
	s := newStation(t, &fakeDriver{})
	order := s.order(records.X509, 1)
	wantVerdict(t, s.passage(at(newBoard("a")), order), records.Pass, "")
	leaf := parse(t, s.unit().Cert.DER)
	if days := leaf.NotAfter.Sub(leaf.NotBefore) / (24 * time.Hour); days < 3650-1 || days > 3650 {
		t.Errorf("valid for %d days", days)
	}
	if now := time.Now(); !leaf.NotBefore.Before(now) {
		t.Errorf("not valid yet at %s: %s", now, leaf.NotBefore)
	}
	if o := leaf.Subject.Organization; len(o) != 1 || o[0] != "factory.example" {
		t.Errorf("organization %v", o)
	}
}
