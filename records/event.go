// Package records is the vocabulary of what a station remembers: events, the
// states folded from them, and the rules that say what may follow what. It does
// no I/O. ledger stores events, outbox hands identities to the provisioning
// service, replay recomputes everything, batch hands over to a customer.
package records

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Kind names what an event says.
type Kind string

// UnitID is the sequence number of the event that first identified the unit.
type UnitID int64

// NewUnit in a Draft stands for "the unit that this very event makes known".
const NewUnit UnitID = -1

func (id UnitID) String() string { return "U" + strconv.FormatInt(int64(id), 10) }

// PassageID is the sequence number of the passage.opened event.
type PassageID int64

// NewPassage in a Draft stands for "the passage that this very event opens".
const NewPassage PassageID = -1

func (id PassageID) String() string { return "P" + strconv.FormatInt(int64(id), 10) }

// Actor is who did it: a badge or an account, never a person's name.
type Actor struct {
	Kind string `json:"kind"` // "badge", "account" or "station"
	ID   string `json:"id"`
}

// Event is one fact. Its stored bytes are the JSON of this struct, written once
// and never encoded again: they are the leaf of the Merkle tree. Salt (16 random
// bytes) keeps one customer from guessing another's leaves.
type Event struct {
	Seq     int64           `json:"seq"` // 1, 2, 3, …
	Station string          `json:"station"`
	Time    time.Time       `json:"time"` // UTC, microseconds
	Actor   Actor           `json:"actor"`
	Kind    Kind            `json:"kind"`
	Unit    UnitID          `json:"unit,omitempty"`
	Order   string          `json:"order,omitempty"`
	Passage PassageID       `json:"passage,omitempty"`
	Data    json.RawMessage `json:"data"`
	Salt    []byte          `json:"salt"`

	body Body // Data decoded, where that was done already
}

// Body is what one kind of event carries.
type Body interface{ Kind() Kind }

// Draft is an event before the ledger gives it its place.
type Draft struct {
	Actor   Actor
	Unit    UnitID    // 0: none; NewUnit: this event makes it known
	Order   string    // "": none
	Passage PassageID // 0: none; NewPassage: this event opens it
	Body    Body
	// Sealed is the encrypted secret that a SecretSealed stands for. It is
	// stored beside the log, in the same transaction.
	Sealed []byte
}

// HardwareID is a name the silicon gives.
type HardwareID struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// Item is one thing on a device: its name, the hex SHA-256 of salt‖bytes, and
// how it can be checked ("bytes", "digest", "possession"). For a key of which
// the device shows possession, SHA256 is that of the public key.
type Item struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Salt   string `json:"salt,omitempty"`
	How    string `json:"how"`
	Proof  *Proof `json:"proof,omitempty"` // in what was found
}

// Proof is a signature by a device's key over random bytes of the station: ECDSA
// (ASN.1) over the SHA-256 of Challenge.
type Proof struct {
	Challenge []byte `json:"challenge"`
	Public    []byte `json:"public"` // DER SubjectPublicKeyInfo
	Signature []byte `json:"signature"`
}

// Verdict is what is written for a passage.
type Verdict string

const (
	Pass  Verdict = "PASS"  // the unit is good
	Fail  Verdict = "FAIL"  // it is not
	Error Verdict = "ERROR" // the station could not tell
)

// Attestation values, as the provisioning service names them.
const (
	SymmetricKey = "symmetricKey"
	X509         = "x509"
	TPM          = "tpm"
)

// Where a device's X.509 key is made.
const (
	KeyInjected = "injected" // at the station
	KeyInFile   = "device"   // on the device, kept in a file
	KeyInTPM    = "tpm"      // in the device's TPM
)

