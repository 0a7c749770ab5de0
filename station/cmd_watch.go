package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/web"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"
)

type watchCmd struct{}

const (
	// redraw is how often running times move on in the live view.
	redraw = 100 * time.Millisecond
	// refresh is how often orders and enrollments are asked for; slots tell of
	// themselves.
	refresh = 500 * time.Millisecond
)

// Run shows the line until it is interrupted or the station goes away. In a
// terminal it redraws in place; elsewhere it prints a line for each change of a
// slot's state, so that a log of it can be read.
func (c *watchCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	v := &view{out: g.out, client: client}
	if v.station, err = client.Station(g.ctx); err != nil {
		return down(err, g.Dir)
	}
	if isatty.IsTerminal(os.Stdout.Fd()) {
		err = v.live(g.ctx)
	} else {
		err = client.Watch(g.ctx, v.log)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &records.Refusal{Code: "station-gone", Sentence: fmt.Sprintf("The station in %s has stopped.", g.Dir),
			Next: fmt.Sprintf("Start it with 'station serve -C %s'.", g.Dir), Err: err}
	}
	return err
}

// view is what is known of the line.
type view struct {
	out    io.Writer
	client *api.Client

	mu sync.Mutex
	scene
	drawn int // lines of the last picture
}

// put takes a slot's new state and returns the old one.
func (v *view) put(s api.Slot) (old api.Slot) {
	s.Sentence, s.Next = web.Plain(s.Sentence), web.Plain(s.Next)
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.slots {
		if v.slots[i].Slot == s.Slot {
			old, v.slots[i] = v.slots[i], s
			return old
		}
	}
	v.slots = append(v.slots, s)
	return api.Slot{}
}

// log prints a slot whose state or step has changed.
func (v *view) log(s api.Slot) {
	if old := v.put(s); old.State != s.State || old.Step != s.Step || old.Code != s.Code {
		fmt.Fprintln(v.out, line(s, time.Now(), old.Code != s.Code))
	}
}

// live draws until ctx ends or the station goes away; the last picture stays.
func (v *view) live(ctx context.Context) error {
	fmt.Fprint(v.out, "\x1b[?25l") // no cursor
	defer fmt.Fprint(v.out, "\x1b[?25h")
	drawing, stop := context.WithCancel(ctx)
	var drawers sync.WaitGroup
	drawers.Go(func() { every(drawing, refresh, v.ask) })
	drawers.Go(func() { every(drawing, redraw, v.draw) })
	err := v.client.Watch(ctx, func(s api.Slot) { v.put(s) })
	stop()
	drawers.Wait()
	v.draw(ctx)
	return err
}

// every does something now, then again and again until ctx ends.
func every(ctx context.Context, pause time.Duration, do func(context.Context)) {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// ask renews what does not come by itself. What cannot be had stays as it was;
// that the station is gone, the slots' stream tells.
func (v *view) ask(ctx context.Context) {
	station, stationErr := v.client.Station(ctx)
	orders, ordersErr := v.client.Orders(ctx)
	pushes, pushesErr := v.client.Pushes(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	if stationErr == nil {
		v.station = station
	}
	if ordersErr == nil {
		v.orders = orders
	}
	if pushesErr == nil {
		v.pushes = pushes
	}
}

// draw puts the picture over the last one, all at once so that nothing flickers.
func (v *view) draw(context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width, height = 120, 30
	}
	lines := v.picture(time.Now(), width, height)
	var frame bytes.Buffer
	if v.drawn > 0 {
		fmt.Fprintf(&frame, "\x1b[%dA", min(v.drawn, height-1))
	}
	for _, l := range lines {
		fmt.Fprintf(&frame, "\r\x1b[2K%s\n", l)
	}
	frame.WriteString("\x1b[J") // what the last picture had more
	v.drawn = len(lines)
	_, _ = v.out.Write(frame.Bytes()) // a terminal that has gone ends the program anyway
}
