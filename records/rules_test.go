package records_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"nameplate/records"
)

// state is a View of plain maps.
type state struct {
	now    time.Time
	behind time.Duration
	units  map[records.UnitID]records.Unit
	orders map[string]records.Order
	owners map[string]int64 // space/name
}

func (s *state) Now() time.Time                               { return s.now }
func (s *state) ClockBehind() time.Duration                   { return s.behind }
func (s *state) Unit(id records.UnitID) (records.Unit, error) { return s.units[id], nil }
func (s *state) Order(id string) (records.Order, error)       { return s.orders[id], nil }
func (s *state) Owner(sp records.Space, n string) (int64, error) {
	return s.owners[string(sp)+"/"+n], nil
}

// oneBoard is a station that knows unit U2, seen, and the open order wo-1.
func oneBoard(t *testing.T) *state {
	t.Helper()
	u, err := unit(t, identified, closed)
	if err != nil {
		t.Fatal(err)
	}
	o, err := order(t)
	if err != nil {
		t.Fatal(err)
	}
	return &state{now: start, units: map[records.UnitID]records.Unit{2: u}, orders: map[string]records.Order{"wo-1": o},
		owners: map[string]int64{"hardware/mac=aa:bb:cc:00:00:01": 2}}
}

func (s *state) set(t *testing.T, bodies ...records.Body) {
	t.Helper()
	u, err := unit(t, append(bodies, closed)...)
	if err != nil {
		t.Fatal(err)
	}
	s.units[2] = u
}

// refused holds a refusal's code and sentence; each says what to do next.
func refused(t *testing.T, err error, code, sentence string) {
	t.Helper()
	var r *records.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want the refusal %s", err, code)
	}
	if r.Code != code || r.Sentence != sentence {
		t.Errorf("got  %s: %s\nwant %s: %s", r.Code, r.Sentence, code, sentence)
	}
	if r.Next == "" {
		t.Errorf("%s does not say what to do next", r.Code)
	}
}

func mac(values ...string) (hw []records.HardwareID) {
	for i, v := range values {
		hw = append(hw, records.HardwareID{Kind: []string{"mac", "uid"}[i], Value: v})
	}
	return hw
}

