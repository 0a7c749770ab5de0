package web

import (
	"context"
	"net/http"
	"time"

	"nameplate/station/api"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/sse"
)

// watchRoute streams each slot's present state, then every change, as
// server-sent events. A stream ends with its reader or with the station.
func (s *Server) watchRoute(routes huma.API) {
	sse.Register(routes, huma.Operation{OperationID: "slot-watch", Method: http.MethodGet, Path: "/slots/watch", Summary: "slot watch"},
		map[string]any{"slot": api.Slot{}},
		func(ctx context.Context, _ *struct{}, send sse.Sender) {
			w, done := s.Hub.watch()
			defer done()
			for _, slot := range s.Slots {
				st := slot.Status()
				if send.Data(Slot(st, s.Home.Port(st.Slot))) != nil {
					return
				}
			}
			pace := time.NewTicker(frame)
			defer pace.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-w.wake:
				}
				for _, st := range w.take() {
					if send.Data(Slot(st, s.Home.Port(st.Slot))) != nil {
						return
					}
				}
				select { // what changes faster than the eye sees is sent once
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
}

// frame is the shortest time between two pictures of a slot.
const frame = 50 * time.Millisecond
