package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/line"
	"nameplate/station/profile"
)

// session is what the operator's browser holds after it has opened the page.
type session struct{ cookie, token string }

// key asks for an address that opens the page, and gives its path.
func (s *station) key() string {
	s.t.Helper()
	p, err := api.Dial(s.socket, "").OpenPage(s.t.Context())
	must(s.t, err)
	path, ok := strings.CutPrefix(p.URL, "http://"+s.loopback)
	if left := time.Until(p.Until); !ok || left <= 4*time.Minute || left > 5*time.Minute {
		s.t.Fatalf("%+v is not an address of the station for the next 5 minutes", p)
	}
	return path
}

// open opens the page as a browser does.
func (s *station) open(path string) (session, *http.Response) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.loopback+path, nil)
	must(s.t, err)
	req.Header.Set("Sec-Fetch-Site", "none")
	resp, err := http.DefaultTransport.RoundTrip(req) // no redirect is followed
	must(s.t, err)
	must(s.t, resp.Body.Close())
	var got session
	for _, c := range resp.Cookies() {
		got.cookie = c.Name + "=" + c.Value
	}
	if token := regexp.MustCompile(`^/#act=([\w-]{43})$`).FindStringSubmatch(resp.Header.Get("Location")); token != nil {
		got.token = token[1]
	}
	return got, resp
}

// act is the request that the page's script makes.
func (s *station) act(held session, path, body string) request {
	return request{door: "loopback", method: "POST", path: "/api/v1" + path, body: body, header: map[string]string{
		"Cookie": held.cookie, "Nameplate-Page": held.token, "Origin": "http://" + s.loopback, "Sec-Fetch-Site": "same-origin"}}
}

// A key opens the page once; the page's two secrets go to the browser, each its
// own way.
func TestOpenPage(t *testing.T) {
	s := serve(t)
	key := s.key()
	held, resp := s.open(key)
	if resp.StatusCode != http.StatusSeeOther || held.token == "" {
		t.Fatalf("%s, location %q", resp.Status, resp.Header.Get("Location"))
	}
	_, port, _ := net.SplitHostPort(s.loopback)
	if set := resp.Header.Get("Set-Cookie"); !regexp.MustCompile(`^nameplate-` + port + `=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict$`).MatchString(set) {
		t.Errorf("cookie %q", set)
	}
	if strings.Contains(held.cookie, held.token) {
		t.Error("cookie and token are one secret")
	}
	if _, text := s.ask(request{door: "loopback", method: "GET", path: "/", header: map[string]string{"Cookie": held.cookie}}); !strings.Contains(text, " data-acts>") {
		t.Error("the page that was opened does not act")
	}
	if _, text := s.ask(request{door: "loopback", method: "GET", path: "/"}); strings.Contains(text, " data-acts") {
		t.Error("a page that was not opened acts")
	}
	for name, path := range map[string]string{"used": key, "unknown": "/open?key=" + strings.Repeat("A", 43), "empty": "/open?key=", "missing": "/open"} {
		again, resp := s.open(path)
		if again != (session{}) || resp.StatusCode != http.StatusForbidden {
			t.Errorf("a key that is %s: %s, %+v", name, resp.Status, again)
		}
		if status, text := s.ask(request{door: "loopback", method: "GET", path: path}); status != 403 || !strings.Contains(text, "→ Ask for a new one with &#39;station page&#39;.") {
			t.Errorf("a key that is %s: %d %s", name, status, text)
		}
	}
	// Pages do not disturb each other.
	other, _ := s.open(s.key())
	must(t, s.order("WO-1"))
	for _, one := range []session{held, other} {
		if status, text := s.ask(s.act(one, "/orders/WO-1/pick", `{}`)); status != 200 {
			t.Errorf("%d %s", status, text)
		}
	}
	s.refused(s.act(session{held.cookie, other.token}, "/orders/WO-1/pick", `{}`), 403, "page-only-shows")
}

func (s *station) order(id string) error {
	if status, text := s.ask(request{method: "POST", path: "/api/v1/orders", body: open(id)}); status != 200 {
		return fmt.Errorf("opening %s: %d %s", id, status, text)
	}
	return nil
}

