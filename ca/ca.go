// Package ca is the vocabulary of issuing: what is asked, what is issued, why
// not, and the pure checks that anybody may repeat with nothing but the bytes.
// The rooms below do the work: authority signs, groupkey derives device keys,
// seal keeps secrets at rest.
package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Backdate is how far before the present a certificate's NotBefore is set, so
// that a device whose clock is a little slow accepts its own certificate.
const Backdate = 5 * time.Minute

// Request asks one customer's issuing CA for a device certificate.
type Request struct {
	Customer     string    // whose issuing CA signs
	CommonName   string    // the registration ID; at most 64 characters (X.520 ub-common-name)
	Organization string    // optional subject O
	CSR          []byte    // DER PKCS#10, self-signed: proof that the asker holds the key
	NotBefore    time.Time // UTC, whole seconds
	NotAfter     time.Time
}

// Issued is a certificate that was checked after it was signed.
type Issued struct {
	DER       []byte
	Chain     [][]byte // DER: issuing CA, root; shared by all certificates of a customer, not to be changed
	Serial    string   // lower-case hex, 32 digits
	NotBefore time.Time
	NotAfter  time.Time
	SPKI      string // SHA-256 of the subject public key info, lower-case hex
}

// Digest is the lower-case hex SHA-256 of b, the form in which certificates and
// keys are named everywhere in the product.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Refusal is a "no" that a person can act on.
type Refusal struct {
	Code     string // for machines, stable: "passphrase-wrong"
	Sentence string // what is wrong
	Next     string // what to do
	Err      error  // the cause, for engineers; may be nil
}

func (r *Refusal) Error() string { return r.Sentence + " " + r.Next }
func (r *Refusal) Unwrap() error { return r.Err }
