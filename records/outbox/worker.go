package outbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"nameplate/records"
	"nameplate/records/ledger"
)

const (
	// maxCalls is how many calls are under way at once: at 1,000 operations a
	// minute and half a second an answer, nine are needed to keep the rate.
	maxCalls = 16
	// recordLimit ends the writing of results during shutdown.
	recordLimit = 10 * time.Second
	// glance is how often the worker looks for newly due items while calls are
	// under way: those hide from it when the next item is due.
	glance = time.Second
	// ledgerPause is the wait after the ledger could not be read or written
	// (a full disk, say) before the next attempt.
	ledgerPause = 5 * time.Second
	// changedPause is the wait of an item whose customer's settings have changed.
	// They are read when the station starts: to look more often only wears the
	// disk, and after a restart nobody should wait long.
	changedPause = 10 * time.Minute
)

// Ledger is what the worker needs of *ledger.Ledger.
type Ledger interface {
	OutboxDue(ctx context.Context, customer string, now time.Time, limit int) ([]ledger.OutboxItem, error)
	OutboxNext(ctx context.Context, customer string, now time.Time) (time.Time, bool, error)
	OutboxDefer(ctx context.Context, units []records.UnitID, next time.Time, why string) error
	Unit(ctx context.Context, id records.UnitID) (records.Unit, error)
	Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error)
}

// Secrets opens sealed secrets. While the station is locked it refuses, and the
// item waits.
type Secrets interface {
	Reveal(ctx context.Context, ref string) ([]byte, error)
}

// Config is what a worker is made of; every field is needed, but Log.
type Config struct {
	Customer string
	// RegistrationURL and IDScope go with Pusher's service. A unit that was made
	// for others waits until the customer's settings are restored.
	RegistrationURL, IDScope string

	Ledger  Ledger
	Secrets Secrets
	Pusher  Pusher
	// Pace is the one that Pusher waits for before each operation; workers whose
	// customers share a service share it. The worker holds it back when the
	// service asks for that. Other trouble holds back this worker alone.
	Pace  *Pace
	Actor records.Actor // who the events say did it: the station
	Log   zerolog.Logger
}

// Worker pushes one customer's enrollments.
type Worker struct {
	cfg  Config
	log  zerolog.Logger
	kick chan struct{}

	mu       sync.Mutex
	busy     map[records.UnitID]bool // in a call right now
	calls    int
	held     time.Time                   // no call starts before
	failures int                         // calls failed in a row
	accepted int                         // enrollments accepted so far
	doubts   map[records.UnitID]*suspect // items that may be what breaks calls
}

// New makes a worker; Run starts it.
func New(cfg Config) *Worker {
	return &Worker{cfg: cfg, log: cfg.Log.With().Str("customer", cfg.Customer).Logger(), kick: make(chan struct{}, 1),
		busy: make(map[records.UnitID]bool), doubts: make(map[records.UnitID]*suspect)}
}

