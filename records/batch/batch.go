// Package batch is the hand-over format: the identities of one customer as a
// folder of files that anybody can check offline with the station's public key.
//
//	identities.csv    one line per unit, for people and spreadsheets
//	identities.jsonl  the same rows, for programs
//	chains.pem        leaf and issuing CA of each x509 unit, in the order of the rows
//	ek.pem            the endorsement key certificate of each tpm unit that has one,
//	                  in the order of the rows
//	ca.pem            the issuing CAs and their roots
//	checkpoint.txt    the signed statement "n events, this root" of the ledger
//	manifest.jws      the signed list of all this: what, how many, which digest
//
// No file holds a secret of a device. Whose TPMs to trust is the customer's to
// decide: ek.pem holds what the TPMs hold of their makers, and nothing here leads
// from it to a maker's root.
//
// The package needs neither a ledger nor a
// network, so that a small verifier can be built from it.
package batch

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"nameplate/records"
)

// Names of the files of a batch. A batch holds these and nothing else.
const (
	CSVFile        = "identities.csv"
	JSONLFile      = "identities.jsonl"
	ChainsFile     = "chains.pem"
	EKFile         = "ek.pem"
	CAFile         = "ca.pem"
	CheckpointFile = "checkpoint.txt"
	ManifestFile   = "manifest.jws"
)

// listed are the files that the manifest names, in its order.
var listed = []string{CSVFile, JSONLFile, ChainsFile, EKFile, CAFile, CheckpointFile}

// Format names this form of the hand-over; a verifier refuses any other.
const Format = "nameplate-batch/2"

// QuotaFile is the quota level of a station that counts in its own ledger:
// making too many is detectable, not prevented.
const QuotaFile = "file"

// Manifest is the payload of manifest.jws.
type Manifest struct {
	Format     string    `json:"format"`
	Station    string    `json:"station"`
	Customer   string    `json:"customer"`
	Time       time.Time `json:"time"` // UTC, whole seconds
	QuotaLevel string    `json:"quota_level"`
	Orders     []Order   `json:"orders"`
	Units      int       `json:"units"`
	// Roots are the SHA-256 digests of the root certificates (DER) that the
	// chains end in; empty when no unit has a certificate.
	Roots      []string `json:"roots"`
	Files      []File   `json:"files"`
	Checkpoint string   `json:"checkpoint"` // the text of checkpoint.txt
}

// Order is one work order that units of the batch were made under.
type Order struct {
	ID            string `json:"id"`
	Product       string `json:"product"`
	ProductSHA256 string `json:"product_sha256"` // of the product file's raw bytes
	Quota         int    `json:"quota"`
	Units         int    `json:"units"` // in this batch
}

// File is one file of the batch. Rows counts units, in PEM files certificates,
// in the checkpoint nothing.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Rows   int    `json:"rows"`
}

// Row is one unit: a line of identities.jsonl.
type Row struct {
	Unit            string               `json:"unit"`
	RegistrationID  string               `json:"registration_id"`
	IDScope         string               `json:"id_scope"`
	RegistrationURL string               `json:"registration_url"`
	Attestation     string               `json:"attestation"`
	Order           string               `json:"order"`
	Serial          string               `json:"serial"`
	Hardware        []records.HardwareID `json:"hardware"`
	Certificate     *Certificate         `json:"certificate,omitempty"` // x509 only
	TPM             *TPM                 `json:"tpm,omitempty"`         // tpm only
}

// Certificate names a leaf; the leaf itself is in chains.pem.
type Certificate struct {
	SHA256   string    `json:"sha256"` // of the DER
	Serial   string    `json:"serial"` // lower-case hex, 32 digits
	NotAfter time.Time `json:"not_after"`
	Key      string    `json:"key"` // where its key was made: injected, device, tpm
}

// TPM names a TPM by its endorsement key.
type TPM struct {
	// EndorsementKey is the TPM2B_PUBLIC, size and all: its base64 is what an
	// enrollment of the provisioning service holds.
	EndorsementKey []byte `json:"endorsement_key"`
	// Certificate is the SHA-256 of the key's certificate (DER), which is in
	// ek.pem; empty if the TPM has none.
	Certificate string `json:"certificate_sha256,omitempty"`
}

// PublicKey is a station's key as the customer holds it. It signs the manifest
// and the ledger's checkpoints.
type PublicKey struct {
	Key      ed25519.PublicKey
	verifier note.Verifier
}

// Name is the key's name in the checkpoints it signs.
func (k PublicKey) Name() string { return k.verifier.Name() }

// maxKeyFile bounds a public key file: a name, 8 hex digits, 44 base64 digits.
const maxKeyFile = 1 << 10

// ParsePublicKey reads a station's public key file: one line, the verifier
// string of a signed note, name+hash+base64(0x01‖key)
// (golang.org/x/mod/sumdb/note; C2SP signed-note).
func ParsePublicKey(text []byte) (PublicKey, error) {
	if len(text) > maxKeyFile {
		return PublicKey{}, badKey(fmt.Errorf("%d bytes are too many", len(text)))
	}
	vkey := strings.TrimSpace(string(text))
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return PublicKey{}, badKey(err)
	}
	// NewVerifier has checked the form: an algorithm byte (Ed25519, the only one
	// it knows) and 32 bytes.
	_, rest, _ := strings.Cut(vkey, "+")
	_, key64, _ := strings.Cut(rest, "+") // the base64 may hold a plus itself
	raw, err := base64.StdEncoding.DecodeString(key64)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return PublicKey{}, badKey(err)
	}
	return PublicKey{Key: ed25519.PublicKey(raw[1:]), verifier: verifier}, nil
}

func badKey(err error) error {
	return &records.Refusal{Code: "public-key-unreadable",
		Sentence: "The public key file is not that of a station.",
		Next:     "Use the one-line file NAME+HASH+KEY that the station printed or wrote.", Err: err}
}
