package batch_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"nameplate/records"
	"nameplate/records/batch"
)

// station is what a test exports from: keys, a CA, and a signed checkpoint.
type station struct {
	key     ed25519.PrivateKey
	public  batch.PublicKey
	text    []byte // the public key file
	signer  note.Signer
	caKey   *ecdsa.PrivateKey
	issuing *x509.Certificate
	cas     []byte
	eks     map[int][]byte // EK certificates made so far
}

const origin = "nameplate.invalid/line-1/0a1b2c3d"

var made = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newStation(t testing.TB) *station {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	must(t, err)
	s := &station{text: []byte(vkey + "\n"), eks: map[int][]byte{}}
	s.signer, err = note.NewSigner(skey)
	must(t, err)
	s.public, err = batch.ParsePublicKey(s.text)
	must(t, err)
	seed, err := base64.StdEncoding.DecodeString(strings.SplitN(skey, "+", 5)[4])
	must(t, err)
	s.key = ed25519.NewKeyFromSeed(seed[1:])

	rootKey := newKey(t)
	root := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, nil, rootKey, rootKey)
	s.caKey = newKey(t)
	s.issuing = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "issuing"}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign}, root, s.caKey, rootKey)
	s.cas = append(pemOf(s.issuing.Raw), pemOf(root.Raw)...)
	return s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func sign(t testing.TB, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	must(t, err)
	c.SerialNumber = serial
	if c.NotBefore.IsZero() {
		c.NotBefore, c.NotAfter = made.AddDate(-1, 0, 0), made.AddDate(20, 0, 0)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func (s *station) leaf(t testing.TB, cn string) []byte {
	t.Helper()
	return sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, s.issuing, newKey(t), s.caKey).Raw
}

// unit makes a released unit; even numbers have a certificate.
func (s *station) unit(t testing.TB, n int) records.Unit {
	t.Helper()
	u := records.Unit{ID: records.UnitID(n), State: records.Released, Order: "order-1", Customer: "customer-a",
		Number: n, Serial: fmt.Sprintf("A%06d", n), RegistrationID: fmt.Sprintf("dev-a%06d", n),
		RegistrationURL: "global.azure-devices-provisioning.net", IDScope: "0ne0000000A", Attestation: records.SymmetricKey,
		Hardware: []records.HardwareID{{Kind: "mac", Value: fmt.Sprintf("02:00:00:00:00:%02x", n)}},
		Secret:   &records.SecretSealed{Ref: "secret-ref", Salt: []byte("salt"), SHA256: "sum"}}
	if n%2 == 0 {
		u.Attestation, u.Secret = records.X509, nil
		u.Cert = &records.CertificateIssued{Key: records.KeyInjected, DER: s.leaf(t, u.RegistrationID)}
	}
	return u
}

func (s *station) checkpoint(t testing.TB) []byte {
	t.Helper()
	root := sha256.Sum256([]byte("root"))
	text, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, 42, base64.StdEncoding.EncodeToString(root[:]))}, s.signer)
	must(t, err)
	return text
}

func (s *station) input(t testing.TB, dir string, units ...records.Unit) batch.Input {
	t.Helper()
	return batch.Input{Dir: dir, Station: "line-1", Customer: "customer-a", Units: each(units), CAs: s.cas,
		Orders: []records.Order{{OrderOpened: records.OrderOpened{ID: "order-1", Customer: "customer-a", Product: "sensor",
			ProductSHA256: strings.Repeat("ab", 32), Quota: 1000}}},
		EKCertificate: func(context.Context, records.Unit) ([]byte, error) { return nil, nil },
		Checkpoint:    func(context.Context) ([]byte, error) { return s.checkpoint(t), nil },
		Record:        func(context.Context, batch.Result) error { return nil }, Key: s.key, QuotaLevel: batch.QuotaFile, Time: made}
}

