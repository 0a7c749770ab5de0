package records_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"nameplate/records"
)

// stored is the event as the ledger writes it.
func stored(t testing.TB, e records.Event) []byte {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What Decode reads in one go is what the two steps read.
func TestDecode(t *testing.T) {
	opened := records.OrderOpened{ID: "wo-1", ValidUntil: start, ProductFile: []byte(`},"kind":"order.closed"`)}
	for _, b := range []records.Body{opened, identified, symmetric, sealed, issued, begun, records.UnitPassed{}, closed} {
		e := event(t, 7, 2, "wo-1", 1, b)
		e.Actor.ID = `},"kind":"order.closed","id":"`
		e.Salt = []byte("salt")
		got, err := records.Decode(stored(t, e))
		if err != nil {
			t.Errorf("%s: %v", e.Kind, err)
			continue
		}
		body, err := got.Body()
		if err != nil || !reflect.DeepEqual(body, b) {
			t.Errorf("%s carries %+v, %v, want %+v", e.Kind, body, err, b)
		}
		got, err = got.Decoded()
		if err != nil || got.Seq != 7 || !got.Time.Equal(start) || got.Actor != e.Actor || got.Kind != e.Kind || got.Unit != 2 ||
			got.Order != "wo-1" || got.Passage != 1 || string(got.Salt) != "salt" {
			t.Errorf("%s: %+v, %v", e.Kind, got, err)
		}
	}
	blessed := event(t, 7, 2, "wo-1", 1, begun)
	blessed.Kind = "unit.blessed"
	for text, want := range map[string]string{
		"":                         "decoding event: unexpected end of JSON input",
		string(stored(t, blessed)): `decoding event 7: unknown kind "unit.blessed"`,
		`{"seq":7,"actor":{},"kind":"write.begun","data":[]}`: "decoding event 7 (write.begun): json: cannot unmarshal array",
		`{"actor":{},"kind":"write.begun","seq":"7"}`:         "decoding event: json: cannot unmarshal string",
	} {
		if _, err := records.Decode([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	// The kind stands elsewhere than the ledger writes it: slower, and the same.
	other := `{"kind":"unit.failed","seq":7,"data":{"code":"x"},"actor":{"id":"4711"},"station":"},\"kind\":\"unit.passed\""}`
	if e, err := records.Decode([]byte(other)); err != nil || e.Kind != "unit.failed" {
		t.Errorf("%+v, %v", e, err)
	} else if b, _ := e.Body(); b != (records.UnitFailed{Code: "x"}) {
		t.Errorf("it carries %+v", b)
	}
}

func TestCheckPassage(t *testing.T) {
	about := func(u records.UnitID, p records.PassageID, b records.Body) records.Event {
		return event(t, 9, u, "", p, b)
	}
	for _, tt := range []struct {
		name string
		e    records.Event
		open bool
		in   records.UnitID
		want string
	}{
		{"none is named", about(2, 0, begun), false, 0, ""},
		{"it opens", about(0, 9, records.PassageOpened{}), false, 0, ""},
		{"first in it", about(2, 1, identified), true, 0, ""},
		{"about its unit", about(2, 1, begun), true, 2, ""},
		{"refused before it was identified", about(2, 1, records.UnitRefused{}), true, 0, ""},
		{"closed with its unit", about(2, 1, closed), true, 2, ""},
		{"closed with none", about(0, 1, closed), true, 0, ""},
		{"an invented one", about(2, 1, identified), false, 0, "applying event 9 (unit.identified): passage P1 is not open"},
		{"after its end", about(2, 1, begun), false, 0, "applying event 9 (write.begun): passage P1 is not open"},
		{"closed twice", about(2, 1, closed), false, 0, "applying event 9 (passage.closed): passage P1 is not open"},
		{"a second unit", about(3, 1, identified), true, 2, "applying event 9 (unit.identified): unit U2 is in passage P1 already"},
		{"closed without its unit", about(0, 1, closed), true, 2, "applying event 9 (passage.closed): unit U2 is in passage P1, not U0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := records.CheckPassage(tt.e, tt.open, tt.in); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A history may come from somebody else: whatever its bytes are, there is an
// answer, and an event that was read can be judged.
func FuzzDecode(f *testing.F) {
	f.Add(stored(f, event(f, 7, 2, "wo-1", 1, begun)))
	f.Add(stored(f, event(f, 7, 2, "wo-1", 1, issued)))
	f.Add([]byte(`{"seq":7,"actor":{},"kind":"write.begun","data":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		e, err := records.Decode(b)
		if !bytes.Equal(b, before) {
			t.Error("the stored bytes were changed")
		}
		if err != nil {
			return
		}
		if body, err := e.Body(); err != nil || body.Kind() != e.Kind {
			t.Errorf("%s carries %v, %v", e.Kind, body, err)
		}
		records.ApplyUnit(records.Unit{}, e)
		records.ApplyOrder(records.Order{}, e)
		records.Marks(e, records.Order{})
	})
}

// Only the very secret that was sealed is held to be it.
func TestSecretSealedHolds(t *testing.T) {
	salt, secret := []byte("salt"), []byte("secret")
	// printf saltsecret | sha256sum
	s := records.SecretSealed{Salt: salt, SHA256: "bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35"}
	for _, tt := range []struct {
		name   string
		sealed records.SecretSealed
		secret []byte
		want   bool
	}{
		{"the secret", s, secret, true},
		{"another", s, []byte("Secret"), false},
		{"none", s, nil, false},
		{"salt and secret moved", s, []byte("tsecret"), false},
		{"another salt", records.SecretSealed{Salt: []byte("tlas"), SHA256: s.SHA256}, secret, false},
		{"no hash", records.SecretSealed{Salt: salt}, secret, false},
		{"no hash, no secret", records.SecretSealed{}, nil, false},
		{"part of the hash", records.SecretSealed{Salt: salt, SHA256: s.SHA256[:8]}, secret, false},
	} {
		if got := tt.sealed.Holds(tt.secret); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}
