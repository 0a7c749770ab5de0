package batch

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nameplate/records"
)

// Input is what a batch is made from.
type Input struct {
	Dir      string // the batch folder; it must not exist, or be empty
	Station  string
	Customer string
	Orders   []records.Order                // all orders that units may be of
	Units    iter.Seq2[records.Unit, error] // released units of this customer
	CAs      []byte                         // PEM: issuing CAs and roots of the chains; nil without x509 units
	// EKCertificate returns the certificate (DER) of the unit's endorsement key, as
	// it was read from the TPM, nil if there was none. It is asked for tpm units
	// alone. One that is not for that key is left out.
	EKCertificate func(context.Context, records.Unit) ([]byte, error)
	// Checkpoint signs the ledger as it is; it is asked when the last unit has
	// been read, so that it covers every unit of the batch.
	Checkpoint func(context.Context) ([]byte, error)
	// Record writes down that the batch was made. It is called when all files are
	// on disk and before the folder gets its name: if it fails, or if we stop
	// after it, there is no batch, and the export is made again.
	Record     func(context.Context, Result) error
	Key        ed25519.PrivateKey // the station key
	QuotaLevel string             // QuotaFile
	Time       time.Time
}

// Result is what the ledger records of a batch.
type Result struct {
	ManifestSHA256 string // of manifest.jws
	Units          int
	Size           int64 // events that the checkpoint covers
}

// Write makes the folder in.Dir, whole or not at all: the files are written and
// synced in a folder beside it, which then gets the name. Units are streamed;
// memory does not grow with their number.
func Write(ctx context.Context, in Input) (Result, error) {
	if err := free(in.Dir); err != nil {
		return Result{}, err
	}
	cas, err := parseCAs(in.CAs)
	if err != nil {
		return Result{}, fmt.Errorf("reading CA certificates: %w", err)
	}
	parent := filepath.Dir(filepath.Clean(in.Dir))
	temp, err := os.MkdirTemp(parent, ".batch-*")
	if err != nil {
		return Result{}, &records.Refusal{Code: "batch-folder", Sentence: fmt.Sprintf("The folder %s is not there, or nothing can be written in it.", parent),
			Next: "Make it, or name another place for the batch.", Err: err}
	}
	// If we stop before the rename, the folder with the dot stays behind and
	// nothing reads it; the export is simply made again.
	defer os.RemoveAll(temp)
	// A batch is there to be given away; MkdirTemp makes a private folder.
	if err := os.Chmod(temp, 0o755); err != nil {
		return Result{}, fmt.Errorf("opening batch folder to readers: %w", err)
	}
	w := &writer{in: in, cas: cas, dir: temp, orders: make(map[string]*Order, len(in.Orders))}
	for _, o := range in.Orders {
		w.orders[o.ID] = &Order{ID: o.ID, Product: o.Product, ProductSHA256: o.ProductSHA256, Quota: o.Quota}
	}
	result, err := w.run(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := syncDir(temp); err != nil {
		return Result{}, err
	}
	if err := free(in.Dir); err != nil { // somebody may have made it meanwhile
		return Result{}, err
	}
	if err := in.Record(ctx, result); err != nil {
		return Result{}, fmt.Errorf("recording batch: %w", err)
	}
	if err := os.Rename(temp, in.Dir); err != nil {
		return Result{}, fmt.Errorf("naming batch folder: %w", err)
	}
	return result, syncDir(parent)
}

// free refuses a folder that holds something.
func free(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for batch folder: %w", err)
	case len(entries) > 0:
		return &records.Refusal{Code: "batch-exists",
			Sentence: fmt.Sprintf("The folder %s is not empty.", dir),
			Next:     "Name a new folder; the same units may be exported again."}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening folder to sync it: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing folder %s: %w", dir, err)
	}
	return nil
}

type writer struct {
	in     Input
	cas    authorities
	dir    string
	orders map[string]*Order
}

func (w *writer) run(ctx context.Context) (Result, error) {
	m := Manifest{Format: Format, Station: w.in.Station, Customer: w.in.Customer,
		Time: w.in.Time.UTC().Truncate(time.Second), QuotaLevel: w.in.QuotaLevel,
		Orders: []Order{}, Roots: w.cas.rootDigests()}

	var err error
	if m.Units, m.Files, err = w.rows(ctx); err != nil {
		return Result{}, err
	}
	if m.Units == 0 {
		return Result{}, &records.Refusal{Code: "batch-empty",
			Sentence: "There is no released unit to export.",
			Next:     "Check the order's name and that its units were released: 'station unit list'."}
	}
	text, err := w.in.Checkpoint(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("signing the ledger: %w", err)
	}
	head, _, _ := strings.Cut(string(text), "\n\n") // the signatures follow
	signed, err := parseCheckpoint(head + "\n")
	if err != nil {
		return Result{}, err
	}
	m.Checkpoint = string(text)
	for _, small := range []struct {
		name string
		data []byte
		rows int
	}{{CAFile, w.in.CAs, w.cas.count}, {CheckpointFile, text, 0}} {
		f, err := w.whole(small.name, small.data)
		if err != nil {
			return Result{}, err
		}
		f.Rows = small.rows
		m.Files = append(m.Files, f)
	}
	for _, o := range w.in.Orders {
		if made := w.orders[o.ID]; made.Units > 0 {
			m.Orders = append(m.Orders, *made)
		}
	}
	jws, err := signManifest(m, w.in.Key)
	if err != nil {
		return Result{}, err
	}
	f, err := w.whole(ManifestFile, jws)
	return Result{ManifestSHA256: f.SHA256, Units: m.Units, Size: signed.Size}, err
}

