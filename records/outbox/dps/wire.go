package dps

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"nameplate/records"
	"nameplate/records/outbox"
)

// Settings are what a customer wants of each of its enrollments; zero members are
// left to the instance.
type Settings struct {
	AllocationPolicy string          // "hashed", "geoLatency", "static", or "" for the instance's own
	IotHubHostName   string          // the hub of "static"
	Reprovision      *Reprovision    // what happens when a device registers again
	InitialTwin      json.RawMessage // {"tags":{…},"properties":{"desired":{…}}}
}

// Reprovision is the service's ReprovisionPolicy.
type Reprovision struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

func (s Settings) check() error {
	wrong := func(what string) error {
		return &records.Refusal{Code: "enrollment-settings-invalid",
			Sentence: "The enrollment settings cannot be used: " + what + ".",
			Next:     "Correct the customer's enrollment settings."}
	}
	switch s.AllocationPolicy {
	case "", "hashed", "geoLatency":
	case "static":
		if s.IotHubHostName == "" {
			return wrong("allocation policy static needs the host name of a hub")
		}
	default:
		return wrong(fmt.Sprintf("allocation policy %q is not one of hashed, geoLatency, static", s.AllocationPolicy))
	}
	if s.InitialTwin != nil && !json.Valid(s.InitialTwin) {
		return wrong("the initial twin is not JSON")
	}
	return nil
}

// What is sent (service API 2021-10-01, IndividualEnrollment and what it holds).
type (
	bulk struct {
		Mode        string       `json:"mode"`
		Enrollments []enrollment `json:"enrollments"`
	}
	enrollment struct {
		RegistrationID     string          `json:"registrationId"`
		Attestation        attestation     `json:"attestation"`
		Capabilities       capabilities    `json:"capabilities"`
		ProvisioningStatus string          `json:"provisioningStatus"`
		AllocationPolicy   string          `json:"allocationPolicy,omitempty"`
		IotHubHostName     string          `json:"iotHubHostName,omitempty"`
		ReprovisionPolicy  *Reprovision    `json:"reprovisionPolicy,omitempty"`
		InitialTwin        json.RawMessage `json:"initialTwin,omitempty"`
	}
	capabilities struct {
		IotEdge bool `json:"iotEdge"`
	}
	// attestation is sent and received: AttestationMechanism.
	attestation struct {
		Type         string   `json:"type"`
		TPM          *tpm     `json:"tpm,omitempty"`
		SymmetricKey *keys    `json:"symmetricKey,omitempty"`
		X509         *x509att `json:"x509,omitempty"`
	}
	// tpm has a second member, storageRootKey, which is not sent: the service does
	// not hold a device against it, and its owner may change.
	tpm struct {
		EndorsementKey string `json:"endorsementKey"` // base64
	}
	keys struct {
		PrimaryKey   string `json:"primaryKey"`
		SecondaryKey string `json:"secondaryKey"`
	}
	x509att struct {
		ClientCertificates *certificates `json:"clientCertificates,omitempty"`
	}
	certificates struct {
		Primary   *certificate `json:"primary,omitempty"`
		Secondary *certificate `json:"secondary,omitempty"`
	}
	certificate struct {
		Certificate string           `json:"certificate,omitempty"` // PEM; sent only
		Info        *certificateInfo `json:"info,omitempty"`        // received only
	}
	certificateInfo struct {
		SHA256Thumbprint string `json:"sha256Thumbprint"`
	}
)

const statusEnabled = "enabled"

// enroll is the record that the item becomes.
func (s Settings) enroll(it outbox.Item) (enrollment, error) {
	e := enrollment{RegistrationID: it.RegistrationID, ProvisioningStatus: statusEnabled,
		Attestation: attestation{Type: it.Attestation}, AllocationPolicy: s.AllocationPolicy,
		IotHubHostName: s.IotHubHostName, ReprovisionPolicy: s.Reprovision, InitialTwin: s.InitialTwin}
	switch {
	case it.Attestation == records.SymmetricKey && len(it.Key) >= minKey && len(it.Key) <= maxKey:
		e.Attestation.SymmetricKey = &keys{PrimaryKey: base64.StdEncoding.EncodeToString(it.Key),
			SecondaryKey: base64.StdEncoding.EncodeToString(secondary(it))}
	case it.Attestation == records.X509 && len(it.DER) > 0:
		e.Attestation.X509 = &x509att{ClientCertificates: &certificates{Primary: &certificate{
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: it.DER}))}}}
	case it.Attestation == records.TPM && isEndorsementKey(it.EndorsementKey):
		e.Attestation.TPM = &tpm{EndorsementKey: base64.StdEncoding.EncodeToString(it.EndorsementKey)}
	default:
		return e, fmt.Errorf("the record of unit %s lacks what attestation %q needs", it.Unit, it.Attestation)
	}
	return e, nil
}

