package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// maxUnconfirmed bounds the commands of one kind whose callers gave up waiting.
const maxUnconfirmed = 16

// command is one client command of RFC 2217. If it is optional, a server that
// confirms the others in a segment will not confirm it.
type command struct {
	code     byte
	value    []byte
	optional bool
}

// answer is a confirmation to come. The server confirms in order, so those of
// one kind form a queue, and an answer whose caller gave up keeps its place.
type answer struct {
	value     []byte // nil until it came
	abandoned bool
}

// kind tells which answers belong to which commands: the code, and for
// SET-CONTROL what it is about (flow 0-3, break 4-6, DTR 7-9, RTS 10-12, inbound
// flow from 13), by the first value.
type kind struct{ code, group byte }

func kindOf(code byte, value []byte) kind {
	k := kind{code: code}
	if code == comSetControl {
		for _, first := range []byte{4, 7, 10, 13} {
			if value[0] >= first {
				k.group = first
			}
		}
	}
	return k
}

// ask sends commands in one segment and returns the values of their answers,
// none of which is empty; that of an optional command may be nil.
func (l *comLink) ask(ctx context.Context, commands ...command) ([][]byte, error) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	answers, err := l.sendCommands(limited, commands)
	l.Lock()
	defer l.Unlock()
	come := func() bool {
		for i, a := range answers {
			if a.value == nil && !commands[i].optional {
				return false
			}
		}
		return true
	}
	if err == nil {
		l.asking++
		l.changed() // the receiver may have stopped at bufferLimit
		err = l.await(limited, func() bool { return come() || l.err != nil })
		l.asking--
	}
	if err == nil && !come() {
		err = l.err
	}
	if err != nil {
		for _, a := range answers {
			a.abandoned = true
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("far side did not confirm command %d within %v", commands[0].code, answerLimit)
		}
		return nil, err
	}
	l.forget(answers) // those that did not come
	values := make([][]byte, len(answers))
	for i, a := range answers {
		values[i] = a.value
	}
	return values, nil
}

// sendCommands returns the answers to expect, also with an error: a packet once
// begun is finished by whoever sends next, and then it will be confirmed.
func (l *comLink) sendCommands(ctx context.Context, commands []command) ([]*answer, error) {
	var packet []byte
	for _, c := range commands {
		packet = append(packet, iac, iacSB, optComPort, c.code)
		packet = appendEscaped(packet, c.value)
		packet = append(packet, iac, iacSE)
	}
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	defer l.release()
	answers, err := l.expect(commands)
	if err != nil {
		return nil, err
	}
	sent, err := l.send(ctx, packet)
	switch {
	case err != nil && sent == 0:
		l.Lock()
		defer l.Unlock()
		l.forget(answers)
		return nil, err
	case err != nil:
		l.unfinished = packet[sent:]
	}
	return answers, err
}

// expect puts an answer for each command into its queue.
func (l *comLink) expect(commands []command) ([]*answer, error) {
	l.Lock()
	defer l.Unlock()
	answers := make([]*answer, len(commands))
	for i, c := range commands {
		k := kindOf(c.code, c.value)
		if len(l.answers[k]) >= maxUnconfirmed {
			return nil, fmt.Errorf("far side left %d commands %d unconfirmed", maxUnconfirmed, c.code)
		}
		answers[i] = &answer{}
		l.answers[k] = append(l.answers[k], answers[i])
	}
	return answers, nil
}

// forget takes answers that will not come out of their queues. The lock is held.
func (l *comLink) forget(answers []*answer) {
	for k, queue := range l.answers {
		l.answers[k] = slices.DeleteFunc(queue, func(a *answer) bool { return slices.Contains(answers, a) })
	}
}
