package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// A station's name stands in the checkpoint's first line and in the name of its
// key, so it holds neither spaces nor "+".
var stationName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Create makes a new, empty ledger. It never touches one that exists. The file
// appears under its name complete and on disk, or not at all.
func Create(ctx context.Context, path, station string) (err error) {
	if !stationName.MatchString(station) {
		return badStationName(station)
	}
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Lstat(path); err == nil {
		return alreadyThere(path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a ledger: %w", err)
	}

	temp := path + ".new"
	for _, stale := range []string{temp, temp + "-wal", temp + "-shm", temp + "-journal"} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an unfinished ledger: %w", err)
		}
	}
	// SQLite gives its side files the modes of this one.
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating ledger: %w", err)
	}
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	if err := populate(ctx, temp, station); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flushing new ledger: %w", err)
	}
	// If we stop here, the next Create removes the unfinished file.
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("naming new ledger: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func populate(ctx context.Context, path, station string) error {
	db, err := sql.Open("sqlite", writerDSN(path))
	if err != nil {
		return fmt.Errorf("opening new ledger: %w", err)
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return refuse("opening new ledger", err)
	}
	defer conn.Close()
	if err := setJournal(ctx, conn); err != nil {
		return err
	}
	if err := migrate(ctx, conn); err != nil {
		return refuse("creating ledger", err)
	}
	id := make([]byte, 8)
	rand.Read(id)
	origin := "nameplate.invalid/" + station + "/" + hex.EncodeToString(id)
	if _, err := conn.ExecContext(ctx, "INSERT INTO meta (one, station, origin) VALUES (1, ?, ?)", station, origin); err != nil {
		return refuse("naming ledger", err)
	}
	if err := conn.Close(); err != nil {
		return fmt.Errorf("closing new ledger: %w", err)
	}
	if err := db.Close(); err != nil { // folds the write-ahead log into the file
		return fmt.Errorf("closing new ledger: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the ledger's folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flushing the ledger's folder: %w", err)
	}
	return nil
}

// takeLock makes this process the ledger's one writer until the file is closed
// or the process dies, however it dies. The lock's file stays: removing it would
// let two processes lock two files of one name.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, inUse(path, err)
	}
	return f, nil
}
