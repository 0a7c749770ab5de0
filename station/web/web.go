// Package web serves the station's HTTP API and the operator page: the same
// verbs, words and codes as the command line. It listens on two doors: the unix
// socket, whose file permissions decide who may act, and a loopback address that
// only shows, except to a page that was opened with a key from the socket.
package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"nameplate/ca"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/api"
	"nameplate/station/home"
	"nameplate/station/line"
	"nameplate/station/profile"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/rs/zerolog"
)

// Server answers the API.
type Server struct {
	Home    *home.Home
	Slots   []*line.Slot
	Hub     *Hub
	Version string
	// Unlock opens the station's keys and lets the slots begin.
	Unlock func(context.Context, ca.Passphrase) error
	// Retried wakes the pusher of a customer after a person put an item back.
	Retried func(customer string)
	// Failed is called when the ledger's state is unknown: the station must stop.
	Failed func(error)
	Log    zerolog.Logger

	address  string // of the loopback door, host:port
	life     string // names this process to the pages
	sessions *sessions
}

// headerLimit bounds how long a caller may take to say what it wants.
const headerLimit = 10 * time.Second

// idleLimit bounds how long a connection is kept for a caller that says nothing.
const idleLimit = 2 * time.Minute

// stopLimit bounds how long running calls may take to end when the station stops.
const stopLimit = 5 * time.Second

type socketKey struct{}

// Serve answers on both doors until ctx ends. Calls through the socket may act;
// calls through the loopback address may only look, pages with a session apart.
func (s *Server) Serve(ctx context.Context, socket, loopback net.Listener) error {
	s.address, s.life, s.sessions = loopback.Addr().String(), secret(), newSessions()
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, ErrorLog: log.New(s.Log, "", 0),
		BaseContext: func(l net.Listener) context.Context {
			return context.WithValue(ctx, socketKey{}, l == socket)
		}}
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(socket) }()
	go func() { failed <- srv.Serve(loopback) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		srv.Close() // a watcher that does not go is cut off
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the API: %w", err)
	}
	return nil
}

// handler is API and page as one handler.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Nameplate station", "1")
	config.OpenAPIPath = "/openapi"
	config.DocsPath, config.SchemasPath = "", "" // the documentation page loads scripts from the network
	config.CreateHooks = nil
	config.Servers = []*huma.Server{{URL: "/api/v1"}}
	routes := humago.NewWithPrefix(mux, "/api/v1", config)
	s.routes(routes)
	s.pageRoutes(mux, routes)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &records.Refusal{Code: "path-unknown", Sentence: fmt.Sprintf("The station has no %s %s.", r.Method, r.URL.Path),
			Next: "See /api/v1/openapi.yaml."})
	})
	return s.guard(mux)
}

// init gives the framework our form for the requests that it refuses itself. The
// setting is the whole program's, so it is made once and before any request.
func init() {
	huma.NewError = func(status int, message string, details ...error) huma.StatusError {
		for i, d := range details {
			if i == 0 {
				message = ""
			} else {
				message += "; "
			}
			message += detail(d)
		}
		return &api.Problem{Status: status, Code: "request-invalid", Sentence: "The station does not understand the request: " + message + ".",
			Next: "See /api/v1/openapi.yaml."}
	}
}

// detail says what is wrong and where, without the value: it may be a passphrase.
func detail(err error) string {
	var d huma.ErrorDetailer
	if !errors.As(err, &d) {
		return "the body cannot be read"
	}
	at := d.ErrorDetail()
	if at.Location == "" {
		return at.Message
	}
	return at.Message + " (" + at.Location + ")"
}

// guard refuses what a web page in the operator's browser could forge, and
// actions that come neither through the socket nor from a page that was opened
// with a key. A browser names the page's origin in Origin and Sec-Fetch-Site, and
// a page that had its own name point here (DNS rebinding) names that in Host; the
// station's own client sends neither.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		harden(w.Header())
		local, _ := r.Context().Value(socketKey{}).(bool)
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
		_, route := mux.Handler(r) // exactly what will answer, however the path is written
		switch {
		case !local && host != "localhost" && (ip == nil || !ip.IsLoopback()),
			origin != "" && (local || origin != "http://"+r.Host), site != "" && site != "same-origin" && site != "none":
			refuse(w, &records.Refusal{Code: "browser-refused", Sentence: "Another site's page may not ask the station.",
				Next: "Open the station's own address."})
		case local, r.Method == http.MethodGet, r.Method == http.MethodHead:
			mux.ServeHTTP(w, r)
		case !pageActs[route]:
			refuse(w, &records.Refusal{Code: "socket-only", Sentence: "This address only shows; it cannot act.",
				Next: "Use the 'station' command on the station itself."})
		case !s.sessions.mayAct(r, s.address):
			refuse(w, &records.Refusal{Code: "page-only-shows", Sentence: "This page only shows.",
				Next: "To act, open it with 'station page'."})
		default:
			r.Header.Del("Nameplate-Actor") // a page acts as the station's operator
			mux.ServeHTTP(w, r)
		}
	})
}

