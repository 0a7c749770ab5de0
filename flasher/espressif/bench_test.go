package espressif_test

import (
	"context"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
)

// recorder notes what a driver does on a link, for a loop that does the same
// without thinking.
type recorder struct {
	link.Port
	ops []op
}

type op struct {
	lines    bool
	dtr, rts bool
	baud     int
	write    []byte
	read     int // bytes read before the next operation
}

func (r *recorder) Open(ctx context.Context, m link.Mode) (link.Link, error) {
	l, err := r.Port.Open(ctx, m)
	return &recording{l, r}, err
}

type recording struct {
	link.Link
	to *recorder
}

func (l *recording) Read(ctx context.Context, p []byte) (int, error) {
	n, err := l.Link.Read(ctx, p)
	l.to.ops[len(l.to.ops)-1].read += n
	return n, err
}

func (l *recording) Write(ctx context.Context, p []byte) error {
	l.to.ops = append(l.to.ops, op{write: append([]byte(nil), p...)})
	return l.Link.Write(ctx, p)
}

func (l *recording) SetLines(ctx context.Context, dtr, rts bool) error {
	l.to.ops = append(l.to.ops, op{lines: true, dtr: dtr, rts: rts})
	return l.Link.SetLines(ctx, dtr, rts)
}

func (l *recording) SetBaud(ctx context.Context, baud int) error {
	l.to.ops = append(l.to.ops, op{baud: baud})
	return l.Link.SetBaud(ctx, baud)
}

// replay is the floor: the same bytes and levels on the same link, and the
// waits that the hardware asks for (100 ms of reset, 50 ms of boot pin, 50 ms
// after a change of speed).
func replay(b *testing.B, ctx context.Context, port link.Port, ops []op) {
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	l, err := port.Open(ctx, link.Mode{Baud: 115200})
	must(err)
	buf := make([]byte, 4096)
	for _, o := range ops {
		switch {
		case o.write != nil:
			must(l.Write(ctx, o.write))
		case o.baud != 0:
			must(l.SetBaud(ctx, o.baud))
			<-time.After(50 * time.Millisecond)
		case o.lines:
			must(l.SetLines(ctx, o.dtr, o.rts))
			if o.rts && !o.dtr {
				<-time.After(100 * time.Millisecond)
			} else if o.dtr && !o.rts {
				<-time.After(50 * time.Millisecond)
			}
		}
		for left := o.read; left > 0; {
			n, err := l.Read(ctx, buf[:min(left, len(buf))])
			must(err)
			left -= n
		}
	}
	must(l.Close())
}

// BenchmarkBoard takes an X.509 identity onto one paced board at 921600 baud,
// all of it from the reset to the reset, beside the bare loop.
func BenchmarkBoard(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	f := newFixture(b)
	f.insert(b, boards.Config{Chip: "ESP32-C3", Pace: true})
	o := options("ESP32-C3")
	o.Baud = 921600
	passage := func(port link.Port) {
		d, err := espressif.New().Probe(ctx, port, o)
		if err != nil {
			b.Fatal(err)
		}
		plan := mustPlan(b, d, x509())
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
	}
	var driver, bare time.Duration
	for b.Loop() {
		rec := &recorder{Port: f.port}
		start := time.Now()
		passage(rec)
		driver += time.Since(start)
		start = time.Now()
		replay(b, ctx, f.port, rec.ops)
		bare += time.Since(start)
	}
	b.ReportMetric(driver.Seconds()/float64(b.N), "s/unit")
	b.ReportMetric(bare.Seconds()/float64(b.N), "s/unit-bare")
	b.ReportMetric(driver.Seconds()/bare.Seconds(), "x-bare-loop")
}
