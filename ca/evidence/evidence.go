// Package evidence holds what a board proves of its keys against what the proof
// must be: that its TPM holds the endorsement key and the attestation key, that a
// device key is in that TPM, that a certificate request is by that key. All are
// pure functions of recorded bytes, so that replay can make every check again.
package evidence

import (
	"errors"
	"fmt"

	"nameplate/ca"
)

// findings collects one sentence per failed check.
type findings []error

func (f *findings) check(ok bool, sentence string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf(sentence, args...))
	}
}

func (f *findings) wrap(err error, sentence string) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", sentence, err))
	}
}

// refusal is no with what was found as its cause, or nil.
func (f findings) refusal(no ca.Refusal) error {
	if len(f) == 0 {
		return nil
	}
	no.Err = errors.Join(f...)
	return &no
}

const again = "Set the board aside if a second passage ends the same way."
