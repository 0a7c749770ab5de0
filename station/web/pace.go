package web

import (
	"slices"
	"sync"
	"time"

	"nameplate/records"
	"nameplate/station/line"
)

// recentPasses is how many units tell how fast an order goes: enough that one
// slow unit does not show, few enough that a change does.
const recentPasses = 25

// pace is how long the units of each order took, since the station started.
type pace struct {
	mu      sync.Mutex
	took    map[string][]time.Duration // by order, the newest last
	counted map[string]time.Time       // by slot: the end of the last passage that was counted
}

// note counts a passage that has ended with PASS, once however often it is told.
func (p *pace) note(s line.Status) {
	if s.State != line.Done || s.Verdict != records.Pass {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Ended.Equal(p.counted[s.Slot]) {
		return
	}
	if p.took == nil {
		p.took, p.counted = map[string][]time.Duration{}, map[string]time.Time{}
	}
	p.counted[s.Slot] = s.Ended
	last := append(p.took[s.Order], s.Ended.Sub(s.Started))
	p.took[s.Order] = last[max(0, len(last)-recentPasses):]
}

// median is the seconds per unit of an order: half of its last passages with
// PASS took longer, from the board's arrival to the verdict, half did not. It is
// 0 when there was none. How many slots work side by side, or how long boards
// are changed, does not count.
func (p *pace) median(order string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := slices.Sorted(slices.Values(p.took[order]))
	if len(took) == 0 {
		return 0
	}
	middle := len(took) / 2
	if len(took)%2 == 1 {
		return took[middle]
	}
	return (took[middle-1] + took[middle]) / 2
}
