package line

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"nameplate/flasher/link"
	"nameplate/records"
)

// cancelled is the cause of a passage that a person stopped.
type cancelled struct{ by records.Actor }

func (c cancelled) Error() string { return "cancelled by " + c.by.Kind + ":" + c.by.ID }

// boardsFault are the refusals that say something about the board itself; they
// make the verdict FAIL. Every other refusal leaves open whether the board is
// good: ERROR.
var boardsFault = map[string]bool{
	"ak-unusable":                true,
	"board-encrypted":            true,
	"board-holds-key":            true,
	"board-id-twice":             true,
	"board-locked":               true,
	"board-mixed":                true,
	"board-refuses":              true,
	"chip-unexpected":            true,
	"chip-unknown":               true,
	"csr-key":                    true,
	"csr-key-known":              true,
	"csr-name":                   true,
	"csr-signature":              true,
	"csr-unreadable":             true,
	"device-key-unusable":        true,
	"ek-certificate-expired":     true,
	"ek-certificate-invalid":     true,
	"ek-certificate-missing":     true,
	"ek-certificate-other-key":   true,
	"ek-certificate-unreadable":  true,
	"ek-certificate-untrusted":   true,
	"ek-handle-occupied":         true,
	"ek-not-for-service":         true,
	"ek-unusable":                true,
	"filesystem-full":            true,
	"filesystem-read-only":       true,
	"filesystem-sync-failed":     true,
	"filesystem-volatile":        true,
	"flash-verify-failed":        true,
	"hardware-id-unfit":          true,
	"key-known":                  true,
	"key-not-held":               true,
	"key-not-in-tpm":             true,
	"mac-invalid":                true,
	"partition-encrypted":        true,
	"partition-missing":          true,
	"partition-table-unreadable": true,
	"partition-too-large":        true,
	"partition-too-small":        true,
	"pkcs11-missing":             true,
	"tool-missing":               true,
	"tpm-activation-failed":      true,
	"tpm-disabled":               true,
	"tpm-failed":                 true,
	"tpm-full":                   true,
	"tpm-handle-occupied":        true,
	"tpm-key-wrong":              true,
	"tpm-locked-out":             true,
	"tpm-missing":                true,
	"tpm-owned":                  true,
	"tpm-refuses":                true,
	"tpm-signature-wrong":        true,
	"verify-mismatch":            true,
}

// ending is how a passage ended short of PASS.
type ending struct {
	Outcome Outcome
	Verdict records.Verdict
	Refusal records.Refusal
	By      records.Actor // who stopped it, if a person did
}

// judge turns the error of a step into what happened, the verdict, and what a
// person is told.
func judge(ctx context.Context, step string, err error) ending {
	// Who works under a context that has ended may return its cause, and that can
	// be anything that stops a station, a refusal to somebody else among them: it
	// says nothing about this board.
	cause := context.Cause(ctx)
	stopped := cause != nil && (errors.Is(err, cause) || errors.Is(err, ctx.Err()))

	e := ending{Verdict: records.Error}
	var person cancelled
	r, refused := refusal(err)
	switch {
	case refused && !stopped:
		e.Outcome, e.Refusal = Refused, *r
		e.Refusal.Sentence = clip(r.Sentence)
		if boardsFault[r.Code] {
			e.Verdict = records.Fail
		}
		return e
	case errors.Is(err, link.ErrBusy):
		e.Outcome = Broken
		e.Refusal = records.Refusal{Code: "port-in-use", Sentence: "Another program holds the port of this slot.",
			Next: "Close that program, then put the board back."}
	case errors.Is(err, link.ErrGone) && !stopped:
		e.Outcome = LinkLost
		e.Refusal = records.Refusal{Code: "link-lost", Sentence: fmt.Sprintf("The connection to the board broke during %q.", step),
			Next: "Check the cable and put the board back: it goes on where it stopped."}
	case errors.As(cause, &person):
		e.Outcome, e.By = Cancelled, person.by
		e.Refusal = records.Refusal{Code: "cancelled", Sentence: fmt.Sprintf("The passage was cancelled during %q.", step),
			Next: "Put the board back when you want to go on: it keeps its identity."}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(cause, context.DeadlineExceeded):
		e.Outcome = TimedOut
		e.Refusal = records.Refusal{Code: "step-timeout", Sentence: fmt.Sprintf("The step %q did not end within its limit.", step),
			Next: "Put the board back once; if it happens again, set the board aside."}
	case cause != nil:
		e.Outcome = Cancelled
		e.Refusal = records.Refusal{Code: "station-stopping", Sentence: fmt.Sprintf("The station stopped during %q.", step),
			Next: "Start the station again with the board in its slot: it goes on where it stopped."}
	default:
		e.Outcome = Broken
		e.Refusal = records.Refusal{Code: "station-error", Sentence: fmt.Sprintf("The station could not finish %q.", step),
			Next: "Call the process engineer; the station's log says why."}
	}
	e.Refusal.Err = err
	return e
}

// maxSentence is more than any sentence of ours; what a board says may stand in one.
const maxSentence = 500

// clip keeps a sentence short and text: it stays in the ledger and stands on screens.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if runes := []rune(s); len(runes) > maxSentence {
		return string(runes[:maxSentence-1]) + "…"
	}
	return s
}