// Kick tells the worker that something may be due. It does not shorten a wait
// that the service asked for.
func (w *Worker) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Run pushes until ctx ends, then returns nil once the calls under way have ended
// and their results are recorded. Any other return is the ledger's: its state is
// unknown, and the station must open it again.
func (w *Worker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var calls sync.WaitGroup
	defer func() {
		cancel(nil)
		calls.Wait()
	}()
	for {
		if err := w.rest(ctx); err != nil {
			break
		}
		started, err := w.round(ctx, &calls, cancel)
		if err == nil && started {
			continue
		}
		if err == nil {
			err = w.wait(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			if errors.Is(err, ledger.ErrStateUnknown) {
				return err
			}
			w.log.Error().Err(err).Msg("outbox cannot use the ledger")
			if err := sleepUntil(ctx, time.Now().Add(ledgerPause)); err != nil {
				break
			}
		}
	}
	if err := context.Cause(ctx); errors.Is(err, ledger.ErrStateUnknown) {
		return err
	}
	return nil
}

// round starts one call, if there is anything to push and a call to spare.
func (w *Worker) round(ctx context.Context, calls *sync.WaitGroup, stop context.CancelCauseFunc) (started bool, err error) {
	w.mu.Lock()
	under, limit, size := len(w.busy), maxCalls, MaxItems
	if w.failures >= outage {
		// One call finds out whether the trouble is over. With one item it also
		// finds out whether that was among the others.
		limit, size = 1, 1
	}
	full := w.calls >= limit
	w.mu.Unlock()
	if full {
		return false, nil
	}
	// Those under way are still due in the ledger and may come first.
	due, err := w.cfg.Ledger.OutboxDue(ctx, w.cfg.Customer, time.Now(), under+MaxItems)
	if err != nil {
		return false, fmt.Errorf("reading what is due: %w", err)
	}
	group := w.pick(due, size)
	if len(group) == 0 {
		return false, nil
	}
	calls.Go(func() {
		defer w.Kick()
		defer w.done(group)
		if err := w.push(ctx, group); err != nil {
			if errors.Is(err, ledger.ErrStateUnknown) {
				stop(err)
				return
			}
			w.log.Error().Err(err).Msg("outbox cannot use the ledger")
			w.hold(time.Now().Add(ledgerPause)) // this worker alone: the pace may be shared
		}
	})
	return true, nil
}

// pick chooses the items of one call, at most size, and marks them busy: a suspect
// goes alone.
func (w *Worker) pick(due []ledger.OutboxItem, size int) []ledger.OutboxItem {
	w.mu.Lock()
	defer w.mu.Unlock()
	var group []ledger.OutboxItem
	for _, it := range due {
		if w.busy[it.Unit] {
			continue
		}
		if w.doubts[it.Unit].alone() {
			if len(group) == 0 {
				group = append(group, it)
				break
			}
			continue
		}
		if group = append(group, it); len(group) == size {
			break
		}
	}
	for _, it := range group {
		w.busy[it.Unit] = true
	}
	if len(group) > 0 {
		w.calls++
	}
	return group
}

func (w *Worker) done(group []ledger.OutboxItem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range group {
		delete(w.busy, it.Unit)
	}
	w.calls--
}

// hold lets this worker start no call before t. A hold is never shortened.
func (w *Worker) hold(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.After(w.held) {
		w.held = t
	}
}

// rest returns when a call may start. A call that fails meanwhile may make it
// longer.
func (w *Worker) rest(ctx context.Context) error {
	for {
		w.mu.Lock()
		until := w.heldUntil()
		w.mu.Unlock()
		if !until.After(time.Now()) {
			return ctx.Err()
		}
		if err := sleepUntil(ctx, until); err != nil {
			return err
		}
	}
}

// heldUntil is the time before which no call starts; it may have passed. w.mu is
// held.
func (w *Worker) heldUntil() time.Time {
	if pace := w.cfg.Pace.Held(); pace.After(w.held) {
		return pace
	}
	return w.held
}

// wait returns when there may be something to do.
func (w *Worker) wait(ctx context.Context) error {
	next, some, err := w.cfg.Ledger.OutboxNext(ctx, w.cfg.Customer, time.Now())
	if err != nil {
		return fmt.Errorf("reading when the next is due: %w", err)
	}
	w.mu.Lock()
	calls := w.calls
	w.mu.Unlock()
	wait := time.Until(next)
	if calls > 0 {
		wait = max(wait, glance)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	fires := timer.C
	if !some {
		fires = nil
	}
	select {
	case <-fires:
	case <-w.kick:
	case <-ctx.Done():
	}
	return nil
}

// push makes one call and records what came of it. If we stop before that is
// written, the items are still due: they are pushed again and found.
func (w *Worker) push(ctx context.Context, group []ledger.OutboxItem) error {
	items, ready, err := w.prepare(ctx, group)
	defer func() {
		for _, it := range items {
			clear(it.Key)
		}
	}()
	if err != nil || len(items) == 0 {
		return err
	}
	answers, callErr := w.cfg.Pusher.Push(ctx, items)
	if callErr == nil && len(answers) != len(items) {
		callErr = fmt.Errorf("pushing %d items gave %d answers", len(items), len(answers))
	}
	if ctx.Err() != nil && callErr != nil {
		return nil // cut off by the shutdown: that says nothing about the service
	}
	// What the service has said is recorded even if the station stops now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	if callErr != nil {
		return w.failed(ctx, ready, callErr)
	}
	return w.answered(ctx, ready, answers)
}

// prepare reads the units and opens their secrets. Put off here are items that are
// meant for another service, and those whose secret cannot be opened now; one
// whose secret is not its own is set aside.
func (w *Worker) prepare(ctx context.Context, group []ledger.OutboxItem) (items []Item, ready []ledger.OutboxItem, err error) {
	var sealed []ledger.OutboxItem
	var why error
	exchanged := make(map[records.UnitID]records.Body)
	moved := make(map[string][]ledger.OutboxItem) // by what is said of them
	for _, due := range group {
		u, err := w.cfg.Ledger.Unit(ctx, due.Unit)
		if err != nil {
			return items, ready, fmt.Errorf("reading unit %s: %w", due.Unit, err)
		}
		if u.IDScope != w.cfg.IDScope || u.RegistrationURL != w.cfg.RegistrationURL {
			moved[w.changed(u)] = append(moved[w.changed(u)], due)
			continue
		}
		it := Item{Unit: u.ID, RegistrationID: u.RegistrationID, Attestation: u.Attestation}
		if u.Attestation == records.TPM {
			it.EndorsementKey = u.EK
		}
		if u.Cert != nil {
			it.DER = u.Cert.DER
		}
		if u.Secret != nil {
			key, err := w.cfg.Secrets.Reveal(ctx, u.Secret.Ref)
			if err != nil {
				sealed, why = append(sealed, due), err
				continue
			}
			if !u.Secret.Holds(key) {
				clear(key)
				exchanged[due.Unit] = w.rejected(due, &records.Refusal{Code: "secret-exchanged",
					Sentence: "The sealed key of this unit is not the one that was sealed for it.",
					Next:     "Stop the station: somebody exchanged its secrets. Call the process engineer."})
				continue
			}
			it.Key = key
		}
		items, ready = append(items, it), append(ready, due)
	}
	if ctx.Err() != nil {
		return items, ready, nil
	}
	if err := w.record(ctx, group, exchanged); err != nil {
		return items, ready, err
	}
	for why, some := range moved {
		if err := w.putOff(ctx, some, time.Now().Add(changedPause), why); err != nil {
			return items, ready, err
		}
	}
	if len(sealed) == 0 {
		return items, ready, nil
	}
	return items, ready, w.putOff(ctx, sealed, time.Now().Add(backoff(sealed[0].Tries)), why.Error())
}

// changed says for what the unit was made. The service that the settings now name
// may be somebody else's.
func (w *Worker) changed(u records.Unit) string {
	return fmt.Sprintf("customer-changed: The unit was made for ID scope %s at %s; the customer's file now says %s at %s."+
		" Restore the customer's file, or make the new service a customer of its own; then start the station again.",
		u.IDScope, u.RegistrationURL, w.cfg.IDScope, w.cfg.RegistrationURL)
}

// putOff counts a try for each item and says when the next may be.
func (w *Worker) putOff(ctx context.Context, group []ledger.OutboxItem, at time.Time, why string) error {
	units := make([]records.UnitID, len(group))
	for i, it := range group {
		units[i] = it.Unit
	}
	if err := w.cfg.Ledger.OutboxDefer(ctx, units, at, why); err != nil {
		return fmt.Errorf("putting off enrollments: %w", err)
	}
	return nil
}
