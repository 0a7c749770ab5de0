package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/fixtures/boards"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/daemon"
	"nameplate/station/home"

	"github.com/rs/zerolog"
)

const word = "correct horse"

// limit bounds each wait in these tests; the race detector makes the stretching
// of keys slow.
const limit = 5 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	var r *records.Refusal
	if !errors.As(err, &r) || r.Code != code || r.Sentence == "" || r.Next == "" {
		t.Errorf("%v, want the refusal %s with a sentence and an action", err, code)
	}
}

func passphrase(t *testing.T, text string) ca.Passphrase {
	t.Helper()
	pass, err := ca.NewPassphrase([]byte(text))
	must(t, err)
	return pass
}

// folder makes a station with one slot on the address, and an order for it.
func folder(t *testing.T, slot, listen string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"station.yaml": fmt.Sprintf("name: line-1\noperator: badge-1\nlisten: %s\nsocket: s\nslots:\n  - {name: a1, port: 'rfc2217://%s', order: WO-1}\n", listen, slot),
		"customers/customer-a.yaml": "name: customer-a\nregistration_url: global.azure-devices-provisioning.net\nid_scope: 0ne0000A001\n" +
			// Nothing answers there, and the roots are missing: the line runs without it.
			"service: {endpoint: '127.0.0.1:1', policy: enroll, key_file: secrets/a.key, ca_file: secrets/missing.pem}\n",
		"products/c3-key.yaml": "name: c3-key\nfamily: espressif\nattestation: symmetricKey\nregistration_id: '{serial}'\noptions: {chip: ESP32-C3, store: {format: nvs}}\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, home.Init(t.Context(), dir, "line-1", passphrase(t, word)))
	work(t, dir, func(h *home.Home) {
		_, err := h.OpenOrder(t.Context(), h.Actor(), "order.yaml", []byte("id: WO-1\ncustomer: customer-a\nproduct: c3-key\nquota: 5\nserial: {format: 'C-%d'}\nvalid_until: 2099-12-31\n"))
		must(t, err)
	})
	return dir
}

// work opens a folder that no daemon has.
func work(t *testing.T, dir string, do func(*home.Home)) {
	t.Helper()
	h, err := home.Open(t.Context(), dir, time.Time{})
	must(t, err)
	defer h.Close()
	do(h)
}

// run is a daemon within this process.
type run struct {
	*api.Client
	address string
	log     *buffer
	stop    func() error // asks it to end, waits, and returns how it ended
}

