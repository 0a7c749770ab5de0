package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"nameplate/records"
)

const (
	// maxGroup caps how many callers share a commit, and so how long the first
	// of them waits for the others' work.
	maxGroup = 256

	// clockTolerance is how far the clock may be set back unnoticed: the slewing
	// of a time daemon and a virtual machine's pauses stay well below it.
	clockTolerance = 2 * time.Second
)

// stationActor stands for the program itself.
var stationActor = records.Actor{Kind: "station", ID: "ledger"}

// job is one caller's part of a group.
type job struct {
	run  func(*group) error
	done chan error // answered once the group's fate is known
}

// writer is the goroutine that alone writes. Its fields below the channels
// belong to that goroutine.
type writer struct {
	l       *Ledger
	clock   func() time.Time
	built   time.Time
	queue   chan *job
	closing chan struct{}
	stopped chan struct{}

	conn    *sql.Conn
	s       *statements
	commit  func() error
	last    time.Time // of the last event
	stepped bool      // the clock is behind, and the event that says so is written
	known   known
	scrub   bool // a destroyed secret may still stand in the write-ahead log
}

func newWriter(ctx context.Context, l *Ledger, conn *sql.Conn, c Config, last time.Time) (*writer, error) {
	s, err := prepare(ctx, conn)
	if err != nil {
		return nil, err
	}
	// The log that a dead process left may hold a destroyed secret.
	w := &writer{l: l, clock: c.Clock, built: c.Built, conn: conn, s: s, last: last, scrub: true,
		queue: make(chan *job), closing: make(chan struct{}), stopped: make(chan struct{})}
	w.known.forget()
	w.commit = func() error { return w.exec(s.commit) }
	return w, nil
}

// submit hands the job to the writer and waits for its fate. A caller leaves when
// its context ends while it waits to be taken; once it is taken it gets the real
// result, which cannot take longer than its group.
func (l *Ledger) submit(ctx context.Context, run func(*group) error) error {
	w := l.writer
	if w == nil {
		return readOnly()
	}
	if l.broken.Load() {
		return ErrStateUnknown
	}
	j := &job{run: run, done: make(chan error, 1)}
	select {
	case w.queue <- j:
		return <-j.done
	case <-ctx.Done():
		return fmt.Errorf("waiting for the ledger: %w", context.Cause(ctx))
	case <-w.stopped:
		if l.broken.Load() {
			return ErrStateUnknown
		}
		return ErrClosed
	}
}

func (w *writer) loop() {
	defer close(w.stopped)
	for {
		// If we stop before this, the next to open the ledger begins with it.
		if w.scrub {
			w.scrub = !w.emptyLog()
		}
		var first *job
		select {
		case first = <-w.queue:
		case <-w.closing:
			return
		}
		jobs := w.gather(first)
		errs := w.group(jobs)
		for i, j := range jobs {
			j.done <- errs[i]
		}
		if w.l.broken.Load() {
			return
		}
	}
}

// gather returns the job and those that wait beside it. Callers who were just
// answered come back at once, so it steps aside for as long as that brings more:
// without this they fall into two halves that take turns.
func (w *writer) gather(first *job) []*job {
	jobs := []*job{first}
	for before := 0; before < len(jobs); {
		runtime.Gosched()
		before = len(jobs)
		for more := true; more && len(jobs) < maxGroup; {
			select {
			case j := <-w.queue:
				jobs = append(jobs, j)
			default:
				more = false
			}
		}
	}
	return jobs
}

func (w *writer) stop() error {
	close(w.closing)
	<-w.stopped
	return w.s.close()
}

// group runs the jobs in one transaction, each in a savepoint, and says what
// became of each.
func (w *writer) group(jobs []*job) []error {
	errs := make([]error, len(jobs))
	if err := w.exec(w.s.begin); err != nil {
		return fill(errs, refuse("beginning a transaction", err))
	}
	g := w.newGroup()
	err := g.noteClock()
	for i := 0; i < len(jobs) && err == nil; i++ {
		errs[i], err = g.attempt(jobs[i])
	}
	var t tree
	if err == nil {
		t, err = g.hash()
	}
	if err != nil {
		// If we stop here, SQLite forgets the transaction when the file is next opened.
		if rolled := w.rollback(); rolled != nil {
			w.l.broken.Store(true)
			return fill(errs, fmt.Errorf("%w: %w", ErrStateUnknown, errors.Join(err, rolled)))
		}
		return fill(errs, err)
	}
	// If we stop here, before COMMIT has returned, the group is on disk whole or
	// not at all, and its callers have had no answer: they look again.
	if err := w.commit(); err != nil {
		return fill(errs, w.afterFailedCommit(err))
	}
	w.l.head.Store(&t)
	if len(g.leaves) > 0 {
		w.last = g.at
	}
	w.stepped = g.stepped
	w.scrub = w.scrub || g.scrub
	return errs
}

// fill gives err to those who have no error of their own.
func fill(errs []error, err error) []error {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}

// afterFailedCommit finds out what a failed COMMIT means. A full disk is met
// while the write-ahead log is written, before the flush that makes the
// transaction durable: if it can be rolled back and the last event is the one
// from before, nothing has happened. Any other failure, that of the flush above
// all, leaves the state unknown: the system may have dropped what it could not
// write and report the next flush as good.
func (w *writer) afterFailedCommit(err error) error {
	if primaryCode(err) == sqlite3.SQLITE_FULL && w.rollback() == nil {
		var size int64
		if e := w.conn.QueryRowContext(background, "SELECT coalesce(max(seq), 0) FROM events").Scan(&size); e == nil && size == w.l.Size() {
			return refuse("committing", err)
		}
	}
	w.l.broken.Store(true)
	return fmt.Errorf("%w: %w", ErrStateUnknown, err)
}

// rollback ends the transaction without a trace. SQLite may have done so by
// itself already; then there is none to end.
func (w *writer) rollback() error {
	w.known.forget()
	if err := w.exec(w.s.rollback); err != nil && primaryCode(err) != sqlite3.SQLITE_ERROR {
		return fmt.Errorf("rolling back: %w", err)
	}
	return nil
}

// emptyLog moves the write-ahead log into the file and cuts it to nothing, so
// that the bytes of a destroyed secret stand in neither. A reader may prevent
// it; then it is tried again after the next group. It does not wait, because
// callers would wait with it.
func (w *writer) emptyLog() bool {
	var busy, frames, moved int
	if _, err := w.conn.ExecContext(background, "PRAGMA busy_timeout = 0"); err != nil {
		return false
	}
	err := w.conn.QueryRowContext(background, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	w.conn.ExecContext(background, fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout.Milliseconds()))
	return err == nil && busy == 0
}

// reading is the transaction's one clock reading: the time that its events get,
// which never runs backwards, and by how much the clock itself is behind.
func (w *writer) reading() (now, at time.Time, behind time.Duration) {
	now = w.clock().UTC().Truncate(time.Microsecond)
	at = now
	if now.Before(w.last) {
		at = w.last
	}
	if d := w.last.Sub(now); d > clockTolerance {
		behind = d
	}
	if !w.built.IsZero() {
		behind = max(behind, w.built.Sub(now))
	}
	return now, at, behind
}

// background is the context of everything inside a transaction: one caller's
// impatience must not undo its neighbours' work.
var background = context.Background()

func (w *writer) exec(s *sql.Stmt, args ...any) error {
	_, err := s.ExecContext(background, args...)
	return err
}