// rows streams the units into the four files that grow with their number.
func (w *writer) rows(ctx context.Context) (int, []File, error) {
	var outs [4]*out
	for i, name := range []string{CSVFile, JSONLFile, ChainsFile, EKFile} {
		o, err := create(w.dir, name)
		if err != nil {
			return 0, nil, err
		}
		defer o.f.Close() // again after finish: harmless
		outs[i] = o
	}
	sheet, lines, chains, eks := outs[0], outs[1], outs[2], outs[3]

	sheet.Write(csvLine(header))
	units := 0
	for u, err := range w.in.Units {
		if err != nil {
			return 0, nil, fmt.Errorf("reading units: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return 0, nil, fmt.Errorf("writing batch: %w", err)
		}
		if err := w.admit(u); err != nil {
			return 0, nil, err
		}
		row, leaf, err := rowOf(u)
		if err != nil {
			return 0, nil, fmt.Errorf("writing batch: %w", err)
		}
		if row.TPM != nil {
			cert, err := w.ekCertificate(ctx, u)
			if err != nil {
				return 0, nil, err
			}
			if cert != nil {
				row.TPM.Certificate = digest(cert.Raw)
				eks.Write(pemOf(cert.Raw))
				eks.rows++
			}
		}
		line, err := row.jsonLine()
		if err != nil {
			return 0, nil, err
		}
		cells := csvLine(row.fields())
		if long := max(len(line), len(cells)); long > maxLine {
			return 0, nil, fmt.Errorf("writing batch: unit %s: its line has %d bytes, more than the %d that a verifier reads", u.ID, long, maxLine)
		}
		sheet.Write(cells)
		lines.Write(line)
		sheet.rows++
		lines.rows++
		if leaf != nil {
			issuing := w.cas.issuerOf(leaf)
			if issuing == nil {
				return 0, nil, fmt.Errorf("unit %s has a certificate of an issuing CA that is not among those given", u.ID)
			}
			chains.Write(pemOf(leaf.Raw))
			chains.Write(pemOf(issuing.Raw))
			chains.rows += 2
		}
		units++
	}
	files := make([]File, 0, len(listed))
	for _, o := range outs {
		f, err := o.finish()
		if err != nil {
			return 0, nil, err
		}
		files = append(files, f)
	}
	return units, files, nil
}

// ekCertificate is the certificate of the unit's endorsement key, nil if there is
// none that is for that key.
func (w *writer) ekCertificate(ctx context.Context, u records.Unit) (*x509.Certificate, error) {
	der, err := w.in.EKCertificate(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("reading EK certificate of unit %s: %w", u.ID, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || !isFor(cert, u.EK) {
		return nil, nil // it says nothing of this TPM; the ledger keeps it
	}
	return cert, nil
}

// admit refuses a unit that is not the customer's to have.
func (w *writer) admit(u records.Unit) error {
	o := w.orders[u.Order]
	switch {
	case u.State != records.Released:
		return fmt.Errorf("unit %s is %s, not released", u.ID, u.State)
	case u.Customer != w.in.Customer:
		return fmt.Errorf("unit %s belongs to customer %s", u.ID, u.Customer)
	case o == nil:
		return fmt.Errorf("unit %s is of order %s, which is not among those given", u.ID, u.Order)
	}
	o.Units++
	return nil
}

// whole writes a file that is in memory already.
func (w *writer) whole(name string, data []byte) (File, error) {
	o, err := create(w.dir, name)
	if err != nil {
		return File{}, err
	}
	defer o.f.Close()
	o.Write(data)
	return o.finish()
}

// out is a file being written and described at once. The first error stays and
// is told by finish.
type out struct {
	name string
	f    *os.File
	buf  *bufio.Writer
	sum  hash.Hash
	size int64
	rows int
}

func create(dir, name string) (*out, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", name, err)
	}
	sum := sha256.New()
	return &out{name: name, f: f, sum: sum, buf: bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)}, nil
}

func (o *out) Write(b []byte) (int, error) {
	o.size += int64(len(b))
	return o.buf.Write(b)
}

func (o *out) finish() (File, error) {
	if err := o.buf.Flush(); err != nil {
		return File{}, fmt.Errorf("writing %s: %w", o.name, err)
	}
	if err := o.f.Sync(); err != nil {
		return File{}, fmt.Errorf("syncing %s: %w", o.name, err)
	}
	if err := o.f.Close(); err != nil {
		return File{}, fmt.Errorf("closing %s: %w", o.name, err)
	}
	return File{Name: o.name, SHA256: hex.EncodeToString(o.sum.Sum(nil)), Size: o.size, Rows: o.rows}, nil
}
