package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/browser"
	"nameplate/fixtures/rig"

	"github.com/chromedp/chromedp"
)

// place is an operator's place: a line with its station, and a browser.
type place struct {
	*rig.Rig
	*browser.Browser
	t       *testing.T
	ctx     context.Context
	out     string
	address string
	daemon  *rig.Daemon
	boards  int
}

// placeLimit bounds a test at the operator's place; it takes some seconds.
const placeLimit = 5 * time.Minute

// newPlace sets up a line whose slots work on an order that nobody has opened,
// and opens two others: each for four units of the same product.
func newPlace(t *testing.T, slots int) *place {
	t.Helper()
	b := browser.Open(t, 1280, 800) // without one there is nothing to set up for
	ctx, cancel := context.WithTimeout(t.Context(), placeLimit)
	t.Cleanup(cancel)
	p := &place{Browser: b, t: t, ctx: ctx, out: t.TempDir()}
	var err error
	p.Rig, err = rig.New(ctx, rig.Config{Out: p.out, Station: program(t), Slots: slots, Seed: 1, PerMinute: 1000,
		Customers: []rig.Customer{{Name: "customer-a", IDScope: "0ne0000A001"}},
		Products:  []rig.Product{{Name: "c3-key", Chip: "ESP32-C3", Attestation: "symmetricKey"}}})
	must(t, err)
	t.Cleanup(func() { p.Rig.Close() })
	p.listen()
	for i, id := range []string{"WO-0417", "WO-0418"} {
		must(t, p.OpenOrder(ctx, rig.Order{ID: id, Customer: "customer-a", Product: "c3-key", Quota: 4, SerialFormat: fmt.Sprintf("%c-%%04d", 'A'+i), First: 1}))
	}
	p.serve()
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listen gives the station an address that is the same each time it starts.
func (p *place) listen() {
	p.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(p.t, err)
	p.address = free.Addr().String()
	must(p.t, free.Close())
	file := filepath.Join(p.StationDir(), "station.yaml")
	settings, err := os.ReadFile(file)
	must(p.t, err)
	must(p.t, os.WriteFile(file, bytes.Replace(settings, []byte("127.0.0.1:0"), []byte(p.address), 1), 0o600))
}

func (p *place) serve() {
	p.t.Helper()
	d, err := p.Serve(p.ctx)
	must(p.t, err)
	p.t.Cleanup(d.Kill)
	p.daemon = d
}

// open opens the page so that it may act.
func (p *place) open() {
	p.t.Helper()
	text, err := p.Command(p.ctx, "page")
	must(p.t, err)
	url, _, _ := strings.Cut(text, "\n")
	p.Do(p.t, chromedp.Navigate(url))
	p.await("the page acts", `'acts' in document.body.dataset && document.querySelectorAll('.tile').length > 0`)
}

func (p *place) await(what, expression string) {
	p.t.Helper()
	p.Await(p.t, what, expression)
}

// scan is what a scanner does: it types fast, wherever the focus is, and ends
// with Enter.
func (p *place) scan(text string) {
	p.t.Helper()
	p.Type(p.t, text+"\r")
}

// said waits for what the page says.
func (p *place) said(kind, text string) {
	p.t.Helper()
	p.await("the page says "+text, fmt.Sprintf("document.getElementById('said').className == %q && document.getElementById('said').innerText.includes(%q)", kind, text))
}

// shows waits until the tile of a slot is of a kind and holds a text.
func (p *place) shows(slot, kind, text string) {
	p.t.Helper()
	p.await("slot "+slot+" shows "+text, fmt.Sprintf("document.querySelector('#slot-%s.%s')?.innerText.includes(%q) ?? false", slot, kind, text))
}

// counts waits until an order's card has counted so far.
func (p *place) counts(order, done, left, yield string) {
	p.t.Helper()
	p.await("the counts of "+order+" are right", fmt.Sprintf("['done', 'left', 'yield'].map(c => document.querySelector(`#orders [data-order=%q] .${c}`)?.innerText).join() == %q",
		order, done+","+left+","+yield))
}

// ready asserts that the next scan would be taken.
func (p *place) ready() {
	p.t.Helper()
	p.await("the scan field has the focus and is empty", "document.activeElement.id == 'field' && document.activeElement.value == ''")
}

// board makes a new board and puts it into a slot; a slow one takes its time as a
// real one does.
func (p *place) board(in int, slow bool) {
	p.t.Helper()
	p.boards++
	b, err := boards.New(boards.Config{Name: fmt.Sprint("board-", p.boards), Chip: "ESP32-C3", Pace: slow, MAC: fmt.Sprintf("7c:df:a1:00:00:%02x", p.boards),
		FlashPath: filepath.Join(p.out, "boards", fmt.Sprintf("board-%d.bin", p.boards))})
	must(p.t, err)
	p.t.Cleanup(func() { b.Close() })
	p.t.Cleanup(func() { p.Sockets[in].Remove() })
	must(p.t, p.Sockets[in].Insert(b))
}

// A whole order with nothing but a scanner and boards; then the same place by
// touch.
func TestPageTakesAnOrderThrough(t *testing.T) {
	p := newPlace(t, 4)
	p.open()
	if url := browser.Value[string](t, p.Browser, "location.href"); url != "http://"+p.address+"/" {
		t.Errorf("a secret stays in the address: %s", url)
	}
	p.ready()
	p.shows("slot-1", "empty", "Pick another order: this one is not open")

	p.scan("4006381333931") // the barcode of a pencil
	p.said("no", `The station knows nothing called "4006381333931".`)
	p.ready()
	p.scan("WO-0417")
	p.said("ok", "WO-0417 is the order of SLOT-1, SLOT-2, SLOT-3, SLOT-4.")
	p.ready()
	for i := range p.Sockets {
		p.shows(rig.SlotName(i), "empty", "Put a board in")
	}
	p.counts("WO-0417", "0", "4", "–")
	for i := range p.Sockets {
		p.board(i, false)
	}
	var serials []string
	for i := range p.Sockets {
		p.shows(rig.SlotName(i), "pass.in", "Take it out")
		serials = append(serials, p.Text(t, "#slot-"+rig.SlotName(i)+" .serial"))
		if state := p.Text(t, "#slot-"+rig.SlotName(i)+" .state"); state != "✔ PASS" {
			t.Errorf("%s: %s", rig.SlotName(i), state)
		}
	}
	slices.Sort(serials)
	if want := []string{"A-0001", "A-0002", "A-0003", "A-0004"}; !slices.Equal(serials, want) {
		t.Errorf("the tiles name %q, want %q", serials, want)
	}
	p.counts("WO-0417", "4", "0", "100 %")
	if pace := p.Text(t, "#orders [data-order=WO-0417] .pace"); !strings.HasSuffix(pace, " s") {
		t.Errorf("a unit took %q", pace)
	}
	for i := range p.Sockets {
		p.Sockets[i].Remove()
		p.shows(rig.SlotName(i), "pass:not(.in)", "PASS") // until the next board
		p.shows(rig.SlotName(i), "pass:not(.in)", "Pick another order: this one is done")
	}
	p.ready()

	p.scan("a-0003")
	p.said("ok", "a-0003 (unit U")
	p.scan("7C:DF:A1:00:00:01")
	p.said("ok", "is PASS and released")
	p.scan("SLOT-2")
	p.said("slot", "Slot SLOT-2 is chosen.")
	p.scan("WO-0418")
	p.said("ok", "WO-0418 is the order of SLOT-2.")
	p.shows("slot-2", "pass:not(.in)", "WO-0418")
	p.shows("slot-1", "pass:not(.in)", "WO-0417")

	// A sleeve that touches an order changes nothing yet.
	p.Do(t, chromedp.Click(chromedp.CSS("#orders [data-order=WO-0418]")))
	p.said("ask", "WO-0418 for all slots that are not running?")
	p.ready()
	p.Do(t, chromedp.Click(chromedp.CSS("#said .buttons button")))
	p.said("ok", "WO-0418 is the order of SLOT-1, SLOT-2, SLOT-3, SLOT-4.")
	p.Do(t, chromedp.Click(chromedp.CSS("#slot-slot-3 .state")))
	p.said("slot", "Slot SLOT-3 is chosen.")
	p.Do(t, chromedp.Click(chromedp.CSS("#said .buttons button"))) // leave it
	p.said("", "")
	p.board(2, true)
	p.shows("slot-3", "running", "Wait")
	p.Do(t, chromedp.Click(chromedp.CSS("#slot-slot-3 .state")), chromedp.Click(chromedp.CSS("#said .buttons button")))
	p.said("ok", "The passage in slot SLOT-3 is being cancelled.")
	p.shows("slot-3", "error.in", "→ Put the board back when you want to go on: it keeps its identity.")
	p.ready()
	for _, c := range p.Complaints() {
		if !strings.Contains(c, "Failed to load resource") { // so it calls a refusal
			t.Errorf("the browser complains: %s", c)
		}
	}
}

// lost waits until the page says that it hears nothing.
func (p *place) lost() {
	p.t.Helper()
	p.await("the page says that the connection is lost", `!document.getElementById('lost').hidden && getComputedStyle(document.getElementById('fixture')).filter == 'grayscale(1)'`)
	if text := p.Text(p.t, "#lost"); !strings.HasPrefix(text, "✘ No connection to the station. What you see is old, since ") {
		p.t.Errorf("it says %q", text)
	}
}

// When the station goes, the page says that what it shows is old; when it is
// back, the page shows what is so, whatever has happened meanwhile.
func TestPageLosesTheStation(t *testing.T) {
	p := newPlace(t, 2)
	p.open()
	p.scan("WO-0417")
	p.said("ok", "WO-0417")
	p.board(0, false)
	p.shows("slot-1", "pass.in", "A-0001")

	// It stands still and says nothing.
	must(t, syscall.Kill(p.daemon.PID(), syscall.SIGSTOP))
	p.lost()
	must(t, syscall.Kill(p.daemon.PID(), syscall.SIGCONT))
	p.await("the page has found the station", "document.getElementById('lost').hidden")
	p.scan("WO-0418") // and it is the same one
	p.said("ok", "WO-0418 is the order of SLOT-1, SLOT-2.")
	p.shows("slot-1", "pass.in", "WO-0418")

	// It dies, and boards are changed meanwhile.
	p.daemon.Kill()
	p.lost()
	p.shows("slot-1", "pass.in", "A-0001") // old, but not gone
	p.scan("WO-0417")
	p.said("no", "The station did not answer.")
	p.ready()
	p.Sockets[0].Remove()
	p.board(1, false)
	p.serve()
	p.await("the page has found the station", "document.getElementById('lost').hidden")
	p.shows("slot-1", "empty", "· empty")
	p.shows("slot-2", "error.in", `There is no order "WO-customer-a-c3-key".`)
	p.counts("WO-0417", "1", "3", "100 %")

	// This station has not let anybody act yet.
	if text := p.Text(t, "#shows"); text != "This page only shows. To act, open it with ‘station page’." {
		t.Errorf("it says %q", text)
	}
	p.ready()
	p.scan("WO-0417")
	p.said("no", "This page only shows.")
	p.open()
	p.scan("WO-0417")
	p.said("ok", "WO-0417 is the order of SLOT-1, SLOT-2.")
	p.scan("slot-2") // the first scan chooses, the second starts
	p.scan("slot-2")
	p.shows("slot-2", "pass.in", "A-0002")
	p.counts("WO-0417", "2", "2", "100 %")
}

// Another user's server on this machine gets to see the page's cookie, and its
// page counts as one of this site: it still moves nothing, and reads nothing.
func TestPageInBadCompany(t *testing.T) {
	p := newPlace(t, 1)
	p.open()
	stolen := make(chan string, 8)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case stolen <- r.Header.Get("Cookie"):
		default:
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<title>other</title>")
	}))
	t.Cleanup(other.Close)
	p.Do(t, chromedp.Navigate(other.URL))
	cookie := <-stolen
	if !strings.HasPrefix(cookie, "nameplate-") {
		t.Fatalf("the other server was shown %q: this test has become pointless", cookie)
	}
	pick := "http://" + p.address + "/api/v1/orders/WO-0417/pick"
	for _, c := range []struct{ options, want string }{
		{`{method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}'}`, "opaque"},
		{`{method: 'POST', credentials: 'include', body: '{}', headers: {'Content-Type': 'application/json', 'Nameplate-Page': 'x'}}`, "failed"},
		{`{credentials: 'include'}`, "failed"},
	} {
		for _, url := range []string{pick, "http://" + p.address + "/", "http://" + p.address + "/events"} {
			if got := browser.Value[string](t, p.Browser, fmt.Sprintf("fetch(%q, %s).then(r => r.type, () => 'failed')", url, c.options)); got != c.want {
				t.Errorf("%s %s: the other page got an answer that is %s", url, c.options, got)
			}
		}
	}
	req, err := http.NewRequestWithContext(p.ctx, http.MethodPost, pick, strings.NewReader("{}"))
	must(t, err)
	for name, value := range map[string]string{"Cookie": cookie, "Origin": "http://" + p.address, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("with the cookie alone: %s", resp.Status)
	}
	slots, err := p.daemon.Client.Slots(p.ctx)
	must(t, err)
	if slots[0].Order != "WO-customer-a-c3-key" {
		t.Errorf("the other page has picked %s", slots[0].Order)
	}
}
