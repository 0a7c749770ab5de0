package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"nameplate/records"
)

// known remembers rows that the writer has read or written, decoded: a unit on
// the line is folded a dozen times within a minute, and its order with every
// claim. It holds what the open transaction sees, so it is forgotten whenever
// anything is undone.
type known struct {
	units  map[records.UnitID]records.Unit
	orders map[string]records.Order
}

// maxKnown bounds it: far more than there are slots, and a few megabytes.
const maxKnown = 1024

func (k *known) forget() {
	k.units = make(map[records.UnitID]records.Unit)
	k.orders = make(map[string]records.Order)
}

func (k *known) unit(u records.Unit) {
	if len(k.units) >= maxKnown {
		k.forget()
	}
	k.units[u.ID] = u
}

func (k *known) order(o records.Order) {
	if len(k.orders) >= maxKnown {
		k.forget()
	}
	k.orders[o.ID] = o
}

var _ records.View = (*group)(nil)

// Now is the time that this transaction's events get.
func (g *group) Now() time.Time { return g.at }

// ClockBehind: see records.View.
func (g *group) ClockBehind() time.Duration { return g.behind }

// Unit returns the unit as this transaction sees it.
func (g *group) Unit(id records.UnitID) (records.Unit, error) {
	if u, ok := g.w.known.units[id]; ok {
		return u, nil
	}
	var u records.Unit
	var body []byte
	found, err := g.get("reading unit", g.w.s.getUnit, &body, int64(id))
	if err != nil || !found {
		return u, err
	}
	if err := decodeRow("unit "+id.String(), body, &u); err != nil {
		return u, err
	}
	g.w.known.unit(u)
	return u, nil
}

// Order returns the order as this transaction sees it.
func (g *group) Order(id string) (records.Order, error) {
	if o, ok := g.w.known.orders[id]; ok {
		return o, nil
	}
	var o records.Order
	var body []byte
	found, err := g.get("reading order", g.w.s.getOrder, &body, id)
	if err != nil || !found {
		return o, err
	}
	if err := decodeRow("order "+id, body, &o); err != nil {
		return o, err
	}
	g.w.known.order(o)
	return o, nil
}

// Owner returns who owns the name, 0 if nobody does.
func (g *group) Owner(space records.Space, name string) (int64, error) {
	var owner int64
	_, err := g.get("reading owner", g.w.s.getOwner, &owner, string(space), name)
	return owner, err
}

// passage tells whether the passage is open, and which unit is in it. Slots and
// boards that are held are as few as there are slots.
func (g *group) passage(p records.PassageID) (open bool, in records.UnitID, err error) {
	var slot, board string
	if open, err = g.get("reading passage", g.w.s.getOwned, &slot, string(records.SlotSpace), int64(p)); err != nil || !open {
		return false, 0, err
	}
	held, err := g.get("reading passage", g.w.s.getOwned, &board, string(records.BoardSpace), int64(p))
	if err != nil || !held {
		return true, 0, err
	}
	in, ok := parseUnitID(board)
	if !ok {
		return true, 0, notAUnit(board, p)
	}
	return true, in, nil
}

// putUnit stores what an event made of the unit.
func (g *group) putUnit(before, u records.Unit) error {
	b, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("encoding unit %s: %w", u.ID, err)
	}
	g.w.known.unit(u)
	s, body, state, id := g.w.s, string(b), string(u.State), int64(u.ID)
	switch {
	case before.ID == 0:
		return g.exec1("storing unit", s.addUnit, body, state, u.Order, u.Customer, id)
	case before.Order != u.Order || before.Customer != u.Customer:
		return g.exec1("storing unit", s.claimUnit, body, state, u.Order, u.Customer, id)
	case before.State != u.State:
		return g.exec1("storing unit", s.moveUnit, body, state, id)
	}
	return g.exec1("storing unit", s.setUnit, body, id)
}

func (g *group) putOrder(o records.Order) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding order %s: %w", o.ID, err)
	}
	g.w.known.order(o)
	return g.exec1("storing order", g.w.s.putOrder, o.ID, o.Customer, o.Live, o.Quota, string(body))
}
