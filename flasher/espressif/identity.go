package espressif

import (
	"encoding/base64"
	"errors"
	"fmt"

	"nameplate/flasher"
	"nameplate/flasher/encode/nvs"
)

// stored says how each item of an identity is kept, in the order in which it is
// written.
var stored = [...]struct {
	item   string
	as     nvs.Type
	secret bool
}{
	{flasher.ItemRegistrationURL, nvs.String, false},
	{flasher.ItemIDScope, nvs.String, false},
	{flasher.ItemRegistrationID, nvs.String, false},
	// Base64, which is what the Azure SDKs for devices take.
	{flasher.ItemSymmetricKey, nvs.String, true},
	// PEM as it is, always a blob because a chain can pass NVS's limit for
	// strings, and without the closing zero that some parsers want.
	{flasher.ItemCertificate, nvs.Blob, false},
	{flasher.ItemPrivateKey, nvs.Blob, true},
}

// checkStore refuses what no identity could be stored under.
func checkStore(s flasher.Store) error {
	if s.Format != "nvs" {
		return misfit(fmt.Errorf("the format is %q, this device family stores nvs", s.Format))
	}
	if err := nvs.CheckName(s.Namespace); err != nil {
		return misfit(fmt.Errorf("namespace %q: %w", s.Namespace, err))
	}
	used := map[string]string{}
	for _, st := range stored {
		key, ok := s.Keys[st.item]
		if !ok {
			continue // an attestation that needs it is refused by Plan
		}
		if err := nvs.CheckName(key); err != nil {
			return misfit(fmt.Errorf("key %q of %s: %w", key, st.item, err))
		}
		if other, twice := used[key]; twice {
			return misfit(fmt.Errorf("%s and %s have the same key %q", other, st.item, key))
		}
		used[key] = st.item
	}
	return nil
}

// itemsOf returns the bytes of each item as the device keeps them, by name.
func itemsOf(id flasher.Identity) (map[string][]byte, error) {
	items := map[string][]byte{
		flasher.ItemRegistrationURL: []byte(id.RegistrationURL),
		flasher.ItemIDScope:         []byte(id.IDScope),
		flasher.ItemRegistrationID:  []byte(id.RegistrationID),
	}
	switch id.Attestation {
	case flasher.SymmetricKey:
		items[flasher.ItemSymmetricKey] = base64.StdEncoding.AppendEncode(nil, id.SymmetricKey)
	case flasher.X509:
		items[flasher.ItemCertificate] = id.Certificate
		items[flasher.ItemPrivateKey] = id.PrivateKey
	default:
		return nil, fmt.Errorf("attestation %q is not one this device family stores", id.Attestation)
	}
	for _, st := range stored {
		if b, ok := items[st.item]; ok && len(b) == 0 {
			return nil, fmt.Errorf("the identity has no %s", st.item)
		}
	}
	if len(id.Salt) == 0 {
		return nil, errors.New("the identity has no salt for its secrets")
	}
	return items, nil
}

// Plan makes the image of the whole partition: what else the partition held is
// gone after Write, so an old identity cannot shine through. The manifest has
// each item as it is stored, found again by its bytes. The image as a whole is
// no item: the ROM computes MD5 only, which Write uses, and the firmware may
// later add entries of its own.
func (d *device) Plan(id flasher.Identity) (flasher.Plan, error) {
	items, err := itemsOf(id)
	if err != nil {
		return flasher.Plan{}, misfit(err)
	}
	if id.Attestation == flasher.SymmetricKey {
		defer clear(items[flasher.ItemSymmetricKey]) // our own base64 copy
	}
	space := nvs.Namespace{Name: d.options.Store.Namespace}
	var manifest flasher.Manifest
	for _, st := range stored {
		b, ok := items[st.item]
		if !ok {
			continue
		}
		key, ok := d.options.Store.Keys[st.item]
		if !ok {
			return flasher.Plan{}, misfit(fmt.Errorf("the product file names no key for %s", st.item))
		}
		space.Entries = append(space.Entries, nvs.Entry{Key: key, Value: nvs.Value{Type: st.as, Data: b}})
		var salt []byte
		if st.secret {
			salt = id.Salt
		}
		manifest = append(manifest, flasher.NewItem(st.item, salt, b, flasher.ByBytes))
	}
	image, err := nvs.Encode(int(d.part.Size/nvs.PageSize), space)
	if err != nil {
		return flasher.Plan{}, misfit(err)
	}
	return flasher.Plan{
		Manifest: manifest,
		Segments: []flasher.Segment{{Target: d.part.Name, Offset: d.part.Offset, Data: image}},
	}, nil
}
