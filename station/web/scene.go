package web

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/profile"
)

// scene is what the operator page shows.
type scene struct {
	station string
	life    string // names the process; another one knows nothing of this one's pages
	locked  bool
	slots   []api.Slot
	places  []profile.Slot // the same slots, as the station's file has them
	orders  []records.Order
	pace    func(order string) time.Duration
}

// scene takes the slots as they are now; the orders, which are read from the
// ledger, come with it.
func (s *Server) scene(orders []records.Order) scene {
	sc := scene{station: s.Home.Set.Station.Name, life: s.life, locked: !s.Home.Vault.Unlocked(), orders: orders,
		places: s.Home.Set.Station.Slots, pace: s.Hub.pace.median}
	for _, slot := range s.Slots {
		st := slot.Status()
		sc.slots = append(sc.slots, Slot(st, s.Home.Port(st.Slot)))
	}
	return sc
}

// tile is one slot, in the words that stand on it.
type tile struct {
	Slot, Order, Serial string
	Kind                string // of the style sheet: empty, waiting, running, pass, fail or error
	In                  bool   // a board is in the slot
	Sign, Word          string // of the state; a verdict's stay until the next board comes
	Do                  string // what to do now
	Why                 string // the refusal's sentence
	Long                bool   // there is much to say
	Running             bool
	Percent             int
	Note                string // how long the passage took, or that the board is out
	Start               bool   // there is something that waits for a start
}

// card is one open order.
type card struct {
	ID, Product, Customer string
	Quota, Done, Left     int
	Fail, Error           int
	Yield, Pace           string
	Slots                 []string // that work on it
	Full                  bool
}

// view is everything on the page, as its template wants it. Rows are those of
// the fixture; a nil tile is a place without a slot.
type view struct {
	Station, Life string
	Locked, Acts  bool
	Rows          [][]*tile
	Cards         []card
}

func (sc scene) view(now time.Time) view {
	v := view{Station: sc.station, Life: sc.life, Locked: sc.locked}
	for _, row := range rows(sc.places) {
		var tiles []*tile
		for _, i := range row {
			if i < 0 {
				tiles = append(tiles, nil)
				continue
			}
			t := sc.tile(sc.slots[i], sc.places[i].Start == profile.StartRequest, now)
			tiles = append(tiles, &t)
		}
		v.Rows = append(v.Rows, tiles)
	}
	for _, o := range sc.orders {
		if !o.Closed && !o.Expired(now) {
			v.Cards = append(v.Cards, sc.card(o))
		}
	}
	return v
}

// rows are the slots' numbers as they stand in the fixture; -1 is a place without
// a slot. Slots without a place form a grid about twice as wide as it is high,
// as the screen is.
func rows(slots []profile.Slot) [][]int {
	at := func(i int) profile.Place { return slots[i].At }
	if len(slots) > 0 && slots[0].At == (profile.Place{}) {
		columns := 1
		for columns*((columns+1)/2) < len(slots) {
			columns++
		}
		high := (len(slots) + columns - 1) / columns
		columns = (len(slots) + high - 1) / high // as few as fill the rows
		at = func(i int) profile.Place { return profile.Place{Row: 1 + i/columns, Column: 1 + i%columns} }
	}
	var end profile.Place
	for i := range slots {
		end.Row, end.Column = max(end.Row, at(i).Row), max(end.Column, at(i).Column)
	}
	grid := make([][]int, end.Row)
	for r := range grid {
		grid[r] = slices.Repeat([]int{-1}, end.Column)
	}
	for i := range slots {
		grid[at(i).Row-1][at(i).Column-1] = i
	}
	return grid
}

