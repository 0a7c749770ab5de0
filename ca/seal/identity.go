package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"
	"filippo.io/age/armor"

	"nameplate/ca"
)

const (
	// workFactor is the base-2 logarithm of scrypt's cost for the identity file:
	// about 0.2 s and 64 MB on a small machine, once per start. Each step up
	// doubles both, for us and for a thief.
	workFactor = 16
	// maxWorkFactor ends the wait for a file that somebody made costly: at most
	// about 1 s and 256 MB.
	maxWorkFactor = 18

	// maxIdentityFile is many times an armored identity (about 500 bytes).
	maxIdentityFile = 8 << 10
)

// Create makes a new box: its identity, encrypted under the passphrase as an
// armored age file, and its public recipient ("age1…"). Both are to be stored; the
// identity itself is nowhere else.
func Create(passphrase ca.Passphrase) (identityFile []byte, recipient string, err error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, "", fmt.Errorf("creating the seal: %w", err)
	}
	lock, err := age.NewScryptRecipient(string(passphrase.Bytes()))
	if err != nil {
		return nil, "", fmt.Errorf("creating the seal: %w", err)
	}
	lock.SetWorkFactor(workFactor)
	var file bytes.Buffer
	text := armor.NewWriter(&file)
	w, err := age.Encrypt(text, lock)
	if err != nil {
		return nil, "", fmt.Errorf("creating the seal: %w", err)
	}
	if _, err := io.WriteString(w, identity.String()+"\n"); err != nil {
		return nil, "", fmt.Errorf("creating the seal: %w", err)
	}
	if err := errors.Join(w.Close(), text.Close()); err != nil {
		return nil, "", fmt.Errorf("creating the seal: %w", err)
	}
	return file.Bytes(), identity.Recipient().String(), nil
}

// Unlock opens the identity file and keeps the identity in memory for the life of
// the box. Refusals: passphrase-wrong; seal-damaged; seal-other, when the file
// belongs to another box.
func (b *Box) Unlock(identityFile []byte, passphrase ca.Passphrase) error {
	identity, err := openIdentity(identityFile, passphrase)
	var wrong *age.NoIdentityMatchError
	switch {
	case errors.As(err, &wrong) && slices.Contains(wrong.StanzaTypes, "scrypt"):
		return &ca.Refusal{Code: "passphrase-wrong", Sentence: "The passphrase does not open the station's seal.",
			Next: "Enter it again."}
	case err != nil:
		return &ca.Refusal{Code: "seal-damaged", Sentence: "The file with the station's seal is damaged.",
			Next: "Restore the file from the backup.", Err: err}
	case identity.Recipient().String() != b.recipient.String():
		return &ca.Refusal{Code: "seal-other", Sentence: "The file with the station's seal belongs to another seal.",
			Next: "Restore the file and the station's folder from one backup."}
	}
	b.identity.Store(identity)
	return nil
}

func openIdentity(file []byte, passphrase ca.Passphrase) (*age.X25519Identity, error) {
	if len(file) > maxIdentityFile {
		return nil, fmt.Errorf("%d bytes are too many", len(file))
	}
	key, err := age.NewScryptIdentity(string(passphrase.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("stretching the passphrase: %w", err)
	}
	key.SetMaxWorkFactor(maxWorkFactor)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(file)), key)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	defer func() { clear(plain) }()
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	identity, err := age.ParseX25519Identity(string(bytes.TrimSuffix(plain, []byte("\n"))))
	if err != nil {
		// The library's words may quote the identity.
		return nil, errors.New("what is inside is no X25519 identity")
	}
	return identity, nil
}
