package web

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/line"
	"nameplate/station/profile"

	"github.com/danielgtaylor/huma/v2"
)

// scanRoutes are what the operator page needs beside the commands' verbs: to
// tell what was scanned, and to give slots another order.
func (s *Server) scanRoutes(routes huma.API) {
	// To tell is no action: what was scanned by mistake, a badge with a name on it
	// perhaps, never comes to stand in the ledger.
	handle(s, routes, "GET", "/scan", "scan", func(ctx context.Context, in *struct {
		Text string `query:"text" required:"true" minLength:"1" maxLength:"256" doc:"what the scanner read"`
		Slot string `query:"slot" doc:"the slot that is chosen on the page, if any"`
	}) (*out[api.Scan], error) {
		m, err := s.scan(ctx, strings.TrimSpace(in.Text), in.Slot)
		return answer(m), err
	})
	handle(s, routes, "POST", "/orders/{id}/pick", "order pick", func(ctx context.Context, in *struct {
		Acting
		ByID
		Body api.PickOrder
	}) (*out[api.Picked], error) {
		if _, err := s.actor(in.Acting); err != nil {
			return nil, err
		}
		p, err := s.pick(ctx, in.ID, in.Body.Slot)
		return answer(p), err
	})
}

// scan tells what a text means: an order's number, a slot's name, or any name of
// a unit, in this order.
func (s *Server) scan(ctx context.Context, text, chosen string) (api.Scan, error) {
	o, err := s.Home.Ledger.Order(ctx, text)
	if err != nil {
		return api.Scan{}, err
	}
	if o.ID != "" {
		return api.Scan{Means: "order", Order: o.ID}, nil
	}
	for _, slot := range s.Slots {
		st := slot.Status()
		if !strings.EqualFold(st.Slot, text) { // scanners and label printers like capitals
			continue
		}
		m := api.Scan{Means: "slot", Slot: st.Slot}
		if s.startable(st) && (s.asks(st.Slot) || st.Slot == chosen) {
			m.Means = "start"
		}
		return m, nil
	}
	u, err := s.Home.Ledger.Find(ctx, text)
	var r *records.Refusal
	if errors.As(err, &r) && r.Code == "unit-unknown" {
		err = &records.Refusal{Code: "scan-unknown", Sentence: fmt.Sprintf("The station knows nothing called %q.", text),
			Next: "Scan an order, a slot, or the label of a board that was here."}
	}
	if err != nil {
		return api.Scan{}, err
	}
	m := api.Scan{Means: "unit", Unit: u.ID.String()}
	m.Sentence, m.Next = unitWords(u)
	return m, nil
}

// startable tells whether there is something in the slot that could be started.
func (s *Server) startable(st line.Status) bool {
	return st.Order != "" && (st.State == line.Waiting || st.State == line.Done)
}

// asks tells whether passages in the slot begin when somebody asks for them.
func (s *Server) asks(slot string) bool {
	return slices.ContainsFunc(s.Home.Set.Station.Slots, func(c profile.Slot) bool { return c.Name == slot && c.Start == profile.StartRequest })
}

// unitWords is how a unit stands, and what to do with the board.
func unitWords(u records.Unit) (sentence, next string) {
	name := u.ID.String()
	if u.RegistrationID != "" {
		name = u.RegistrationID + " (unit " + name + ")"
	}
	switch {
	case u.Passage != 0:
		return fmt.Sprintf("%s is in a slot now.", name), "Wait for its verdict."
	case u.State == records.Released && u.Enrollment == records.EnrollmentRefused:
		return fmt.Sprintf("%s is PASS and released, but its service refuses it.", name), "Call the process engineer: 'station push status' says why."
	case u.State == records.Released && u.Enrollment == records.EnrollmentDone:
		return fmt.Sprintf("%s is PASS and released; its service knows it.", name), "Nothing needs to be done."
	case u.State == records.Released:
		return fmt.Sprintf("%s is PASS and released.", name), "Nothing needs to be done: its service will be told."
	case u.Verdict == records.Fail:
		return fmt.Sprintf("%s is FAIL.", name), "Set the board aside."
	case u.Order != "":
		return fmt.Sprintf("%s is not finished.", name), fmt.Sprintf("Put it in a slot that works on order %s: it goes on where it stopped.", u.Order)
	}
	return fmt.Sprintf("%s was here and has no identity yet.", name), "Put it in a slot."
}

// pick gives an order to one slot, or to all in which no passage runs.
func (s *Server) pick(ctx context.Context, id, name string) (api.Picked, error) {
	slots := s.Slots
	if name != "" {
		slot, err := s.slot(name)
		if err != nil {
			return api.Picked{}, err
		}
		slots = []*line.Slot{slot}
	}
	_, err := s.Home.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		_, err := records.CheckOrder(v, id)
		return nil, err
	})
	if err != nil {
		return api.Picked{}, err
	}
	picked := api.Picked{Order: id, Slots: []string{}}
	var busy error
	for _, slot := range slots {
		if err := slot.SetOrder(id); err != nil {
			busy = err
			picked.Busy = append(picked.Busy, slot.Status().Slot)
			continue
		}
		picked.Slots = append(picked.Slots, slot.Status().Slot)
	}
	if len(picked.Slots) > 0 {
		return picked, nil
	}
	if name == "" {
		busy = &records.Refusal{Code: "slots-busy", Sentence: "A passage is running in every slot.", Next: "Pick the order when one has ended, or take a single slot."}
	}
	return api.Picked{}, busy
}
