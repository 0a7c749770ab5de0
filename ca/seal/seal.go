// Package seal keeps secrets at rest: symmetric keys and the like that must
// survive a restart but may never lie readable on a disk.
//
// A secret is encrypted with age to one X25519 recipient, the box. Sealing needs
// the recipient only and works while the station is locked; revealing needs the
// box's identity, which lies in a file of its own under a passphrase. Anybody who
// can write where the blobs lie can swap them or seal others, so each carries its
// reference inside, and whoever owns the secret keeps a salted hash of it
// elsewhere. Both files are plain age files; with the age program:
//
//	age --decrypt --identity seal.age secret.age
//
// prints the reference on the first line and then the secret's bytes.
package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"sync/atomic"

	"filippo.io/age"

	"nameplate/ca"
)

// maxSecret is what the largest secret may have: a private key or certificate
// bundle is far below it, and the sealed form lives in a database row.
const maxSecret = 64 << 10

// overhead is more than age and the reference add to a secret.
const overhead = 1 << 10

var refForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._:/-]{0,127}$`)

// NewRef is a random name for a secret, 32 hex digits.
func NewRef() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: since Go 1.24 it ends the program instead
	return hex.EncodeToString(b[:])
}

// Box seals secrets and, once unlocked, reveals them. It is safe for concurrent
// use.
type Box struct {
	recipient *age.X25519Recipient
	identity  atomic.Pointer[age.X25519Identity]
}

// Open makes a locked box for the recipient that Create returned.
func Open(recipient string) (*Box, error) {
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("opening the seal: %w", err)
	}
	return &Box{recipient: r}, nil
}

// Seal encrypts a secret under its reference: lower-case letters, digits and
// . _ : / -, at most 128. It works while the box is locked. The secret remains the
// caller's to clear.
func (b *Box) Seal(ref string, secret []byte) ([]byte, error) {
	if !refForm.MatchString(ref) {
		return nil, fmt.Errorf("sealing a secret: %.128q is no reference", ref)
	}
	if len(secret) > maxSecret {
		return nil, fmt.Errorf("sealing %s: %d bytes, at most %d", ref, len(secret), maxSecret)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, b.recipient)
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", ref, err)
	}
	for _, part := range [][]byte{[]byte(ref), {'\n'}, secret} {
		if _, err := w.Write(part); err != nil {
			return nil, fmt.Errorf("sealing %s: %w", ref, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", ref, err)
	}
	return sealed.Bytes(), nil
}

// Reveal decrypts what Seal made for this very reference. The caller clears the
// secret when it is done. Refusals: locked, sealed-damaged, sealed-swapped.
func (b *Box) Reveal(ref string, sealed []byte) ([]byte, error) {
	identity := b.identity.Load()
	if identity == nil {
		return nil, &ca.Refusal{Code: "locked", Sentence: "The station is locked: it cannot read its sealed secrets.",
			Next: "Unlock it with the station's passphrase."}
	}
	plain, err := decrypt(sealed, identity)
	if err != nil {
		return nil, &ca.Refusal{Code: "sealed-damaged", Sentence: fmt.Sprintf("The sealed secret %.128s is damaged or was sealed by another station.", ref),
			Next: "Restore it from the backup. If there is none, the unit needs a new secret.", Err: err}
	}
	inside, secret, ok := bytes.Cut(plain, []byte("\n"))
	if !ok || string(inside) != ref {
		clear(plain)
		return nil, &ca.Refusal{Code: "sealed-swapped", Sentence: fmt.Sprintf("What is stored as the sealed secret %.128s was sealed under another reference.", ref),
			Next: "Stop the station: somebody exchanged its secrets. Call the process engineer."}
	}
	return secret, nil
}

func decrypt(sealed []byte, identity *age.X25519Identity) ([]byte, error) {
	if len(sealed) > maxSecret+overhead {
		return nil, fmt.Errorf("%d bytes are too many", len(sealed))
	}
	in := bytes.NewReader(sealed)
	r, err := age.Decrypt(in, identity)
	if err != nil {
		return nil, err
	}
	// Room for the whole at once, so that growing leaves no copies behind.
	plain := bytes.NewBuffer(make([]byte, 0, len(sealed)+bytes.MinRead))
	if _, err := plain.ReadFrom(r); err != nil {
		clear(plain.Bytes())
		return nil, err
	}
	return plain.Bytes(), nil
}
