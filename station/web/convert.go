package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/line"
)

// statusOf gives refusals their HTTP status; those not named are 409: the request
// is understood, and the state of things does not allow it.
var statusOf = map[string]int{
	"passphrase-wrong": http.StatusUnauthorized,

	"browser-refused":  http.StatusForbidden,
	"page-key-invalid": http.StatusForbidden,
	"page-only-shows":  http.StatusForbidden,
	"socket-only":      http.StatusForbidden,

	"customer-unknown": http.StatusNotFound,
	"order-unknown":    http.StatusNotFound,
	"path-unknown":     http.StatusNotFound,
	"scan-unknown":     http.StatusNotFound,
	"slot-unknown":     http.StatusNotFound,
	"unit-unknown":     http.StatusNotFound,

	"actor-invalid":      http.StatusUnprocessableEntity,
	"export-dir-invalid": http.StatusUnprocessableEntity,
	"order-invalid":      http.StatusUnprocessableEntity,
	"passphrase-empty":   http.StatusUnprocessableEntity,

	"locked":         http.StatusLocked,
	"station-locked": http.StatusLocked,

	// What the station's own files are to blame for.
	"ca-unfit":          http.StatusInternalServerError,
	"disk-error":        http.StatusInternalServerError,
	"key-file":          http.StatusInternalServerError,
	"ledger-damaged":    http.StatusInternalServerError,
	"ledger-read-only":  http.StatusInternalServerError,
	"ledger-unreadable": http.StatusInternalServerError,
	"root-expired":      http.StatusInternalServerError,
	"seal-damaged":      http.StatusInternalServerError,
	"seal-other":        http.StatusInternalServerError,
	"station-key-other": http.StatusInternalServerError,

	"ledger-busy": http.StatusServiceUnavailable,
	"disk-full":   http.StatusInsufficientStorage,
}

// Problem turns an error into what the caller is told. An error that nobody
// wrote for a caller shows no inside.
func Problem(err error) *api.Problem {
	var r *records.Refusal
	var f *flasher.Refusal
	var c *ca.Refusal
	switch {
	case errors.As(err, &r):
	case errors.As(err, &f):
		r = (*records.Refusal)(f)
	case errors.As(err, &c):
		r = (*records.Refusal)(c)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &api.Problem{Status: http.StatusServiceUnavailable, Code: "timeout", Sentence: "The station did not finish in time.", Next: "Ask again."}
	default:
		return &api.Problem{Status: http.StatusInternalServerError, Code: "internal", Sentence: "The station could not do this.", Next: "Its log says why."}
	}
	status := statusOf[r.Code]
	if status == 0 {
		status = http.StatusConflict
	}
	return &api.Problem{Status: status, Code: r.Code, Sentence: r.Sentence, Next: r.Next}
}

// Order turns an order into its wire form.
func Order(o records.Order) api.Order {
	return api.Order{ID: o.ID, Customer: o.Customer, Product: o.Product, Attestation: o.Terms.Attestation, Quota: o.Quota,
		Claimed: o.Live, Released: o.Released, Pass: o.Passes, Fail: o.Fails, Error: o.Errors, Closed: o.Closed, ValidUntil: o.ValidUntil}
}

// Unit turns a unit into its wire form, without history.
func Unit(u records.Unit) api.Unit {
	out := api.Unit{ID: u.ID.String(), State: string(u.State), Family: u.Family, Chip: u.Chip, Order: u.Order, Customer: u.Customer,
		Serial: u.Serial, RegistrationID: u.RegistrationID, RegistrationURL: u.RegistrationURL, IDScope: u.IDScope,
		Attestation: u.Attestation, Key: u.Key, Verdict: string(u.Verdict), Enrollment: u.Enrollment}
	for _, h := range u.Hardware {
		out.Hardware = append(out.Hardware, api.Hardware(h))
	}
	if u.EK != nil {
		out.EndorsementKey = ca.Digest(u.EK)
	}
	if u.Cert != nil {
		out.CertificateSerial = u.Cert.Serial
	}
	return out
}

// Event turns an event into a line of history.
func Event(e records.Event) api.Event {
	return api.Event{Seq: e.Seq, Time: e.Time, Actor: e.Actor.Kind + ":" + e.Actor.ID, Kind: string(e.Kind), Text: text(e)}
}

// text picks from an event's data what a person wants to read in a list.
func text(e records.Event) string {
	body, err := e.Body()
	if err != nil {
		return ""
	}
	switch b := body.(type) {
	case records.EvidenceAccepted:
		return proved(b)
	case records.UnitVerified:
		var shown []string
		for _, it := range b.Found {
			if it.How == string(flasher.ByPossession) {
				shown = append(shown, it.Name+" by possession")
			}
		}
		return strings.Join(shown, " · ")
	}
	var data map[string]any
	if json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	var parts []string
	for _, name := range []string{"slot", "verdict", "registration_id", "serial", "chip", "ref", "code", "sentence", "text", "reason"} {
		if s, ok := data[name].(string); ok && s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " · ")
}

// proved is what a device proved of its TPM or of its key.
func proved(b records.EvidenceAccepted) string {
	var parts []string
	if t := b.TPM; t != nil {
		parts = append(parts, "the TPM holds endorsement key "+ek.RegistrationID(t.EK))
		if t.Manufacturer != "" {
			parts = append(parts, t.Manufacturer+" "+t.Model+" "+t.Version)
		}
		if t.Finding != "" {
			parts = append(parts, "EK certificate not accepted: "+t.Finding)
		}
	}
	if k := b.Key; k != nil {
		where := "on the device"
		if k.In == records.KeyInTPM {
			where = "in the TPM"
		}
		parts = append(parts, "the key was made "+where, k.SPKI)
	}
	return strings.Join(parts, " · ")
}

// Slot turns a slot's status into its wire form.
func Slot(s line.Status, port string) api.Slot {
	out := api.Slot{Slot: s.Slot, Port: port, State: string(s.State), Order: s.Order, Serial: s.Serial, RegistrationID: s.RegistrationID,
		Step: s.Step, Done: s.Done, Total: s.Total, Verdict: string(s.Verdict), Code: s.Code, Sentence: s.Sentence, Next: s.Next,
		Started: s.Started, Ended: s.Ended}
	if s.Unit != 0 {
		out.Unit = s.Unit.String()
	}
	return out
}

// ParseActor reads "badge:4711" or "account:anna".
func ParseActor(s string) (records.Actor, error) {
	kind, id, ok := strings.Cut(s, ":")
	if !ok || (kind != "badge" && kind != "account") || id == "" || len(id) > 64 || strings.ContainsAny(id, " \t\r\n") {
		return records.Actor{}, &records.Refusal{Code: "actor-invalid", Sentence: fmt.Sprintf("%q names nobody.", s),
			Next: "Write badge:NUMBER or account:NAME."}
	}
	return records.Actor{Kind: kind, ID: id}, nil
}
