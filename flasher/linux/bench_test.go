package linux_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/linux"
)

// scales weighs what goes over a link.
type scales struct {
	link.Port
	bytes atomic.Int64
}

func (s *scales) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := s.Port.Open(ctx, m)
	return weighed{l, s}, err
}

type weighed struct {
	link.Link
	s *scales
}

func (l weighed) Read(ctx context.Context, p []byte) (int, error) {
	n, err := l.Link.Read(ctx, p)
	l.s.bytes.Add(int64(n))
	return n, err
}

func (l weighed) Write(ctx context.Context, p []byte) error {
	l.s.bytes.Add(int64(len(p)))
	return l.Link.Write(ctx, p)
}

// watch takes the time that a TPM needs.
type watch struct{ took atomic.Int64 }

func (w *watch) wrap(s tpm.Sender) tpm.Sender { return timed{s, w} }

type timed struct {
	tpm.Sender
	w *watch
}

func (s timed) Send(ctx context.Context, command []byte) ([]byte, error) {
	start := time.Now()
	defer func() { s.w.took.Add(int64(time.Since(start))) }()
	return s.Sender.Send(ctx, command)
}

// awaitLogin waits until the board asks for a name: its init starts the next
// login a second after the last one.
func awaitLogin(b *testing.B, ctx context.Context, port link.Port) {
	b.Helper()
	if s, ok := port.(*scales); ok {
		port = s.Port
	}
	l, err := port.Open(ctx, link.Mode{Baud: 115200})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var said []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(said, []byte("login: ")) {
		short, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		n, err := l.Read(short, buf)
		cancel()
		said = append(said, buf[:n]...)
		if err != nil && ctx.Err() == nil { // it asked before we listened
			err = l.Write(ctx, []byte("\r"))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTPMBoard takes a TPM identity onto a paced board at 115200 baud, from
// the login to the logout. Beside it stand the time that the bytes need on the
// wire and the TPM for its commands, which is the floor, and the same passage on a
// board whose line takes no time: what that takes is the board's own programs.
func BenchmarkTPMBoard(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	o := aziotOptions()
	o.TPM = true
	passage := func(port link.Port) time.Duration {
		b.StopTimer()
		awaitLogin(b, ctx, port)
		b.StartTimer()
		start := time.Now()
		d, err := linux.New().Probe(ctx, port, o)
		if err != nil {
			b.Fatal(err)
		}
		plan := mustPlan(b, d, identity(flasher.TPM))
		if err := d.Write(ctx, plan, nil); err != nil {
			b.Fatal(err)
		}
		found, err := d.ReadBack(ctx, plan.Manifest)
		if err != nil || len(plan.Manifest.Missing(found)) > 0 {
			b.Fatal(err, plan.Manifest.Missing(found))
		}
		if err := d.Close(ctx); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	paced, free, w := newFixture(b), newFixture(b), &watch{}
	paced.insert(b, boards.LinuxConfig{Pace: true, TPMState: newTPM(b, tpm.Config{}), TPMWrap: w.wrap})
	free.insert(b, boards.LinuxConfig{Name: "free", TPMState: newTPM(b, tpm.Config{})})
	s := &scales{Port: paced.port}
	var took, own time.Duration
	for b.Loop() {
		took += passage(s)
		own += passage(free.port)
	}
	wire := time.Duration(s.bytes.Load()) * 10 * time.Second / 115200
	floor := wire + time.Duration(w.took.Load())
	b.ReportMetric(took.Seconds()/float64(b.N), "s/unit")
	b.ReportMetric(wire.Seconds()/float64(b.N), "s-wire/unit")
	b.ReportMetric(own.Seconds()/float64(b.N), "s-own/unit")
	b.ReportMetric(took.Seconds()/floor.Seconds(), "x-floor")
	b.ReportMetric(took.Seconds()/(wire+own).Seconds(), "x-wire-and-own")
}
