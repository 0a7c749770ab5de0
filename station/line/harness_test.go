package line_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
	"nameplate/ca/ek"
	"nameplate/ca/seal"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
	"nameplate/station/audit"
	"nameplate/station/line"
)

// These tests run the engine with the real ledger, CA and seal in a folder of
// their own. Boards are either the simulated chips of fixtures/boards behind the
// real driver, or the fakes of fake_test.go, where a case needs exact control.

const (
	stationName = "line-1"
	customer    = "customer-a"
	host        = "customer-a.azure-devices-provisioning.net"
	scope       = "0ne00112233"

	// patience is for a busy machine; nothing here takes more than seconds.
	patience = 2 * time.Minute
)

var badge = records.Actor{Kind: "badge", ID: "4711"}

// office is what `station init` makes. It is made once: stretching a passphrase
// takes its time.
type office struct {
	root, issuing authority.Pair
	identity      []byte
	recipient     string
	pass          ca.Passphrase
}

var theOffice = sync.OnceValues(func() (o office, err error) {
	if o.pass, err = ca.NewPassphrase([]byte("correct")); err != nil {
		return o, err
	}
	if o.root, err = authority.CreateRoot("factory.example root", time.Now()); err != nil {
		return o, err
	}
	if o.issuing, err = authority.CreateIssuing(o.root, "factory.example "+customer, time.Now()); err != nil {
		return o, err
	}
	o.identity, o.recipient, err = seal.Create(o.pass)
	return o, err
})

var theBox = sync.OnceValues(func() (*seal.Box, error) {
	o, err := theOffice()
	if err != nil {
		return nil, err
	}
	box, err := seal.Open(o.recipient)
	if err != nil {
		return nil, err
	}
	return box, box.Unlock(o.identity, o.pass)
})

// station is a station without daemon: the test is the one who runs its slots.
type station struct {
	testing.TB
	ctx    context.Context
	path   string // of the ledger
	office office
	issuer *authority.Authority
	box    *seal.Box
	clock  *clock
	log    *journal
	limits line.Limits
	driver flasher.Driver
	chip   string
	policy ek.Policy // of the orders for boards with a TPM

	book *book // the open ledger, renewed by restart
}

// clock is the station's clock, which a test may set.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) set(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
}

// journal is the log as it was written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) bytes() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Clone(j.buf.Bytes())
}

