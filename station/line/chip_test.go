package line_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"nameplate/ca/ek"
	chips "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
	"nameplate/records"
)

// What a fake board proves of its keys is real: its TPM is a chip of fixtures/tpm
// behind the real conversation, and the key that it makes itself signs.

// Ways in which a unit's identity is made, beside those that are called like their
// attestation.
const (
	ownKey = "x509-device" // the board makes the key of its certificate and keeps it in a file
	tpmKey = "x509-tpm"    // its TPM does
)

// ways are all of them; attestations those of boards that have no key of their own.
var (
	attestations = []string{records.SymmetricKey, records.X509}
	proving      = []string{ownKey, tpmKey, records.TPM}
	ways         = slices.Concat(attestations, proving)
)

// makes is what the terms of an order call a way.
func makes(way string) (attestation, key string) {
	switch way {
	case ownKey:
		return records.X509, records.KeyInFile
	case tpmKey:
		return records.X509, records.KeyInTPM
	case records.X509:
		return records.X509, records.KeyInjected
	}
	return way, ""
}

func hasTPM(way string) bool    { return way == tpmKey || way == records.TPM }
func hasOwnKey(way string) bool { return way == tpmKey || way == ownKey }

// keyHandle is where a TPM keeps the device's key.
const keyHandle = 0x81000200

// needTool skips without the tools, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t testing.TB, names ...string) {
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

// foundry holds what the vendors of TPMs made for this run. Making a chip takes a
// second, copying its state nothing; a copy is the same chip.
var foundry struct {
	sync.Mutex
	dir   string
	chips map[string]bool
}

// The vendor whom the orders trust, and another one.
const (
	vendor   = "Example Chips"
	stranger = "Other Chips"
)

// breeds are the chips that are not simply genuine, by name. Any other name is a
// genuine chip of its own.
var breeds = map[string]chips.Config{
	"bare":      {Certificate: chips.None},
	"expired":   {Certificate: chips.Expired},
	"exchanged": {Certificate: chips.OtherKey},
	"padded":    {Certificate: chips.Padded},
	"prefixed":  {Certificate: chips.Prefixed},
	"unborn":    {Unborn: true},
}

func TestMain(m *testing.M) {
	code := m.Run()
	if foundry.dir != "" {
		os.RemoveAll(foundry.dir)
	}
	os.Exit(code)
}

// of is a vendor's CA; the foundry is locked.
func of(t testing.TB, name string) *chips.CA {
	t.Helper()
	if foundry.dir == "" {
		dir, err := os.MkdirTemp("", "foundry-")
		must(t, err)
		foundry.dir, foundry.chips = dir, map[string]bool{}
	}
	ca, err := chips.NewCA(filepath.Join(foundry.dir, name), name)
	must(t, err)
	return ca
}

// trusted are the roots in the operator's folder.
func trusted(t testing.TB) *ek.Roots {
	t.Helper()
	foundry.Lock()
	defer foundry.Unlock()
	text, err := of(t, vendor).RootsPEM()
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "vendor.pem"), text, 0o600))
	roots, err := ek.LoadRoots(dir)
	must(t, err)
	return roots
}

// original is the state of a chip as it left its vendor.
func original(t testing.TB, name string) string {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	foundry.Lock()
	defer foundry.Unlock()
	ca := of(t, vendor)
	if name == "foreign" {
		ca = of(t, stranger)
	}
	c := breeds[name]
	c.CA, c.Dir = ca, filepath.Join(foundry.dir, "chip "+name)
	if !foundry.chips[name] {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, chips.Make(ctx, c))
		foundry.chips[name] = true
	}
	return c.Dir
}

// module is the TPM on a board.
type module struct {
	testing.TB
	dir string

	mu      sync.Mutex
	running *chips.TPM
}

