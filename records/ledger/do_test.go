package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
)

func TestDoGivesEventsTheirPlace(t *testing.T) {
	l := openWith(t, ledger.Config{Path: create(t), Station: "line-1", Clock: func() time.Time { return start.Add(1234567 * time.Nanosecond) }})
	events := do(t, l, orderOpened("wo-1", records.X509, 1), passageOpened("slot-1"), passageOpened("slot-2"))
	for i, e := range events {
		if e.Seq != int64(i+1) || e.Station != "line-1" || e.Actor != badge || len(e.Salt) != 16 {
			t.Errorf("event %d: %+v", i+1, e)
		}
		if !e.Time.Equal(start.Add(1234 * time.Microsecond)) {
			t.Errorf("event %d has time %s, want microseconds", i+1, e.Time)
		}
	}
	if events[1].Passage != 2 || events[2].Passage != 3 {
		t.Errorf("passages %s and %s, want those of their own events", events[1].Passage, events[2].Passage)
	}
	if string(events[1].Salt) == string(events[2].Salt) {
		t.Error("two events have one salt")
	}
	u := do(t, l, identified(records.NewUnit, 2, "aa"))[0]
	if u.Unit != 4 {
		t.Errorf("unit %s, want U4", u.Unit)
	}
	stored, err := l.UnitEvents(ctx, 4)
	if err != nil || len(stored) != 1 || stored[0].Seq != 4 || !stored[0].Time.Equal(u.Time) {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

// Callers that share a commit share nothing else: the refusal of one, late in its
// own work, leaves no trace of it and touches nobody.
func TestRefusalLeavesNeighboursAlone(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.X509, 1000))
	held := make(chan struct{})
	refusal := &records.Refusal{Code: "no", Sentence: "No.", Next: "Ask again."}

	// The first caller keeps the writer busy until all others wait for it.
	const callers = 50
	var waiting, all sync.WaitGroup
	waiting.Add(callers)
	all.Go(func() {
		l.Do(ctx, func(records.View) ([]records.Draft, error) { <-held; return nil, nil })
	})
	errs := make([]error, callers)
	for i := range callers {
		all.Go(func() {
			waiting.Done()
			_, errs[i] = l.Do(ctx, func(v records.View) ([]records.Draft, error) {
				opened := passageOpened(fmt.Sprintf("slot-%d", i))
				switch i % 5 {
				case 0:
					return nil, refusal
				case 1: // a fold's error after a good event
					return []records.Draft{opened, about(999999, "", records.UnitPassed{})}, nil
				case 2: // a second owner after a good event
					return []records.Draft{opened, passageOpened("slot-shared")}, nil
				case 3: // a draft that lacks its unit
					return []records.Draft{opened, about(0, "", records.UnitPassed{})}, nil
				}
				return []records.Draft{opened}, nil
			})
		})
	}
	waiting.Wait()
	close(held)
	all.Wait()

	winners := 0
	for i, err := range errs {
		switch i % 5 {
		case 0:
			if err != refusal {
				t.Errorf("caller %d: got %v, want its own refusal", i, err)
			}
		case 2:
			if err == nil {
				winners++
			} else if code(err) != "identity-taken" {
				t.Errorf("caller %d: %v", i, err)
			}
		case 4:
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		default:
			if err == nil || code(err) != "" {
				t.Errorf("caller %d: got %v, want an error", i, err)
			}
		}
	}
	if winners != 1 {
		t.Errorf("%d callers took one slot", winners)
	}
	f := checkAll(t, l)
	if want := 1 + callers/5 + 2; len(f.events) != want {
		t.Errorf("%d events, want %d", len(f.events), want)
	}
}

