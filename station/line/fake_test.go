package line_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"nameplate/ca"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/tpm"
	"nameplate/station/line"
)

// board is a device whose whole world is a map.
type board struct {
	name string
	ids  []flasher.HardwareID
	chip *module       // its TPM; nil: it has none
	tpm  tpm.Transport // the way to it; a liar may stand in between

	mu     sync.Mutex
	items  map[string][]byte // what its storage holds; nil is erased
	secret map[string]bool   // every secret of which it was sent a byte
	writes int
	key    *ecdsa.PrivateKey // that it made itself and keeps in a file
	keys   int               // how many it has made and kept, in a file or in its TPM
}

func newBoard(name string, ids ...flasher.HardwareID) *board {
	if ids == nil {
		ids = []flasher.HardwareID{mac(name)}
	}
	return &board{name: name, ids: ids, secret: map[string]bool{}}
}

func mac(v string) flasher.HardwareID { return flasher.HardwareID{Kind: "mac", Value: v} }
func uid(v string) flasher.HardwareID { return flasher.HardwareID{Kind: "chip-uid", Value: v} }

func (b *board) holds(item string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.items[item])
}

func (b *board) written() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writes
}

func (b *board) secrets() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.secret))
}

// place is a port with room for one board.
type place struct {
	mu    sync.Mutex
	board *board
}

func at(b *board) *place { return &place{board: b} }

// put exchanges the board; nil takes it out. What is taken out has no power.
func (p *place) put(b *board) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.board != nil && p.board != b {
		p.board.cut()
	}
	p.board = b
}

func (p *place) in() *board {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.board
}

// behind is the place itself for a port that wraps one.
func (p *place) behind() *place { return p }

func (p *place) Path() string                 { return "fake" }
func (p *place) Present(context.Context) bool { return p.in() != nil }
func (p *place) Open(context.Context, link.Mode) (link.Link, error) {
	return nil, fmt.Errorf("opening a fake port: %w", link.ErrGone)
}

// The moments at which a fake driver asks what shall happen.
const (
	probing = "probe"
	planned = "plan"
	writing = "write" // nothing was sent yet
	halfway = "half"  // some items are stored, others are not
	written = "written"
	reading = "read"
	closing = "close"

	// Of boards with a TPM or a key of their own; see chip_test.go.
	endorsing  = "endorse"   // an endorsement key was made in the TPM, and is not kept there yet
	endorsed   = "endorsed"  // it is
	activating = "activate"  // the TPM has not seen the challenge yet
	activated  = "activated" // it has answered
	asking     = "ask"       // for a key and a request
	making     = "make"      // a key was made that would not survive a power cut
	keyed      = "keyed"     // and now would
	certifying = "certify"   // the TPM is about to certify the key
	requested  = "requested" // the request is made
)

// fakeDriver finds fake boards. on, which may be nil, is asked at each moment; its
// error ends the operation.
type fakeDriver struct {
	on func(ctx context.Context, moment string, b *board) error
	// found alters what ReadBack says; shown what a TPM says of itself, answer
	// what it found in a challenge, request what a board asks for its key.
	found   func(flasher.Manifest) flasher.Manifest
	shown   func(*flasher.Endorsement)
	answer  func([]byte) []byte
	request func(*flasher.KeyRequest)
	// ek is which endorsement key the driver works with, if not the usual one.
	ek tpm.Kind

	mu     sync.Mutex
	handed []flasher.Secret // every secret that was handed over, not copied
}

func (d *fakeDriver) moment(ctx context.Context, m string, b *board) error {
	if d.on == nil || m == "" {
		return nil
	}
	return d.on(ctx, m, b)
}

// at makes something happen once, at the first such moment.
func (d *fakeDriver) at(m string, do func(ctx context.Context, b *board) error) {
	var once sync.Once
	d.on = func(ctx context.Context, moment string, b *board) (err error) {
		if moment == m {
			once.Do(func() { err = do(ctx, b) })
		}
		return err
	}
}

func (d *fakeDriver) take(secrets ...flasher.Secret) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handed = append(d.handed, secrets...)
}

func (d *fakeDriver) Family() string { return "fake" }

func (d *fakeDriver) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	at := p.(interface{ behind() *place }).behind()
	b := at.in()
	if b == nil {
		return nil, fmt.Errorf("opening a fake port: %w", link.ErrGone)
	}
	if err := d.moment(ctx, probing, b); err != nil {
		return nil, err
	}
	v := &device{driver: d, place: at, board: b, options: o}
	if err := v.identify(ctx); err != nil {
		v.closeTPM(ctx)
		return nil, err
	}
	return v, nil
}

type device struct {
	driver  *fakeDriver
	place   *place
	board   *board
	options flasher.Options
	facts   flasher.Facts
	tpm     *tpm.Conversation
}

func (v *device) identify(ctx context.Context) error {
	b := v.board
	b.mu.Lock()
	v.facts = flasher.Facts{Family: v.driver.Family(), Chip: v.options.Chip, HardwareIDs: b.ids, StoreBlank: b.items == nil,
		KeyHeld: v.options.Key.In == "file" && b.key != nil}
	b.mu.Unlock()
	if !v.options.TPM {
		return nil
	}
	return v.openTPM(ctx)
}

