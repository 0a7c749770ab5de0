package main

import (
	"fmt"
	"io"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/web"
)

type unitCmd struct {
	List unitListCmd `cmd:"" help:"List units."`
	Show unitShowCmd `cmd:"" help:"Show a unit and its history."`
}

type unitListCmd struct {
	Order string `help:"Only units of this order."`
	State string `help:"Only units in this state: seen, claimed, keyed, issued, writing, verified or released." enum:",seen,claimed,keyed,issued,writing,verified,released" default:""`
}

func (c *unitListCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	page := make([]records.Unit, 0, unitPage)
	for u, err := range h.Ledger.Units(g.ctx, ledger.UnitQuery{Order: c.Order, State: records.UnitState(c.State)}) {
		if err != nil {
			return err
		}
		if page = append(page, u); len(page) == unitPage {
			if err := unitTable(g, page); err != nil {
				return err
			}
			page = page[:0]
		}
	}
	return unitTable(g, page)
}

// unitPage is how many units a table holds; then a new one begins, so that a
// list of millions needs no memory.
const unitPage = 1000

func unitTable(g *globals, units []records.Unit) error {
	return table(g, "UNIT\tSTATE\tSERIAL\tREGISTRATION ID\tORDER\tENROLLMENT\tHARDWARE", units, func(u records.Unit) []any {
		return []any{u.ID, u.State, u.Serial, u.RegistrationID, u.Order, u.Enrollment, hardware(u)}
	})
}

func hardware(u records.Unit) string {
	if len(u.Hardware) == 0 {
		return ""
	}
	return u.Hardware[0].Value
}

type unitShowCmd struct {
	Unit string `arg:"" help:"Unit number, registration ID, serial, hardware ID or certificate serial."`
}

func (c *unitShowCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	u, events, err := h.History(g.ctx, c.Unit)
	if err != nil {
		return err
	}
	showUnit(g.out, u, events)
	return nil
}

func showUnit(w io.Writer, u records.Unit, events []records.Event) {
	unit := web.Unit(u)
	for _, row := range [][2]string{{"unit", unit.ID}, {"state", unit.State}, {"chip", unit.Chip}, {"serial", unit.Serial},
		{"registration ID", unit.RegistrationID}, {"ID scope", unit.IDScope}, {"URL", unit.RegistrationURL}, {"attestation", unit.Attestation},
		{"key made", unit.Key}, {"endorsement key", unit.EndorsementKey}, {"certificate", unit.CertificateSerial}, {"order", unit.Order}, {"customer", unit.Customer}, {"enrollment", unit.Enrollment}} {
		if row[1] != "" {
			fmt.Fprintf(w, "%-16s %s\n", row[0], web.Plain(row[1]))
		}
	}
	for _, id := range unit.Hardware {
		fmt.Fprintf(w, "%-16s %s\n", web.Plain(id.Kind), web.Plain(id.Value))
	}
	fmt.Fprintln(w)
	for _, e := range events {
		line := web.Event(e)
		fmt.Fprintf(w, "%8d  %s  %-20s %-18s %s\n", line.Seq, line.Time.Format(time.RFC3339), line.Kind, web.Plain(line.Actor), web.Plain(line.Text))
	}
}
