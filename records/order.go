package records

import (
	"fmt"
	"strings"
	"time"
)

// Order is everything the events say about one work order: the fold of its
// events by ApplyOrder and nothing else.
type Order struct {
	OrderOpened
	Seq    int64 `json:"seq"` // of the order.opened event
	Closed bool  `json:"closed"`
	Live   int   `json:"live"` // claims that were not given back; never above Quota
	// Next is the number that the next claim gets when no given-back one waits.
	Next     int   `json:"next"`
	Free     []int `json:"free,omitempty"` // numbers given back, oldest first
	Released int   `json:"released"`
	Passes   int   `json:"passes"`
	Fails    int   `json:"fails"`
	Errors   int   `json:"errors"`
}

// ConcernsOrder tells whether an event of this kind changes the state of the
// order it names. The ledger and replay call ApplyOrder for these alone.
func ConcernsOrder(k Kind) bool {
	switch k {
	case OrderOpened{}.Kind(), OrderClosed{}.Kind(), IdentityClaimed{}.Kind(), IdentityReleased{}.Kind(),
		UnitReleased{}.Kind(), PassageClosed{}.Kind():
		return true
	}
	return false
}

// ApplyOrder is the fold of an order's events, as ApplyUnit is for a unit.
func ApplyOrder(o Order, e Event) (Order, error) {
	b, err := e.Body()
	if err != nil {
		return o, err
	}
	next, err := applyOrder(o, e, b)
	if err != nil {
		return o, fmt.Errorf("applying event %d (%s) to order %s: %w", e.Seq, e.Kind, e.Order, err)
	}
	return next, nil
}

func applyOrder(o Order, e Event, b Body) (Order, error) {
	if opened, ok := b.(OrderOpened); ok {
		if o.ID != "" {
			return o, fmt.Errorf("it is open already")
		}
		opened.ProductFile, opened.CustomerFile = nil, nil // they stay in the event; the state is written often
		return Order{OrderOpened: opened, Seq: e.Seq, Next: 1}, nil
	}
	if o.ID == "" {
		return o, fmt.Errorf("it was never opened")
	}
	switch b := b.(type) {
	case OrderClosed:
		if o.Closed {
			return o, fmt.Errorf("it is closed already")
		}
		o.Closed = true
	case IdentityClaimed:
		if o.Closed {
			return o, fmt.Errorf("it is closed")
		}
		if o.Live >= o.Quota {
			return o, fmt.Errorf("its quota of %d is used up", o.Quota)
		}
		if b.Number != o.number() {
			return o, fmt.Errorf("number %d is out of turn: %d is next", b.Number, o.number())
		}
		if b.Number == o.Next {
			o.Next++
		} else {
			o.Free = append([]int(nil), o.Free[1:]...)
		}
		o.Live++
	case IdentityReleased:
		if o.Live == 0 || b.Number < 1 || b.Number >= o.Next {
			return o, fmt.Errorf("number %d is not a live claim", b.Number)
		}
		o.Free = append(append([]int(nil), o.Free...), b.Number)
		o.Live--
	case UnitReleased:
		o.Released++
	case PassageClosed:
		switch b.Verdict {
		case Pass:
			o.Passes++
		case Fail:
			o.Fails++
		case Error:
			o.Errors++
		default:
			return o, fmt.Errorf("%q is no verdict", b.Verdict)
		}
	}
	return o, nil
}

// number is the number of the next claim.
func (o Order) number() int {
	if len(o.Free) > 0 {
		return o.Free[0]
	}
	return o.Next
}

// Serial is the serial of the order's n-th unit.
func (o Order) Serial(n int) string {
	return fmt.Sprintf(o.SerialFormat, o.SerialFirst+int64(n)-1)
}

// RegistrationIDFor fills the order's template. The result is lower case: the
// service compares registration IDs without case, and derived keys do not.
func (o Order) RegistrationIDFor(serial string, hw []HardwareID) string {
	id := strings.ReplaceAll(o.Terms.RegistrationID, "{serial}", serial)
	for _, h := range hw {
		id = strings.ReplaceAll(id, "{"+h.Kind+"}", strings.ReplaceAll(h.Value, ":", ""))
	}
	return strings.ToLower(id)
}

// Expired tells whether the order's validity has passed.
func (o Order) Expired(now time.Time) bool { return now.After(o.ValidUntil) }
