package ledger_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
)

var (
	ctx   = context.Background()
	badge = records.Actor{Kind: "badge", ID: "4711"}
)

// start is when the tests' clocks begin.
var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func create(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := ledger.Create(ctx, path, "line-1"); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *ledger.Ledger {
	t.Helper()
	return openWith(t, ledger.Config{Path: path, Station: "line-1"})
}

func openWith(t testing.TB, c ledger.Config) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func openReadOnly(t testing.TB, path string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.OpenReadOnly(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// do appends drafts that must be accepted.
func do(t testing.TB, l *ledger.Ledger, drafts ...records.Draft) []records.Event {
	t.Helper()
	events, err := try(l, drafts...)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func try(l *ledger.Ledger, drafts ...records.Draft) ([]records.Event, error) {
	return l.Do(ctx, func(records.View) ([]records.Draft, error) { return drafts, nil })
}

// code is the refusal's code, "" if err is none.
func code(err error) string {
	var r *records.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if code(err) != want {
		t.Errorf("got %v, want the refusal %s", err, want)
	}
}

func orderOpened(id, attestation string, quota int) records.Draft {
	key := ""
	if attestation == records.X509 {
		key = records.KeyInjected
	}
	return records.Draft{Actor: badge, Order: id, Body: records.OrderOpened{
		ID: id, Customer: "customer-a", Product: "sensor-" + attestation, Quota: quota, SerialFormat: "A%06d", SerialFirst: 1,
		ValidUntil: start.AddDate(100, 0, 0), ProductFile: []byte("name: sensor\n"), CustomerFile: []byte("name: customer-a\n"),
		Terms: records.Terms{Family: "espressif", Attestation: attestation, Key: key, RegistrationID: id + "-{serial}",
			RegistrationURL: "https://dps.example", IDScope: "0ne00000001"},
	}}
}

// makingKeys is an order whose devices make their own key.
func makingKeys(id, key string, quota int) records.Draft {
	d := orderOpened(id, records.X509, quota)
	o := d.Body.(records.OrderOpened)
	o.Product, o.Terms.Key = o.Product+"-"+key, key
	d.Body = o
	return d
}

func passageOpened(slot string) records.Draft {
	return records.Draft{Actor: badge, Passage: records.NewPassage, Body: records.PassageOpened{Slot: slot}}
}

func passageClosed(slot string, p records.PassageID, u records.UnitID, order string, v records.Verdict) records.Draft {
	return records.Draft{Actor: badge, Passage: p, Unit: u, Order: order, Body: records.PassageClosed{Slot: slot, Verdict: v}}
}

func identified(u records.UnitID, p records.PassageID, mac string) records.Draft {
	return records.Draft{Actor: badge, Unit: u, Passage: p, Body: records.UnitIdentified{
		Family: "espressif", Chip: "ESP32-C3", Hardware: []records.HardwareID{{Kind: "mac", Value: mac}}, Security: "00"}}
}

func about(u records.UnitID, order string, b records.Body) records.Draft {
	return records.Draft{Actor: badge, Unit: u, Order: order, Body: b}
}

func sealed(u records.UnitID, ref string) records.Draft {
	d := about(u, "", records.SecretSealed{Ref: ref, What: "symmetric key", Salt: []byte("salt"), SHA256: "00"})
	d.Sealed = []byte("the sealed bytes of " + ref)
	return d
}

func issued(u records.UnitID, id, serial, key string) records.Draft {
	return about(u, "", records.CertificateIssued{RegistrationID: id, Issuer: "issuer", Serial: serial, SPKI: key, Key: "injected", DER: []byte("certificate " + serial)})
}

// proved is what a TPM proved of itself, accepted what a device proved of its key.
func proved(u records.UnitID, p records.PassageID, ek string) records.Draft {
	return records.Draft{Actor: badge, Unit: u, Passage: p, Body: records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: []byte(ek), AK: []byte("ak of " + ek)}}}
}

func accepted(u records.UnitID, p records.PassageID, in, spki, ek string) records.Draft {
	k := &records.KeyEvidence{In: in, CSR: []byte("request"), SPKI: spki}
	if in == records.KeyInTPM {
		k.AK = []byte("ak of " + ek)
	}
	return records.Draft{Actor: badge, Unit: u, Passage: p, Body: records.EvidenceAccepted{Key: k}}
}

var manifest = []records.Item{{Name: "id_scope", SHA256: "11", How: "bytes"}}

// seen brings a new board into a slot and returns it and its passage.
func seen(t testing.TB, l *ledger.Ledger, slot, mac string) (records.UnitID, records.PassageID) {
	t.Helper()
	p := do(t, l, passageOpened(slot))[0].Passage
	return do(t, l, identified(records.NewUnit, p, mac))[0].Unit, p
}

// claim claims the order's next identity for the unit.
func claim(l *ledger.Ledger, u records.UnitID, order string) (records.IdentityClaimed, error) {
	var claimed records.IdentityClaimed
	_, err := l.Do(ctx, func(v records.View) ([]records.Draft, error) {
		unit, err := v.Unit(u)
		if err != nil {
			return nil, err
		}
		c, isNew, err := records.Claim(v, unit, order)
		if err != nil || !isNew {
			return nil, err
		}
		claimed = c
		return []records.Draft{about(u, order, c)}, nil
	})
	return claimed, err
}

func mustClaim(t testing.TB, l *ledger.Ledger, u records.UnitID, order string) records.IdentityClaimed {
	t.Helper()
	c, err := claim(l, u, order)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// released takes a new board through the whole line.
func released(t testing.TB, l *ledger.Ledger, order, mac string) records.Unit {
	t.Helper()
	u, p := seen(t, l, "slot-1", mac)
	c := mustClaim(t, l, u, order)
	do(t, l, sealed(u, "secret-"+u.String()))
	do(t, l, about(u, order, records.WriteBegun{Manifest: manifest}))
	do(t, l, about(u, order, records.UnitVerified{Found: manifest}))
	do(t, l, about(u, order, records.UnitPassed{}),
		about(u, order, records.UnitReleased{RegistrationID: c.RegistrationID}),
		passageClosed("slot-1", p, u, order, records.Pass))
	unit, err := l.Unit(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	return unit
}

// fold computes every state anew from the stored bytes, with the same functions
// as the ledger and none of its code.
type fold struct {
	events []records.Event
	units  map[records.UnitID]records.Unit
	orders map[string]records.Order
	owners map[string]int64 // space/name
}

func newFold() *fold {
	return &fold{units: map[records.UnitID]records.Unit{}, orders: map[string]records.Order{}, owners: map[string]int64{}}
}

// read folds what was appended since the last call.
func (f *fold) read(l *ledger.Ledger) error {
	for leaf, err := range l.Leaves(ctx, int64(len(f.events))+1) {
		if err != nil {
			return err
		}
		var e records.Event
		if err := json.Unmarshal(leaf.Bytes, &e); err != nil {
			return err
		}
		if err := f.add(e, leaf.Seq); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) add(e records.Event, seq int64) error {
	if want := int64(len(f.events)) + 1; seq != want || e.Seq != want {
		return fmt.Errorf("row %d holds event %d, want %d", seq, e.Seq, want)
	}
	if len(f.events) > 0 && e.Time.Before(f.events[len(f.events)-1].Time) {
		return fmt.Errorf("event %d is earlier than the one before it", e.Seq)
	}
	f.events = append(f.events, e)
	var err error
	if e.Unit != 0 {
		if f.units[e.Unit], err = records.ApplyUnit(f.units[e.Unit], e); err != nil {
			return err
		}
	}
	var o records.Order
	if e.Order != "" && records.ConcernsOrder(e.Kind) {
		if o, err = records.ApplyOrder(f.orders[e.Order], e); err != nil {
			return err
		}
		f.orders[e.Order] = o
	}
	marks, err := records.Marks(e, o)
	if err != nil {
		return err
	}
	for _, m := range marks {
		name := string(m.Space) + "/" + m.Name
		switch owner := f.owners[name]; {
		case m.Free && owner == m.Owner:
			delete(f.owners, name)
		case !m.Free && (owner == 0 || owner == m.Owner):
			f.owners[name] = m.Owner
		default:
			return fmt.Errorf("event %d: %s belongs to %d", e.Seq, name, owner)
		}
	}
	return nil
}

// compare holds the stored rows against the fold.
func (f *fold) compare(l *ledger.Ledger) error {
	units, orders, owners := 0, 0, 0
	for r, err := range l.UnitRows(ctx) {
		if err != nil {
			return err
		}
		u := f.units[r.ID]
		want, _ := json.Marshal(u)
		if string(want) != string(r.Body) || r.Order != u.Order || r.Customer != u.Customer || r.State != u.State {
			return fmt.Errorf("unit %s is stored as %+v %s, want %s", r.ID, r, r.Body, want)
		}
		units++
	}
	for r, err := range l.OrderRows(ctx) {
		if err != nil {
			return err
		}
		o := f.orders[r.ID]
		want, _ := json.Marshal(o)
		if string(want) != string(r.Body) || r.Customer != o.Customer || r.Live != o.Live || r.Quota != o.Quota {
			return fmt.Errorf("order %s is stored as %+v %s, want %s", r.ID, r, r.Body, want)
		}
		orders++
	}
	for r, err := range l.OwnerRows(ctx) {
		if err != nil {
			return err
		}
		if f.owners[string(r.Space)+"/"+r.Name] != r.Owner {
			return fmt.Errorf("%s %s is stored as %d's", r.Space, r.Name, r.Owner)
		}
		owners++
	}
	if units != len(f.units) || orders != len(f.orders) || owners != len(f.owners) {
		return fmt.Errorf("%d units, %d orders, %d owners are stored, want %d, %d, %d", units, orders, owners, len(f.units), len(f.orders), len(f.owners))
	}
	return nil
}

// checkAll folds the whole ledger from the first event and compares every row.
func checkAll(t testing.TB, l *ledger.Ledger) *fold {
	t.Helper()
	f := newFold()
	if err := errors.Join(f.read(l), f.compare(l)); err != nil {
		t.Fatal(err)
	}
	if l.Size() != int64(len(f.events)) {
		t.Fatalf("size is %d, want %d", l.Size(), len(f.events))
	}
	return f
}

// rawSQL runs a statement behind the ledger's back.
func rawSQL(t testing.TB, path, statement string) error {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(statement)
	return err
}

// holdLock begins a writing transaction behind the ledger's back and returns
// what ends it.
func holdLock(t testing.TB, path string) func() {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		conn.ExecContext(ctx, "ROLLBACK")
		conn.Close()
		db.Close()
	}
}
