// Command station is a factory identity station: it gives devices their
// identity on the production line, writes down for good what it did, and hands
// the identities over. One binary: the daemon (serve), the commands that ask it,
// and those that work on its folder alone.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"nameplate/ca"
	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/api"
	"nameplate/station/profile"

	"github.com/alecthomas/kong"
)

// Set by the build (-ldflags -X).
var (
	version = "dev"
	built   = "" // RFC 3339; a clock that reads earlier stops claiming and issuing
)

// Exit statuses, by kind of ending.
const (
	exitOK       = 0
	exitError    = 1 // the program could not do its part
	exitUsage    = 2 // the command line is wrong
	exitRefused  = 3 // a refusal: the sentence says what to do
	exitFindings = 4 // verify, replay, check: something is wrong with what was looked at
)

const description = `Nameplate: gives devices their identity on the production line.

Exit status: 0 done, 1 failed, 2 wrong command line, 3 refused (the sentence says what to do), 4 something is wrong with what was looked at.`

// errFindings ends a command that did its work and found something wrong; what
// it is has been printed.
var errFindings = errors.New("there are findings")

// globals are the flags of every command.
type globals struct {
	Dir   string `short:"C" default:"." env:"NAMEPLATE_DIR" help:"The station's folder." type:"path"`
	Actor string `env:"NAMEPLATE_ACTOR" help:"Who acts: badge:NUMBER or account:NAME."`

	ctx context.Context
	out io.Writer
}

type cli struct {
	globals
	Init    initCmd    `cmd:"" help:"Make a station in a folder: settings to fill in, keys, root, ledger."`
	Check   checkCmd   `cmd:"" help:"Check the station's settings and explain each mistake."`
	CA      caCmd      `cmd:"" name:"ca" help:"The station's certificate authorities."`
	Serve   serveCmd   `cmd:"" help:"Run the station until it is told to stop; without a passphrase it is locked at first."`
	Unlock  unlockCmd  `cmd:"" help:"Unlock the running station."`
	Order   orderCmd   `cmd:"" help:"Work orders."`
	Unit    unitCmd    `cmd:"" help:"Units and their history."`
	Slot    slotCmd    `cmd:"" help:"Slots of the fixture."`
	Watch   watchCmd   `cmd:"" help:"Show the slots live."`
	Page    pageCmd    `cmd:"" help:"Print the address that opens the operator page."`
	Ports   portsCmd   `cmd:"" help:"List the ports that boards can be connected to."`
	Push    pushCmd    `cmd:"" help:"Enrollments on their way to the customers' services."`
	Export  exportCmd  `cmd:"" help:"Write a customer's identities as a signed batch."`
	Verify  verifyCmd  `cmd:"" help:"Check a batch; needs neither station nor network."`
	Replay  replayCmd  `cmd:"" help:"Recompute the ledger from its first event and report any difference."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("station"), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(stderr, "station:", err)
		return exitError
	}
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited // help was asked for
	}
	if err != nil {
		fmt.Fprintf(stderr, "station: %v\nSee 'station --help'.\n", err)
		return exitUsage
	}
	c.ctx, c.out = ctx, stdout
	return report(stderr, command.Run(&c.globals))
}

type versionCmd struct{}

func (versionCmd) Run(g *globals) error {
	fmt.Fprintf(g.out, "station %s, built %s with %s\n", version, cmp.Or(built, "without a date"), runtime.Version())
	return nil
}

// report prints an error as its reader needs it, and gives the exit status.
func report(w io.Writer, err error) int {
	var problem *api.Problem
	var refused *records.Refusal
	var flasherRefused *flasher.Refusal
	var caRefused *ca.Refusal
	var problems profile.Problems
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.As(err, &problem):
		refused = &records.Refusal{Code: problem.Code, Sentence: problem.Sentence, Next: problem.Next}
	case errors.As(err, &refused):
	case errors.As(err, &flasherRefused):
		refused = (*records.Refusal)(flasherRefused)
	case errors.As(err, &caRefused):
		refused = (*records.Refusal)(caRefused)
	case errors.As(err, &problems):
		fmt.Fprintln(w, problems)
		return exitFindings
	default:
		fmt.Fprintln(w, "station:", err)
		return exitError
	}
	fmt.Fprintf(w, "station: %s\n  → %s\n  (%s)\n", refused.Sentence, refused.Next, refused.Code)
	return exitRefused
}

// buildDate is the time that the build was made; zero if it was not recorded.
func buildDate() time.Time {
	t, err := time.Parse(time.RFC3339, built)
	if err != nil {
		return time.Time{}
	}
	return t
}
