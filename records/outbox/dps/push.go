package dps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"nameplate/records"
	"nameplate/records/outbox"
)

// Push creates the items' enrollments in one bulk call of mode "create", which
// changes nothing that exists. An item that exists is fetched and compared.
func (c *Client) Push(ctx context.Context, items []outbox.Item) ([]outbox.Answer, error) {
	answers := make([]outbox.Answer, len(items))
	body := bulk{Mode: "create"}
	var sent []outbox.Item
	var places []int // of those sent, in items
	for i, it := range items {
		e, err := c.settings.enroll(it)
		if err != nil {
			answers[i] = outbox.Answer{Outcome: outbox.Refused, Refusal: &records.Refusal{Code: "enrollment-incomplete",
				Sentence: fmt.Sprintf("%s cannot be enrolled: %s.", it.RegistrationID, err),
				Next:     "Have the station's maintainer look at the unit's record.", Err: err}}
			continue
		}
		body.Enrollments = append(body.Enrollments, e)
		sent, places = append(sent, it), append(places, i)
	}
	if len(sent) == 0 {
		return answers, nil
	}
	data, err := c.call(ctx, http.MethodPost, "/enrollments", body)
	if err != nil {
		return nil, err
	}
	failed, err := decodeBulk(data, sent)
	if err != nil {
		return nil, broken(err)
	}
	for n, it := range sent {
		e, bad := failed[strings.ToLower(it.RegistrationID)]
		answer := outbox.Answer{Outcome: outbox.Accepted}
		switch {
		case bad && e.ErrorCode/1000 == http.StatusConflict:
			// The items that were created must not wait for these: a failure to
			// compare one is that item's answer.
			answer = c.compare(ctx, it)
		case bad:
			answer = refusedItem(it, e)
		default:
			c.settled(it)
		}
		answers[places[n]] = answer
	}
	return answers, nil
}

// refusedItem judges the error of one item: the first three digits of the code
// are those of the HTTP status.
func refusedItem(it outbox.Item, e bulkError) outbox.Answer {
	r := &records.Refusal{Code: "enrollment-refused",
		Sentence: fmt.Sprintf("The service refuses %s with error %d: %s", it.RegistrationID, e.ErrorCode, words(e.ErrorStatus)),
		Next:     "Correct the customer's enrollment settings, or have the service's owner look at it; then retry the enrollment."}
	switch e.ErrorCode / 1000 {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return outbox.Answer{Outcome: outbox.Refused, Refusal: r}
	}
	// Not the item's fault (rate, permission, capacity, the service itself), or
	// nothing we know: it waits, and others go on.
	r.Code, r.Next = "enrollment-later", "The station tries again by itself."
	return outbox.Answer{Outcome: outbox.Later, Refusal: r}
}

// compare finds out whether the enrollment that exists is the item's own, pushed
// before, perhaps by a station that stopped before it could write that down.
func (c *Client) compare(ctx context.Context, it outbox.Item) outbox.Answer {
	e, differs, err := c.look(ctx, it)
	if errors.Is(err, errUnknown) {
		return c.elsewhere(it)
	}
	if err != nil {
		later := outbox.Answer{Outcome: outbox.Later}
		if call := (*outbox.CallError)(nil); errors.As(err, &call) {
			later.At, later.Refusal = call.At, call.Refusal
		} else {
			later.Refusal = broken(err).Refusal
		}
		return later
	}
	c.settled(it)
	if differs == "" {
		return outbox.Answer{Outcome: outbox.Accepted, Found: true, ETag: etagForm.FindString(e.ETag)}
	}
	return outbox.Answer{Outcome: outbox.Refused, Refusal: &records.Refusal{Code: "enrollment-conflict",
		Sentence: fmt.Sprintf("The service holds another enrollment under %s: %s.", it.RegistrationID, differs),
		Next:     "Find out whose it is. Delete it at the service only if no device uses it, then retry the enrollment."}}
}

// unseenLimit is after how many conflicts with nothing an item is set aside. One or
// two are an enrollment that was deleted between two calls, or a service whose parts
// do not agree yet.
const unseenLimit = 5

