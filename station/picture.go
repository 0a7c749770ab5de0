package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"nameplate/station/api"
	"nameplate/station/web"
)

// scene is what the live view shows.
type scene struct {
	station api.Station
	slots   []api.Slot
	orders  []api.Order
	pushes  []api.Push
}

// Colours never stand alone: each goes with a sign and a word.
const (
	bold, grey, cyan, yellow, red, green   = "1", "90", "36", "33", "31", "32"
	passBadge, failBadge, errorBadge, head = "1;30;42", "1;97;41", "1;30;43", "1;7"
)

func paint(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }

// The picture's columns; what is left of the terminal's width is shared by
// registration ID and order.
const (
	slotWidth  = 10
	stateWidth = 12
	barWidth   = 20
	timeWidth  = 8
	fixedWidth = 1 + slotWidth + 1 + stateWidth + 1 + barWidth + 6 + 1 + 1 + 1 + timeWidth
	nameWidth  = slotWidth + 1 + stateWidth + 1 + barWidth + 6 // orders and customers below
	indent     = "            "
)

// picture is the line as a person reads it: how it stands as a whole, then slot
// by slot, what went wrong with what to do about it, then orders and enrollments.
func (s scene) picture(now time.Time, width, height int) []string {
	width = max(width, 60) - 1 // the last column stays free: some terminals wrap there
	id := (width - fixedWidth) * 55 / 100
	order := width - fixedWidth - id
	lines := []string{s.title(now, width), s.counts()}
	if s.station.State == "locked" {
		lines = append(lines, paint(yellow, " ! The station is locked: nothing runs until 'station unlock'."))
	}
	lines = append(lines, "", paint(grey, fmt.Sprintf(" %-*s %-*s %-*s %s %s %*s", slotWidth, "SLOT", stateWidth, " STATE",
		barWidth+6, "PROGRESS", pad(middle("REGISTRATION ID", id), id), pad(middle("ORDER", order), order), timeWidth, "TIME")))
	for _, slot := range s.slots {
		lines = append(lines, row(slot, now, id, order))
		lines = append(lines, why(slot, width)...)
	}
	lines = append(lines, s.orderLines()...)
	lines = append(lines, s.pushLines(width)...)
	if room := height - 1; len(lines) > room && room > 1 {
		hidden := len(lines) - room + 1
		lines = append(lines[:room-1], paint(yellow, fmt.Sprintf(" … %d lines more: make the terminal higher", hidden)))
	}
	for i, l := range lines {
		lines[i] = clip(l, width)
	}
	return lines
}

func (s scene) title(now time.Time, width int) string {
	left := fmt.Sprintf(" Nameplate   %s   %s", s.station.Name, s.station.State)
	right := now.Format(time.TimeOnly) + " "
	return paint(head, left+strings.Repeat(" ", max(1, width-utf8.RuneCountInString(left)-len(right)))+right)
}

// counts are of the orders that the slots work on.
func (s scene) counts() string {
	var sum api.Order
	for _, o := range s.worked() {
		sum.Released += o.Released
		sum.Quota += o.Quota
		sum.Pass += o.Pass
		sum.Fail += o.Fail
		sum.Error += o.Error
	}
	running := 0
	for _, slot := range s.slots {
		if slot.State == "running" {
			running++
		}
	}
	return fmt.Sprintf(" %s released   %s   %s   %s   %s", paint(bold, fmt.Sprintf("%d of %d", sum.Released, sum.Quota)),
		paint(green, fmt.Sprintf("✔ %d PASS", sum.Pass)), paint(red, fmt.Sprintf("✘ %d FAIL", sum.Fail)),
		paint(yellow, fmt.Sprintf("! %d ERROR", sum.Error)), paint(cyan, fmt.Sprintf("▶ %d of %d slots running", running, len(s.slots))))
}

// worked are the orders that the slots work on.
func (s scene) worked() []api.Order {
	return slices.DeleteFunc(slices.Clone(s.orders), func(o api.Order) bool {
		return !slices.ContainsFunc(s.slots, func(slot api.Slot) bool { return slot.Order == o.ID })
	})
}

// row is one slot. The verdict stays until the next board comes, so that it can
// still be read when the board is out.
func row(s api.Slot, now time.Time, id, order int) string {
	state, colour := state(s)
	return fmt.Sprintf(" %s %s %s %s %s %*s", pad(middle(s.Slot, slotWidth), slotWidth), paint(colour, pad(state, stateWidth)),
		bar(s, colour), pad(middle(s.RegistrationID, id), id), pad(middle(s.Order, order), order), timeWidth, seconds(s, now))
}

// state is a slot in a sign and a word, and their colour.
func state(s api.Slot) (text, colour string) {
	switch {
	case s.State == "running":
		return " ▶ " + s.Step, cyan
	case s.State == "waiting":
		return " ? waiting", yellow
	case s.Verdict == "PASS":
		return " ✔ PASS", passBadge
	case s.Verdict == "FAIL":
		return " ✘ FAIL", failBadge
	case s.Verdict != "":
		return " ! " + s.Verdict, errorBadge
	}
	return " · empty", grey
}

