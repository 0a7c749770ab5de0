package home_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nameplate/ca"
	"nameplate/records"
	"nameplate/station/home"
)

func order(t *testing.T, h *home.Home, id string) error {
	t.Helper()
	_, err := h.OpenOrder(t.Context(), h.Actor(), id+".yaml", fmt.Appendf(nil,
		"id: %s\ncustomer: customer-a\nproduct: c3-key\nquota: 2\nserial: {format: '%s-%%d'}\nvalid_until: 2099-12-31\n", id, id))
	return err
}

// line writes events as the engine would, and returns the last.
func line(t *testing.T, h *home.Home, drafts ...records.Draft) records.Event {
	t.Helper()
	for i := range drafts {
		drafts[i].Actor = h.Actor()
	}
	events, err := h.Ledger.Do(t.Context(), func(records.View) ([]records.Draft, error) { return drafts, nil })
	must(t, err)
	return events[len(events)-1]
}

// claimed takes a board as far as its claim; released takes it out of the door.
func claimed(t *testing.T, h *home.Home, id, mac string) records.Unit {
	t.Helper()
	passage := line(t, h, records.Draft{Order: id, Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}}).Passage
	e := line(t, h, records.Draft{Order: id, Passage: passage, Unit: records.NewUnit, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3",
		Hardware: []records.HardwareID{{Kind: "mac", Value: mac}}}})
	u, err := h.Ledger.Unit(t.Context(), e.Unit)
	must(t, err)
	_, err = h.Ledger.Do(t.Context(), func(v records.View) ([]records.Draft, error) {
		claim, _, err := records.Claim(v, u, id)
		return []records.Draft{{Actor: h.Actor(), Order: id, Passage: passage, Unit: u.ID, Body: claim}}, err
	})
	must(t, err)
	return closed(t, h, u.ID, id, passage, records.Error)
}

func closed(t *testing.T, h *home.Home, unit records.UnitID, id string, passage records.PassageID, verdict records.Verdict) records.Unit {
	t.Helper()
	line(t, h, records.Draft{Order: id, Passage: passage, Unit: unit, Body: records.PassageClosed{Slot: "a1", Verdict: verdict, Code: "cancelled"}})
	u, err := h.Ledger.Unit(t.Context(), unit)
	must(t, err)
	return u
}

