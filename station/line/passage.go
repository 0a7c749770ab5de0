package line

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"nameplate/flasher"
	"nameplate/records"

	"github.com/rs/zerolog"
)

// passage is one attempt of a unit: what it has found and made so far. It lives
// as long as the attempt; all that must outlive it is in the ledger.
type passage struct {
	Config
	order string
	actor records.Actor
	show  func(func(*Status))
	log   zerolog.Logger

	step string // the running one
	job  Job
	id   records.PassageID
	dev  flasher.Device
	unit records.Unit // as of the last event

	key   flasher.Secret // the private key (PEM) or symmetric key, in memory until verified
	csr   []byte
	chain []byte // PEM: leaf and issuing CA

	// found is what a unit that came back holds; set when it is all that it
	// should hold, so that nothing needs to be made or written.
	found flasher.Manifest
}

type step struct {
	name  string
	limit time.Duration
	run   func(context.Context) (Result, error)
}

// run takes the board in the slot through all steps and closes the passage. The
// error is nil or wraps ErrStop.
func (p *passage) run(ctx context.Context) (ending, error) {
	if err := p.open(ctx); err != nil {
		if errors.Is(err, ErrStop) {
			return judge(ctx, "open", err), err
		}
		p.log.Warn().Err(err).Msg("passage not opened")
		return judge(ctx, "open", err), nil
	}
	p.log = p.log.With().Stringer("passage", p.id).Logger()
	ctx, cancel := context.WithTimeout(ctx, p.job.Limits.Passage)
	defer cancel()

	end, err := p.steps(ctx)
	// Once the passage is open it is closed and the board let go, whatever ended
	// it: hence a context of its own.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancelLast()
	if err == nil && end.Verdict != records.Pass {
		err = p.close(last, end)
	}
	if p.dev != nil {
		if err := p.dev.Close(last); err != nil {
			p.log.Warn().Err(err).Msg("board not reset into its application")
		}
	}
	p.key.Wipe()
	event := p.log.Info()
	if end.Verdict != records.Pass {
		event = p.log.Warn().Str("code", end.Refusal.Code).AnErr("cause", end.Refusal.Err)
	}
	event.Str("verdict", string(end.Verdict)).Stringer("outcome", end.Outcome).
		Str("registration_id", p.unit.RegistrationID).Msg("passage closed")
	if err != nil && !errors.Is(err, ErrStop) {
		// The passage stays open in the ledger; start-up closes it as ERROR.
		err = fmt.Errorf("closing passage %s: %w: %w", p.id, ErrStop, err)
	}
	return end, err
}

// steps runs the steps in order; the last one closes a passage that passed.
func (p *passage) steps(ctx context.Context) (ending, error) {
	done := 0
	for _, st := range []step{
		{"identify", p.job.Limits.Identify, p.identify},
		{"claim", recordLimit, p.claim},
		{"resume", p.job.Limits.Verify, p.resume},
		{"key", p.job.Limits.Write, p.makeKey}, // the device may make it, over its link
		{"issue", recordLimit, p.issue},
		{"write", p.job.Limits.Write, p.write},
		{"verify", p.job.Limits.Verify, p.verify},
		{"release", recordLimit, p.release},
	} {
		p.step = st.name
		p.show(func(s *Status) { s.Step, s.Done, s.Total = st.name, 0, 0 })
		stepCtx, cancel := context.WithTimeout(ctx, st.limit)
		result, err := st.run(stepCtx)
		cancel()
		if errors.Is(err, ErrStop) {
			return judge(ctx, st.name, err), err
		}
		if err != nil {
			end := judge(ctx, st.name, err)
			p.log.Warn().Str("step", st.name).Stringer("outcome", end.Outcome).Err(err).Msg("step ended the passage")
			return end, nil
		}
		outcome := Completed
		if result == Skip {
			outcome = Skipped
		} else {
			done++
		}
		p.log.Debug().Str("step", st.name).Stringer("outcome", outcome).Msg("step")
	}
	if done == 0 { // P4: no step, no PASS
		return judge(ctx, "all steps", fmt.Errorf("every step was skipped")), nil
	}
	return ending{Outcome: Completed, Verdict: records.Pass}, nil
}