// Only a page of ours that was opened with a key acts, and only at the line: one
// thing amiss, whichever, and nothing is done. What is refused here is not
// recorded: anybody on the machine could fill the ledger so.
func TestWhoMayAct(t *testing.T) {
	s := serve(t)
	must(t, s.order("WO-1"))
	held, _ := s.open(s.key())
	local := "http://" + s.loopback
	_, port, _ := net.SplitHostPort(s.loopback)
	before := s.home.Ledger.Size()
	for _, c := range []struct{ name, value, code string }{
		{"Cookie", "", "page-only-shows"},
		{"Cookie", held.cookie + "A", "page-only-shows"},
		{"Cookie", strings.Replace(held.cookie, "nameplate-", "nameplate-1", 1), "page-only-shows"},
		{"Nameplate-Page", "", "page-only-shows"}, // the cookie alone: every server on this host gets to see it
		{"Nameplate-Page", held.token + "A", "page-only-shows"},
		{"Nameplate-Page", strings.SplitN(held.cookie, "=", 2)[1], "page-only-shows"},
		{"Origin", "", "page-only-shows"},
		{"Origin", "null", "browser-refused"},
		{"Origin", "https://evil.example", "browser-refused"},
		{"Origin", "https://" + s.loopback, "browser-refused"},
		{"Origin", "http://127.0.0.1:1", "browser-refused"}, // another user's server
		{"Origin", "http://localhost:" + port, "browser-refused"},
		{"Origin", local + ".evil.example", "browser-refused"},
		{"Sec-Fetch-Site", "", "page-only-shows"},
		{"Sec-Fetch-Site", "none", "page-only-shows"},
		{"Sec-Fetch-Site", "same-site", "browser-refused"},
		{"Sec-Fetch-Site", "cross-site", "browser-refused"},
		{"Host", "evil.example", "browser-refused"},
		{"Host", "localhost:" + port, "browser-refused"},
	} {
		for path, body := range map[string]string{"/orders/WO-1/pick": `{}`, "/slots/a1/start": `{}`, "/slots/a1/cancel": ``} {
			r := s.act(held, path, body)
			r.header[c.name] = c.value
			if c.value == "" {
				delete(r.header, c.name)
			}
			s.refused(r, 403, c.code)
			if c.name != "Host" {
				continue
			}
			r.header["Origin"] = "http://" + c.value
			if c.value == "evil.example" {
				s.refused(r, 403, "browser-refused")
			} else {
				s.refused(r, 403, "page-only-shows") // the same place by another name has other cookies
			}
		}
	}
	for _, path := range []string{"/unlock", "/orders", "/orders/WO-1/close", "/exports", "/push/U1/retry", "/page", "/nothing", "/orders/WO-1/pick/x", "/slots/a1/../../unlock"} {
		s.refused(s.act(held, path, `{}`), 403, "socket-only")
	}
	r := s.act(held, "/slots/a1/start", `{}`)
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		r.method = method
		s.refused(r, 403, "socket-only")
	}
	// The socket is no browser's.
	r = s.act(held, "/slots/a1/start", `{}`)
	r.door = "socket"
	s.refused(r, 403, "browser-refused")
	if after := s.home.Ledger.Size(); after != before {
		t.Errorf("what nobody was allowed to ask has left %d events", after-before)
	}
	if status, text := s.ask(s.act(held, "/orders/WO-1/pick", `{}`)); status != 200 || text != `{"order":"WO-1","slots":["a1","a2"]}`+"\n" {
		t.Errorf("with nothing amiss: %d %s", status, text)
	}
}

