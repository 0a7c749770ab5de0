package home

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"nameplate/ca"
	"nameplate/ca/authority"
	"nameplate/ca/seal"
	"nameplate/records"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"
)

// ErrLocked is the refusal of whatever needs the station's keys.
var ErrLocked = &records.Refusal{Code: "station-locked", Sentence: "The station is locked.",
	Next: "Unlock it with 'station unlock'."}

// Vault holds the station's keys: locked at the start, unlocked by the
// passphrase until the process ends.
type Vault struct {
	dir  string
	keys atomic.Pointer[keys]
}

type keys struct {
	station   ed25519.PrivateKey
	note      note.Signer
	authority *authority.Authority
	box       *seal.Box
}

func newVault(dir string) *Vault { return &Vault{dir: dir} }

// Unlocked tells whether the keys are open.
func (v *Vault) Unlocked() bool { return v.keys.Load() != nil }

// unlock opens the keys; the root's is not among them. Each has its own key
// stretching, which takes a tenth of a second: all cores share the work.
func (v *Vault) unlock(customers []string, pass ca.Passphrase) error {
	var k keys
	var group errgroup.Group
	group.Go(func() error {
		station, err := v.readKey("keys/station.key", pass)
		if err != nil {
			return err
		}
		var ok bool
		if k.station, ok = station.(ed25519.PrivateKey); !ok {
			return errors.New("unlocking the station: keys/station.key is not an Ed25519 key")
		}
		k.note, err = v.noteSigner(k.station)
		return err
	})
	group.Go(func() (err error) {
		k.box, err = v.openBox(pass)
		return err
	})
	group.Go(func() (err error) {
		k.authority, err = v.openAuthority(customers, pass)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	v.keys.Store(&k)
	return nil
}

func (v *Vault) path(name string) string { return filepath.Join(v.dir, name) }

func (v *Vault) readKey(name string, pass ca.Passphrase) (crypto.Signer, error) {
	raw, err := os.ReadFile(v.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	return authority.DecodeKey(raw, pass)
}

func (v *Vault) readCertificate(name string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(v.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	return authority.DecodeCertificate(raw)
}

func (v *Vault) openBox(pass ca.Passphrase) (*seal.Box, error) {
	recipient, err := os.ReadFile(v.path("keys/seal.pub"))
	if err != nil {
		return nil, fmt.Errorf("reading the seal: %w", err)
	}
	box, err := seal.Open(strings.TrimSpace(string(recipient)))
	if err != nil {
		return nil, err
	}
	identity, err := os.ReadFile(v.path("keys/seal.age"))
	if err != nil {
		return nil, fmt.Errorf("reading the seal: %w", err)
	}
	return box, box.Unlock(identity, pass)
}

// openAuthority opens the issuing CA of each customer that has one.
func (v *Vault) openAuthority(customers []string, pass ca.Passphrase) (*authority.Authority, error) {
	root, err := v.readCertificate("ca/root.pem")
	if err != nil {
		return nil, err
	}
	issuers := map[string]authority.Pair{}
	var mu sync.Mutex
	var group errgroup.Group
	for _, customer := range customers {
		group.Go(func() error {
			cert, err := v.readCertificate("ca/" + customer + ".pem")
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			signer, err := v.readKey("ca/"+customer+".key", pass)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			issuers[customer] = authority.Pair{Certificate: cert, Signer: signer}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return authority.Open(authority.Config{Root: root, Issuers: issuers})
}

// Verifier checks the station's checkpoints.
func (h *Home) Verifier() (note.Verifier, error) {
	public, err := os.ReadFile(h.path("keys/station.pub"))
	if err != nil {
		return nil, fmt.Errorf("reading the station's public key: %w", err)
	}
	return note.NewVerifier(strings.TrimSpace(string(public)))
}

// Authorities are the certificates of the station's root and issuing CAs.
func (h *Home) Authorities() (root *x509.Certificate, issuing []*x509.Certificate, err error) {
	if root, err = h.Vault.readCertificate("ca/root.pem"); err != nil {
		return nil, nil, err
	}
	cas, err := CAs(h.Dir)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range cas {
		if c.Name == "root" {
			continue
		}
		cert, err := h.Vault.readCertificate("ca/" + c.Name + ".pem")
		if err != nil {
			return nil, nil, err
		}
		issuing = append(issuing, cert)
	}
	return root, issuing, nil
}

// noteSigner signs checkpoints. Its name is the ledger's origin, as it stands in
// the public key file.
func (v *Vault) noteSigner(key ed25519.PrivateKey) (note.Signer, error) {
	public, err := os.ReadFile(v.path("keys/station.pub"))
	if err != nil {
		return nil, fmt.Errorf("reading the station's public key: %w", err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(public)), "+")
	want, err := note.NewEd25519VerifierKey(name, key.Public().(ed25519.PublicKey))
	if err != nil || want != strings.TrimSpace(string(public)) {
		return nil, &records.Refusal{Code: "station-key-other", Sentence: "keys/station.pub and keys/station.key are not a pair.",
			Next: "Restore both from one backup.", Err: err}
	}
	_, rest, _ := strings.Cut(want, "+")
	hash, _, _ := strings.Cut(rest, "+")
	const ed25519Algorithm = 1 // C2SP signed-note, signature types
	secret := append([]byte{ed25519Algorithm}, key.Seed()...)
	defer clear(secret)
	return note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(secret))
}

// Signer signs checkpoints.
func (v *Vault) Signer() (note.Signer, error) {
	k := v.keys.Load()
	if k == nil {
		return nil, ErrLocked
	}
	return k.note, nil
}

// StationKey signs manifests.
func (v *Vault) StationKey() (ed25519.PrivateKey, error) {
	k := v.keys.Load()
	if k == nil {
		return nil, ErrLocked
	}
	return k.station, nil
}

// Issue signs a device certificate.
func (v *Vault) Issue(ctx context.Context, r ca.Request) (ca.Issued, error) {
	k := v.keys.Load()
	if k == nil {
		return ca.Issued{}, ErrLocked
	}
	return k.authority.Issue(ctx, r)
}

// Chain is what stands above a customer's certificates, DER: issuing CA, root.
func (v *Vault) Chain(customer string) ([][]byte, error) {
	k := v.keys.Load()
	if k == nil {
		return nil, ErrLocked
	}
	return k.authority.Chain(customer)
}

// Seal encrypts a secret so that it can be stored.
func (h *Home) Seal(ref string, secret []byte) ([]byte, error) {
	k := h.Vault.keys.Load()
	if k == nil {
		return nil, ErrLocked
	}
	return k.box.Seal(ref, secret)
}

// Reveal is for those few who need a sealed secret: the line, to write it, and
// the pusher, to enroll it.
func (h *Home) Reveal(ctx context.Context, ref string) ([]byte, error) {
	k := h.Vault.keys.Load()
	if k == nil {
		return nil, ErrLocked
	}
	sealed, err := h.Ledger.Sealed(ctx, ref)
	if err != nil {
		return nil, err
	}
	return k.box.Reveal(ref, sealed)
}

// Unlock opens every key that the station needs at its daily work. A wrong
// passphrase changes nothing.
func (h *Home) Unlock(pass ca.Passphrase) error {
	// Stretching the passphrase of the seal takes 64 MiB, once: nothing else that
	// the station does needs as much.
	defer debug.FreeOSMemory()
	err := h.Vault.unlock(slices.Collect(maps.Keys(h.Set.Customers)), pass)
	var refused *ca.Refusal
	if errors.As(err, &refused) && refused.Code == "passphrase-wrong" {
		// Which of the keys said so first is chance.
		return &records.Refusal{Code: refused.Code, Sentence: "The passphrase does not open the station's keys.",
			Next: "Enter it again. If you are sure of it, restore the folders keys and ca from the backup.", Err: err}
	}
	return err
}