func TestIncompleteDrafts(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 1))
	u, p := seen(t, l, "slot-1", "aa")
	mustClaim(t, l, u, "wo-1")
	noBytes := sealed(u, "ref")
	noBytes.Sealed = nil
	nobody := passageOpened("slot-2")
	nobody.Actor = records.Actor{}
	otherOrder := orderOpened("wo-2", records.X509, 1)
	otherOrder.Order = "wo-3"
	oldPassage := passageOpened("slot-2")
	oldPassage.Passage = p
	free := do(t, l, passageOpened("slot-3"))[0].Passage
	tests := []struct {
		name, want string
		draft      records.Draft
	}{
		{"nothing", "checking draft: it says nothing", records.Draft{Actor: badge}},
		{"no actor", "checking draft of passage.opened: it names no actor", nobody},
		{"no order", "checking draft of order.closed: it names no order", about(0, "", records.OrderClosed{})},
		{"other order", `checking draft of order.opened: it names order "wo-3" and opens "wo-2"`, otherOrder},
		{"old passage", "checking draft of passage.opened: it names an old passage", oldPassage},
		{"no passage", "checking draft of passage.closed: it names no passage", passageClosed("slot-1", 0, 0, "", records.Error)},
		{"no unit", "checking draft of unit.verified: it names no unit", about(0, "", records.UnitVerified{})},
		{"evidence of no unit", "checking draft of evidence.accepted: it names no unit", proved(0, p, "ek")},
		{"evidence outside a passage", "checking draft of evidence.accepted: it names no passage", proved(u, 0, "ek")},
		{"claim without order", "checking draft of identity.claimed: it names no order", about(u, "", records.IdentityClaimed{})},
		{"no sealed bytes", "checking draft of secret.sealed: it names no sealed bytes", noBytes},
		{"made known by another", "checking draft of unit.passed: only unit.identified makes a unit known", about(records.NewUnit, "", records.UnitPassed{})},
		{"opened by another", "checking draft of unit.identified: only passage.opened opens a passage", identified(u, records.NewPassage, "aa")},
		{"never made known", "applying event 6 (unit.identified) to unit U999 in state \"\": the unit was never made known", identified(999, free, "bb")},
		{"in a passage that is none", "applying event 6 (unit.identified): passage P999 is not open", identified(records.NewUnit, 999, "bb")},
		{"in a passage guessed ahead", "applying event 6 (unit.identified): passage P6 is not open", identified(records.NewUnit, 6, "bb")},
		{"two in one passage", "applying event 6 (unit.identified): unit U3 is in passage P2 already", identified(records.NewUnit, p, "bb")},
		{"closed without its unit", "applying event 6 (passage.closed): unit U3 is in passage P2, not U0", passageClosed("slot-1", p, 0, "", records.Error)},
		{"closed with a unit that is not in it", "applying event 6 (passage.closed): unit U0 is in passage P5, not U3", passageClosed("slot-3", free, u, "", records.Error)},
		{"slot of another passage", "applying event 6 (passage.closed): passage P2 does not hold the slot slot-9", passageClosed("slot-9", p, u, "", records.Error)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := try(l, tt.draft); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if f := checkAll(t, l); len(f.events) != 5 {
		t.Errorf("%d events, want 5", len(f.events))
	}
}

// P1: no name in any space ever has two live owners.
func TestOneIdentityOneDevice(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 10), orderOpened("wo-2", records.X509, 10))
	one, _ := seen(t, l, "slot-1", "aa")
	two, _ := seen(t, l, "slot-2", "bb")
	three, _ := seen(t, l, "slot-3", "cc")
	four, _ := seen(t, l, "slot-4", "dd")
	five, _ := seen(t, l, "slot-5", "ee")
	free := do(t, l, passageOpened("slot-6"))[0].Passage
	do(t, l, makingKeys("wo-3", records.KeyInFile, 10), makingKeys("wo-4", records.KeyInTPM, 10))
	six, p6 := seen(t, l, "slot-7", "ff")
	seven, p7 := seen(t, l, "slot-8", "ab")
	eight, p8 := seen(t, l, "slot-9", "ac")
	first := mustClaim(t, l, one, "wo-1")
	do(t, l, sealed(one, "ref-1"))
	id3 := mustClaim(t, l, three, "wo-2").RegistrationID
	id4 := mustClaim(t, l, four, "wo-2").RegistrationID
	do(t, l, issued(three, id3, "01", "key-1"))
	do(t, l, proved(eight, p8, "ek-8"))
	mustClaim(t, l, six, "wo-3")
	mustClaim(t, l, seven, "wo-3")
	mustClaim(t, l, eight, "wo-4")
	do(t, l, accepted(six, p6, records.KeyInFile, "key-6", ""))
	do(t, l, about(five, "wo-1", records.IdentityClaimed{Number: 2, Serial: "A000002", RegistrationID: "wo-1-a000002", Attestation: records.SymmetricKey}))

	like := func(change func(*records.IdentityClaimed)) records.Draft {
		c := first
		c.Number, c.Serial, c.RegistrationID = 3, "A000009", "wo-1-a000009"
		change(&c)
		return about(two, "wo-1", c)
	}
	tests := []struct {
		name, sentence string
		draft          records.Draft
	}{
		{"hardware ID", "The hardware mac=aa belongs to unit U4 already.", identified(records.NewUnit, free, "aa")},
		{"registration ID", "The registration wo-1-a000001 belongs to unit U4 already.",
			like(func(c *records.IdentityClaimed) { c.RegistrationID = first.RegistrationID })},
		{"serial", "The serial sensor-symmetricKey/A000001 belongs to unit U4 already.",
			like(func(c *records.IdentityClaimed) { c.Serial = first.Serial })},
		{"certificate", "The certificate issuer/01 belongs to unit U8 already.", issued(four, id4, "01", "key-2")},
		{"key", "The key key-1 belongs to unit U8 already.", issued(four, id4, "02", "key-1")},
		{"key of a device, known from evidence", "The key key-6 belongs to unit U17 already.", accepted(seven, p7, records.KeyInFile, "key-6", "")},
		{"key in a TPM, known from evidence", "The key key-6 belongs to unit U17 already.", accepted(eight, p8, records.KeyInTPM, "key-6", "ek-8")},
		{"key of a device, known from a certificate", "The key key-1 belongs to unit U8 already.", accepted(seven, p7, records.KeyInFile, "key-1", "")},
		{"injected key, known from evidence", "The key key-6 belongs to unit U17 already.", issued(four, id4, "03", "key-6")},
		{"slot", "The slot slot-1 belongs to passage P3 already.", passageOpened("slot-1")},
		{"secret", "The secret ref-1 belongs to unit U4 already.", sealed(five, "ref-1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := try(l, tt.draft)
			wantCode(t, err, "identity-taken")
			var r *records.Refusal
			if errors.As(err, &r) && r.Sentence != tt.sentence {
				t.Errorf("got  %s\nwant %s", r.Sentence, tt.sentence)
			}
		})
	}
	// A device may show its own key as often as it likes.
	do(t, l, accepted(six, p6, records.KeyInFile, "key-6", ""))
	// Two spaces are guarded by the folds before their marks are taken.
	for name, draft := range map[string]records.Draft{
		"number": like(func(c *records.IdentityClaimed) { c.Number = 1 }),
		"board":  identified(one, free, "aa"),
	} {
		if _, err := try(l, draft); err == nil {
			t.Errorf("a second owner of a %s was recorded", name)
		}
	}
	checkAll(t, l)
}