func bar(s api.Slot, colour string) string {
	switch {
	case s.State == "empty" && s.Verdict != "":
		return paint(grey, pad("board is out", barWidth+6))
	case s.State == "running":
	case s.Verdict == "PASS":
		colour = green
	default:
		return strings.Repeat(" ", barWidth+6)
	}
	percent := web.Percent(s)
	filled := percent * barWidth / 100
	return paint(colour, strings.Repeat("█", filled)) + paint(grey, strings.Repeat("░", barWidth-filled)) + fmt.Sprintf(" %3d%% ", percent)
}

// why is the refusal of a slot: the sentence, and what to do.
func why(s api.Slot, width int) []string {
	if s.Sentence == "" || s.State == "running" {
		return nil
	}
	var lines []string
	for _, l := range wrap(s.Sentence, width-len(indent)) {
		lines = append(lines, indent+paint(bold, l))
	}
	for i, l := range wrap(s.Next, width-len(indent)-2) {
		sign := "→ "
		if i > 0 {
			sign = "  "
		}
		lines = append(lines, indent+paint(yellow, sign+l))
	}
	return lines
}

func (s scene) orderLines() []string {
	worked := s.worked()
	if len(worked) == 0 {
		return nil
	}
	lines := []string{"", paint(grey, fmt.Sprintf(" %-*s %-20s %-26s %s", nameWidth, "ORDER", "RELEASED", "CUSTOMER", "PRODUCT"))}
	for _, o := range worked {
		text := fmt.Sprintf(" %s %-20s %s %s", pad(middle(o.ID, nameWidth), nameWidth), fmt.Sprintf("%d of %d", o.Released, o.Quota),
			pad(middle(o.Customer, 26), 26), middle(o.Product, 32))
		lines = append(lines, text)
	}
	return lines
}

// pushLines tells of each customer's service, loudest where a person is needed.
func (s scene) pushLines(width int) []string {
	if len(s.pushes) == 0 {
		return nil
	}
	lines := []string{"", paint(grey, " ENROLLMENTS")}
	for _, p := range s.pushes {
		text := fmt.Sprintf(" %s %d accepted, %d due", pad(middle(p.Customer, nameWidth), nameWidth), p.Accepted, p.Due)
		switch {
		case p.Aside > 0:
			lines = append(lines, text, indent+paint(red, fmt.Sprintf("✘ %d set aside: see 'station push status'", p.Aside)))
		case p.Due > 0 && p.LastError != "":
			lines = append(lines, text, indent+paint(yellow, "! "+middle(p.LastError, width-len(indent)-2)))
		default:
			lines = append(lines, text)
		}
	}
	return lines
}

// line is one slot for a log; with its refusal, if that is new.
func line(s api.Slot, now time.Time, refused bool) string {
	word, _ := state(s)
	parts := []string{now.Format(time.TimeOnly), pad(s.Slot, slotWidth-2) + pad(word, stateWidth)}
	for _, part := range []string{s.Order, s.RegistrationID, seconds(s, now)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if s.State == "empty" && s.Verdict != "" {
		parts = append(parts, "board is out")
	}
	if refused && s.Sentence != "" {
		parts = append(parts, s.Sentence, "→ "+s.Next)
	}
	return strings.Join(parts, "  ")
}

func seconds(s api.Slot, now time.Time) string {
	if s.Started.IsZero() {
		return ""
	}
	end := s.Ended
	if end.IsZero() {
		end = now
	}
	return fmt.Sprintf("%.1f s", end.Sub(s.Started).Seconds())
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// middle shortens a name to a width by its middle: names that belong together
// differ at their ends.
func middle(s string, width int) string {
	r := []rune(s)
	if len(r) <= width || width < 3 {
		return s
	}
	front := (width - 1) / 2
	return string(r[:front]) + "…" + string(r[len(r)-(width-1-front):])
}

// clip cuts a painted line to a width; what paints takes no room.
func clip(s string, width int) string {
	seen, painting := 0, false
	for i, r := range s {
		switch {
		case r == '\x1b':
			painting = true
		case painting:
			painting = r != 'm'
		case seen == width:
			return s[:i] + "\x1b[0m"
		default:
			seen++
		}
	}
	return s
}

// wrap breaks a sentence into lines of at most width, between words.
func wrap(s string, width int) []string {
	var lines []string
	current := ""
	for _, word := range strings.Fields(s) {
		if current != "" && utf8.RuneCountInString(current)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, current)
			current = ""
		}
		if current != "" {
			current += " "
		}
		current += word
	}
	if current != "" {
		lines = append(lines, middle(current, width))
	}
	return lines
}