// out is the frame of answers. ByID and Acting are embedded in the frames of
// requests; their names are exported because huma passes over others.
type (
	out[T any] struct{ Body T }
	ByID       struct {
		ID string `path:"id"`
	}
	Acting struct {
		Actor string `header:"Nameplate-Actor" doc:"who acts: badge:NUMBER or account:NAME"`
	}
)

func answer[T any](body T) *out[T] { return &out[T]{body} }

// actor is who acts: as the request says, else whoever the station's file names.
func (s *Server) actor(a Acting) (records.Actor, error) {
	if a.Actor == "" {
		return s.Home.Actor(), nil
	}
	return ParseActor(a.Actor)
}

// handle adds an operation. A refused action is a fact: it is recorded.
func handle[I, O any](s *Server, routes huma.API, method, path, name string, do func(context.Context, *I) (*O, error)) {
	huma.Register(routes, huma.Operation{OperationID: strings.ReplaceAll(name, " ", "-"), Method: method, Path: path, Summary: name},
		func(ctx context.Context, in *I) (*O, error) {
			o, err := do(ctx, in)
			if err == nil {
				return o, nil
			}
			p := Problem(err)
			if errors.Is(err, ledger.ErrStateUnknown) {
				s.Failed(err)
			}
			if p.Code == "internal" {
				s.Log.Error().Err(err).Str("action", name).Msg("action failed")
			}
			if method != http.MethodGet && p.Status < 500 {
				s.denied(ctx, in, name, p)
			}
			return nil, p
		})
}

func (s *Server) denied(ctx context.Context, in any, action string, p *api.Problem) {
	actor := s.Home.Actor()
	if a, ok := in.(interface{ who() Acting }); ok {
		if named, err := s.actor(a.who()); err == nil {
			actor = named
		}
	}
	if err := s.Home.Denied(ctx, actor, action, p.Code, p.Sentence); err != nil {
		s.Log.Error().Err(err).Str("action", action).Msg("denied action not recorded")
	}
}

func (a Acting) who() Acting { return a }

func (s *Server) routes(routes huma.API) {
	handle(s, routes, "GET", "/station", "station show", func(ctx context.Context, _ *struct{}) (*out[api.Station], error) {
		state := "locked"
		if s.Home.Vault.Unlocked() {
			state = "ready"
		}
		return answer(api.Station{Name: s.Home.Set.Station.Name, Version: s.Version, State: state, Events: s.Home.Ledger.Size()}), nil
	})
	handle(s, routes, "POST", "/unlock", "unlock", func(ctx context.Context, in *struct {
		Acting
		Body api.Unlock
	}) (*struct{}, error) {
		pass, err := ca.NewPassphrase([]byte(in.Body.Passphrase))
		if err != nil {
			return nil, err
		}
		defer pass.Wipe()
		return nil, s.Unlock(ctx, pass)
	})
	s.orderRoutes(routes)
	s.unitRoutes(routes)
	s.slotRoutes(routes)
	s.pushRoutes(routes)
	s.scanRoutes(routes)
	handle(s, routes, "POST", "/exports", "export", func(ctx context.Context, in *struct {
		Acting
		Body api.Export
	}) (*out[api.Exported], error) {
		actor, err := s.actor(in.Acting)
		if err != nil {
			return nil, err
		}
		r, err := s.Home.Export(ctx, actor, in.Body.Customer, in.Body.Order, in.Body.Dir)
		return answer(api.Exported(r)), err
	})
}

func (s *Server) orderRoutes(routes huma.API) {
	handle(s, routes, "GET", "/orders", "order list", func(ctx context.Context, _ *struct{}) (*out[[]api.Order], error) {
		orders, err := s.Home.Ledger.Orders(ctx)
		list := make([]api.Order, len(orders))
		for i, o := range orders {
			list[i] = Order(o)
		}
		return answer(list), err
	})
	handle(s, routes, "GET", "/orders/{id}", "order show", func(ctx context.Context, in *ByID) (*out[api.Order], error) {
		o, err := s.Home.Order(ctx, in.ID)
		return answer(Order(o)), err
	})
	handle(s, routes, "POST", "/orders", "order open", func(ctx context.Context, in *struct {
		Acting
		Body api.OpenOrder
	}) (*out[api.Order], error) {
		actor, err := s.actor(in.Acting)
		if err != nil {
			return nil, err
		}
		o, err := s.Home.OpenOrder(ctx, actor, in.Body.Name, []byte(in.Body.File))
		return answer(Order(o)), err
	})
	handle(s, routes, "POST", "/orders/{id}/close", "order close", func(ctx context.Context, in *struct {
		Acting
		ByID
		Body api.CloseOrder
	}) (*out[api.Order], error) {
		actor, err := s.actor(in.Acting)
		if err != nil {
			return nil, err
		}
		o, err := s.Home.CloseOrder(ctx, actor, in.ID, in.Body.Reason)
		return answer(Order(o)), err
	})
}