// newModule is a copy of the chip of that name, with power.
func newModule(t testing.TB, name string) *module {
	t.Helper()
	from := original(t, name)
	// Not in the test's folder: swtpm takes no comma in a path.
	dir, err := os.MkdirTemp(filepath.Dir(from), "copy-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.CopyFS(dir, os.DirFS(from)))
	m := &module{TB: t, dir: dir}
	m.cut()
	t.Cleanup(func() { m.power().Close() })
	return m
}

// cut takes the power away and gives it back: what was not kept is gone.
func (m *module) cut() {
	m.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running != nil {
		m.running.Close()
	}
	var err error
	m.running, err = chips.Start(context.WithoutCancel(m.Context()), m.dir)
	must(m, err)
}

func (m *module) power() *chips.TPM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (m *module) Send(ctx context.Context, command []byte) ([]byte, error) {
	return m.power().Send(ctx, command)
}

// clear takes the TPM from its owner, as its firmware's setup does: all keys are
// gone but those that come from the endorsement seed.
func (m *module) clear() {
	m.Helper()
	needTool(m, "tpm2_clear")
	_, err := m.power().Tool(m.Context(), "tpm2_clear")
	must(m, err)
}

// boardFor is a new board on which identities can be made in that way.
func boardFor(t testing.TB, way, name string) *board {
	t.Helper()
	if hasTPM(way) {
		return withTPM(t, name, name)
	}
	return newBoard(name)
}

// withTPM is a new board with the chip of that name.
func withTPM(t testing.TB, name, chip string) *board {
	t.Helper()
	b := newBoard(name)
	b.solder(newModule(t, chip))
	return b
}

// solder gives the board a TPM in the place of the one that it has.
func (b *board) solder(m *module) { b.chip, b.tpm = m, m }

// cut takes the board's power away and gives it back.
func (b *board) cut() {
	if b.chip != nil {
		b.chip.Helper()
		b.chip.cut()
	}
}

// made is how many keys the board has made and kept.
func (b *board) made() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keys
}

func (b *board) count() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys++
}

// keep is a file that is there from one instant to the next; nil removes it.
func (b *board) keep(key *ecdsa.PrivateKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key = key
}

func (b *board) own() *ecdsa.PrivateKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.key
}

// hardwareKinds are what hardware IDs by an endorsement key are called.
var hardwareKinds = map[tpm.Kind]string{tpm.RSA2048: "ek", tpm.P256: "ek-p256", tpm.P384: "ek-p384"}

func (v *device) openTPM(ctx context.Context) error {
	kind := v.driver.ek
	if kind == "" {
		kind = tpm.RSA2048
	}
	c, err := tpm.OpenKind(ctx, watched{v}, kind)
	if err != nil {
		return err
	}
	v.tpm = c
	e := c.Endorsement()
	if v.driver.shown != nil {
		v.driver.shown(&e)
	}
	v.facts.Endorsement = &e
	v.facts.HardwareIDs = append(slices.Clone(v.facts.HardwareIDs), flasher.HardwareID{Kind: hardwareKinds[kind], Value: c.RegistrationID()})
	if v.options.Key.In == "tpm" {
		v.facts.KeyHeld, err = c.KeyHeld(ctx, v.options.Key.Handle)
	}
	return err
}

// closeTPM ends the conversation, and does what the kernel does when the TPM's file
// is closed: it gives back what an operation that was broken off has left.
func (v *device) closeTPM(ctx context.Context) {
	if v.board.chip == nil {
		return
	}
	if v.tpm != nil {
		v.tpm.Close(ctx) // one that lost its power has nothing to give back
	}
	for handle := range uint32(3) {
		for _, kind := range []uint32{0x80000000, 0x03000000} { // transient keys, policy sessions
			flush := []byte{0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65} // TPM2_FlushContext
			v.board.chip.Send(ctx, binary.BigEndian.AppendUint32(flush, kind+handle))
		}
	}
}

// watched carries commands to the board's TPM and knows the moments among them
// (TPM 2.0 Part 2, 6.5.2).
type watched struct{ *device }

func (w watched) Send(ctx context.Context, command []byte) ([]byte, error) {
	const evictControl, certify = 0x120, 0x148
	before, after := "", ""
	switch binary.BigEndian.Uint32(command[6:]) {
	case evictControl:
		before, after = making, keyed
		if handle := binary.BigEndian.Uint32(command[len(command)-4:]); handle != keyHandle {
			before, after = endorsing, endorsed
		}
	case certify:
		before = certifying
	}
	if err := w.driver.moment(ctx, before, w.board); err != nil {
		return nil, err
	}
	if err := w.same(); err != nil {
		return nil, err
	}
	rsp, err := w.board.tpm.Send(ctx, command)
	if err != nil {
		return nil, err
	}
	if after == keyed {
		w.board.count()
	}
	return rsp, w.driver.moment(ctx, after, w.board)
}

func (v *device) Can() flasher.Powers {
	var can flasher.Powers
	if v.options.Key.In != "" {
		can.Keys = v
	}
	if v.tpm != nil {
		can.TPM = v
	}
	return can
}