// Closing an order gives back the claims for which nothing was made, keeps the
// others, and signs what is then written.
func TestCloseOrderGivesClaimsBack(t *testing.T) {
	h := opened(t, folder(t))
	must(t, h.Unlock(passphrase(t, word)))
	must(t, order(t, h, "WO-1"))
	waiting := claimed(t, h, "WO-1", "00:00:5e:00:53:01")
	keyed := claimed(t, h, "WO-1", "00:00:5e:00:53:02")
	passage := line(t, h, records.Draft{Order: "WO-1", Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}}).Passage
	line(t, h, records.Draft{Order: "WO-1", Passage: passage, Unit: keyed.ID, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3", Hardware: keyed.Hardware}})
	sealed, err := h.Seal("ref-1", []byte("secret"))
	must(t, err)
	line(t, h, records.Draft{Order: "WO-1", Passage: passage, Unit: keyed.ID, Sealed: sealed,
		Body: records.SecretSealed{Ref: "ref-1", What: "symmetric key", Salt: []byte("salt"), SHA256: strings.Repeat("0", 64)}})
	closed(t, h, keyed.ID, "WO-1", passage, records.Error)

	o, err := h.CloseOrder(t.Context(), h.Actor(), "WO-1", "enough")
	must(t, err)
	if !o.Closed || o.Live != 1 {
		t.Errorf("the order is closed: %t, %d live identities; want one, the keyed unit's", o.Closed, o.Live)
	}
	for unit, want := range map[records.UnitID]records.UnitState{waiting.ID: records.Seen, keyed.ID: records.Keyed} {
		u, err := h.Ledger.Unit(t.Context(), unit)
		must(t, err)
		if u.State != want {
			t.Errorf("unit %s is %s, want %s", unit, u.State, want)
		}
	}
	checkpoints, err := h.Ledger.Checkpoints(t.Context())
	must(t, err)
	if len(checkpoints) != 1 || checkpoints[0].Size != h.Ledger.Size() {
		t.Errorf("checkpoints %v over %d events", checkpoints, h.Ledger.Size())
	}
	_, err = h.CloseOrder(t.Context(), h.Actor(), "WO-1", "again")
	refused(t, err, "order-closed")
	_, err = h.CloseOrder(t.Context(), h.Actor(), "WO-9", "")
	refused(t, err, "order-unknown")
}

// An order is opened with all that its units need; a mistake in it says where.
func TestOpenOrder(t *testing.T) {
	h := opened(t, folder(t))
	must(t, order(t, h, "WO-1"))
	refused(t, order(t, h, "WO-1"), "order-exists")
	_, err := h.OpenOrder(t.Context(), h.Actor(), "/tmp/x.yaml", []byte("id: X\n"))
	refused(t, err, "order-invalid")
	if !strings.Contains(err.Error(), "/tmp/x.yaml:1: ") {
		t.Errorf("%q does not say where", err)
	}
	opened, err := h.Ledger.Opened(t.Context(), "WO-1")
	must(t, err)
	product, err := os.ReadFile(filepath.Join(h.Dir, "products", "c3-key.yaml"))
	must(t, err)
	if !bytes.Equal(opened.ProductFile, product) || opened.ProductSHA256 != ca.Digest(product) || opened.Limits.Passage == 0 {
		t.Errorf("opened with %+v", opened)
	}
	// Today's file does not matter any more.
	must(t, os.WriteFile(filepath.Join(h.Dir, "products", "c3-key.yaml"), []byte("nonsense"), 0o600))
	if _, err := h.Jobs(nil)(t.Context(), "WO-1"); err == nil {
		t.Error("a station that knows no family makes devices")
	} else {
		refused(t, err, "family-unknown")
	}
}

// Refused actions are recorded with who was refused what.
func TestDenied(t *testing.T) {
	h := opened(t, folder(t))
	must(t, h.Denied(t.Context(), records.Actor{Kind: "badge", ID: "4711"}, "order close", "order-closed", "Order WO-1 is closed already."))
	for leaf, err := range h.Ledger.Leaves(t.Context(), 1) {
		must(t, err)
		var e records.Event
		must(t, json.Unmarshal(leaf.Bytes, &e))
		if e.Kind != (records.ActionDenied{}).Kind() || e.Actor.ID != "4711" || !strings.Contains(string(e.Data), `"code":"order-closed"`) {
			t.Errorf("recorded %s %s by %s", e.Kind, e.Data, e.Actor.ID)
		}
	}
	if h.Ledger.Size() != 1 {
		t.Errorf("%d events", h.Ledger.Size())
	}
}

// The batch of a customer, made again, holds the same identities; it goes to a
// folder that is new and named in full.
func TestExportAgain(t *testing.T) {
	h := opened(t, folder(t))
	must(t, h.Unlock(passphrase(t, word)))
	must(t, order(t, h, "WO-1"))
	_, err := h.Export(t.Context(), h.Actor(), "customer-a", "", filepath.Join(t.TempDir(), "none"))
	refused(t, err, "batch-empty")
	released(t, h, "WO-1", "00:00:5e:00:53:01")
	released(t, h, "WO-1", "00:00:5e:00:53:02")
	var rows [][]byte
	for _, ask := range []struct{ customer, order string }{{"customer-a", ""}, {"customer-a", ""}, {"", "WO-1"}} {
		dir := filepath.Join(t.TempDir(), "batch")
		done, err := h.Export(t.Context(), h.Actor(), ask.customer, ask.order, dir)
		must(t, err)
		if done.Units != 2 || done.Dir != dir || done.Events == 0 || len(done.Manifest) != 64 {
			t.Errorf("exported %+v", done)
		}
		text, err := os.ReadFile(filepath.Join(dir, "identities.csv"))
		must(t, err)
		rows = append(rows, text)
		_, err = h.Export(t.Context(), h.Actor(), ask.customer, ask.order, dir)
		refused(t, err, "batch-exists")
	}
	if !bytes.Equal(rows[0], rows[1]) || !bytes.Equal(rows[0], rows[2]) {
		t.Errorf("the identities differ:\n%s\n%s\n%s", rows[0], rows[1], rows[2])
	}
	_, err = h.Export(t.Context(), h.Actor(), "customer-a", "", "relative")
	refused(t, err, "export-dir-invalid")
	_, err = h.Export(t.Context(), h.Actor(), "customer-z", "", filepath.Join(t.TempDir(), "none"))
	refused(t, err, "customer-unknown")
	_, err = h.Export(t.Context(), h.Actor(), "", "WO-9", filepath.Join(t.TempDir(), "none"))
	refused(t, err, "order-unknown")
}

// released takes a board all the way.
func released(t *testing.T, h *home.Home, id, mac string) {
	t.Helper()
	u := claimed(t, h, id, mac)
	passage := line(t, h, records.Draft{Order: id, Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}}).Passage
	ref := fmt.Sprintf("ref-%d", u.ID)
	sealed, err := h.Seal(ref, []byte("secret"))
	must(t, err)
	item := records.Item{Name: "symmetric_key", SHA256: strings.Repeat("0", 64), Salt: strings.Repeat("0", 32), How: "bytes"}
	for _, b := range []records.Body{
		records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3", Hardware: u.Hardware},
		records.SecretSealed{Ref: ref, What: "symmetric key", Salt: []byte("0123456789abcdef"), SHA256: strings.Repeat("0", 64)},
		records.WriteBegun{Manifest: []records.Item{item}},
		records.UnitVerified{Found: []records.Item{item}},
	} {
		d := records.Draft{Order: id, Passage: passage, Unit: u.ID, Body: b}
		if _, ok := b.(records.SecretSealed); ok {
			d.Sealed = sealed
		}
		line(t, h, d)
	}
	line(t, h, records.Draft{Order: id, Passage: passage, Unit: u.ID, Body: records.UnitPassed{}},
		records.Draft{Order: id, Passage: passage, Unit: u.ID, Body: records.UnitReleased{RegistrationID: u.RegistrationID}},
		records.Draft{Order: id, Passage: passage, Unit: u.ID, Body: records.PassageClosed{Slot: "a1", Verdict: records.Pass}})
	if found := find(t, h, u.RegistrationID); found.State != records.Released {
		t.Fatalf("unit %s is %s", u.ID, found.State)
	}
}

// find is what a person finds under a name.
func find(t *testing.T, h *home.Home, name string) records.Unit {
	t.Helper()
	u, events, err := h.History(t.Context(), name)
	must(t, err)
	if len(events) == 0 {
		t.Errorf("%s has no history", name)
	}
	return u
}

// An order is of one customer: naming another with it is a mistake, and no batch.
func TestExportOfAnotherCustomersOrder(t *testing.T) {
	h := opened(t, folder(t))
	must(t, h.Unlock(passphrase(t, word)))
	must(t, order(t, h, "WO-1"))
	released(t, h, "WO-1", "00:00:5e:00:53:01")
	_, err := h.Export(t.Context(), h.Actor(), "customer-b", "WO-1", filepath.Join(t.TempDir(), "batch"))
	refused(t, err, "order-other-customer")
}
