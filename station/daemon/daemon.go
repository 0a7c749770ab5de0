// Package daemon wires a station together: home, slots, pushers, web. It is the
// only place that knows them all.
package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"nameplate/ca"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
	"nameplate/flasher/linux"
	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/station/home"
	"nameplate/station/line"
	"nameplate/station/profile"
	"nameplate/station/web"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Config is what Run needs beside the station's folder.
type Config struct {
	Dir     string
	Version string
	Built   time.Time     // of this program: the clock may not read earlier
	Order   string        // for slots that name none; may be empty
	Pass    ca.Passphrase // the zero value: serve locked until unlocked
	Log     zerolog.Logger
	// Ready is called when the API answers.
	Ready func(loopback net.Addr, socket string)
}

// Drivers are the device families that this program can make.
func Drivers() map[string]flasher.Driver {
	all := map[string]flasher.Driver{}
	for _, d := range []flasher.Driver{espressif.New(), linux.New()} {
		all[d.Family()] = d
	}
	return all
}

type daemon struct {
	Config
	home     *home.Home
	ledger   lineLedger
	hub      web.Hub
	slots    []*line.Slot
	workers  map[string]*outbox.Worker
	unpushed map[string]error // why a customer has no worker
	releases atomic.Int64
	opening  sync.Mutex    // one unlock at a time
	unlocked chan struct{} // closed by the first that succeeds
}

