// Package api holds the words of the station's HTTP API, version 1, and its Go
// client. It imports nothing of ours: the words may stay while the product moves.
package api

import "time"

// Problem is how every refusal and error is answered: for operators a sentence
// and an action, for machines a code.
type Problem struct {
	Status   int    `json:"status"`
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Next     string `json:"next"`
}

func (p *Problem) Error() string { return p.Sentence + " " + p.Next }

// Station is the daemon's own state.
type Station struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state" enum:"locked,ready"`
	Events  int64  `json:"events" doc:"size of the ledger"`
}

// Unlock carries the passphrase; only the unix socket takes it.
type Unlock struct {
	Passphrase string `json:"passphrase"`
}

// Order is a work order and how far it has come.
type Order struct {
	ID          string    `json:"id"`
	Customer    string    `json:"customer"`
	Product     string    `json:"product"`
	Attestation string    `json:"attestation"`
	Quota       int       `json:"quota"`
	Claimed     int       `json:"claimed"`
	Released    int       `json:"released"`
	Pass        int       `json:"pass" doc:"passages by verdict"`
	Fail        int       `json:"fail"`
	Error       int       `json:"error"`
	Closed      bool      `json:"closed"`
	ValidUntil  time.Time `json:"valid_until"`
}

// OpenOrder carries the order file as it is.
type OpenOrder struct {
	File string `json:"file" doc:"the order's YAML"`
	Name string `json:"name" doc:"the file's name, for messages"`
}

// CloseOrder says why.
type CloseOrder struct {
	Reason string `json:"reason"`
}

// Hardware is a name the silicon gives.
type Hardware struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// Unit is one device.
type Unit struct {
	ID                string     `json:"id"`
	State             string     `json:"state"`
	Family            string     `json:"family"`
	Chip              string     `json:"chip"`
	Hardware          []Hardware `json:"hardware"`
	Order             string     `json:"order,omitempty"`
	Customer          string     `json:"customer,omitempty"`
	Serial            string     `json:"serial,omitempty"`
	RegistrationID    string     `json:"registration_id,omitempty"`
	RegistrationURL   string     `json:"registration_url,omitempty"`
	IDScope           string     `json:"id_scope,omitempty"`
	Attestation       string     `json:"attestation,omitempty"`
	Key               string     `json:"key,omitempty" doc:"where its X.509 key is made: injected, device or tpm"`
	EndorsementKey    string     `json:"endorsement_key,omitempty" doc:"SHA-256 of the endorsement key (TPM2B_PUBLIC) that its TPM proved to hold"`
	CertificateSerial string     `json:"certificate_serial,omitempty"`
	Verdict           string     `json:"verdict,omitempty"`
	Enrollment        string     `json:"enrollment,omitempty"`
	History           []Event    `json:"history,omitempty"`
}

// Event is one line of a unit's history.
type Event struct {
	Seq   int64     `json:"seq"`
	Time  time.Time `json:"time"`
	Actor string    `json:"actor"`
	Kind  string    `json:"kind"`
	Text  string    `json:"text,omitempty"`
}

// Slot is a slot as it is now.
type Slot struct {
	Slot           string    `json:"slot"`
	Port           string    `json:"port"`
	State          string    `json:"state" enum:"empty,waiting,running,done"`
	Order          string    `json:"order,omitempty"`
	Unit           string    `json:"unit,omitempty"`
	Serial         string    `json:"serial,omitempty"`
	RegistrationID string    `json:"registration_id,omitempty"`
	Step           string    `json:"step,omitempty"`
	Done           int64     `json:"done,omitempty" doc:"bytes of the running step"`
	Total          int64     `json:"total,omitempty"`
	Verdict        string    `json:"verdict,omitempty"`
	Code           string    `json:"code,omitempty"`
	Sentence       string    `json:"sentence,omitempty"`
	Next           string    `json:"next,omitempty"`
	Started        time.Time `json:"started,omitzero"`
	Ended          time.Time `json:"ended,omitzero"`
}

// StartSlot asks for a passage with what is in the slot.
type StartSlot struct {
	Order string `json:"order,omitempty" doc:"empty: the slot's own order"`
}

// Page is the address that opens the operator page once, so that it may act.
type Page struct {
	URL   string    `json:"url"`
	Until time.Time `json:"until" doc:"when the address is no longer good"`
}

// Scan is what a scanned text means.
type Scan struct {
	Means    string `json:"means" enum:"order,slot,start,unit" doc:"start: what is in the slot is to be started"`
	Order    string `json:"order,omitempty"`
	Slot     string `json:"slot,omitempty"`
	Unit     string `json:"unit,omitempty"`
	Sentence string `json:"sentence,omitempty" doc:"how the unit stands"`
	Next     string `json:"next,omitempty"`
}

// PickOrder gives slots another order, until the next one or the station's end.
type PickOrder struct {
	Slot string `json:"slot,omitempty" doc:"empty: all slots in which no passage runs"`
}

// Picked is who took the order.
type Picked struct {
	Order string   `json:"order"`
	Slots []string `json:"slots"`
	Busy  []string `json:"busy,omitempty" doc:"those in which a passage runs; they keep their order"`
}

// Port is a place where a board could be connected.
type Port struct {
	Path    string `json:"path"`
	Stable  string `json:"stable,omitempty" doc:"a name that survives re-plugging"`
	Product string `json:"product,omitempty"`
	USB     string `json:"usb,omitempty" doc:"vendor:product serial"`
	Slot    string `json:"slot,omitempty" doc:"the slot configured on it"`
}

// Push is what is still to be made known to one customer's service.
type Push struct {
	Customer  string      `json:"customer"`
	Due       int         `json:"due"`
	Aside     int         `json:"aside" doc:"set aside for a person"`
	Accepted  int         `json:"accepted"`
	NextAt    time.Time   `json:"next_at,omitzero"`
	LastError string      `json:"last_error,omitempty"`
	Items     []PushAside `json:"items,omitempty" doc:"those set aside"`
}

// PushAside is an enrollment that waits for a person.
type PushAside struct {
	Unit           string `json:"unit"`
	RegistrationID string `json:"registration_id"`
	Reason         string `json:"reason"`
}

// Export asks for a batch of an order, or of all of a customer's orders. Dir is
// the absolute path of a folder on the station's machine that does not exist yet.
type Export struct {
	Customer string `json:"customer,omitempty"`
	Order    string `json:"order,omitempty"`
	Dir      string `json:"dir"`
}

// Exported is a batch that was written.
type Exported struct {
	Dir      string `json:"dir"`
	Units    int    `json:"units"`
	Manifest string `json:"manifest" doc:"SHA-256 of manifest.jws"`
	Events   int64  `json:"events" doc:"events covered by its checkpoint"`
}

// GetStatus is the HTTP status, as the server's framework asks for it.
func (p *Problem) GetStatus() int { return p.Status }
