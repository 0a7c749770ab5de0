package ek_test

// Real TPMs, as far as a machine has them: what swtpm holds, what openssl and
// tpm2-tools say of it.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca/ek"
	"nameplate/fixtures/tpm"
)

var update = flag.Bool("update", false, "write testdata/golden.json anew")

const goldenFile = "testdata/golden.json"

// golden is what a TPM held once, and its vendor.
type golden struct {
	Name  string
	EK    []byte // TPM2B_PUBLIC
	NV    []byte
	Roots string // PEM: root, then the CA below it
	At    time.Time
}

func goldens(t testing.TB) []golden {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Fatalf("%d TPMs in %s, not 3", len(all), goldenFile)
	}
	return all
}

func (g golden) roots(t testing.TB) *ek.Roots {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "vendor.pem"), []byte(g.Roots))
	roots, err := ek.LoadRoots(dir)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			roots := g.roots(t)
			r, finding, err := ek.Admit(ek.Require, g.NV, roots, g.EK, g.At)
			if err != nil || finding != "" {
				t.Fatalf("%v, %q", sentences(err), finding)
			}
			if r.Model == "" || len(r.Chain) != 2 || r.Anchor != roots.Fingerprints()[0] {
				t.Errorf("%+v", r)
			}
			if err := ek.Verify(r.DER, r.Chain, roots.Fingerprints(), g.EK, g.At); err != nil {
				t.Error(err)
			}
		})
	}
}

// needTool skips without the tool, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatalf("%s is not installed, and NAMEPLATE_TOOLS=1 demands it", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// chip is a running TPM and who made it. Its methods fail the test.
type chip struct {
	*tpm.TPM
	t      *testing.T
	ctx    context.Context
	vendor *tpm.CA
}

// Send sends a command again when the TPM, still testing itself, asks for it
// (TPM_RC_RETRY, Part 2, 6.6.3).
func (c chip) Send(command []byte) ([]byte, error) {
	for {
		rsp, err := c.TPM.Send(c.ctx, command)
		if err == nil && len(rsp) >= 10 && tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) == tpm2.TPMRCRetry {
			continue
		}
		return rsp, err
	}
}

func newChip(t *testing.T, certificate tpm.Certificate) chip {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	vendor, err := tpm.NewCA(filepath.Join(t.TempDir(), "ca"), "Example Chips")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "chip")
	if err := tpm.Make(ctx, tpm.Config{Dir: dir, CA: vendor, Certificate: certificate}); err != nil {
		t.Fatal(err)
	}
	running, err := tpm.Start(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { running.Close() })
	return chip{running, t, ctx, vendor}
}

func (c chip) public(handle tpm2.TPMHandle) []byte {
	c.t.Helper()
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return tpm2.Marshal(r.OutPublic)
}

// nv is what an index holds; nil if there is none.
func (c chip) nv(index tpm2.TPMHandle) []byte {
	c.t.Helper()
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		return nil
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		c.t.Fatal(err)
	}
	at := tpm2.NamedHandle{Handle: index, Name: r.NVName}
	var all []byte
	for len(all) < int(public.DataSize) {
		part, err := tpm2.NVRead{AuthHandle: at, NVIndex: at, Size: min(512, public.DataSize-uint16(len(all))), Offset: uint16(len(all))}.Execute(c)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, part.Data.Buffer...)
	}
	return all
}

// store puts bytes into a new index, as a vendor does.
func (c chip) store(index tpm2.TPMHandle, data []byte) {
	c.t.Helper()
	public := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true}}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(public)}).Execute(c); err != nil {
		c.t.Fatal(err)
	}
	for at := 0; at < len(data); at += 512 {
		name, err := tpm2.NVName(&public)
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: *name},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+512, len(data))]}, Offset: uint16(at)}).Execute(c); err != nil {
			c.t.Fatal(err)
		}
		public.Attributes.Written = true
	}
}

func (c chip) roots() []byte {
	c.t.Helper()
	roots, err := c.vendor.RootsPEM()
	if err != nil {
		c.t.Fatal(err)
	}
	return roots
}