// tile says of a slot what an operator wants to know, the same words and signs as
// those of the live view in the terminal.
func (sc scene) tile(s api.Slot, asks bool, now time.Time) tile {
	t := tile{Slot: s.Slot, Order: s.Order, Serial: cmp.Or(s.Serial, s.RegistrationID), In: s.State != "empty", Percent: Percent(s)}
	switch {
	case s.State == "running":
		t.Kind, t.Sign, t.Word, t.Running = "running", "▶", cmp.Or(s.Step, "start"), true
	case s.State == "waiting":
		t.Kind, t.Sign, t.Word = "waiting", "?", "waiting"
	case s.Verdict == "PASS":
		t.Kind, t.Sign, t.Word = "pass", "✔", "PASS"
	case s.Verdict == "FAIL":
		t.Kind, t.Sign, t.Word = "fail", "✘", "FAIL"
	case s.Verdict != "":
		t.Kind, t.Sign, t.Word = "error", "!", s.Verdict
	default:
		t.Kind, t.Sign, t.Word = "empty", "·", "empty"
	}
	switch {
	case !t.In && s.Verdict != "":
		t.Note = "board is out"
	case !s.Ended.IsZero():
		t.Note = fmt.Sprintf("%.1f s", s.Ended.Sub(s.Started).Seconds())
	}
	if !t.Running && t.Kind != "pass" {
		t.Why = s.Sentence
	}
	t.Start = !sc.locked && !t.Running && t.In && s.Order != "" && asks
	t.Do = sc.do(s, t, asks, now)
	if s.State == "waiting" && s.Order == "" {
		t.Why = "" // what to do says it all
	}
	t.Long = len(t.Why)+len(t.Do) > manyWords
	return t
}

// manyWords is how much of usual size fits a tile of a fixture with eight slots.
const manyWords = 150

// do is the one line that says what to do now.
func (sc scene) do(s api.Slot, t tile, asks bool, now time.Time) string {
	order := sc.spent(s.Order, now)
	switch {
	case t.Running:
		return "Wait"
	case t.In && t.Kind == "pass" && t.Start:
		return "Take it out, put the next in"
	case t.In && t.Kind == "pass":
		return "Take it out"
	case t.Why != "" && s.Next != "" && s.Order != "":
		return s.Next // in the slot or in the hand, the board is what it is about
	case sc.locked:
		return "Wait: the station is locked"
	case s.Order == "":
		return "Pick an order"
	case order != "":
		return order
	case !t.In && t.Kind != "empty":
		return "Put the next board in"
	case !t.In:
		return "Put a board in"
	case !asks:
		return "Wait" // it starts by itself
	}
	return "Press Start, or scan " + strings.ToUpper(s.Slot)
}

// spent says that nothing more can be made under an order, and what to do; it is
// empty while something can.
func (sc scene) spent(id string, now time.Time) string {
	i := slices.IndexFunc(sc.orders, func(o records.Order) bool { return o.ID == id })
	switch {
	case i < 0:
		return "Pick another order: this one is not open"
	case sc.orders[i].Closed:
		return "Pick another order: this one is closed"
	case sc.orders[i].Expired(now):
		return "Pick another order: this one has expired"
	case sc.orders[i].Released >= sc.orders[i].Quota:
		return "Pick another order: this one is done"
	}
	return ""
}

// card counts what became of an order. Done are the units that were released,
// left those that still can be. The yield is the share of PASS among the verdicts
// that say something about the board: PASS and FAIL, each passage counted; an
// ERROR says that the station could not tell.
func (sc scene) card(o records.Order) card {
	c := card{ID: o.ID, Product: o.Product, Customer: o.Customer, Quota: o.Quota, Done: o.Released, Left: o.Quota - o.Released,
		Fail: o.Fails, Error: o.Errors, Yield: "–", Pace: "–", Full: o.Released >= o.Quota}
	if judged := o.Passes + o.Fails; judged > 0 {
		c.Yield = fmt.Sprintf("%d %%", 100*o.Passes/judged) // rounded down: 100 % means all
	}
	if took := sc.pace(o.ID); took > 0 {
		c.Pace = fmt.Sprintf("%.1f s", took.Seconds())
	}
	for _, s := range sc.slots {
		if s.Order == o.ID {
			c.Slots = append(c.Slots, s.Slot)
		}
	}
	return c
}

// share is the part of a passage that is behind a step's begin, and at its end,
// in percent: about the time that each takes of a unit's.
var share = map[string][2]int{
	"identify": {0, 25}, "claim": {25, 30}, "resume": {30, 30}, "key": {30, 35}, "issue": {35, 40},
	"write": {40, 80}, "verify": {80, 95}, "release": {95, 100},
}

// Percent is how far the passage in a slot has come.
func Percent(s api.Slot) int {
	if s.State != "running" {
		if s.Verdict == "PASS" {
			return 100
		}
		return 0
	}
	part := share[s.Step]
	percent := part[0]
	if s.Total > 0 {
		percent += int(min(s.Done, s.Total) * int64(part[1]-part[0]) / s.Total)
	}
	return percent
}

// Plain takes out what has no picture of its own, and what turns the direction of
// writing: a board can bring any bytes, and some come to stand in a sentence.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			return '\uFFFD'
		}
		return r
	}, s)
}
