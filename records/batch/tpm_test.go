package batch_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nameplate/records"
	"nameplate/records/batch"
)

// ek is the n-th endorsement key: its modulus, and its TPM2B_PUBLIC, written down
// here once more from TPM 2.0 Part 2, 12.2, and the TCG's template L-1.
func ek(t testing.TB, n int) (modulus, public []byte) {
	t.Helper()
	modulus = bytes.Repeat([]byte{byte(n)}, 256)
	modulus[0], modulus[255] = 0x80, 1
	head, err := hex.DecodeString("013a0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa000600800043001008000000000" + "00100")
	must(t, err)
	return modulus, append(head, modulus...)
}

func ekID(public []byte) string {
	sum := sha256.Sum256(public)
	return strings.TrimRight(strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])), "=")
}

// tpmUnit makes a released unit that attests by its TPM.
func (s *station) tpmUnit(t testing.TB, n int) records.Unit {
	t.Helper()
	_, public := ek(t, n)
	u := s.unit(t, n)
	u.Attestation, u.Cert, u.Secret, u.EK = records.TPM, nil, nil, public
	u.RegistrationID = ekID(public)
	u.Hardware = append(u.Hardware, records.HardwareID{Kind: "ek", Value: u.RegistrationID})
	return u
}

// ekCertificate is a TPM maker's certificate for the n-th endorsement key.
func (s *station) ekCertificate(t testing.TB, n int) []byte {
	t.Helper()
	if der, some := s.eks[n]; some {
		return der
	}
	modulus, _ := ek(t, n)
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{}, NotBefore: made, NotAfter: made.AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, s.issuing, &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}, s.caKey)
	must(t, err)
	s.eks[n] = der
	return der
}

// writeTPM exports a unit of each attestation, and two by their TPM: U3 has a
// certificate, U5 has none.
func (s *station) writeTPM(t testing.TB, edit func(*batch.Input)) string {
	t.Helper()
	in := s.input(t, filepath.Join(t.TempDir(), "batch"), s.unit(t, 1), s.unit(t, 2), s.tpmUnit(t, 3), s.tpmUnit(t, 5))
	in.EKCertificate = func(_ context.Context, u records.Unit) ([]byte, error) {
		if u.ID == 3 {
			return s.ekCertificate(t, 3), nil
		}
		return nil, nil
	}
	if edit != nil {
		edit(&in)
	}
	_, err := batch.Write(t.Context(), in)
	must(t, err)
	return in.Dir
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return string(b)
}

// What the customer of a TPM unit gets: the key that its service is told, and what
// the TPM holds of its maker.
func TestTPMUnits(t *testing.T) {
	s := newStation(t)
	dir := s.writeTPM(t, nil)
	report, err := batch.Verify(t.Context(), dir, s.public)
	must(t, err)
	if !report.OK() || report.Units != 4 {
		t.Fatalf("%d units, findings %v", report.Units, report.Findings)
	}
	_, public := ek(t, 3)
	der := s.ekCertificate(t, 3)
	if got := read(t, dir, batch.EKFile); got != string(pemOf(der)) {
		t.Errorf("%s:\n%s", batch.EKFile, got)
	}
	key, sum := base64.StdEncoding.EncodeToString(public), sha256.Sum256(der)
	lines := strings.SplitAfter(read(t, dir, batch.CSVFile), "\n")
	want := fmt.Sprintf("U3,%s,0ne0000000A,global.azure-devices-provisioning.net,tpm,order-1,A000003,mac=02:00:00:00:00:03;ek=%s,,,,,%s,%x\n",
		ekID(public), ekID(public), key, sum)
	if lines[3] != want {
		t.Errorf("got  %swant %s", lines[3], want)
	}
	if !strings.HasPrefix(key, "AToAAQALAAMAsgAg") {
		t.Errorf("the key's text begins %.16s", key)
	}
	if !strings.HasSuffix(lines[2], ",injected,,\n") {
		t.Errorf("the row of a unit with a certificate says %s", lines[2])
	}
	rows := strings.SplitAfter(read(t, dir, batch.JSONLFile), "\n")
	if want := fmt.Sprintf(`"tpm":{"endorsement_key":"%s","certificate_sha256":"%x"}}`+"\n", key, sum); !strings.HasSuffix(rows[2], want) {
		t.Errorf("got  %swant %s at its end", rows[2], want)
	}
	if strings.Contains(rows[3], "certificate") {
		t.Errorf("a unit without a certificate has one: %s", rows[3])
	}
}

