// Package line is the engine: it takes one board after another through the path
// of a unit. A Slot waits for a board and runs a passage; a passage is a list of
// steps; a step writes its fact to the ledger before the effect that the fact
// announces. The path, and what happens when the station dies at any point of
// it, is one program: a unit that comes back is taken up where its events say it
// is (see steps.go, resume).
package line

import (
	"context"
	"fmt"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/records"

	"github.com/rs/zerolog"
)

// Ledger is what the line writes to.
type Ledger interface {
	Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error)
}

// Issuer signs device certificates.
type Issuer interface {
	Issue(ctx context.Context, r ca.Request) (ca.Issued, error)
	// Chain is what stands above a customer's certificates, DER: issuing CA, root.
	Chain(customer string) ([][]byte, error)
}

// Secrets keeps what must survive until the device holds it.
type Secrets interface {
	Seal(ref string, secret []byte) ([]byte, error)
	Reveal(ctx context.Context, ref string) ([]byte, error)
}

// Job is a work order as the line needs it: what its product and customer were
// when it was opened.
type Job struct {
	Order        string
	Attestation  string
	Driver       flasher.Driver
	Options      flasher.Options
	Organization string // of the leaf's subject
	ValidDays    int    // of the leaf
	Issuer       string // SHA-256 of the CA's certificate that the order was opened with; for x509
	EK           EK     // for boards with a TPM
	Limits       Limits
}

// EK is what is asked of the certificate of a board's endorsement key.
type EK struct {
	Policy ek.Policy
	Roots  *ek.Roots // those that the order was opened with; nil for a policy that looks at none
}

// Limits bound each step, and a passage as a whole.
type Limits struct {
	Identify, Write, Verify, Passage time.Duration
}

// recordLimit bounds the steps that touch only the ledger and the CA: they take
// milliseconds, and seconds on a disk in trouble.
const recordLimit = 30 * time.Second

// closeLimit bounds what is still done for a passage that was cancelled or ran
// out of time: its last event, and the reset of the board.
const closeLimit = 10 * time.Second

// Config is what a Slot needs.
type Config struct {
	Slot    string
	Port    link.Port
	Auto    bool          // a passage starts when the port appears
	Order   string        // the first order; may be empty
	Actor   records.Actor // of passages that start by themselves
	Ledger  Ledger
	Issuer  Issuer
	Secrets Secrets
	Jobs    func(ctx context.Context, order string) (Job, error)
	// Released is called after a unit was released, to wake the pusher.
	Released func(customer string)
	// Changed is called with each change of the slot's status, in order. It must
	// not block.
	Changed func(Status)
	Log     zerolog.Logger
}

// State is what a slot shows.
type State string

const (
	Empty   State = "empty"   // nothing is in it
	Waiting State = "waiting" // something is in it; a start or an order is missing
	Running State = "running"
	Done    State = "done" // the passage is over; the board is still in
)

// Status is a slot as it is now.
type Status struct {
	Slot           string            `json:"slot"`
	State          State             `json:"state"`
	Order          string            `json:"order,omitempty"`
	Passage        records.PassageID `json:"passage,omitempty"`
	Unit           records.UnitID    `json:"unit,omitempty"`
	Serial         string            `json:"serial,omitempty"`
	RegistrationID string            `json:"registration_id,omitempty"`
	Step           string            `json:"step,omitempty"`
	Done           int64             `json:"done,omitempty"` // bytes of the step
	Total          int64             `json:"total,omitempty"`
	Verdict        records.Verdict   `json:"verdict,omitempty"`
	Code           string            `json:"code,omitempty"`
	Sentence       string            `json:"sentence,omitempty"`
	Next           string            `json:"next,omitempty"`
	Started        time.Time         `json:"started,omitzero"`
	Ended          time.Time         `json:"ended,omitzero"`
}

// Result is what a step asks the engine to do next.
type Result int

const (
	Continue Result = iota // the step did its work
	Skip                   // there was nothing to do
)

// Outcome is what happened to a step.
type Outcome int

const (
	Completed Outcome = iota
	Skipped
	Refused   // somebody said no, with a reason
	TimedOut  // the step's limit ran out
	Cancelled // a person or the station's end stopped it
	LinkLost  // the cable or the board is gone
	Broken    // the station could not do its part
)

func (o Outcome) String() string {
	switch o {
	case Completed:
		return "completed"
	case Skipped:
		return "skipped"
	case Refused:
		return "refused"
	case TimedOut:
		return "timed out"
	case Cancelled:
		return "cancelled"
	case LinkLost:
		return "link lost"
	case Broken:
		return "broken"
	}
	return fmt.Sprintf("outcome %d", int(o))
}