// open reads the order and writes that something is in the slot.
// If we stop after passage.opened: start-up closes it as ERROR, "put it back".
func (p *passage) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	job, err := p.Jobs(ctx, p.order)
	if err != nil {
		return err
	}
	p.job = job
	events, err := p.record(ctx, func(v records.View) ([]records.Draft, error) {
		return []records.Draft{p.draft(records.NewPassage, records.PassageOpened{Slot: p.Slot})}, nil
	})
	if err != nil {
		return err
	}
	p.id = events[0].Passage
	p.show(func(s *Status) { s.Passage = p.id })
	return nil
}

// close writes how the passage ended, and for a refused or failed board what was
// wrong with it, in one transaction. A board that was turned away under a known
// unit's name may be another board: that unit has not failed, and it is not let
// go.
func (p *passage) close(ctx context.Context, end ending) error {
	admitted := p.unit.ID != 0 && p.unit.Passage == p.id
	_, err := p.record(ctx, func(v records.View) ([]records.Draft, error) {
		var drafts []records.Draft
		r := end.Refusal
		if admitted {
			// An order that was closed meanwhile could not take this claim back.
			back, due, err := records.GiveBack(v, p.unit.ID, p.order, end.Verdict == records.Fail)
			if err != nil {
				return nil, err
			}
			if due {
				drafts = append(drafts, p.draft(p.id, back))
			}
		}
		switch {
		case end.Verdict == records.Fail && admitted:
			drafts = append(drafts, p.draft(p.id, records.UnitFailed{Step: p.step, Code: r.Code, Sentence: r.Sentence}))
		case end.Outcome == Refused:
			refused := records.UnitRefused{Step: p.step, Code: r.Code, Sentence: r.Sentence}
			if p.dev != nil {
				refused.Hardware = slices.DeleteFunc(hardwareToRecords(p.dev.Facts().HardwareIDs), func(h records.HardwareID) bool { return !h.Fit() })
			}
			drafts = append(drafts, p.draft(p.id, refused))
		}
		closed := p.draft(p.id, records.PassageClosed{Slot: p.Slot, Verdict: end.Verdict, Code: r.Code, Text: r.Sentence})
		if !admitted {
			closed.Unit = 0
		}
		if end.By != (records.Actor{}) {
			closed.Actor = end.By
		}
		return append(drafts, closed), nil
	})
	return err
}

// draft is an event of this passage, about its unit if that is known.
func (p *passage) draft(id records.PassageID, b records.Body) records.Draft {
	return records.Draft{Actor: p.actor, Unit: p.unit.ID, Order: p.order, Passage: id, Body: b}
}

// record writes to the ledger and takes over the unit's new state. When it
// returns without error, the events are on disk; nothing is read after them that
// could fail, or a passage could end without knowing what it has written.
func (p *passage) record(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	events, err := p.Ledger.Do(ctx, decide)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Unit == 0 {
			continue
		}
		if p.unit, err = records.ApplyUnit(p.unit, e); err != nil { // the ledger has just done the same
			return nil, fmt.Errorf("following the ledger: %w: %w", ErrStop, err)
		}
	}
	u := p.unit
	p.show(func(s *Status) { s.Unit, s.Serial, s.RegistrationID = u.ID, u.Serial, u.RegistrationID })
	return events, nil
}

// fact records one event about the unit.
func (p *passage) fact(ctx context.Context, b records.Body) error {
	_, err := p.record(ctx, func(records.View) ([]records.Draft, error) {
		return []records.Draft{p.draft(p.id, b)}, nil
	})
	return err
}
