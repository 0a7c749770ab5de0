package records

import (
	"fmt"
	"strconv"
)

// Space is a set of names in which each has at most one owner.
type Space string

// The spaces of a station's ledger.
const (
	HardwareSpace     Space = "hardware"     // kind=value; owner: unit; for ever
	RegistrationSpace Space = "registration" // registration ID; owner: unit
	SerialSpace       Space = "serial"       // product/serial; owner: unit
	NumberSpace       Space = "number"       // order/number of its quota; owner: unit
	CertificateSpace  Space = "certificate"  // issuer/serial; owner: unit; for ever
	KeySpace          Space = "key"          // SHA-256 of a public key; owner: unit; for ever
	SecretSpace       Space = "secret"       // reference; owner: unit; for ever
	SlotSpace         Space = "slot"         // slot; owner: the passage open there
	BoardSpace        Space = "board"        // unit; owner: the passage it is in
)

// Mark says that an event takes a name for its owner, or gives it back. Taking
// a name that the same owner holds changes nothing; one that another holds is
// what must never happen: the ledger holds it as a constraint of its schema, and
// replay checks it again, both from the marks returned here.
type Mark struct {
	Space Space
	Name  string
	Owner int64 // UnitID or PassageID
	Free  bool
}

// CheckPassage holds an event against the passage that it names: open tells
// whether that one holds a slot, in which unit was identified in it, 0 if none.
// A passage has one unit, and its end names that unit: a board held by no open
// passage, or by one that ends without it, would never come free.
func CheckPassage(e Event, open bool, in UnitID) error {
	var wrong string
	switch {
	case e.Passage == 0 || e.Kind == (PassageOpened{}).Kind():
		return nil
	case !open:
		wrong = fmt.Sprintf("passage %s is not open", e.Passage)
	case e.Kind == (UnitIdentified{}).Kind() && in != 0 && in != e.Unit:
		wrong = fmt.Sprintf("unit %s is in passage %s already", in, e.Passage)
	case e.Kind == (PassageClosed{}).Kind() && in != e.Unit:
		wrong = fmt.Sprintf("unit %s is in passage %s, not %s", in, e.Passage, e.Unit)
	default:
		return nil
	}
	return fmt.Errorf("applying event %d (%s): %s", e.Seq, e.Kind, wrong)
}

// HardwareName is the name of a hardware ID in its space.
func HardwareName(h HardwareID) string { return h.Kind + "=" + h.Value }

// SerialName is the name of a unit's serial in its space.
func SerialName(product, serial string) string { return product + "/" + serial }

// Marks returns what the event takes and gives back. o is the order that the
// event names, after the event; it is needed for the kinds in ConcernsOrder.
func Marks(e Event, o Order) ([]Mark, error) {
	b, err := e.Body()
	if err != nil {
		return nil, err
	}
	unit := int64(e.Unit)
	switch b := b.(type) {
	case PassageOpened:
		if int64(e.Passage) != e.Seq {
			return nil, fmt.Errorf("event %d opens passage %s", e.Seq, e.Passage)
		}
		return []Mark{{Space: SlotSpace, Name: b.Slot, Owner: int64(e.Passage)}}, nil
	case PassageClosed:
		marks := []Mark{{Space: SlotSpace, Name: b.Slot, Owner: int64(e.Passage), Free: true}}
		if e.Unit != 0 {
			marks = append(marks, Mark{Space: BoardSpace, Name: e.Unit.String(), Owner: int64(e.Passage), Free: true})
		}
		return marks, nil
	case UnitIdentified:
		if len(b.Hardware) == 0 {
			return nil, fmt.Errorf("event %d identifies a unit by nothing", e.Seq)
		}
		marks := []Mark{{Space: BoardSpace, Name: e.Unit.String(), Owner: int64(e.Passage)}}
		for _, h := range b.Hardware {
			if !h.Fit() {
				return nil, fmt.Errorf("event %d identifies a unit by %.32q %.64q, which is no hardware ID", e.Seq, h.Kind, h.Value)
			}
			marks = append(marks, Mark{Space: HardwareSpace, Name: HardwareName(h), Owner: unit})
		}
		return marks, nil
	case IdentityClaimed:
		return claimMarks(o, e.Unit, b.RegistrationID, b.Serial, b.Number, false), nil
	case IdentityReleased:
		return claimMarks(o, e.Unit, b.RegistrationID, b.Serial, b.Number, true), nil
	case SecretSealed:
		return []Mark{{Space: SecretSpace, Name: b.Ref, Owner: unit}}, nil
	case EvidenceAccepted:
		if b.Key != nil {
			return []Mark{{Space: KeySpace, Name: b.Key.SPKI, Owner: unit}}, nil
		}
	case CertificateIssued:
		return []Mark{
			{Space: CertificateSpace, Name: b.Issuer + "/" + b.Serial, Owner: unit},
			{Space: KeySpace, Name: b.SPKI, Owner: unit},
		}, nil
	}
	return nil, nil
}

func claimMarks(o Order, u UnitID, registrationID, serial string, number int, free bool) []Mark {
	return []Mark{
		{Space: RegistrationSpace, Name: registrationID, Owner: int64(u), Free: free},
		{Space: SerialSpace, Name: SerialName(o.Product, serial), Owner: int64(u), Free: free},
		{Space: NumberSpace, Name: o.ID + "/" + strconv.Itoa(number), Owner: int64(u), Free: free},
	}
}
