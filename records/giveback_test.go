package records_test

import (
	"testing"
	"time"

	"nameplate/records"
)

// frozen is a state with one unit and one order.
type frozen struct {
	u records.Unit
	o records.Order
}

func (f frozen) Now() time.Time                             { return time.Time{} }
func (f frozen) ClockBehind() time.Duration                 { return 0 }
func (f frozen) Unit(records.UnitID) (records.Unit, error)  { return f.u, nil }
func (f frozen) Order(string) (records.Order, error)        { return f.o, nil }
func (f frozen) Owner(records.Space, string) (int64, error) { return 0, nil }
func (f frozen) with(change func(*records.Unit, *records.Order)) frozen {
	change(&f.u, &f.o)
	return f
}

// A claim goes back with the end of its passage if its order was closed meanwhile
// and nothing was made for it; in every other case it waits for its unit.
func TestGiveBack(t *testing.T) {
	claimed := frozen{u: records.Unit{ID: 3, State: records.Claimed, Order: "WO-1", RegistrationID: "a-1", Serial: "1", Number: 1},
		o: records.Order{OrderOpened: records.OrderOpened{ID: "WO-1"}, Closed: true}}
	for name, tt := range map[string]struct {
		state frozen
		due   bool
	}{
		"closed, nothing made":    {claimed, true},
		"the order is open":       {claimed.with(func(_ *records.Unit, o *records.Order) { o.Closed = false }), false},
		"something was made":      {claimed.with(func(u *records.Unit, _ *records.Order) { u.Made = true }), false},
		"it came further":         {claimed.with(func(u *records.Unit, _ *records.Order) { u.State = records.Keyed }), false},
		"it never claimed":        {claimed.with(func(u *records.Unit, _ *records.Order) { u.State = records.Seen }), false},
		"its claim is another's":  {claimed.with(func(u *records.Unit, _ *records.Order) { u.Order = "WO-2" }), false},
		"the board was not known": {frozen{o: claimed.o}, false},
	} {
		back, due, err := records.GiveBack(tt.state, tt.state.u.ID, "WO-1")
		if err != nil || due != tt.due || due && (back.RegistrationID != "a-1" || back.Number != 1 || back.Serial != "1") {
			t.Errorf("%s: %+v, %t, %v", name, back, due, err)
		}
	}
}