// The same promise holds for whoever writes past the rules: it is in the schema.
func TestSchemaHoldsThePromises(t *testing.T) {
	path := create(t)
	l := open(t, path)
	oneReleased(t, l)
	do(t, l, makingKeys("wo-key", records.KeyInFile, 1))
	u, p := seen(t, l, "slot-key", "ee")
	mustClaim(t, l, u, "wo-key")
	do(t, l, accepted(u, p, records.KeyInFile, "key-1", ""))
	l.Close()
	for _, statement := range []string{
		"INSERT INTO owners (space, name, owner) SELECT space, name, owner + 1 FROM owners WHERE space = 'registration'",
		"INSERT INTO owners (space, name, owner) SELECT space, name, owner + 1 FROM owners WHERE space = 'hardware'",
		"INSERT INTO owners (space, name, owner) SELECT space, name, owner + 1 FROM owners WHERE space = 'secret'",
		"INSERT INTO owners (space, name, owner) SELECT space, name, owner + 1 FROM owners WHERE space = 'key'",
		"UPDATE owners SET owner = owner + 1",
		"UPDATE orders SET live = quota + 1",
		"UPDATE orders SET live = -1",
		"UPDATE events SET bytes = x'00' WHERE seq = 1",
		"DELETE FROM events WHERE seq = 1",
		"INSERT INTO events (seq, bytes) VALUES (1, x'00')",
		"INSERT INTO tiles (level, n, hash) VALUES (8, 0, x'00')",
		"INSERT INTO seals (ref, unit, sealed) SELECT ref, unit, sealed FROM seals",
		"INSERT INTO events (seq, bytes) VALUES (1000, 'text')", // STRICT
	} {
		if rawSQL(t, path, statement) == nil {
			t.Errorf("SQLite accepted %s", statement)
		}
	}
}

// P6: an order never yields more live identities than it was made for, however
// many ask at once, and a claim given back is the next one's.
func TestQuotaHolds(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 3))
	var units []records.UnitID
	for i := range 8 {
		u, _ := seen(t, l, fmt.Sprintf("slot-%d", i), fmt.Sprintf("mac-%d", i))
		units = append(units, u)
	}
	var all sync.WaitGroup
	claims := make([]records.IdentityClaimed, len(units))
	errs := make([]error, len(units))
	for i, u := range units {
		all.Go(func() { claims[i], errs[i] = claim(l, u, "wo-1") })
	}
	all.Wait()
	winner, loser, won := -1, -1, 0
	for i, err := range errs {
		if err == nil {
			winner = i
			won++
			continue
		}
		loser = i
		wantCode(t, err, "order-exhausted")
	}
	if won != 3 {
		t.Fatalf("%d claims, want 3", won)
	}
	c := claims[winner]
	do(t, l, about(units[winner], "wo-1", records.IdentityReleased{RegistrationID: c.RegistrationID, Serial: c.Serial, Number: c.Number, Reason: "broken"}))
	again := mustClaim(t, l, units[loser], "wo-1")
	if again.Number != c.Number || again.RegistrationID != c.RegistrationID {
		t.Errorf("got %+v, want the one given back, %+v", again, c)
	}
	if o, err := l.Order(ctx, "wo-1"); err != nil || o.Live != 3 {
		t.Errorf("order %+v, %v", o, err)
	}
	// Past the rules, the fold refuses; past the fold, the schema would.
	over := c
	over.Number, over.Serial, over.RegistrationID = 4, "A000004", "wo-1-a000004"
	if _, err := try(l, about(units[winner], "wo-1", over)); err == nil {
		t.Error("a fourth claim was recorded")
	}
	checkAll(t, l)
}