type (
	// StationStarted: the daemon took the ledger. Program is the SHA-256 of the
	// running binary.
	StationStarted struct {
		Version string `json:"version"`
		Program string `json:"program"`
	}

	// ClockStepped: the clock reads earlier than the last event. Claiming and
	// issuing stop until it has caught up.
	ClockStepped struct {
		Last time.Time `json:"last"`
		Now  time.Time `json:"now"`
	}

	// ActionDenied: somebody asked for something and was refused.
	ActionDenied struct {
		Action   string `json:"action"` // "order open", …
		Code     string `json:"code"`
		Sentence string `json:"sentence"`
	}

	// OrderOpened carries all that replay needs to judge the order's units
	// without today's files.
	OrderOpened struct {
		ID             string    `json:"id"`
		Customer       string    `json:"customer"`
		Product        string    `json:"product"`
		Quota          int       `json:"quota"`
		SerialFormat   string    `json:"serial_format"` // e.g. "A%06d"
		SerialFirst    int64     `json:"serial_first"`
		ValidUntil     time.Time `json:"valid_until"`
		ProductFile    []byte    `json:"product_file"`   // raw bytes of the product's YAML
		ProductSHA256  string    `json:"product_sha256"` // of those bytes
		CustomerFile   []byte    `json:"customer_file"`
		CustomerSHA256 string    `json:"customer_sha256"`
		Limits         Limits    `json:"limits"` // resolved: defaults filled in
		Terms          Terms     `json:"terms"`
	}

	// OrderClosed: no further claims.
	OrderClosed struct {
		Reason string `json:"reason"`
	}

	// PassageOpened: something is in a slot.
	PassageOpened struct {
		Slot string `json:"slot"`
	}

	// PassageClosed ends a passage, once.
	PassageClosed struct {
		Slot    string  `json:"slot"`
		Verdict Verdict `json:"verdict"`
		Code    string  `json:"code,omitempty"` // why, if not PASS
		Text    string  `json:"text,omitempty"`
	}

	// UnitIdentified: what the silicon said.
	UnitIdentified struct {
		Family   string       `json:"family"`
		Chip     string       `json:"chip"`
		Hardware []HardwareID `json:"hardware"`
		Security string       `json:"security"` // the chip's own answer, hex
	}

	// UnitRefused: a board was turned away. The unit is set only if it is known.
	UnitRefused struct {
		Step     string       `json:"step"`
		Code     string       `json:"code"`
		Sentence string       `json:"sentence"`
		Hardware []HardwareID `json:"hardware,omitempty"`
	}

	// IdentityClaimed: registration ID, serial and one of the order's quota
	// belong to the unit.
	IdentityClaimed struct {
		Customer        string `json:"customer"`
		Number          int    `json:"number"` // 1 … quota
		Serial          string `json:"serial"`
		RegistrationID  string `json:"registration_id"`
		RegistrationURL string `json:"registration_url"`
		IDScope         string `json:"id_scope"`
		Attestation     string `json:"attestation"`
		Key             string `json:"key,omitempty"` // for x509: where the key is made
	}

	// EvidenceAccepted: the device proved something of a key that is its own. The
	// raw bytes are kept, so that anybody can check the proof again.
	EvidenceAccepted struct {
		TPM *TPMEvidence `json:"tpm,omitempty"`
		Key *KeyEvidence `json:"key,omitempty"`
	}

	// IdentityReleased gives a claim back to the order. Only a claim for which
	// nothing was sealed, issued or written can be given back.
	IdentityReleased struct {
		RegistrationID string `json:"registration_id"`
		Serial         string `json:"serial"`
		Number         int    `json:"number"`
		Reason         string `json:"reason"`
	}

	// SecretSealed: a secret exists, sealed beside the log. SHA256 is over
	// salt‖secret.
	SecretSealed struct {
		Ref    string `json:"ref"`
		What   string `json:"what"` // "symmetric key"
		Salt   []byte `json:"salt"`
		SHA256 string `json:"sha256"`
	}

	// SecretDestroyed: the sealed bytes are gone for good.
	SecretDestroyed struct {
		Ref    string `json:"ref"`
		Reason string `json:"reason"`
	}

	// CertificateIssued carries the whole certificate.
	CertificateIssued struct {
		RegistrationID string `json:"registration_id"` // its subject's common name
		Issuer         string `json:"issuer"`          // SHA-256 of the issuing CA's certificate
		Serial         string `json:"serial"`          // hex
		SPKI           string `json:"spki"`            // SHA-256 of the public key info
		Key            string `json:"key"`             // where its key was made
		DER            []byte `json:"der"`
	}

	// CertificateVoided: the certificate never reached a device for good; its key
	// is gone.
	CertificateVoided struct {
		Serial string `json:"serial"`
		Reason string `json:"reason"`
	}

	// WriteBegun: from now on the identity may be on the device.
	WriteBegun struct {
		Manifest []Item `json:"manifest"`
	}

	// UnitVerified: the identity was found on the device after the write.
	UnitVerified struct {
		Found []Item `json:"found"`
	}

	// UnitPassed: every step is done.
	UnitPassed struct{}

	// UnitFailed: the unit is not good.
	UnitFailed struct {
		Step     string `json:"step"`
		Code     string `json:"code"`
		Sentence string `json:"sentence"`
	}

	// UnitReleased: the unit leaves the line; its enrollment is due at the
	// customer's service.
	UnitReleased struct {
		RegistrationID string `json:"registration_id"`
	}

	// EnrollmentAccepted: the service knows the identity. Found says that it
	// knew it already, with equal content.
	EnrollmentAccepted struct {
		RegistrationID string `json:"registration_id"`
		ETag           string `json:"etag,omitempty"`
		Found          bool   `json:"found,omitempty"`
	}

	// EnrollmentRejected: the service refuses for good, or holds something else
	// under this ID. Set aside for a person.
	EnrollmentRejected struct {
		RegistrationID string `json:"registration_id"`
		Code           string `json:"code"`
		Sentence       string `json:"sentence"`
	}

	// BatchExported: identities were handed to the customer as files.
	BatchExported struct {
		Customer string `json:"customer"`
		Manifest string `json:"manifest"` // SHA-256 of the signed manifest
		Units    int    `json:"units"`
		Size     int64  `json:"size"` // events covered by the checkpoint in it
	}
)