func start(t *testing.T, c daemon.Config) run {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	ended := make(chan error, 1)
	r := run{Client: api.Dial(filepath.Join(c.Dir, "s"), ""), log: &buffer{}}
	c.Version, c.Log = "test", zerolog.New(r.log).Level(zerolog.DebugLevel)
	c.Ready = func(loopback net.Addr, _ string) { ready <- loopback.String() }
	go func() { ended <- daemon.Run(ctx, c) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(limit):
			return errors.New("the daemon did not end")
		}
	})
	t.Cleanup(func() { _ = r.stop() })
	select {
	case r.address = <-ready:
	case err := <-ended:
		t.Fatalf("the daemon ended: %v", err)
	case <-time.After(limit):
		t.Fatal("the daemon is not ready")
	}
	return r
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A day: it serves locked, a board that is in its slot waits, unlocking starts the
// slots, the end signs what was done. That the customer's service cannot even be
// asked stops nothing.
func TestDay(t *testing.T) {
	socket, err := boards.Listen("127.0.0.1:0")
	must(t, err)
	defer socket.Close()
	board, err := boards.New(boards.Config{Name: "b1", Chip: "ESP32-C3", MAC: "7c:df:a1:00:00:01", FlashPath: filepath.Join(t.TempDir(), "flash.bin")})
	must(t, err)
	defer board.Close()
	must(t, socket.Insert(board))
	defer socket.Remove()

	dir := folder(t, socket.Addr(), "127.0.0.1:0")
	began := time.Now()
	d := start(t, daemon.Config{Dir: dir})
	t.Logf("serving, locked, after %s", time.Since(began).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	st, err := d.Station(ctx)
	must(t, err)
	if st.State != "locked" || st.Name != "line-1" || st.Version != "test" {
		t.Errorf("at first: %+v", st)
	}
	if len(board.History()) != 0 {
		t.Error("a locked station has spoken to a board")
	}
	if err := d.Unlock(ctx, "wrong"); err == nil {
		t.Error("a wrong passphrase unlocks")
	}
	began = time.Now()
	must(t, d.Unlock(ctx, word))
	t.Logf("unlocked after %s", time.Since(began).Round(time.Millisecond))
	var passed api.Slot
	watching, stopWatching := context.WithCancel(ctx)
	must(t, d.Watch(watching, func(s api.Slot) {
		if s.State == "done" {
			passed = s
			stopWatching()
		}
	}))
	if passed.Verdict != "PASS" || passed.RegistrationID != "c-1" {
		t.Errorf("the board: %+v", passed)
	}
	var again *api.Problem
	if err := d.Unlock(ctx, word); !errors.As(err, &again) || again.Code != "station-unlocked" {
		t.Errorf("unlocking again: %v", err)
	}
	list, err := d.Pushes(ctx)
	must(t, err)
	if len(list) != 1 || list[0].Due != 1 || !strings.Contains(list[0].LastError, "reading service roots") {
		t.Errorf("push status: %+v", list)
	}
	must(t, d.stop())
	if log := d.log.String(); !strings.Contains(log, "enrollments wait until this is mended") || strings.Contains(log, word) {
		t.Errorf("the log:\n%s", log)
	}
	work(t, dir, func(h *home.Home) {
		list, err := h.Ledger.Checkpoints(t.Context())
		must(t, err)
		// One from the unlocking, one from the end.
		if len(list) != 2 || list[1].Size != h.Ledger.Size() {
			t.Errorf("%d checkpoints over %d events", len(list), h.Ledger.Size())
		}
	})
	if _, err := os.Stat(filepath.Join(dir, "s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// P3: what a daemon that died left open is closed as ERROR by the next one, unit
// and all, and the board may come back.
func TestPassagesLeftOpen(t *testing.T) {
	dir := folder(t, "127.0.0.1:1", "127.0.0.1:0")
	var unit records.UnitID
	work(t, dir, func(h *home.Home) {
		record := func(d records.Draft) records.Event {
			d.Actor, d.Order = h.Actor(), "WO-1"
			events, err := h.Ledger.Do(t.Context(), func(records.View) ([]records.Draft, error) { return []records.Draft{d}, nil })
			must(t, err)
			return events[0]
		}
		passage := record(records.Draft{Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}}).Passage
		unit = record(records.Draft{Passage: passage, Unit: records.NewUnit, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3",
			Hardware: []records.HardwareID{{Kind: "mac", Value: "7c:df:a1:00:00:01"}}}}).Unit
		// If we stop here, the passage stays open, with the unit in it.
	})
	d := start(t, daemon.Config{Dir: dir})
	must(t, d.stop())
	work(t, dir, func(h *home.Home) {
		u, events, err := h.History(t.Context(), unit.String())
		must(t, err)
		last := events[len(events)-1]
		if u.Passage != 0 || last.Kind != (records.PassageClosed{}).Kind() || !strings.Contains(string(last.Data), `"code":"station-stopped"`) {
			t.Errorf("unit %+v, last event %s %s", u, last.Kind, last.Data)
		}
		open, err := h.Ledger.OpenPassages(t.Context())
		must(t, err)
		if len(open) != 0 {
			t.Errorf("%d passages are open", len(open))
		}
		o, err := h.Order(t.Context(), "WO-1")
		must(t, err)
		if o.Errors != 1 {
			t.Errorf("the order counts %d passages as ERROR", o.Errors)
		}
	})
}

// Enrollments of a customer for whom nothing can be pushed are not forgotten: the
// log and 'push status' say why they wait, from the start and when more come.
func TestCustomerWithoutPusher(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(dir string)
		says  string
	}{
		"settings that cannot be used": {func(string) {}, "reading service roots"},
		"no file any more": {func(dir string) { must(t, os.Remove(filepath.Join(dir, "customers/customer-a.yaml"))) },
			"customer-missing: There is no file customers/customer-a.yaml any more."},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, "127.0.0.1:1", "127.0.0.1:0")
			work(t, dir, func(h *home.Home) { release(t, h, "7c:df:a1:00:00:01") })
			tt.spoil(dir)
			d := start(t, daemon.Config{Dir: dir})
			list, err := d.Pushes(t.Context())
			must(t, err)
			if len(list) != 1 || list[0].Due != 1 || !strings.Contains(list[0].LastError, tt.says) {
				t.Errorf("push status: %+v", list)
			}
			must(t, d.stop())
			if log := d.log.String(); !strings.Contains(log, "enrollments wait until this is mended") || !strings.Contains(log, `"customer":"customer-a"`) {
				t.Errorf("the log:\n%s", log)
			}
		})
	}
}