func each(units []records.Unit) iter.Seq2[records.Unit, error] {
	return func(yield func(records.Unit, error) bool) {
		for _, u := range units {
			if !yield(u, nil) {
				return
			}
		}
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write exports n units and returns the folder.
func (s *station) write(t testing.TB, n int) string {
	t.Helper()
	var units []records.Unit
	for i := 1; i <= n; i++ {
		units = append(units, s.unit(t, i))
	}
	dir := filepath.Join(t.TempDir(), "batch")
	_, err := batch.Write(t.Context(), s.input(t, dir, units...))
	must(t, err)
	return dir
}

func TestWriteThenVerify(t *testing.T) {
	s := newStation(t)
	dir := filepath.Join(t.TempDir(), "batch")
	got, err := batch.Write(t.Context(), s.input(t, dir, s.unit(t, 1), s.unit(t, 2), s.unit(t, 4)))
	must(t, err)
	signed, err := os.ReadFile(filepath.Join(dir, batch.ManifestFile))
	must(t, err)
	if sum := sha256.Sum256(signed); got.Units != 3 || got.ManifestSHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("Write = %+v, want 3 units and the manifest's digest", got)
	}
	report, err := batch.Verify(t.Context(), dir, s.public)
	must(t, err)
	if !report.OK() {
		t.Fatalf("findings in a good batch: %v", report.Findings)
	}
	m := report.Manifest
	if report.Units != 3 || m.Customer != "customer-a" || m.QuotaLevel != "file" || len(m.Orders) != 1 || m.Orders[0].Units != 3 {
		t.Errorf("report = %d units, manifest %+v", report.Units, m)
	}
	if report.Checkpoint.Size != 42 || report.Checkpoint.Origin != origin {
		t.Errorf("checkpoint = %+v", report.Checkpoint)
	}
	sheet, err := os.ReadFile(filepath.Join(dir, batch.CSVFile))
	must(t, err)
	want := "U1,dev-a000001,0ne0000000A,global.azure-devices-provisioning.net,symmetricKey,order-1,A000001,mac=02:00:00:00:00:01,,,,,,\n"
	if lines := strings.SplitAfter(string(sheet), "\n"); len(lines) != 5 || lines[1] != want {
		t.Errorf("%s:\n%s", batch.CSVFile, sheet)
	}
}

// TestEveryChangedByteIsFound changes each byte of each file in turn. In the
// manifest, where no digest stands behind the signature, each becomes a line end
// too, which base64 readers forgive, and the last of each part, which has spare
// bits, becomes every other byte.
func TestEveryChangedByteIsFound(t *testing.T) {
	s := newStation(t)
	dir := s.writeTPM(t, func(in *batch.Input) { in.Units = each([]records.Unit{s.unit(t, 2), s.tpmUnit(t, 3)}) })
	changes := func(name string, good []byte, i int) []byte {
		switch {
		case name != batch.ManifestFile:
			return []byte{good[i] ^ 1}
		case i+1 == len(good) || good[i+1] == '.':
			all := make([]byte, 256)
			for b := range all {
				all[b] = byte(b)
			}
			return all
		}
		return []byte{good[i] ^ 1, '\n'}
	}
	for _, name := range files(t, dir) {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		must(t, err)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		for i, b := range good {
			for _, other := range changes(name, good, i) {
				if other == b {
					continue
				}
				_, err := f.WriteAt([]byte{other}, int64(i))
				must(t, err)
				report, err := batch.Verify(t.Context(), dir, s.public)
				must(t, err)
				if report.OK() {
					t.Fatalf("%s: byte %d changed from %q to %q, not noticed", name, i, b, other)
				}
			}
			_, err = f.WriteAt([]byte{b}, int64(i))
			must(t, err)
		}
		must(t, f.Close())
	}
	report, err := batch.Verify(t.Context(), dir, s.public)
	must(t, err)
	if !report.OK() {
		t.Fatalf("the batch was not restored: %v", report.Findings)
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestVerifyFindings: what is done to a good batch, and the sentence that says so.
func TestVerifyFindings(t *testing.T) {
	change := func(name string, edit func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, edit(b), 0o644))
		}
	}
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	grow := func(b []byte) []byte { return append(b, '\n') }
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
	}
	for _, c := range []struct {
		name string
		do   func(*testing.T, string)
		want string
	}{
		{"csv cut", change(batch.CSVFile, cut), "identities.csv: the file is not the one that was signed (its size or digest differs)"},
		{"csv grown", change(batch.CSVFile, grow), "identities.csv: there are more lines than units"},
		{"csv row edited", change(batch.CSVFile, func(b []byte) []byte { return bytes.Replace(b, []byte("A000002"), []byte("A000009"), 1) }),
			"identities.csv: dev-a000002: row 2 does not say the same as identities.jsonl"},
		{"jsonl cut", change(batch.JSONLFile, cut), "identities.jsonl: row 2: the last line is cut off: unexpected EOF"},
		{"jsonl row twice", change(batch.JSONLFile, func(b []byte) []byte { return append(b, b...) }),
			"identities.jsonl: row 3: the last line is cut off: unexpected EOF"},
		{"chains cut", change(batch.ChainsFile, cut), "chains.pem: dev-a000002: the unit's chain is missing or unreadable: a certificate ends early: unexpected EOF"},
		{"chains grown", change(batch.ChainsFile, grow), "chains.pem: there are more certificates than units need"},
		{"ek grown", change(batch.EKFile, grow), "ek.pem: the file is not the one that was signed (its size or digest differs)"},
		{"ek missing", remove(batch.EKFile), "ek.pem: the file is missing"},
		{"ca cut", change(batch.CAFile, cut), "ca.pem: the file is not the one that was signed (its size or digest differs)"},
		{"checkpoint cut", change(batch.CheckpointFile, cut), "checkpoint.txt: the file is not the one that was signed (its size or digest differs)"},
		{"manifest cut", change(batch.ManifestFile, cut), "manifest.jws: manifest is not a JWS in compact form"},
		{"manifest grown", change(batch.ManifestFile, grow), "manifest.jws: manifest is not a JWS in compact form"},
		{"manifest empty", change(batch.ManifestFile, func([]byte) []byte { return nil }), "manifest.jws: reading manifest:"},
		{"csv missing", remove(batch.CSVFile), "identities.csv: the file is missing"},
		{"ca missing", remove(batch.CAFile), "ca.pem: the file is missing"},
		{"manifest missing", remove(batch.ManifestFile), "manifest.jws: the file is missing"},
		{"file added", func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, "more.csv"), nil, 0o644)) },
			"more.csv: this is not part of the batch"},
		{"files swapped", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, batch.CSVFile), filepath.Join(dir, "x")))
			must(t, os.Rename(filepath.Join(dir, batch.JSONLFile), filepath.Join(dir, batch.CSVFile)))
			must(t, os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, batch.JSONLFile)))
		}, "identities.csv: the first line does not name the columns"},
		{"file is a link", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, batch.CAFile)))
			must(t, os.Symlink(batch.ChainsFile, filepath.Join(dir, batch.CAFile)))
		}, "ca.pem: this is not a plain file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStation(t)
			dir := s.write(t, 2)
			c.do(t, dir)
			report, err := batch.Verify(t.Context(), dir, s.public)
			must(t, err)
			var all []string
			for _, f := range report.Findings {
				all = append(all, f.String())
			}
			if text := strings.Join(all, "\n"); !strings.Contains(text, c.want) {
				t.Errorf("findings:\n%s\nwant among them: %s", text, c.want)
			}
		})
	}
}

