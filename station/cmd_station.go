package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/daemon"
	"nameplate/station/home"
	"nameplate/station/profile"
	"nameplate/station/web"
)

type initCmd struct {
	passFlag
	Folder string `arg:"" type:"path" help:"The new station's folder."`
	Name   string `help:"The station's name in a new station.yaml; it stands in every event and cannot change." default:"station-1"`
}

func (c *initCmd) Run(g *globals) error {
	pass, err := c.ask(true)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	if err := home.Init(g.ctx, c.Folder, c.Name, pass); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "Station made in %s.\n  its public key, for customers and auditors: %s\n  next: describe slots, products and customers there, then 'station check'\n",
		c.Folder, filepath.Join(c.Folder, "keys", "station.pub"))
	return nil
}

type checkCmd struct {
	Folder string `arg:"" optional:"" type:"path" help:"The folder to check; without it, the one of --dir."`
}

func (c *checkCmd) Run(g *globals) error {
	dir := g.Dir
	if c.Folder != "" {
		dir = c.Folder
	}
	set, err := profile.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &records.Refusal{Code: "settings-missing", Sentence: fmt.Sprintf("%s is not a station's folder: it lacks station.yaml, products or customers.", dir),
			Next: fmt.Sprintf("Check the path; 'station init %s' makes what is missing.", dir), Err: err}
	}
	if err != nil {
		return err
	}
	if err := set.Check(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(set.Products)) {
		if _, err := home.TPMRoots(set, set.Products[name]); err != nil {
			return fmt.Errorf("checking the TPM makers' roots of product %s: %w", name, err)
		}
	}
	fmt.Fprintf(g.out, "%s: no mistakes\n  station %s; slots: %d, products: %d, customers: %d\n",
		dir, set.Station.Name, len(set.Station.Slots), len(set.Products), len(set.Customers))
	return nil
}

type caCmd struct {
	Issue caIssueCmd `cmd:"" help:"Make a customer's issuing CA, signed by the station's root."`
	List  caListCmd  `cmd:"" help:"List the CAs."`
}

type caIssueCmd struct {
	passFlag
	Customer string `arg:"" help:"The customer's name, as in customers/NAME.yaml."`
}

func (c *caIssueCmd) Run(g *globals) error {
	pass, err := c.ask(false)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	if err := home.IssueCA(g.Dir, c.Customer, pass); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "Issuing CA of %s: %s\n  a running station takes it up when it starts again\n", c.Customer, filepath.Join(g.Dir, "ca", c.Customer+".pem"))
	return nil
}

type caListCmd struct{}

func (c *caListCmd) Run(g *globals) error {
	cas, err := home.CAs(g.Dir)
	if err != nil {
		return err
	}
	return table(g, "CA\tSUBJECT\tUNTIL\tSHA-256", cas, func(a home.CA) []any {
		return []any{a.Name, a.Subject, a.NotAfter.Format(time.DateOnly), a.SHA256}
	})
}

type serveCmd struct {
	passFlag
	Order   string `help:"The order for slots that name none in station.yaml."`
	JSON    bool   `help:"Write the log as JSON lines, for machines."`
	Verbose bool   `short:"v" help:"Log every step."`
}

func (c *serveCmd) Run(g *globals) error {
	pass, _, err := c.given()
	if err != nil {
		return err
	}
	defer pass.Wipe()
	return daemon.Run(g.ctx, daemon.Config{Dir: g.Dir, Version: version, Built: buildDate(), Order: c.Order, Pass: pass,
		Log: newLog(os.Stderr, c.JSON, c.Verbose),
		Ready: func(loopback net.Addr, socket string) {
			fmt.Fprintf(g.out, "ready http://%s %s\n", loopback, socket)
		}})
}

type unlockCmd struct{ passFlag }

func (c *unlockCmd) Run(g *globals) error {
	pass, err := c.ask(false)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.Unlock(g.ctx, string(pass.Bytes())); err != nil {
		return down(err, g.Dir)
	}
	fmt.Fprintln(g.out, "Unlocked.")
	return nil
}

type portsCmd struct{}

func (c *portsCmd) Run(g *globals) error {
	set, err := home.Load(g.Dir)
	if err != nil {
		return err
	}
	found, err := link.List()
	if err != nil {
		return err
	}
	return table(g, "PORT\tSTABLE NAME\tUSB\tPRODUCT\tSLOT", web.Ports(set, found), func(p api.Port) []any {
		return []any{p.Path, p.Stable, p.USB, p.Product, p.Slot}
	})
}

// client makes a client of the daemon that runs in the station's folder.
func (g *globals) client() (*api.Client, error) {
	set, err := home.Load(g.Dir)
	if err != nil {
		return nil, err
	}
	return api.Dial(home.Socket(set, g.Dir), g.Actor), nil
}

// down explains that a command needs the daemon.
func down(err error, dir string) error {
	if errors.Is(err, api.ErrNoStation) {
		return &records.Refusal{Code: "station-down", Sentence: fmt.Sprintf("No station is running in %s.", dir),
			Next: fmt.Sprintf("Start it with 'station serve -C %s'.", dir), Err: err}
	}
	return err
}

// act does something that appends to the ledger: the running daemon does it, or,
// if none runs, this process takes the folder.
func act[T any](g *globals, action string, ask func(*api.Client) (T, error), self func(context.Context, *home.Home, records.Actor) (T, error)) (T, error) {
	var none T
	client, err := g.client()
	if err != nil {
		return none, err
	}
	done, err := ask(client)
	if !errors.Is(err, api.ErrNoStation) {
		return done, err
	}
	h, err := home.Open(g.ctx, g.Dir, buildDate())
	if err != nil {
		return none, err
	}
	defer h.Close()
	actor := h.Actor()
	if g.Actor != "" {
		if actor, err = web.ParseActor(g.Actor); err != nil {
			return none, err
		}
	}
	done, err = self(g.ctx, h, actor)
	if err != nil {
		if p := web.Problem(err); p.Status < 500 { // a refusal is a fact here too
			err = errors.Join(err, h.Denied(g.ctx, actor, action, p.Code, p.Sentence))
		}
	}
	return done, err
}

// look opens the station to read; the daemon may run or not.
func (g *globals) look() (*home.Home, error) { return home.OpenReadOnly(g.ctx, g.Dir) }

func table[T any](g *globals, head string, rows []T, cells func(T) []any) error {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for _, r := range rows {
		for i, c := range cells(r) {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, web.Plain(fmt.Sprint(c)))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(g.out, strings.TrimRight(line, " \n"))
	}
	return nil
}
