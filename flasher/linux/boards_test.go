package linux_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/linux"
)

// These tests run against simulated gateways, which have real userlands, logins
// and TPMs, over TCP with RFC 2217, as the station does. The boards share no code
// with the driver.

const patience = 2 * time.Minute

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// needTool skips without the tools, unless NAMEPLATE_TOOLS=1 says that all are
// here.
func needTool(t testing.TB, names ...string) {
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

// fixture is a socket, the port that leads to it, and boards to put in.
type fixture struct {
	socket *boards.Socket
	port   link.Port
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	s, err := boards.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	port, err := link.Parse("rfc2217://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return fixture{s, port}
}

const (
	model    = "Example Gateway 4"
	mac      = "02:00:5e:10:00:01"
	serial   = "GW4-00A17"
	password = "correct horse $HOME \"'\\"
)

func (f fixture) insert(t testing.TB, cfg boards.LinuxConfig) *boards.Linux {
	t.Helper()
	needTool(t, "busybox")
	if cfg.OpenSSL {
		needTool(t, "openssl")
	}
	for _, d := range []struct {
		is    *string
		usual string
	}{{&cfg.Name, "gateway"}, {&cfg.Model, model}, {&cfg.MAC, mac}, {&cfg.Serial, serial}, {&cfg.Password, password},
		{&cfg.Root, filepath.Join(t.TempDir(), "root")}} {
		if *d.is == "" {
			*d.is = d.usual
		}
	}
	b, err := boards.NewLinux(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.socket.Remove() })
	if err := f.socket.Insert(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// newTPM makes a chip and returns its state.
func newTPM(t testing.TB, c tpm.Config) string {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	ca, err := tpm.NewCA(filepath.Join(t.TempDir(), "vendor"), "Example TPMs")
	if err != nil {
		t.Fatal(err)
	}
	c.CA, c.Dir = ca, filepath.Join(t.TempDir(), "chip")
	if err := tpm.Make(within(t), c); err != nil {
		t.Fatal(err)
	}
	return c.Dir
}

func aziotOptions() flasher.Options {
	return flasher.Options{
		Chip: model, Interface: "eth0",
		Console: flasher.Console{User: "root", Password: flasher.Secret(password)},
		Store: flasher.Store{
			Format:      "aziot",
			Config:      flasher.File{Path: "/etc/aziot/config.toml", Mode: 0o600},
			Certificate: flasher.File{Path: "/var/aziot/certs/device-id.pem", Mode: 0o644},
			PrivateKey:  flasher.File{Path: "/var/aziot/secrets/device-id.key.pem", Mode: 0o600},
		},
	}
}

func keyOptions() flasher.Options {
	o := aziotOptions()
	o.Key = flasher.DeviceKey{In: "file", File: flasher.File{Path: "/var/aziot/secrets/own key.pem"}}
	return o
}

var salt = []byte("0123456789abcdef")

func identity(a flasher.Attestation) flasher.Identity {
	return flasher.Identity{RegistrationURL: "global.azure-devices-provisioning.net", IDScope: "0ne00112233",
		RegistrationID: "gw-00017", Attestation: a, Salt: salt}
}

func symmetric() flasher.Identity {
	id := identity(flasher.SymmetricKey)
	id.SymmetricKey = bytes.Repeat([]byte{0xA5, 0xC0, 0xDB, 0x01}, 16)
	return id
}

// certified is an identity whose leaf is for the key of a request.
func certified(t testing.TB, csr []byte) flasher.Identity {
	t.Helper()
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: request.Subject, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}}, request.PublicKey, ca)
	if err != nil {
		t.Fatal(err)
	}
	id := identity(flasher.X509)
	id.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	id.Certificate = append(id.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, 3000)})...)
	return id
}

func mustProbe(t testing.TB, ctx context.Context, f fixture, o flasher.Options) flasher.Device {
	t.Helper()
	d, err := linux.New().Probe(ctx, f.port, o)
	if err != nil {
		t.Fatalf("probing: %v (%v)", err, errors.Unwrap(err))
	}
	t.Cleanup(func() { d.Close(ctx) })
	return d
}

