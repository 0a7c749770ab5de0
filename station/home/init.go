package home

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
	"nameplate/ca/seal"
	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/profile"

	"golang.org/x/mod/sumdb/note"
)

// Init makes a station in dir: folders, an example station.yaml if there is
// none, the station's keys, its root, an issuing CA for each customer that is
// configured already, and last the ledger, under its final name only when all
// else is there. A folder that holds a ledger or keys is refused and left as it
// is.
func Init(ctx context.Context, dir, name string, pass ca.Passphrase) error {
	for _, file := range []string{"ledger.db", newest, "keys", "ca"} {
		if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
			return &records.Refusal{Code: "station-exists", Sentence: fmt.Sprintf("%s holds %s already.", dir, file),
				Next: "Choose another folder. Only if an earlier init was interrupted (no ledger.db is there): remove keys, ca, checkpoint.txt and ledger.new*, and run init again."}
		}
	}
	if err := makeFolders(dir, "", "products", "customers", "secrets"); err != nil {
		return err
	}
	settings := filepath.Join(dir, "station.yaml")
	written := writeNew(settings, fmt.Appendf(nil, stationTemplate, name), 0o644)
	if written != nil && !errors.Is(written, fs.ErrExist) {
		return written
	}
	set, err := profile.Load(dir)
	if err != nil {
		if written == nil {
			os.Remove(settings) // ours, with a name that cannot be one
		}
		return err
	}
	// Settings with mistakes end here, and init can be run again when they are
	// mended; what follows is made once.
	if err := makeFolders(dir, "keys", "ca"); err != nil {
		return err
	}
	v := newVault(dir)
	fresh := filepath.Join(dir, "ledger.new")
	if err := ledger.Create(ctx, fresh, set.Station.Name); err != nil {
		return err
	}
	if err := v.makeStationKey(ctx, fresh, pass); err != nil {
		return err
	}
	if err := v.makeSeal(pass); err != nil {
		return err
	}
	root, err := authority.CreateRoot("Nameplate "+set.Station.Name+" root", time.Now())
	if err != nil {
		return err
	}
	if err := v.writeCA("root", root, pass); err != nil {
		return err
	}
	for customer := range set.Customers {
		if err := v.makeCA(set.Station.Name, customer, root, pass); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, filepath.Join(dir, "ledger.db")); err != nil {
		return fmt.Errorf("naming the ledger: %w", err)
	}
	for _, side := range []string{"-wal", "-shm", ".lock"} {
		os.Remove(fresh + side) // empty, and without meaning under this name
	}
	return syncDir(dir)
}

func makeFolders(dir string, names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return fmt.Errorf("making the station's folder: %w", err)
		}
	}
	return nil
}

const stationTemplate = `# What this station is. 'station check' explains every mistake in it.
name: %s
slots:
  - name: slot-1
    port: /dev/ttyUSB0
`

func (v *Vault) makeStationKey(ctx context.Context, ledgerPath string, pass ca.Passphrase) error {
	l, err := ledger.OpenReadOnly(ctx, ledgerPath)
	if err != nil {
		return err
	}
	origin := l.Origin()
	if err := l.Close(); err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making the station's key: %w", err)
	}
	verifier, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return fmt.Errorf("naming the station's key: %w", err)
	}
	sealed, err := authority.EncodeKey(private, pass)
	if err != nil {
		return err
	}
	if err := writeNew(v.path("keys/station.key"), sealed, 0o600); err != nil {
		return err
	}
	return writeNew(v.path("keys/station.pub"), []byte(verifier+"\n"), 0o644)
}

func (v *Vault) makeSeal(pass ca.Passphrase) error {
	identity, recipient, err := seal.Create(pass)
	if err != nil {
		return err
	}
	if err := writeNew(v.path("keys/seal.age"), identity, 0o600); err != nil {
		return err
	}
	return writeNew(v.path("keys/seal.pub"), []byte(recipient+"\n"), 0o644)
}