// What a page is refused stands in the ledger as what the station's operator was
// refused, whatever name the request brings.
func TestPageActsAsTheOperator(t *testing.T) {
	s := serve(t)
	must(t, s.order("WO-1"))
	must(t, s.order("WO-2"))
	if status, text := s.ask(request{method: "POST", path: "/api/v1/orders/WO-2/close", body: `{"reason":""}`}); status != 200 {
		t.Fatal(text)
	}
	held, _ := s.open(s.key())
	for _, c := range []struct {
		path, body string
		status     int
		code       string
		action     string
	}{
		{"/slots/a1/start", `{}`, 423, "station-locked", "slot start"},
		{"/slots/z9/start", `{}`, 404, "slot-unknown", "slot start"},
		{"/slots/a1/cancel", ``, 409, "slot-idle", "slot cancel"},
		{"/orders/WO-9/pick", `{}`, 404, "order-unknown", "order pick"},
		{"/orders/WO-2/pick", `{}`, 409, "order-closed", "order pick"},
		{"/orders/WO-1/pick", `{"slot":"z9"}`, 404, "slot-unknown", "order pick"},
	} {
		before := s.home.Ledger.Size()
		r := s.act(held, c.path, c.body)
		r.header["Nameplate-Actor"] = "badge:9999"
		s.refused(r, c.status, c.code)
		if events := s.events(before + 1); len(events) != 1 || !strings.HasPrefix(events[0], "badge:badge-1 action.denied ") ||
			!strings.Contains(events[0], fmt.Sprintf(`"action":%q,"code":%q`, c.action, c.code)) {
			t.Errorf("%s: recorded %q", c.path, events)
		}
	}
}

// An order is picked for one slot, or for all that are not running.
func TestPick(t *testing.T) {
	s := serve(t)
	for _, id := range []string{"WO-1", "WO-2", "WO-3"} {
		must(t, s.order(id))
	}
	pick := func(id, body string, want api.Picked) {
		t.Helper()
		status, text := s.ask(request{method: "POST", path: "/api/v1/orders/" + id + "/pick", body: body})
		var got api.Picked
		must(t, json.Unmarshal([]byte(text), &got))
		if status != 200 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s %s: %d %s, want %+v", id, body, status, text, want)
		}
	}
	orders := func(want ...string) {
		t.Helper()
		var slots []api.Slot
		_, text := s.ask(request{method: "GET", path: "/api/v1/slots"})
		must(t, json.Unmarshal([]byte(text), &slots))
		if got := []string{slots[0].Order, slots[1].Order}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the slots work on %q, want %q", got, want)
		}
	}
	orders("WO-1", "")
	pick("WO-2", `{"slot":"a2"}`, api.Picked{Order: "WO-2", Slots: []string{"a2"}})
	orders("WO-1", "WO-2")
	pick("WO-3", `{}`, api.Picked{Order: "WO-3", Slots: []string{"a1", "a2"}})
	orders("WO-3", "WO-3")
	if status, text := s.ask(request{method: "POST", path: "/api/v1/unlock", body: `{"passphrase":"` + passphrase + `"}`}); status != 204 {
		t.Fatal(text)
	}
	if status, text := s.ask(request{method: "POST", path: "/api/v1/slots/a1/start", body: `{}`}); status != 204 { // nobody runs the slot: it stays asked for
		t.Fatal(text)
	}
	pick("WO-1", `{}`, api.Picked{Order: "WO-1", Slots: []string{"a2"}, Busy: []string{"a1"}})
	orders("WO-3", "WO-1")
	s.refused(request{method: "POST", path: "/api/v1/orders/WO-1/pick", body: `{"slot":"a1"}`}, 409, "slot-busy")
	if status, text := s.ask(request{method: "POST", path: "/api/v1/slots/a2/start", body: `{}`}); status != 204 {
		t.Fatal(text)
	}
	s.refused(request{method: "POST", path: "/api/v1/orders/WO-1/pick", body: `{}`}, 409, "slots-busy")
}

