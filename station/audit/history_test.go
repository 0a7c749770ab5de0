package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
	"nameplate/ca/ek"
	"nameplate/ca/evidence"
	chips "nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/tpm"
	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
	"nameplate/station/audit"
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

var badge = records.Actor{Kind: "badge", ID: "4711"}

// history is a ledger of released units: gateway attests by its TPM; safe, doubted
// and unasked hold an X.509 key in their TPMs, doubted's is of a vendor whom its
// order does not trust, unasked's order looks at no certificate; plain holds its
// key in a file. What they proved is real: two chips of one vendor, which have two
// endorsement keys each, and a key of the test's own.
type history struct {
	t        *testing.T
	path     string
	ledger   *ledger.Ledger
	ca       *authority.Authority
	root     *x509.Certificate
	issuing  authority.Pair
	vendor   *ek.Roots
	stranger *ek.Roots // a vendor whom no order trusts

	gateway, safe, doubted, unasked, plain steps
	otherKey                               *ecdsa.PrivateKey
}

// steps are the numbers of a unit's events.
type steps struct {
	order, claim, tpm, key, verified int64
}

func newHistory(t *testing.T) *history {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := &history{t: t}
	var err error
	h.otherKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root, err := authority.CreateRoot("factory.example root", time.Now())
	must(t, err)
	h.root = root.Certificate
	h.issuing, err = authority.CreateIssuing(root, "factory.example customer-a", time.Now())
	must(t, err)
	h.ca, err = authority.Open(authority.Config{Root: h.root, Issuers: map[string]authority.Pair{"customer-a": h.issuing}})
	must(t, err)
	h.path = filepath.Join(t.TempDir(), "ledger.db")
	must(t, ledger.Create(ctx, h.path, "line-1"))
	h.ledger, err = ledger.Open(t.Context(), ledger.Config{Path: h.path, Station: "line-1"})
	must(t, err)
	t.Cleanup(func() { h.ledger.Close() })

	vendor, err := chips.NewCA(filepath.Join(t.TempDir(), "vendor"), "Example Chips")
	must(t, err)
	h.vendor = h.roots(vendor)
	stranger, err := chips.NewCA(filepath.Join(t.TempDir(), "stranger"), "Other Chips")
	must(t, err)
	h.stranger = h.roots(stranger)
	one, two := h.chip(ctx, vendor), h.chip(ctx, vendor)

	h.gateway = h.byTPM(ctx, one)
	h.safe = h.keyInTPM(ctx, "WO-2", two, tpm.RSA2048, 0x81000202, ek.Record, h.vendor)
	h.doubted = h.keyInTPM(ctx, "WO-4", one, tpm.P384, 0x81000204, ek.Record, h.stranger)
	h.unasked = h.keyInTPM(ctx, "WO-5", two, tpm.P384, 0x81000205, ek.None, nil)
	h.plain = h.keyInFile()
	return h
}

// roots are the vendor's, as an operator's folder holds them.
func (h *history) roots(vendor *chips.CA) *ek.Roots {
	h.t.Helper()
	text, err := vendor.RootsPEM()
	must(h.t, err)
	dir := h.t.TempDir()
	must(h.t, os.WriteFile(filepath.Join(dir, "vendor.pem"), text, 0o600))
	roots, err := ek.LoadRoots(dir)
	must(h.t, err)
	return roots
}

func (h *history) chip(ctx context.Context, vendor *chips.CA) *chips.TPM {
	h.t.Helper()
	dir := filepath.Join(h.t.TempDir(), "chip")
	must(h.t, chips.Make(ctx, chips.Config{Dir: dir, CA: vendor}))
	chip, err := chips.Start(h.t.Context(), dir)
	must(h.t, err)
	h.t.Cleanup(func() { chip.Close() })
	return chip
}

// passage is a unit on its way through the line.
type passage struct {
	*history
	order, slot string
	id          records.PassageID
	unit        records.UnitID
}

func (p *passage) do(bodies ...records.Body) int64 {
	p.t.Helper()
	var drafts []records.Draft
	for _, b := range bodies {
		drafts = append(drafts, records.Draft{Actor: badge, Unit: p.unit, Order: p.order, Passage: p.id, Body: b})
	}
	events, err := p.ledger.Do(p.t.Context(), func(records.View) ([]records.Draft, error) { return drafts, nil })
	must(p.t, err)
	return events[len(events)-1].Seq
}

