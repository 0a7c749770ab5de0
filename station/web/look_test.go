package web

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nameplate/fixtures/browser"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/profile"

	"github.com/chromedp/chromedp"
)

var pictures = flag.String("pictures", "", "the folder to write pictures of the page to")

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func order(id, product, customer string, quota, released, fails, errors int) records.Order {
	o := records.Order{Released: released, Passes: released, Fails: fails, Errors: errors}
	o.ID, o.Product, o.Customer, o.Quota, o.ValidUntil = id, product, customer, quota, noon.AddDate(1, 0, 0)
	return o
}

// busy is a line on which everything happens at once.
func busy() scene {
	began := noon.Add(-6800 * time.Millisecond)
	const wo1, wo2 = "WO-0417", "WO-0418"
	slots := []api.Slot{
		{State: "running", Step: "write", Done: 3, Total: 4, Order: wo1, Serial: "C3-000213", Started: began},
		{State: "done", Verdict: "PASS", Order: wo1, Serial: "C3-000211", Started: began, Ended: noon},
		{State: "empty", Verdict: "PASS", Order: wo1, Serial: "C3-000210", Started: began, Ended: noon},
		{State: "done", Verdict: "FAIL", Order: wo1, Code: "chip-unexpected", Started: began, Ended: began.Add(900 * time.Millisecond),
			Sentence: "This board carries an ESP32, but the product is built on the ESP32-C3.", Next: "Put a board of this product into the slot, or choose the right work order."},
		{State: "running", Step: "identify", Order: wo2, Started: began},
		{State: "done", Verdict: "ERROR", Order: wo2, Code: "link-lost", Serial: "GW-01077", Started: began, Ended: noon.Add(-2 * time.Second),
			Sentence: `The connection to the board broke during "write".`, Next: "Check the cable and put the board back: it goes on where it stopped."},
		{State: "waiting", Order: wo2},
		{State: "empty", Order: wo2},
	}
	sc := scene{station: "line-1", life: "1", pace: func(o string) time.Duration {
		return map[string]time.Duration{wo1: 6840 * time.Millisecond, wo2: 11200 * time.Millisecond}[o]
	}, orders: []records.Order{
		order(wo1, "sensor-c3", "customer-a", 500, 211, 3, 1),
		order(wo2, "gateway-tpm", "customer-b", 120, 76, 0, 2),
		order("WO-0421", "sensor-c3", "customer-b", 250, 0, 0, 0),
	}}
	for i, s := range slots {
		s.Slot = fmt.Sprintf("%c%d", 'a'+i/4, 1+i%4)
		sc.slots = append(sc.slots, s)
		place := profile.Slot{Name: s.Slot, Start: profile.StartAuto}
		if s.State == "waiting" {
			place.Start = profile.StartRequest
		}
		sc.places = append(sc.places, place)
	}
	return sc
}

// many is a fixture with 32 slots, with the longest words that there are.
func many() scene {
	sc := busy()
	eight := sc.slots
	sc.slots, sc.places = nil, nil
	for i := range 32 {
		s := eight[i%8]
		s.Slot = fmt.Sprintf("s%02d", i+1)
		if s.Verdict == "FAIL" {
			s.Sentence = "The board shares a hardware ID with unit U1234, but its mac is 7c:df:a1:00:00:01 and not 7c:df:a1:00:00:02: two boards with one ID."
			s.Next = "Set the board aside and report the pair to the board's supplier."
		}
		if s.Serial != "" {
			s.Serial = "a-registration-id-that-goes-on-and-on-up-to-the-limit-of-the-service-7cdfa1000002"
		}
		sc.slots = append(sc.slots, s)
		sc.places = append(sc.places, profile.Slot{Name: s.Slot, Start: profile.StartRequest}) // a button on each that stands
	}
	for i := range 12 {
		sc.orders = append(sc.orders, order(fmt.Sprintf("WO-%04d-with-a-long-number", i), "a-product-with-a-long-name", "customer-with-a-long-name", 100000, 99999, 1234, 567))
	}
	return sc
}

