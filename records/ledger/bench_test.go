package ledger_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
	"nameplate/records/ledger"
)

// floor measures how long this disk, as busy as it is now, takes to flush 4 KiB
// written over old bytes: what a commit into the reused write-ahead log costs at
// the least.
type floor struct {
	f     *os.File
	n     int64
	spent time.Duration
}

const floorPages = 256

func newFloor(b *testing.B) *floor {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if _, err := f.Write(make([]byte, floorPages*4096)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return &floor{f: f}
}

func (f *floor) measure(b *testing.B, flushes int) {
	b.Helper()
	page := make([]byte, 4096)
	begun := time.Now()
	for range flushes {
		if _, err := f.f.WriteAt(page, f.n%floorPages*4096); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.f.Fd())); err != nil {
			b.Fatal(err)
		}
		f.n++
	}
	f.spent += time.Since(begun)
}

func (f *floor) rate() float64 { return float64(f.n) / f.spent.Seconds() }

// BenchmarkAppend measures durable appends of a typical event: one of a unit's
// own, folded into its row. The floor is measured in turns with it, so that both
// meet the same neighbours; of-floor is the ratio to print.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := open(b, create(b))
			var commits atomic.Int64
			l.SetCommit(func(commit func() error) error {
				commits.Add(1)
				return commit()
			})
			do(b, l, orderOpened("wo-1", records.SymmetricKey, 1000))
			units := make([]records.UnitID, callers)
			for i := range units {
				units[i], _ = seen(b, l, fmt.Sprintf("slot-%d", i), fmt.Sprintf("mac-%d", i))
				mustClaim(b, l, units[i], "wo-1")
				do(b, l, sealed(units[i], fmt.Sprintf("ref-%d", i)))
			}
			appendAll(b, l, units[:1], 300) // the write-ahead log reaches its steady size
			f := newFloor(b)
			commits.Store(0)
			var spent time.Duration
			for done := 0; done < b.N; {
				turn := min(b.N-done, 20*callers)
				spent += appendAll(b, l, units, turn)
				f.measure(b, 20)
				done += turn
			}
			rate := float64(b.N) / spent.Seconds()
			b.ReportMetric(0, "ns/op") // it would count the floor in
			b.ReportMetric(rate, "events/s")
			b.ReportMetric(float64(b.N)/float64(commits.Load()), "events/commit")
			b.ReportMetric(f.rate(), "floor/s")
			b.ReportMetric(rate/f.rate(), "of-floor")
		})
	}
}

// appendAll appends n events, one caller a unit, and returns how long it took.
func appendAll(b *testing.B, l *ledger.Ledger, units []records.UnitID, n int) time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	begun := time.Now()
	for _, u := range units {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := try(l, about(u, "wo-1", records.WriteBegun{Manifest: manifest})); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

// BenchmarkHash measures reading the stored bytes and hashing them into a root,
// as replay does.
func BenchmarkHash(b *testing.B) {
	l := open(b, create(b))
	const events = 20000
	many(b, l, events)
	b.ResetTimer()
	for b.Loop() {
		var stored []tlog.Hash
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			out := make([]tlog.Hash, len(indexes))
			for i, index := range indexes {
				out[i] = stored[index]
			}
			return out, nil
		})
		for leaf, err := range l.Leaves(ctx, 1) {
			if err != nil {
				b.Fatal(err)
			}
			hashes, err := tlog.StoredHashes(leaf.Seq-1, leaf.Bytes, reader)
			if err != nil {
				b.Fatal(err)
			}
			stored = append(stored, hashes...)
		}
	}
	b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkOpen shows that opening does not depend on the size.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("events=%d", size), func(b *testing.B) {
			path := create(b)
			l := open(b, path)
			many(b, l, size)
			l.Close()
			for b.Loop() {
				l, err := ledger.Open(ctx, ledger.Config{Path: path, Station: "line-1"})
				if err != nil {
					b.Fatal(err)
				}
				l.Close()
			}
		})
	}
}
