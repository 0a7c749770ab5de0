package dps

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"nameplate/records"
	"nameplate/records/outbox"
)

// errUnknown: the service itself says that there is no such thing.
var errUnknown = errors.New("the service does not know what it was asked for")

// trouble judges an answer that is not 200.
func (c *Client) trouble(a answer) *outbox.CallError {
	said, ours := c.said(a)
	e := &outbox.CallError{At: a.wait, Refusal: &records.Refusal{Next: "The station tries again by itself."}}
	switch {
	case a.status == http.StatusTooManyRequests:
		e.Trouble, e.Refusal.Code = outbox.Throttled, "service-throttled"
		e.Refusal.Sentence = "The provisioning service asks for fewer calls."
		e.Refusal.Next += " If this goes on, lower per_minute or find out who else calls the service."
	case a.status == http.StatusServiceUnavailable:
		e.Trouble, e.Refusal.Code = outbox.Unreachable, "service-unavailable"
		e.Refusal.Sentence = "The provisioning service is not available" + said + "."
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden && ours, a.status == http.StatusProxyAuthRequired:
		return denied(fmt.Sprintf("The provisioning service does not accept this station's credential (status %d%s).", a.status, said), nil)
	case a.status == http.StatusBadRequest && ours:
		e.Trouble, e.Refusal.Code = outbox.Invalid, "enrollment-invalid"
		e.Refusal.Sentence = "The service cannot accept the enrollment" + said + "."
		e.Refusal.Next = "Correct the customer's enrollment settings, then retry the enrollment."
	case a.status >= 500:
		e.Trouble, e.Refusal.Code = outbox.Failed, "service-failed"
		e.Refusal.Sentence = fmt.Sprintf("The provisioning service failed (status %d%s).", a.status, said)
	default:
		// 404 for the whole instance, a redirect, a portal's page, a filter's 403 or
		// 413: not the service, or nothing that is documented of it.
		e.Trouble, e.Refusal.Code = outbox.Strange, "service-strange"
		e.Refusal.Sentence = fmt.Sprintf("What answers as %s does not answer like a provisioning service (status %d%s).", c.tokens.host, a.status, said)
		e.Refusal.Next = "Check the endpoint in the customer's settings and any proxy; the station tries again by itself."
		if a.status == http.StatusNotFound && ours {
			e.Refusal.Err = errUnknown
		}
	}
	return e
}

var trackingForm = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// said is what the service says of a failure, to be put into a sentence, and
// whether it said it in its own form, with a code that goes with the status.
func (c *Client) said(a answer) (text string, ours bool) {
	var f failure
	if decode(a.body, &f) != nil || f.ErrorCode/1000 != a.status {
		return "", false
	}
	text = fmt.Sprintf(", error %d", f.ErrorCode)
	if trackingForm.MatchString(f.TrackingID) {
		text += ", tracking ID " + f.TrackingID
	}
	if m := words(f.Message); m != "" {
		text += ": " + m
	}
	return text, true
}

// broken is a 200 that makes no sense.
func broken(err error) *outbox.CallError {
	return &outbox.CallError{Trouble: outbox.Failed, Refusal: &records.Refusal{Code: "service-nonsense",
		Sentence: "The provisioning service gave an answer that makes no sense: " + err.Error() + ".",
		Next:     "Check the endpoint and any proxy; the station tries again by itself.", Err: err}}
}

func denied(sentence string, err error) *outbox.CallError {
	return &outbox.CallError{Trouble: outbox.Denied, Refusal: &records.Refusal{Code: "service-denied",
		Sentence: sentence, Next: "Check the policy's name, its key file and the station's clock; the station tries again by itself.", Err: err}}
}

func unreachable(host string, err error) *outbox.CallError {
	return &outbox.CallError{Trouble: outbox.Unreachable, Refusal: &records.Refusal{Code: "service-unreachable",
		Sentence: fmt.Sprintf("The provisioning service %s cannot be reached.", host),
		Next:     "Check the network and the endpoint's name; the station tries again by itself.", Err: err}}
}