// The endorsement keys of a TPM, their certificates out of its NV, and what
// openssl makes of the same chains. With -update it is kept as golden.json.
func TestRealTPM(t *testing.T) {
	needTool(t, "openssl")
	c := newChip(t, tpm.Genuine)
	// swtpm_setup makes no P-256 certificate: ours is put where it belongs.
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	p256 := tpm2.Marshal(made.OutPublic)
	o, err := ek.Public(p256)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, newECC(t, elliptic.P256()))
	c.store(0x01C0000A, sign(t, withNames(b), b.parent, o.Key.(*ecdsa.PublicKey)))

	kept := []golden{
		{"RSA-2048", c.public(0x81010001), c.nv(0x01C00002), string(c.roots()), time.Now().UTC().Truncate(time.Second)},
		{"P-256", p256, c.nv(0x01C0000A), string(pemOf(b.vendor.root.cert, b.vendor.issuing.cert)), today},
		{"P-384", c.public(0x81010016), c.nv(0x01C00016), string(c.roots()), time.Now().UTC().Truncate(time.Second)},
	}
	for _, g := range kept {
		t.Run(g.Name, func(t *testing.T) {
			roots := g.roots(t)
			r, _, err := ek.Admit(ek.Require, g.NV, roots, g.EK, g.At)
			if err != nil {
				t.Fatal(sentences(err))
			}
			if r.Model == "" || r.Version == "" || r.Manufacturer == "" || !r.NotAfter.Equal(never) {
				t.Errorf("%+v", r)
			}
			openssl(t, g, r.DER, true)
		})
	}
	// The other's certificate is another TPM's, and its vendor another vendor.
	_, _, err = ek.Admit(ek.Require, kept[0].NV, kept[0].roots(t), kept[1].EK, kept[0].At)
	expectCode(t, "another TPM's", err, "ek-certificate-other-key")
	_, _, err = ek.Admit(ek.Require, kept[0].NV, kept[1].roots(t), kept[0].EK, kept[0].At)
	expectCode(t, "another vendor's", err, "ek-certificate-untrusted")
	foreign := kept[0]
	foreign.Roots = kept[1].Roots
	openssl(t, foreign, kept[0].NV, false)

	if *update && !t.Failed() {
		text, err := json.MarshalIndent(kept, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		write(t, goldenFile, append(text, '\n'))
	}
}

func withNames(b *bench) *x509.Certificate {
	b.cert.ExtraExtensions = append(b.cert.ExtraExtensions, b.san)
	return b.cert
}

// openssl verifies the chain, or, if it should not, does not.
func openssl(t *testing.T, g golden, der []byte, want bool) {
	t.Helper()
	dir := t.TempDir()
	root, rest := pem.Decode([]byte(g.Roots))
	write(t, filepath.Join(dir, "root.pem"), pem.EncodeToMemory(root))
	write(t, filepath.Join(dir, "issuing.pem"), rest)
	write(t, filepath.Join(dir, "ek.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	cmd := exec.Command("openssl", "verify", "-check_ss_sig", "-attime", strconv.FormatInt(g.At.Unix(), 10),
		"-CAfile", "root.pem", "-untrusted", "issuing.pem", "ek.pem")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); (err == nil) != want {
		t.Errorf("openssl verify: %v\n%s", err, out)
	}
}

// The name that the service's tools derive is over exactly what tpm2-tools read.
func TestToolsReadTheSameKey(t *testing.T) {
	needTool(t, "tpm2_readpublic")
	c := newChip(t, tpm.Genuine)
	theirs, err := c.EK(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ours := c.public(0x81010001)
	if !bytes.Equal(ours, theirs) || len(ours) != 316 {
		t.Errorf("tpm2-tools read %x, not %x", theirs, ours)
	}
	if err := ek.ServiceCapable(theirs); err != nil {
		t.Error(sentences(err))
	}
	if id := ek.RegistrationID(theirs); id != ek.RegistrationID(ours) || len(id) != 52 {
		t.Errorf("%q", id)
	}
	expectCode(t, "P-384", ek.ServiceCapable(c.public(0x81010016)), "ek-not-for-service")
}

// What stands in a TPM's certificate index, good or bad, under a policy that
// requires a certificate.
func TestChips(t *testing.T) {
	for certificate, code := range map[tpm.Certificate]string{
		tpm.Padded:   "",
		tpm.Prefixed: "",
		tpm.None:     "ek-certificate-missing",
		tpm.Expired:  "ek-certificate-expired",
		tpm.OtherKey: "ek-certificate-other-key",
	} {
		t.Run(string(certificate), func(t *testing.T) {
			c := newChip(t, certificate)
			g := golden{Roots: string(c.roots())}
			_, _, err := ek.Admit(ek.Require, c.nv(0x01C00002), g.roots(t), c.public(0x81010001), time.Now())
			if code == "" {
				if err != nil {
					t.Error(sentences(err))
				}
				return
			}
			expectCode(t, string(certificate), err, code)
		})
	}
}