func newStation(t testing.TB, driver flasher.Driver) *station {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	o, err := theOffice()
	must(t, err)
	box, err := theBox()
	must(t, err)
	issuer, err := authority.Open(authority.Config{Root: o.root.Certificate, Issuers: map[string]authority.Pair{customer: o.issuing}})
	must(t, err)
	s := &station{TB: t, ctx: ctx, path: filepath.Join(t.TempDir(), "ledger.db"), office: o, issuer: issuer, box: box,
		clock: &clock{}, log: &journal{}, driver: driver, chip: "ESP32-C3", policy: ek.Require,
		limits: line.Limits{Identify: time.Minute, Write: time.Minute, Verify: time.Minute, Passage: patience}}
	s.open(func() error { return ledger.Create(ctx, s.path, stationName) })
	t.Cleanup(func() { s.book.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens the ledger after what had it open before. Meanwhile nobody starts a
// process, which would hold all open files for a moment, and so the ledger's lock.
func (s *station) open(after func() error) {
	s.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	must(s, after())
	l, err := ledger.Open(s.ctx, ledger.Config{Path: s.path, Station: stationName, Clock: s.clock.now})
	must(s, err)
	s.book = &book{Ledger: l}
}

// restart is what happens after a death: the ledger is opened anew, and what was
// left open is closed as station/daemon does it.
func (s *station) restart() {
	s.Helper()
	s.open(s.book.Close)
	open, err := s.book.OpenPassages(s.ctx)
	must(s, err)
	s.do(func(records.View) ([]records.Draft, error) {
		drafts := []records.Draft{{Actor: self, Body: records.StationStarted{Version: "test"}}}
		for _, e := range open {
			b, err := e.Body()
			if err != nil {
				return nil, err
			}
			drafts = append(drafts, records.Draft{Actor: self, Unit: e.Unit, Order: e.Order, Passage: e.Passage,
				Body: records.PassageClosed{Slot: b.(records.PassageOpened).Slot, Verdict: records.Error, Code: "station-stopped", Text: "Put it back."}})
		}
		return drafts, nil
	})
}

var self = records.Actor{Kind: "station", ID: stationName}

func (s *station) do(decide func(records.View) ([]records.Draft, error)) {
	s.Helper()
	_, err := s.book.Ledger.Do(s.ctx, decide)
	must(s, err)
}

// order opens a work order; its ID is the way in which it makes identities.
func (s *station) order(way string, quota int) string {
	s.Helper()
	return s.orderAs(way, way, quota, s.clock.now().AddDate(1, 0, 0))
}

func (s *station) orderAs(id, way string, quota int, until time.Time) string {
	s.Helper()
	product, receiver := []byte("name: sensor\n"), []byte("name: "+customer+"\n")
	terms := records.Terms{Family: s.driver.Family(), RegistrationID: id + "-{serial}", RegistrationURL: host, IDScope: scope}
	terms.Attestation, terms.Key = makes(way)
	if terms.Attestation == records.X509 {
		terms.Issuer, terms.ValidDays = ca.Digest(s.office.issuing.Certificate.Raw), 3650
	}
	if hasTPM(way) {
		terms.EKPolicy = string(s.policy)
		if s.policy != ek.None {
			terms.EKRoots = trusted(s).Fingerprints()
		}
	}
	s.do(func(records.View) ([]records.Draft, error) {
		return []records.Draft{{Actor: badge, Order: id, Body: records.OrderOpened{
			ID: id, Customer: customer, Product: "sensor-" + id, Quota: quota, SerialFormat: "A%06d", SerialFirst: 1, ValidUntil: until,
			ProductFile: product, ProductSHA256: ca.Digest(product), CustomerFile: receiver, CustomerSHA256: ca.Digest(receiver), Terms: terms}}}, nil
	})
	return id
}

// job is what station/home makes of an order.
func (s *station) job(ctx context.Context, id string) (line.Job, error) {
	o, err := s.book.Order(ctx, id)
	if err != nil {
		return line.Job{}, err
	}
	if o.ID == "" {
		return line.Job{}, &records.Refusal{Code: "order-unknown", Sentence: fmt.Sprintf("There is no order %q.", id), Next: "See 'station order list'."}
	}
	job := line.Job{Order: id, Attestation: o.Terms.Attestation, Driver: s.driver, ValidDays: o.Terms.ValidDays, Issuer: o.Terms.Issuer,
		Organization: "factory.example", Limits: s.limits, EK: line.EK{Policy: ek.Policy(o.Terms.EKPolicy)},
		Options: flasher.Options{Chip: s.chip, Baud: 460800, Store: flasher.Store{Format: "nvs", Partition: "nvs", Namespace: "identity",
			Keys: map[string]string{flasher.ItemRegistrationURL: "reg_url", flasher.ItemIDScope: "id_scope", flasher.ItemRegistrationID: "reg_id",
				flasher.ItemSymmetricKey: "sym_key", flasher.ItemCertificate: "cert", flasher.ItemPrivateKey: "priv_key"}}}}
	switch o.Terms.Key {
	case records.KeyInFile:
		job.Options.Key.In = "file"
	case records.KeyInTPM:
		job.Options.Key = flasher.DeviceKey{In: "tpm", Handle: keyHandle}
	}
	job.Options.TPM = o.Terms.EKPolicy != ""
	if o.Terms.EKRoots != nil {
		job.EK.Roots, err = trusted(s).Only(o.Terms.EKRoots)
	}
	return job, err
}

// Seal and Reveal are the station's, as station/home has them.
func (s *station) Seal(ref string, secret []byte) ([]byte, error) { return s.box.Seal(ref, secret) }

func (s *station) Reveal(ctx context.Context, ref string) ([]byte, error) {
	sealed, err := s.book.Sealed(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.box.Reveal(ref, sealed)
}

// passage runs one passage in a slot made for it.
func (s *station) passage(port link.Port, order string) line.Status {
	s.Helper()
	w := s.slot("slot-1", port, nil)
	defer w.end(nil)
	return w.pass(order)
}

// dies runs a passage in whose midst the station dies.
func (s *station) dies(port link.Port, order string) {
	s.Helper()
	w := s.slot("slot-1", port, nil)
	w.attempt(order)
	if err := w.end(nil); !errors.Is(err, line.ErrStop) {
		s.Fatalf("Run ended with %v, want ErrStop; the slot shows %+v", err, w.Status())
	}
}

func (s *station) events() []records.Event {
	s.Helper()
	var all []records.Event
	for leaf, err := range s.book.Leaves(s.ctx, 1) {
		must(s, err)
		all = append(all, decode(s, leaf.Bytes))
	}
	return all
}

// kinds is the story from event number from on, without what opening orders and
// starting stations adds.
func (s *station) kinds(from int) []records.Kind {
	s.Helper()
	var kinds []records.Kind
	for _, e := range s.events()[from:] {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (s *station) size() int { return int(s.book.Size()) }

// unit is the only unit there is.
func (s *station) unit() records.Unit {
	s.Helper()
	all := s.units()
	if len(all) != 1 {
		s.Fatalf("%d units, want one", len(all))
	}
	return all[0]
}

func (s *station) units() []records.Unit {
	s.Helper()
	var all []records.Unit
	for u, err := range s.book.Units(s.ctx, ledger.UnitQuery{}) {
		must(s, err)
		all = append(all, u)
	}
	return all
}

// live is how much of an order's quota is used.
func (s *station) live(order string) int {
	s.Helper()
	o, err := s.book.Order(s.ctx, order)
	must(s, err)
	return o.Live
}

// replays holds the whole history against itself, certificates included.
func (s *station) replays() {
	s.Helper()
	l, err := ledger.OpenReadOnly(s.ctx, s.path)
	must(s, err)
	defer l.Close()
	report, err := replay.Run(s.ctx, l, replay.Options{Checks: audit.Checks(s.office.root.Certificate, []*x509.Certificate{s.office.issuing.Certificate})})
	must(s, err)
	for _, f := range report.Findings {
		s.Errorf("replay: %s", f)
	}
}

// oneIdentity asserts P1 and P6 after all: each unit that is released has one
// registration ID, which nobody else ever had, and the order counts right.
func (s *station) oneIdentity(order string, released int) {
	s.Helper()
	claimed := map[string]records.UnitID{}
	claims := 0
	for _, e := range s.events() {
		b, err := e.Body()
		must(s, err)
		if back, ok := b.(records.IdentityReleased); ok && e.Order == order {
			claims--
			delete(claimed, back.RegistrationID)
		}
		c, ok := b.(records.IdentityClaimed)
		if !ok || e.Order != order {
			continue
		}
		claims++
		if was, twice := claimed[c.RegistrationID]; twice {
			s.Errorf("%s was claimed for unit %s and for unit %s", c.RegistrationID, was, e.Unit)
		}
		claimed[c.RegistrationID] = e.Unit
	}
	o, err := s.book.Order(s.ctx, order)
	must(s, err)
	if o.Live != claims || o.Released != released || o.Live != released {
		s.Errorf("order %s: %d claims, %d live, %d released; want %d of each", order, claims, o.Live, o.Released, released)
	}
	s.replays()
}

func decode(t testing.TB, leaf []byte) records.Event {
	t.Helper()
	var e records.Event
	must(t, json.Unmarshal(leaf, &e))
	return e
}

// fate is what becomes of a transaction that is made to fail.
type fate string

const (
	refused fate = "refused"             // the ledger says no; nothing is recorded and everybody knows
	lost    fate = "failed, not applied" // a COMMIT failed and nothing is on disk
	applied fate = "failed, yet applied" // a COMMIT failed and its events are on disk
)

// full is the ledger's refusal when the disk is full.
var full = &records.Refusal{Code: "disk-full", Sentence: "The disk that holds the ledger is full; nothing was recorded.",
	Next: "Free some space, then try again."}
