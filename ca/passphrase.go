package ca

import (
	"bytes"
	"fmt"
	"io"
)

// Passphrase is what an operator types or a file holds to unlock keys. No
// formatting verb, encoder or logger shows it. Copies share one memory, so Wipe
// on one wipes all.
type Passphrase struct {
	// A function, because package fmt prints unexported fields of an enclosing
	// struct without asking our Format, and in some verbs follows pointers there;
	// of a function it knows only the address.
	secret func() *[]byte
}

// NewPassphrase takes a copy of b without its one trailing line end, which
// editors and echo put into passphrase files. An empty one is refused.
func NewPassphrase(b []byte) (Passphrase, error) {
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return Passphrase{}, &Refusal{Code: "passphrase-empty", Sentence: "The passphrase is empty.",
			Next: "Give a passphrase of one line."}
	}
	secret := bytes.Clone(b)
	return Passphrase{func() *[]byte { return &secret }}, nil
}

// Bytes is the secret itself, for the rooms that stretch it into a key; nil for
// the zero Passphrase and after Wipe. It is not a copy.
func (p Passphrase) Bytes() []byte {
	if p.secret == nil {
		return nil
	}
	return *p.secret()
}

// Wipe overwrites the secret. Libraries that took it as a string keep theirs
// until the garbage collector comes.
func (p Passphrase) Wipe() {
	if p.secret != nil {
		clear(*p.secret())
		*p.secret() = nil
	}
}

// Format hides the secret from every verb.
func (p Passphrase) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(passphrase)") }

// MarshalText hides the secret from every text encoder.
func (p Passphrase) MarshalText() ([]byte, error) { return []byte("(passphrase)"), nil }