func mustPlan(t testing.TB, d flasher.Device, id flasher.Identity) flasher.Plan {
	t.Helper()
	p, err := d.Plan(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustReadBack(t testing.TB, ctx context.Context, d flasher.Device, want flasher.Manifest) flasher.Manifest {
	t.Helper()
	got, err := d.ReadBack(ctx, want)
	if err != nil {
		t.Fatalf("reading back: %v (%v)", err, errors.Unwrap(err))
	}
	return got
}

func mustWrite(t testing.TB, ctx context.Context, d flasher.Device, p flasher.Plan) {
	t.Helper()
	if err := d.Write(ctx, p, nil); err != nil {
		t.Fatalf("writing: %v (%v)", err, errors.Unwrap(err))
	}
}

// refusal is the refusal with this code that err is.
func refusal(t testing.TB, err error, code string) *flasher.Refusal {
	t.Helper()
	var r *flasher.Refusal
	if !errors.As(err, &r) || r.Code != code {
		t.Fatalf("got %v (%v), want a refusal %s", err, errors.Unwrap(err), code)
	}
	if r.Sentence == "" || r.Next == "" {
		t.Errorf("%s says %q, %q", code, r.Sentence, r.Next)
	}
	return r
}

// holds tells whether the board's files are what the plan says, every byte and
// every mode, and nothing temporary is beside them.
func holds(t testing.TB, b *boards.Linux, p flasher.Plan) bool {
	t.Helper()
	for _, s := range p.Segments {
		name := filepath.Join(b.Root(), s.Target)
		data, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(data, s.Data) {
			return false
		}
		info, err := os.Stat(name)
		if err != nil || uint32(info.Mode().Perm()) != s.Mode {
			t.Errorf("%s has mode %v, want %#o", s.Target, info.Mode(), s.Mode)
		}
		if left := leftovers(t, filepath.Dir(name)); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	return true
}

func leftovers(t testing.TB, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".*nameplate*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// eachUserland runs a test on the programs of small and of large images.
func eachUserland(t *testing.T, test func(t *testing.T, u boards.Userland)) {
	for _, u := range []boards.Userland{boards.BusyBox, boards.GNU} {
		t.Run(string(u), func(t *testing.T) {
			t.Parallel()
			if u == boards.GNU {
				needTool(t, "bash", "xargs")
			}
			test(t, u)
		})
	}
}

func TestIdentityGoesOntoABoardAndIsFoundThere(t *testing.T) {
	t.Parallel()
	eachUserland(t, func(t *testing.T, u boards.Userland) {
		ctx, f := within(t), newFixture(t)
		b := f.insert(t, boards.LinuxConfig{Userland: u})
		d := mustProbe(t, ctx, f, aziotOptions())
		want := flasher.Facts{Family: "linux", Chip: model, StoreBlank: true, Security: flasher.Security{Raw: "00"},
			HardwareIDs: []flasher.HardwareID{{Kind: "mac", Value: mac}, {Kind: "serial-number", Value: strings.ToLower(serial)}}}
		if got := d.Facts(); !reflect.DeepEqual(got, want) {
			t.Errorf("facts are %+v, want %+v", got, want)
		}
		if can := d.Can(); can.Keys != nil || can.TPM != nil {
			t.Errorf("it can %+v", can)
		}
		plan := mustPlan(t, d, symmetric())
		if found := mustReadBack(t, ctx, d, plan.Manifest); len(found) != 0 {
			t.Errorf("a new board holds %v", found)
		}
		var last flasher.Progress
		if err := d.Write(ctx, plan, func(p flasher.Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if last.Step != "write" || last.Done != last.Total || last.Total == 0 {
			t.Errorf("the last progress is %+v", last)
		}
		if found := mustReadBack(t, ctx, d, plan.Manifest); !reflect.DeepEqual(found, plan.Manifest) {
			t.Errorf("found %v, want %v", found, plan.Manifest)
		}
		if !holds(t, b, plan) {
			t.Error("the files are not as planned")
		}
		if err := d.Close(ctx); err != nil {
			t.Fatal(err)
		}
		again := mustProbe(t, ctx, f, aziotOptions())
		if again.Facts().StoreBlank {
			t.Error("a written board counts as blank")
		}
		if n := b.Boots(); n != 1 {
			t.Errorf("the board started %d times", n)
		}
	})
}

func TestKeyIsMadeOnTheBoardAndStaysThere(t *testing.T) {
	t.Parallel()
	eachUserland(t, func(t *testing.T, u boards.Userland) {
		ctx, f := within(t), newFixture(t)
		b := f.insert(t, boards.LinuxConfig{Userland: u, OpenSSL: true})
		o := keyOptions()
		d := mustProbe(t, ctx, f, o)
		if d.Facts().KeyHeld {
			t.Error("a new board holds a key")
		}
		request, err := d.Can().Keys.Request(ctx, "gw-00017")
		if err != nil {
			t.Fatalf("%v (%v)", err, errors.Unwrap(err))
		}
		csr, err := x509.ParseCertificateRequest(request.CSR)
		if err != nil || csr.CheckSignature() != nil || csr.Subject.String() != "CN=gw-00017" || request.Certified != nil {
			t.Fatalf("the request is %v, %v", csr, err)
		}
		name := filepath.Join(b.Root(), o.Key.File.Path)
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 || len(leftovers(t, filepath.Dir(name))) > 0 {
			t.Errorf("the key's file: %v, %v, %v", info, err, leftovers(t, filepath.Dir(name)))
		}
		key, err := os.ReadFile(name)
		if err != nil || !bytes.HasPrefix(key, []byte("-----BEGIN PRIVATE KEY-----")) {
			t.Fatal(err, "the key is not PKCS #8 in PEM")
		}
		plan := mustPlan(t, d, certified(t, request.CSR))
		mustWrite(t, ctx, d, plan)
		checkPossession(t, plan, mustReadBack(t, ctx, d, plan.Manifest), request.CSR)
		if err := d.Close(ctx); err != nil {
			t.Fatal(err)
		}
		again := mustProbe(t, ctx, f, o)
		if !again.Facts().KeyHeld {
			t.Error("the key is not found")
		}
		second, err := again.Can().Keys.Request(ctx, "gw-00017")
		if err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(name); !bytes.Equal(after, key) {
			t.Error("the key was made again")
		}
		checkPossession(t, plan, mustReadBack(t, ctx, again, plan.Manifest), second.CSR)
		for _, line := range b.Inputs() {
			if strings.Contains(line, "PRIVATE KEY") {
				t.Errorf("a key went to the board: %q", line)
			}
		}
	})
}

// checkPossession holds what was found against the plan, and the proof against the
// key of the request.
func checkPossession(t testing.TB, plan flasher.Plan, found flasher.Manifest, csr []byte) {
	t.Helper()
	if missing := plan.Manifest.Missing(found); len(missing) > 0 {
		t.Fatalf("%v missing", missing)
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(it flasher.Item) bool { return it.Name == flasher.ItemPrivateKey })
	if i < 0 || found[i].How != flasher.ByPossession || found[i].Proof == nil {
		t.Fatalf("found %+v", found)
	}
	p := found[i].Proof
	digest := sha256.Sum256(p.Challenge)
	if len(p.Challenge) != 32 || !bytes.Equal(p.Public, request.RawSubjectPublicKeyInfo) ||
		!ecdsa.VerifyASN1(request.PublicKey.(*ecdsa.PublicKey), digest[:], p.Signature) {
		t.Errorf("the proof is not one of the key that asked for the certificate: %+v", p)
	}
	if sum := sha256.Sum256(p.Public); found[i].SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("the item's digest is not that of its key")
	}
}

func TestTPMBoard(t *testing.T) {
	t.Parallel()
	eachUserland(t, func(t *testing.T, u boards.Userland) {
		ctx, f := within(t), newFixture(t)
		b := f.insert(t, boards.LinuxConfig{Userland: u, TPMState: newTPM(t, tpm.Config{})})
		o := aziotOptions()
		o.TPM = true
		d := mustProbe(t, ctx, f, o)
		facts := d.Facts()
		if facts.Endorsement == nil || len(facts.HardwareIDs) != 3 || facts.HardwareIDs[2].Kind != "ek" || len(facts.HardwareIDs[2].Value) != 52 {
			t.Fatalf("facts are %+v", facts)
		}
		if d.Can().TPM == nil {
			t.Error("it cannot activate")
		}
		plan := mustPlan(t, d, identity(flasher.TPM))
		mustWrite(t, ctx, d, plan)
		if found := mustReadBack(t, ctx, d, plan.Manifest); !reflect.DeepEqual(found, plan.Manifest) {
			t.Errorf("found %v, want %v", found, plan.Manifest)
		}
		if !holds(t, b, plan) {
			t.Error("the files are not as planned")
		}
	})
}

func TestKeyInTheTPM(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{TPMState: newTPM(t, tpm.Config{Unborn: true})})
	o := aziotOptions()
	o.TPM, o.Key = true, flasher.DeviceKey{In: "tpm", Handle: 0x81000010}
	o.Store = flasher.Store{Format: "files", Files: []flasher.File{
		{Path: "/etc/provisioning/certificate.pem", Mode: 0o644, Text: "{certificate}"},
		{Path: "/etc/provisioning/device.conf", Text: "id={registration_id}\nscope={id_scope}\nkey={key_handle}\n"},
	}}
	d := mustProbe(t, ctx, f, o)
	if d.Facts().KeyHeld {
		t.Error("a new TPM holds a key")
	}
	request, err := d.Can().Keys.Request(ctx, "gw-00017")
	if err != nil || request.Certified == nil {
		t.Fatalf("%+v, %v", request, err)
	}
	plan := mustPlan(t, d, certified(t, request.CSR))
	mustWrite(t, ctx, d, plan)
	checkPossession(t, plan, mustReadBack(t, ctx, d, plan.Manifest), request.CSR)
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	again := mustProbe(t, ctx, f, o)
	if !again.Facts().KeyHeld {
		t.Error("the key is not found")
	}
	checkPossession(t, plan, mustReadBack(t, ctx, again, plan.Manifest), request.CSR)
}
