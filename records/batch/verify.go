package batch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"nameplate/records"
)

// Kind groups findings, so that a program can branch on what is wrong.
type Kind string

const (
	BadSignature  Kind = "signature"  // the manifest is not what this station signed
	BadFile       Kind = "file"       // missing, changed, or not part of the batch
	BadRow        Kind = "row"        // a unit's row is wrong, or disagrees with another
	BadChain      Kind = "chain"      // a certificate does not stand up
	BadCheckpoint Kind = "checkpoint" // the ledger's statement is not this station's
)

// Finding is one thing that is wrong, in plain words.
type Finding struct {
	Kind Kind   `json:"kind"`
	File string `json:"file"`
	Unit string `json:"unit,omitempty"` // registration ID, where it is about one unit
	Text string `json:"text"`
}

func (f Finding) String() string {
	if f.Unit != "" {
		return f.File + ": " + f.Unit + ": " + f.Text
	}
	return f.File + ": " + f.Text
}

// maxFindings ends the list: a wrong file can be wrong in every line.
const maxFindings = 100

// Report is what Verify found. The batch is good when Findings is empty; the
// manifest and the checkpoint are meaningful only then.
type Report struct {
	Manifest   Manifest
	Checkpoint Checkpoint
	Units      int // rows checked
	Findings   []Finding
	More       int // findings beyond the first hundred
}

// OK tells whether nothing is wrong.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Verify checks the batch folder dir against the station's public key, with
// neither ledger nor network. The error says that the folder could not be
// checked at all; everything wrong with the batch is in the report.
func Verify(ctx context.Context, dir string, key PublicKey) (Report, error) {
	if key.verifier == nil {
		return Report{}, fmt.Errorf("verifying batch: no public key given")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, &records.Refusal{Code: "batch-missing",
			Sentence: fmt.Sprintf("There is no batch folder %s.", dir),
			Next:     "Give the folder that holds " + ManifestFile + ".", Err: err}
	}
	defer root.Close()
	v := &verifier{root: root, key: key}
	if err := v.run(ctx); err != nil {
		return Report{}, err
	}
	return v.report, nil
}

type verifier struct {
	root   *os.Root
	key    PublicKey
	cas    authorities
	report Report
}

func (v *verifier) find(kind Kind, file, unit, format string, args ...any) {
	if len(v.report.Findings) == maxFindings {
		v.report.More++
		return
	}
	v.report.Findings = append(v.report.Findings, Finding{Kind: kind, File: file, Unit: unit, Text: fmt.Sprintf(format, args...)})
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.listing(); err != nil {
		return err
	}
	text, ok, err := v.whole(ManifestFile, maxManifest)
	if err != nil || !ok {
		return err
	}
	m, err := openManifest(text, v.key.Key)
	if err != nil {
		// Nothing else can be judged: what the files should be is not known.
		v.find(BadSignature, ManifestFile, "", "%s", sentence(err))
		return nil
	}
	v.report.Manifest = m
	if err := v.checkpoint(); err != nil {
		return err
	}
	if err := v.authorities(); err != nil {
		return err
	}
	return v.rows(ctx)
}

// listing finds files that are missing, strange or too many.
func (v *verifier) listing() error {
	d, err := v.root.Open(".")
	if err != nil {
		return fmt.Errorf("opening batch folder: %w", err)
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("listing batch folder: %w", err)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if e.Name() != ManifestFile && !slices.Contains(listed, e.Name()) {
			v.find(BadFile, e.Name(), "", "this is not part of the batch")
		}
	}
	return nil
}

// open opens a file of the batch; false, with a finding, if there is no such
// regular file.
func (v *verifier) open(name string) (*os.File, bool, error) {
	info, err := v.root.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		v.find(BadFile, name, "", "the file is missing")
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("looking at %s: %w", name, err)
	case !info.Mode().IsRegular():
		v.find(BadFile, name, "", "this is not a plain file")
		return nil, false, nil
	}
	f, err := v.root.Open(name)
	if err != nil {
		return nil, false, fmt.Errorf("opening %s: %w", name, err)
	}
	return f, true, nil
}