// elsewhere judges a conflict with nothing: what a device proves itself with can be
// enrolled once, and here it is under another ID.
func (c *Client) elsewhere(it outbox.Item) outbox.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := map[string]string{records.TPM: "endorsement key", records.X509: "certificate", records.SymmetricKey: "key"}[it.Attestation]
	r := &records.Refusal{Code: "enrollment-later", Next: "The station tries again by itself.",
		Sentence: fmt.Sprintf("The service calls %s a conflict, and holds nothing of that name: its %s seems to be enrolled under another ID.", it.RegistrationID, what)}
	if c.unseen[it.RegistrationID]++; c.unseen[it.RegistrationID] < unseenLimit {
		return outbox.Answer{Outcome: outbox.Later, Refusal: r}
	}
	delete(c.unseen, it.RegistrationID)
	r.Code = "enrollment-conflict"
	r.Next = "Find the enrollment with this " + what + " at the service. Delete it only if no device uses it, then retry the enrollment."
	return outbox.Answer{Outcome: outbox.Refused, Refusal: r}
}

// settled forgets the conflicts of an item of which the service has now said
// something plain.
func (c *Client) settled(it outbox.Item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unseen, it.RegistrationID)
}

// look fetches the enrollment and says in what it differs from the item's.
func (c *Client) look(ctx context.Context, it outbox.Item) (e held, differs string, err error) {
	data, err := c.call(ctx, http.MethodGet, enrollmentPath(it.RegistrationID), nil)
	if err != nil {
		return e, "", err
	}
	if err := decode(data, &e); err != nil {
		return e, "", broken(err)
	}
	if !strings.EqualFold(e.RegistrationID, it.RegistrationID) {
		return e, "", broken(fmt.Errorf("the answer is about another enrollment"))
	}
	if e.Attestation.Type != it.Attestation {
		return e, fmt.Sprintf("its attestation is %s", words(e.Attestation.Type)), nil
	}
	if e.ProvisioningStatus != statusEnabled {
		return e, "it is not enabled", nil
	}
	switch it.Attestation {
	case records.TPM:
		if e.Attestation.TPM == nil {
			return e, "it names no endorsement key", nil
		}
		if held, err := base64.StdEncoding.DecodeString(e.Attestation.TPM.EndorsementKey); err != nil || !bytes.Equal(held, it.EndorsementKey) {
			return e, "its endorsement key is another", nil
		}
		return e, "", nil
	case records.SymmetricKey:
		// The one call that shows keys; a plain GET does not.
		data, err := c.call(ctx, http.MethodPost, enrollmentPath(it.RegistrationID)+"/attestationmechanism", nil)
		if err != nil {
			return e, "", err
		}
		defer clear(data)
		var a attestation
		if err := decode(data, &a); err != nil {
			return e, "", broken(err)
		}
		if a.Type != it.Attestation || a.SymmetricKey == nil {
			return e, "", broken(fmt.Errorf("the answer holds no keys"))
		}
		if !sameKey(a.SymmetricKey.PrimaryKey, it.Key) || !sameKey(a.SymmetricKey.SecondaryKey, secondary(it)) {
			return e, "its keys are others", nil
		}
		return e, "", nil
	}
	x := e.Attestation.X509
	if x == nil || x.ClientCertificates == nil || x.ClientCertificates.Primary == nil || x.ClientCertificates.Primary.Info == nil {
		return e, "it names no device certificate", nil
	}
	sum := sha256.Sum256(it.DER)
	if !strings.EqualFold(x.ClientCertificates.Primary.Info.SHA256Thumbprint, hex.EncodeToString(sum[:])) {
		return e, "its certificate is another", nil
	}
	if x.ClientCertificates.Secondary != nil {
		// Whoever holds that certificate's key can be this device.
		return e, "it accepts a second certificate", nil
	}
	return e, "", nil
}

// sameKey compares in constant time; text is base64.
func sameKey(text string, key []byte) bool {
	got, err := base64.StdEncoding.DecodeString(text)
	defer clear(got)
	return err == nil && subtle.ConstantTimeCompare(got, key) == 1
}