// TestVerifyHoldsTheStationToTheRules: a station that signs what it must not.
func TestVerifyHoldsTheStationToTheRules(t *testing.T) {
	s, other := newStation(t), newStation(t)
	for _, c := range []struct {
		name string
		edit func(*batch.Input)
		want string
		kind batch.Kind
	}{
		{"leaf of another CA", func(in *batch.Input) {
			u := s.unit(t, 2)
			fake := *other
			fake.issuing = s.issuing // the right name and key identifier, the wrong key
			u.Cert = &records.CertificateIssued{Key: records.KeyInjected, DER: fakeLeaf(t, &fake, u.RegistrationID)}
			in.Units = each([]records.Unit{u})
		}, "chains.pem: dev-a000002: the chain does not lead to a root in ca.pem", batch.BadChain},
		{"leaf for another ID", func(in *batch.Input) {
			u := s.unit(t, 2)
			u.Cert = &records.CertificateIssued{Key: records.KeyInjected, DER: s.leaf(t, "dev-b")}
			in.Units = each([]records.Unit{u})
		}, `chains.pem: dev-a000002: the certificate's common name is "dev-b"`, batch.BadChain},
		{"one serial twice", func(in *batch.Input) {
			a, b := s.unit(t, 1), s.unit(t, 3)
			b.Serial = a.Serial
			in.Units = each([]records.Unit{a, b})
		}, "identities.jsonl: dev-a000003: its serial belongs to another unit of the batch too", batch.BadRow},
		{"one ID in two cases", func(in *batch.Input) {
			a, b := s.unit(t, 1), s.unit(t, 3)
			b.RegistrationID = strings.ToUpper(a.RegistrationID)
			in.Units = each([]records.Unit{a, b})
		}, "identities.jsonl: DEV-A000001: its registration ID belongs to another unit of the batch too", batch.BadRow},
		{"one certificate twice", func(in *batch.Input) {
			a, b := s.unit(t, 2), s.unit(t, 4)
			b.RegistrationID, b.Cert = a.RegistrationID, a.Cert
			in.Units = each([]records.Unit{a, b})
		}, "identities.jsonl: dev-a000002: its public key belongs to another unit of the batch too", batch.BadRow},
		{"more than the order was for", func(in *batch.Input) { in.Orders[0].Quota = 1 },
			"manifest.jws: order order-1 was for 1 units and the batch holds 2 of it", batch.BadSignature},
		{"checkpoint of another station", func(in *batch.Input) {
			in.Checkpoint = func(context.Context) ([]byte, error) { return other.checkpoint(t), nil }
		},
			"checkpoint.txt: this station's key did not sign the checkpoint", batch.BadCheckpoint},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := s.input(t, filepath.Join(t.TempDir(), "batch"), s.unit(t, 1), s.unit(t, 2))
			c.edit(&in)
			_, err := batch.Write(t.Context(), in)
			must(t, err)
			report, err := batch.Verify(t.Context(), in.Dir, s.public)
			must(t, err)
			for _, f := range report.Findings {
				if strings.HasPrefix(f.String(), c.want) && f.Kind == c.kind {
					return
				}
			}
			t.Errorf("findings %v, want %s (%s)", report.Findings, c.want, c.kind)
		})
	}
}

