// Package ek holds endorsement keys and their certificates against what the TCG
// and an order ask of them. Everything is a pure check of bytes, so that replay
// can make it again; only LoadRoots reads files.
package ek

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"nameplate/ca"
)

// Policy is what a product asks of the certificate of a board's endorsement key.
type Policy string

const (
	Require Policy = "require" // refuse a board whose certificate does not pass
	Record  Policy = "record"  // keep what was found, and what was wrong with it
	None    Policy = "none"    // keep the bytes, look at nothing
)

// Result is what a certificate said and where it led.
type Result struct {
	DER    []byte
	Chain  [][]byte // DER: the intermediates, then the root; empty if no root was reached
	Anchor string   // SHA-256 of the root, lower-case hex

	// The TPM as the certificate names it (TCG EK Credential Profile 3.2, subject
	// alternative name). A manufacturer of the form id:49465800 is spelt out: IFX.
	Manufacturer string
	Model        string
	Version      string

	Serial   string // lower-case hex
	NotAfter time.Time
}

// Admit reads the certificate out of what the TPM's NV index held, nil if there is
// none, and holds it against the policy. Under Record, finding says what was
// wrong, one sentence for each failed check; under Require the same is the cause
// of a Refusal.
func Admit(policy Policy, nv []byte, roots *Roots, ekPublic []byte, at time.Time) (r Result, finding string, err error) {
	var failed failures
	switch policy {
	case None:
		if cert, err := read(nv); err == nil {
			r.DER = cert.Raw
		}
		return r, "", nil
	case Require, Record:
		r, failed = admit(nv, roots, ekPublic, at)
	default:
		return Result{}, "", fmt.Errorf("holding an EK certificate against the policy %q: there is none of that name", policy)
	}
	switch {
	case len(failed) == 0:
		return r, "", nil
	case policy == Record:
		return r, failed.sentences(), nil
	}
	return r, "", failed.refusal(r, at)
}

func admit(nv []byte, roots *Roots, ekPublic []byte, at time.Time) (Result, failures) {
	var failed failures
	if len(bytes.Trim(nv, "\x00\xff")) == 0 {
		failed.check(missing, false, "the TPM holds no EK certificate (EK Credential Profile 2.2)")
		return Result{}, failed
	}
	der, err := Trim(nv)
	if err != nil {
		failed.wrap(invalid, err, "the NV index holds no certificate (EK Credential Profile 2.2)")
		return Result{}, failed
	}
	return check(der, roots, ekPublic, at)
}

// The codes of the refusals of a certificate.
const (
	missing   = "ek-certificate-missing"
	otherKey  = "ek-certificate-other-key"
	untrusted = "ek-certificate-untrusted"
	expired   = "ek-certificate-expired"
	invalid   = "ek-certificate-invalid"
	unusable  = "ek-unusable" // the endorsement key itself
)

// failure is one check that failed, and the refusal that it leads to.
type failure struct {
	code string
	error
}

func (f failure) Unwrap() error { return f.error }

// failures collects one sentence per failed check.
type failures []failure

func (f *failures) check(code string, ok bool, sentence string, args ...any) {
	if !ok {
		*f = append(*f, failure{code, fmt.Errorf(sentence, args...)})
	}
}

func (f *failures) wrap(code string, err error, sentence string) {
	if err != nil {
		*f = append(*f, failure{code, fmt.Errorf("%s: %w", sentence, err)})
	}
}

func (f failures) has(code string) bool {
	for _, one := range f {
		if one.code == code {
			return true
		}
	}
	return false
}

func (f failures) join() error {
	all := make([]error, len(f))
	for i, one := range f {
		all[i] = one
	}
	return errors.Join(all...)
}

func (f failures) sentences() string {
	all := make([]string, len(f))
	for i, one := range f {
		all[i] = one.Error()
	}
	return strings.Join(all, "; ")
}

// refusal is for the failure that tells most: a certificate that was exchanged
// before one that is only old.
func (f failures) refusal(r Result, at time.Time) *ca.Refusal {
	const aside = "Set the board aside."
	named := ""
	if r.Manufacturer != "" {
		named = fmt.Sprintf(" (%s %s)", r.Manufacturer, r.Model)
	}
	if f.has(unusable) {
		return Refuse(f.join())
	}
	for _, no := range []ca.Refusal{
		{Code: missing, Sentence: "The board's TPM has no EK certificate, and this product asks for one.", Next: aside + " If none of the TPMs have one, the product's profile must not require it."},
		{Code: otherKey, Sentence: "The board's EK certificate" + named + " is that of another TPM.", Next: aside + " Report it: a TPM or a certificate was exchanged."},
		{Code: untrusted, Sentence: "The board's EK certificate" + named + " does not lead to a TPM vendor that this order trusts.", Next: aside + " If you do buy from this vendor, put its certificates into the folder of EK roots and open a new order."},
		{Code: expired, Sentence: fmt.Sprintf("The board's EK certificate%s is not valid on %s.", named, at.UTC().Format(time.DateOnly)), Next: "Check the station's clock. If it is right, set the board aside."},
		{Code: invalid, Sentence: "The board's EK certificate" + named + " is not one that a TPM vendor makes for an endorsement key.", Next: aside},
	} {
		if f.has(no.Code) {
			no.Err = f.join()
			return &no
		}
	}
	return nil
}