func TestAdmit(t *testing.T) {
	const one = "aa:bb:cc:00:00:01"
	through := []records.Body{identified, symmetric, sealed, begun, verified, passed, released}
	tests := []struct {
		name           string
		hw             []records.HardwareID
		blank          bool
		key            bool
		before         func(t *testing.T, s *state)
		code, sentence string
		unit           records.UnitID // if admitted
	}{
		{name: "a new board", hw: mac("aa:bb:cc:00:00:02"), blank: true},
		{name: "the same board again", hw: mac(one), blank: true, unit: 2},
		{name: "a board that died while writing", hw: mac(one), unit: 2, before: func(t *testing.T, s *state) { s.set(t, identified, symmetric, sealed, begun) }},
		{name: "a verified board", hw: mac(one), unit: 2, before: func(t *testing.T, s *state) { s.set(t, identified, symmetric, sealed, begun, verified) }},
		{name: "a new board that is not blank", hw: mac("aa:bb:cc:00:00:02"),
			code: "board-not-blank", sentence: "The board is new here, but the place for its identity is not empty."},
		{name: "a known board, never written, that is not blank", hw: mac(one),
			code: "board-not-blank", sentence: "Nothing was written to unit U2 yet, but the place for its identity is not empty."},
		{name: "a new board that holds a key", hw: mac("aa:bb:cc:00:00:02"), blank: true, key: true,
			code: "board-holds-key", sentence: "The board is new here, but it holds a device key already."},
		{name: "a known board, never asked for a key, that holds one", hw: mac(one), blank: true, key: true,
			code: "board-holds-key", sentence: "Unit U2 was never asked to make a key, but it holds one."},
		{name: "a board that made its key and died", hw: mac(one), blank: true, key: true, unit: 2,
			before: func(t *testing.T, s *state) { s.set(t, identified, ownKey) }},
		{name: "an ID that breaks lines", hw: []records.HardwareID{{Kind: "serial-number", Value: "a\nb"}}, blank: true,
			code: "hardware-id-unfit", sentence: `The board gives "a\nb" as its "serial-number", which is no hardware ID: 1 to 128 printable ASCII characters.`},
		{name: "an ID that is no text", hw: []records.HardwareID{{Kind: "serial-number", Value: "a\xff"}}, blank: true,
			code: "hardware-id-unfit", sentence: `The board gives "a\xff" as its "serial-number", which is no hardware ID: 1 to 128 printable ASCII characters.`},
		{name: "an ID without end", hw: []records.HardwareID{{Kind: "serial-number", Value: strings.Repeat("<", 20_000)}}, blank: true,
			code: "hardware-id-unfit", sentence: fmt.Sprintf("The board gives %q as its \"serial-number\", which is no hardware ID: 1 to 128 printable ASCII characters.", strings.Repeat("<", 64))},
		{name: "IDs of two units", hw: mac(one, "77"), blank: true, before: func(t *testing.T, s *state) { s.owners["hardware/uid=77"] = 9 },
			code: "board-mixed", sentence: "The board's hardware IDs belong to two units, U2 and U9."},
		{name: "one MAC, two chips", hw: mac(one, "78"), blank: true, before: func(t *testing.T, s *state) {
			two := identified
			two.Hardware = mac(one, "77")
			s.set(t, two)
		}, code: "board-id-twice", sentence: "The board shares a hardware ID with unit U2, but its uid is 78 and not 77: two boards with one ID."},
		{name: "in another slot", hw: mac(one), blank: true, before: func(t *testing.T, s *state) { s.owners["board/U2"] = 5 },
			code: "board-in-two-slots", sentence: "Unit U2 is in another slot right now (passage P5): one board seen twice, or two boards with one hardware ID."},
		{name: "released", hw: mac(one), before: func(t *testing.T, s *state) { s.set(t, through...) },
			code: "board-released", sentence: "This board was released already, as wo-1-a000001 (unit U2)."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := oneBoard(t)
			if tt.before != nil {
				tt.before(t, s)
			}
			u, err := records.Admit(s, tt.hw, records.Found{Blank: tt.blank, Key: tt.key})
			if tt.code != "" {
				refused(t, err, tt.code, tt.sentence)
			} else if err != nil || u.ID != tt.unit {
				t.Errorf("got %s, %v, want %s", u.ID, err, tt.unit)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	change := func(f func(o *records.Order)) func(*state) {
		return func(s *state) {
			o := s.orders["wo-1"]
			f(&o)
			s.orders["wo-1"] = o
		}
	}
	tests := []struct {
		name           string
		before         func(*state)
		code, sentence string
	}{
		{"no such order", func(s *state) { delete(s.orders, "wo-1") }, "order-unknown", `There is no order "wo-1".`},
		{"closed", change(func(o *records.Order) { o.Closed = true }), "order-closed", "Order wo-1 is closed."},
		{"expired", func(s *state) { s.now = start.AddDate(2, 0, 0) }, "order-expired", "Order wo-1 was valid until 2027-03-01T08:00:00Z."},
		{"clock", func(s *state) { s.behind = time.Hour }, "clock-behind", "The station's clock is 1h0m0s behind its own history."},
		{"exhausted", change(func(o *records.Order) { o.Live = 3 }), "order-exhausted", "All 3 units of order wo-1 are claimed."},
		{"bad template", change(func(o *records.Order) { o.Terms.RegistrationID = "{serial} {imei}" }), "registration-id-invalid",
			`"a000001 {imei}" cannot be a registration ID: 1 to 128 letters, digits and - . _ : with a letter or digit at both ends.`},
		{"too long for a certificate", change(func(o *records.Order) {
			o.Terms.Attestation, o.Terms.RegistrationID = records.X509, strings.Repeat("x", 65)
		}), "registration-id-too-long", `"` + strings.Repeat("x", 65) + `" has 65 characters; a certificate's common name takes 64.`},
		{"serial taken", func(s *state) { s.owners["serial/sensor/A000001"] = 7 }, "serial-taken", "The serial sensor/A000001 belongs to unit U7."},
		{"registration ID taken", func(s *state) { s.owners["registration/a000001-aabbcc000001"] = 7 }, "registration-taken",
			"The registration a000001-aabbcc000001 belongs to unit U7."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := oneBoard(t)
			tt.before(s)
			_, _, err := records.Claim(s, s.units[2], "wo-1")
			refused(t, err, tt.code, tt.sentence)
		})
	}
	t.Run("new", func(t *testing.T) {
		s := oneBoard(t)
		c, isNew, err := records.Claim(s, s.units[2], "wo-1")
		if err != nil || !isNew || c.RegistrationID != "a000001-aabbcc000001" || c.Serial != "A000001" || c.Number != 1 {
			t.Errorf("got %+v, %t, %v", c, isNew, err)
		}
	})
	t.Run("its own again, whatever became of the order", func(t *testing.T) {
		s := oneBoard(t)
		s.set(t, identified, symmetric)
		change(func(o *records.Order) { o.Closed, o.Live = true, 3 })(s)
		c, isNew, err := records.Claim(s, s.units[2], "wo-1")
		if err != nil || isNew || fmt.Sprint(c) != fmt.Sprint(symmetric) {
			t.Errorf("got %+v, %t, %v", c, isNew, err)
		}
		_, _, err = records.Claim(s, s.units[2], "wo-2")
		refused(t, err, "board-other-order", "Unit U2 holds wo-1-a000001 of order wo-1.")
	})
}

func TestOpenOrder(t *testing.T) {
	s := oneBoard(t)
	refused(t, records.OpenOrder(s, records.OrderOpened{ID: "wo-1", ValidUntil: start.AddDate(1, 0, 0)}), "order-exists", "There is an order wo-1 already.")
	refused(t, records.OpenOrder(s, records.OrderOpened{ID: "wo-2", ValidUntil: start.AddDate(-1, 0, 0)}), "order-expired", "Order wo-2 was valid until 2025-03-01T08:00:00Z.")
	if err := records.OpenOrder(s, records.OrderOpened{ID: "wo-2", ValidUntil: start.AddDate(1, 0, 0)}); err != nil {
		t.Error(err)
	}
}
