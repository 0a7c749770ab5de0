package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/line"
)

// Watching gives each slot as it is, then what changes; and it ends with the
// watcher, and with the station.
func TestWatch(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan api.Slot)
	ended := make(chan error, 1)
	go func() {
		ended <- api.Dial(s.socket, "").Watch(ctx, func(slot api.Slot) {
			select {
			case seen <- slot:
			case <-ctx.Done():
			}
		})
	}()
	for _, want := range []api.Slot{
		{Slot: "a1", Port: "rfc2217://127.0.0.1:1", State: "empty", Order: "WO-1"},
		{Slot: "a2", Port: "/dev/ttyUSB9", State: "empty"},
	} {
		if got := <-seen; got != want {
			t.Errorf("at first: %+v, want %+v", got, want)
		}
	}
	s.hub.Publish(line.Status{Slot: "a2", State: line.Running, Step: "write", Done: 1, Total: 3, Unit: 7})
	if got := <-seen; got.Slot != "a2" || got.Port != "/dev/ttyUSB9" || got.Step != "write" || got.Done != 1 || got.Total != 3 || got.Unit != "U7" {
		t.Errorf("a change: %+v", got)
	}
	// Nobody waits for a watcher that does not keep up; it gets the newest state.
	for n := range int64(10_000) {
		s.hub.Publish(line.Status{Slot: "a2", State: line.Running, Step: "write", Done: n, Total: 10_000})
	}
	s.hub.Publish(line.Status{Slot: "a2", State: line.Done, Verdict: records.Pass})
	s.hub.Publish(line.Status{Slot: "a1", State: line.Done, Verdict: records.Fail, Code: "chip-unexpected", Sentence: "No.", Next: "Do."})
	last := map[string]api.Slot{}
	for last["a1"].State != "done" || last["a2"].State != "done" {
		slot := <-seen
		last[slot.Slot] = slot
	}
	if got := last["a1"]; got.Verdict != "FAIL" || got.Code != "chip-unexpected" || got.Sentence != "No." || got.Next != "Do." {
		t.Errorf("a verdict: %+v", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("a watcher that goes: %v", err)
	}

	// The station stops: the stream ends with an error, and the stop does not
	// wait for its watchers.
	there := make(chan bool, 8)
	go func() {
		ended <- api.Dial(s.socket, "").Watch(t.Context(), func(api.Slot) { there <- true })
	}()
	<-there
	s.stop()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), io.ErrUnexpectedEOF.Error()) {
		t.Errorf("a station that goes: %v", err)
	}
}

// The stream is plain server-sent events, open to any program on the machine.
func TestWatchStream(t *testing.T) {
	s := serve(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.loopback+"/api/v1/slots/watch", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("content type %q", kind)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var slot api.Slot
			must(t, json.Unmarshal([]byte(data), &slot))
			if slot.Slot != "a1" {
				t.Errorf("first slot %+v", slot)
			}
			return
		}
	}
	t.Error("the stream ended before it told anything")
}