// fakeLeaf signs with a key that does not belong to the certificate in the
// issuer's place, which x509.CreateCertificate itself would refuse to do.
func fakeLeaf(t testing.TB, s *station, cn string) []byte {
	t.Helper()
	twin := *s.issuing
	twin.PublicKey = &s.caKey.PublicKey
	return sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, &twin, newKey(t), s.caKey).Raw
}

func TestVerifyWithAnotherKey(t *testing.T) {
	s, other := newStation(t), newStation(t)
	report, err := batch.Verify(t.Context(), s.write(t, 2), other.public)
	must(t, err)
	if len(report.Findings) != 1 || report.Findings[0].Kind != batch.BadSignature ||
		!strings.HasPrefix(report.Findings[0].Text, "checking signature of manifest") {
		t.Errorf("findings = %v", report.Findings)
	}
}

func TestVerifyMissingFolder(t *testing.T) {
	_, err := batch.Verify(t.Context(), filepath.Join(t.TempDir(), "none"), newStation(t).public)
	wantRefusal(t, err, "batch-missing")
}

func TestParsePublicKey(t *testing.T) {
	s := newStation(t)
	if s.public.Name() != origin || !bytes.Equal(s.public.Key, s.key.Public().(ed25519.PublicKey)) {
		t.Errorf("name %q, key %x", s.public.Name(), s.public.Key)
	}
	for _, text := range []string{"", "x", "name+00000000+AAAA", string(s.text[:len(s.text)-8]), strings.Repeat("x", 1<<20)} {
		_, err := batch.ParsePublicKey([]byte(text))
		wantRefusal(t, err, "public-key-unreadable")
	}
}