// whole reads a small file; false, with a finding, if it is missing or too big.
func (v *verifier) whole(name string, limit int64) ([]byte, bool, error) {
	f, ok, err := v.open(name)
	if err != nil || !ok {
		return nil, false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, false, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		v.find(BadFile, name, "", "the file has more than %d bytes", limit)
		return nil, false, nil
	}
	return b, true, nil
}

// entry is what the manifest says of a file.
func (v *verifier) entry(name string) File {
	return v.report.Manifest.Files[slices.Index(listed, name)]
}

// small reads a file and holds it to the manifest; false if it does not match.
func (v *verifier) small(name string, limit int64) ([]byte, bool, error) {
	b, ok, err := v.whole(name, limit)
	if err != nil || !ok {
		return nil, false, err
	}
	if want := v.entry(name); int64(len(b)) != want.Size || digest(b) != want.SHA256 {
		v.find(BadFile, name, "", "the file is not the one that was signed (its size or digest differs)")
		return nil, false, nil
	}
	return b, true, nil
}

func (v *verifier) checkpoint() error {
	text, ok, err := v.small(CheckpointFile, maxCheckpoint)
	if err != nil || !ok {
		return err
	}
	if string(text) != v.report.Manifest.Checkpoint {
		v.find(BadCheckpoint, CheckpointFile, "", "the file and the manifest hold different checkpoints")
	}
	n, err := note.Open(text, note.VerifierList(v.key.verifier))
	if err != nil {
		v.find(BadCheckpoint, CheckpointFile, "", "this station's key did not sign the checkpoint: %s", sentence(err))
		return nil
	}
	if v.report.Checkpoint, err = parseCheckpoint(n.Text); err != nil {
		v.find(BadCheckpoint, CheckpointFile, "", "%s", sentence(err))
	}
	return nil
}

// maxCA bounds ca.pem: a handful of issuing CAs and roots.
const maxCA = 4 << 20

func (v *verifier) authorities() error {
	text, ok, err := v.small(CAFile, maxCA)
	if err != nil || !ok {
		return err
	}
	if v.cas, err = parseCAs(text); err != nil {
		v.find(BadChain, CAFile, "", "%s", sentence(err))
		return nil
	}
	if want := v.entry(CAFile).Rows; v.cas.count != want {
		v.find(BadFile, CAFile, "", "the file holds %d certificates, the manifest counts %d", v.cas.count, want)
	}
	if !slices.Equal(v.cas.rootDigests(), v.report.Manifest.Roots) {
		v.find(BadChain, CAFile, "", "the root certificates are not those that the manifest names")
	}
	return nil
}

// in is a file of the batch being read and hashed at once.
type in struct {
	want File
	f    *os.File
	sum  hash.Hash
	n    int64
	*bufio.Reader
}

// stream opens a big file; nil, with a finding, if it is missing.
func (v *verifier) stream(name string) (*in, error) {
	f, ok, err := v.open(name)
	if err != nil || !ok {
		return nil, err
	}
	s := &in{want: v.entry(name), f: f, sum: sha256.New()}
	// One byte beyond the signed size is enough to know that the file is longer.
	s.Reader = bufio.NewReaderSize(io.TeeReader(io.LimitReader(f, s.want.Size+1), s), maxLine)
	return s, nil
}

func (s *in) Write(b []byte) (int, error) {
	s.n += int64(len(b))
	return s.sum.Write(b)
}

// line reads one line, newline included; io.EOF, alone, at the end.
func (s *in) line() ([]byte, error) {
	b, err := s.ReadSlice('\n')
	switch {
	case err == io.EOF && len(b) == 0:
		return nil, io.EOF
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("a line has more than %d bytes", maxLine)
	case err != nil:
		return nil, fmt.Errorf("the last line is cut off: %w", notEOF(err))
	}
	return b, nil
}

