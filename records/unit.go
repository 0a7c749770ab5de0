package records

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// UnitState is how far a unit has come.
type UnitState string

const (
	Seen     UnitState = "seen"     // identified, owns nothing
	Claimed  UnitState = "claimed"  // owns a registration ID, a serial, one of the quota
	Keyed    UnitState = "keyed"    // a sealed secret waits for it, or its own key was accepted
	Issued   UnitState = "issued"   // a certificate was issued for it
	Writing  UnitState = "writing"  // the identity may be on it
	Verified UnitState = "verified" // the identity was found on it
	Passed   UnitState = "passed"
	Released UnitState = "released" // left the line
)

// Enrollment states of a released unit.
const (
	EnrollmentDue     = "due"
	EnrollmentDone    = "accepted"
	EnrollmentRefused = "rejected"
)

// Unit is everything the events say about one device. It is the fold of the
// unit's events by ApplyUnit and nothing else.
type Unit struct {
	ID       UnitID       `json:"id"`
	State    UnitState    `json:"state"`
	Family   string       `json:"family"`
	Chip     string       `json:"chip"`
	Hardware []HardwareID `json:"hardware"`

	// Passage is the open passage, 0 if none.
	Passage PassageID `json:"passage,omitempty"`
	Verdict Verdict   `json:"verdict,omitempty"` // of the last closed passage

	Order           string `json:"order,omitempty"`
	Customer        string `json:"customer,omitempty"`
	Number          int    `json:"number,omitempty"`
	Serial          string `json:"serial,omitempty"`
	RegistrationID  string `json:"registration_id,omitempty"`
	RegistrationURL string `json:"registration_url,omitempty"`
	IDScope         string `json:"id_scope,omitempty"`
	Attestation     string `json:"attestation,omitempty"`
	Key             string `json:"key,omitempty"` // where its X.509 key is made

	EK []byte `json:"ek,omitempty"` // TPM2B_PUBLIC of the endorsement key it proved to hold
	AK []byte `json:"ak,omitempty"` // TPM2B_PUBLIC of the attestation key of that proof
	// DeviceKey is the SHA-256 of the public key info of the key that it made
	// itself and that was accepted last.
	DeviceKey string `json:"device_key,omitempty"`
	// MayHoldKey: it was asked at some time to make a key, so that it may hold
	// one of which nothing is recorded.
	MayHoldKey bool `json:"may_hold_key,omitempty"`

	// Made: something was sealed, accepted or issued for it at some time; its
	// claim can no longer be given back.
	Made   bool               `json:"made,omitempty"`
	Secret *SecretSealed      `json:"secret,omitempty"`      // the live sealed secret
	Cert   *CertificateIssued `json:"certificate,omitempty"` // the live certificate

	// Touched: a write has begun at some time, so that the device may hold an
	// identity, the live one or an earlier one.
	Touched bool `json:"touched,omitempty"`
	// Manifest is that of the newest write.begun; nil when nothing of the live
	// secret material can be on the device.
	Manifest []Item `json:"manifest,omitempty"`

	Enrollment string `json:"enrollment,omitempty"`
	LastSeq    int64  `json:"last_seq"`
}

// ApplyUnit is the fold of a unit's events: the state after e. It returns an
// error, and the state unchanged, for an event that cannot follow: the ledger
// refuses to write such an event and replay reports it. It must never be handed
// an event of another unit.
func ApplyUnit(u Unit, e Event) (Unit, error) {
	b, err := e.Body()
	if err != nil {
		return u, err
	}
	next, err := applyUnit(u, e, b)
	if err != nil {
		return u, fmt.Errorf("applying event %d (%s) to unit %s in state %q: %w", e.Seq, e.Kind, e.Unit, u.State, err)
	}
	next.LastSeq = e.Seq
	return next, nil
}