func (s *Server) unitRoutes(routes huma.API) {
	handle(s, routes, "GET", "/units", "unit list", func(ctx context.Context, in *struct {
		Order string `query:"order"`
		State string `query:"state" enum:"seen,claimed,keyed,issued,writing,verified,released"`
		After int64  `query:"after" doc:"the number of the last unit of the page before"`
		Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
	}) (*out[[]api.Unit], error) {
		list := []api.Unit{}
		for u, err := range s.Home.Ledger.Units(ctx, ledger.UnitQuery{Order: in.Order, State: records.UnitState(in.State),
			After: records.UnitID(in.After), Limit: in.Limit}) {
			if err != nil {
				return nil, err
			}
			list = append(list, Unit(u))
		}
		return answer(list), nil
	})
	handle(s, routes, "GET", "/units/{id}", "unit show", func(ctx context.Context, in *ByID) (*out[api.Unit], error) {
		u, events, err := s.Home.History(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		unit := Unit(u)
		for _, e := range events {
			unit.History = append(unit.History, Event(e))
		}
		return answer(unit), nil
	})
}

func (s *Server) slot(name string) (*line.Slot, error) {
	for _, slot := range s.Slots {
		if slot.Status().Slot == name {
			return slot, nil
		}
	}
	return nil, &records.Refusal{Code: "slot-unknown", Sentence: fmt.Sprintf("There is no slot %q.", name), Next: "See 'station slot list'."}
}

func (s *Server) slotRoutes(routes huma.API) {
	handle(s, routes, "GET", "/slots", "slot list", func(ctx context.Context, _ *struct{}) (*out[[]api.Slot], error) {
		list := make([]api.Slot, len(s.Slots))
		for i, slot := range s.Slots {
			st := slot.Status()
			list[i] = Slot(st, s.Home.Port(st.Slot))
		}
		return answer(list), nil
	})
	handle(s, routes, "POST", "/slots/{id}/start", "slot start", func(ctx context.Context, in *struct {
		Acting
		ByID
		Body api.StartSlot
	}) (*struct{}, error) {
		slot, err := s.slot(in.ID)
		if err != nil {
			return nil, err
		}
		actor, err := s.actor(in.Acting)
		if err != nil {
			return nil, err
		}
		if !s.Home.Vault.Unlocked() {
			return nil, home.ErrLocked
		}
		return nil, slot.Start(in.Body.Order, actor)
	})
	handle(s, routes, "POST", "/slots/{id}/cancel", "slot cancel", func(ctx context.Context, in *struct {
		Acting
		ByID
	}) (*struct{}, error) {
		slot, err := s.slot(in.ID)
		if err != nil {
			return nil, err
		}
		actor, err := s.actor(in.Acting)
		if err != nil {
			return nil, err
		}
		return nil, slot.Cancel(actor)
	})
	handle(s, routes, "GET", "/ports", "ports", func(ctx context.Context, _ *struct{}) (*out[[]api.Port], error) {
		found, err := link.List()
		return answer(Ports(s.Home.Set, found)), err
	})
	s.watchRoute(routes)
}

// Ports is what is connected, with the slot that each port belongs to.
func Ports(set profile.Set, found []link.Found) []api.Port {
	list := make([]api.Port, 0, len(found))
	for _, f := range found {
		p := api.Port{Path: f.Path, Stable: cmp.Or(f.ByPath, f.ByID), Product: f.Product}
		if f.VID != "" {
			p.USB = strings.TrimSpace(f.VID + ":" + f.PID + " " + f.Serial)
		}
		for _, slot := range set.Station.Slots {
			if slices.Contains([]string{f.Path, f.ByID, f.ByPath}, slot.Port) {
				p.Slot = slot.Name
			}
		}
		list = append(list, p)
	}
	return list
}

func (s *Server) pushRoutes(routes huma.API) {
	handle(s, routes, "GET", "/push", "push status", func(ctx context.Context, _ *struct{}) (*out[[]api.Push], error) {
		list, err := Pushes(ctx, s.Home.Ledger.Ledger)
		return answer(list), err
	})
	handle(s, routes, "POST", "/push/{id}/retry", "push retry", func(ctx context.Context, in *struct {
		Acting
		ByID
	}) (*struct{}, error) {
		u, err := s.Home.Ledger.Find(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if err := s.Home.Ledger.OutboxRetry(ctx, u.ID); err != nil {
			return nil, err
		}
		s.Retried(u.Customer)
		return nil, nil
	})
}

// Pushes is what is still to be pushed, by customer.
func Pushes(ctx context.Context, l *ledger.Ledger) ([]api.Push, error) {
	counts, err := l.OutboxStatus(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Push, len(counts))
	for i, c := range counts {
		list[i] = api.Push{Customer: c.Customer, Due: c.Due, Aside: c.Aside, Accepted: c.Accepted, NextAt: c.Next, LastError: c.LastError}
		if c.Aside == 0 {
			continue
		}
		items, err := l.OutboxAside(ctx, c.Customer)
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			list[i].Items = append(list[i].Items, api.PushAside{Unit: it.Unit.String(), RegistrationID: it.RegistrationID, Reason: it.LastError})
		}
	}
	return list, nil
}

func refuse(w http.ResponseWriter, r *records.Refusal) {
	p := Problem(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a caller that has gone needs no answer
}
