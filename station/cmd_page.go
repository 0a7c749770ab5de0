package main

import (
	"fmt"
	"time"
)

type pageCmd struct{}

// Help tells what the address is.
func (pageCmd) Help() string {
	return `Open the address in the browser at the line. That page may pick orders, start and cancel passages until the station stops; without a key, the same page only shows.

The address works once and for 5 minutes: whoever opens it first may act. Give it to nobody else.`
}

func (c *pageCmd) Run(g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	p, err := client.OpenPage(g.ctx)
	if err != nil {
		return down(err, g.Dir)
	}
	fmt.Fprintf(g.out, "%s\n  opens the operator page once, until %s\n", p.URL, p.Until.Local().Format(time.TimeOnly))
	return nil
}
