package ledger

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"nameplate/records"
)

// saltSize is the length of an event's salt: enough that nobody can guess one
// leaf from its neighbours' proofs.
const saltSize = 16

// append gives the draft its place, writes the event, and changes every state
// that follows from it, in the transaction.
func (g *group) append(d records.Draft) (records.Event, error) {
	e, stored, err := g.compose(d)
	if err != nil {
		return e, err
	}
	if err := g.checkPassage(e); err != nil {
		return e, err
	}
	var unit any // NULL if none
	if e.Unit != 0 {
		unit = int64(e.Unit)
		if err := g.foldUnit(e); err != nil {
			return e, err
		}
	}
	o, err := g.foldOrder(e)
	if err != nil {
		return e, err
	}
	if err := g.mark(e, o); err != nil {
		return e, err
	}
	if err := g.aside(e, d); err != nil {
		return e, err
	}
	if err := g.exec1("storing event", g.w.s.putEvent, e.Seq, unit, stored); err != nil {
		return e, err
	}
	g.leaves = append(g.leaves, stored)
	return e, nil
}

// compose makes the event and its bytes, which are encoded here and never again.
func (g *group) compose(d records.Draft) (records.Event, []byte, error) {
	e := records.Event{
		Seq:     g.w.l.head.Load().size + int64(len(g.leaves)) + 1,
		Station: g.w.l.station,
		Time:    g.at,
		Actor:   d.Actor,
		Unit:    d.Unit,
		Order:   d.Order,
		Passage: d.Passage,
		Salt:    make([]byte, saltSize),
	}
	if err := complete(d); err != nil {
		return e, nil, err
	}
	e.Kind = d.Body.Kind()
	if e.Unit == records.NewUnit {
		e.Unit = records.UnitID(e.Seq)
	}
	if e.Passage == records.NewPassage {
		e.Passage = records.PassageID(e.Seq)
	}
	rand.Read(e.Salt)
	var err error
	if e.Data, err = json.Marshal(d.Body); err != nil {
		return e, nil, fmt.Errorf("encoding %s: %w", e.Kind, err)
	}
	stored, err := json.Marshal(e)
	if err != nil {
		return e, nil, fmt.Errorf("encoding event %d (%s): %w", e.Seq, e.Kind, err)
	}
	// What is folded is what was encoded and not the draft's body: JSON mends
	// strings that are not UTF-8, and a later reader sees only the mended ones.
	e, err = e.Decoded()
	return e, stored, err
}

// complete holds the draft against what its kind has to name.
func complete(d records.Draft) error {
	if d.Body == nil {
		return fmt.Errorf("checking draft: it says nothing")
	}
	kind := d.Body.Kind()
	lacks := func(what string) error { return fmt.Errorf("checking draft of %s: it names no %s", kind, what) }
	if d.Actor.Kind == "" || d.Actor.ID == "" {
		return lacks("actor")
	}
	var unit, order, passage bool
	switch b := d.Body.(type) {
	case records.OrderOpened:
		if d.Order != b.ID {
			return fmt.Errorf("checking draft of %s: it names order %q and opens %q", kind, d.Order, b.ID)
		}
		order = true
	case records.OrderClosed:
		order = true
	case records.PassageOpened:
		if d.Passage != records.NewPassage {
			return fmt.Errorf("checking draft of %s: it names an old passage", kind)
		}
	case records.PassageClosed:
		passage = true
	case records.UnitIdentified, records.EvidenceAccepted:
		unit, passage = true, true
	case records.IdentityClaimed, records.IdentityReleased, records.UnitReleased:
		unit, order = true, true
	case records.SecretSealed:
		unit = true
		if len(d.Sealed) == 0 {
			return lacks("sealed bytes")
		}
	case records.SecretDestroyed, records.CertificateIssued, records.CertificateVoided, records.WriteBegun,
		records.UnitVerified, records.UnitPassed, records.UnitFailed, records.EnrollmentAccepted, records.EnrollmentRejected:
		unit = true
	}
	_, opens := d.Body.(records.PassageOpened)
	_, identifies := d.Body.(records.UnitIdentified)
	switch {
	case unit && d.Unit == 0:
		return lacks("unit")
	case order && d.Order == "":
		return lacks("order")
	case passage && d.Passage == 0:
		return lacks("passage")
	case d.Unit < 0 && !(identifies && d.Unit == records.NewUnit):
		return fmt.Errorf("checking draft of %s: only unit.identified makes a unit known", kind)
	case d.Passage < 0 && !(opens && d.Passage == records.NewPassage):
		return fmt.Errorf("checking draft of %s: only passage.opened opens a passage", kind)
	}
	return nil
}

func (g *group) checkPassage(e records.Event) error {
	if e.Passage == 0 || e.Kind == (records.PassageOpened{}).Kind() {
		return nil // without looking it up
	}
	open, in, err := g.passage(e.Passage)
	if err != nil {
		return err
	}
	return records.CheckPassage(e, open, in)
}

func (g *group) foldUnit(e records.Event) error {
	before, err := g.Unit(e.Unit)
	if err != nil {
		return err
	}
	u, err := records.ApplyUnit(before, e)
	if err != nil {
		return err
	}
	return g.putUnit(before, u)
}

// foldOrder returns the order that the event names, after the event.
func (g *group) foldOrder(e records.Event) (records.Order, error) {
	if e.Order == "" || !records.ConcernsOrder(e.Kind) {
		return records.Order{}, nil
	}
	o, err := g.Order(e.Order)
	if err != nil {
		return o, err
	}
	if o, err = records.ApplyOrder(o, e); err != nil {
		return o, err
	}
	return o, g.putOrder(o)
}

// mark takes and gives back names. That two owners cannot share one is the
// schema's primary key; this only says whose it is.
func (g *group) mark(e records.Event, o records.Order) error {
	marks, err := records.Marks(e, o)
	if err != nil {
		return err
	}
	for _, m := range marks {
		if m.Free {
			n, err := g.execN("giving back a name", g.w.s.freeOwner, string(m.Space), m.Name, m.Owner)
			if err != nil {
				return err
			}
			if n != 1 {
				return fmt.Errorf("applying event %d (%s): %s does not hold the %s %s", e.Seq, e.Kind, ownerName(m.Space, m.Owner), m.Space, m.Name)
			}
			continue
		}
		n, err := g.execN("taking a name", g.w.s.putOwner, string(m.Space), m.Name, m.Owner)
		if err != nil {
			return err
		}
		if n == 1 {
			continue
		}
		owner, err := g.Owner(m.Space, m.Name)
		if err != nil {
			return err
		}
		if owner != m.Owner {
			return taken(m.Space, m.Name, owner)
		}
	}
	return nil
}

// aside changes what lies beside the log: sealed secrets and the outbox.
func (g *group) aside(e records.Event, d records.Draft) error {
	unit := int64(e.Unit)
	switch b := d.Body.(type) {
	case records.SecretSealed:
		return g.exec1("storing sealed secret", g.w.s.putSeal, b.Ref, unit, d.Sealed)
	case records.SecretDestroyed:
		g.scrub = true
		return g.exec1("destroying sealed secret", g.w.s.blankSeal, b.Ref)
	case records.UnitReleased:
		return g.enqueue(e.Unit)
	case records.EnrollmentAccepted:
		return g.accepted(e.Unit)
	case records.EnrollmentRejected:
		return g.rejected(e.Unit, b)
	}
	return nil
}
