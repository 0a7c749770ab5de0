package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Transport carries one whole command to a TPM and brings the whole response.
// It is used by one goroutine at a time.
type Transport interface {
	Send(ctx context.Context, command []byte) ([]byte, error)
}

const (
	// commandLimit bounds a command but one; TPMs answer within seconds.
	commandLimit = 30 * time.Second
	// primaryLimit bounds TPM2_CreatePrimary: a small TPM may look for the primes
	// of an RSA key for more than a minute.
	primaryLimit = 3 * time.Minute

	// resends is how often a command is sent again that the TPM was not able to
	// start: it has something to note down before (TPM 2.0 Part 2, 6.6.3: RETRY).
	resends = 3

	headerSize = 10
	// maxResponse is what TPMs and their drivers agree on as the longest response.
	maxResponse = 4096

	tag12 = 0x00C4 // the tag of a TPM 1.2's responses (TPM_TAG_RSP_COMMAND)
)

// wire gives go-tpm what it sends commands with, for one call: it carries the
// call's context, for which go-tpm has no room, and keeps what the transport
// said of the last command, which go-tpm may wrap.
type wire struct {
	ctx context.Context
	t   Transport
	err error
}

func (w *wire) Send(command []byte) ([]byte, error) {
	limit := commandLimit
	if len(command) >= headerSize && tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCCreatePrimary {
		limit = primaryLimit
	}
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	w.err = nil
	rsp, err := w.t.Send(ctx, command)
	for again := 0; again < resends && err == nil && whole(rsp) == nil && code(rsp) == tpm2.TPMRCRetry; again++ {
		rsp, err = w.t.Send(ctx, command)
	}
	switch {
	case err != nil && w.ctx.Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		// Our own limit: the caller has not given up, so his context's error
		// would tell him a lie.
		w.err = silent(fmt.Errorf("waiting %v for a response", limit))
	case err != nil:
		w.err = err
	default:
		if err = whole(rsp); err != nil {
			w.err = unreadable(err)
		}
	}
	if w.err != nil {
		return nil, w.err
	}
	return rsp, nil
}

// code is the response code of a whole response.
func code(rsp []byte) tpm2.TPMRC { return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) }

// whole checks that a response is one: its tag, and the length that it says
// (TPM 2.0 Part 1, 18).
func whole(rsp []byte) error {
	if len(rsp) < headerSize || len(rsp) > maxResponse {
		return fmt.Errorf("a response of %d bytes", len(rsp))
	}
	switch tag := binary.BigEndian.Uint16(rsp); tpm2.TPMST(tag) {
	case tpm2.TPMSTNoSessions, tpm2.TPMSTSessions:
	case tag12:
		return errors.New("it answers like a TPM 1.2")
	default:
		return fmt.Errorf("a response with tag %#04x", tag)
	}
	if n := binary.BigEndian.Uint32(rsp[2:]); int64(n) != int64(len(rsp)) {
		return fmt.Errorf("a response of %d bytes says that it has %d", len(rsp), n)
	}
	return nil
}
