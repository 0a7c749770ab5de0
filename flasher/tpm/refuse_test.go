package tpm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher/tpm"
)

// persist lets tpm2-tools make a primary key and keep it at a handle.
func persist(t *testing.T, chip *fixture.TPM, handle string, args ...string) {
	t.Helper()
	ctx := filepath.Join(t.TempDir(), "key.ctx")
	tool(t, chip, "tpm2_createprimary", append([]string{"-Q", "-c", ctx}, args...)...)
	tool(t, chip, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", ctx, handle)
	tool(t, chip, "tpm2_flushcontext", "-t")
}

const ekAttributes = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"

// ekPolicy is a file with PolicyA of the EK Credential Profile.
func ekPolicy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(path, []byte("\x83\x71\x97\x67\x44\x84\xb3\xf8\x1a\x90\xcc\x8d\x46\xa5\xd7\x24\xfd\x52\xd7\x6e\x06\x52\x0b\x64\xf2\xa1\xda\x1b\x33\x14\x69\xaa"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEndorsementHandleHoldsSomethingElse(t *testing.T) {
	t.Parallel()
	for said, args := range map[string][]string{
		"a P-256 key that stores other keys":              {"-C", "o", "-G", "ecc256"},
		"an RSA key of 2048 bits that signs":              {"-C", "e", "-G", "rsa2048", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"},
		"a P-256 key that attests":                        {"-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"},
		"with another policy":                             {"-C", "e", "-G", "ecc256", "-a", ekAttributes, "-L", ekPolicy(t)},
		"sealed data or a key for HMAC":                   {"-C", "o", "-G", "hmac", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"},
		"an RSA key of 2048 bits that signs and decrypts": {"-C", "e", "-G", "rsa2048:null:null", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|decrypt"},
	} {
		chip := power(t, state(t, fixture.Config{Unborn: true}))
		persist(t, chip, "0x81010001", args...)
		_, err := tpm.Open(limit(t), chip)
		if r := refusal(t, err, "ek-handle-occupied"); !strings.Contains(r.Sentence, said) || !strings.Contains(r.Next, "0x81010001") {
			t.Errorf("a key made with %q is refused with %q %q", args, r.Sentence, r.Next)
		}
	}
}

func TestTwoTemplatesAreTold(t *testing.T) {
	t.Parallel()
	unique := filepath.Join(t.TempDir(), "unique")
	if err := os.WriteFile(unique, bytes.Repeat([]byte{1}, 256), 0o600); err != nil {
		t.Fatal(err)
	}
	for said, args := range map[string][]string{
		`field "unique" is empty`:                     nil,
		"another key than the one that its EK certif": {"-u", unique},
	} {
		chip := power(t, state(t, fixture.Config{Unborn: true}))
		persist(t, chip, "0x81010001", append([]string{"-C", "e", "-G", "rsa2048:aes128cfb", "-a", ekAttributes, "-L", ekPolicy(t)}, args...)...)
		_, err := tpm.Open(limit(t), chip)
		if r := refusal(t, err, "ek-handle-occupied"); !strings.Contains(r.Sentence, said) || !strings.Contains(r.Sentence, "certificate") {
			t.Errorf("%s: refused with %q", said, r.Sentence)
		}
		// What the operator is told to do helps.
		tool(t, chip, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81010001")
		e := open(t, chip).Endorsement()
		if !bytes.Contains(e.Certificate, e.Public[len(e.Public)-256:]) {
			t.Error("the handle was freed, and the key there is still not the certificate's")
		}
	}
}

// Without a certificate there is nothing that another key would be right for:
// the key at the handle is the one that all programs find.
func TestOtherTemplateWithoutACertificateIsTaken(t *testing.T) {
	t.Parallel()
	chip := power(t, state(t, fixture.Config{Unborn: true, Certificate: fixture.None}))
	persist(t, chip, "0x81010001", "-C", "e", "-G", "rsa2048:aes128cfb", "-a", ekAttributes, "-L", ekPolicy(t))
	c := open(t, chip)
	ek, err := chip.EK(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Endorsement(); !bytes.Equal(e.Public, ek) || e.Certificate != nil {
		t.Errorf("%d bytes of key, %d of certificate", len(e.Public), len(e.Certificate))
	}
	if err := c.ProveEndorsement(limit(t)); err != nil {
		t.Error(err)
	}
}

// Whose certificate it is, if no key of this TPM's, is for others to judge.
func TestCertificateOfAnotherKeyIsHandedOut(t *testing.T) {
	t.Parallel()
	chip := power(t, state(t, fixture.Config{Certificate: fixture.OtherKey}))
	c := open(t, chip)
	if got := tool(t, chip, "tpm2_nvread", "-C", "0x01C00002", "0x01C00002"); got != string(c.Endorsement().Certificate) {
		t.Error("it is not what is in NV")
	}
	if err := c.ProveEndorsement(limit(t)); err != nil {
		t.Error(err)
	}
	if err := c.Close(limit(t)); err != nil {
		t.Error(err)
	}
	if loaded := tool(t, chip, "tpm2_getcap", "handles-transient"); loaded != "" {
		t.Errorf("left in the TPM: %s", loaded)
	}
}

func TestCertificateIsReadAsItIs(t *testing.T) {
	t.Parallel()
	for _, kind := range []fixture.Certificate{fixture.Padded, fixture.Prefixed} {
		chip := power(t, state(t, fixture.Config{Certificate: kind}))
		want := tool(t, chip, "tpm2_nvread", "-C", "0x01C00002", "0x01C00002")
		if got := open(t, chip).Endorsement().Certificate; string(got) != want {
			t.Errorf("%s: %d bytes, the tools read %d", kind, len(got), len(want))
		}
		// A TPM that reads half as much at once gives the same.
		if got := open(t, smallBuffer(chip)).Endorsement().Certificate; string(got) != want {
			t.Errorf("%s, small buffer: %d bytes, the tools read %d", kind, len(got), len(want))
		}
	}
}

func TestCertificateIndexThatGivesNothing(t *testing.T) {
	t.Parallel()
	const index = "0x01C00002"
	for name, tt := range map[string]struct {
		attributes string
		write      bool
		refusal    string
	}{
		"never written":     {"ownerread|authread|ownerwrite|no_da", false, ""},
		"not for all":       {"ownerread|ownerwrite|no_da", true, "ek-certificate-unreadable"},
		"counts attempts":   {"ownerread|authread|ownerwrite", true, ""},
		"as vendors set it": {"ownerread|authread|ownerwrite|no_da", true, ""},
	} {
		chip := power(t, state(t, fixture.Config{Certificate: fixture.None}))
		tool(t, chip, "tpm2_nvdefine", "-Q", "-C", "o", "-s", "5", "-a", tt.attributes, index)
		if tt.write {
			file := filepath.Join(t.TempDir(), "data")
			if err := os.WriteFile(file, []byte("bytes"), 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, chip, "tpm2_nvwrite", "-Q", "-C", "o", "-i", file, index)
		}
		c, err := tpm.Open(limit(t), chip)
		switch {
		case tt.refusal != "":
			refusal(t, err, tt.refusal)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.write != (string(c.Endorsement().Certificate) == "bytes"):
			t.Errorf("%s: read %q", name, c.Endorsement().Certificate)
		}
	}
}

func TestOwnedTPM(t *testing.T) {
	t.Parallel()
	for _, hierarchy := range []string{"owner", "endorsement"} {
		chip := chip(t)
		tool(t, chip, "tpm2_changeauth", "-Q", "-c", hierarchy, "secret")
		_, err := tpm.Open(limit(t), chip)
		refusal(t, err, "tpm-owned")
	}
}

// A password that appears while we talk is found where it is asked for.
func TestTPMThatIsTakenMeanwhile(t *testing.T) {
	t.Parallel()
	chip := chip(t)
	c := open(t, chip)
	tool(t, chip, "tpm2_changeauth", "-Q", "-c", "endorsement", "secret")
	refusal(t, c.ProveEndorsement(limit(t)), "tpm-owned")
	if sessions := tool(t, chip, "tpm2_getcap", "handles-loaded-session"); sessions != "" {
		t.Errorf("sessions left: %s", sessions)
	}
	tool(t, chip, "tpm2_changeauth", "-Q", "-c", "endorsement", "-p", "secret")
	tool(t, chip, "tpm2_changeauth", "-Q", "-c", "owner", "secret")
	_, err := c.Request(limit(t), deviceHandle, "unit-1")
	refusal(t, err, "tpm-owned")
}

func TestTPMInLockout(t *testing.T) {
	t.Parallel()
	chip := chip(t)
	tool(t, chip, "tpm2_nvdefine", "-Q", "-C", "o", "-s", "5", "-p", "right", "-a", "authread|authwrite", "0x01500001")
	for range 4 { // three count; it takes one more to notice
		if _, err := chip.Tool(limit(t), "tpm2_nvread", "-Q", "-P", "wrong", "0x01500001"); err == nil {
			t.Fatal("the wrong password opens it")
		}
	}
	_, err := tpm.Open(limit(t), chip)
	refusal(t, err, "tpm-locked-out")
}

func TestDisabledHierarchy(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"shEnable", "ehEnable"} {
		chip := chip(t)
		tool(t, chip, "tpm2_hierarchycontrol", "-Q", "-C", "p", which, "clear")
		_, err := tpm.Open(limit(t), chip)
		refusal(t, err, "tpm-disabled")
	}
}

func TestFullTPM(t *testing.T) {
	t.Parallel()
	chip := chip(t)
	tool(t, chip, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", filepath.Join(t.TempDir(), "key.ctx"))
	// The key is loaded at 0x80000000: keep it in the TPM as often as it takes.
	for handle, space := uint32(0x81001000), uint32(0); space != 0x14B; handle++ { // NV_SPACE
		evict := []byte("\x80\x02\x00\x00\x00\x23\x00\x00\x01\x20\x40\x00\x00\x01\x80\x00\x00\x00" + // the owner, the key
			"\x00\x00\x00\x09\x40\x00\x00\x09\x00\x00\x00\x00\x00") // an empty password
		rsp, err := chip.Send(limit(t), binary.BigEndian.AppendUint32(evict, handle))
		if err != nil {
			t.Fatal(err)
		}
		if space = binary.BigEndian.Uint32(rsp[6:]); space != 0 && space != 0x14B {
			t.Fatalf("TPM2_EvictControl answers %#x", space)
		}
	}
	tool(t, chip, "tpm2_flushcontext", "-t")
	c := open(t, chip)
	_, err := c.Request(limit(t), deviceHandle, "unit-1")
	refusal(t, err, "tpm-full")
	if err := c.Close(limit(t)); err != nil {
		t.Error(err)
	}
	if loaded := tool(t, chip, "tpm2_getcap", "handles-transient"); loaded != "" {
		t.Errorf("left in the TPM: %s", loaded)
	}
}

func TestDeviceHandleHoldsSomethingElse(t *testing.T) {
	t.Parallel()
	const deviceAttributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
	for said, args := range map[string][]string{
		"a P-256 key that stores other keys": {"-C", "o", "-G", "ecc256"},
		"an RSA key of 2048 bits that signs": {"-C", "o", "-G", "rsa2048", "-a", deviceAttributes},
		"a P-384 key that signs":             {"-C", "o", "-G", "ecc384:ecdsa-sha256", "-a", deviceAttributes},
		"a P-256 key that signs":             {"-C", "o", "-G", "ecc256:ecdsa-sha256", "-a", "sensitivedataorigin|userwithauth|noda|sign"},
	} {
		chip := chip(t)
		persist(t, chip, hex(deviceHandle), args...)
		c := open(t, chip)
		held, err := c.KeyHeld(limit(t), deviceHandle)
		if r := refusal(t, err, "tpm-handle-occupied"); held || !strings.Contains(r.Sentence, said) {
			t.Errorf("%q: held %v, refused with %q", args, held, r.Sentence)
		}
		_, err = c.Request(limit(t), deviceHandle, "unit-1")
		refusal(t, err, "tpm-handle-occupied")
		_, err = c.Prove(limit(t), deviceHandle)
		refusal(t, err, "tpm-handle-occupied")
	}
	// One that looks right, but has a password.
	chip := chip(t)
	persist(t, chip, hex(deviceHandle), "-C", "o", "-G", "ecc256:ecdsa-sha256", "-a", deviceAttributes, "-p", "secret")
	c := open(t, chip)
	_, err := c.Request(limit(t), deviceHandle, "unit-1")
	refusal(t, err, "tpm-handle-occupied")
	_, err = c.Prove(limit(t), deviceHandle)
	refusal(t, err, "tpm-handle-occupied")
}
