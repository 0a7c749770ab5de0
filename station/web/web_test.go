package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nameplate/records"
)

// open is the body that opens an order.
func open(id string) string {
	return fmt.Sprintf(`{"name": "%s.yaml", "file": %q}`, id, fmt.Sprintf(orderFile, id))
}

// Every route, in the order of a station's day.
func TestRoutes(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		holds              string
	}{
		{"GET", "/station", "", 200, `{"name":"line-1","version":"test","state":"locked","events":0}`},
		{"POST", "/orders", open("WO-1"), 200, `"id":"WO-1","customer":"customer-a","product":"c3-key","attestation":"symmetricKey","quota":2,"claimed":0,"released":0,`},
		{"GET", "/orders", "", 200, `[{"id":"WO-1",`},
		{"GET", "/orders/WO-1", "", 200, `"closed":false`},
		{"GET", "/units", "", 200, `[]`},
		{"GET", "/units?order=WO-1&state=released&limit=10&after=5", "", 200, `[]`},
		{"GET", "/slots", "", 200, `{"slot":"a1","port":"rfc2217://127.0.0.1:1","state":"empty","order":"WO-1"}`},
		{"GET", "/ports", "", 200, `[`},
		{"GET", "/push", "", 200, `[]`},
		{"POST", "/unlock", `{"passphrase":"` + passphrase + `"}`, 204, ``},
		{"GET", "/station", "", 200, `"state":"ready"`},
		{"POST", "/slots/a1/start", `{}`, 204, ``},
		{"POST", "/orders/WO-1/close", `{"reason":"enough"}`, 200, `"closed":true`},
		{"GET", "/openapi.json", "", 200, `"openapi":"3.1.0"`},
		{"GET", "/openapi.yaml", "", 200, `openapi: 3.1.0`},
	} {
		status, text := s.ask(request{method: c.method, path: "/api/v1" + c.path, body: c.body})
		if status != c.status || !strings.Contains(text, c.holds) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.path, status, text, c.status, c.holds)
		}
	}
}

// A refused action has a status, a code, a sentence and an action, and stands in
// the ledger with who was refused what.
func TestRefusedActionsAreRecorded(t *testing.T) {
	s := serve(t)
	if status, text := s.ask(request{method: "POST", path: "/api/v1/orders", body: open("WO-1")}); status != 200 {
		t.Fatal(text)
	}
	for _, c := range []struct {
		path, body string
		status     int
		code       string
		sentence   string
		action     string
	}{
		{"/unlock", `{"passphrase":"wrong"}`, 401, "passphrase-wrong", "The passphrase does not open the station's keys.", "unlock"},
		{"/unlock", `{"passphrase":""}`, 422, "passphrase-empty", "The passphrase is empty.", "unlock"},
		{"/orders", open("WO-1"), 409, "order-exists", "There is an order WO-1 already.", "order open"},
		{"/orders", `{"name":"x.yaml","file":"id: X"}`, 422, "order-invalid", "x.yaml:1: customer is missing", "order open"},
		{"/orders/WO-9/close", `{"reason":""}`, 404, "order-unknown", `There is no order "WO-9".`, "order close"},
		{"/slots/z9/start", `{}`, 404, "slot-unknown", `There is no slot "z9".`, "slot start"},
		{"/slots/z9/cancel", ``, 404, "slot-unknown", `There is no slot "z9".`, "slot cancel"},
		{"/slots/a1/start", `{}`, 423, "station-locked", "The station is locked.", "slot start"},
		{"/slots/a1/cancel", ``, 409, "slot-idle", "No passage is running in slot a1.", "slot cancel"},
		{"/exports", `{"customer":"customer-a","dir":"relative"}`, 422, "export-dir-invalid", `"relative" is not an absolute path.`, "export"},
		{"/exports", `{"customer":"customer-z","dir":"/nowhere"}`, 404, "customer-unknown", `No order was ever opened for customer "customer-z".`, "export"},
		{"/exports", `{"customer":"customer-a","dir":"/nowhere"}`, 423, "station-locked", "The station is locked.", "export"},
		{"/push/U7/retry", ``, 404, "unit-unknown", `No unit is called "U7".`, "push retry"},
	} {
		before := s.home.Ledger.Size()
		p := s.refused(request{method: "POST", path: "/api/v1" + c.path, body: c.body, header: map[string]string{"Nameplate-Actor": "badge:4711"}}, c.status, c.code)
		if !strings.Contains(p.Sentence, c.sentence) {
			t.Errorf("%s: %q, want %q", c.path, p.Sentence, c.sentence)
		}
		events := s.events(before + 1)
		if len(events) != 1 || !strings.HasPrefix(events[0], "badge:4711 action.denied ") || !strings.Contains(events[0], fmt.Sprintf(`"action":%q,"code":%q`, c.action, c.code)) {
			t.Errorf("%s: recorded %q", c.path, events)
		}
	}
	// Looking for what is not there is no action.
	before := s.home.Ledger.Size()
	s.refused(request{method: "GET", path: "/api/v1/orders/WO-9"}, 404, "order-unknown")
	s.refused(request{method: "GET", path: "/api/v1/units/U9"}, 404, "unit-unknown")
	if after := s.home.Ledger.Size(); after != before {
		t.Errorf("looking left %d events", after-before)
	}
}

// Who acts stands in the event: the header's actor, else the station's operator.
func TestActor(t *testing.T) {
	s := serve(t)
	for _, c := range []struct{ header, want string }{
		{"", "badge:badge-1"}, {"badge:4711", "badge:4711"}, {"account:planner", "account:planner"},
	} {
		before := s.home.Ledger.Size()
		id := fmt.Sprintf("WO-%d", before)
		status, text := s.ask(request{method: "POST", path: "/api/v1/orders", body: open(id), header: map[string]string{"Nameplate-Actor": c.header}})
		if events := s.events(before + 1); status != 200 || len(events) != 1 || !strings.HasPrefix(events[0], c.want+" order.opened ") {
			t.Errorf("actor %q: %d %s, recorded %q", c.header, status, text, events)
		}
	}
	for _, who := range []string{"somebody", "person:anna", "badge:", "badge:a b", "badge:" + strings.Repeat("9", 65)} {
		before := s.home.Ledger.Size()
		s.refused(request{method: "POST", path: "/api/v1/orders", body: open("WO-X"), header: map[string]string{"Nameplate-Actor": who}}, 422, "actor-invalid")
		if events := s.events(before + 1); len(events) != 1 || !strings.HasPrefix(events[0], "badge:badge-1 action.denied ") {
			t.Errorf("actor %q: recorded %q", who, events)
		}
	}
}

// An enrollment that was set aside is put back, and its customer's pusher woken.
func TestPushRetryNeedsSomethingAside(t *testing.T) {
	s := serve(t)
	opened := s.record(records.Draft{Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}})
	unit := s.record(records.Draft{Passage: opened.Passage, Unit: records.NewUnit, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32",
		Hardware: []records.HardwareID{{Kind: "mac", Value: "00:00:5e:00:53:01"}}}}).Unit
	s.refused(request{method: "POST", path: "/api/v1/push/00:00:5e:00:53:01/retry"}, 409, "enrollment-not-aside")
	if len(s.retried) != 0 {
		t.Error("a pusher was woken for nothing")
	}
	status, text := s.ask(request{method: "GET", path: "/api/v1/units/" + unit.String()})
	if status != http.StatusOK || !strings.Contains(text, `"kind":"unit.identified","text":"ESP32"`) {
		t.Errorf("%d %s", status, text)
	}
}