// A scanned text means an order, else a slot, else a unit; to tell is open to
// every page and leaves nothing in the ledger.
func TestScan(t *testing.T) {
	s := serve(t)
	must(t, s.order("WO-1"))
	opened := s.record(records.Draft{Passage: records.NewPassage, Order: "WO-1", Body: records.PassageOpened{Slot: "a1"}})
	unit := s.record(records.Draft{Passage: opened.Passage, Order: "WO-1", Unit: records.NewUnit, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3",
		Hardware: []records.HardwareID{{Kind: "mac", Value: "00:00:5e:00:53:01"}}}})
	before := s.home.Ledger.Size()
	scan := func(text string) api.Scan {
		t.Helper()
		status, answer := s.ask(request{door: "loopback", method: "GET", path: "/api/v1/scan?text=" + url.QueryEscape(text)})
		var got api.Scan
		if status != 200 || json.Unmarshal([]byte(answer), &got) != nil {
			t.Errorf("%q: %d %s", text, status, answer)
		}
		return got
	}
	for text, want := range map[string]api.Scan{
		"WO-1": {Means: "order", Order: "WO-1"}, " WO-1\t": {Means: "order", Order: "WO-1"},
		"a1": {Means: "slot", Slot: "a1"}, "A2": {Means: "slot", Slot: "a2"},
		"00:00:5E:00:53:01": {Means: "unit", Unit: unit.Unit.String(), Sentence: unit.Unit.String() + " is in a slot now.", Next: "Wait for its verdict."},
	} {
		if got := scan(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	const name = `Jo Public <script>"`
	p := s.refused(request{door: "loopback", method: "GET", path: "/api/v1/scan?text=" + url.QueryEscape(name)}, 404, "scan-unknown")
	if p.Sentence != `The station knows nothing called "Jo Public <script>\"".` || p.Next != "Scan an order, a slot, or the label of a board that was here." {
		t.Errorf("%+v", p)
	}
	for _, query := range []string{"", "?text=", "?text=" + strings.Repeat("9", 257)} {
		s.refused(request{door: "loopback", method: "GET", path: "/api/v1/scan" + query}, 422, "request-invalid")
	}
	if after := s.home.Ledger.Size(); after != before {
		t.Errorf("looking left %d events", after-before)
	}
}

// Every answer forbids the browser all that a page of ours does not need, and no
// page of ours needs the network.
func TestHardened(t *testing.T) {
	s := serve(t)
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/static/page.css": "text/css; charset=utf-8", "/static/page.js": "text/javascript; charset=utf-8",
		"/static/icon.svg": "image/svg+xml", "/open?key=x": "text/html; charset=utf-8", "/events": "text/event-stream", "/api/v1/station": "application/json", "/nothing": "application/json"} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.loopback+path, nil)
		must(t, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Content-Type": kind} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if path != "/events" {
			text, err := io.ReadAll(resp.Body)
			must(t, err)
			if found := regexp.MustCompile(`(https?:)?//[a-z][^"' )]*`).FindAllString(strings.ReplaceAll(string(text), "http://www.w3.org/2000/svg", ""), -1); len(found) > 0 && path != "/static/page.js" {
				t.Errorf("%s refers to %q", path, found)
			}
			if inline := regexp.MustCompile(` (style|on[a-z]+)=|<style|<script>`).FindAllString(string(text), -1); len(inline) > 0 && path == "/" {
				t.Errorf("%s holds what the policy forbids: %q", path, inline)
			}
		}
		cancel()
		resp.Body.Close()
	}
}

// event is one server-sent event as a browser understands it.
type event struct{ name, data string }

// stream reads the page's stream until enough says so.
func (s *station) stream(enough func(event) bool) []event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.loopback+"/events", nil)
	must(s.t, err)
	resp, err := http.DefaultClient.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	var events []event
	var e event
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "data":
			must(s.t, json.Unmarshal([]byte(value), &e.data))
		case "":
			events = append(events, e)
			if enough(e) {
				return events
			}
			e = event{}
		default:
			s.t.Fatalf("the stream holds %q", lines.Text())
		}
	}
	s.t.Fatalf("the stream ended after %d events", len(events))
	return nil
}

