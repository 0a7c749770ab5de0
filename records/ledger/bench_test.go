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

// floor is how often a second this disk, as busy as it is now, flushes 4 KiB
// written over old bytes: what a commit into the reused write-ahead log costs.
func floor(b *testing.B) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	const pages, rounds = 256, 400
	for range pages {
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
	}
	f.Sync()
	begun := time.Now()
	for i := range rounds {
		if _, err := f.WriteAt(page, int64(i%pages)*4096); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return rounds / time.Since(begun).Seconds()
}

// BenchmarkAppend measures durable appends of a typical event: one of a unit's
// own, folded into its row. floor/s is measured before and after, in the same
// run; of-floor is the ratio to print.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := open(b, create(b))
			do(b, l, orderOpened("wo-1", records.SymmetricKey, 1000))
			units := make([]records.UnitID, callers)
			for i := range units {
				units[i], _ = seen(b, l, fmt.Sprintf("slot-%d", i), fmt.Sprintf("mac-%d", i))
				mustClaim(b, l, units[i], "wo-1")
				do(b, l, sealed(units[i], fmt.Sprintf("ref-%d", i)))
			}
			for range 300 { // the write-ahead log reaches its steady size
				do(b, l, about(units[0], "wo-1", records.WriteBegun{Manifest: manifest}))
			}
			before := floor(b)
			b.ResetTimer()
			begun := time.Now()
			var left atomic.Int64
			left.Store(int64(b.N))
			var all sync.WaitGroup
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
			rate := float64(b.N) / time.Since(begun).Seconds()
			b.StopTimer()
			mean := (before + floor(b)) / 2
			b.ReportMetric(rate, "events/s")
			b.ReportMetric(mean, "floor/s")
			b.ReportMetric(rate/mean, "of-floor")
		})
	}
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