// Holds says whether secret is the one that was sealed. A secret that is revealed
// for use is held against it first: whoever can write the station's files can
// seal another one under the same reference.
func (s SecretSealed) Holds(secret []byte) bool {
	h := sha256.New()
	h.Write(s.Salt)
	h.Write(secret)
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(h.Sum(nil))), []byte(s.SHA256)) == 1
}

// TPMEvidence says that the TPM with this endorsement key is in the device: it
// opened a challenge that nobody else could open.
type TPMEvidence struct {
	EK []byte `json:"ek"` // TPM2B_PUBLIC of the endorsement key
	AK []byte `json:"ak"` // TPM2B_PUBLIC of the attestation key that the challenge was bound to
	// The challenge is computed from Nonce, EK and AK; Answer is what the TPM
	// found in it.
	Nonce  []byte `json:"nonce"`
	Answer []byte `json:"answer"`

	// Judged is when the certificate was held against what the order asks: one that
	// was valid then may have expired before the event was written.
	Judged time.Time `json:"judged"`

	Certificate []byte `json:"certificate,omitempty"` // of the EK, DER
	// Chain is what led from Certificate to a root that the order accepts, DER,
	// the root last; empty if nothing did.
	Chain        [][]byte `json:"chain,omitempty"`
	Manufacturer string   `json:"manufacturer,omitempty"` // as the certificate names the TPM
	Model        string   `json:"model,omitempty"`
	Version      string   `json:"version,omitempty"`
	// Finding says why the certificate was not accepted, under a policy that only
	// records it.
	Finding string `json:"finding,omitempty"`
}

// KeyEvidence says that the device holds the private key of SPKI; for a key in
// its TPM also that it was made there and cannot leave.
type KeyEvidence struct {
	In   string `json:"in"`   // KeyInFile or KeyInTPM
	CSR  []byte `json:"csr"`  // DER
	SPKI string `json:"spki"` // SHA-256 of the public key info
	// For a key in the TPM: TPM2_Certify by the attestation key, with the SHA-256
	// of the CSR as qualifying data.
	AK        []byte `json:"ak,omitempty"`        // TPM2B_PUBLIC, the one of the TPM's evidence
	Public    []byte `json:"public,omitempty"`    // TPM2B_PUBLIC of the key
	Attest    []byte `json:"attest,omitempty"`    // TPMS_ATTEST
	Signature []byte `json:"signature,omitempty"` // TPMT_SIGNATURE
}

// Limits are the resolved time limits of a product, in milliseconds.
type Limits struct {
	Identify int64 `json:"identify_ms"`
	Write    int64 `json:"write_ms"`
	Verify   int64 `json:"verify_ms"`
	Passage  int64 `json:"passage_ms"`
}

// Terms are what an order's identities have in common.
type Terms struct {
	Family          string `json:"family"`
	Attestation     string `json:"attestation"`
	Key             string `json:"key,omitempty"`   // for x509: where the key is made
	RegistrationID  string `json:"registration_id"` // template: {serial} and kinds of hardware IDs
	RegistrationURL string `json:"registration_url"`
	IDScope         string `json:"id_scope"`
	Issuer          string `json:"issuer,omitempty"` // SHA-256 of the issuing CA's certificate, for x509
	ValidDays       int    `json:"valid_days,omitempty"`
	// For devices with a TPM: what is asked of the EK's certificate ("require",
	// "record", "none"), and the SHA-256 of each root that it may lead to.
	EKPolicy string   `json:"ek_policy,omitempty"`
	EKRoots  []string `json:"ek_roots,omitempty"`
}

