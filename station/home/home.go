// Package home is a station's folder: what lies where, with which modes, and how
// ledger, CA and sealed secrets are opened. The daemon and the offline commands
// share it, so that both do the same.
//
//	station.yaml                what the station is
//	products/ customers/        what it can make, and for whom
//	secrets/                    what customers' services know the station by
//	ledger.db                   what happened
//	checkpoint.txt              the newest signed statement about it
//	keys/station.key .pub       signs checkpoints and manifests (Ed25519)
//	keys/seal.age .pub          opens and closes sealed secrets (X25519)
//	ca/root.key .pem            the station's root
//	ca/CUSTOMER.key .pem        one issuing CA per customer
//
// Every private key is encrypted under the station's passphrase.
package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/profile"

	"golang.org/x/sys/unix"
)

// Home is an open station folder.
type Home struct {
	Dir    string
	Set    profile.Set
	Ledger Ledger
	Vault  *Vault
	lock   *os.File

	signing sync.Mutex // held while the newest checkpoint is replaced
}

// Open takes the folder for this process alone and opens its ledger; the keys
// stay locked. It creates nothing: a folder without a ledger is refused, so that
// a mistyped path never starts a second history.
func Open(ctx context.Context, dir string, built time.Time) (*Home, error) {
	set, err := Load(dir)
	if err != nil {
		return nil, err
	}
	h := &Home{Dir: dir, Set: set, Vault: newVault(dir)}
	if err := h.takeLock(); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, ledger.Config{Path: h.path("ledger.db"), Station: set.Station.Name, Built: built})
	if err != nil {
		h.lock.Close()
		return nil, err
	}
	h.Ledger = Ledger{l}
	if err := h.checkNewest(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// OpenReadOnly opens the folder to look at, whether or not a daemon runs there.
func OpenReadOnly(ctx context.Context, dir string) (*Home, error) {
	set, err := Load(dir)
	if err != nil {
		return nil, err
	}
	l, err := ledger.OpenReadOnly(ctx, filepath.Join(dir, "ledger.db"))
	if err != nil {
		return nil, err
	}
	return &Home{Dir: dir, Set: set, Vault: newVault(dir), Ledger: Ledger{l}}, nil
}

// Close lets go of ledger and folder.
func (h *Home) Close() error {
	err := h.Ledger.Close()
	if h.lock != nil {
		err = errors.Join(err, h.lock.Close())
	}
	return err
}

func (h *Home) path(name ...string) string {
	return filepath.Join(append([]string{h.Dir}, name...)...)
}

// Load reads a station's settings. A folder without a ledger is refused, however
// well its settings are.
func Load(dir string) (profile.Set, error) {
	_, err := os.Stat(filepath.Join(dir, "ledger.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return profile.Set{}, &records.Refusal{Code: "station-missing", Sentence: fmt.Sprintf("There is no station in %s.", dir),
			Next: fmt.Sprintf("Check the path; a new station is made with 'station init %s'.", dir), Err: err}
	}
	if err != nil {
		return profile.Set{}, fmt.Errorf("looking for the station: %w", err)
	}
	return profile.Load(dir)
}

// Socket is the path of the daemon's socket.
func Socket(set profile.Set, dir string) string {
	if filepath.IsAbs(set.Station.Socket) {
		return set.Station.Socket
	}
	return filepath.Join(dir, set.Station.Socket)
}

// takeLock makes this process the folder's only daemon. The kernel drops the
// lock with the process, however it ends.
func (h *Home) takeLock() error {
	f, err := os.OpenFile(h.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening the station's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &records.Refusal{Code: "station-running", Sentence: fmt.Sprintf("A station is already running in %s.", h.Dir),
				Next: "Use that one, or stop it first.", Err: err}
		}
		return fmt.Errorf("locking the station: %w", err)
	}
	h.lock = f
	return nil
}

// Actor is who acts when nobody is named: the badge of the station's file, else
// the station itself.
func (h *Home) Actor() records.Actor {
	if badge := h.Set.Station.Operator; badge != "" {
		return records.Actor{Kind: "badge", ID: badge}
	}
	return records.Actor{Kind: "station", ID: h.Set.Station.Name}
}

// Port is the port of a slot, as the station's file names it.
func (h *Home) Port(slot string) string {
	for _, s := range h.Set.Station.Slots {
		if s.Name == slot {
			return s.Port
		}
	}
	return ""
}
