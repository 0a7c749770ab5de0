package ledger_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
)

func TestFind(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 5), orderOpened("wo-2", records.X509, 5))
	one, _ := seen(t, l, "slot-1", "aa:bb:cc:00:00:01")
	two, _ := seen(t, l, "slot-2", "aa:bb:cc:00:00:02")
	three, _ := seen(t, l, "slot-3", "aa:bb:cc:00:00:03")
	mustClaim(t, l, one, "wo-1")
	mustClaim(t, l, two, "wo-2")
	id := mustClaim(t, l, three, "wo-2").RegistrationID // serial A000002, as no other
	do(t, l, issued(three, id, "7f01", "key-1"))
	for text, want := range map[string]records.UnitID{
		"U4": one, "u4": one, " U4 ": one,
		"wo-1-a000001": one, "WO-1-A000001": one,
		"aa:bb:cc:00:00:02": two, "AA:BB:CC:00:00:02": two,
		"A000002": three, "a000002": three,
		"7f01": three, "7F01": three,
	} {
		if u, err := l.Find(ctx, text); err != nil || u.ID != want {
			t.Errorf("%q is %s, %v, want %s", text, u.ID, err, want)
		}
	}
	for text, want := range map[string]string{
		"U3": "unit-unknown", "": "unit-unknown", "slot-1": "unit-unknown", "key-1": "unit-unknown", "U99999999999999999999": "unit-unknown",
		"A000001": "unit-ambiguous", // of two products
	} {
		_, err := l.Find(ctx, text)
		wantCode(t, err, want)
	}
}

func TestUnitsAndOrders(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 600), orderOpened("wo-2", records.X509, 600))
	var ids []records.UnitID
	for i := range 600 { // more than two pages
		events := do(t, l, passageOpened(fmt.Sprintf("slot-%d", i)))
		ids = append(ids, do(t, l, identified(records.NewUnit, events[0].Passage, fmt.Sprintf("mac-%d", i)))[0].Unit)
	}
	for i, id := range ids {
		if i%2 == 0 {
			mustClaim(t, l, id, []string{"wo-1", "wo-2"}[i/2%2])
		}
	}
	get := func(q ledger.UnitQuery) (got []records.UnitID) {
		t.Helper()
		for u, err := range l.Units(ctx, q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, u.ID)
			if _, err := l.Unit(ctx, u.ID); err != nil { // a consumer may read on
				t.Fatal(err)
			}
		}
		if !slices.IsSorted(got) {
			t.Errorf("%+v: not in order", q)
		}
		return got
	}
	for _, tt := range []struct {
		q    ledger.UnitQuery
		want int
	}{
		{ledger.UnitQuery{}, 600},
		{ledger.UnitQuery{Order: "wo-1"}, 150},
		{ledger.UnitQuery{Customer: "customer-a"}, 300},
		{ledger.UnitQuery{State: records.Seen}, 300},
		{ledger.UnitQuery{Order: "wo-2", State: records.Claimed}, 150},
		{ledger.UnitQuery{Order: "wo-2", State: records.Seen}, 0},
		{ledger.UnitQuery{Limit: 7}, 7},
		{ledger.UnitQuery{Limit: 300}, 300},
		{ledger.UnitQuery{After: ids[598]}, 1},
		{ledger.UnitQuery{Order: "wo-9"}, 0},
	} {
		if got := get(tt.q); len(got) != tt.want {
			t.Errorf("%+v: %d units, want %d", tt.q, len(got), tt.want)
		}
	}
	seq := l.Units(ctx, ledger.UnitQuery{Limit: 3})
	for range 2 { // an iterator begins anew each time
		n := 0
		for range seq {
			n++
		}
		if n != 3 {
			t.Errorf("%d units, want 3", n)
		}
	}
	orders, err := l.Orders(ctx)
	if err != nil || len(orders) != 2 || orders[0].ID != "wo-1" || orders[1].Live != 150 {
		t.Errorf("orders %+v, %v", orders, err)
	}
	if o, err := l.Order(ctx, "wo-9"); err != nil || o.ID != "" {
		t.Errorf("order that is none: %+v, %v", o, err)
	}
	if u, err := l.Unit(ctx, 1); err != nil || u.ID != 0 {
		t.Errorf("unit that is none: %+v, %v", u, err)
	}
	checkAll(t, l)
}

// A snapshot has one connection; readers on several goroutines take turns.
func TestReadersTakeTurns(t *testing.T) {
	path := create(t)
	l := open(t, path)
	oneReleased(t, l)
	r := openReadOnly(t, path)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if events, err := r.UnitEvents(ctx, 3); err != nil || len(events) != 8 {
					t.Errorf("%d events, %v", len(events), err)
					return
				}
				if _, err := r.Root(ctx, 7); err != nil {
					t.Error(err)
					return
				}
				for _, err := range r.Units(ctx, ledger.UnitQuery{}) {
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

func TestOpenPassages(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.X509, 5))
	u, p := seen(t, l, "slot-1", "aa")
	do(t, l, passageOpened("slot-2"))
	_, closed := seen(t, l, "slot-3", "cc")
	do(t, l, passageClosed("slot-3", closed, 6, "wo-1", records.Error))
	open, err := l.OpenPassages(ctx)
	if err != nil || len(open) != 2 {
		t.Fatalf("open: %+v, %v", open, err)
	}
	if open[0].Passage != p || open[0].Unit != u || open[1].Unit != 0 {
		t.Errorf("open: %+v", open)
	}
	if b, err := open[1].Body(); err != nil || b.(records.PassageOpened).Slot != "slot-2" {
		t.Errorf("the second is %+v, %v", b, err)
	}
}

// P5: a destroyed secret is gone from the file and from the log before it.
func TestDestroyedSecretIsGone(t *testing.T) {
	path := create(t)
	l := open(t, path)
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 1))
	u, _ := seen(t, l, "slot-1", "aa")
	mustClaim(t, l, u, "wo-1")
	do(t, l, sealed(u, "ref-1"))
	got, err := l.Sealed(ctx, "ref-1")
	if err != nil || string(got) != "the sealed bytes of ref-1" {
		t.Fatalf("sealed: %q, %v", got, err)
	}
	onDisk := func() (found []string) {
		for _, name := range []string{path, path + "-wal"} {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, got) {
				found = append(found, name)
			}
		}
		return found
	}
	if len(onDisk()) == 0 {
		t.Fatal("the sealed bytes are nowhere to be found, so this test shows nothing")
	}
	for leaf := range l.Leaves(ctx, 1) {
		if strings.Contains(string(leaf.Bytes), "sealed bytes") {
			t.Errorf("event %d carries the sealed bytes", leaf.Seq)
		}
	}
	do(t, l, about(u, "", records.WriteBegun{Manifest: manifest}))

	reader := openReadOnly(t, path) // keeps the log from being emptied
	do(t, l, about(u, "", records.SecretDestroyed{Ref: "ref-1", Reason: "not on the device"}))
	_, err = l.Sealed(ctx, "ref-1")
	wantCode(t, err, "secret-destroyed")
	_, err = l.Sealed(ctx, "ref-2")
	wantCode(t, err, "secret-unknown")

	reader.Close()
	do(t, l, passageOpened("slot-2")) // the next chance
	do(t, l, passageOpened("slot-3")) // its answer comes after the chance was taken
	if found := onDisk(); len(found) != 0 {
		t.Errorf("the destroyed secret still stands in %q", found)
	}
}
