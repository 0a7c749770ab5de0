package espressif

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nameplate/flasher/link"
)

// level sets both lines and holds them. On the usual two-transistor circuit RTS
// alone pulls the reset pin low and DTR alone the boot pin; both together
// release both.
type level struct {
	dtr, rts bool
	hold     time.Duration
}

const (
	resetHold = 100 * time.Millisecond
	// The boot pin must be low while reset rises: 50 ms is enough for boards
	// whose reset line has a small capacitor, 550 ms for those with a large one.
	bootHold     = 50 * time.Millisecond
	bootHoldLong = 550 * time.Millisecond
	// syncTries for each way of reset; a ROM that listens answers the first.
	syncTries = 7
	// What the chip prints before it listens is over within bannerLimit, and has
	// ended when the line is quiet for bannerQuiet.
	bannerQuiet = 20 * time.Millisecond
	bannerLimit = 200 * time.Millisecond
)

// tight goes through "both asserted", which moves no pin, so that a driver that sets
// both lines in one step never shows the chip a state between.
func tight(boot time.Duration) []level {
	return []level{{false, false, 0}, {true, true, 0}, {false, true, resetHold}, {true, false, boot}, {false, false, 0}}
}

func classic(boot time.Duration) []level {
	return []level{{false, true, resetHold}, {true, false, boot}, {false, false, 0}}
}

// intoApplication resets with the boot pin high.
var intoApplication = []level{{false, true, resetHold}, {false, false, 0}}

func drive(ctx context.Context, l link.Link, levels []level) error {
	for _, v := range levels {
		if err := l.SetLines(ctx, v.dtr, v.rts); err != nil {
			return fmt.Errorf("setting DTR and RTS: %w", err)
		}
		if err := pause(ctx, v.hold); err != nil {
			return err
		}
	}
	return nil
}

// enterDownload resets the chip into its ROM loader and makes it listen.
func (r *rom) enterDownload(ctx context.Context) error {
	ways := [][]level{tight(bootHold), tight(bootHoldLong), classic(bootHold), classic(bootHoldLong)}
	var err error
	for _, way := range ways {
		if err = drive(ctx, r.link, way); err != nil {
			return err
		}
		if err = r.settle(ctx, bannerQuiet, bannerLimit); err != nil {
			return err
		}
		r.stale = false
		for range syncTries {
			if err = r.sync(ctx); err == nil || !retryable(err) {
				return err
			}
		}
	}
	return err
}

// retryable tells a lost or refused command, after which the conversation can
// go on, from a lost link or an ended context.
func retryable(err error) bool {
	var refused *romError
	return errors.Is(err, errSilent) || errors.As(err, &refused)
}
