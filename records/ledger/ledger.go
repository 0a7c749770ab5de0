// Package ledger keeps a station's facts: an append-only list of events in
// SQLite, hashed into a Merkle tree, with the states folded from them beside it.
//
// One goroutine writes. Callers of Do that wait at the same moment share one
// transaction, each in a savepoint, so that a refusal to one never touches its
// neighbours; when Do returns, its events are on disk. Readers have connections
// of their own and never hold the writer up. Nothing outside this package knows
// that SQLite is underneath.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
)

const (
	// busyTimeout is how long a statement waits for a lock of another process:
	// a look with a foreign SQLite tool, or recovery by the first reader after a
	// crash. Both last milliseconds; 5 s is a tool that somebody left open.
	busyTimeout = 5 * time.Second

	// maxReaders caps the read pool: readers that spin starve the writer of CPU,
	// not of locks, and stations have few cores.
	maxReaders = 4

	// walLimit is what the write-ahead log is cut back to after a long reader
	// has let it grow.
	walLimit = 64 << 20
)

// Config says which ledger to open for writing.
type Config struct {
	Path    string
	Station string           // must be the name the ledger was created with
	Clock   func() time.Time // nil: time.Now
	Built   time.Time        // the program's build date, which a right clock cannot precede; zero: unknown
}

// Ledger is an open ledger. All methods may be called from several goroutines.
type Ledger struct {
	path    string
	station string
	origin  string

	read     preparer    // a pool beside the writer, or the one snapshot of a reader
	turns    sync.Locker // a snapshot has one connection, so that its queries take turns
	queries  sync.Map    // text → *sql.Stmt, prepared once
	close    []func() error
	once     sync.Once
	closeErr error

	head   atomic.Pointer[tree]
	broken atomic.Bool // a commit failed: the state is unknown
	writer *writer     // nil when opened for reading
}

// noTurns: a pool hands out its connections by itself.
type noTurns struct{}

func (noTurns) Lock()   {}
func (noTurns) Unlock() {}

// preparer is a read pool (*sql.DB) or a snapshot (*sql.Conn).
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// Open takes the ledger as its one writer, until Close. It takes the same short
// time whatever the ledger's size: the tree's right edge is rebuilt from at most
// 255 events and 255 tiles a level, and held against the newest stored
// checkpoint. It refuses (records.Refusal) a ledger that is absent, in use,
// another station's, a newer program's, or damaged where it looks.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if err := mustExist(c.Path); err != nil {
		return nil, err
	}
	l := &Ledger{path: c.Path, turns: noTurns{}}
	if err := l.open(ctx, c); err != nil {
		l.release()
		return nil, err
	}
	go l.writer.loop()
	return l, nil
}

func (l *Ledger) open(ctx context.Context, c Config) error {
	lock, err := takeLock(c.Path)
	if err != nil {
		return err
	}
	l.onClose(lock.Close)
	conn, err := l.connect(ctx, writerDSN(c.Path))
	if err != nil {
		return err
	}
	// Nothing is written before it is certain whose file this is.
	if _, err := checkSchema(ctx, conn, c.Path); err != nil {
		return err
	}
	if err := setJournal(ctx, conn); err != nil {
		return err
	}
	if err := migrate(ctx, conn); err != nil {
		return refuse("bringing the ledger up to date", err)
	}
	pool, err := sql.Open("sqlite", readerDSN(c.Path))
	if err != nil {
		return fmt.Errorf("opening ledger for reading: %w", err)
	}
	pool.SetMaxOpenConns(maxReaders)
	pool.SetMaxIdleConns(maxReaders)
	l.onClose(pool.Close)
	l.onClose(l.closeQueries)
	l.read = pool
	if err := l.load(ctx); err != nil {
		return err
	}
	if l.station != c.Station {
		return otherStation(c.Path, l.station, c.Station)
	}
	last, err := l.loadEdge(ctx)
	if err != nil {
		return err
	}
	l.writer, err = newWriter(ctx, l, conn, c, last)
	if err != nil {
		return err
	}
	l.onClose(l.writer.stop)
	return nil
}

// OpenReadOnly opens a ledger for reading, whether a writer has it open or not.
// Everything read comes from the one moment of the call; what is appended later
// is not seen. It does not judge what it finds, so that replay can: a ledger that
// Open refuses as damaged opens here. While it is open SQLite cannot shorten its
// write-ahead log, so close it when done.
func OpenReadOnly(ctx context.Context, path string) (*Ledger, error) {
	if err := mustExist(path); err != nil {
		return nil, err
	}
	l := &Ledger{path: path, turns: new(sync.Mutex)}
	if err := l.openSnapshot(ctx); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *Ledger) openSnapshot(ctx context.Context) error {
	conn, err := l.connect(ctx, readerDSN(l.path))
	if err != nil {
		return err
	}
	l.onClose(l.closeQueries)
	l.read = conn
	// The first read after BEGIN fixes what the transaction sees.
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return refuse("beginning a reader's transaction", err)
	}
	version, err := checkSchema(ctx, conn, l.path)
	if err != nil {
		return err
	}
	if version < schemaVersion {
		return tooOld(l.path, version)
	}
	return l.load(ctx)
}

