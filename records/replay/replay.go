// Package replay reads a history from its first event, checks everything again
// and computes every state anew. What differs from what is stored is a finding.
//
// The first pass goes through the events in their order: that none is missing,
// repeated or moved, that the clock never runs back, that every name has one
// owner, that orders keep their quota, and that the Merkle tree over the stored
// bytes has the roots that checkpoints were signed over. The second pass folds
// each unit's events with the function that the line itself uses, lets the caller
// check what it can of each, and holds the result against the stored row, byte for
// byte. What lies beside the log, sealed secrets and the outbox, is compared as far
// as it follows from the events. That a secret's sealed bytes were swapped only who
// can open them sees, by the salted hash in its event; whoever uses a secret looks
// first.
//
// Replay sees what contradicts itself or a signature. Somebody who holds the
// station's key can write a whole new history; only a checkpoint kept elsewhere
// shows that, and without one the report says so.
package replay

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
	"nameplate/records/ledger"
)

// Source is what replay reads: a *ledger.Ledger, opened for reading, since
// nothing of it may change meanwhile. One goroutine at a time calls it.
type Source interface {
	Station() string
	Origin() string
	Size() int64
	Root(ctx context.Context, size int64) (tlog.Hash, error)
	Leaves(ctx context.Context, from int64) iter.Seq2[ledger.Leaf, error]
	Checkpoints(ctx context.Context) ([]ledger.StoredCheckpoint, error)
	UnitRows(ctx context.Context) iter.Seq2[ledger.UnitRow, error]
	OrderRows(ctx context.Context) iter.Seq2[ledger.OrderRow, error]
	OwnerRows(ctx context.Context) iter.Seq2[ledger.OwnerRow, error]
	UnitLeaves(ctx context.Context) iter.Seq2[ledger.UnitLeaf, error]
	SealRows(ctx context.Context) iter.Seq2[ledger.SealRow, error]
	OutboxRows(ctx context.Context) iter.Seq2[ledger.OutboxRow, error]
	OutboxStatus(ctx context.Context) ([]ledger.OutboxCount, error)
}

// Check judges one event beyond what its fold can: a certificate's signature,
// for instance. An event about a unit comes with the unit as the events before it
// make it, and with the order that it names, of which it may use what it was
// opened with; any other event comes without either. Several run at once. The
// error is a finding, in plain words.
type Check func(u records.Unit, o records.Order, e records.Event, b records.Body) error

// Options say what the history is held against.
type Options struct {
	// Verifier is the station's public key; nil: signatures are not checked, and
	// the report says so.
	Verifier note.Verifier
	// Outside is a checkpoint of this ledger that was kept elsewhere; nil if there
	// is none.
	Outside []byte
	Checks  map[records.Kind]Check
	// Progress is told, now and then, how far the replay has come; may be nil.
	Progress func(Progress)
}

// Progress is how far a replay has come.
type Progress struct {
	Pass        string // "events" or "units"
	Done, Total int64
}

// Run replays the whole history. Its error means that the replay itself could
// not be done; what is wrong with the history is in the Report.
func Run(ctx context.Context, src Source, o Options) (Report, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	started := time.Now()
	r := &run{src: src, options: o, names: newNames(), seals: newNames(), orders: map[string]records.Order{}, passages: map[records.PassageID]passage{},
		accepted: map[string]int64{}, report: Report{Station: src.Station(), Origin: src.Origin(), Findings: []Finding{}}}
	if err := r.history(ctx); err != nil {
		return Report{}, fmt.Errorf("replaying events: %w", err)
	}
	r.report.EventsTook = time.Since(started)
	if err := r.projections(ctx); err != nil {
		return Report{}, fmt.Errorf("comparing orders and names: %w", err)
	}
	if err := r.sealed(ctx); err != nil {
		return Report{}, fmt.Errorf("comparing sealed secrets: %w", err)
	}
	started = time.Now()
	if err := r.units(ctx); err != nil {
		return Report{}, fmt.Errorf("replaying units: %w", err)
	}
	r.report.UnitsTook = time.Since(started)
	r.report.sort()
	return r.report, nil
}

// run is one replay.
type run struct {
	src     Source
	options Options
	report  Report
	mu      sync.Mutex // of report's findings, and of accepted

	tree     tree
	names    *names
	seals    *names // see sealSpace
	orders   map[string]records.Order
	passages map[records.PassageID]passage // open ones

	aboutUnits int64            // events that name a unit
	folded     atomic.Int64     // events that were found through their units
	known      []records.UnitID // the units, in the order in which they became known
	accepted   map[string]int64 // enrollments, by customer of a released unit
}

func (r *run) found(event int64, what, expected, found string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.report.Findings) == maxFindings {
		r.report.More++
		return
	}
	r.report.Findings = append(r.report.Findings, Finding{Event: event, What: what, Expected: expected, Found: found})
}