// open opens the order and puts a board into a slot.
func (h *history) open(s *steps, id string, terms records.Terms, hw ...records.HardwareID) *passage {
	h.t.Helper()
	terms.Family, terms.RegistrationURL, terms.IDScope = "linux", "register.example", "0ne0000000A"
	if terms.Attestation == records.X509 {
		terms.Issuer = ca.Digest(h.issuing.Certificate.Raw)
	}
	p := &passage{history: h, order: id, slot: "slot-" + id}
	product, customer := []byte("name: product\n"), []byte("name: customer-a\n")
	s.order = p.do(records.OrderOpened{ID: id, Customer: "customer-a", Product: "product-" + id, Quota: 1, SerialFormat: id + "-%d", SerialFirst: 1,
		ValidUntil: time.Now().AddDate(1, 0, 0), ProductFile: product, ProductSHA256: ca.Digest(product), CustomerFile: customer, CustomerSHA256: ca.Digest(customer), Terms: terms})
	p.id = records.NewPassage
	p.id = records.PassageID(p.do(records.PassageOpened{Slot: p.slot}))
	p.unit = records.NewUnit
	p.unit = records.UnitID(p.do(records.UnitIdentified{Family: "linux", Chip: "gateway",
		Hardware: append(hw, records.HardwareID{Kind: "mac", Value: "00:00:5e:00:53:0" + id[len(id)-1:]})}))
	return p
}

// proveTPM is what the line does with a TPM.
func (p *passage) proveTPM(ctx context.Context, c *tpm.Conversation, policy ek.Policy, roots *ek.Roots) int64 {
	p.t.Helper()
	e := c.Endorsement()
	judged := time.Now().UTC().Truncate(time.Microsecond)
	said, finding, err := ek.Admit(policy, e.Certificate, roots, e.Public, judged)
	must(p.t, err)
	nonce := make([]byte, evidence.NonceSize)
	rand.Read(nonce)
	challenge, _, err := evidence.NewChallenge(e.Public, e.AK, nonce)
	must(p.t, err)
	answer, err := c.Activate(ctx, flasher.Challenge(challenge))
	must(p.t, err)
	return p.do(records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: e.Public, AK: e.AK, Nonce: nonce, Answer: answer, Judged: judged, Certificate: said.DER, Chain: said.Chain,
		Manufacturer: said.Manufacturer, Model: said.Model, Version: said.Version, Finding: finding}})
}

func (p *passage) claim() (seq int64, claimed records.IdentityClaimed) {
	p.t.Helper()
	u, err := p.ledger.Unit(p.t.Context(), p.unit)
	must(p.t, err)
	events, err := p.ledger.Do(p.t.Context(), func(v records.View) ([]records.Draft, error) {
		var err error
		claimed, _, err = records.Claim(v, u, p.order)
		return []records.Draft{{Actor: badge, Unit: p.unit, Order: p.order, Passage: p.id, Body: claimed}}, err
	})
	must(p.t, err)
	return events[0].Seq, claimed
}

// issue takes the key and lets the customer's CA certify it.
func (p *passage) issue(id string, k records.KeyEvidence) (seq int64) {
	p.t.Helper()
	from := time.Now().UTC().Add(-ca.Backdate).Truncate(time.Second)
	c, err := p.ca.Issue(p.t.Context(), ca.Request{Customer: "customer-a", CommonName: id, Organization: "factory.example", CSR: k.CSR, NotBefore: from, NotAfter: from.AddDate(1, 0, 0)})
	must(p.t, err)
	k.SPKI = c.SPKI
	seq = p.do(records.EvidenceAccepted{Key: &k})
	p.do(records.CertificateIssued{RegistrationID: id, Issuer: ca.Digest(c.Chain[0]), Serial: c.Serial, SPKI: c.SPKI, Key: k.In, DER: c.DER})
	return seq
}

// finish writes, verifies and releases.
func (p *passage) finish(id string, found records.Item) int64 {
	p.t.Helper()
	want := found
	want.Proof = nil
	file := records.Item{Name: "/etc/identity", SHA256: ca.Digest([]byte("file")), How: "bytes"}
	p.do(records.WriteBegun{Manifest: []records.Item{file, want}})
	seq := p.do(records.UnitVerified{Found: []records.Item{file, found}})
	p.do(records.UnitPassed{}, records.UnitReleased{RegistrationID: id}, records.PassageClosed{Slot: p.slot, Verdict: records.Pass})
	return seq
}

func (h *history) byTPM(ctx context.Context, chip *chips.TPM) (s steps) {
	h.t.Helper()
	c, err := tpm.Open(ctx, chip)
	must(h.t, err)
	defer c.Close(ctx)
	p := h.open(&s, "WO-1", records.Terms{Attestation: records.TPM, RegistrationID: "{ek}", EKPolicy: "require", EKRoots: h.vendor.Fingerprints()},
		records.HardwareID{Kind: "ek", Value: c.RegistrationID()})
	s.tpm = p.proveTPM(ctx, c, ek.Require, h.vendor)
	seq, claimed := p.claim()
	s.claim = seq
	s.verified = p.finish(claimed.RegistrationID, records.Item{Name: "endorsement_key", SHA256: ca.Digest(c.Endorsement().Public), How: "possession"})
	return s
}