func (v *device) Activate(ctx context.Context, c flasher.Challenge) ([]byte, error) {
	if err := v.driver.moment(ctx, activating, v.board); err != nil {
		return nil, err
	}
	answer, err := v.tpm.Activate(ctx, c)
	if err != nil {
		return nil, err
	}
	if v.driver.answer != nil {
		answer = v.driver.answer(answer)
	}
	return answer, v.driver.moment(ctx, activated, v.board)
}

func (v *device) Request(ctx context.Context, commonName string) (r flasher.KeyRequest, err error) {
	if err := v.driver.moment(ctx, asking, v.board); err != nil {
		return r, err
	}
	if v.options.Key.In == "tpm" {
		r, err = v.tpm.Request(ctx, v.options.Key.Handle, commonName)
	} else {
		r.CSR, err = v.requestFile(ctx, commonName)
	}
	if err != nil {
		return r, err
	}
	if v.driver.request != nil {
		v.driver.request(&r)
	}
	return r, v.driver.moment(ctx, requested, v.board)
}

func (v *device) requestFile(ctx context.Context, commonName string) ([]byte, error) {
	if err := v.same(); err != nil {
		return nil, err
	}
	key := v.board.own()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
		if err := v.driver.moment(ctx, making, v.board); err != nil {
			return nil, err
		}
		v.board.keep(key)
		v.board.count()
		if err := v.driver.moment(ctx, keyed, v.board); err != nil {
			return nil, err
		}
	}
	return request(key, commonName)
}

// request is a PKCS#10 request, DER.
func request(key any, commonName string) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
}

// possessions are the items of an identity that a board cannot give back, but prove.
func (v *device) possessions(id flasher.Identity) flasher.Manifest {
	switch {
	case id.Attestation == flasher.TPM:
		return flasher.Manifest{possessed(flasher.ItemEndorsementKey, v.facts.Endorsement.Public, nil)}
	case v.options.Key.In != "":
		der, _ := decodePEM(string(id.Certificate))
		if leaf, err := x509.ParseCertificate(der); err == nil {
			return flasher.Manifest{possessed(flasher.ItemPrivateKey, leaf.RawSubjectPublicKeyInfo, nil)}
		}
	}
	return nil
}

func possessed(name string, public []byte, proof *flasher.Proof) flasher.Item {
	it := flasher.NewItem(name, nil, public, flasher.ByPossession)
	it.Proof = proof
	return it
}

// prove lets the board show that it holds a key; no item: it does not.
func (v *device) prove(ctx context.Context, item string) (flasher.Manifest, error) {
	switch {
	case item == flasher.ItemEndorsementKey:
		err := v.tpm.ProveEndorsement(ctx)
		return found(err, flasher.ItemEndorsementKey, v.facts.Endorsement.Public, nil)
	case v.options.Key.In == "tpm":
		p, err := v.tpm.Prove(ctx, v.options.Key.Handle)
		return found(err, flasher.ItemPrivateKey, p.Public, &p)
	}
	key := v.board.own()
	if key == nil {
		return nil, nil
	}
	p, err := proof(key)
	return found(err, flasher.ItemPrivateKey, p.Public, &p)
}

// found is what a proof finds. A key that is not there is no error: there is
// nothing to find.
func found(err error, item string, public []byte, proof *flasher.Proof) (flasher.Manifest, error) {
	var no *flasher.Refusal
	switch {
	case errors.As(err, &no):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return flasher.Manifest{possessed(item, public, proof)}, nil
}

// proof is a signature over a fresh challenge.
func proof(key *ecdsa.PrivateKey) (p flasher.Proof, err error) {
	p.Challenge = make([]byte, 32)
	rand.Read(p.Challenge)
	digest := sha256.Sum256(p.Challenge)
	if p.Signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
		return p, err
	}
	p.Public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return p, err
}

// keyOf is what the ledger calls the key that the board holds; "": none.
func (b *board) keyOf(t testing.TB, way string) string {
	t.Helper()
	var public []byte
	var err error
	switch {
	case way == ownKey && b.own() == nil, b.made() == 0:
		return ""
	case way == tpmKey:
		needTool(t, "tpm2_readpublic")
		public, err = b.chip.power().PublicKey(t.Context(), keyHandle)
	default:
		public, err = x509.MarshalPKIXPublicKey(&b.own().PublicKey)
	}
	must(t, err)
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}
