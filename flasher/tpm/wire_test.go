package tpm_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/tpm"
)

// through is a transport made of a function.
type through func(ctx context.Context, command []byte) ([]byte, error)

func (f through) Send(ctx context.Context, command []byte) ([]byte, error) { return f(ctx, command) }

// answer is a response without parameters.
func answer(code uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, code)
}

// smallBuffer is a TPM that reads no more than 512 bytes of NV at once.
func smallBuffer(chip *fixture.TPM) tpm.Transport {
	return through(func(ctx context.Context, command []byte) ([]byte, error) {
		const nvRead, value = 0x14E, 0x1C4 // TPM_RC_VALUE, parameter 1
		if n := len(command); binary.BigEndian.Uint32(command[6:]) == nvRead && binary.BigEndian.Uint16(command[n-4:]) > 512 {
			return answer(value), nil
		}
		return chip.Send(ctx, command)
	})
}

func TestResponseCodesAreRefusals(t *testing.T) {
	for code, want := range map[uint32]string{
		0x100:   "tpm-failed",     // INITIALIZE: nobody started it
		0x101:   "tpm-failed",     // FAILURE
		0x153:   "tpm-failed",     // NEEDS_TEST
		0x921:   "tpm-locked-out", // LOCKOUT
		0x922:   "tpm-busy",       // RETRY, for ever
		0x90A:   "tpm-busy",       // TESTING
		0x902:   "tpm-busy",       // OBJECT_MEMORY
		0x14B:   "tpm-full",       // NV_SPACE
		0x9A2:   "tpm-owned",      // BAD_AUTH, session 1
		0x98E:   "tpm-owned",      // AUTH_FAIL, session 1
		0x185:   "tpm-disabled",   // HIERARCHY, handle 1
		0x143:   "tpm-refuses",    // COMMAND_CODE
		0x30B:   "tpm-refuses",    // of no known meaning
		0xB0143: "tpm-refuses",    // COMMAND_CODE, from the resource manager
	} {
		_, err := tpm.Open(limit(t), through(func(context.Context, []byte) ([]byte, error) { return answer(code), nil }))
		refusal(t, err, want)
	}
}

func TestGarbageIsUnreadable(t *testing.T) {
	for name, rsp := range map[string][]byte{
		"nothing":           {},
		"cut":               {0x80, 1, 0, 0, 0, 10, 0},
		"console noise":     []byte("[    3.14] tpm tpm0: hello\r\n"),
		"too long a length": {0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0},
		"huge length":       {0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"no parameters":     answer(0),
		"a TPM 1.2":         {0x00, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E},
		"oversized":         append([]byte{0x80, 1, 0, 0, 0x20, 0}, make([]byte, 0x2000-6)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpm.Open(limit(t), through(func(context.Context, []byte) ([]byte, error) { return rsp, nil }))
			refusal(t, err, "tpm-unreadable")
		})
	}
}

// conversation is all that a passage says to a TPM that comes fresh from its
// vendor. It is about the P-256 endorsement key, which is made faster.
func conversation(ctx context.Context, t tpm.Transport) error {
	c, err := tpm.OpenKind(ctx, t, tpm.P256)
	if err != nil {
		return err
	}
	if err := c.ProveEndorsement(ctx); err != nil {
		return err
	}
	if _, err := c.Request(ctx, deviceHandle, "unit-1"); err != nil {
		return err
	}
	if _, err := c.Prove(ctx, deviceHandle); err != nil {
		return err
	}
	return c.Close(ctx)
}

// commands counts those of a whole conversation.
func commands(t *testing.T) (n int) {
	t.Helper()
	chip := power(t, state(t, fixture.Config{}))
	if err := conversation(limit(t), through(func(ctx context.Context, command []byte) ([]byte, error) {
		n++
		return chip.Send(ctx, command)
	})); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTransportsErrorsPassUntouched(t *testing.T) {
	t.Parallel()
	gone := fmt.Errorf("talking to the board: %w", link.ErrGone)
	refused := &flasher.Refusal{Code: "console-silent"}
	for i := range commands(t) {
		for _, want := range []error{gone, refused} {
			chip := power(t, state(t, fixture.Config{}))
			n := 0
			err := conversation(limit(t), through(func(ctx context.Context, command []byte) ([]byte, error) {
				if n++; n > i {
					return nil, want
				}
				return chip.Send(ctx, command)
			}))
			if err != want {
				t.Fatalf("command %d fails with %v, the caller gets %v", i+1, want, err)
			}
			chip.Close()
		}
	}
}

func TestCallersContextEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := tpm.Open(ctx, through(func(ctx context.Context, _ []byte) ([]byte, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	var r *flasher.Refusal
	if !errors.Is(err, context.Canceled) || errors.As(err, &r) {
		t.Errorf("the caller gave up and gets %v", err)
	}
}

func TestSilentTPMEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := tpm.Open(context.Background(), through(func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		refusal(t, err, "tpm-silent")
		if took := time.Since(began); took > time.Minute {
			t.Errorf("after %v", took)
		}
	})
}

// Each response of a conversation is damaged in turn, in several ways. What
// comes of it is a refusal, or nothing where the bytes did not matter; it is
// never believed that a key is proved that is not.
func TestDamagedResponses(t *testing.T) {
	t.Parallel()
	damages := map[string]func([]byte) []byte{
		"cut in the middle": func(b []byte) []byte { return b[:len(b)/2] },
		"cut, and its length with it": func(b []byte) []byte {
			b = slices.Clone(b[:10+(len(b)-10)/2])
			binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
			return b
		},
		"the last byte lost, and its length with it": func(b []byte) []byte {
			b = slices.Clone(b[:max(10, len(b)-1)])
			binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
			return b
		},
		"no parameters": func([]byte) []byte { return answer(0) },
		"a size of 65535": func(b []byte) []byte {
			b = slices.Clone(b)
			for i := 10; i < min(len(b), 18); i++ {
				b[i] = 0xff
			}
			return b
		},
		"all zero": func(b []byte) []byte { return slices.Concat(b[:10], make([]byte, len(b)-10)) },
		"twice": func(b []byte) []byte {
			b = slices.Concat(b, b[10:])
			binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
			return b
		},
		"a bit in the middle": func(b []byte) []byte { return flip(b, 10+(len(b)-10)/2-boolInt(len(b) == 10)) },
		"another tag":         func(b []byte) []byte { return append([]byte{0x80, b[1] ^ 3}, b[2:]...) },
	}
	for i := range commands(t) {
		for name, damage := range damages {
			chip := power(t, state(t, fixture.Config{}))
			n := 0
			err := conversation(limit(t), through(func(ctx context.Context, command []byte) ([]byte, error) {
				rsp, err := chip.Send(ctx, command)
				if n++; err != nil || n != i+1 {
					return rsp, err
				}
				return damage(rsp), nil
			}))
			var r *flasher.Refusal
			if err != nil && !errors.As(err, &r) {
				t.Errorf("command %d, %s: not a refusal: %v", i+1, name, err)
			}
			chip.Close()
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