func (h *history) keyInTPM(ctx context.Context, order string, chip *chips.TPM, kind tpm.Kind, handle uint32, policy ek.Policy, roots *ek.Roots) (s steps) {
	h.t.Helper()
	c, err := tpm.OpenKind(ctx, chip, kind)
	must(h.t, err)
	defer c.Close(ctx)
	p := h.open(&s, order, records.Terms{Attestation: records.X509, Key: records.KeyInTPM, RegistrationID: "{serial}", EKPolicy: string(policy), EKRoots: roots.Fingerprints()},
		records.HardwareID{Kind: map[tpm.Kind]string{tpm.RSA2048: "ek", tpm.P384: "ek-p384"}[kind], Value: c.RegistrationID()})
	s.tpm = p.proveTPM(ctx, c, policy, roots)
	seq, claimed := p.claim()
	s.claim = seq
	r, err := c.Request(ctx, handle, claimed.RegistrationID)
	must(h.t, err)
	s.key = p.issue(claimed.RegistrationID, records.KeyEvidence{In: records.KeyInTPM, CSR: r.CSR, AK: c.Endorsement().AK,
		Public: r.Certified.Public, Attest: r.Certified.Attest, Signature: r.Certified.Signature})
	proof, err := c.Prove(ctx, handle)
	must(h.t, err)
	s.verified = p.finish(claimed.RegistrationID, records.Item{Name: "private_key", SHA256: ca.Digest(proof.Public), How: "possession", Proof: (*records.Proof)(&proof)})
	return s
}

func (h *history) keyInFile() (s steps) {
	h.t.Helper()
	p := h.open(&s, "WO-3", records.Terms{Attestation: records.X509, Key: records.KeyInFile, RegistrationID: "{serial}"})
	seq, claimed := p.claim()
	s.claim = seq
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(h.t, err)
	s.key = p.issue(claimed.RegistrationID, records.KeyEvidence{In: records.KeyInFile, CSR: h.request(private, claimed.RegistrationID)})
	proof := h.proof(private)
	s.verified = p.finish(claimed.RegistrationID, records.Item{Name: "private_key", SHA256: ca.Digest(proof.Public), How: "possession", Proof: proof})
	return s
}

func (h *history) request(private *ecdsa.PrivateKey, name string) []byte {
	h.t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, private)
	must(h.t, err)
	return csr
}

func (h *history) proof(private *ecdsa.PrivateKey) *records.Proof {
	h.t.Helper()
	challenge := bytes.Repeat([]byte{9}, evidence.PossessionSize)
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	must(h.t, err)
	sum := sha256.Sum256(challenge)
	signature, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
	must(h.t, err)
	return &records.Proof{Challenge: challenge, Public: public, Signature: signature}
}

// forged is the ledger as somebody rewrote it who keeps to the form.
type forged struct {
	*ledger.Ledger
	change func(ledger.Leaf) ledger.Leaf
}

func (f forged) Leaves(ctx context.Context, from int64) iter.Seq2[ledger.Leaf, error] {
	return func(yield func(ledger.Leaf, error) bool) {
		for leaf, err := range f.Ledger.Leaves(ctx, from) {
			if !yield(f.change(leaf), err) {
				return
			}
		}
	}
}

func (f forged) UnitLeaves(ctx context.Context) iter.Seq2[ledger.UnitLeaf, error] {
	return func(yield func(ledger.UnitLeaf, error) bool) {
		for leaf, err := range f.Ledger.UnitLeaves(ctx) {
			leaf.Leaf = f.change(leaf.Leaf)
			if !yield(leaf, err) {
				return
			}
		}
	}
}

// replay goes through the history with one event changed.
func (h *history) replay(seq int64, change func(*records.Event)) replay.Report {
	h.t.Helper()
	src := forged{h.ledger, func(leaf ledger.Leaf) ledger.Leaf {
		if leaf.Seq == seq {
			var e records.Event
			must(h.t, json.Unmarshal(leaf.Bytes, &e))
			change(&e)
			var err error
			leaf.Bytes, err = json.Marshal(e)
			must(h.t, err)
		}
		return leaf
	}}
	r, err := replay.Run(h.t.Context(), src, replay.Options{Checks: audit.Checks(h.root, []*x509.Certificate{h.issuing.Certificate})})
	must(h.t, err)
	return r
}
