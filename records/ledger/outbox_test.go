package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
)

func TestOutbox(t *testing.T) {
	now := start
	path := create(t)
	l := openWith(t, ledger.Config{Path: path, Station: "line-1", Clock: func() time.Time { return now }})
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 10))
	var units []records.Unit
	for i := range 4 {
		now = start.Add(time.Duration(i) * time.Second)
		units = append(units, released(t, l, "wo-1", fmt.Sprintf("mac-%d", i)))
	}
	due := func(now time.Time, limit int) (ids []records.UnitID) {
		t.Helper()
		items, err := l.OutboxDue(ctx, "customer-a", now, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			ids = append(ids, it.Unit)
		}
		return ids
	}
	want := func(got []records.UnitID, want ...int) {
		t.Helper()
		var ids []records.UnitID
		for _, i := range want {
			ids = append(ids, units[i].ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Errorf("due: %v, want %v", got, ids)
		}
	}
	want(due(start, 10), 0)
	want(due(now, 10), 0, 1, 2, 3)
	want(due(now, 2), 0, 1)

	// A try that is to be repeated later.
	later := now.Add(time.Minute)
	if err := l.OutboxDefer(ctx, []records.UnitID{units[0].ID, units[1].ID}, later, "429: too many requests"); err != nil {
		t.Fatal(err)
	}
	want(due(now, 10), 2, 3)
	want(due(later, 10), 2, 3, 0, 1)
	if next, ok, err := l.OutboxNext(ctx, "customer-a"); err != nil || !ok || !next.Equal(start.Add(2*time.Second)) {
		t.Errorf("next: %s, %t, %v", next, ok, err)
	}

	// A refusal for good, an acceptance.
	do(t, l, about(units[2].ID, "", records.EnrollmentRejected{RegistrationID: units[2].RegistrationID, Code: "enrollment-differs", Sentence: "It is somebody else's."}))
	status := func() ledger.OutboxCount {
		t.Helper()
		all, err := l.OutboxStatus(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("status: %+v, %v", all, err)
		}
		return all[0]
	}
	if s := status(); s != (ledger.OutboxCount{Customer: "customer-a", Due: 3, Aside: 1, Next: start.Add(3 * time.Second), LastError: "enrollment-differs: It is somebody else's."}) {
		t.Errorf("status: %+v", s)
	}
	do(t, l, about(units[3].ID, "", records.EnrollmentAccepted{RegistrationID: units[3].RegistrationID, ETag: "x"}))
	if s := status(); s != (ledger.OutboxCount{Customer: "customer-a", Due: 2, Aside: 1, Accepted: 1, Next: later}) {
		t.Errorf("status: %+v", s)
	}

	// A person takes the one set aside back; until then it waits.
	aside, err := l.OutboxAside(ctx, "customer-a")
	if err != nil || len(aside) != 1 || aside[0].Unit != units[2].ID || aside[0].Tries != 1 || aside[0].State != ledger.OutboxAsideState {
		t.Fatalf("aside: %+v, %v", aside, err)
	}
	wantCode(t, l.OutboxRetry(ctx, units[3].ID), "enrollment-not-aside")
	if err := l.OutboxRetry(ctx, units[2].ID); err != nil {
		t.Fatal(err)
	}
	want(due(now, 10), 2)

	l.Close()
	l = open(t, path) // all of it is on disk
	do(t, l, about(units[2].ID, "", records.EnrollmentAccepted{RegistrationID: units[2].RegistrationID}))
	if s := status(); s.Accepted != 2 || s.Due != 2 || s.Aside != 0 {
		t.Errorf("status: %+v", s)
	}
	if _, ok, err := l.OutboxNext(ctx, "customer-b"); ok || err != nil {
		t.Errorf("a customer without items has one due (%v)", err)
	}
	// No event, no item: the rules of the fold hold here too.
	if _, err := try(l, about(units[2].ID, "", records.EnrollmentAccepted{RegistrationID: units[2].RegistrationID})); err == nil {
		t.Error("one enrollment was accepted twice")
	}
	checkAll(t, l)
}
