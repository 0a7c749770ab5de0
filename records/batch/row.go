package batch

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"nameplate/records"
)

// header is the first line of identities.csv.
var header = []string{"unit", "registration_id", "id_scope", "registration_url", "attestation", "order", "serial",
	"hardware", "certificate_sha256", "certificate_serial", "certificate_not_after", "certificate_key",
	"endorsement_key", "endorsement_certificate_sha256"}

// maxLine bounds a row in either file. A row has about ten short fields, and an
// endorsement key of 424 characters.
const maxLine = 64 << 10

// rowOf is what a customer learns of a released unit, and its leaf (nil without
// a certificate).
func rowOf(u records.Unit) (Row, *x509.Certificate, error) {
	r := Row{Unit: u.ID.String(), RegistrationID: u.RegistrationID, IDScope: u.IDScope,
		RegistrationURL: u.RegistrationURL, Attestation: u.Attestation, Order: u.Order, Serial: u.Serial,
		Hardware: u.Hardware}
	var leaf *x509.Certificate
	switch u.Attestation {
	case records.SymmetricKey:
	case records.X509:
		if u.Cert == nil {
			return r, nil, fmt.Errorf("unit %s was released without a certificate", u.ID)
		}
		cert, err := x509.ParseCertificate(u.Cert.DER)
		if err != nil {
			return r, nil, fmt.Errorf("reading certificate of unit %s: %w", u.ID, err)
		}
		r.Certificate, leaf = certificateOf(cert), cert
		r.Certificate.Key = u.Cert.Key
	case records.TPM:
		r.TPM = &TPM{EndorsementKey: u.EK}
		if err := r.checkEK(); err != nil {
			return r, nil, fmt.Errorf("unit %s: %w", u.ID, err)
		}
	default:
		return r, nil, fmt.Errorf("unit %s has attestation %q, which this format does not know", u.ID, u.Attestation)
	}
	if err := r.check(); err != nil {
		return r, nil, fmt.Errorf("unit %s: %w", u.ID, err)
	}
	return r, leaf, nil
}

func certificateOf(cert *x509.Certificate) *Certificate {
	return &Certificate{SHA256: digest(cert.Raw), Serial: serialText(cert.SerialNumber), NotAfter: cert.NotAfter.UTC()}
}

func serialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// check says why a row cannot stand in a batch.
func (r Row) check() error {
	for i, f := range r.fields() {
		// A control character could break a line of the CSV file in two.
		if !utf8.ValidString(f) || strings.ContainsFunc(f, unicode.IsControl) {
			return fmt.Errorf("%s is not printable text", header[i])
		}
	}
	if (r.Attestation == records.X509) != (r.Certificate != nil) {
		return fmt.Errorf("attestation %q and the certificate's digest do not go together", r.Attestation)
	}
	if (r.Attestation == records.TPM) != (r.TPM != nil) {
		return fmt.Errorf("attestation %q and the endorsement key do not go together", r.Attestation)
	}
	if c := r.Certificate; c != nil && !slices.Contains([]string{records.KeyInjected, records.KeyInFile, records.KeyInTPM}, c.Key) {
		return fmt.Errorf("%q is no place where a key is made", c.Key)
	}
	return nil
}

func (r Row) fields() []string {
	hardware := make([]string, len(r.Hardware))
	for i, h := range r.Hardware {
		hardware[i] = records.HardwareName(h)
	}
	c := Certificate{}
	notAfter := ""
	if r.Certificate != nil {
		c = *r.Certificate
		notAfter = c.NotAfter.UTC().Format(time.RFC3339)
	}
	t := TPM{}
	if r.TPM != nil {
		t = *r.TPM
	}
	return []string{r.Unit, r.RegistrationID, r.IDScope, r.RegistrationURL, r.Attestation, r.Order, r.Serial,
		strings.Join(hardware, ";"), c.SHA256, c.Serial, notAfter, c.Key,
		base64.StdEncoding.EncodeToString(t.EndorsementKey), t.Certificate}
}

// csvLine is the row's line in identities.csv, newline included.
func csvLine(fields []string) []byte {
	guarded := make([]string, len(fields))
	for i, f := range fields {
		guarded[i] = guard(f)
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	// Neither can fail: the buffer takes everything.
	_ = w.Write(guarded)
	w.Flush()
	return b.Bytes()
}

// guard keeps a spreadsheet from taking a cell for a formula.
func guard(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// jsonLine is the row's line in identities.jsonl, newline included.
func (r Row) jsonLine() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding row %s: %w", r.Unit, err)
	}
	return append(b, '\n'), nil
}

// parseRow reads a line of identities.jsonl, newline included. Only the one
// spelling that jsonLine gives is accepted, so that a row cannot say two things.
func parseRow(line []byte) (Row, error) {
	var r Row
	if len(line) > maxLine {
		return r, fmt.Errorf("the line has %d bytes, more than %d", len(line), maxLine)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("reading row: %w", err)
	}
	again, err := r.jsonLine()
	if err != nil {
		return r, err
	}
	if !bytes.Equal(again, line) {
		return r, fmt.Errorf("the line is not in the form that a station writes")
	}
	return r, r.check()
}
