package batch

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/csv"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"nameplate/records"
)

// FuzzManifest feeds payloads as if the signature were good.
func FuzzManifest(f *testing.F) {
	m := Manifest{Format: Format, Orders: []Order{{ID: "o", Quota: 2, Units: 1}}, Units: 1}
	for _, name := range listed {
		m.Files = append(m.Files, File{Name: name, SHA256: strings.Repeat("0", 64)})
	}
	good, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseManifest(payload)
		if err == nil && (len(m.Files) != len(listed) || m.Format != Format) {
			t.Errorf("accepted %s", payload)
		}
	})
}

// FuzzJWS feeds whole manifest files; none but the signed one may be accepted.
func FuzzJWS(f *testing.F) {
	public, private, err := ed25519.GenerateKey(zeros{})
	if err != nil {
		f.Fatal(err)
	}
	m := Manifest{Format: Format}
	for _, name := range listed {
		m.Files = append(m.Files, File{Name: name, SHA256: strings.Repeat("0", 64)})
	}
	good, err := signManifest(m, private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("a.b.c"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := openManifest(text, public); (err == nil) != bytes.Equal(text, good) {
			t.Errorf("openManifest(%q) = %v", text, err)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// FuzzRow: what is accepted is exactly what would be written.
func FuzzRow(f *testing.F) {
	r := Row{Unit: "U1", RegistrationID: "dev-1", Attestation: records.SymmetricKey,
		Hardware: []records.HardwareID{{Kind: "mac", Value: "02:00:00:00:00:01"}}}
	line, err := r.jsonLine()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	r.Attestation, r.TPM = records.TPM, &TPM{EndorsementKey: append(bytes.Clone(ekHead), bytes.Repeat([]byte{0x81}, ekModulus)...), Certificate: "ab"}
	if line, err = r.jsonLine(); err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRow(line)
		if err != nil {
			return
		}
		again, err := r.jsonLine()
		if err != nil || !bytes.Equal(again, line) {
			t.Errorf("row %q is written as %q (%v)", line, again, err)
		}
		if r.TPM == nil || r.checkEK() != nil {
			return
		}
		if key, err := parseEK(r.TPM.EndorsementKey); err != nil || key.N.BitLen() != 2048 || len(r.TPM.EndorsementKey) != 316 {
			t.Errorf("took %x for an endorsement key (%v)", r.TPM.EndorsementKey, err)
		}
	})
}

// FuzzCSV: a line reads back as the guarded fields, and no cell is a formula.
func FuzzCSV(f *testing.F) {
	f.Add("A1", "=1+2")
	f.Add("@x", "-\"quoted\", text")
	f.Fuzz(func(t *testing.T, a, b string) {
		r := Row{Serial: a, Order: b, Attestation: records.SymmetricKey}
		if r.check() != nil {
			return
		}
		cells, err := csv.NewReader(bytes.NewReader(csvLine(r.fields()))).Read()
		if err != nil || len(cells) != len(header) {
			t.Fatalf("line of %q reads as %q: %v", r.fields(), cells, err)
		}
		for i, cell := range cells {
			if cell != guard(r.fields()[i]) || strings.IndexAny(cell, "=+-@") == 0 {
				t.Errorf("%s is %q", header[i], cell)
			}
		}
	})
}

// FuzzChains: certificates come out in the spelling they went in with, and the
// reader ends whatever it is fed.
func FuzzChains(f *testing.F) {
	f.Add(append(pemOf([]byte("one")), pemOf([]byte("two"))...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := bufio.NewReader(bytes.NewReader(text))
		var again []byte
		for {
			der, err := nextCertificate(r)
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			again = append(again, pemOf(der)...)
		}
		if !bytes.Equal(again, text) {
			t.Errorf("read %q as %q", text, again)
		}
	})
}
