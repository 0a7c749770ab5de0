package espressif_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
)

// keeper keeps every buffer that the driver reads into or writes from.
type keeper struct {
	link.Port
	mu      sync.Mutex
	buffers [][]byte
}

func (k *keeper) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := k.Port.Open(ctx, m)
	return keptLink{l, k}, err
}

func (k *keeper) keep(b []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buffers = append(k.buffers, b)
}

type keptLink struct {
	link.Link
	to *keeper
}

func (l keptLink) Read(ctx context.Context, b []byte) (int, error) {
	l.to.keep(b)
	return l.Link.Read(ctx, b)
}

func (l keptLink) Write(ctx context.Context, b []byte) error {
	l.to.keep(b)
	return l.Link.Write(ctx, b)
}

// Wherever the cable goes while a key is read back, no part of the key stays in
// the buffers of the conversation.
func TestNoKeyStaysWhenTheCableGoes(t *testing.T) {
	key := []byte("pcDbAaXA2wGl") // how the key of symmetric begins, and goes on, in base64
	cuts := 0
	for n := 0; ; n++ {
		whole := false
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			k := &keeper{Port: p.port}
			d, err := espressif.New().Probe(t.Context(), k, options("ESP32-C3"))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close(t.Context())
			plan := mustPlan(t, d, symmetric())
			if !bytes.Contains(plan.Segments[0].Data, key) {
				t.Fatal("this key is not the one that is written")
			}
			if err := d.Write(t.Context(), plan, nil); err != nil {
				t.Fatal(err)
			}
			start := p.n
			p.answer = func(i int, _ byte, frame []byte) {
				if i > start+n {
					p.far.Unplug()
					return
				}
				p.send(frame)
			}
			_, err = d.ReadBack(t.Context(), plan.Manifest)
			whole = err == nil
			if err != nil && !errors.Is(err, link.ErrGone) {
				t.Errorf("cut after answer %d: %v", n, err)
			}
			for _, b := range k.buffers {
				if bytes.Contains(b, key) {
					t.Fatalf("cut after answer %d: a buffer of %d bytes holds a key", n, len(b))
				}
			}
		})
		if whole {
			break
		}
		cuts++
	}
	if cuts < 10 {
		t.Errorf("the cable went %d times only", cuts)
	}
}
