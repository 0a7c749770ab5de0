package link

import (
	"bytes"
	"fmt"
	"slices"
)

// comSink is how the decoder sees a comLink, whose lock is held.
type comSink comLink

func (s *comSink) data(p []byte) error {
	if len(s.arrived)+len(p) > floodLimit {
		return fmt.Errorf("far side sent more than %d bytes of data before a confirmation", floodLimit)
	}
	s.arrived = append(s.arrived, p...)
	return nil
}

func (s *comSink) option(verb, opt byte) error {
	s.spoke = true
	reply, err := s.options.take(verb, opt)
	if err != nil || reply == nil {
		return err
	}
	select {
	case s.replies <- reply:
		return nil
	default:
		return fmt.Errorf("far side negotiates without taking %d replies", maxReplies)
	}
}

// sub takes confirmations and flow control. Notices of modem and line state,
// signatures and what else there is are of no use here.
func (s *comSink) sub(p []byte) error {
	s.spoke = true
	if len(p) < 2 || p[0] != optComPort {
		return nil
	}
	code, value := p[1], p[2:]
	switch {
	case code == comServerSuspend:
		s.suspended = true
	case code == comServerResume:
		s.suspended = false
	case code > comAnswer && len(value) > 0:
		k := kindOf(code-comAnswer, value)
		queue := s.answers[k]
		if len(queue) == 0 {
			return nil
		}
		a := queue[0]
		a.value = bytes.Clone(value)
		s.answers[k] = slices.Delete(queue, 0, 1)
		if k.code == comPurge && !a.abandoned {
			// All that the server sent before it obeyed is in front of this
			// answer.
			s.arrived = nil
		}
	}
	return nil
}
