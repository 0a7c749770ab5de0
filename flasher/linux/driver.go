// Package linux takes an identity into the files of a Linux board through a shell
// on its serial console. Nothing is installed there: what a BusyBox or a GNU
// userland brings does the work (POSIX.1-2017, "Shell & Utilities", and base64,
// sha256sum, dd; openssl where the board makes a key in a file).
//
// console.go and login.go lead from an open port to a shell of root, shell.go is
// the conversation with it; probe.go, write.go and readback.go are the flow,
// identity.go the plan, key.go and tpm.go what a board can prove.
package linux

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/tpm"
)

// usualBaud is the speed of a console that the product says nothing of.
const usualBaud = 115200

// closeLimit bounds the way out: the last word, or an interrupt to a board that
// is busy, and a carrier that no longer answers.
const closeLimit = 5 * time.Second

// Driver finds boards with a Linux shell on their console.
type Driver struct{}

// New returns the driver. It holds no state; one serves all slots.
func New() *Driver { return &Driver{} }

// Family is the name that profiles use.
func (*Driver) Family() string { return "linux" }

// Probe implements flasher.Driver. It logs in.
func (*Driver) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	if o.Baud == 0 {
		o.Baud = usualBaud
	}
	if err := checkOptions(o); err != nil {
		return nil, misfit(err)
	}
	l, err := p.Open(ctx, link.Mode{Baud: o.Baud})
	if err != nil {
		return nil, fmt.Errorf("opening port: %w", err)
	}
	d := &device{link: l, options: o}
	if err := d.probe(ctx); err != nil {
		// The probe's own error says more than one of the way out.
		_ = d.Close(ctx)
		return nil, err
	}
	return d, nil
}

// device is one identified board, with its shell.
type device struct {
	link    link.Link
	options flasher.Options
	shell   *shell // nil: nobody has logged in
	writer  bool   // the shell knows how files are written
	tpm     *tpm.Conversation
	facts   flasher.Facts
	closed  bool
}

// Facts implements flasher.Device.
func (d *device) Facts() flasher.Facts { return d.facts }

// Can implements flasher.Device.
func (d *device) Can() flasher.Powers {
	var can flasher.Powers
	switch d.options.Key.In {
	case inFile:
		can.Keys = fileKey{d}
	case inTPM:
		can.Keys = tpmKey{d}
	}
	if d.tpm != nil {
		can.TPM = d.tpm
	}
	return can
}

// Close implements flasher.Device: it logs out, so that the next who comes meets
// a login, and gives the port back, also when ctx has ended already. The end of
// the shell closes the board's descriptor of the TPM, at which the kernel flushes
// all that the conversation left there.
func (d *device) Close(ctx context.Context) error {
	if d.closed {
		return nil
	}
	d.closed = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	var err error
	if d.shell != nil {
		err = d.shell.bye(ctx)
		d.shell.forget()
	}
	if err := errors.Join(err, d.link.Close()); err != nil {
		return fmt.Errorf("closing port: %w", err)
	}
	return nil
}