// Sizes of a symmetric key that the service accepts, in bytes.
const (
	minKey = 16
	maxKey = 64
)

// ekSize is the length of an RSA-2048 endorsement key of the TCG's template L-1 as
// a TPM2B_PUBLIC. The service's clients know no other kind.
const ekSize = 316

// isEndorsementKey says whether b is framed as such a key: two bytes of size, then
// that many (TPM 2.0 Part 2, 12.2.5), and its first word is TPM_ALG_RSA.
func isEndorsementKey(b []byte) bool {
	return len(b) == ekSize && binary.BigEndian.Uint16(b) == ekSize-2 && binary.BigEndian.Uint16(b[2:]) == 1
}

// secondary is the second key of a symmetric enrollment. The device has one key,
// but what the service does with one alone is not documented: it may make up the
// other, which nobody here would know and which would then be compared in vain.
// A second key derived from the first is as hard to guess, needs no storage,
// and is the same at every push.
func secondary(it outbox.Item) []byte {
	mac := hmac.New(sha256.New, it.Key)
	mac.Write([]byte("nameplate secondary key 1\n" + it.RegistrationID))
	return mac.Sum(nil)
}

// What is received. Members that we do not use may come and go; those we use must
// have their type.
type (
	bulkResult struct {
		IsSuccessful *bool       `json:"isSuccessful"`
		Errors       []bulkError `json:"errors"`
	}
	bulkError struct {
		RegistrationID string `json:"registrationId"`
		ErrorCode      int    `json:"errorCode"`
		ErrorStatus    string `json:"errorStatus"`
	}
	// held is an enrollment as the service holds it; its keys come by another call.
	held struct {
		RegistrationID     string      `json:"registrationId"`
		Attestation        attestation `json:"attestation"`
		ProvisioningStatus string      `json:"provisioningStatus"`
		ETag               string      `json:"etag"`
	}
	failure struct {
		ErrorCode  int    `json:"errorCode"`
		TrackingID string `json:"trackingId"`
		Message    string `json:"message"`
	}
)

func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		// The decoder quotes what it read; that may be a key.
		return fmt.Errorf("the answer does not have the service's form")
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("the answer goes on after its end")
	}
	return nil
}

// decodeBulk returns the errors of a bulk call by lower-case registration ID. An
// answer that contradicts itself or what was asked is an error.
func decodeBulk(body []byte, asked []outbox.Item) (map[string]bulkError, error) {
	var r bulkResult
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if r.IsSuccessful == nil || *r.IsSuccessful != (len(r.Errors) == 0) {
		return nil, fmt.Errorf("the answer does not say plainly whether the call succeeded")
	}
	ours := make(map[string]bool, len(asked))
	for _, it := range asked {
		ours[strings.ToLower(it.RegistrationID)] = true
	}
	errs := make(map[string]bulkError, len(r.Errors))
	for _, e := range r.Errors {
		id := strings.ToLower(e.RegistrationID)
		if _, twice := errs[id]; twice || !ours[id] || e.ErrorCode <= 0 {
			return nil, fmt.Errorf("the answer lists an error that belongs to no item of the call")
		}
		errs[id] = e
	}
	return errs, nil
}

// etagForm is what is kept of an etag: a short word or a GUID, quoted or not. That
// is all the service is known to send, and nothing that long or of that form is a
// symmetric key: the shortest has 22 characters in base64. Any other etag may be a
// key that the service repeats, and is dropped.
var etagForm = regexp.MustCompile(`^(W/)?"?([0-9A-Za-z+/=]{1,16}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{1,12})"?$`)

// maxWords bounds what is shown of the service's own words, in characters.
const maxWords = 200

// long finds what may be a key (22 characters at least), a token or a certificate:
// the service may repeat what it was sent.
var long = regexp.MustCompile(`[A-Za-z0-9+/=_%-]{20,}`)

// words makes the service's text fit to be shown and stored.
func words(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(long.ReplaceAllString(text, "…")), " ")
	if runes := []rune(text); len(runes) > maxWords {
		text = string(runes[:maxWords]) + "…"
	}
	return text
}
