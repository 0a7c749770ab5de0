// Package files turns an identity into files by templates: the text of each as
// the product gives it, with the identity's values in place of {registration_id}
// and its like. Values go in as they are; a template puts the quotes around them.
package files

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"

	"nameplate/flasher"
)

// File is a file of an identity.
type File struct {
	flasher.Segment
	Secret bool // it holds a key or a PIN
}

// New is the file f with data in it. Only its owner may read and write it where
// f does not say otherwise.
func New(f flasher.File, data []byte, secret bool) File {
	mode := f.Mode
	if mode == 0 {
		mode = 0o600
	}
	return File{Segment: flasher.Segment{Target: f.Path, Mode: mode, Owner: f.Owner, Data: data}, Secret: secret}
}

// keyHandle is the placeholder that is no item of the identity: where the TPM
// keeps the device's key.
const keyHandle = "key_handle"

// placeholder leaves the braces of JSON and of empty objects alone.
var placeholder = regexp.MustCompile(`\{[a-z0-9_]+\}`)

var known = map[string]bool{
	flasher.ItemRegistrationURL: true, flasher.ItemIDScope: true, flasher.ItemRegistrationID: true,
	flasher.ItemSymmetricKey: true, flasher.ItemCertificate: true, flasher.ItemPrivateKey: true, keyHandle: true,
}

// Check tells why these files cannot be filled for any identity.
func Check(templates []flasher.File) error {
	if len(templates) == 0 {
		return errors.New("it names no file")
	}
	for _, f := range templates {
		for _, p := range placeholder.FindAllString(f.Text, -1) {
			if !known[p[1:len(p)-1]] {
				return fmt.Errorf("the text of %s has %s in it, which is no placeholder", f.Path, p)
			}
		}
	}
	return nil
}

// Encode fills the templates of o. A placeholder that the identity has no value
// for is an error, and so is a key, a certificate or, for a TPM, a registration
// ID that no file takes up: the device could not prove who it is.
func Encode(id flasher.Identity, o flasher.Options) ([]File, error) {
	if err := Check(o.Store.Files); err != nil {
		return nil, err
	}
	values, needed := valuesOf(id, o.Key)
	symmetric := values[flasher.ItemSymmetricKey]
	defer clear(symmetric) // our own base64 copy
	used := map[string]bool{}
	var made []File
	for _, f := range o.Store.Files {
		data, secret, err := fill(f.Text, values, used)
		if err != nil {
			return nil, fmt.Errorf("the text of %s: %w", f.Path, err)
		}
		made = append(made, New(f, data, secret))
	}
	for _, name := range needed {
		if !used[name] {
			return nil, fmt.Errorf("no file has {%s} in its text", name)
		}
	}
	return made, nil
}

// valuesOf returns the placeholders' values, and those that some file must have.
func valuesOf(id flasher.Identity, key flasher.DeviceKey) (values map[string][]byte, needed []string) {
	values = map[string][]byte{
		flasher.ItemRegistrationURL: []byte(id.RegistrationURL),
		flasher.ItemIDScope:         []byte(id.IDScope),
		flasher.ItemRegistrationID:  []byte(id.RegistrationID),
	}
	switch id.Attestation {
	case flasher.SymmetricKey:
		values[flasher.ItemSymmetricKey] = base64.StdEncoding.AppendEncode(nil, id.SymmetricKey)
		needed = []string{flasher.ItemSymmetricKey}
	case flasher.X509:
		values[flasher.ItemCertificate] = id.Certificate
		needed = []string{flasher.ItemCertificate}
		if len(id.PrivateKey) > 0 {
			values[flasher.ItemPrivateKey] = id.PrivateKey
			needed = append(needed, flasher.ItemPrivateKey)
		}
	case flasher.TPM:
		needed = []string{flasher.ItemRegistrationID}
	}
	if key.In == "tpm" {
		values[keyHandle] = fmt.Appendf(nil, "0x%08x", key.Handle)
	}
	return values, needed
}

// fill puts the values in. The result has its room from the start, so that no
// copy of a key stays behind in a buffer that was outgrown.
func fill(text string, values map[string][]byte, used map[string]bool) (data []byte, secret bool, err error) {
	places := placeholder.FindAllStringIndex(text, -1)
	size := len(text)
	for _, at := range places {
		name := text[at[0]+1 : at[1]-1]
		if len(values[name]) == 0 {
			return nil, false, fmt.Errorf("the identity has nothing for {%s}", name)
		}
		used[name] = true
		secret = secret || name == flasher.ItemSymmetricKey || name == flasher.ItemPrivateKey
		size += len(values[name])
	}
	data = make([]byte, 0, size)
	from := 0
	for _, at := range places {
		data = append(data, text[from:at[0]]...)
		data = append(data, values[text[at[0]+1:at[1]-1]]...)
		from = at[1]
	}
	return append(data, text[from:]...), secret, nil
}