func (v *device) Facts() flasher.Facts { return v.facts }

func (v *device) Plan(id flasher.Identity) (flasher.Plan, error) {
	items := map[string][]byte{flasher.ItemRegistrationURL: []byte(id.RegistrationURL), flasher.ItemIDScope: []byte(id.IDScope),
		flasher.ItemRegistrationID: []byte(id.RegistrationID)}
	switch {
	case id.Attestation == flasher.SymmetricKey:
		items[flasher.ItemSymmetricKey] = id.SymmetricKey
	case id.Attestation == flasher.X509 && v.options.Key.In == "":
		items[flasher.ItemCertificate], items[flasher.ItemPrivateKey] = id.Certificate, id.PrivateKey
	case id.Attestation == flasher.X509:
		items[flasher.ItemCertificate] = id.Certificate
	}
	var p flasher.Plan
	for _, name := range slices.Sorted(maps.Keys(items)) {
		var salt []byte
		if isSecret(name) {
			salt = id.Salt
		}
		p.Manifest = append(p.Manifest, flasher.NewItem(name, salt, items[name], flasher.ByBytes))
	}
	p.Manifest = append(p.Manifest, v.possessions(id)...)
	data, err := json.Marshal(items)
	p.Segments = []flasher.Segment{{Target: "fake", Data: data}}
	v.driver.take(id.SymmetricKey, id.PrivateKey, data)
	if err == nil {
		err = v.driver.moment(context.Background(), planned, v.board)
	}
	return p, err
}

func isSecret(item string) bool {
	return item == flasher.ItemSymmetricKey || item == flasher.ItemPrivateKey
}

// same is what every driver does first.
func (v *device) same() error {
	switch b := v.place.in(); {
	case b == nil:
		return fmt.Errorf("asking the board: %w", link.ErrGone)
	case b != v.board:
		return &flasher.Refusal{Code: "board-swapped", Sentence: "Another board is in the slot now.", Next: "Start again with this one.", Err: flasher.ErrSwapped}
	}
	return nil
}

func (v *device) Write(ctx context.Context, p flasher.Plan, on func(flasher.Progress)) error {
	if err := v.driver.moment(ctx, writing, v.board); err != nil {
		return err
	}
	if err := v.same(); err != nil {
		return err
	}
	var items map[string][]byte
	if err := json.Unmarshal(p.Segments[0].Data, &items); err != nil {
		return err
	}
	v.board.mu.Lock()
	v.board.writes++
	v.board.items = map[string][]byte{} // erased, and then not blank any more
	half := len(items) / 2
	for i, name := range slices.Sorted(maps.Keys(items)) {
		if i == half {
			v.board.mu.Unlock()
			on(flasher.Progress{Step: "write", Done: int64(i), Total: int64(len(items))})
			if err := v.driver.moment(ctx, halfway, v.board); err != nil {
				return err
			}
			v.board.mu.Lock()
		}
		v.board.items[name] = bytes.Clone(items[name])
		if isSecret(name) {
			v.board.secret[string(items[name])] = true
		}
	}
	v.board.mu.Unlock()
	on(flasher.Progress{Step: "write", Done: int64(len(items)), Total: int64(len(items))})
	return v.driver.moment(ctx, written, v.board)
}

func (v *device) ReadBack(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	if err := v.driver.moment(ctx, reading, v.board); err != nil {
		return nil, err
	}
	if err := v.same(); err != nil {
		return nil, err
	}
	found := flasher.Manifest{}
	for _, it := range items {
		if it.How == flasher.ByPossession {
			is, err := v.prove(ctx, it.Name)
			if err != nil {
				return nil, err
			}
			found = append(found, is...)
			continue
		}
		v.board.mu.Lock()
		b, ok := v.board.items[it.Name]
		v.board.mu.Unlock()
		if ok {
			found = append(found, flasher.NewItem(it.Name, unhex(it.Salt), b, it.How))
		}
	}
	if v.driver.found != nil {
		found = v.driver.found(found)
	}
	return found, nil
}

func (v *device) Close(ctx context.Context) error {
	v.closeTPM(ctx)
	return v.driver.moment(ctx, closing, v.board)
}

func unhex(s string) []byte {
	var b []byte
	fmt.Sscanf(s, "%x", &b)
	return b
}

// countingIssuer counts certificates and lets a test look before each.
type countingIssuer struct {
	line.Issuer
	before func()

	mu sync.Mutex
	n  int
}

func (i *countingIssuer) Issue(ctx context.Context, r ca.Request) (ca.Issued, error) {
	if i.before != nil {
		i.before()
	}
	i.mu.Lock()
	i.n++
	i.mu.Unlock()
	return i.Issuer.Issue(ctx, r)
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func decodePEM(text string) (der, rest []byte) {
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return nil, nil
	}
	return block.Bytes, rest
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
