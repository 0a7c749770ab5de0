package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
)

// Waits between tries when the service names none: doubled each time, with
// jitter so that stations that failed together do not come back together. The
// last is short, because one call a minute hurts nobody and the line's owner
// waits for the network to be back.
const (
	minBackoff = time.Second
	maxBackoff = time.Minute
)

// backoff is the wait after the n-th failure in a row, n from 0.
func backoff(n int) time.Duration {
	d := minBackoff << min(n, 10)
	d = min(d, maxBackoff)
	return max(minBackoff, d/2+rand.N(d/2+1))
}

// suspect is an item that was in calls which failed as a whole. Such a call counts
// against it once others have been accepted since its first: before that, the
// service or the way to it is as likely the cause.
type suspect struct {
	since    int // Worker.accepted at the first such call
	seen     int // Worker.accepted at the last
	together int // those that count, with others in the call
	lone     int // those that count, alone, others being accepted in between
}

const (
	// togetherLimit is how many failed calls an item may share before it must go
	// alone: one or two are a service or a network having a bad minute.
	togetherLimit = 3
	// loneLimit is how many it may break alone, while others pass, before it is
	// set aside.
	loneLimit = 3
	// outage is how many calls in a row must fail before the service, and not
	// what it was given, is taken to be in trouble.
	outage = 2
)

// alone says that the item must not share a call.
func (s *suspect) alone() bool { return s != nil && s.together >= togetherLimit }

// answered records what the service said of each item of one call.
func (w *Worker) answered(ctx context.Context, group []ledger.OutboxItem, answers []Answer) error {
	w.mu.Lock()
	w.failures = 0
	for i, a := range answers {
		if a.Outcome == Accepted {
			w.accepted++
		}
		if a.Outcome != Later {
			delete(w.doubts, group[i].Unit)
		}
	}
	w.mu.Unlock()

	bodies := make(map[records.UnitID]records.Body)
	for i, a := range answers {
		it := group[i]
		switch a.Outcome {
		case Accepted:
			bodies[it.Unit] = records.EnrollmentAccepted{RegistrationID: it.RegistrationID, ETag: a.ETag, Found: a.Found}
		case Refused:
			bodies[it.Unit] = w.rejected(it, a.Refusal)
		default:
			at := a.At
			if at.IsZero() {
				at = time.Now().Add(backoff(it.Tries))
			}
			if err := w.putOff(ctx, group[i:i+1], at, a.Refusal.Error()); err != nil {
				return err
			}
		}
	}
	return w.record(ctx, group, bodies)
}

// rejected is the event that sets the item aside.
func (w *Worker) rejected(it ledger.OutboxItem, r *records.Refusal) records.EnrollmentRejected {
	w.log.Warn().Stringer("unit", it.Unit).Str("registration_id", it.RegistrationID).
		Str("code", r.Code).Msg("enrollment set aside: " + r.Error())
	return records.EnrollmentRejected{RegistrationID: it.RegistrationID, Code: r.Code, Sentence: r.Sentence}
}

// record appends the events. The service's word is a fact: it is written even if
// the item has left the outbox some other way, unless it is known already.
func (w *Worker) record(ctx context.Context, group []ledger.OutboxItem, bodies map[records.UnitID]records.Body) error {
	if len(bodies) == 0 {
		return nil
	}
	_, err := w.cfg.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		var drafts []records.Draft
		for _, it := range group {
			u, err := v.Unit(it.Unit)
			if err != nil {
				return nil, err
			}
			if body := bodies[it.Unit]; body != nil && u.Enrollment != records.EnrollmentDone {
				drafts = append(drafts, records.Draft{Actor: w.cfg.Actor, Unit: u.ID, Order: u.Order, Body: body})
			}
		}
		return drafts, nil
	})
	if err != nil {
		return fmt.Errorf("recording enrollments: %w", err)
	}
	return nil
}

// failed deals with a call that failed as a whole.
func (w *Worker) failed(ctx context.Context, group []ledger.OutboxItem, err error) error {
	var call *CallError
	if !errors.As(err, &call) {
		call = &CallError{Trouble: Failed, Refusal: &records.Refusal{Code: "enrollment-failed",
			Sentence: "The provisioning service could not be used.", Next: "The station tries again by itself.", Err: err}}
	}
	w.log.Warn().Err(errors.Unwrap(call.Refusal)).Str("code", call.Refusal.Code).Int("items", len(group)).Msg(call.Error())

	poison, failures := w.blame(group, call)
	if poison != nil {
		return w.record(ctx, group, map[records.UnitID]records.Body{group[0].Unit: w.rejected(group[0], poison)})
	}
	if call.Trouble == Invalid {
		return nil // still due, each alone from now on
	}
	hold := call.At
	if hold.IsZero() {
		hold = time.Now().Add(backoff(failures - 1))
	}
	switch {
	case call.Trouble == Throttled:
		w.cfg.Pace.Hold(hold) // for all who share the service
	case call.Trouble == Denied || failures >= outage || !call.At.IsZero():
		w.hold(hold)
	}
	// What fails again and again waits longer, however well the others fare.
	at := time.Now().Add(backoff(max(failures-1, group[0].Tries)))
	if call.At.After(at) {
		at = call.At
	}
	return w.putOff(ctx, group, at, call.Error())
}

// blame counts a failed call and suspects its items of it. It returns a refusal
// if the call's only item is to be set aside, and how many calls in a row have
// now failed; a call that is Invalid does not count.
func (w *Worker) blame(group []ledger.OutboxItem, call *CallError) (poison *records.Refusal, failures int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call.Trouble == Invalid {
		w.failures = 0 // the service works
		if len(group) == 1 {
			delete(w.doubts, group[0].Unit)
			return call.Refusal, 0
		}
	} else if w.failures == 0 || !w.heldUntil().After(time.Now()) {
		// Calls that were under way together fail together: those that end while
		// the worker is held already are not counted.
		w.failures++
	}
	if call.Trouble == Throttled || call.Trouble == Denied {
		return nil, w.failures
	}
	for _, it := range group {
		s := w.doubts[it.Unit]
		if s == nil {
			s = &suspect{since: w.accepted, seen: w.accepted}
			w.doubts[it.Unit] = s
		}
		switch {
		case call.Trouble == Invalid:
			s.together = togetherLimit
		case w.accepted == s.since:
		case len(group) > 1:
			s.together++
		default:
			s.together = togetherLimit
			// A bad network cuts off lone items too: that sets nothing aside.
			if call.Trouble != Unreachable && w.accepted > s.seen {
				s.lone++
			}
		}
		s.seen = w.accepted
	}
	if it := group[0]; w.doubts[it.Unit].lone == loneLimit {
		delete(w.doubts, it.Unit)
		return &records.Refusal{Code: "enrollment-breaks-service",
			Sentence: fmt.Sprintf("The service fails whenever it is given %s, and accepts others: %s", it.RegistrationID, call.Refusal.Sentence),
			Next:     "Have the service's owner look at it, then retry the enrollment."}, w.failures
	}
	return nil, w.failures
}
