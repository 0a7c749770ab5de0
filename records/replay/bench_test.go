package replay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
)

// BenchmarkReplay replays a history of released units. The floor, reading the
// stored bytes once and hashing them, is measured in turns with it, so that both
// meet the same neighbours; these change the processor time an event least.
func BenchmarkReplay(b *testing.B) {
	h := newHistory(b, 2000)
	var whole, floor, cpu time.Duration
	for b.Loop() {
		begun, used := time.Now(), cpuTime()
		if r := h.replay(b, replay.Options{Verifier: h.verifier}); !r.OK() {
			b.Fatal(list(r))
		}
		whole, cpu = whole+time.Since(begun), cpu+cpuTime()-used
		begun = time.Now()
		h.hashLeaves(b)
		floor += time.Since(begun)
	}
	events := float64(h.size) * float64(b.N)
	b.ReportMetric(0, "ns/op") // it would count the floor in
	b.ReportMetric(events/whole.Seconds(), "events/s")
	b.ReportMetric(events/floor.Seconds(), "floor/s")
	b.ReportMetric(floor.Seconds()/whole.Seconds(), "of-floor")
	b.ReportMetric(float64(cpu.Nanoseconds())/events, "cpu-ns/event")
}

func (h *history) hashLeaves(t testing.TB) {
	l, err := ledger.OpenReadOnly(ctx, h.path)
	must(t, err)
	defer l.Close()
	for leaf, err := range l.Leaves(ctx, 1) {
		must(t, err)
		tlog.RecordHash(leaf.Bytes)
	}
}

// cpuTime is the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// However long the history, replay keeps of it the owners of names, 32 bytes
// each, and the units' numbers; of events it holds those in hand.
func TestReplayMemoryIsFlat(t *testing.T) {
	src := &endless{units: 25_000}
	if testing.Short() {
		src.units = 2_500
	}
	const (
		hand = 4 << 20 // batches, pages and the tables' first size
		each = 2*32 + 2*8
	)
	bound := uint64(hand + src.units*each)
	start, peak := heap(), uint64(0)
	calls := 0
	r, err := replay.Run(ctx, src, replay.Options{Progress: func(replay.Progress) {
		if calls++; calls%50 == 0 {
			peak = max(peak, heap())
		}
	}})
	must(t, err)
	if r.Events != src.Size() || r.Units != int64(src.units) {
		t.Fatalf("%d events and %d units were replayed", r.Events, r.Units)
	}
	for _, f := range r.Findings {
		if f.What != "the stored tree is not that of the stored events" { // which this source does not compute
			t.Fatalf("found:\n%s", list(r))
		}
	}
	t.Logf("%d events: %d KiB above the start, %d allowed", r.Events, (peak-min(peak, start))>>10, bound>>10)
	if peak > start+bound {
		t.Errorf("%d events take %d bytes, allowed are %d", r.Events, peak-start, bound)
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// endless makes up a long history on the fly and keeps nothing of it: units that
// are seen, refused and let go, eight events each.
type endless struct{ units int }

const endlessEvents = 8

func (s *endless) unit(n int) (events []records.Event) {
	first := int64(n*endlessEvents + 1)
	p, u := records.PassageID(first), records.UnitID(first+1)
	bodies := []records.Body{records.PassageOpened{Slot: "slot-1"},
		records.UnitIdentified{Family: "espressif", Chip: "ESP32", Hardware: []records.HardwareID{{Kind: "mac", Value: fmt.Sprintf("%012x", n)}}}}
	for len(bodies) < endlessEvents-1 {
		bodies = append(bodies, records.UnitRefused{Step: "claim", Code: "order-exhausted", Sentence: "All 100 units of order WO-1 are claimed."})
	}
	bodies = append(bodies, records.PassageClosed{Slot: "slot-1", Verdict: records.Error})
	for i, b := range bodies {
		data, err := json.Marshal(b)
		if err != nil {
			panic(err)
		}
		e := records.Event{Seq: first + int64(i), Station: s.Station(), Time: time.Unix(0, 0).UTC(), Actor: badge, Kind: b.Kind(), Passage: p, Data: data, Salt: make([]byte, 16)}
		if i > 0 {
			e.Unit = u
		}
		events = append(events, e)
	}
	return events
}

func (s *endless) Station() string { return "line-1" }
func (s *endless) Origin() string  { return "nameplate.invalid/line-1" }
func (s *endless) Size() int64     { return int64(s.units * endlessEvents) }

func (s *endless) Root(context.Context, int64) (tlog.Hash, error) { return tlog.Hash{}, nil }

func (s *endless) Checkpoints(context.Context) ([]ledger.StoredCheckpoint, error) { return nil, nil }

func (s *endless) UnitLeaves(context.Context) iter.Seq2[ledger.UnitLeaf, error] {
	return func(yield func(ledger.UnitLeaf, error) bool) {
		for n := range s.units {
			for _, e := range s.unit(n) {
				stored, err := json.Marshal(e)
				if !yield(ledger.UnitLeaf{Unit: e.Unit, Leaf: ledger.Leaf{Seq: e.Seq, Bytes: stored}}, err) {
					return
				}
			}
		}
	}
}

func (s *endless) Leaves(ctx context.Context, _ int64) iter.Seq2[ledger.Leaf, error] {
	return func(yield func(ledger.Leaf, error) bool) {
		for leaf, err := range s.UnitLeaves(ctx) {
			if !yield(leaf.Leaf, err) {
				return
			}
		}
	}
}

func (s *endless) UnitRows(context.Context) iter.Seq2[ledger.UnitRow, error] {
	return func(yield func(ledger.UnitRow, error) bool) {
		for n := range s.units {
			var u records.Unit
			for _, e := range s.unit(n)[1:] {
				var err error
				if u, err = records.ApplyUnit(u, e); err != nil {
					yield(ledger.UnitRow{}, err)
					return
				}
			}
			body, err := json.Marshal(u)
			if !yield(ledger.UnitRow{ID: u.ID, State: u.State, Body: body}, err) {
				return
			}
		}
	}
}

func (s *endless) OwnerRows(context.Context) iter.Seq2[ledger.OwnerRow, error] {
	return func(yield func(ledger.OwnerRow, error) bool) {
		for n := range s.units {
			if !yield(ledger.OwnerRow{Space: records.HardwareSpace, Name: fmt.Sprintf("mac=%012x", n), Owner: int64(n*endlessEvents + 2)}, nil) {
				return
			}
		}
	}
}

func (s *endless) SealRows(context.Context) iter.Seq2[ledger.SealRow, error] {
	return func(func(ledger.SealRow, error) bool) {}
}

func (s *endless) OutboxRows(context.Context) iter.Seq2[ledger.OutboxRow, error] {
	return func(func(ledger.OutboxRow, error) bool) {}
}

func (s *endless) OutboxStatus(context.Context) ([]ledger.OutboxCount, error) { return nil, nil }

func (s *endless) OrderRows(context.Context) iter.Seq2[ledger.OrderRow, error] {
	return func(func(ledger.OrderRow, error) bool) {}
}