func TestWriteRefusals(t *testing.T) {
	s := newStation(t)
	t.Run("folder in use", func(t *testing.T) {
		dir := s.write(t, 2)
		_, err := batch.Write(t.Context(), s.input(t, dir, s.unit(t, 1)))
		wantRefusal(t, err, "batch-exists")
		report, err := batch.Verify(t.Context(), dir, s.public)
		must(t, err)
		if !report.OK() {
			t.Errorf("the batch that was there is hurt: %v", report.Findings)
		}
	})
	t.Run("nothing to export", func(t *testing.T) {
		_, err := batch.Write(t.Context(), s.input(t, filepath.Join(t.TempDir(), "batch")))
		wantRefusal(t, err, "batch-empty")
	})
	for name, edit := range map[string]func(*records.Unit){
		"unit U1 is passed, not released":                             func(u *records.Unit) { u.State = records.Passed },
		"unit U1 belongs to customer customer-b":                      func(u *records.Unit) { u.Customer = "customer-b" },
		"unit U1 is of order order-2, which is not among those given": func(u *records.Unit) { u.Order = "order-2" },
		"writing batch: unit U1: serial is not printable text":        func(u *records.Unit) { u.Serial = "A\n1" },
		"writing batch: unit U1: its line has 120235 bytes, more than the 65536 that a verifier reads": func(u *records.Unit) {
			u.Hardware[0].Value = strings.Repeat("<", 20_000) // JSON writes six bytes for each
		},
		"writing batch: unit U1 was released without a certificate":                      func(u *records.Unit) { u.Attestation = records.X509 },
		`writing batch: unit U1 has attestation "none", which this format does not know`: func(u *records.Unit) { u.Attestation = "none" },
	} {
		t.Run(name, func(t *testing.T) {
			u := s.unit(t, 1)
			edit(&u)
			parent := t.TempDir()
			_, err := batch.Write(t.Context(), s.input(t, filepath.Join(parent, "batch"), u))
			if err == nil || err.Error() != name {
				t.Errorf("error = %v", err)
			}
			if left := files(t, parent); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := batch.Write(ctx, s.input(t, filepath.Join(t.TempDir(), "batch"), s.unit(t, 1)))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("units cannot be read", func(t *testing.T) {
		broken := errors.New("disk trouble")
		in := s.input(t, filepath.Join(t.TempDir(), "batch"))
		in.Units = func(yield func(records.Unit, error) bool) { yield(records.Unit{}, broken) }
		_, err := batch.Write(t.Context(), in)
		if !errors.Is(err, broken) {
			t.Errorf("error = %v", err)
		}
	})
}

func wantRefusal(t testing.TB, err error, code string) {
	t.Helper()
	var r *records.Refusal
	if !errors.As(err, &r) || r.Code != code || r.Sentence == "" || r.Next == "" {
		t.Errorf("error = %v, want refusal %s", err, code)
	}
}

// TestNoKeyInAnyFile: a batch of units with sealed secrets holds neither a
// reference to them nor a digest of them.
func TestNoKeyInAnyFile(t *testing.T) {
	s := newStation(t)
	dir := s.write(t, 3)
	for _, name := range files(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		for _, word := range []string{"secret-ref", "c2FsdA==", "PRIVATE KEY", "primaryKey"} {
			if bytes.Contains(b, []byte(word)) {
				t.Errorf("%s holds %q", name, word)
			}
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	s := newStation(b)
	u := s.unit(b, 2)
	b.ResetTimer()
	in := s.input(b, filepath.Join(b.TempDir(), "batch"))
	in.Units = func(yield func(records.Unit, error) bool) {
		for range b.N {
			if !yield(u, nil) {
				return
			}
		}
	}
	in.Orders[0].Quota = b.N
	_, err := batch.Write(b.Context(), in)
	must(b, err)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
}

func BenchmarkVerify(b *testing.B) {
	s := newStation(b)
	dir := s.write(b, 100)
	for b.Loop() {
		report, err := batch.Verify(b.Context(), dir, s.public)
		must(b, err)
		if !report.OK() {
			b.Fatal(report.Findings)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "units/s")
}