func (v *Vault) writeCA(name string, p authority.Pair, pass ca.Passphrase) error {
	key, err := authority.EncodeKey(p.Signer, pass)
	if err != nil {
		return err
	}
	// The key first: a certificate without its key could never be used, and
	// nobody would notice before it was needed.
	if err := writeNew(v.path("ca/"+name+".key"), key, 0o600); err != nil {
		return err
	}
	return writeNew(v.path("ca/"+name+".pem"), authority.EncodeCertificate(p.Certificate), 0o644)
}

func (v *Vault) makeCA(station, customer string, root authority.Pair, pass ca.Passphrase) error {
	issuing, err := authority.CreateIssuing(root, "Nameplate "+station+" "+customer, time.Now())
	if err != nil {
		return err
	}
	return v.writeCA(customer, issuing, pass)
}

// IssueCA makes the issuing CA of a customer that has none yet. It needs the
// root's key, and so the passphrase.
func IssueCA(dir, customer string, pass ca.Passphrase) error {
	set, err := Load(dir)
	if err != nil {
		return err
	}
	if _, ok := set.Customers[customer]; !ok {
		return &records.Refusal{Code: "customer-unknown", Sentence: fmt.Sprintf("There is no customer %q.", customer),
			Next: fmt.Sprintf("Write customers/%s.yaml first.", customer)}
	}
	v := newVault(dir)
	if _, err := os.Stat(v.path("ca/" + customer + ".pem")); err == nil {
		return &records.Refusal{Code: "ca-exists", Sentence: fmt.Sprintf("Customer %s has an issuing CA already.", customer),
			Next: "Nothing needs to be done."}
	}
	if _, err := os.Stat(v.path("ca/" + customer + ".key")); err == nil {
		return &records.Refusal{Code: "ca-unfinished", Sentence: fmt.Sprintf("There is a key for customer %s without a certificate: making its issuing CA was interrupted.", customer),
			Next: fmt.Sprintf("Remove ca/%s.key, with which nothing was ever signed, and run the command again.", customer)}
	}
	cert, err := v.readCertificate("ca/root.pem")
	if err != nil {
		return err
	}
	signer, err := v.readKey("ca/root.key", pass)
	if err != nil {
		return err
	}
	return v.makeCA(set.Station.Name, customer, authority.Pair{Certificate: cert, Signer: signer}, pass)
}

// issuer is the certificate of a customer's issuing CA.
func (h *Home) issuer(customer string) (*x509.Certificate, error) {
	cert, err := h.Vault.readCertificate("ca/" + customer + ".pem")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &records.Refusal{Code: "ca-missing", Sentence: fmt.Sprintf("Customer %s has no issuing CA yet.", customer),
			Next: fmt.Sprintf("Make it with 'station ca issue %s', then start the station again.", customer), Err: err}
	}
	return cert, err
}

// writeNew writes a file that must not exist, and returns when it is on disk.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening folder: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("syncing folder: %w", err)
	}
	return nil
}

// CA is a certificate authority of the station, as a list shows it.
type CA struct {
	Name     string // "root", or the customer
	Subject  string
	NotAfter time.Time
	SHA256   string
}

// CAs lists the station's root and the customers' issuing CAs.
func CAs(dir string) ([]CA, error) {
	if _, err := Load(dir); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "ca", "*.pem"))
	if err != nil {
		return nil, fmt.Errorf("listing CAs: %w", err)
	}
	v := newVault(dir)
	var list []CA
	for _, file := range files {
		cert, err := v.readCertificate("ca/" + filepath.Base(file))
		if err != nil {
			return nil, err
		}
		list = append(list, CA{Name: strings.TrimSuffix(filepath.Base(file), ".pem"), Subject: cert.Subject.CommonName,
			NotAfter: cert.NotAfter, SHA256: ca.Digest(cert.Raw)})
	}
	return list, nil
}
