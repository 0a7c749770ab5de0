package linktest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"nameplate/flasher/link"
	"nameplate/flasher/link/linktest"
)

func pair(*testing.T) linktest.Harness {
	port, far := linktest.Pair(nil)
	return linktest.Harness{Port: port, Far: far, Unplug: far.Unplug, State: far.State, Lines: true}
}

func open(t *testing.T, p link.Port) link.Link {
	t.Helper()
	l, err := p.Open(t.Context(), link.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestPairConforms(t *testing.T) { linktest.Conform(t, pair) }

func TestFaultyWithoutFaultsConforms(t *testing.T) {
	linktest.Conform(t, func(t *testing.T) linktest.Harness {
		h := pair(t)
		h.Port = linktest.Faulty(h.Port, linktest.Faults{})
		return h
	})
}

// A device that follows the lines has acted before SetLines returns.
func TestPairTellsTheDeviceAtOnce(t *testing.T) {
	var far *linktest.Far
	var seen []linktest.State
	port, far := linktest.Pair(func(s linktest.State) {
		seen = append(seen, s)
		if s.RTS {
			far.Write([]byte("banner"))
		}
	})
	l, err := port.Open(t.Context(), link.Mode{Baud: 115200, Parity: link.EvenParity})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetLines(t.Context(), false, true); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := l.Read(t.Context(), b); err != nil || string(b[:n]) != "banner" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	l.Close()
	want := []linktest.State{
		{Open: true, Baud: 115200, Parity: link.EvenParity},
		{Open: true, RTS: true, Baud: 115200, Parity: link.EvenParity},
		{Baud: 115200, Parity: link.EvenParity},
	}
	for i := range want {
		if len(seen) != len(want) || seen[i] != want[i] {
			t.Fatalf("saw %+v, want %+v", seen, want)
		}
	}
}

// through writes 1000 zeros and reads 1000 more over a bad cable.
func through(t *testing.T, f linktest.Faults) (arrived, read []byte) {
	t.Helper()
	port, far := linktest.Pair(nil)
	l := open(t, linktest.Faulty(port, f))
	if err := l.Write(t.Context(), make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	// The end of what arrives, sent around the bad cable.
	good := make([]byte, 2000)
	n, err := far.Read(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2000)
	m, err := l.Read(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return good[:n], p[:m]
}

func TestFaultyDropsAndCorruptsBySeed(t *testing.T) {
	f := linktest.Faults{Seed: 7, Drop: 0.1, Corrupt: 0.1}
	out, in := through(t, f)
	for name, p := range map[string][]byte{"written": out, "read": in} {
		if len(p) < 800 || len(p) == 1000 {
			t.Errorf("%s: %d of 1000 bytes left after dropping a tenth", name, len(p))
		}
		if zeros := bytes.Count(p, []byte{0}); zeros == len(p) || zeros < len(p)*8/10 {
			t.Errorf("%s: %d of %d bytes are right after corrupting a tenth", name, zeros, len(p))
		}
	}
	if bytes.Equal(out, in) {
		t.Error("both ways had the same faults")
	}
	out2, in2 := through(t, f)
	if !bytes.Equal(out, out2) || !bytes.Equal(in, in2) {
		t.Error("one seed gave two results")
	}
	f.Seed = 8
	if out3, _ := through(t, f); bytes.Equal(out, out3) {
		t.Error("two seeds gave one result")
	}
}

func TestFaultyCutsInMidWriteAndOnlyOnce(t *testing.T) {
	port, far := linktest.Pair(nil)
	bad := linktest.Faulty(port, linktest.Faults{CutAfter: 100})
	l := open(t, bad)
	if err := l.Write(t.Context(), make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(t.Context(), make([]byte, 60)); !errors.Is(err, link.ErrGone) {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(far, make([]byte, 100)); err != nil {
		t.Fatalf("%d bytes arrived, %v", n, err)
	}
	if _, err := l.Read(t.Context(), make([]byte, 1)); !errors.Is(err, link.ErrGone) {
		t.Error(err)
	}
	if err := l.SetLines(t.Context(), true, true); !errors.Is(err, link.ErrGone) {
		t.Error(err)
	}
	l.Close()
	again := open(t, bad)
	if err := again.Write(t.Context(), make([]byte, 1000)); err != nil {
		t.Errorf("plugged in again: %v", err)
	}
}

func TestFaultyStallsUntilTheContextEnds(t *testing.T) {
	port, far := linktest.Pair(nil)
	l := open(t, linktest.Faulty(port, linktest.Faults{StallAfter: 4}))
	if _, err := far.Write([]byte("lost in the cable")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := l.Read(t.Context(), b); err != nil || string(b[:n]) != "lost" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.Read(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := l.Write(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
