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

// A claim goes back with the end of its passage if nothing was made for it and the
// board failed or its order was closed meanwhile; in every other case it waits for
// its unit.
func TestGiveBack(t *testing.T) {
	claimed := frozen{u: records.Unit{ID: 3, State: records.Claimed, Order: "WO-1", RegistrationID: "a-1", Serial: "1", Number: 1},
		o: records.Order{OrderOpened: records.OrderOpened{ID: "WO-1"}, Closed: true}}
	open := claimed.with(func(_ *records.Unit, o *records.Order) { o.Closed = false })
	for name, tt := range map[string]struct {
		state  frozen
		failed bool
		due    bool
	}{
		"closed, nothing made":    {claimed, false, true},
		"it failed":               {open, true, true},
		"it failed, and closed":   {claimed, true, true},
		"it failed with a key":    {open.with(func(u *records.Unit, _ *records.Order) { u.State, u.Made = records.Keyed, true }), true, false},
		"the order is open":       {open, false, false},
		"something was made":      {claimed.with(func(u *records.Unit, _ *records.Order) { u.Made = true }), false, false},
		"it came further":         {claimed.with(func(u *records.Unit, _ *records.Order) { u.State = records.Keyed }), false, false},
		"it never claimed":        {claimed.with(func(u *records.Unit, _ *records.Order) { u.State = records.Seen }), false, false},
		"its claim is another's":  {claimed.with(func(u *records.Unit, _ *records.Order) { u.Order = "WO-2" }), false, false},
		"the board was not known": {frozen{o: claimed.o}, true, false},
	} {
		back, due, err := records.GiveBack(tt.state, tt.state.u.ID, "WO-1", tt.failed)
		if err != nil || due != tt.due || due && (back.RegistrationID != "a-1" || back.Number != 1 || back.Serial != "1") {
			t.Errorf("%s: %+v, %t, %v", name, back, due, err)
		}
	}
}