// release takes a unit of order WO-1 through the ledger.
func release(t *testing.T, h *home.Home, mac string) {
	t.Helper()
	record := func(d ...records.Draft) records.Event {
		t.Helper()
		events, err := h.Ledger.Do(t.Context(), func(records.View) ([]records.Draft, error) { return d, nil })
		must(t, err)
		return events[0]
	}
	draft := records.Draft{Actor: h.Actor(), Order: "WO-1", Passage: records.NewPassage}
	with := func(b records.Body) records.Draft {
		d := draft
		d.Body = b
		return d
	}
	draft.Passage = record(with(records.PassageOpened{Slot: "a1"})).Passage
	draft.Unit = records.NewUnit
	draft.Unit = record(with(records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3", Hardware: []records.HardwareID{{Kind: "mac", Value: mac}}})).Unit
	items := []records.Item{{Name: "registration_id", SHA256: "ab", How: "bytes"}}
	var id string
	_, err := h.Ledger.Do(t.Context(), func(v records.View) ([]records.Draft, error) {
		u, err := v.Unit(draft.Unit)
		if err != nil {
			return nil, err
		}
		claim, _, err := records.Claim(v, u, "WO-1")
		id = claim.RegistrationID
		return []records.Draft{with(claim)}, err
	})
	must(t, err)
	sealed := with(records.SecretSealed{Ref: "ref-" + id, What: "symmetric key"})
	sealed.Sealed = []byte("sealed")
	record(sealed, with(records.WriteBegun{Manifest: items}), with(records.UnitVerified{Found: items}), with(records.UnitPassed{}),
		with(records.UnitReleased{RegistrationID: id}), with(records.PassageClosed{Slot: "a1", Verdict: records.Pass}))
}

// What stops a station from starting is refused before anything is recorded, and
// leaves the folder free.
func TestRefusedStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	dir := folder(t, "127.0.0.1:1", taken.Addr().String())
	size := func() (n int64) {
		work(t, dir, func(h *home.Home) { n = h.Ledger.Size() })
		return n
	}
	before := size()
	refused(t, daemon.Run(t.Context(), daemon.Config{Dir: dir, Log: zerolog.Nop()}), "address-in-use")
	if after := size(); after != before {
		t.Errorf("a start that came to nothing left %d events", after-before)
	}
	must(t, taken.Close())

	// A wrong passphrase given at the start ends it.
	refused(t, daemon.Run(t.Context(), daemon.Config{Dir: dir, Log: zerolog.Nop(), Pass: passphrase(t, "wrong")}), "passphrase-wrong")

	// A second daemon does not disturb the first.
	d := start(t, daemon.Config{Dir: dir, Pass: passphrase(t, word)})
	refused(t, daemon.Run(t.Context(), daemon.Config{Dir: dir, Log: zerolog.Nop()}), "station-running")
	if _, err := d.Station(t.Context()); err != nil {
		t.Errorf("the first daemon: %v", err)
	}
	must(t, d.stop())
	refused(t, daemon.Run(t.Context(), daemon.Config{Dir: t.TempDir(), Log: zerolog.Nop()}), "station-missing")
}

// Two who unlock at once: one does it, one is told.
func TestUnlockOnce(t *testing.T) {
	d := start(t, daemon.Config{Dir: folder(t, "127.0.0.1:1", "127.0.0.1:0")})
	const callers = 4
	results := make(chan error, callers)
	for range callers {
		go func() { results <- d.Unlock(context.Background(), word) }()
	}
	unlocked := 0
	for range callers {
		var p *api.Problem
		switch err := <-results; {
		case err == nil:
			unlocked++
		case !errors.As(err, &p) || p.Code != "station-unlocked":
			t.Errorf("unlocking: %v", err)
		}
	}
	if unlocked != 1 {
		t.Errorf("%d of %d unlocked it", unlocked, callers)
	}
	must(t, d.stop())
}