// Run serves until ctx ends, or until the ledger fails: then its error says so,
// and the station is to be started again.
func Run(ctx context.Context, c Config) error {
	h, err := home.Open(ctx, c.Dir, c.Built)
	if err != nil {
		return err
	}
	defer h.Close()
	d := &daemon{Config: c, home: h, ledger: lineLedger{h.Ledger}, workers: map[string]*outbox.Worker{}, unpushed: map[string]error{}, unlocked: make(chan struct{})}
	if err := d.makeSlots(); err != nil {
		return err
	}
	d.makeWorkers()
	socket, loopback, err := d.listen()
	if err != nil {
		return err
	}
	defer socket.Close()
	defer loopback.Close()
	// Calls that come from here on are answered when this is done.
	if err := d.settle(ctx); err != nil {
		return err
	}
	if err := d.noteUnpushed(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	failed := make(chan error, 1)
	server := &web.Server{Home: h, Slots: d.slots, Hub: &d.hub, Version: c.Version, Unlock: d.unlock, Retried: d.kick, Log: c.Log,
		Failed: func(err error) {
			select {
			case failed <- err:
			default: // one is enough to stop
			}
		}}
	group.Go(func() error {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return server.Serve(ctx, socket, loopback) })
	c.Log.Info().Str("station", h.Set.Station.Name).Str("address", loopback.Addr().String()).Int64("events", h.Ledger.Size()).Msg("serving")
	if c.Ready != nil {
		c.Ready(loopback.Addr(), socket.Addr().String())
	}
	group.Go(func() error {
		if len(c.Pass.Bytes()) > 0 {
			if err := d.unlock(ctx, c.Pass); err != nil && !d.home.Vault.Unlocked() {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.unlocked:
		}
		return d.work(ctx)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepLimit)
	defer cancel()
	return h.Sign(last)
}

// keepLimit bounds what is written beside the line's own steps: it takes
// milliseconds, and seconds on a disk in trouble.
const keepLimit = 10 * time.Second

// sign keeps the ledger's newest statement outside it. A disk that is full for
// that moment stops nobody.
func (d *daemon) sign(ctx context.Context) {
	if err := d.home.Sign(ctx); err != nil {
		d.Log.Error().Err(err).Msg("ledger not signed")
	}
}

// settle closes what an earlier run left open. A passage that was open when the
// station died is over: its unit is taken up again when the board is identified.
func (d *daemon) settle(ctx context.Context) error {
	open, err := d.home.Ledger.OpenPassages(ctx)
	if err != nil {
		return err
	}
	program, err := programDigest()
	if err != nil {
		return err
	}
	self := records.Actor{Kind: "station", ID: d.home.Set.Station.Name}
	_, err = d.ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		drafts := []records.Draft{{Actor: self, Body: records.StationStarted{Version: d.Version, Program: program}}}
		for _, e := range open {
			b, err := e.Body()
			if err != nil {
				return nil, err
			}
			// An order that was closed meanwhile could not take its claim back.
			back, due, err := records.GiveBack(v, e.Unit, e.Order, false)
			if err != nil {
				return nil, err
			}
			if due {
				drafts = append(drafts, records.Draft{Actor: self, Unit: e.Unit, Order: e.Order, Passage: e.Passage, Body: back})
			}
			drafts = append(drafts, records.Draft{Actor: self, Unit: e.Unit, Order: e.Order, Passage: e.Passage,
				Body: records.PassageClosed{Slot: b.(records.PassageOpened).Slot, Verdict: records.Error, Code: "station-stopped",
					Text: "The station stopped during this passage. Put the board back in a slot."}})
		}
		return drafts, nil
	})
	if err != nil {
		return fmt.Errorf("closing passages left open: %w", err)
	}
	if len(open) > 0 {
		d.Log.Warn().Int("passages", len(open)).Msg("closed passages that a stop had left open")
	}
	return nil
}

func programDigest() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (d *daemon) makeSlots() error {
	jobs := d.home.Jobs(Drivers())
	for _, s := range d.home.Set.Station.Slots {
		port, err := link.Parse(s.Port)
		if err != nil {
			return fmt.Errorf("slot %s: %w", s.Name, err)
		}
		order := s.Order
		if order == "" {
			order = d.Order
		}
		d.slots = append(d.slots, line.New(line.Config{Slot: s.Name, Port: port, Auto: s.Start == profile.StartAuto, Order: order,
			Actor: d.home.Actor(), Ledger: d.ledger, Issuer: d.home.Vault, Secrets: d.home, Jobs: jobs,
			Released: d.released, Changed: d.hub.Publish, Log: d.Log}))
	}
	return nil
}

// maxSocketPath is what fits sun_path, with its final zero (unix(7)).
const maxSocketPath = 107

// listen opens both doors. A socket file left by a process that died is removed;
// the folder's lock has shown that no daemon lives.
func (d *daemon) listen() (socket, loopback net.Listener, err error) {
	path := home.Socket(d.home.Set, d.Dir)
	if len(path) > maxSocketPath {
		return nil, nil, &records.Refusal{Code: "socket-path-long", Sentence: fmt.Sprintf("The socket's path has %d bytes; the system takes %d: %s.", len(path), maxSocketPath, path),
			Next: "Give socket: in station.yaml a shorter absolute path."}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("removing the old socket: %w", err)
	}
	if socket, err = net.Listen("unix", path); err != nil {
		return nil, nil, fmt.Errorf("opening the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		socket.Close()
		return nil, nil, fmt.Errorf("closing the socket to others: %w", err)
	}
	if loopback, err = net.Listen("tcp", d.home.Set.Station.Listen); err != nil {
		socket.Close()
		return nil, nil, &records.Refusal{Code: "address-in-use", Sentence: fmt.Sprintf("The station cannot listen on %s.", d.home.Set.Station.Listen),
			Next: "Stop what listens there, or change listen: in station.yaml.", Err: err}
	}
	return socket, loopback, nil
}

// unlock opens the keys; the slots and pushers begin with the first success.
func (d *daemon) unlock(ctx context.Context, pass ca.Passphrase) error {
	d.opening.Lock()
	defer d.opening.Unlock()
	if d.home.Vault.Unlocked() {
		return &records.Refusal{Code: "station-unlocked", Sentence: "The station is unlocked already.", Next: "Nothing needs to be done."}
	}
	if err := d.home.Unlock(pass); err != nil {
		return err
	}
	d.Log.Info().Msg("unlocked")
	d.sign(ctx)
	close(d.unlocked)
	return nil
}

// work runs slots and pushers until ctx ends or the ledger fails.
func (d *daemon) work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range d.slots {
		group.Go(func() error { return s.Run(ctx) })
	}
	for _, w := range d.workers {
		group.Go(func() error { return w.Run(ctx) })
	}
	return group.Wait()
}