// show serves a scene, without a station behind it, and opens it. Files that are
// left out are not served.
func show(t *testing.T, b *browser.Browser, sc scene, leftOut ...string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.FileServerFS(static))
	for _, name := range leftOut {
		mux.Handle("GET /static/"+name, http.NotFoundHandler())
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		harden(w.Header())
		v := sc.view(noon)
		v.Acts = !sc.locked
		writePage(w, http.StatusOK, "page", v)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		st := &stream{w: w, control: http.NewResponseController(w), shown: map[string]string{}}
		_ = st.event("life", sc.life)
		_ = st.parts(sc.view(noon))
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /api/v1/scan", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"means": "order", "order": %q}`, r.FormValue("text"))
	})
	mux.HandleFunc("POST /api/v1/orders/{id}/pick", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"order": "", "slots": ["b1", "b2", "b3", "b4"]}`)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	b.Do(t, chromedp.Navigate(srv.URL+"/#act=x"))
	b.Await(t, "the page is drawn", "document.readyState == 'complete'")
	return srv
}

func save(t *testing.T, b *browser.Browser, name string) {
	t.Helper()
	if *pictures == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), b.Picture(t), 0o644); err != nil {
		t.Fatal(err)
	}
}

// cutOff gives what sticks out of its tile, or is cut in the middle of a line. A
// sentence that is too long ends with an ellipsis; it is said whole when the tile
// is touched.
const cutOff = `[...document.querySelectorAll('.tile')].flatMap(tile => {
	const around = tile.getBoundingClientRect(), foot = tile.querySelector('footer').getBoundingClientRect()
	return [...tile.querySelectorAll('h2, .state, .why, .do, .start, progress, footer')].filter(e => {
		const r = e.getBoundingClientRect()
		return r.width > 0 && (e.scrollWidth > e.clientWidth || r.left < around.left || r.right > around.right || r.bottom > around.bottom || foot.height && e.tagName !== 'FOOTER' && r.bottom > foot.top + 1)
	}).map(e => tile.id + ': ' + e.className + ' ' + e.innerText)
})`

// The whole page fits the screen, and the words that count fit their tile:
// whatever the fixture's size, and whatever else has to be said.
func TestPageFits(t *testing.T) {
	for _, size := range []struct{ width, height int64 }{{1280, 800}, {1920, 1080}} {
		b := browser.Open(t, size.width, size.height)
		fits := func(name string) {
			t.Helper()
			name = fmt.Sprintf("%s-%d", name, size.width)
			save(t, b, name)
			if got := browser.Value[[]int64](t, b, "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"); got[0] > size.width || got[1] > size.height {
				t.Errorf("%s: the page takes %v, the screen has %v", name, got, size)
			}
			for _, cut := range browser.Value[[]string](t, b, cutOff) {
				t.Errorf("%s: cut off: %s", name, cut)
			}
			if browser.Value[bool](t, b, "[...document.querySelectorAll('#said p')].some(p => p.scrollHeight > p.clientHeight + 3 || p.getBoundingClientRect().bottom > said.getBoundingClientRect().bottom)") {
				t.Errorf("%s: what is said is cut off: %s", name, b.Text(t, "#said"))
			}
		}
		locked := busy()
		locked.locked = true
		show(t, b, locked)
		fits("locked")
		show(t, b, many())
		fits("32")
		b.Do(t, chromedp.Click(chromedp.CSS("#slot-s04")))
		fits("32-chosen")
		srv := show(t, b, busy())
		b.Type(t, "WO-0418\r")
		b.Await(t, "the order is picked", "said.className == 'ok'")
		fits("8")
		b.Do(t, chromedp.Click(chromedp.CSS("#slot-a4")))
		fits("chosen")
		if said := b.Complaints(); len(said) > 0 {
			t.Errorf("the browser complains: %q", said)
		}
		srv.CloseClientConnections()
		srv.Close()
		b.Await(t, "the connection is lost", "'lost' in document.body.dataset")
		fits("lost")
	}
}

// A page without its script says that it stands still; a living one never does.
func TestPageStandsStill(t *testing.T) {
	b := browser.Open(t, 1280, 800)
	const still = "getComputedStyle(document.getElementById('still')).visibility == 'visible' && document.getElementById('still').getClientRects().length > 0"
	show(t, b, busy(), "page.js")
	b.Await(t, "the page says that it stands still", still)
	save(t, b, "still")
	show(t, b, busy())
	b.Await(t, "the page lives", "'live' in document.body.dataset")
	if browser.Value[bool](t, b, "document.getElementById('still').getClientRects().length > 0") {
		t.Error("a living page says that it stands still")
	}
}
