package web

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"nameplate/records"
	"nameplate/station/api"

	"github.com/danielgtaylor/huma/v2"
)

// The operator page. The station draws it: first as a whole, then part by part
// over a stream of server-sent events, with the same templates. The script in the
// browser puts the parts in place, sends what is scanned and touched, and tells
// when the station is no longer heard.

//go:embed static
var static embed.FS

//go:embed page.html
var pageText string

var pageTemplates = template.Must(template.New("page").Funcs(template.FuncMap{"plain": Plain}).Parse(pageText))

// policy lets a page of ours load what the station itself serves, and nothing
// else; markup that slipped in could neither run nor send anything anywhere.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// harden sets what every answer says about itself.
func harden(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store") // a page from a cache would show a line that is past
}

// pageActs are the routes that a page opened with a key may use; all others that
// act need the socket.
var pageActs = map[string]bool{
	"POST /api/v1/orders/{id}/pick":  true,
	"POST /api/v1/slots/{id}/start":  true,
	"POST /api/v1/slots/{id}/cancel": true,
}

func (s *Server) pageRoutes(mux *http.ServeMux, routes huma.API) {
	mux.HandleFunc("GET /{$}", s.showPage)
	mux.HandleFunc("GET /open", s.openPage)
	mux.HandleFunc("GET /events", s.events)
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		mux.HandleFunc("GET /static/"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, static, "static/"+name) })
	}
	// The guard lets nothing but the socket come here.
	handle(s, routes, "POST", "/page", "page", func(_ context.Context, _ *Acting) (*out[api.Page], error) {
		key, until := s.sessions.key(time.Now())
		return answer(api.Page{URL: "http://" + s.address + "/open?key=" + key, Until: until}), nil
	})
}

func (s *Server) showPage(w http.ResponseWriter, r *http.Request) {
	orders, err := s.Home.Ledger.Orders(r.Context())
	if err != nil {
		s.refusePage(w, err)
		return
	}
	v := s.scene(orders).view(time.Now())
	_, v.Acts = s.sessions.token(r, s.address)
	writePage(w, http.StatusOK, "page", v)
}

// openPage begins a session. Its token goes into the fragment of the page's
// address: the page's script takes it from there, and no server ever sees it.
func (s *Server) openPage(w http.ResponseWriter, r *http.Request) {
	cookie, token, ok := s.sessions.open(r.URL.Query().Get("key"), time.Now())
	if !ok {
		s.refusePage(w, &records.Refusal{Code: "page-key-invalid",
			Sentence: "This address does not open the page any more: it was used, or it is too old.",
			Next:     "Ask for a new one with 'station page'."})
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName(s.address), Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/#act="+token, http.StatusSeeOther)
}

func (s *Server) refusePage(w http.ResponseWriter, err error) {
	p := Problem(err)
	if p.Code == "internal" {
		s.Log.Error().Err(err).Msg("page not shown")
	}
	writePage(w, p.Status, "refused", p)
}

func writePage(w http.ResponseWriter, status int, name string, data any) {
	var text bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&text, name, data); err != nil {
		panic(err) // the templates are the program's own
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a browser that has gone needs no page
}

const (
	// pageFrame is the shortest time between two pictures of the page.
	pageFrame = 100 * time.Millisecond
	// pageLook is how late the page may see what no slot tells: orders, counts,
	// the lock, the clock.
	pageLook = 500 * time.Millisecond
	// pageBeat is how often the stream says something even if nothing changes. The
	// script takes three times this silence for a lost connection.
	pageBeat = 2 * time.Second
	// pageSend bounds how long a browser may take to read an event.
	pageSend = 10 * time.Second
)

// events streams the parts of the page: at first all of them, then those that
// change. A stream ends with its reader or with the station.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	changes, done := s.Hub.watch()
	defer done()
	w.Header().Set("Content-Type", "text/event-stream")
	out := &stream{w: w, control: http.NewResponseController(w), shown: map[string]string{}}
	frame, look, beat := time.NewTicker(pageFrame), time.NewTicker(pageLook), time.NewTicker(pageBeat)
	defer frame.Stop()
	defer look.Stop()
	defer beat.Stop()
	if out.event("life", s.life) != nil {
		return
	}
	var orders []records.Order
	size := int64(-1) // of the ledger when the orders were read
	for looked := true; ; {
		if now := s.Home.Ledger.Size(); looked && now != size {
			read, err := s.Home.Ledger.Orders(ctx)
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Error().Err(err).Msg("orders not read for the page")
				}
				return // the page says that it hears nothing, and asks again
			}
			orders, size = read, now
		}
		changes.take() // what counts is the slots as they are now
		if out.parts(s.scene(orders).view(time.Now())) != nil {
			return
		}
		select { // what changes faster than the eye sees is sent once
		case <-ctx.Done():
			return
		case <-frame.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-changes.wake:
			looked = false
		case <-look.C:
			looked = true
		case <-beat.C:
			if out.event("beat", "") != nil {
				return
			}
		}
	}
}

// stream is one browser's stream of parts.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	shown   map[string]string // what the browser has of each part
}

// parts sends those parts of the page that are not what the browser has.
func (s *stream) parts(v view) error {
	if err := s.part("station", "station", v); err != nil {
		return err
	}
	for _, row := range v.Rows {
		for _, t := range row {
			if t == nil {
				continue
			}
			if err := s.part("slot-"+t.Slot, "tile", t); err != nil {
				return err
			}
		}
	}
	return s.part("orders", "orders", v)
}

func (s *stream) part(id, name string, data any) error {
	var text bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&text, name, data); err != nil {
		return fmt.Errorf("drawing %s: %w", id, err)
	}
	if s.shown[id] == text.String() {
		return nil
	}
	s.shown[id] = text.String()
	return s.event("part", text.String())
}

// event sends one event. Its data goes as JSON: that is always one line, so that
// no text that a board brought can end an event and begin another.
func (s *stream) event(name, data string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(pageSend)); err != nil {
		return fmt.Errorf("bounding an event: %w", err)
	}
	line, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", name, line); err != nil {
		return fmt.Errorf("sending an event: %w", err)
	}
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("sending an event: %w", err)
	}
	return nil
}
