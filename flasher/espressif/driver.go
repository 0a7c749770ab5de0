// Package espressif takes an identity into the flash of ESP32 boards through the
// ROM's serial loader, with no stub and nothing loaded into RAM: reset into
// download mode, identify, write the NVS partition deflated, let the chip compute
// an MD5, read the entries back (esptool documentation, "Serial Protocol" and
// "Boot Mode Selection").
//
// slip.go frames, protocol.go and rom.go hold the commands, chips.go what differs
// between chips, reading.go who a board is, part.go the partition table; probe.go,
// write.go and readback.go are the flow.
package espressif

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/link"
)

// firstBaud is the speed of every board after a reset: the ROM measures it at
// the first SYNC, and all adapters have it.
const firstBaud = 115200

// closeLimit bounds the way out: the reset's 100 ms and a carrier that no longer
// answers.
const closeLimit = 2 * time.Second

// Driver finds boards with Espressif chips.
type Driver struct{}

// New returns the driver. It holds no state; one serves all slots.
func New() *Driver { return &Driver{} }

// Family is the name that profiles use.
func (*Driver) Family() string { return "espressif" }

// Probe implements flasher.Driver. It takes the board out of its application.
func (*Driver) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	if err := checkStore(o.Store); err != nil {
		return nil, err
	}
	l, err := p.Open(ctx, link.Mode{Baud: firstBaud})
	if err != nil {
		return nil, fmt.Errorf("opening port: %w", err)
	}
	d := &device{rom: newROM(l), options: o}
	if err := d.probe(ctx); err != nil {
		// The probe's own error says more than one of the way out.
		_ = d.Close(ctx)
		return nil, explain(err)
	}
	return d, nil
}

// device is one identified board.
type device struct {
	rom     *rom
	options flasher.Options
	is      reading // who it is
	chip    chip
	facts   flasher.Facts
	part    flasher.Partition // where the identity lives
	closed  bool
}

// Facts implements flasher.Device.
func (d *device) Facts() flasher.Facts { return d.facts }

// Can implements flasher.Device. The chips that make their own keys do so in a
// program of their own, not in the ROM.
func (*device) Can() flasher.Powers { return flasher.Powers{} }

// Close implements flasher.Device. The lines are released and the port is given
// back also when ctx has ended already; an error says that the board was perhaps
// not reset.
func (d *device) Close(ctx context.Context) error {
	if d.closed {
		return nil
	}
	d.closed = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	err := drive(ctx, d.rom.link, intoApplication)
	if err != nil && !errors.Is(err, link.ErrGone) {
		_ = d.rom.link.SetLines(ctx, false, false)
	}
	if err := errors.Join(err, d.rom.link.Close()); err != nil {
		return fmt.Errorf("closing port: %w", err)
	}
	return nil
}