// load reads who the ledger is, and how many events it has.
func (l *Ledger) load(ctx context.Context) error {
	found, err := l.one(ctx, "reading the ledger's name", "SELECT station, origin FROM meta", nil, &l.station, &l.origin)
	if err != nil {
		return err
	}
	if !found {
		return unreadable("it does not say whose it is", nil)
	}
	var t tree
	if _, err = l.one(ctx, "counting events", "SELECT coalesce(max(seq), 0) FROM events", nil, &t.size); err != nil {
		return err
	}
	l.head.Store(&t)
	return nil
}

// loadEdge rebuilds the tree's right edge, to go on from, holds it against the
// newest checkpoint, and returns the time of the last event.
func (l *Ledger) loadEdge(ctx context.Context) (last time.Time, err error) {
	size := l.Size()
	var bytes []byte
	found, err := l.one(ctx, "reading the last event", "SELECT bytes FROM events WHERE seq = ?", []any{size}, &bytes)
	if err != nil {
		return last, err
	}
	if found {
		var e records.Event
		if err := decodeRow(fmt.Sprintf("event %d", size), bytes, &e); err != nil {
			return last, err
		}
		last = e.Time
	}
	t, err := loadTree(size, l.HashReader(ctx))
	if err != nil {
		return last, fmt.Errorf("rebuilding the tree's edge: %w", err)
	}
	l.head.Store(&t)
	return last, l.checkEdge(ctx)
}

// Station is the name of the station whose ledger this is.
func (l *Ledger) Station() string { return l.station }

// Origin is the ledger's name in its checkpoints: the station's, and a random
// part that tells two ledgers of one name apart. It never changes.
func (l *Ledger) Origin() string { return l.origin }

// Size is the number of events, and the sequence number of the last.
func (l *Ledger) Size() int64 { return l.head.Load().size }

// Root is the hash of the tree over the first size events.
func (l *Ledger) Root(ctx context.Context, size int64) (tlog.Hash, error) {
	head := l.head.Load()
	if size < 0 || size > head.size {
		return tlog.Hash{}, fmt.Errorf("computing root of %d events: there are %d", size, head.size)
	}
	if size == head.size && l.writer != nil { // only the writer keeps the tree's edge
		return head.root()
	}
	return tlog.TreeHash(size, l.HashReader(ctx))
}

// Close ends the work in hand, refuses what waits, and lets the ledger go.
func (l *Ledger) Close() error {
	l.once.Do(func() { l.closeErr = l.release() })
	return l.closeErr
}

func (l *Ledger) onClose(f func() error) { l.close = append(l.close, f) }

// release undoes what opening did, last first.
func (l *Ledger) release() error {
	var errs []error
	for i := len(l.close) - 1; i >= 0; i-- {
		errs = append(errs, l.close[i]())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing ledger: %w", err)
	}
	return nil
}

// closeQueries ends the prepared queries: one that is left keeps its connection,
// and with it the snapshot, alive after Close.
func (l *Ledger) closeQueries() error {
	var errs []error
	l.queries.Range(func(_, s any) bool {
		errs = append(errs, s.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(errs...)
}

// connect opens one pinned connection.
func (l *Ledger) connect(ctx context.Context, dsn string) (*sql.Conn, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	l.onClose(db.Close)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, refuse("opening ledger", err)
	}
	l.onClose(conn.Close)
	return conn, nil
}

func mustExist(path string) error {
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return missing(path)
	case err != nil:
		return &records.Refusal{Code: "ledger-unreadable", Sentence: "The ledger's file cannot be opened as needed.",
			Next: "Check the owner and the modes of the station's folder.", Err: err}
	}
	return nil
}

// dsn names the file so that no character of its path is taken for an option.
// Options are per connection, so they stand here and nowhere else.
func dsn(path, mode string, pragmas ...string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	pragmas = append(pragmas, fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()))
	u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {mode}, "_pragma": pragmas, "_txlock": {"immediate"}}.Encode()}
	return u.String()
}

// writerDSN never creates the file: a mistyped path must not start a second
// history.
func writerDSN(path string) string {
	return dsn(path, "rw", "synchronous(full)", "secure_delete(on)", fmt.Sprintf("journal_size_limit(%d)", walLimit))
}

func readerDSN(path string) string { return dsn(path, "ro", "query_only(on)") }

// setJournal asks for the write-ahead log, which the file then remembers, and
// reads back what durability rests on: SQLite ignores what it cannot do or does
// not understand.
func setJournal(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "PRAGMA journal_mode = wal"); err != nil {
		return refuse("setting the journal mode", err)
	}
	for _, p := range []struct{ name, want string }{
		{"journal_mode", "wal"},
		{"synchronous", "2"}, // FULL: each COMMIT is flushed to the disk
		{"secure_delete", "1"},
	} {
		var got string
		if err := conn.QueryRowContext(ctx, "PRAGMA "+p.name).Scan(&got); err != nil {
			return refuse("reading back "+p.name, err)
		}
		if got != p.want {
			return &records.Refusal{Code: "ledger-not-durable",
				Sentence: fmt.Sprintf("SQLite's %s is %s and not %s; facts would not be safe on disk.", p.name, got, p.want),
				Next:     "Put the station's folder on a local disk (not a network share) and try again."}
		}
	}
	return nil
}