// close reads what is left and holds the whole to the manifest.
func (v *verifier) close(s *in, rows int) error {
	defer s.f.Close()
	if _, err := io.Copy(io.Discard, s); err != nil {
		return fmt.Errorf("reading %s: %w", s.want.Name, err)
	}
	if s.n != s.want.Size || hex.EncodeToString(s.sum.Sum(nil)) != s.want.SHA256 {
		v.find(BadFile, s.want.Name, "", "the file is not the one that was signed (its size or digest differs)")
	} else if rows != s.want.Rows {
		v.find(BadFile, s.want.Name, "", "the file holds %d rows, the manifest counts %d", rows, s.want.Rows)
	}
	return nil
}

// rows reads the four big files side by side, one unit at a time.
func (v *verifier) rows(ctx context.Context) error {
	var streams [4]*in
	for i, name := range []string{CSVFile, JSONLFile, ChainsFile, EKFile} {
		s, err := v.stream(name)
		if err != nil {
			return err
		}
		if s == nil {
			return nil // the finding is written; the others cannot be compared
		}
		defer s.f.Close()
		streams[i] = s
	}
	sheet, lines, chains, eks := streams[0], streams[1], streams[2], streams[3]

	if first, err := sheet.line(); err != nil || !bytes.Equal(first, csvLine(header)) {
		v.find(BadRow, CSVFile, "", "the first line does not name the columns")
	}
	c := newChecker(v)
	sheetRows, certs, ekCerts := 0, 0, 0
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verifying batch: %w", err)
		}
		line, err := lines.line()
		if err == io.EOF {
			break
		}
		n := v.report.Units + 1
		if err != nil {
			v.find(BadRow, JSONLFile, "", "row %d: %s", n, sentence(err))
			break
		}
		row, err := parseRow(line)
		if err != nil {
			v.find(BadRow, JSONLFile, row.RegistrationID, "row %d: %s", n, sentence(err))
			break // the files no longer run side by side
		}
		v.report.Units++
		if got, err := sheet.line(); err != nil {
			v.find(BadRow, CSVFile, row.RegistrationID, "row %d is missing or unreadable", n)
		} else {
			sheetRows++
			if !bytes.Equal(got, csvLine(row.fields())) {
				v.find(BadRow, CSVFile, row.RegistrationID, "row %d does not say the same as %s", n, JSONLFile)
			}
		}
		c.row(row)
		if row.Certificate != nil {
			leaf, issuing, err := pair(chains)
			if err != nil {
				v.find(BadChain, ChainsFile, row.RegistrationID, "%s", sentence(err))
				break
			}
			certs += 2
			c.chain(row, leaf, issuing)
		}
		if row.TPM != nil && row.TPM.Certificate != "" {
			cert, err := eks.certificate()
			if err != nil {
				v.find(BadChain, EKFile, row.RegistrationID, "the certificate of the unit's endorsement key is missing or unreadable: %s", sentence(err))
				break
			}
			ekCerts++
			c.ekCertificate(row, cert)
		}
	}
	if _, err := sheet.line(); err != io.EOF {
		v.find(BadRow, CSVFile, "", "there are more lines than units")
	}
	for _, s := range []*in{chains, eks} {
		if _, err := s.ReadByte(); err != io.EOF {
			v.find(BadChain, s.want.Name, "", "there are more certificates than units need")
		}
	}
	c.finish()
	return errors.Join(v.close(sheet, sheetRows), v.close(lines, v.report.Units), v.close(chains, certs), v.close(eks, ekCerts))
}

// pair reads a leaf and the issuing CA that follows it.
func pair(s *in) (leaf, issuing *x509.Certificate, err error) {
	var certs [2]*x509.Certificate
	for i := range certs {
		if certs[i], err = s.certificate(); err != nil {
			return nil, nil, fmt.Errorf("the unit's chain is missing or unreadable: %w", err)
		}
	}
	return certs[0], certs[1], nil
}

// certificate reads the next certificate of a PEM file.
func (s *in) certificate() (*x509.Certificate, error) {
	der, err := nextCertificate(s.Reader)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// sentence is an error's text as a finding tells it.
func sentence(err error) string { return strings.TrimSpace(err.Error()) }
