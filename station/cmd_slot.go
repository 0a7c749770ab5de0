package main

import (
	"fmt"

	"nameplate/station/api"
)

type slotCmd struct {
	List   slotListCmd   `cmd:"" help:"List the slots as they are now."`
	Start  slotStartCmd  `cmd:"" help:"Start a passage with the board in a slot."`
	Cancel slotCancelCmd `cmd:"" help:"Cancel a running passage."`
}

type slotListCmd struct{}

func (c *slotListCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	slots, err := client.Slots(g.ctx)
	if err != nil {
		return down(err, g.Dir)
	}
	return table(g, "SLOT\tPORT\tSTATE\tORDER\tUNIT\tREGISTRATION ID\tSTEP\tVERDICT\tWHY", slots, func(s api.Slot) []any {
		return []any{s.Slot, s.Port, s.State, s.Order, s.Unit, s.RegistrationID, s.Step, s.Verdict, s.Sentence}
	})
}

type slotStartCmd struct {
	Slot  string `arg:"" help:"The slot's name."`
	Order string `help:"The order; without it, the slot's own."`
}

func (c *slotStartCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.StartSlot(g.ctx, c.Slot, c.Order); err != nil {
		return down(err, g.Dir)
	}
	fmt.Fprintf(g.out, "Slot %s: started.\n", c.Slot)
	return nil
}

type slotCancelCmd struct {
	Slot string `arg:"" help:"The slot's name."`
}

func (c *slotCancelCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.CancelSlot(g.ctx, c.Slot); err != nil {
		return down(err, g.Dir)
	}
	fmt.Fprintf(g.out, "Slot %s: cancelling.\n", c.Slot)
	return nil
}
