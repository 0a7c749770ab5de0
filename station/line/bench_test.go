package line_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/fixtures/boards"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/records"
	"nameplate/station/line"
)

// BenchmarkPassage takes X.509 units through the engine, on boards that take the
// time that real ones take, beside a loop that only makes the driver's calls.
// What the engine adds (six commits and a certificate a unit) shows in
// of-bare-loop; what 32 slots that start at one moment take from one another in
// 32-over-1. Each time is the best of the iterations: the rest is what else the
// machine does.
func BenchmarkPassage(b *testing.B) {
	best := map[string]time.Duration{}
	note := func(name string, took time.Duration) {
		if was, ok := best[name]; !ok || took < was {
			best[name] = took
		}
	}
	for b.Loop() {
		note("bare 1", bare(b, 1))
		note("1", engine(b, 1))
		note("bare 32", bare(b, 32))
		note("32", engine(b, 32))
	}
	over := func(a, b string) float64 { return best[a].Seconds() / best[b].Seconds() }
	b.ReportMetric(best["1"].Seconds(), "s/unit")
	b.ReportMetric(over("1", "bare 1"), "of-bare-loop")
	b.ReportMetric(over("32", "1"), "32-over-1")
	b.ReportMetric(over("bare 32", "bare 1"), "32-over-1-bare")
}

// paced puts n new boards into n sockets.
func paced(b *testing.B, n int) []socket {
	sockets := make([]socket, n)
	for i := range sockets {
		sockets[i] = newSocket(b)
		must(b, sockets[i].Insert(chip(b, func(c *boards.Config) {
			c.Name, c.MAC, c.UID, c.FlashSize, c.Pace = fmt.Sprint("board-", i), fmt.Sprintf("34:85:18:00:02:%02x", i), [16]byte{byte(i), 2}, 1<<20, true
		})))
	}
	// The boards' memories are files beside the ledger: what they owe the disk is
	// paid before the clock starts.
	syscall.Sync()
	return sockets
}

func remove(sockets []socket) {
	for _, s := range sockets {
		s.Close()
	}
}

// engine is the time from the starts to the last verdict.
func engine(b *testing.B, n int) time.Duration {
	s := newStation(b, espressif.New())
	order := s.order(records.X509, n)
	sockets := paced(b, n)
	defer remove(sockets)
	var slots []*slot
	for i, place := range sockets {
		slots = append(slots, s.slot(fmt.Sprint("slot-", i), place.port, nil))
	}
	start := time.Now()
	for _, w := range slots {
		must(b, w.Start(order, badge))
	}
	for _, w := range slots {
		if st, _ := w.await(0, over); st.Verdict != records.Pass {
			b.Fatalf("%+v", st)
		}
	}
	took := time.Since(start)
	for _, w := range slots {
		w.end(nil)
	}
	return took
}

// bare is the same without engine, ledger and authority: one identity, made
// before, for all.
func bare(b *testing.B, n int) time.Duration {
	s := newStation(b, espressif.New())
	job, err := s.job(s.ctx, s.order(records.X509, 1))
	must(b, err)
	id := readyMade(b, s)
	sockets := paced(b, n)
	defer remove(sockets)
	var all sync.WaitGroup
	errs := make([]error, n)
	start := time.Now()
	for i, place := range sockets {
		all.Go(func() { errs[i] = calls(s.ctx, job, place, id) })
	}
	all.Wait()
	took := time.Since(start)
	must(b, errors.Join(errs...))
	return took
}

func calls(ctx context.Context, job line.Job, place socket, id flasher.Identity) error {
	d, err := job.Driver.Probe(ctx, place.port, job.Options)
	if err != nil {
		return err
	}
	plan, err := d.Plan(id)
	if err != nil {
		return err
	}
	if err := d.Write(ctx, plan, nil); err != nil {
		return err
	}
	found, err := d.ReadBack(ctx, plan.Manifest)
	if err != nil {
		return err
	}
	if missing := plan.Manifest.Missing(found); len(missing) > 0 {
		return fmt.Errorf("%v differ", missing)
	}
	return d.Close(ctx)
}

func readyMade(b *testing.B, s *station) flasher.Identity {
	csr, key, err := ca.InjectedKey("x509-a000001")
	must(b, err)
	from := time.Now().UTC().Truncate(time.Second)
	issued, err := s.issuer.Issue(s.ctx, ca.Request{Customer: customer, CommonName: "x509-a000001", Organization: "factory.example",
		CSR: csr, NotBefore: from, NotAfter: from.AddDate(0, 0, 3650)})
	must(b, err)
	return flasher.Identity{RegistrationURL: host, IDScope: scope, RegistrationID: "x509-a000001", Attestation: flasher.X509, Salt: []byte("0123456789abcdef"),
		Certificate: append(encodePEM(issued.DER), encodePEM(issued.Chain[0])...), PrivateKey: key}
}
