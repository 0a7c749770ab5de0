package main

import (
	"context"
	"fmt"
	"time"

	"nameplate/records"
	"nameplate/records/batch"
	"nameplate/station/api"
	"nameplate/station/home"
)

type exportCmd struct {
	passFlag
	Folder   string `arg:"" type:"path" help:"The folder to make for the batch."`
	Customer string `help:"All released units of this customer." xor:"what" required:""`
	Order    string `help:"The released units of this order." xor:"what" required:""`
}

func (c *exportCmd) Run(g *globals) error {
	done, err := act(g, "export", func(cl *api.Client) (api.Exported, error) {
		return cl.Export(g.ctx, api.Export{Customer: c.Customer, Order: c.Order, Dir: c.Folder})
	}, func(ctx context.Context, h *home.Home, actor records.Actor) (api.Exported, error) {
		pass, err := c.ask(false)
		if err != nil {
			return api.Exported{}, err
		}
		defer pass.Wipe()
		if err := h.Unlock(pass); err != nil {
			return api.Exported{}, err
		}
		done, err := h.Export(ctx, actor, c.Customer, c.Order, c.Folder)
		return api.Exported(done), err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(g.out, "Batch of %d units in %s\n  manifest sha256 %s, over %d events\n  check it anywhere: station verify %s --key station.pub\n",
		done.Units, done.Dir, done.Manifest, done.Events, done.Dir)
	return nil
}

type verifyCmd struct {
	Folder string `arg:"" type:"existingdir" help:"The batch's folder."`
	Key    string `required:"" type:"existingfile" help:"The station's public key (keys/station.pub), from a source you trust."`
}

// maxKeyFile bounds what is read of a public key file.
const maxKeyFile = 4096

func (c *verifyCmd) Run(g *globals) error {
	raw, err := readSmall(c.Key, maxKeyFile)
	if err != nil {
		return err
	}
	key, err := batch.ParsePublicKey(raw)
	if err != nil {
		return err
	}
	r, err := batch.Verify(g.ctx, c.Folder, key)
	if err != nil {
		return err
	}
	for _, f := range r.Findings {
		fmt.Fprintln(g.out, "✘", f)
	}
	if r.More > 0 {
		fmt.Fprintf(g.out, "✘ and %d findings more\n", r.More)
	}
	if !r.OK() {
		return errFindings
	}
	m := r.Manifest
	fmt.Fprintf(g.out, "Batch for %s, made by station %s at %s\n", m.Customer, m.Station, m.Time.Format(time.RFC3339))
	for _, o := range m.Orders {
		fmt.Fprintf(g.out, "  order %s, %s: %d of %d units\n", o.ID, o.Product, o.Units, o.Quota)
	}
	fmt.Fprintf(g.out, `✔ the manifest is signed by %s
✔ every file is the one that was signed
✔ %d units: rows agree, no identity stands twice, every device certificate leads to the root named in the manifest
✔ the ledger's checkpoint (%d events) is signed by the same station
  quota level %q; not proved here: that this is the station's newest history
`, key.Name(), r.Units, r.Checkpoint.Size, m.QuotaLevel)
	return nil
}
