package linux

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"nameplate/flasher"
	"nameplate/flasher/encode/aziot"
	"nameplate/flasher/encode/files"
)

// Where a device keeps the key that it made: the values of flasher.DeviceKey.In.
const (
	inFile = "file"
	inTPM  = "tpm"
)

// largestFile bounds what a board's file can cost the station; at 115200 baud it
// takes eight seconds each way.
const largestFile = 64 << 10

var (
	interfaceForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
	ownerForm     = regexp.MustCompile(`^([A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?)?$`)
)

// checkOptions tells why no board could be given an identity so.
func checkOptions(o flasher.Options) error {
	switch {
	case o.Store.Format == "files":
		if err := files.Check(o.Store.Files); err != nil {
			return err
		}
	case o.Store.Format != "aziot":
		return fmt.Errorf("the format is %q, this device family stores aziot and files", o.Store.Format)
	}
	switch k := o.Key; {
	case k.In != "" && k.In != inFile && k.In != inTPM:
		return fmt.Errorf("a key in %q is not one that this device family makes", k.In)
	case k.In == inTPM && !o.TPM:
		return errors.New("the key belongs into a TPM, and the board has none")
	case k.Module != "" && !tidy(k.Module):
		return fmt.Errorf("the module %q is not an absolute path", k.Module)
	}
	if !interfaceForm.MatchString(o.Interface) || strings.Trim(o.Interface, ".") == "" {
		return fmt.Errorf("%q is not a network interface", o.Interface)
	}
	if u := o.Console.User; len(u) > 64 || strings.ContainsFunc(u, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q is not a user", u)
	}
	used := map[string]bool{}
	for _, f := range append(stored(o), keyFile(o)...) {
		switch {
		case !tidy(f.Path):
			return fmt.Errorf("%q is not an absolute path of a file", f.Path)
		case used[f.Path]:
			return fmt.Errorf("the file %s is named twice", f.Path)
		case f.Mode > 0o777:
			return fmt.Errorf("the mode of %s is %#o", f.Path, f.Mode)
		case !ownerForm.MatchString(f.Owner):
			return fmt.Errorf("the owner of %s is %q", f.Path, f.Owner)
		}
		used[f.Path] = true
	}
	return nil
}

// tidy: an absolute path of printable characters, and not too long for a terminal's
// line with a command around it.
func tidy(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && len(p) <= 255 &&
		!strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' })
}

// stored is the files of the store that may hold an identity's items.
func stored(o flasher.Options) []flasher.File {
	s := o.Store
	if s.Format == "files" {
		return s.Files
	}
	all := []flasher.File{s.Config}
	if o.TPM && o.Key.In == "" {
		return all // its key is the TPM's own
	}
	if s.Certificate.Path != "" {
		all = append(all, s.Certificate)
	}
	if s.PrivateKey.Path != "" && o.Key.In == "" {
		all = append(all, s.PrivateKey)
	}
	return all
}

// keyFile is the file of the key that the board makes, if that is where it is.
func keyFile(o flasher.Options) []flasher.File {
	if o.Key.In != inFile {
		return nil
	}
	return []flasher.File{o.Key.File}
}

// Plan implements flasher.Device: each file of the format is a segment and an item,
// found again by its bytes; the salt of what holds a secret is the identity's.
// What the board can prove comes behind: the key that it made, and the endorsement
// key where the identity rests on that.
func (d *device) Plan(id flasher.Identity) (flasher.Plan, error) {
	p, err := d.plan(id)
	if err != nil {
		return flasher.Plan{}, misfit(err)
	}
	return p, nil
}

func (d *device) plan(id flasher.Identity) (flasher.Plan, error) {
	encode := aziot.Encode
	if d.options.Store.Format == "files" {
		encode = files.Encode
	}
	made, err := encode(id, d.options)
	if err != nil {
		return flasher.Plan{}, err
	}
	var p flasher.Plan
	for _, f := range made {
		var salt []byte
		if f.Secret {
			if salt = id.Salt; len(salt) == 0 {
				return flasher.Plan{}, errors.New("the identity has no salt for its secrets")
			}
		}
		if len(f.Data) > largestFile {
			return flasher.Plan{}, fmt.Errorf("%s would have %d bytes, %d is the limit", f.Target, len(f.Data), largestFile)
		}
		p.Segments = append(p.Segments, f.Segment)
		p.Manifest = append(p.Manifest, flasher.NewItem(f.Target, salt, f.Data, flasher.ByBytes))
	}
	switch {
	case id.Attestation == flasher.TPM && d.facts.Endorsement == nil:
		return flasher.Plan{}, errors.New("the identity rests on a TPM, and the product says that the board has none")
	case id.Attestation == flasher.TPM:
		p.Manifest = append(p.Manifest,
			flasher.NewItem(flasher.ItemEndorsementKey, nil, d.facts.Endorsement.Public, flasher.ByPossession))
	case id.Attestation == flasher.X509 && len(id.PrivateKey) == 0:
		if d.options.Key.In == "" {
			return flasher.Plan{}, errors.New("the identity has no private key, and the device makes none")
		}
		spki, err := certifiedKey(id.Certificate)
		if err != nil {
			return flasher.Plan{}, err
		}
		p.Manifest = append(p.Manifest, flasher.NewItem(flasher.ItemPrivateKey, nil, spki, flasher.ByPossession))
	}
	return p, nil
}

// certifiedKey is the subject public key info of a chain's leaf.
func certifiedKey(chain []byte) ([]byte, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, errors.New("the certificate is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	return bytes.Clone(leaf.RawSubjectPublicKeyInfo), nil
}

// possessed is what a proof finds: the digest of the public key.
func possessed(name string, public []byte, proof *flasher.Proof) flasher.Item {
	sum := sha256.Sum256(public)
	return flasher.Item{Name: name, SHA256: hex.EncodeToString(sum[:]), How: flasher.ByPossession, Proof: proof}
}
