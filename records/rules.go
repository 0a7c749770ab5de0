package records

import (
	"fmt"
	"regexp"
	"time"
)

// View is the present state, as the rules need it. Inside the ledger's Do it is
// that of the transaction.
type View interface {
	Now() time.Time // the transaction's one clock reading
	// ClockBehind is the time by which the clock reads earlier than the last
	// event or the program's build; 0 when it does not.
	ClockBehind() time.Duration
	Unit(UnitID) (Unit, error)                     // the zero Unit if there is none
	Order(id string) (Order, error)                // the zero Order if there is none
	Owner(space Space, name string) (int64, error) // 0 if nobody
}

// CheckOrder refuses an order under which nothing may be made now.
func CheckOrder(v View, id string) (Order, error) {
	o, err := v.Order(id)
	if err != nil {
		return o, err
	}
	switch {
	case o.ID == "":
		return o, &Refusal{Code: "order-unknown", Sentence: fmt.Sprintf("There is no order %q.", id),
			Next: "Open it with 'station order open FILE', or pick one from 'station order list'."}
	case o.Closed:
		return o, &Refusal{Code: "order-closed", Sentence: fmt.Sprintf("Order %s is closed.", id),
			Next: "Pick an open order."}
	case o.Expired(v.Now()):
		return o, &Refusal{Code: "order-expired", Sentence: fmt.Sprintf("Order %s was valid until %s.", id, o.ValidUntil.Format(time.RFC3339)),
			Next: "Ask for a new order."}
	}
	return o, nil
}

// The form of a hardware ID. It stays in the ledger for ever, and stands in
// files, tables and on screens: a board's odd bytes must not.
var hardwareKind, hardwareValue = regexp.MustCompile(`^[a-z0-9-]{1,32}$`), regexp.MustCompile(`^[ -~]{1,128}$`)

// Fit says that the ID has the form of one.
func (h HardwareID) Fit() bool {
	return hardwareKind.MatchString(h.Kind) && hardwareValue.MatchString(h.Value)
}

// Found is what was found where a board keeps its identity.
type Found struct {
	Blank bool // nothing at all
	Key   bool // a key that it made itself
}