func applyUnit(u Unit, e Event, b Body) (Unit, error) {
	in := func(states ...UnitState) error {
		for _, s := range states {
			if u.State == s {
				return nil
			}
		}
		return fmt.Errorf("this cannot follow")
	}
	switch b := b.(type) {
	case UnitIdentified:
		if u.ID != 0 && u.Passage != 0 {
			return u, fmt.Errorf("passage %s is still open", u.Passage)
		}
		if e.Passage == 0 {
			return u, fmt.Errorf("it names no passage")
		}
		if u.ID == 0 {
			if int64(e.Unit) != e.Seq {
				return u, fmt.Errorf("the unit was never made known")
			}
			u.ID, u.State = e.Unit, Seen
		}
		u.Family, u.Chip, u.Passage = b.Family, b.Chip, e.Passage
		u.Hardware = mergeHardware(u.Hardware, b.Hardware)
		return u, nil

	case UnitRefused, UnitFailed:
		return u, in(Seen, Claimed, Keyed, Issued, Writing, Verified, Passed, Released)

	case PassageClosed:
		if e.Passage == 0 || u.Passage != e.Passage {
			return u, fmt.Errorf("the open passage is %s", u.Passage)
		}
		u.Passage, u.Verdict = 0, b.Verdict
		return u, nil

	case IdentityClaimed:
		if err := in(Seen); err != nil {
			return u, err
		}
		if u.EK == nil && (b.Attestation == TPM || b.Key == KeyInTPM) {
			return u, fmt.Errorf("its TPM has proved nothing")
		}
		u.State, u.Order = Claimed, e.Order
		u.Customer, u.Number, u.Serial = b.Customer, b.Number, b.Serial
		u.RegistrationID, u.RegistrationURL = b.RegistrationID, b.RegistrationURL
		u.IDScope, u.Attestation, u.Key = b.IDScope, b.Attestation, b.Key
		u.MayHoldKey = u.MayHoldKey || b.Key == KeyInFile || b.Key == KeyInTPM
		return u, nil

	case EvidenceAccepted:
		if (b.TPM == nil) == (b.Key == nil) {
			return u, fmt.Errorf("it speaks of one thing, a TPM or a key")
		}
		if b.TPM != nil {
			if err := in(Seen, Claimed, Keyed, Issued, Writing, Verified, Passed); err != nil {
				return u, err
			}
			// A TPM has a key of each kind, and the order says which is asked for: a unit
			// without a claim may come back under another order.
			if u.State != Seen && u.EK != nil && !bytes.Equal(u.EK, b.TPM.EK) {
				return u, fmt.Errorf("its endorsement key is another")
			}
			u.EK, u.AK = b.TPM.EK, b.TPM.AK
			return u, nil
		}
		return u.acceptKey(*b.Key, in)

	case IdentityReleased:
		if err := in(Claimed); err != nil {
			return u, err
		}
		if u.Made {
			return u, fmt.Errorf("something was made for it already")
		}
		if e.Order != u.Order || b.RegistrationID != u.RegistrationID || b.Serial != u.Serial || b.Number != u.Number {
			return u, fmt.Errorf("its claim is %s, serial %s, number %d of order %s", u.RegistrationID, u.Serial, u.Number, u.Order)
		}
		return Unit{ID: u.ID, State: Seen, Family: u.Family, Chip: u.Chip, Hardware: u.Hardware,
			EK: u.EK, AK: u.AK, MayHoldKey: u.MayHoldKey, Passage: u.Passage, Verdict: u.Verdict}, nil

	case SecretSealed:
		if err := in(Claimed, Writing); err != nil {
			return u, err
		}
		if u.Attestation != SymmetricKey || u.Secret != nil {
			return u, fmt.Errorf("no secret is wanted")
		}
		u.Secret, u.Made, u.State, u.Manifest = &b, true, Keyed, nil
		return u, nil

	case SecretDestroyed:
		if err := in(Writing, Verified); err != nil {
			return u, err
		}
		if u.Secret == nil || u.Secret.Ref != b.Ref {
			return u, fmt.Errorf("secret %s is not the live one", b.Ref)
		}
		u.Secret, u.Manifest, u.State = nil, nil, Writing
		return u, nil

	case CertificateIssued:
		if err := in(Claimed, Keyed, Writing); err != nil {
			return u, err
		}
		if u.Attestation != X509 || u.Cert != nil {
			return u, fmt.Errorf("no certificate is wanted")
		}
		if b.Key != u.Key {
			return u, fmt.Errorf("its key was to be made otherwise: %q, not %q", u.Key, b.Key)
		}
		if b.Key != KeyInjected && b.SPKI != u.DeviceKey {
			return u, fmt.Errorf("the certificate is for a key that was not accepted as the device's")
		}
		if b.RegistrationID != u.RegistrationID {
			return u, fmt.Errorf("the certificate names %s, the unit is %s", b.RegistrationID, u.RegistrationID)
		}
		u.Cert, u.Made, u.State, u.Manifest = &b, true, Issued, nil
		return u, nil

	case CertificateVoided:
		if err := in(Issued, Writing, Verified); err != nil {
			return u, err
		}
		if u.Cert == nil || u.Cert.Serial != b.Serial {
			return u, fmt.Errorf("certificate %s is not the live one", b.Serial)
		}
		u.Cert, u.Manifest, u.DeviceKey = nil, nil, ""
		if u.State == Issued {
			u.State = Claimed
		} else {
			u.State = Writing
		}
		return u, nil

	case WriteBegun:
		if err := in(Claimed, Keyed, Issued, Writing, Verified); err != nil {
			return u, err
		}
		if !u.Ready() {
			return u, fmt.Errorf("there is no identity to write: no live secret or certificate, no proven TPM")
		}
		if len(b.Manifest) == 0 {
			return u, fmt.Errorf("its manifest is empty")
		}
		u.State, u.Touched, u.Manifest = Writing, true, b.Manifest
		return u, nil

	case UnitVerified:
		if err := in(Writing, Verified, Passed); err != nil {
			return u, err
		}
		if missing := missingItems(u.Manifest, b.Found); missing != "" {
			return u, fmt.Errorf("%s was not found on the device", missing)
		}
		if u.State == Writing {
			u.State = Verified
		}
		return u, nil

	case UnitPassed:
		if err := in(Verified); err != nil {
			return u, err
		}
		u.State = Passed
		return u, nil

	case UnitReleased:
		if err := in(Passed); err != nil {
			return u, err
		}
		if e.Order != u.Order || b.RegistrationID != u.RegistrationID {
			return u, fmt.Errorf("its registration ID is %s, of order %s", u.RegistrationID, u.Order)
		}
		u.State, u.Enrollment = Released, EnrollmentDue
		return u, nil

	case EnrollmentAccepted:
		if err := in(Released); err != nil {
			return u, err
		}
		if u.Enrollment == EnrollmentDone || b.RegistrationID != u.RegistrationID {
			return u, fmt.Errorf("no enrollment of %s is due", b.RegistrationID)
		}
		u.Enrollment = EnrollmentDone
		return u, nil

	case EnrollmentRejected:
		if err := in(Released); err != nil {
			return u, err
		}
		if u.Enrollment == EnrollmentDone || b.RegistrationID != u.RegistrationID {
			return u, fmt.Errorf("no enrollment of %s is due", b.RegistrationID)
		}
		u.Enrollment = EnrollmentRefused
		return u, nil
	}
	return u, fmt.Errorf("this is not about a unit")
}

