package tpm_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/tpm"
)

// script is a TPM that says what it was told to, one response after the other.
// Its end is that of the link.
type script struct{ rest [][]byte }

func (s *script) Send(context.Context, []byte) ([]byte, error) {
	if len(s.rest) == 0 {
		return nil, link.ErrGone
	}
	rsp := s.rest[0]
	s.rest = s.rest[1:]
	return slices.Clone(rsp), nil
}

// talk asks a TPM for everything, whatever comes of it.
func talk(ctx context.Context, t tpm.Transport, kind tpm.Kind) []error {
	c, err := tpm.OpenKind(ctx, t, kind)
	if err != nil {
		return []error{err}
	}
	c.Endorsement()
	c.RegistrationID()
	failed := []error{c.ProveEndorsement(ctx)}
	_, err = c.KeyHeld(ctx, deviceHandle)
	failed = append(failed, err)
	_, err = c.Request(ctx, deviceHandle, "unit-1")
	failed = append(failed, err)
	_, err = c.Prove(ctx, deviceHandle)
	return append(failed, err, c.Close(ctx))
}

// FuzzResponses lets a board say whatever it likes in one place of a real
// conversation: it cannot crash the station, and each failure says what it is.
func FuzzResponses(f *testing.F) {
	said := map[tpm.Kind][][]byte{}
	for _, kind := range []tpm.Kind{tpm.RSA2048, tpm.P384} {
		chip := power(f, state(f, fixture.Config{}))
		for _, err := range talk(limit(f), through(func(ctx context.Context, command []byte) ([]byte, error) {
			rsp, err := chip.Send(ctx, command)
			said[kind] = append(said[kind], rsp)
			return rsp, err
		}), kind) {
			if err != nil {
				f.Fatal(err)
			}
		}
		chip.Close()
		for i, rsp := range said[kind] {
			f.Add(kind == tpm.P384, uint(i), rsp)
		}
	}
	f.Fuzz(func(t *testing.T, ecc bool, i uint, rsp []byte) {
		kind := tpm.RSA2048
		if ecc {
			kind = tpm.P384
		}
		s := &script{slices.Clone(said[kind])}
		s.rest[i%uint(len(s.rest))] = rsp
		for _, err := range talk(t.Context(), s, kind) {
			var r *flasher.Refusal
			if err != nil && !errors.As(err, &r) && err != link.ErrGone {
				t.Errorf("not explained: %v", err)
			}
		}
	})
}
