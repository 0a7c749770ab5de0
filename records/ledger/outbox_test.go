package ledger_test

import (
	"fmt"
	"testing"
	"testing/synctest"
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
	if next, ok, err := l.OutboxNext(ctx, "customer-a", now); err != nil || !ok || !next.Equal(start.Add(2*time.Second)) {
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
	if s := status(); s != (ledger.OutboxCount{Customer: "customer-a", Due: 2, Aside: 1, Accepted: 1, Next: later, LastError: "429: too many requests"}) {
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
	if err := l.OutboxNote(ctx, "customer-a", "its file is gone"); err != nil {
		t.Fatal(err)
	}
	if s := status(); s.LastError != "its file is gone" {
		t.Errorf("status: %+v", s)
	}
	if err := l.OutboxNote(ctx, "customer-b", "its file is gone"); err != nil {
		t.Fatal(err)
	}
	if s := status(); s.Customer != "customer-a" { // and nobody else
		t.Errorf("status: %+v", s)
	}
	if _, ok, err := l.OutboxNext(ctx, "customer-b", now); ok || err != nil {
		t.Errorf("a customer without items has one due (%v)", err)
	}
	// No event, no item: the rules of the fold hold here too.
	if _, err := try(l, about(units[2].ID, "", records.EnrollmentAccepted{RegistrationID: units[2].RegistrationID})); err == nil {
		t.Error("one enrollment was accepted twice")
	}
	checkAll(t, l)
}

// What is due does not hide because the clock ran ahead when it was released or
// put off: no wait is that long.
func TestOutboxAfterClockRanAhead(t *testing.T) {
	synctest.Test(t, outboxAfterClockRanAhead)
}

func outboxAfterClockRanAhead(t *testing.T) {
	right := time.Now()
	now := right
	l := openWith(t, ledger.Config{Path: create(t), Station: "line-1", Clock: func() time.Time { return now }})
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 10))
	first := released(t, l, "wo-1", "mac-1")
	if err := l.OutboxDefer(ctx, []records.UnitID{first.ID}, right.Add(time.Hour), "503: wait an hour"); err != nil {
		t.Fatal(err)
	}
	now = right.AddDate(0, 2, 0)
	ahead := released(t, l, "wo-1", "mac-2")
	putOff := released(t, l, "wo-1", "mac-3")
	if err := l.OutboxDefer(ctx, []records.UnitID{putOff.ID}, now.Add(time.Minute), "503: wait a minute"); err != nil {
		t.Fatal(err)
	}
	now = right
	due := func(limit int) string {
		t.Helper()
		items, err := l.OutboxDue(ctx, "customer-a", now, limit)
		if err != nil {
			t.Fatal(err)
		}
		var ids []records.UnitID
		for _, it := range items {
			ids = append(ids, it.Unit)
		}
		return fmt.Sprint(ids)
	}
	next := func(want time.Time) {
		t.Helper()
		if at, some, err := l.OutboxNext(ctx, "customer-a", now); err != nil || !some || !at.Equal(want) {
			t.Errorf("next: %s, %t, %v, want %s", at, some, err, want)
		}
		if s, err := l.OutboxStatus(ctx); err != nil || len(s) != 1 || !s[0].Next.Equal(want) {
			t.Errorf("status: %+v, %v", s, err)
		}
	}
	if got, want := due(10), fmt.Sprint([]records.UnitID{ahead.ID, putOff.ID}); got != want {
		t.Errorf("due: %s, want %s", got, want)
	}
	if got, want := due(1), fmt.Sprint([]records.UnitID{ahead.ID}); got != want {
		t.Errorf("due, at most one: %s, want %s", got, want)
	}
	next(now)
	// Once tried, they wait like any other.
	if err := l.OutboxDefer(ctx, []records.UnitID{ahead.ID, putOff.ID}, right.Add(2*time.Minute), "503: wait"); err != nil {
		t.Fatal(err)
	}
	if got := due(10); got != "[]" {
		t.Errorf("due: %s", got)
	}
	next(right.Add(2 * time.Minute))
	// Nothing can be put off for longer than that.
	if err := l.OutboxDefer(ctx, []records.UnitID{first.ID}, right.AddDate(0, 2, 0), "503: wait two months"); err != nil {
		t.Fatal(err)
	}
	if got := due(10); got != "[]" {
		t.Errorf("due: %s", got)
	}
	now = right.Add(2 * time.Hour)
	if got, want := due(10), fmt.Sprint([]records.UnitID{ahead.ID, putOff.ID, first.ID}); got != want {
		t.Errorf("due two hours later: %s, want %s", got, want)
	}
}
