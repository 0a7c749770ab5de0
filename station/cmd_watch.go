package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"nameplate/station/api"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"
)

type watchCmd struct{}

// redraw is how often running times move on in the live view.
const redraw = 200 * time.Millisecond

func (c *watchCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	st, err := client.Station(g.ctx)
	if err != nil {
		return down(err, g.Dir)
	}
	v := &view{out: g.out, name: st.Name, terminal: isatty.IsTerminal(os.Stdout.Fd())}
	done := make(chan struct{})
	defer close(done)
	if v.terminal {
		go v.tick(done)
	}
	return client.Watch(g.ctx, v.show)
}

// view draws the slots. In a terminal it redraws in place; elsewhere it prints a
// line for each change of a slot's state, so that a log of it can be read.
type view struct {
	out      io.Writer
	name     string
	terminal bool

	mu    sync.Mutex
	slots []api.Slot
	drawn int // lines of the last picture
}

func (v *view) show(s api.Slot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, old := range v.slots {
		if old.Slot != s.Slot {
			continue
		}
		v.slots[i] = s
		if !v.terminal && (old.State != s.State || old.Step != s.Step) {
			fmt.Fprintln(v.out, strings.TrimSpace(row(s, time.Now(), 0)))
		}
		return
	}
	v.slots = append(v.slots, s)
}

func (v *view) tick(done <-chan struct{}) {
	t := time.NewTicker(redraw)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			v.draw()
		}
	}
}

func (v *view) draw() {
	v.mu.Lock()
	defer v.mu.Unlock()
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width = 120
	}
	lines := picture(v.name, v.slots, time.Now(), width)
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA", v.drawn)
	}
	for _, l := range lines {
		fmt.Fprintf(v.out, "\x1b[2K%s\n", l)
	}
	for i := len(lines); i < v.drawn; i++ {
		fmt.Fprint(v.out, "\x1b[2K\n")
	}
	v.drawn = max(v.drawn, len(lines))
}

// picture is the live view as lines: a head, then for each slot a row, and under
// it, when something is wrong, the sentence and what to do.
func picture(name string, slots []api.Slot, now time.Time, width int) []string {
	pass, other := 0, 0
	for _, s := range slots {
		switch s.Verdict {
		case "":
		case "PASS":
			pass++
		default:
			other++
		}
	}
	lines := []string{fmt.Sprintf("\x1b[1mNameplate\x1b[0m  %s   %d slots   %s   %s   %s", name, len(slots),
		paint(green, fmt.Sprintf("✔ %d", pass)), paint(red, fmt.Sprintf("✘ %d", other)), now.Format(time.TimeOnly)), ""}
	for _, s := range slots {
		lines = append(lines, row(s, now, width))
		if s.Sentence != "" && s.State != "running" {
			lines = append(lines, cut("             "+s.Sentence, width), paint(yellow, cut("             → "+s.Next, width)))
		}
	}
	return lines
}

// Colours never stand alone: each goes with a sign or a word.
const (
	green, red, yellow, blue, grey = "32", "31", "33", "36", "90"
)

func paint(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }

func row(s api.Slot, now time.Time, width int) string {
	state, colour := "·  empty", grey
	switch {
	case s.State == "running":
		state, colour = "▶  "+s.Step, blue
	case s.State == "waiting":
		state, colour = "?  waiting", yellow
	case s.Verdict == "PASS":
		state, colour = "✔  PASS", green
	case s.Verdict == "FAIL":
		state, colour = "✘  FAIL", red
	case s.Verdict != "":
		state, colour = "!  "+s.Verdict, yellow
	}
	text := fmt.Sprintf("%-10s %s %s %-30s %-14s %s", s.Slot, fmt.Sprintf("%-12s", state), bar(s), s.RegistrationID, s.Order, seconds(s, now))
	if width == 0 {
		return text
	}
	text = cut(text, width)
	return strings.Replace(text, state, paint(colour, state), 1)
}

const barWidth = 20

func bar(s api.Slot) string {
	filled := 0
	switch {
	case s.Verdict == "PASS":
		filled = barWidth
	case s.Total > 0:
		filled = int(s.Done * barWidth / s.Total)
	}
	percent := "    "
	if s.State == "running" && s.Total > 0 {
		percent = fmt.Sprintf("%3d%%", s.Done*100/s.Total)
	}
	return strings.Repeat("█", filled) + strings.Repeat("░", barWidth-filled) + " " + percent
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

// cut shortens a line to the terminal's width, so that redrawing in place holds.
func cut(s string, width int) string {
	r := []rune(s)
	if width > 1 && len(r) > width-1 {
		return string(r[:width-2]) + "…"
	}
	return s
}
