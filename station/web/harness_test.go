package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/home"
	"nameplate/station/line"
	"nameplate/station/web"

	"github.com/rs/zerolog"
)

const passphrase = "correct horse"

// template is a station's folder, made once: making keys takes its time.
var template = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nameplate-web")
	if err != nil {
		return "", err
	}
	for name, text := range map[string]string{
		"station.yaml": "name: line-1\noperator: badge-1\nslots:\n  - {name: a1, port: 'rfc2217://127.0.0.1:1', order: WO-1}\n  - {name: a2, port: /dev/ttyUSB9}\n",
		"customers/customer-a.yaml": "name: customer-a\nregistration_url: global.azure-devices-provisioning.net\nid_scope: 0ne0000A001\n" +
			"service: {endpoint: customer-a.azure-devices-provisioning.net, policy: enroll, key_file: secrets/a.key}\n",
		"products/c3-key.yaml": "name: c3-key\nfamily: espressif\nattestation: symmetricKey\nregistration_id: '{serial}'\noptions: {chip: ESP32-C3, store: {format: nvs}}\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	pass, err := ca.NewPassphrase([]byte(passphrase))
	if err != nil {
		return "", err
	}
	return dir, home.Init(context.Background(), dir, "line-1", pass)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := template(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

const orderFile = "id: %s\ncustomer: customer-a\nproduct: c3-key\nquota: 2\nserial: {format: 'C-%%d'}\nvalid_until: 2099-12-31\n"

// station is a server with both doors open on a folder of its own.
type station struct {
	t        *testing.T
	home     *home.Home
	hub      *web.Hub
	socket   string
	loopback string
	slots    []*line.Slot
	retried  chan string
	stop     func() // ends the server and waits for it

	mu       sync.Mutex
	watchers []func(line.Status)
}

// watch calls on with each change of a slot.
func (s *station) watch(on func(line.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = append(s.watchers, on)
}

func (s *station) changed(st line.Status) {
	s.hub.Publish(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, on := range s.watchers {
		on(st)
	}
}

// serve starts a server. change alters the slots' configuration.
func serve(t *testing.T, change ...func(*line.Config)) *station {
	t.Helper()
	from, err := template()
	must(t, err)
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(from)))
	h, err := home.Open(t.Context(), dir, time.Time{})
	must(t, err)
	s := &station{t: t, home: h, hub: &web.Hub{}, socket: filepath.Join(dir, "s"), retried: make(chan string, 8)}
	for _, slot := range h.Set.Station.Slots {
		port, err := link.Parse(slot.Port)
		must(t, err)
		config := line.Config{Slot: slot.Name, Port: port, Order: slot.Order, Changed: s.changed}
		for _, alter := range change {
			alter(&config)
		}
		s.slots = append(s.slots, line.New(config))
	}
	server := &web.Server{Home: h, Slots: s.slots, Hub: s.hub, Version: "test", Log: zerolog.Nop(),
		Retried: func(customer string) { s.retried <- customer },
		Unlock: func(_ context.Context, pass ca.Passphrase) error {
			return h.Unlock(pass)
		}}
	socket, err := net.Listen("unix", s.socket)
	must(t, err)
	loopback, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.loopback = loopback.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, socket, loopback) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		must(t, h.Close())
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// request is what a test asks; door is "socket" (the default) or "loopback".
type request struct {
	door, method, path, body string
	header                   map[string]string
}

// ask returns the status and the body of the answer.
func (s *station) ask(r request) (int, string) {
	s.t.Helper()
	client := &http.Client{}
	if r.door != "loopback" {
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
		}}
	}
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), r.method, "http://"+s.loopback+r.path, body)
	must(s.t, err)
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range r.header {
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return resp.StatusCode, string(text)
}

// refused asks and wants a refusal in the one form that all have.
func (s *station) refused(r request, status int, code string) api.Problem {
	s.t.Helper()
	got, text := s.ask(r)
	var p api.Problem
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		s.t.Errorf("%s %s: the answer is not a problem: %v: %s", r.method, r.path, err, text)
		return p
	}
	if got != status || p.Status != status || p.Code != code || p.Sentence == "" || p.Next == "" {
		s.t.Errorf("%s %s: %d %+v, want %d %s with a sentence and an action", r.method, r.path, got, p, status, code)
	}
	return p
}

// record writes one event as the line would.
func (s *station) record(d records.Draft) records.Event {
	s.t.Helper()
	d.Actor = s.home.Actor()
	events, err := s.home.Ledger.Do(s.t.Context(), func(records.View) ([]records.Draft, error) { return []records.Draft{d}, nil })
	must(s.t, err)
	return events[0]
}

// events are the ledger's events from a sequence number on.
func (s *station) events(from int64) []string {
	s.t.Helper()
	var lines []string
	for leaf, err := range s.home.Ledger.Leaves(s.t.Context(), from) {
		must(s.t, err)
		var e records.Event
		must(s.t, json.Unmarshal(leaf.Bytes, &e))
		lines = append(lines, fmt.Sprintf("%s:%s %s %s", e.Actor.Kind, e.Actor.ID, e.Kind, e.Data))
	}
	return lines
}
