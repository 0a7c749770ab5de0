package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/home"
	"nameplate/station/web"
)

type orderCmd struct {
	Open  orderOpenCmd  `cmd:"" help:"Open an order."`
	List  orderListCmd  `cmd:"" help:"List orders."`
	Show  orderShowCmd  `cmd:"" help:"Show an order."`
	Pick  orderPickCmd  `cmd:"" help:"Let slots work on an order, until the station stops."`
	Close orderCloseCmd `cmd:"" help:"Close an order: no further claims; claims for which nothing was made are given back."`
}

type orderOpenCmd struct {
	File string `arg:"" type:"existingfile" help:"The order's file (YAML)."`
}

func (c *orderOpenCmd) Run(g *globals) error {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	o, err := act(g, "order open", func(cl *api.Client) (api.Order, error) {
		return cl.OpenOrder(g.ctx, api.OpenOrder{File: string(raw), Name: c.File})
	}, func(ctx context.Context, h *home.Home, actor records.Actor) (api.Order, error) {
		o, err := h.OpenOrder(ctx, actor, c.File, raw)
		return web.Order(o), err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(g.out, "Order %s is open: %d × %s for %s, until %s.\n", o.ID, o.Quota, o.Product, o.Customer, o.ValidUntil.Format(time.DateOnly))
	return nil
}

type orderListCmd struct{}

func (c *orderListCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	orders, err := h.Ledger.Orders(g.ctx)
	if err != nil {
		return err
	}
	return orderTable(g, orders)
}

type orderShowCmd struct {
	ID string `arg:"" help:"The order's number."`
}

func (c *orderShowCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	o, err := h.Order(g.ctx, c.ID)
	if err != nil {
		return err
	}
	return orderTable(g, []records.Order{o})
}

type orderPickCmd struct {
	ID   string `arg:"" help:"The order's number."`
	Slot string `help:"The slot; without it, all slots in which nothing runs."`
}

func (c *orderPickCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	p, err := client.PickOrder(g.ctx, c.ID, c.Slot)
	if err != nil {
		return down(err, g.Dir)
	}
	fmt.Fprintf(g.out, "%s is the order of %s.\n", p.Order, strings.Join(p.Slots, ", "))
	if len(p.Busy) > 0 {
		fmt.Fprintf(g.out, "  a passage runs in %s: these keep their order\n", strings.Join(p.Busy, ", "))
	}
	return nil
}

func orderTable(g *globals, orders []records.Order) error {
	return table(g, "ORDER\tCUSTOMER\tPRODUCT\tQUOTA\tCLAIMED\tRELEASED\tPASS\tFAIL\tERROR\tSTATE\tUNTIL", orders, func(o records.Order) []any {
		state := "open"
		if o.Closed {
			state = "closed"
		} else if o.Expired(time.Now()) {
			state = "expired"
		}
		return []any{o.ID, o.Customer, o.Product, o.Quota, o.Live, o.Released, o.Passes, o.Fails, o.Errors, state, o.ValidUntil.Format(time.DateOnly)}
	})
}

type orderCloseCmd struct {
	ID     string `arg:"" help:"The order's number."`
	Reason string `help:"Why; it stands in the ledger." default:"done"`
}

func (c *orderCloseCmd) Run(g *globals) error {
	o, err := act(g, "order close", func(cl *api.Client) (api.Order, error) {
		return cl.CloseOrder(g.ctx, c.ID, c.Reason)
	}, func(ctx context.Context, h *home.Home, actor records.Actor) (api.Order, error) {
		o, err := h.CloseOrder(ctx, actor, c.ID, c.Reason)
		return web.Order(o), err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(g.out, "Order %s is closed: %d of %d released.\n", o.ID, o.Released, o.Quota)
	return nil
}