// A certificate that is not for the unit's endorsement key says nothing of its TPM,
// and is not handed on.
func TestForeignEKCertificate(t *testing.T) {
	s := newStation(t)
	for name, der := range map[string][]byte{"of another TPM": s.ekCertificate(t, 9), "of another kind": s.leaf(t, "x"), "unreadable": []byte("x")} {
		dir := s.writeTPM(t, func(in *batch.Input) {
			in.EKCertificate = func(context.Context, records.Unit) ([]byte, error) { return der, nil }
		})
		report, err := batch.Verify(t.Context(), dir, s.public)
		must(t, err)
		if !report.OK() || read(t, dir, batch.EKFile) != "" {
			t.Errorf("%s: findings %v", name, report.Findings)
		}
	}
}

// Where a certificate's key was made stands in its row.
func TestKeyOrigin(t *testing.T) {
	s := newStation(t)
	for _, key := range []string{records.KeyInjected, records.KeyInFile, records.KeyInTPM} {
		u := s.unit(t, 2)
		u.Cert.Key = key
		in := s.input(t, filepath.Join(t.TempDir(), "batch"), u)
		_, err := batch.Write(t.Context(), in)
		must(t, err)
		report, err := batch.Verify(t.Context(), in.Dir, s.public)
		must(t, err)
		if !report.OK() || !strings.Contains(read(t, in.Dir, batch.CSVFile), ","+key+",,\n") || !strings.Contains(read(t, in.Dir, batch.JSONLFile), `"key":"`+key+`"`) {
			t.Errorf("%s: findings %v, rows:\n%s", key, report.Findings, read(t, in.Dir, batch.CSVFile))
		}
	}
}

