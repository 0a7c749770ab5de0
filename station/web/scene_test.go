package web

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/line"
	"nameplate/station/profile"
)

// What stands on a tile, in each state: a sign, a word, and what to do now.
func TestTile(t *testing.T) {
	const auto, asks = false, true
	sc := scene{orders: []records.Order{
		order("open", "p", "c", 10, 3, 0, 0), order("done", "p", "c", 10, 10, 0, 0), order("closed", "p", "c", 10, 3, 0, 0), order("expired", "p", "c", 10, 3, 0, 0),
	}}
	sc.orders[2].Closed = true
	sc.orders[3].ValidUntil = noon.Add(-time.Second)
	locked := sc
	locked.locked = true
	const why, next = "This board carries an ESP32.", "Set it aside."
	began := noon.Add(-2300 * time.Millisecond)
	for _, c := range []struct {
		in   scene
		asks bool
		s    api.Slot
		want tile
	}{
		{sc, auto, api.Slot{State: "empty", Order: "open"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Put a board in"}},
		{sc, auto, api.Slot{State: "empty"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Pick an order"}},
		{sc, auto, api.Slot{State: "empty", Order: "done"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Pick another order: this one is done"}},
		{sc, auto, api.Slot{State: "empty", Order: "closed"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Pick another order: this one is closed"}},
		{sc, auto, api.Slot{State: "empty", Order: "expired"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Pick another order: this one has expired"}},
		{sc, auto, api.Slot{State: "empty", Order: "other"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Pick another order: this one is not open"}},
		{locked, auto, api.Slot{State: "empty", Order: "open"}, tile{Kind: "empty", Sign: "·", Word: "empty", Do: "Wait: the station is locked"}},
		{sc, auto, api.Slot{State: "waiting", Code: "no-order", Sentence: "Slot a1 has no order.", Next: "Name one: 'station slot start'."},
			tile{Kind: "waiting", In: true, Sign: "?", Word: "waiting", Do: "Pick an order"}},
		{sc, auto, api.Slot{State: "waiting", Order: "open"}, tile{Kind: "waiting", In: true, Sign: "?", Word: "waiting", Do: "Wait"}},
		{sc, asks, api.Slot{State: "waiting", Order: "open"}, tile{Kind: "waiting", In: true, Sign: "?", Word: "waiting", Do: "Press Start, or scan A1", Start: true}},
		{sc, asks, api.Slot{State: "waiting"}, tile{Kind: "waiting", In: true, Sign: "?", Word: "waiting", Do: "Pick an order"}},
		{locked, asks, api.Slot{State: "waiting", Order: "open"}, tile{Kind: "waiting", In: true, Sign: "?", Word: "waiting", Do: "Wait: the station is locked"}},
		{sc, auto, api.Slot{State: "running", Order: "open", Started: began}, tile{Kind: "running", In: true, Running: true, Sign: "▶", Word: "start", Do: "Wait"}},
		{sc, asks, api.Slot{State: "running", Step: "write", Done: 1, Total: 4, Order: "open", Serial: "C-1", Started: began},
			tile{Kind: "running", In: true, Running: true, Sign: "▶", Word: "write", Do: "Wait", Percent: 50, Serial: "C-1"}},
		{sc, auto, api.Slot{State: "done", Verdict: "PASS", Order: "open", Serial: "C-1", RegistrationID: "r-1", Started: began, Ended: noon},
			tile{Kind: "pass", In: true, Sign: "✔", Word: "PASS", Do: "Take it out", Percent: 100, Serial: "C-1", Note: "2.3 s"}},
		{sc, asks, api.Slot{State: "done", Verdict: "PASS", Order: "open", RegistrationID: "r-1", Started: began, Ended: noon},
			tile{Kind: "pass", In: true, Sign: "✔", Word: "PASS", Do: "Take it out, put the next in", Percent: 100, Serial: "r-1", Note: "2.3 s", Start: true}},
		{sc, auto, api.Slot{State: "empty", Verdict: "PASS", Order: "open", Serial: "C-1", Started: began, Ended: noon},
			tile{Kind: "pass", Sign: "✔", Word: "PASS", Do: "Put the next board in", Percent: 100, Serial: "C-1", Note: "board is out"}},
		{sc, auto, api.Slot{State: "done", Verdict: "FAIL", Order: "open", Sentence: why, Next: next, Started: began, Ended: noon},
			tile{Kind: "fail", In: true, Sign: "✘", Word: "FAIL", Why: why, Do: next, Note: "2.3 s"}},
		{sc, auto, api.Slot{State: "empty", Verdict: "FAIL", Order: "done", Sentence: why, Next: next, Started: began, Ended: noon},
			tile{Kind: "fail", Sign: "✘", Word: "FAIL", Why: why, Do: next, Note: "board is out"}},
		{sc, asks, api.Slot{State: "done", Verdict: "ERROR", Order: "open", Sentence: why, Next: next, Started: began, Ended: noon},
			tile{Kind: "error", In: true, Sign: "!", Word: "ERROR", Why: why, Do: next, Note: "2.3 s", Start: true}},
	} {
		c.s.Slot, c.want.Slot, c.want.Order = "a1", "a1", c.s.Order
		if got := c.in.tile(c.s, c.asks, noon); got != c.want {
			t.Errorf("%+v:\n got %+v\nwant %+v", c.s, got, c.want)
		}
	}
}

// Slots stand where the station's file says, else in a grid that fits a screen.
func TestRows(t *testing.T) {
	grid := func(slots int) string { return fmt.Sprint(rows(make([]profile.Slot, slots))) }
	for slots, want := range map[int]string{
		1: "[[0]]", 2: "[[0 1]]", 3: "[[0 1 2]]", 4: "[[0 1] [2 3]]", 5: "[[0 1 2] [3 4 -1]]", 6: "[[0 1 2] [3 4 5]]", 7: "[[0 1 2 3] [4 5 6 -1]]", 8: "[[0 1 2 3] [4 5 6 7]]",
	} {
		if got := grid(slots); got != want {
			t.Errorf("%d slots: %s, want %s", slots, got, want)
		}
	}
	for _, c := range []struct{ slots, high, wide int }{{12, 3, 4}, {16, 3, 6}, {24, 4, 6}, {32, 4, 8}} {
		if got := rows(make([]profile.Slot, c.slots)); len(got) != c.high || len(got[0]) != c.wide {
			t.Errorf("%d slots stand in %d rows of %d, want %d of %d", c.slots, len(got), len(got[0]), c.high, c.wide)
		}
	}
	placed := rows([]profile.Slot{{At: profile.Place{Row: 2, Column: 3}}, {At: profile.Place{Row: 1, Column: 1}}, {At: profile.Place{Row: 2, Column: 1}}})
	if got, want := fmt.Sprint(placed), "[[1 -1 -1] [2 -1 0]]"; got != want {
		t.Errorf("placed slots: %s, want %s", got, want)
	}
}

// An order's card counts units, and verdicts that say something of a board.
func TestCard(t *testing.T) {
	sc := busy()
	cards := sc.view(noon).Cards
	if got, want := fmt.Sprintf("%+v", cards[0]), "{ID:WO-0417 Product:sensor-c3 Customer:customer-a Quota:500 Done:211 Left:289 Fail:3 Error:1 Yield:98 % Pace:6.8 s Slots:[a1 a2 a3 a4] Full:false}"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if c := cards[2]; c.Yield != "–" || c.Pace != "–" || c.Slots != nil {
		t.Errorf("an order that nobody has worked on: %+v", c)
	}
	sc.orders[0].Closed = true
	sc.orders[1].ValidUntil = noon.Add(-time.Second)
	if cards = sc.view(noon).Cards; len(cards) != 1 || cards[0].ID != "WO-0421" {
		t.Errorf("closed and expired orders are offered: %+v", cards)
	}
	for _, c := range []struct {
		passes, fails int
		want          string
	}{{999, 1, "99 %"}, {1, 0, "100 %"}, {0, 1, "0 %"}} {
		o := order("o", "p", "c", 1000, c.passes, c.fails, 50)
		if got := sc.card(o).Yield; got != c.want {
			t.Errorf("%d PASS, %d FAIL: %s, want %s", c.passes, c.fails, got, c.want)
		}
	}
}

// A unit's time is the median of the last ones; a slot that tells of one passage
// again and again, for another order even, has made one unit.
func TestPace(t *testing.T) {
	var p pace
	end := noon
	pass := func(slot, order string, took time.Duration) line.Status {
		end = end.Add(time.Minute)
		return line.Status{Slot: slot, Order: order, State: line.Done, Verdict: records.Pass, Started: end.Add(-took), Ended: end}
	}
	if p.median("o") != 0 {
		t.Error("no unit took some time")
	}
	one := pass("a1", "o", 8*time.Second)
	p.note(one)
	p.note(one)
	one.Order = "other"
	p.note(one)
	one.Order, one.State = "o", line.Empty
	p.note(one)
	failed := pass("a2", "o", time.Hour)
	failed.Verdict = records.Fail
	p.note(failed)
	if got, other := p.median("o"), p.median("other"); got != 8*time.Second || other != 0 {
		t.Errorf("after one unit: %s, and %s for an order without", got, other)
	}
	p.note(pass("a2", "o", 4*time.Second))
	if got := p.median("o"); got != 6*time.Second {
		t.Errorf("after 8 and 4 seconds: %s", got)
	}
	p.note(pass("a1", "o", time.Hour)) // somebody went to lunch
	if got := p.median("o"); got != 8*time.Second {
		t.Errorf("after 8 and 4 seconds and an hour: %s", got)
	}
	for range recentPasses {
		p.note(pass("a1", "o", time.Second))
	}
	if got := p.median("o"); got != time.Second {
		t.Errorf("what was long ago still counts: %s", got)
	}
}

// A key is good once and for 5 minutes; those that nobody used are forgotten.
func TestKeys(t *testing.T) {
	s := newSessions()
	key, until := s.key(noon)
	if until != noon.Add(5*time.Minute) {
		t.Errorf("the key is good until %s", until)
	}
	late, _ := s.key(noon)
	if _, _, ok := s.open(late, until.Add(time.Nanosecond)); ok {
		t.Error("a key opened after its time")
	}
	if _, _, ok := s.open(late, noon); ok {
		t.Error("a key opened that was tried before")
	}
	cookie, token, ok := s.open(key, until)
	if _, _, again := s.open(key, noon); !ok || again {
		t.Errorf("a key opened %t, and once more %t", ok, again)
	}
	for range 3 {
		s.key(noon)
	}
	s.key(noon.Add(time.Hour))
	if len(s.keys) != 1 {
		t.Errorf("%d keys are kept, want the newest", len(s.keys))
	}
	if secrets := []string{key, late, cookie, token}; slices.Contains(secrets, "") || len(slices.Compact(slices.Sorted(slices.Values(secrets)))) != 4 {
		t.Error("the secrets are not all different")
	}
}

// What a unit is, and what to do with the board, in words.
func TestUnitWords(t *testing.T) {
	for _, c := range []struct {
		u              records.Unit
		sentence, next string
	}{
		{records.Unit{ID: 7, State: records.Seen}, "U7 was here and has no identity yet.", "Put it in a slot."},
		{records.Unit{ID: 7, State: records.Claimed, Order: "WO-1", RegistrationID: "c-1", Verdict: records.Error}, "c-1 (unit U7) is not finished.", "Put it in a slot that works on order WO-1: it goes on where it stopped."},
		{records.Unit{ID: 7, State: records.Writing, Order: "WO-1", RegistrationID: "c-1", Passage: 3}, "c-1 (unit U7) is in a slot now.", "Wait for its verdict."},
		{records.Unit{ID: 7, State: records.Seen, Verdict: records.Fail}, "U7 is FAIL.", "Set the board aside."},
		{records.Unit{ID: 7, State: records.Released, RegistrationID: "c-1", Verdict: records.Pass, Enrollment: records.EnrollmentDue}, "c-1 (unit U7) is PASS and released.", "Nothing needs to be done: its service will be told."},
		{records.Unit{ID: 7, State: records.Released, RegistrationID: "c-1", Verdict: records.Pass, Enrollment: records.EnrollmentDone}, "c-1 (unit U7) is PASS and released; its service knows it.", "Nothing needs to be done."},
		{records.Unit{ID: 7, State: records.Released, RegistrationID: "c-1", Verdict: records.Pass, Enrollment: records.EnrollmentRefused}, "c-1 (unit U7) is PASS and released, but its service refuses it.", "Call the process engineer: 'station push status' says why."},
	} {
		if sentence, next := unitWords(c.u); sentence != c.sentence || next != c.next {
			t.Errorf("%+v: %q %q", c.u, sentence, next)
		}
	}
}
