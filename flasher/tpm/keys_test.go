package tpm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
)

const deviceHandle = 0x81000010

func hex(n int) string { return fmt.Sprintf("%#x", n) }

func TestDeviceKeyIsMadeOnceAndSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	dir := state(t, fixture.Config{})
	chip := power(t, dir)
	c := open(t, chip)
	if held, err := c.KeyHeld(limit(t), deviceHandle); held || err != nil {
		t.Fatalf("before: held %v, %v", held, err)
	}
	_, err := c.Prove(limit(t), deviceHandle)
	refusal(t, err, "tpm-key-missing")

	first, err := c.Request(limit(t), deviceHandle, "unit-1")
	if err != nil {
		t.Fatal(err)
	}
	// No orderly end: the plug is pulled right after.
	chip.Close()
	chip = power(t, dir)
	c = open(t, chip)
	if held, err := c.KeyHeld(limit(t), deviceHandle); !held || err != nil {
		t.Fatalf("after the power cut: held %v, %v", held, err)
	}
	second, err := c.Request(limit(t), deviceHandle, "unit-2")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Certified.Public, second.Certified.Public) {
		t.Error("asked again, the TPM made another key")
	}
	ak := c.Endorsement().AK
	public := checkRequest(t, first, "unit-1", ak)
	if again := checkRequest(t, second, "unit-2", ak); !again.Equal(public) {
		t.Error("the requests are for two keys")
	}
	proof, err := c.Prove(limit(t), deviceHandle)
	if err != nil {
		t.Fatal(err)
	}
	checkProof(t, proof, public)
	other, err := c.Prove(limit(t), deviceHandle)
	if err != nil {
		t.Fatal(err)
	}
	if len(proof.Challenge) != 32 || bytes.Equal(proof.Challenge, other.Challenge) {
		t.Error("one challenge for two proofs")
	}
	// Nothing else was persisted: the two EKs of the vendor, the SRK is made anew.
	persistent := strings.Fields(tool(t, chip, "tpm2_getcap", "handles-persistent"))
	if want := []string{"-", "0x81000010", "-", "0x81010001", "-", "0x81010016"}; strings.Join(persistent, " ") != strings.Join(want, " ") {
		t.Errorf("persistent: %v", persistent)
	}
	// It is a key as tpm2-tools see it.
	said := tool(t, chip, "tpm2_readpublic", "-c", hex(deviceHandle))
	for _, want := range []string{
		"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign\n", "NIST p256", "value: ecdsa", "value: sha256",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("tpm2_readpublic does not say %q:\n%s", want, said)
		}
	}
}

// checkRequest checks with openssl, tpm2-tools and by hand what the station is
// handed.
func checkRequest(t *testing.T, r flasher.KeyRequest, name string, ak []byte) *ecdsa.PublicKey {
	t.Helper()
	needTool(t, "openssl", "tpm2_print")
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	out := shell(t, nil, "openssl req -inform DER -verify -noout -subject -in "+file("csr", r.CSR)+" 2>&1")
	if !strings.Contains(out, "verify OK") || !strings.Contains(out, "CN = "+name) {
		t.Errorf("openssl says of the request: %s", out)
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		t.Fatal(err)
	}
	public := csr.PublicKey.(*ecdsa.PublicKey)

	// The certified key is the request's.
	der := shell(t, nil, "tpm2_print -t TPM2B_PUBLIC -f pem "+file("key.pub", r.Certified.Public))
	block, _ := pem.Decode([]byte(der))
	if block == nil {
		t.Fatalf("tpm2_print: %s", der)
	}
	if certified, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !public.Equal(certified) {
		t.Errorf("the certified key is not the request's (%v)", err)
	}
	sum := sha256.Sum256(r.CSR)
	digest := sha256.Sum256(r.Certified.Public[2:])
	want := attest{head: "\xffTCG\x80\x17", extra: string(sum[:]), name: "\x00\x0b" + string(digest[:])}
	if said := readAttest(t, r.Certified.Attest); said != want {
		t.Errorf("certified is %x, want %x", said, want)
	}
	shell(t, nil, "tpm2_print -t TPM2B_PUBLIC -f pem "+file("ak.pub", ak)+" > "+dir+"/ak.pem")
	out = shell(t, nil, "openssl dgst -sha256 -verify "+dir+"/ak.pem -signature "+file("sig", signatureOf(t, r.Certified))+" "+file("attest", r.Certified.Attest))
	if !strings.Contains(out, "Verified OK") {
		t.Errorf("openssl says of the attestation: %s", out)
	}
	return public
}

