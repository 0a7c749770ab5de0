package home_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nameplate/records"
)

// A unit that attests by its TPM is handed over with the certificate that its TPM
// held when it was read last.
func TestExportOfATPM(t *testing.T) {
	h := opened(t, folder(t))
	must(t, h.Unlock(passphrase(t, word)))
	modulus := bytes.Repeat([]byte{0xc5}, 256)
	head, err := hex.DecodeString("013a0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100")
	must(t, err)
	maker, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	certificate := func(serial int64) []byte {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().AddDate(1, 0, 0)}, &x509.Certificate{},
			&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}, maker)
		must(t, err)
		return der
	}
	line(t, h, records.Draft{Order: "WO-1", Body: records.OrderOpened{ID: "WO-1", Customer: "customer-a", Product: "gateway", Quota: 1, SerialFormat: "G-%d",
		SerialFirst: 1, ValidUntil: time.Now().AddDate(1, 0, 0), Terms: records.Terms{Family: "linux", Attestation: records.TPM, RegistrationID: "{serial}"}}})
	passage := line(t, h, records.Draft{Order: "WO-1", Passage: records.NewPassage, Body: records.PassageOpened{Slot: "a1"}}).Passage
	unit := line(t, h, records.Draft{Order: "WO-1", Passage: passage, Unit: records.NewUnit, Body: records.UnitIdentified{Family: "linux",
		Hardware: []records.HardwareID{{Kind: "mac", Value: "00:00:5e:00:53:09"}}}}).Unit
	evidence := records.TPMEvidence{EK: append(head, modulus...), AK: []byte("ak")}
	first, second := evidence, evidence
	first.Certificate, second.Certificate = certificate(1), certificate(2)
	item := records.Item{Name: "endorsement_key", SHA256: "00", How: "possession"}
	for _, b := range []records.Body{
		records.EvidenceAccepted{TPM: &first},
		records.EvidenceAccepted{TPM: &second},
		records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "G-1", RegistrationID: "g-1", Attestation: records.TPM},
		records.WriteBegun{Manifest: []records.Item{item}},
		records.UnitVerified{Found: []records.Item{item}},
		records.UnitPassed{},
		records.UnitReleased{RegistrationID: "g-1"},
		records.PassageClosed{Slot: "a1", Verdict: records.Pass},
	} {
		line(t, h, records.Draft{Order: "WO-1", Passage: passage, Unit: unit, Body: b})
	}
	dir := filepath.Join(t.TempDir(), "batch")
	done, err := h.Export(t.Context(), h.Actor(), "customer-a", "", dir)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "ek.pem"))
	must(t, err)
	if block, rest := pem.Decode(text); done.Units != 1 || block == nil || !bytes.Equal(block.Bytes, second.Certificate) || len(rest) > 0 {
		t.Errorf("%d units, ek.pem:\n%s", done.Units, text)
	}
}
