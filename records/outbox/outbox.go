// Package outbox makes released identities known to a customer's provisioning
// service: one worker per customer, at the customer's rate, for as long as it
// takes. It never holds up the line, and one bad record holds up no other.
//
// Nothing here need survive a crash: an item leaves the outbox by an event, and
// pushing an item again is harmless, because the service is asked to create and
// never to overwrite, and what it holds already is compared by content.
package outbox

import (
	"context"
	"fmt"
	"time"

	"nameplate/records"
)

// Secret is bytes that must never be printed: every fmt verb and every marshaller
// yields a placeholder.
type Secret []byte

const placeholder = "[secret]"

func (Secret) String() string               { return placeholder }
func (Secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, placeholder) }
func (Secret) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// Item is one identity to be enrolled.
type Item struct {
	Unit           records.UnitID
	RegistrationID string
	Attestation    string // records.SymmetricKey, records.X509 or records.TPM
	Key            Secret // the device's key, for symmetricKey; wiped after the push
	DER            []byte // the leaf, for x509
	EndorsementKey []byte // TPM2B_PUBLIC of the endorsement key, for tpm
}

// Pusher makes identities known. It returns one answer per item, in their order,
// or an error, usually a *CallError, that speaks for all of them. It must be safe
// for concurrent use, hold to its service's rate, never overwrite what the
// service holds, and answer Accepted for what it holds already with equal content.
type Pusher interface {
	Push(ctx context.Context, items []Item) ([]Answer, error)
}

// MaxItems is how many items one Push may carry: the service's bulk limit.
const MaxItems = 10

// Outcome is what became of one item.
type Outcome int

const (
	Later    Outcome = iota // not now
	Accepted                // the service knows the identity
	Refused                 // for good: set aside for a person
)

// Answer is the service's word on one item.
type Answer struct {
	Outcome Outcome
	ETag    string    // Accepted: as the service tells it, if it does
	Found   bool      // Accepted: it was there already, with equal content
	At      time.Time // Later: not before; zero leaves it to the worker
	// Refusal is why; never nil for Refused and Later. It holds no secret.
	Refusal *records.Refusal
}

// Trouble says whose fault a failed call is, as far as can be told.
type Trouble int

const (
	Unreachable Trouble = iota // no answer: network, 503; a filter on the way may cut off one item
	Strange                    // an answer that is not the service's: proxy, filter; an item may be the cause
	Throttled                  // too many operations: no item's fault
	Denied                     // the credential is not accepted: no item's fault
	Failed                     // a broken answer; an item may be the cause
	Invalid                    // the service cannot accept the call as it is: one item is the cause
)

// CallError says that a call failed as a whole.
type CallError struct {
	Trouble Trouble
	At      time.Time        // not before; zero leaves it to the worker
	Refusal *records.Refusal // what a person is told; holds no secret
}

func (e *CallError) Error() string { return e.Refusal.Error() }
func (e *CallError) Unwrap() error { return e.Refusal }