// attest is what a TPMS_ATTEST says: magic and type, extraData, and of a
// certification the key's name.
type attest struct{ head, extra, name string }

// readAttest: magic, type, qualifiedSigner, extraData, clockInfo,
// firmwareVersion, then for a certification name and qualifiedName.
func readAttest(t *testing.T, b []byte) attest {
	t.Helper()
	a := attest{head: string(b[:6])}
	_, b = cut(b[6:])
	a.extra, b = cut(b)
	b = b[17+8:]
	if a.head[5] == 0x17 {
		a.name, b = cut(b)
		if _, b = cut(b); len(b) != 0 {
			t.Errorf("%d bytes behind the attestation", len(b))
		}
	}
	return a
}

// cut cuts a TPM2B off.
func cut(b []byte) (string, []byte) {
	n := 2 + int(binary.BigEndian.Uint16(b))
	return string(b[2:n]), b[n:]
}

// signatureOf reads a TPMT_SIGNATURE, which must be ECDSA with SHA-256, r, s.
func signatureOf(t *testing.T, c *flasher.Certified) []byte {
	t.Helper()
	if !bytes.HasPrefix(c.Signature, []byte{0, 0x18, 0, 0x0b}) {
		t.Fatalf("the signature begins % x", c.Signature[:4])
	}
	r, rest := cut(c.Signature[4:])
	s, _ := cut(rest)
	der, err := asn1.Marshal([]*big.Int{new(big.Int).SetBytes([]byte(r)), new(big.Int).SetBytes([]byte(s))})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func checkProof(t *testing.T, p flasher.Proof, public *ecdsa.PublicKey) {
	t.Helper()
	shown, err := x509.ParsePKIXPublicKey(p.Public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(p.Challenge)
	if !public.Equal(shown) || !ecdsa.VerifyASN1(public, digest[:], p.Signature) {
		t.Error("the proof is not by the device's key")
	}
}

// A plug pulled in mid-passage is everyday, and nothing of it may count as a
// wrong password.
func TestPulledPlugsDoNotLockTheTPM(t *testing.T) {
	t.Parallel()
	dir := state(t, fixture.Config{})
	for range 5 { // three would do
		chip := power(t, dir)
		for _, kind := range []tpm.Kind{tpm.RSA2048, tpm.P384} {
			c, err := tpm.OpenKind(limit(t), chip, kind)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ProveEndorsement(limit(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Request(limit(t), deviceHandle, "unit-1"); err != nil {
				t.Fatal(err)
			}
		}
		chip.Close()
	}
	said := tool(t, power(t, dir), "tpm2_getcap", "properties-variable")
	if !strings.Contains(said, "TPM2_PT_LOCKOUT_COUNTER: 0x0\n") {
		t.Errorf("the TPM counts wrong passwords:\n%s", said)
	}
}

// crowd counts what is loaded after each command.
type crowd struct {
	*fixture.TPM
	most int
}

func (c *crowd) Send(ctx context.Context, command []byte) ([]byte, error) {
	rsp, err := c.TPM.Send(ctx, command)
	if err != nil {
		return nil, err
	}
	// TPM2_GetCapability(TPM_CAP_HANDLES, transient, 64): the count is at 15.
	list, err := c.TPM.Send(ctx, []byte{0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 64})
	if err != nil || len(list) < 19 {
		return nil, fmt.Errorf("counting: %x, %w", list, err)
	}
	c.most = max(c.most, int(binary.BigEndian.Uint32(list[15:])))
	return rsp, nil
}

func TestFewKeysAreLoadedAtOnce(t *testing.T) {
	t.Parallel()
	through := &crowd{TPM: power(t, state(t, fixture.Config{Unborn: true}))}
	c := open(t, through)
	if err := c.ProveEndorsement(limit(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Request(limit(t), deviceHandle, "unit-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prove(limit(t), deviceHandle); err != nil {
		t.Fatal(err)
	}
	if through.most > 3 || through.most == 0 {
		t.Errorf("%d keys loaded at once: a TPM has room for three", through.most)
	}
	if err := c.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	if loaded := tool(t, through.TPM, "tpm2_getcap", "handles-transient"); loaded != "" {
		t.Errorf("left in the TPM: %s", loaded)
	}
}
