package web

import (
	"sync"

	"nameplate/station/line"
)

// Hub hands each change of a slot to everyone who watches. A watcher that does
// not keep up loses the changes in between, never the newest: what counts is
// the slot as it is now.
type Hub struct {
	pace pace

	mu       sync.Mutex
	watchers map[*watcher]bool
}

// watcher holds the newest status of each slot that was not yet shown.
type watcher struct {
	mu    sync.Mutex
	fresh []line.Status // at most one a slot, oldest change first
	wake  chan struct{}
}

// Publish never blocks.
func (h *Hub) Publish(s line.Status) {
	h.pace.note(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.put(s)
	}
}

func (h *Hub) watch() (*watcher, func()) {
	w := &watcher{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers == nil {
		h.watchers = map[*watcher]bool{}
	}
	h.watchers[w] = true
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, w)
	}
}

func (w *watcher) put(s line.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.fresh {
		if w.fresh[i].Slot == s.Slot {
			w.fresh[i] = s
			return
		}
	}
	w.fresh = append(w.fresh, s)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []line.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := w.fresh
	w.fresh = nil
	return fresh
}