// The stream begins with all that there is and goes on with what changes; when
// nothing does, it says that it is still there.
func TestEvents(t *testing.T) {
	s := serve(t)
	must(t, s.order("WO-1"))
	beats, picked := 0, false
	events := s.stream(func(e event) bool {
		if e.name == "beat" {
			beats++
		}
		if beats == 1 && !picked {
			picked = true
			if status, text := s.ask(request{method: "POST", path: "/api/v1/orders/WO-1/pick", body: `{"slot":"a2"}`}); status != 200 {
				t.Fatal(text)
			}
		}
		return beats == 2
	})
	var names []string
	for _, e := range events {
		if id := regexp.MustCompile(`^<[a-z]+ id="([^"]+)"`).FindStringSubmatch(e.data); id != nil {
			names = append(names, id[1])
			continue
		}
		names = append(names, e.name)
	}
	if want := "[life station slot-a1 slot-a2 orders beat slot-a2 orders beat]"; fmt.Sprint(names) != want {
		t.Errorf("the stream told %v, want %s", names, want)
	}
	if len(events[0].data) != 43 {
		t.Errorf("the process is named %q", events[0].data)
	}
	s.stop() // a stream that nobody ends does not hold up the station
}

// passage runs a passage in slot a1, to its end.
func (s *station) passage(order string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	ended, over := make(chan error, 1), make(chan bool, 1)
	s.watch(func(st line.Status) {
		if st.State == line.Done {
			over <- true
		}
	})
	go func() { ended <- s.slots[0].Run(ctx) }()
	must(s.t, s.slots[0].Start(order, records.Actor{}))
	<-over
	cancel()
	must(s.t, <-ended)
}

// A slot's name chooses it; it starts what is in the slot if that waits for a
// word, or if the slot was chosen before.
func TestScanStarts(t *testing.T) {
	s := serve(t, func(c *line.Config) {
		c.Jobs = func(context.Context, string) (line.Job, error) {
			return line.Job{}, &records.Refusal{Code: "order-unknown", Sentence: "No.", Next: "Do."}
		}
	})
	scan := func(query, want string) {
		t.Helper()
		_, text := s.ask(request{door: "loopback", method: "GET", path: "/api/v1/scan?" + query})
		if text != want+"\n" {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
	}
	const chooses, starts = `{"means":"slot","slot":"a1"}`, `{"means":"start","slot":"a1"}`
	scan("text=a1&slot=a1", chooses) // it is empty
	s.passage("WO-1")
	scan("text=a1", chooses)
	scan("text=a1&slot=a2", chooses)
	scan("text=a1&slot=a1", starts)
	s.home.Set.Station.Slots[0].Start = profile.StartRequest
	scan("text=A1", starts)
	must(t, s.slots[0].SetOrder(""))
	scan("text=A1&slot=a1", chooses) // it has no order
}

// hostile is what a board could bring: markup, the end of an event, what turns a
// terminal's or a line's direction.
const hostile = "</p><img src=x onerror=alert(1)><script>alert(2)</script>\" onclick=\"x\r\n\r\nevent: part\ndata: \"<b id='orders'>\"\n\n\u202e\x1b[2J &amp; {{.}}"

// Nothing that a board or an order brings becomes markup, or an event of its own.
func TestEscape(t *testing.T) {
	s := serve(t, func(c *line.Config) {
		c.Jobs = func(context.Context, string) (line.Job, error) {
			return line.Job{}, &records.Refusal{Code: "chip-unexpected", Sentence: hostile, Next: "next" + hostile}
		}
	})
	s.passage(`WO"><b>` + hostile)
	_, page := s.ask(request{door: "loopback", method: "GET", path: "/"})
	parts := page
	for _, e := range s.stream(func(e event) bool { return e.name == "beat" }) {
		parts += e.data
		if e.name == "part" && strings.HasPrefix(e.data, "<b") {
			t.Errorf("a board sent an event: %q", e.data)
		}
	}
	if n := strings.Count(parts, "&lt;/p&gt;&lt;img src=x onerror=alert(1)&gt;"); n != 2*3 {
		t.Errorf("order, sentence and action stand there %d times, escaped; want twice three times", n)
	}
	for _, bad := range []string{"<img", "<script>", `WO"`, "<b id='", `onclick="x`, "\u202e", "\x1b", "\r"} {
		if strings.Contains(parts, bad) {
			t.Errorf("the page holds %q as it was brought", bad)
		}
	}
}