// Ready says that the unit has all that its attestation needs beside its names.
func (u Unit) Ready() bool {
	switch u.Attestation {
	case SymmetricKey:
		return u.Secret != nil
	case X509:
		return u.Cert != nil
	case TPM:
		return u.EK != nil
	}
	return false
}

// acceptKey takes a key that the device made. Another than the last one is taken
// only after the certificate for that one was voided.
func (u Unit) acceptKey(k KeyEvidence, in func(...UnitState) error) (Unit, error) {
	if err := in(Claimed, Keyed, Issued, Writing, Verified); err != nil {
		return u, err
	}
	switch {
	case u.Attestation != X509 || k.In != u.Key || k.In == KeyInjected:
		return u, fmt.Errorf("no key of the device is wanted")
	case u.Cert != nil && u.Cert.SPKI != k.SPKI:
		return u, fmt.Errorf("its certificate is for another key")
	case k.In == KeyInTPM && (u.AK == nil || !bytes.Equal(u.AK, k.AK)):
		return u, fmt.Errorf("the key was not certified by the attestation key that its TPM proved")
	}
	u.DeviceKey, u.Made = k.SPKI, true
	if u.State == Claimed {
		u.State = Keyed
	}
	return u, nil
}

// mergeHardware is what was read now, and what was read at another time under
// other kinds: a reading that lacks an ID does not take it from the unit.
func mergeHardware(was, now []HardwareID) []HardwareID {
	all := append([]HardwareID(nil), now...)
	for _, h := range was {
		if !slices.ContainsFunc(now, func(n HardwareID) bool { return n.Kind == h.Kind }) {
			all = append(all, h)
		}
	}
	return all
}

// missingItems names those of want that found does not hold; an empty want is
// "anything at all", because a unit that nothing was written to has not been
// verified.
func missingItems(want, found []Item) string {
	if len(want) == 0 {
		return "anything at all"
	}
	has := make(map[string]string, len(found))
	for _, it := range found {
		has[it.Name] = it.SHA256
	}
	var missing []string
	for _, it := range want {
		if it.SHA256 == "" || has[it.Name] != it.SHA256 {
			missing = append(missing, it.Name)
		}
	}
	return strings.Join(missing, ", ")
}
