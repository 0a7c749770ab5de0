package outbox_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/outbox"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var actor = records.Actor{Kind: "station", ID: "line-1"}

// openLedger makes a ledger with one order for customer-a.
func openLedger(t testing.TB, path string) *ledger.Ledger {
	t.Helper()
	must(t, ledger.Create(t.Context(), path, "line-1"))
	l, err := ledger.Open(t.Context(), ledger.Config{Path: path, Station: "line-1"})
	must(t, err)
	_, err = l.Do(t.Context(), func(v records.View) ([]records.Draft, error) {
		return []records.Draft{{Actor: actor, Order: "order-1", Body: records.OrderOpened{ID: "order-1", Customer: "customer-a",
			Product: "sensor", Quota: 1_000_000, SerialFormat: "A%06d", SerialFirst: 1, ValidUntil: v.Now().AddDate(1, 0, 0),
			Terms: records.Terms{Attestation: records.SymmetricKey, RegistrationID: "dev-{serial}", RegistrationURL: registrationURL, IDScope: idScope}}}}, nil
	})
	must(t, err)
	return l
}

// What customer-a said when the order was opened.
const (
	registrationURL = "register.example"
	idScope         = "0ne0000000A"
)

// release takes n units with sealed keys through the line; their IDs.
func release(t testing.TB, l *ledger.Ledger, n int) []records.UnitID {
	t.Helper()
	ids := make([]records.UnitID, n)
	// In groups, because the ledger shares a commit among those who wait.
	for at := 0; at < n; at += 64 {
		var group sync.WaitGroup
		for i := at; i < min(at+64, n); i++ {
			group.Go(func() { ids[i] = releaseOne(t, l) })
		}
		group.Wait()
	}
	return ids
}

func releaseOne(t testing.TB, l *ledger.Ledger) records.UnitID {
	do := func(decide func(v records.View) ([]records.Draft, error)) []records.Event {
		events, err := l.Do(t.Context(), decide)
		if err != nil {
			t.Error(err)
			panic("the ledger refused a unit")
		}
		return events
	}
	slot := "slot-" + rnd()
	passage := do(func(records.View) ([]records.Draft, error) {
		return []records.Draft{{Actor: actor, Passage: records.NewPassage, Body: records.PassageOpened{Slot: slot}}}, nil
	})[0].Passage
	draft := func(unit records.UnitID, b records.Body) records.Draft {
		return records.Draft{Actor: actor, Unit: unit, Order: "order-1", Passage: passage, Body: b}
	}
	unit := do(func(records.View) ([]records.Draft, error) {
		return []records.Draft{draft(records.NewUnit, records.UnitIdentified{Family: "espressif",
			Hardware: []records.HardwareID{{Kind: "mac", Value: rnd()}}})}, nil
	})[0].Unit
	do(func(v records.View) ([]records.Draft, error) {
		u, err := v.Unit(unit)
		if err != nil {
			return nil, err
		}
		claim, _, err := records.Claim(v, u, "order-1")
		if err != nil {
			return nil, err
		}
		items := []records.Item{{Name: "registration_id", SHA256: "ab", How: "bytes"}}
		ref := "ref-" + claim.RegistrationID
		sum := sha256.Sum256([]byte("salt" + keyOf(ref)))
		sealed := draft(unit, records.SecretSealed{Ref: ref, What: "symmetric key", Salt: []byte("salt"), SHA256: hex.EncodeToString(sum[:])})
		sealed.Sealed = []byte("sealed")
		return []records.Draft{draft(unit, claim), sealed, draft(unit, records.WriteBegun{Manifest: items}),
			draft(unit, records.UnitVerified{Found: items}), draft(unit, records.UnitPassed{}),
			draft(unit, records.UnitReleased{RegistrationID: claim.RegistrationID}),
			draft(unit, records.PassageClosed{Slot: slot, Verdict: records.Pass})}, nil
	})
	return unit
}

var (
	countMu sync.Mutex
	count   int
)

// rnd is a name that no other call returns.
func rnd() string {
	countMu.Lock()
	defer countMu.Unlock()
	count++
	return fmt.Sprintf("%06d", count)
}

// keyOf is the key that was sealed under the reference.
func keyOf(ref string) string { return "key of " + ref }

// vault reveals a key for every reference, unless it is locked.
type vault struct {
	mu        sync.Mutex
	locked    bool
	revealed  int    // keys so far
	exchanged string // the reference whose key somebody exchanged
}

func (v *vault) Reveal(_ context.Context, ref string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.locked {
		return nil, errors.New("the station is locked")
	}
	v.revealed++
	if ref == v.exchanged {
		return []byte("my own key"), nil
	}
	return []byte(keyOf(ref)), nil
}

func (v *vault) lock(locked bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.locked = locked
}