// decide sees what earlier callers of the same commit did.
func TestDecideSeesEarlierCallers(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.X509, 500))
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			_, err := l.Do(ctx, func(v records.View) ([]records.Draft, error) {
				// Whoever finds the slot taken leaves it.
				owner, err := v.Owner(records.SlotSpace, "slot-1")
				if err != nil || owner != 0 {
					return nil, err
				}
				return []records.Draft{passageOpened("slot-1")}, nil
			})
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if l.Size() != 2 {
		t.Errorf("%d events, want 2", l.Size())
	}
}

func TestCallerLeavesTheQueue(t *testing.T) {
	l := open(t, create(t))
	held, entered := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		l.Do(ctx, func(records.View) ([]records.Draft, error) { close(entered); <-held; return nil, nil })
	})
	<-entered
	impatient, cancel := context.WithCancel(ctx)
	cancel()
	_, err := l.Do(impatient, func(records.View) ([]records.Draft, error) {
		t.Error("it was decided for a caller that had left")
		return nil, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	close(held)
	all.Wait()

	// Once its turn has come, a caller gets the real result.
	late, cancel := context.WithCancel(ctx)
	events, err := l.Do(late, func(records.View) ([]records.Draft, error) {
		cancel()
		return []records.Draft{passageOpened("slot-1")}, nil
	})
	if err != nil || len(events) != 1 {
		t.Errorf("got %v, %v", events, err)
	}
}

func TestClockSetBack(t *testing.T) {
	now := start
	path := create(t)
	config := ledger.Config{Path: path, Station: "line-1", Clock: func() time.Time { return now }, Built: start.AddDate(0, -1, 0)}
	l := openWith(t, config)
	behind := func() (d time.Duration) {
		t.Helper()
		if _, err := l.Do(ctx, func(v records.View) ([]records.Draft, error) { d = v.ClockBehind(); return nil, nil }); err != nil {
			t.Fatal(err)
		}
		return d
	}
	do(t, l, passageOpened("slot-1"))

	now = start.Add(-2 * time.Second) // a time daemon at work
	if d := behind(); d != 0 || l.Size() != 1 {
		t.Errorf("2 s: behind %s, %d events", d, l.Size())
	}
	if e := do(t, l, passageOpened("slot-2"))[0]; !e.Time.Equal(start) {
		t.Errorf("event at %s, want %s", e.Time, start)
	}

	now = start.Add(-time.Hour) // a step: said once
	for range 3 {
		if d := behind(); d != time.Hour {
			t.Errorf("behind %s, want 1h", d)
		}
	}
	f := checkAll(t, l)
	if len(f.events) != 3 || f.events[2].Kind != "clock.stepped" || f.events[2].Actor.Kind != "station" {
		t.Fatalf("want one clock.stepped, got %+v", f.events)
	}
	body, err := f.events[2].Body()
	if step, ok := body.(records.ClockStepped); err != nil || !ok || !step.Last.Equal(start) || !step.Now.Equal(now) {
		t.Errorf("got %+v, %v", body, err)
	}

	now = start.Add(time.Second) // caught up
	if d := behind(); d != 0 {
		t.Errorf("behind %s after catching up", d)
	}
	now = start.Add(-time.Minute) // another step
	behind()
	if n := len(checkAll(t, l).events); n != 4 {
		t.Errorf("%d events, want a second clock.stepped", n)
	}

	l.Close()
	config.Built = start.AddDate(1, 0, 0) // a program younger than the clock
	now = start
	l = openWith(t, config)
	if d := behind(); d != config.Built.Sub(now) {
		t.Errorf("behind %s, want %s", d, config.Built.Sub(now))
	}
	if n := l.Size(); n != 4 {
		t.Errorf("%d events, want no more: the clock was not set back", n)
	}
}
