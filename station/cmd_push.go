package main

import (
	"context"
	"fmt"
	"time"

	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/home"
	"nameplate/station/web"
)

type pushCmd struct {
	Status pushStatusCmd `cmd:"" help:"What is still to be pushed, and what waits for a person."`
	Retry  pushRetryCmd  `cmd:"" help:"Push an enrollment again that was set aside."`
}

type pushStatusCmd struct{}

func (c *pushStatusCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	list, err := web.Pushes(g.ctx, h.Ledger.Ledger)
	if err != nil {
		return err
	}
	err = table(g, "CUSTOMER\tDUE\tASIDE\tACCEPTED\tNEXT TRY\tLAST ERROR", list, func(p api.Push) []any {
		next := "-"
		if p.Due > 0 && p.NextAt.After(time.Now()) {
			next = p.NextAt.Local().Format(time.TimeOnly)
		}
		return []any{p.Customer, p.Due, p.Aside, p.Accepted, next, p.LastError}
	})
	for _, p := range list {
		for _, it := range p.Items {
			fmt.Fprintf(g.out, "\nset aside: %s %s\n  %s\n  → mend the cause, then 'station push retry %s'\n", it.Unit, it.RegistrationID, it.Reason, it.Unit)
		}
	}
	return err
}

type pushRetryCmd struct {
	Unit string `arg:"" help:"Unit number or registration ID."`
}

func (c *pushRetryCmd) Run(g *globals) error {
	_, err := act(g, "push retry", func(cl *api.Client) (struct{}, error) {
		return struct{}{}, cl.RetryPush(g.ctx, c.Unit)
	}, func(ctx context.Context, h *home.Home, _ records.Actor) (struct{}, error) {
		u, err := h.Ledger.Find(ctx, c.Unit)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, h.Ledger.OutboxRetry(ctx, u.ID)
	})
	if err == nil {
		fmt.Fprintf(g.out, "%s will be pushed again.\n", c.Unit)
	}
	return err
}
