package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fixture "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
)

func TestEndorsementIsWhatToolsRead(t *testing.T) {
	t.Parallel()
	chip := chip(t)
	c := open(t, chip)
	e := c.Endorsement()
	ek, err := chip.EK(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Public, ek) || len(ek) != 316 {
		t.Errorf("%d bytes of endorsement key are not the %d that tpm2-tools read", len(e.Public), len(ek))
	}
	needTool(t, "sha256sum", "base32")
	id := strings.TrimSpace(shell(t, ek, `sha256sum -b | cut -c1-64 | tr a-f A-F | fold -w2 | while read h; do printf "\\$(printf %o 0x$h)"; done | base32 | tr -d =\\n | tr A-Z a-z`))
	if c.RegistrationID() != id || len(id) != 52 {
		t.Errorf("registration ID %s, the tools say %s", c.RegistrationID(), id)
	}
	cert := tool(t, chip, "tpm2_nvread", "-C", "0x01C00002", "0x01C00002")
	if string(e.Certificate) != cert || cert == "" {
		t.Errorf("%d bytes of certificate, the tools read %d", len(e.Certificate), len(cert))
	}
	if err := c.ProveEndorsement(limit(t)); err != nil {
		t.Error(err)
	}
	if err := c.Close(limit(t)); err != nil {
		t.Error(err)
	}
	if loaded := tool(t, chip, "tpm2_getcap", "handles-transient") + tool(t, chip, "tpm2_getcap", "handles-loaded-session"); loaded != "" {
		t.Errorf("left in the TPM: %s", loaded)
	}
}

func TestUnbornEndorsementKeyIsMadeAndPersisted(t *testing.T) {
	t.Parallel()
	dir := state(t, fixture.Config{Unborn: true})
	chip := power(t, dir)
	first := open(t, chip).Endorsement()
	ek, err := chip.EK(limit(t))
	if err != nil {
		t.Fatal("nothing was persisted: ", err)
	}
	if !bytes.Equal(first.Public, ek) {
		t.Error("persisted is another key than was read")
	}
	if !bytes.Contains(first.Certificate, ek[len(ek)-256:]) {
		t.Error("the key is not the one that its vendor certified")
	}
	// What tpm2-tools make from the TCG's template is the same key.
	tool(t, chip, "tpm2_flushcontext", "-t")
	made := t.TempDir()
	tool(t, chip, "tpm2_createek", "-Q", "-G", "rsa", "-c", made+"/ek.ctx", "-u", made+"/ek.pub")
	if got := shell(t, nil, "cat "+made+"/ek.pub"); got != string(ek) {
		t.Error("tpm2_createek makes another key")
	}
	chip.Close()

	c := open(t, power(t, dir))
	if again := c.Endorsement(); !bytes.Equal(again.Public, first.Public) || !bytes.Equal(again.AK, first.AK) {
		t.Error("after a power cut the TPM is another")
	}
	if err := c.ProveEndorsement(limit(t)); err != nil {
		t.Error(err)
	}
}

func TestEveryKindOfEndorsementKeyIsProved(t *testing.T) {
	t.Parallel()
	for kind, want := range map[tpm.Kind]struct {
		handle string
		cert   bool
	}{
		tpm.RSA2048: {"0x81010001", true},
		tpm.P256:    {"0x8101000A", false}, // swtpm_setup makes none
		tpm.P384:    {"0x81010016", true},
	} {
		t.Run(string(kind), func(t *testing.T) {
			chip := chip(t)
			c, err := tpm.OpenKind(limit(t), chip, kind)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ProveEndorsement(limit(t)); err != nil {
				t.Error(err)
			}
			e := c.Endorsement()
			if got := e.Certificate != nil; got != want.cert {
				t.Errorf("a certificate: %v", got)
			}
			if err := c.Close(limit(t)); err != nil {
				t.Error(err)
			}
			file := t.TempDir() + "/ek.pub"
			tool(t, chip, "tpm2_readpublic", "-Q", "-c", want.handle, "-o", file)
			if got := shell(t, nil, "cat "+file); got != string(e.Public) {
				t.Error("tpm2-tools read another key")
			}
		})
	}
	if _, err := tpm.OpenKind(limit(t), nil, "p-521"); err == nil {
		t.Error("there is no such kind")
	}
}

func TestChallengeForAnotherIsNotActivated(t *testing.T) {
	t.Parallel()
	mine, other := chip(t), power(t, state(t, fixture.Config{Certificate: fixture.None}))
	c, foreign := open(t, mine), open(t, other)
	defer foreign.Close(limit(t))
	defer c.Close(limit(t))
	e, f := c.Endorsement(), foreign.Endorsement()
	secret := []byte("0123456789abcdef0123456789abcdef")

	right := challenge(t, e.Public, e.AK, secret)
	answer, err := c.Activate(limit(t), right)
	if err != nil || !bytes.Equal(answer, secret) {
		t.Fatalf("the right challenge: %x, %v", answer, err)
	}
	for name, wrong := range map[string]flasher.Challenge{
		"another object":    challenge(t, e.Public, f.AK, secret),
		"another key":       challenge(t, f.Public, e.AK, secret),
		"both":              challenge(t, f.Public, f.AK, secret),
		"a changed object":  {Object: flip(right.Object, len(right.Object)-1), Secret: right.Secret},
		"a changed secret":  {Object: right.Object, Secret: flip(right.Secret, len(right.Secret)-1)},
		"a short secret":    {Object: right.Object, Secret: []byte{0, 2, 1, 2}},
		"an empty one":      {},
		"a cut object":      {Object: right.Object[:20], Secret: right.Secret},
		"bytes behind":      {Object: append(bytes.Clone(right.Object), 0), Secret: right.Secret},
		"an oversized size": {Object: []byte{0xff, 0xff}, Secret: right.Secret},
	} {
		answer, err := c.Activate(limit(t), wrong)
		if err == nil {
			t.Errorf("%s: activated to %x", name, answer)
			continue
		}
		refusal(t, err, "tpm-activation-failed")
	}
	// Nothing of all this is left in the TPM.
	if answer, err := c.Activate(limit(t), right); err != nil || !bytes.Equal(answer, secret) {
		t.Errorf("the right challenge after the wrong ones: %x, %v", answer, err)
	}
	if sessions := tool(t, mine, "tpm2_getcap", "handles-loaded-session"); sessions != "" {
		t.Errorf("sessions left: %s", sessions)
	}
}

// challenge is one that tpm2-tools make, without any TPM.
func challenge(t *testing.T, ek, ak, secret []byte) flasher.Challenge {
	t.Helper()
	needTool(t, "tpm2_makecredential")
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ek.pub": ek, "secret": secret} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256(ak[2:]) // a name: its hash algorithm, the hash of the TPMT_PUBLIC
	shell(t, nil, fmt.Sprintf("cd %s && tpm2_makecredential -Q -T none -u ek.pub -s secret -n 000b%x -o out", dir, sum))
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(out, []byte{0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1}) {
		t.Fatalf("tpm2_makecredential wrote % x", out)
	}
	out = out[8:]
	n := 2 + int(binary.BigEndian.Uint16(out))
	return flasher.Challenge{Object: out[:n], Secret: out[n:]}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}