// Admit decides whether the board with these hardware IDs may start a passage,
// and which unit it is (the zero Unit: a new one).
func Admit(v View, hw []HardwareID, found Found) (Unit, error) {
	for _, h := range hw {
		if !h.Fit() {
			return Unit{}, &Refusal{Code: "hardware-id-unfit",
				Sentence: fmt.Sprintf("The board gives %.64q as its %.32q, which is no hardware ID: 1 to 128 printable ASCII characters.", h.Value, h.Kind),
				Next:     "Set the board aside and report it to the board's supplier."}
		}
	}
	var id UnitID
	for _, h := range hw {
		owner, err := v.Owner(HardwareSpace, HardwareName(h))
		if err != nil {
			return Unit{}, err
		}
		if owner == 0 {
			continue
		}
		if id != 0 && id != UnitID(owner) {
			return Unit{}, &Refusal{Code: "board-mixed",
				Sentence: fmt.Sprintf("The board's hardware IDs belong to two units, %s and %s.", id, UnitID(owner)),
				Next:     "Set the board aside and call the process engineer."}
		}
		id = UnitID(owner)
	}
	if id == 0 {
		if found.Key {
			return Unit{}, &Refusal{Code: "board-holds-key",
				Sentence: "The board is new here, but it holds a device key already.",
				Next:     "Set the board aside; remove that key if the board is known to be unused."}
		}
		if !found.Blank {
			return Unit{}, &Refusal{Code: "board-not-blank",
				Sentence: "The board is new here, but the place for its identity is not empty.",
				Next:     "Set the board aside; erase that partition if the board is known to be unused."}
		}
		return Unit{}, nil
	}
	u, err := v.Unit(id)
	if err != nil {
		return Unit{}, err
	}
	for _, was := range u.Hardware {
		for _, is := range hw {
			if was.Kind == is.Kind && was.Value != is.Value {
				return u, &Refusal{Code: "board-id-twice",
					Sentence: fmt.Sprintf("The board shares a hardware ID with unit %s, but its %s is %s and not %s: two boards with one ID.", u.ID, is.Kind, is.Value, was.Value),
					Next:     "Set the board aside and report the pair to the board's supplier."}
			}
		}
	}
	passage, err := v.Owner(BoardSpace, u.ID.String())
	if err != nil {
		return u, err
	}
	switch {
	case passage != 0:
		return u, &Refusal{Code: "board-in-two-slots",
			Sentence: fmt.Sprintf("Unit %s is in another slot right now (passage %s): one board seen twice, or two boards with one hardware ID.", u.ID, PassageID(passage)),
			Next:     "Leave the other board where it is, take this one out and set it aside."}
	case u.State == Released:
		return u, &Refusal{Code: "board-released",
			Sentence: fmt.Sprintf("This board was released already, as %s (unit %s).", u.RegistrationID, u.ID),
			Next:     "Take it out. If its label says something else, set it aside: two boards with one hardware ID."}
	case found.Key && !u.MayHoldKey:
		return u, &Refusal{Code: "board-holds-key",
			Sentence: fmt.Sprintf("Unit %s was never asked to make a key, but it holds one.", u.ID),
			Next:     "Set the board aside; remove that key if the board is known to be unused."}
	case !found.Blank && !u.Touched:
		return u, &Refusal{Code: "board-not-blank",
			Sentence: fmt.Sprintf("Nothing was written to unit %s yet, but the place for its identity is not empty.", u.ID),
			Next:     "Set the board aside; erase that partition if the board is known to be unused."}
	}
	return u, nil
}

// The form of a registration ID that every service and client accepts: the
// strict intersection of the DPS documentation and its specification text.
var registrationID = regexp.MustCompile(`^[a-z0-9]([a-z0-9._:-]{0,126}[a-z0-9])?$`)

// maxCommonName is X.520's ub-common-name; a registration ID is a leaf's CN.
const maxCommonName = 64

// Claim decides which identity the unit gets: its own if it has a claim, else
// the order's next. The second result says that the claim is new.
func Claim(v View, u Unit, order string) (IdentityClaimed, bool, error) {
	if u.State != Seen {
		if u.Order != order {
			return IdentityClaimed{}, false, &Refusal{Code: "board-other-order",
				Sentence: fmt.Sprintf("Unit %s holds %s of order %s.", u.ID, u.RegistrationID, u.Order),
				Next:     fmt.Sprintf("Finish it under order %s.", u.Order)}
		}
		return IdentityClaimed{Customer: u.Customer, Number: u.Number, Serial: u.Serial, RegistrationID: u.RegistrationID,
			RegistrationURL: u.RegistrationURL, IDScope: u.IDScope, Attestation: u.Attestation, Key: u.Key}, false, nil
	}
	// The clock first: by one that once ran ahead, every order has expired.
	if err := CheckClock(v); err != nil {
		return IdentityClaimed{}, false, err
	}
	o, err := CheckOrder(v, order)
	if err != nil {
		return IdentityClaimed{}, false, err
	}
	if o.Live >= o.Quota {
		return IdentityClaimed{}, false, &Refusal{Code: "order-exhausted",
			Sentence: fmt.Sprintf("All %d units of order %s are claimed.", o.Quota, o.ID),
			Next:     "Take the board out and pick the next order."}
	}
	number := o.number()
	serial := o.Serial(number)
	c := IdentityClaimed{Customer: o.Customer, Number: number, Serial: serial,
		RegistrationID:  o.RegistrationIDFor(serial, u.Hardware),
		RegistrationURL: o.Terms.RegistrationURL, IDScope: o.Terms.IDScope, Attestation: o.Terms.Attestation, Key: o.Terms.Key}
	switch {
	case !registrationID.MatchString(c.RegistrationID):
		return c, false, &Refusal{Code: "registration-id-invalid",
			Sentence: fmt.Sprintf("%q cannot be a registration ID: 1 to 128 letters, digits and - . _ : with a letter or digit at both ends.", c.RegistrationID),
			Next:     "Change registration_id in the product and open a new order."}
	case c.Attestation == X509 && len(c.RegistrationID) > maxCommonName:
		return c, false, &Refusal{Code: "registration-id-too-long",
			Sentence: fmt.Sprintf("%q has %d characters; a certificate's common name takes %d.", c.RegistrationID, len(c.RegistrationID), maxCommonName),
			Next:     "Shorten registration_id in the product and open a new order."}
	}
	for _, m := range claimMarks(o, u.ID, c.RegistrationID, c.Serial, c.Number, false) {
		owner, err := v.Owner(m.Space, m.Name)
		if err != nil {
			return c, false, err
		}
		if owner != 0 {
			return c, false, &Refusal{Code: string(m.Space) + "-taken",
				Sentence: fmt.Sprintf("The %s %s belongs to unit %s.", m.Space, m.Name, UnitID(owner)),
				Next:     "The orders' serial ranges overlap: close this order and open one with a free range."}
		}
	}
	return c, true, nil
}