// service is a Pusher that remembers what it was given and when.
type service struct {
	pace    *outbox.Pace
	latency time.Duration
	// say is asked before each call, under the lock: an error fails the call, a
	// nil answer accepts the item. nil says yes to everything.
	say func(s *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error)

	mu    sync.Mutex
	calls []time.Time
	known map[records.UnitID]string // the key each was enrolled with
	seen  [][]byte                  // the keys' own bytes, to see them wiped
}

func (s *service) Push(ctx context.Context, items []outbox.Item) ([]outbox.Answer, error) {
	if err := s.pace.Wait(ctx); err != nil {
		return nil, err
	}
	said, err := s.book(items)
	if err == nil && s.latency > 0 {
		timer := time.NewTimer(s.latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := make([]outbox.Answer, len(items))
	for i, it := range items {
		if a, some := said[it.Unit]; some {
			answers[i] = a
			continue
		}
		_, found := s.known[it.Unit]
		s.known[it.Unit] = string(it.Key)
		s.seen = append(s.seen, it.Key)
		answers[i] = outbox.Answer{Outcome: outbox.Accepted, Found: found}
	}
	return answers, nil
}

func (s *service) book(items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, time.Now())
	if s.say == nil {
		return nil, nil
	}
	return s.say(s, items)
}

// times returns when the calls came.
func (s *service) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// bench is a ledger, a service and a worker between them.
type bench struct {
	t       testing.TB
	ledger  *ledger.Ledger
	vault   *vault
	service *service
	worker  *outbox.Worker
	units   []records.UnitID
	halt    func() error
	stop    func() error
}

// config is that of a worker whose customer has changed nothing.
func (b *bench) config() outbox.Config {
	return outbox.Config{Customer: "customer-a", RegistrationURL: registrationURL, IDScope: idScope,
		Ledger: b.ledger, Secrets: b.vault, Pusher: b.service, Pace: b.service.pace, Actor: actor}
}

// start makes units and runs a worker over them; perMinute is the service's rate.
func start(t testing.TB, units, perMinute int, edit func(*bench, *outbox.Config)) *bench {
	t.Helper()
	b := &bench{t: t, vault: &vault{}, ledger: openLedger(t, filepath.Join(t.TempDir(), "ledger.db"))}
	b.units = release(t, b.ledger, units)
	b.service = &service{pace: outbox.NewPace(perMinute), known: make(map[records.UnitID]string)}
	cfg := b.config()
	if edit != nil {
		edit(b, &cfg)
	}
	b.run(cfg)
	b.stop = sync.OnceValue(func() error {
		err := b.halt()
		must(t, b.ledger.Close())
		return err
	})
	return b
}

// run starts a worker; halt ends it and returns how it ended.
func (b *bench) run(cfg outbox.Config) {
	b.worker = outbox.New(cfg)
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.worker.Run(ctx) }()
	b.halt = func() error {
		cancel()
		return <-ended
	}
}

func (b *bench) status() ledger.OutboxCount {
	b.t.Helper()
	all, err := b.ledger.OutboxStatus(b.t.Context())
	must(b.t, err)
	if len(all) != 1 {
		b.t.Fatalf("status = %+v", all)
	}
	return all[0]
}

// events returns the unit's enrollment events.
func (b *bench) events(unit records.UnitID) []records.Body {
	b.t.Helper()
	events, err := b.ledger.UnitEvents(b.t.Context(), unit)
	must(b.t, err)
	var bodies []records.Body
	for _, e := range events {
		if strings.HasPrefix(string(e.Kind), "enrollment.") {
			if e.Actor != actor {
				b.t.Errorf("event %d was done by %+v", e.Seq, e.Actor)
			}
			body, err := e.Body()
			must(b.t, err)
			bodies = append(bodies, body)
		}
	}
	return bodies
}

// wantAccepted fails the test unless every unit but those named was accepted once.
func (b *bench) wantAccepted(but ...records.UnitID) {
	b.t.Helper()
	for _, unit := range b.units {
		other := false
		for _, u := range but {
			other = other || u == unit
		}
		got := b.events(unit)
		if _, ok := first(got).(records.EnrollmentAccepted); !other && (!ok || len(got) != 1) {
			text, _ := json.Marshal(got)
			b.t.Errorf("unit %s: enrollment events %s, want accepted, once", unit, text)
		}
	}
}

func first(bodies []records.Body) records.Body {
	if len(bodies) == 0 {
		return nil
	}
	return bodies[0]
}

func trouble(kind outbox.Trouble, at time.Time) error {
	return &outbox.CallError{Trouble: kind, At: at, Refusal: &records.Refusal{Code: "trouble", Sentence: "It went wrong.", Next: "Wait."}}
}