// TestVerifyHoldsTPMRowsToTheRules: a station that signs rows that Write refuses to
// write.
func TestVerifyHoldsTPMRowsToTheRules(t *testing.T) {
	s := newStation(t)
	_, three := ek(t, 3)
	_, five := ek(t, 5)
	text := base64.StdEncoding.EncodeToString
	ecc := bytes.Clone(five)
	ecc[3] = 0x23 // TPM_ALG_ECC
	storage := bytes.Clone(five)
	storage[9] = 0x72
	everywhere := func(old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, name := range []string{batch.CSVFile, batch.JSONLFile} {
				whole := read(t, dir, name)
				if !strings.Contains(whole, old) {
					t.Fatalf("%s lacks %s", name, old)
				}
				must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(whole, old, new)), 0o600))
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func(*testing.T, string)
		want string
		kind batch.Kind
	}{
		{"one key twice", everywhere(text(five), text(three)), "identities.jsonl: " + ekID(five) + ": its endorsement key belongs to another unit of the batch too", batch.BadRow},
		{"registration ID of another key", everywhere(text(five), text(append(five[:315:315], 3))), "identities.jsonl: " + ekID(five) + ": its registration ID is that of another endorsement key, not of its own (", batch.BadRow},
		{"hardware ID of another key", func(t *testing.T, dir string) {
			everywhere(ekID(five), "dev-5")(t, dir) // its registration ID and its hardware ID
		}, "identities.jsonl: dev-5: its hardware ID dev-5 is that of another endorsement key, not of its own (" + ekID(five) + ")", batch.BadRow},
		{"cut off", everywhere(text(five), text(five[:312])), "identities.jsonl: " + ekID(five) + ": its endorsement key is not the TPM2B_PUBLIC of an RSA-2048 endorsement key", batch.BadRow},
		{"its size says less", everywhere(text(five), text(append([]byte{1, 0x39}, five[2:]...))), "is not the TPM2B_PUBLIC of an RSA-2048 endorsement key", batch.BadRow},
		{"an ECC key", everywhere(text(five), text(ecc)), "is not the TPM2B_PUBLIC of an RSA-2048 endorsement key", batch.BadRow},
		{"a storage key", everywhere(text(five), text(storage)), "is not the TPM2B_PUBLIC of an RSA-2048 endorsement key", batch.BadRow},
		{"no key", everywhere(text(five), ""), "is not the TPM2B_PUBLIC of an RSA-2048 endorsement key", batch.BadRow},
		{"a place where no key is made", everywhere("injected", "elsewhere"), `row 2: "elsewhere" is no place where a key is made`, batch.BadRow},
		{"certificate of another key", func(t *testing.T, dir string) {
			old, other := s.ekCertificate(t, 3), s.ekCertificate(t, 9)
			must(t, os.WriteFile(filepath.Join(dir, batch.EKFile), pemOf(other), 0o600))
			everywhere(fmt.Sprintf("%x", sha256.Sum256(old)), fmt.Sprintf("%x", sha256.Sum256(other)))(t, dir)
		}, "ek.pem: " + ekID(three) + ": the certificate is for another key than the unit's endorsement key", batch.BadChain},
		{"another certificate than the row names", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, batch.EKFile), pemOf(s.ekCertificate(t, 9)), 0o600))
		}, "ek.pem: " + ekID(three) + ": the row names certificate ", batch.BadChain},
		{"certificate missing", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, batch.EKFile), nil, 0o600))
		}, "ek.pem: " + ekID(three) + ": the certificate of the unit's endorsement key is missing or unreadable: EOF", batch.BadChain},
		{"certificate unreadable", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, batch.EKFile), pemOf([]byte("x")), 0o600))
		}, "ek.pem: " + ekID(three) + ": the certificate of the unit's endorsement key is missing or unreadable: x509: malformed", batch.BadChain},
		{"a certificate too many", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, batch.EKFile), bytes.Repeat(pemOf(s.ekCertificate(t, 3)), 2), 0o600))
		}, "ek.pem: there are more certificates than units need", batch.BadChain},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := s.writeTPM(t, nil)
			c.do(t, dir)
			must(t, batch.SignAgain(dir, s.key))
			report, err := batch.Verify(t.Context(), dir, s.public)
			must(t, err)
			for _, f := range report.Findings {
				if strings.Contains(f.String(), c.want) && f.Kind == c.kind {
					return
				}
			}
			t.Errorf("findings %v, want %s (%s)", report.Findings, c.want, c.kind)
		})
	}
}

// What a station must not hand over as a TPM's key.
func TestWriteRefusesTPMUnits(t *testing.T) {
	s := newStation(t)
	for name, edit := range map[string]func(*records.Unit){
		"its endorsement key is not the TPM2B_PUBLIC of an RSA-2048 endorsement key": func(u *records.Unit) { u.EK = u.EK[:300] },
		"its registration ID is that of another endorsement key":                     func(u *records.Unit) { u.RegistrationID = strings.Repeat("a", 52) },
		"its hardware ID " + strings.Repeat("a", 52) + " is that of another":         func(u *records.Unit) { u.Hardware[1].Value = strings.Repeat("a", 52) },
	} {
		u := s.tpmUnit(t, 3)
		edit(&u)
		in := s.input(t, filepath.Join(t.TempDir(), "batch"), u)
		if _, err := batch.Write(t.Context(), in); err == nil || !strings.HasPrefix(err.Error(), "writing batch: unit U3: "+name) {
			t.Errorf("got  %v\nwant %s", err, name)
		}
	}
}
