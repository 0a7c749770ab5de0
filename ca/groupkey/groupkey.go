// Package groupkey derives a device's symmetric key from the key of its enrollment
// group, so that a station needs one secret for any number of devices and the
// service need not know them in advance.
package groupkey

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"nameplate/ca"
)

// The lengths of a symmetric key the provisioning service takes, in bytes.
const minKey, maxKey = 16, 64

// Derive is HMAC-SHA256 under the group's key (its bytes, not their base64) over
// the registration ID: 32 bytes, which devices and the service write in base64.
// The service compares IDs without regard to case but HMAC does not, so an ID that
// is not in its one canonical form is refused and never folded here: the device
// must derive from the same bytes.
//
// Source: Azure DPS, "How to use symmetric key enrollment groups", derived device
// key.
func Derive(groupKey []byte, registrationID string) ([]byte, error) {
	if len(groupKey) < minKey || len(groupKey) > maxKey {
		return nil, &ca.Refusal{Code: "group-key-length", Sentence: fmt.Sprintf("The group key has %d bytes; the service takes %d to %d.", len(groupKey), minKey, maxKey),
			Next: "Enter the customer's group key again, as the service shows it in base64."}
	}
	if err := ca.CheckRegistrationID(registrationID); err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, groupKey)
	mac.Write([]byte(registrationID))
	return mac.Sum(nil), nil
}
