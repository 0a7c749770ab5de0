package dps_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nameplate/fixtures/field"
	"nameplate/fixtures/tpm"
	"nameplate/records"
	"nameplate/records/outbox"
)

// needTool skips without the tool, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("skipped: %s is not installed", name)
	}
}

// TestEnrolledTPMCanRegister: a device is enrolled with the endorsement key that
// tpm2-tools read from its TPM, under the ID that the service's own tools give it,
// and opens the service's challenge. Enrolled with another TPM's key, it does not.
func TestEnrolledTPMCanRegister(t *testing.T) {
	needTool(t, "swtpm", "swtpm_setup", "tpm2_readpublic")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vendor, err := tpm.NewCA(filepath.Join(t.TempDir(), "vendor"), "Example Chips")
	must(t, err)
	dir := filepath.Join(t.TempDir(), "chip")
	must(t, tpm.Make(ctx, tpm.Config{Dir: dir, CA: vendor}))
	chip, err := tpm.Start(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() { chip.Close() })
	ek, err := chip.EK(ctx)
	must(t, err)
	sum := sha256.Sum256(ek)
	id := strings.TrimRight(strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])), "=")

	s, client := open(t, nil)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.RootPEM())
	own := outbox.Item{Unit: 1, RegistrationID: id, Attestation: records.TPM, EndorsementKey: ek}
	foreign := withTPM(t, 2)
	if bytes.Equal(foreign.EndorsementKey, ek) {
		t.Fatal("two chips have one endorsement key")
	}
	for i, a := range append(push(t, client, own, foreign), push(t, client, own)...) {
		if a.Outcome != outbox.Accepted || a.Found != (i == 2) {
			t.Errorf("answer %d = %+v, %v", i, a, a.Refusal)
		}
	}
	for _, tt := range []struct {
		id string
		ok bool
	}{{own.RegistrationID, true}, {foreign.RegistrationID, false}} {
		_, err := field.Register(ctx, field.Device{URL: s.DeviceAddr(), IDScope: scope, Roots: roots, RegistrationID: tt.id, TPM: chip})
		if (err == nil) != tt.ok {
			t.Errorf("registering %s: %v", tt.id, err)
		}
	}
}