// CheckKey refuses a key that another unit made: two boards with one key are two
// copies of one storage.
func CheckKey(v View, u Unit, spki string) error {
	owner, err := v.Owner(KeySpace, spki)
	if err != nil || owner == 0 || UnitID(owner) == u.ID {
		return err
	}
	return &Refusal{Code: "key-known",
		Sentence: fmt.Sprintf("The board holds the key of unit %s: its storage is a copy.", UnitID(owner)),
		Next:     "Set the board aside and report it: images must be made before the first start, without keys."}
}

// GiveBack is how a unit's claim goes back when its passage ends and nothing was
// made for it: because the board failed, and bad boards must not use up an order,
// or because the order was closed meanwhile. The second result says whether it
// does.
func GiveBack(v View, unit UnitID, order string, failed bool) (IdentityReleased, bool, error) {
	u, err := v.Unit(unit)
	if err != nil {
		return IdentityReleased{}, false, err
	}
	o, err := v.Order(order)
	if err != nil || !o.Closed && !failed || u.Order != order || u.State != Claimed || u.Made {
		return IdentityReleased{}, false, err
	}
	reason := "order closed"
	if failed {
		reason = "the board failed before anything was made for it"
	}
	return IdentityReleased{RegistrationID: u.RegistrationID, Serial: u.Serial, Number: u.Number, Reason: reason}, true, nil
}

// CheckClock refuses to claim or issue while the clock is behind.
func CheckClock(v View) error {
	if behind := v.ClockBehind(); behind > 0 {
		return &Refusal{Code: "clock-behind",
			Sentence: fmt.Sprintf("The station's clock is %s behind its own history.", behind.Round(time.Second)),
			Next:     "Set the clock, then put the board back."}
	}
	return nil
}

// OpenOrder refuses an order whose ID was used before, or that has no time left.
func OpenOrder(v View, o OrderOpened) error {
	if err := CheckClock(v); err != nil {
		return err
	}
	known, err := v.Order(o.ID)
	if err != nil {
		return err
	}
	switch {
	case known.ID != "":
		return &Refusal{Code: "order-exists", Sentence: fmt.Sprintf("There is an order %s already.", o.ID),
			Next: "Give the new order an ID of its own."}
	case v.Now().After(o.ValidUntil):
		return &Refusal{Code: "order-expired", Sentence: fmt.Sprintf("Order %s was valid until %s.", o.ID, o.ValidUntil.Format(time.RFC3339)),
			Next: "Correct valid_until."}
	}
	return nil
}
