package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"nameplate/records/replay"
	"nameplate/station/audit"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

type replayCmd struct {
	Checkpoint string `type:"existingfile" help:"A checkpoint of this ledger that was kept elsewhere (the checkpoint.txt of a batch)."`
	JSON       bool   `help:"Print the report as JSON."`
}

// maxCheckpoint bounds a checkpoint file: three lines and a signature.
const maxCheckpoint = 64 << 10

func (c *replayCmd) Run(g *globals) error {
	h, err := g.look()
	if err != nil {
		return err
	}
	defer h.Close()
	o := replay.Options{}
	if o.Verifier, err = h.Verifier(); err != nil {
		return err
	}
	root, issuing, err := h.Authorities()
	if err != nil {
		return err
	}
	o.Checks = audit.Checks(root, issuing)
	if c.Checkpoint != "" {
		if o.Outside, err = readSmall(c.Checkpoint, maxCheckpoint); err != nil {
			return err
		}
	}
	if isatty.IsTerminal(os.Stderr.Fd()) {
		o.Progress = progress(os.Stderr)
	}
	r, err := replay.Run(g.ctx, h.Ledger, o)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(g.out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(struct {
			*replay.Report
			Caveats []string `json:"caveats"`
		}{&r, r.Caveats()}); err != nil {
			return fmt.Errorf("printing the report: %w", err)
		}
	} else {
		printReport(g.out, &r)
	}
	if !r.OK() {
		return errFindings
	}
	return nil
}

func printReport(w io.Writer, r *replay.Report) {
	for _, f := range r.Findings {
		fmt.Fprintln(w, "✘", f)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "✘ and %d findings more\n", r.More)
	}
	if r.OK() {
		fmt.Fprintf(w, "✔ %d events, %d units, %d orders: every hash and every state is as recorded\n", r.Events, r.Units, r.Orders)
		fmt.Fprintf(w, "✔ root %s; %d checkpoints agree; %d events checked further\n", r.Root, r.Checkpoints, r.Checked)
	}
	for _, c := range r.Caveats() {
		fmt.Fprintln(w, " ", c)
	}
}

// progress draws a bar for each pass.
func progress(w io.Writer) func(replay.Progress) {
	var bar *progressbar.ProgressBar
	pass := ""
	return func(p replay.Progress) {
		if p.Pass != pass {
			pass = p.Pass
			bar = progressbar.NewOptions64(p.Total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(p.Pass),
				progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
		}
		_ = bar.Set64(p.Done) // a bar that cannot be drawn stops nothing
	}
}

func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return raw, nil
}
