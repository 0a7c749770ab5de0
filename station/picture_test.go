package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"nameplate/station/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; look at it with cat, and if it is right, run the test with -update. Now it is:\n%s", file, got)
	}
}

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

// rehearsal is a line on which everything happens at once.
func rehearsal() scene {
	began := noon.Add(-1500 * time.Millisecond)
	const id, long = "sensor-c3-000001-7cdfa1000001", "a-registration-id-that-goes-on-and-on-up-to-the-limit-of-the-service-7cdfa1000002"
	return scene{
		station: api.Station{Name: "line-1", State: "ready"},
		slots: []api.Slot{
			{Slot: "a1", State: "running", Step: "write", Done: 3, Total: 4, Order: "WO-0001", RegistrationID: id, Started: began},
			{Slot: "a2", State: "running", Step: "identify", Order: "WO-0001", Started: began},
			{Slot: "a3", State: "done", Verdict: "PASS", Order: "WO-0001", RegistrationID: long, Started: began, Ended: noon},
			{Slot: "a4", State: "empty", Verdict: "PASS", Order: "WO-0002-with-a-number-that-is-far-too-long-for-any-column", RegistrationID: id, Started: began, Ended: noon},
			{Slot: "b1", State: "done", Verdict: "FAIL", Order: "WO-0001", Code: "chip-unexpected", Started: began, Ended: noon,
				Sentence: "This board carries an ESP32-C3, but the product is built on the ESP32.", Next: "Put a board of this product into the slot, or choose the right work order."},
			{Slot: "b2", State: "empty", Verdict: "ERROR", Order: "WO-0001", RegistrationID: id, Code: "board-in-two-slots", Started: began, Ended: noon,
				Sentence: "Unit U2 is in another slot right now (passage P7): one board seen twice, or two boards with one hardware ID, which nobody can tell from here.",
				Next:     "Leave the other board where it is, take this one out and set it aside."},
			{Slot: "the-slot-at-the-far-end", State: "waiting", Code: "no-order", Sentence: "Slot b3 has no order.", Next: "Name one: 'station slot start b3 --order ORDER', or order: in the station file."},
			{Slot: "b4", State: "empty"},
		},
		orders: []api.Order{
			{ID: "WO-0001", Customer: "customer-a", Product: "esp32-c3-symmetric", Quota: 100, Released: 41, Pass: 41, Fail: 2, Error: 3},
			{ID: "WO-0002-with-a-number-that-is-far-too-long-for-any-column", Customer: "customer-b", Product: "esp32-x509", Quota: 50, Released: 7, Pass: 7},
			{ID: "WO-0000", Customer: "customer-a", Product: "esp32-x509", Quota: 5, Released: 5, Pass: 5}, // no slot works on it
		},
		pushes: []api.Push{
			{Customer: "customer-a", Accepted: 40, Due: 1, LastError: "service-unreachable: The service does not answer."},
			{Customer: "customer-b", Accepted: 6, Aside: 1},
		},
	}
}

// The live view, as it goes to the terminal.
func TestPicture(t *testing.T) {
	s := rehearsal()
	golden(t, "picture.golden", strings.Join(s.picture(noon, 120, 40), "\n")+"\n")

	s.station.State = "locked"
	golden(t, "picture-locked.golden", strings.Join(s.picture(noon, 80, 12), "\n")+"\n")
}

// A log of the line, where there is no terminal.
func TestPictureAsLog(t *testing.T) {
	var lines []string
	for _, s := range rehearsal().slots {
		lines = append(lines, line(s, noon, true))
	}
	golden(t, "log.golden", strings.Join(lines, "\n")+"\n")
}

// Redrawing in place holds only if no line is wider and no picture higher than
// the terminal.
func TestPictureFits(t *testing.T) {
	for _, size := range [][2]int{{60, 5}, {80, 24}, {100, 30}, {120, 30}, {200, 60}} {
		lines := rehearsal().picture(noon, size[0], size[1])
		if len(lines) >= size[1] {
			t.Errorf("%d lines in a terminal of %d", len(lines), size[1])
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(uncoloured(l)); n >= size[0] {
				t.Errorf("%d columns in a terminal of %d: %s", n, size[0], l)
			}
		}
	}
}

// uncoloured is a line as it is seen.
func uncoloured(l string) string {
	var b strings.Builder
	for i, part := range strings.Split(l, "\x1b[") {
		if i > 0 {
			_, part, _ = strings.Cut(part, "m")
		}
		b.WriteString(part)
	}
	return b.String()
}

// Whatever a step tells of itself, the bar only moves on.
func TestPictureMovesOn(t *testing.T) {
	last := -1
	for _, step := range []string{"", "identify", "claim", "resume", "key", "issue", "write", "verify", "release"} {
		for done := range int64(3) {
			now := strings.Count(bar(api.Slot{State: "running", Step: step, Done: done, Total: 2}, cyan), "█")
			if now < last {
				t.Errorf("the bar goes back at step %q, %d of 2", step, done)
			}
			last = now
		}
	}
	if last != barWidth {
		t.Errorf("the bar ends at %d of %d", last, barWidth)
	}
}

// A board's own words cannot steer the operator's terminal.
func TestPictureIsPlain(t *testing.T) {
	v := &view{}
	v.put(api.Slot{Slot: "a1", State: "done", Verdict: "FAIL", Sentence: "bad \x1b[2J\x1b]0;title\x07 label\r\n", Next: "\u009b31mred"})
	for _, l := range v.picture(noon, 120, 30) {
		if strings.ContainsAny(uncoloured(l), "\x1b\x07\r\n\u009b") {
			t.Errorf("a line holds control characters: %q", l)
		}
	}
}