func (StationStarted) Kind() Kind     { return "station.started" }
func (ClockStepped) Kind() Kind       { return "clock.stepped" }
func (ActionDenied) Kind() Kind       { return "action.denied" }
func (OrderOpened) Kind() Kind        { return "order.opened" }
func (OrderClosed) Kind() Kind        { return "order.closed" }
func (PassageOpened) Kind() Kind      { return "passage.opened" }
func (PassageClosed) Kind() Kind      { return "passage.closed" }
func (UnitIdentified) Kind() Kind     { return "unit.identified" }
func (UnitRefused) Kind() Kind        { return "unit.refused" }
func (IdentityClaimed) Kind() Kind    { return "identity.claimed" }
func (EvidenceAccepted) Kind() Kind   { return "evidence.accepted" }
func (IdentityReleased) Kind() Kind   { return "identity.released" }
func (SecretSealed) Kind() Kind       { return "secret.sealed" }
func (SecretDestroyed) Kind() Kind    { return "secret.destroyed" }
func (CertificateIssued) Kind() Kind  { return "certificate.issued" }
func (CertificateVoided) Kind() Kind  { return "certificate.voided" }
func (WriteBegun) Kind() Kind         { return "write.begun" }
func (UnitVerified) Kind() Kind       { return "unit.verified" }
func (UnitPassed) Kind() Kind         { return "unit.passed" }
func (UnitFailed) Kind() Kind         { return "unit.failed" }
func (UnitReleased) Kind() Kind       { return "unit.released" }
func (EnrollmentAccepted) Kind() Kind { return "enrollment.accepted" }
func (EnrollmentRejected) Kind() Kind { return "enrollment.rejected" }
func (BatchExported) Kind() Kind      { return "batch.exported" }

// decoders decode what an event of a kind carries, and a whole event of it.
var (
	decoders = map[Kind]func(json.RawMessage) (Body, error){}
	wholes   = map[Kind]func(stored []byte) (Event, error){}
)

func register[B Body]() {
	var zero B
	decoders[zero.Kind()] = func(data json.RawMessage) (Body, error) {
		var b B
		err := json.Unmarshal(data, &b)
		return b, err
	}
	wholes[zero.Kind()] = func(stored []byte) (Event, error) {
		var whole struct {
			Event
			Data B `json:"data"` // in the place of Event's
		}
		err := json.Unmarshal(stored, &whole)
		whole.Event.body = whole.Data
		return whole.Event, err
	}
}

func init() {
	register[StationStarted]()
	register[ClockStepped]()
	register[ActionDenied]()
	register[OrderOpened]()
	register[OrderClosed]()
	register[PassageOpened]()
	register[PassageClosed]()
	register[UnitIdentified]()
	register[UnitRefused]()
	register[IdentityClaimed]()
	register[EvidenceAccepted]()
	register[IdentityReleased]()
	register[SecretSealed]()
	register[SecretDestroyed]()
	register[CertificateIssued]()
	register[CertificateVoided]()
	register[WriteBegun]()
	register[UnitVerified]()
	register[UnitPassed]()
	register[UnitFailed]()
	register[UnitReleased]()
	register[EnrollmentAccepted]()
	register[EnrollmentRejected]()
	register[BatchExported]()
}

// Decode reads a stored event and what it carries; Data is left out. It goes
// over the bytes once, where decoding first the event and then its Data takes
// half as long again: of replaying a history this is the greater part.
func Decode(stored []byte) (Event, error) {
	kind := kindOf(stored)
	if decode, ok := wholes[kind]; ok {
		if e, err := decode(stored); err == nil && e.Kind == kind {
			return e, nil
		}
	}
	// It is not what it seemed to be. Step by step, to say what is wrong.
	var e Event
	if err := json.Unmarshal(stored, &e); err != nil {
		return e, fmt.Errorf("decoding event: %w", err)
	}
	return e.Decoded()
}

// kindOf guesses the kind from where the ledger writes it, after the actor.
func kindOf(stored []byte) Kind {
	_, rest, _ := bytes.Cut(stored, []byte(`},"kind":"`))
	kind, _, _ := bytes.Cut(rest, []byte{'"'})
	return Kind(kind)
}

// Decoded is the event with Data decoded once for all who read its Body: the
// folds and the marks of one event take it from there.
func (e Event) Decoded() (Event, error) {
	var err error
	e.body, err = e.Body()
	return e, err
}

// Body decodes what the event carries. An unknown kind is an error: a program
// that does not know a fact must not pretend to have understood the history.
func (e Event) Body() (Body, error) {
	if e.body != nil {
		return e.body, nil
	}
	decode, ok := decoders[e.Kind]
	if !ok {
		return nil, fmt.Errorf("decoding event %d: unknown kind %q", e.Seq, e.Kind)
	}
	b, err := decode(e.Data)
	if err != nil {
		return nil, fmt.Errorf("decoding event %d (%s): %w", e.Seq, e.Kind, err)
	}
	return b, nil
}

// Refusal is a "no" that a person can act on.
type Refusal struct {
	Code     string // for machines, stable: "order-exhausted"
	Sentence string // what is wrong
	Next     string // what to do
	Err      error  // the cause, for engineers; may be nil
}

func (r *Refusal) Error() string { return r.Sentence + " " + r.Next }
func (r *Refusal) Unwrap() error { return r.Err }
