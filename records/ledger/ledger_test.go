package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
)

func TestCreateAndOpen(t *testing.T) {
	path := create(t)
	for _, p := range []string{path, path + ".lock"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", p, info.Mode().Perm())
		}
	}
	l := open(t, path)
	if l.Station() != "line-1" || l.Size() != 0 {
		t.Errorf("station %q, size %d", l.Station(), l.Size())
	}
	origin := l.Origin()
	u := oneReleased(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("the write-ahead log is still there after Close")
	}
	l = open(t, path)
	if l.Origin() != origin {
		t.Errorf("origin changed from %q to %q", origin, l.Origin())
	}
	got, err := l.Unit(ctx, u.ID)
	if err != nil || got.State != records.Released {
		t.Errorf("unit after reopening: %+v, %v", got, err)
	}
	checkAll(t, l)
}

func oneReleased(t testing.TB, l *ledger.Ledger) records.Unit {
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 2))
	return released(t, l, "wo-1", "aa:bb:cc:00:00:01")
}

// The sentences that an operator reads when a ledger does not open.
func TestOpeningIsRefused(t *testing.T) {
	opened := func(path, station string) error {
		l, err := ledger.Open(ctx, ledger.Config{Path: path, Station: station})
		if err == nil {
			l.Close()
		}
		return err
	}
	tests := []struct {
		name, code, sentence string
		try                  func(t *testing.T, path string) error
	}{
		{"exists", "ledger-exists", "There is a ledger already: PATH.", func(t *testing.T, path string) error {
			return ledger.Create(ctx, path, "line-1")
		}},
		{"name", "station-name-invalid", `"line 1" cannot be a station's name.`, func(t *testing.T, path string) error {
			return ledger.Create(ctx, path+"2", "line 1")
		}},
		{"missing", "ledger-missing", "There is no ledger PATH.mistyped.", func(t *testing.T, path string) error {
			return opened(path+".mistyped", "line-1")
		}},
		{"missing for reading", "ledger-missing", "There is no ledger PATH.mistyped.", func(t *testing.T, path string) error {
			_, err := ledger.OpenReadOnly(ctx, path+".mistyped")
			return err
		}},
		{"other station", "ledger-other-station", `PATH is the ledger of station "line-1", not of "line-2".`, func(t *testing.T, path string) error {
			return opened(path, "line-2")
		}},
		{"second writer", "ledger-in-use", "Another program is writing to PATH.", func(t *testing.T, path string) error {
			open(t, path)
			return opened(path, "line-1")
		}},
		{"newer", "ledger-newer", "PATH was written by a newer program (schema 99; this one knows 1).", func(t *testing.T, path string) error {
			if err := rawSQL(t, path, "PRAGMA user_version = 99"); err != nil {
				t.Fatal(err)
			}
			return opened(path, "line-1")
		}},
		{"older, for reading", "ledger-older", "PATH was written by an older program (schema 0; this one wants 1).", func(t *testing.T, path string) error {
			if err := rawSQL(t, path, "PRAGMA user_version = 0"); err != nil {
				t.Fatal(err)
			}
			_, err := ledger.OpenReadOnly(ctx, path)
			return err
		}},
		{"another program's database", "ledger-foreign", "PATH is not a station's ledger.", func(t *testing.T, path string) error {
			if err := rawSQL(t, path, "PRAGMA application_id = 1"); err != nil {
				t.Fatal(err)
			}
			return opened(path, "line-1")
		}},
		{"no database", "ledger-damaged", "The ledger is damaged: SQLite cannot read it.", func(t *testing.T, path string) error {
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database\n"), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			return opened(path, "line-1")
		}},
		{"empty file", "ledger-foreign", "PATH is not a station's ledger.", func(t *testing.T, path string) error {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			return opened(path, "line-1")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := create(t)
			err := tt.try(t, path)
			wantCode(t, err, tt.code)
			r, ok := err.(*records.Refusal)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			if got := string(bytes.ReplaceAll([]byte(r.Sentence), []byte(path), []byte("PATH"))); got != tt.sentence {
				t.Errorf("got  %s\nwant %s", got, tt.sentence)
			}
			if r.Next == "" {
				t.Error("the refusal does not say what to do next")
			}
		})
	}
	t.Run("a mistyped path leaves nothing behind", func(t *testing.T) {
		dir := t.TempDir()
		opened(filepath.Join(dir, "ledger.db"), "line-1")
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("found %v", names)
		}
	})
}

func TestUnfinishedCreateIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name?#%41.db")
	for _, stale := range []string{path + ".new", path + ".new-wal"} {
		if err := os.WriteFile(stale, []byte("half of it"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := ledger.Create(ctx, path, "line-1"); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	do(t, l, orderOpened("wo-1", records.X509, 1))
	l.Close()
	names, _ := filepath.Glob(filepath.Dir(path) + "/*")
	if len(names) != 2 { // the ledger and its lock
		t.Errorf("found %q", names)
	}
}

func TestSchemaFilesAreCounted(t *testing.T) {
	files, err := filepath.Glob("schema/*.sql")
	if err != nil || len(files) != ledger.SchemaVersion {
		t.Errorf("%d files in schema/, schemaVersion is %d", len(files), ledger.SchemaVersion)
	}
}

// A reader sees the moment at which it opened, with the writer at work or dead.
func TestOpenReadOnlySeesOneMoment(t *testing.T) {
	path := create(t)
	l := open(t, path)
	oneReleased(t, l)
	r := openReadOnly(t, path)
	size := r.Size()
	do(t, l, orderOpened("wo-2", records.X509, 1))
	if r.Size() != size || l.Size() != size+1 {
		t.Errorf("reader sees %d, writer %d events", r.Size(), l.Size())
	}
	checkAll(t, r)
	if o, err := r.Order(ctx, "wo-2"); err != nil || o.ID != "" {
		t.Errorf("the reader sees the new order: %+v, %v", o, err)
	}
	_, err := try(r, orderOpened("wo-3", records.X509, 1))
	wantCode(t, err, "ledger-read-only")
	l.Close()
	checkAll(t, openReadOnly(t, path))
}

func TestClosedLedgerSaysSo(t *testing.T) {
	l := open(t, create(t))
	l.Close()
	if _, err := try(l, orderOpened("wo-1", records.X509, 1)); err != ledger.ErrClosed {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
