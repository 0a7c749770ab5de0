package line

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"nameplate/ca"
	"nameplate/ca/seal"
	"nameplate/flasher"
	"nameplate/records"
)

// The steps stand in the order in which a unit meets them. Beside each write
// stands what the station does if it dies there; it is always the same code,
// run again.

// keyBytes is the length of an individual symmetric key: that of the keys the
// provisioning service makes itself (16 to 64 are allowed).
const keyBytes = 64

// identify asks the board who it is and holds its hardware IDs against history.
func (p *passage) identify(ctx context.Context) (Result, error) {
	dev, err := p.job.Driver.Probe(ctx, p.Port, p.job.Options)
	if err != nil {
		return Continue, err
	}
	p.dev = dev
	facts := dev.Facts()
	hw := hardwareToRecords(facts.HardwareIDs)
	// Before the unit is known: an endorsement key names a unit for ever, and a
	// board that only claims to hold it must not take that name.
	proven, err := p.proveTPM(ctx, facts.Endorsement)
	if err != nil {
		return Continue, err
	}
	_, err = p.record(ctx, func(v records.View) ([]records.Draft, error) {
		u, err := records.Admit(v, hw, records.Found{Blank: facts.StoreBlank, Key: facts.KeyHeld})
		p.unit = u // a refused board that is known is refused under its name
		if err != nil {
			return nil, err
		}
		d := p.draft(p.id, records.UnitIdentified{Family: facts.Family, Chip: facts.Chip, Hardware: hw, Security: facts.Security.Raw})
		if u.ID == 0 {
			d.Unit = records.NewUnit
		}
		return []records.Draft{d}, nil
		// If we stop here: the same hardware IDs give the same unit.
	})
	if err != nil || proven == nil || p.unit.State != records.Seen && p.unit.Order != p.order {
		return Continue, err // the claim turns away what another order has claimed
	}
	return Continue, p.fact(ctx, records.EvidenceAccepted{TPM: proven})
	// If we stop here: the TPM is asked again when the unit comes back.
}

// claim gives the unit its registration ID, its serial and one of the quota.
func (p *passage) claim(ctx context.Context) (Result, error) {
	result := Skip
	_, err := p.record(ctx, func(v records.View) ([]records.Draft, error) {
		c, fresh, err := records.Claim(v, p.unit, p.order)
		if err != nil || !fresh {
			return nil, err
		}
		result = Continue
		return []records.Draft{p.draft(p.id, c)}, nil
		// If we stop here: the claim waits for this unit.
	})
	return result, err
}

// resume decides what a unit that came back can go on with. A write may have
// reached the board: then the board is read first, and only what is found there
// counts. A secret that may sit on one board is never written to another, so
// whatever did not arrive whole is made anew under the same registration ID.
func (p *passage) resume(ctx context.Context) (Result, error) {
	u := p.unit
	if u.Manifest != nil && u.Ready() {
		want := manifestToFlasher(u.Manifest)
		found, err := p.dev.ReadBack(ctx, want)
		if err != nil {
			return Continue, fmt.Errorf("reading the board: %w", err)
		}
		if len(want.Missing(found)) == 0 && checkProofs(u, found) == nil {
			p.found = found
			return Continue, nil
		}
	}
	switch {
	case u.Cert != nil && u.Key == records.KeyInjected:
		// The injected key is gone with the process that made it.
		// If we stop after this: no certificate is live, and a new one is issued.
		return Continue, p.fact(ctx, records.CertificateVoided{Serial: u.Cert.Serial, Reason: "its key was injected and never verified on the device"})
	case u.Secret != nil && u.Manifest != nil:
		// If we stop after this: no secret is live, and a new one is sealed.
		return Continue, p.fact(ctx, records.SecretDestroyed{Ref: u.Secret.Ref, Reason: "it may be in part on the device"})
	}
	// A key of the device's own, in a file or in its TPM, stays with it whatever a
	// write did: the same identity is written again.
	return Skip, nil
}

// makeKey makes the unit's secret, or reveals the sealed one that waits; or lets
// the device make its key, or show the one that it made.
func (p *passage) makeKey(ctx context.Context) (Result, error) {
	if p.found != nil || p.unit.Attestation == records.TPM {
		return Skip, nil
	}
	if p.unit.Attestation == records.X509 && p.unit.Key != records.KeyInjected {
		return Continue, p.askKey(ctx)
	}
	if p.unit.Attestation == records.X509 {
		csr, key, err := ca.InjectedKey(p.unit.RegistrationID)
		if err != nil {
			return Continue, fmt.Errorf("making the device key: %w", err)
		}
		p.csr, p.key = csr, key
		return Continue, nil
		// If we stop here: the key is gone, and nobody ever knew it.
	}
	if s := p.unit.Secret; s != nil {
		key, err := p.Secrets.Reveal(ctx, s.Ref)
		if err != nil {
			return Continue, err
		}
		p.key = key
		if !s.Holds(key) {
			return Continue, &records.Refusal{Code: "secret-exchanged", Sentence: "The sealed key of this unit is not the one that was sealed for it.",
				Next: "Stop the station: somebody exchanged its secrets. Call the process engineer."}
		}
		return Continue, nil
	}
	key := make([]byte, keyBytes)
	rand.Read(key)
	p.key = key
	ref := seal.NewRef()
	sealed, err := p.Secrets.Seal(ref, key)
	if err != nil {
		return Continue, err
	}
	salt := newSalt()
	_, err = p.record(ctx, func(records.View) ([]records.Draft, error) {
		d := p.draft(p.id, records.SecretSealed{Ref: ref, What: "symmetric key", Salt: salt, SHA256: saltedHash(salt, key)})
		d.Sealed = sealed
		return []records.Draft{d}, nil
		// If we stop here: the sealed key waits for this unit.
	})
	return Continue, err
}

// issue gets the leaf for the key; one that exists already is the device's, for
// a key that it has just shown.
func (p *passage) issue(ctx context.Context) (Result, error) {
	if p.found != nil || p.unit.Attestation != records.X509 {
		return Skip, nil
	}
	if c := p.unit.Cert; c != nil {
		chain, err := p.Issuer.Chain(p.unit.Customer)
		if err != nil {
			return Continue, err
		}
		return Skip, p.takeChain(c.DER, chain)
	}
	var now time.Time
	if _, err := p.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		now = v.Now()
		return nil, records.CheckClock(v)
	}); err != nil {
		return Continue, err
	}
	from := now.Add(-ca.Backdate).Truncate(time.Second)
	issued, err := p.Issuer.Issue(ctx, ca.Request{Customer: p.unit.Customer, CommonName: p.unit.RegistrationID,
		Organization: p.job.Organization, CSR: p.csr, NotBefore: from, NotAfter: from.AddDate(0, 0, p.job.ValidDays)})
	if err != nil {
		return Continue, err
	}
	if err := p.takeChain(issued.DER, issued.Chain); err != nil {
		return Continue, err
	}
	return Continue, p.fact(ctx, records.CertificateIssued{RegistrationID: p.unit.RegistrationID,
		Issuer: ca.Digest(issued.Chain[0]), Serial: issued.Serial, SPKI: issued.SPKI, Key: p.unit.Key, DER: issued.DER})
	// If we stop here: a certificate for an injected key is voided and its quota
	// unit is used again by the same unit; one for the device's own key is written
	// when the device comes back.
}

// takeChain makes the chain for the device of a leaf and what stands above it. It
// ends at the issuing CA: the service knows the root.
func (p *passage) takeChain(leaf []byte, above [][]byte) error {
	if got := ca.Digest(above[0]); got != p.job.Issuer {
		return &records.Refusal{Code: "issuer-changed", Sentence: fmt.Sprintf("The issuing CA of %s is not the one that order %s was opened with.", p.unit.Customer, p.order),
			Next: "Start the station again; if that does not help, close the order and open a new one."}
	}
	p.chain = append(encodeCertificate(leaf), encodeCertificate(above[0])...)
	return nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// write puts the identity on the device.
func (p *passage) write(ctx context.Context) (Result, error) {
	if p.found != nil {
		return Skip, nil
	}
	id := flasher.Identity{RegistrationURL: p.unit.RegistrationURL, IDScope: p.unit.IDScope,
		RegistrationID: p.unit.RegistrationID, Attestation: flasher.Attestation(p.unit.Attestation), Salt: newSalt()}
	switch id.Attestation {
	case flasher.X509:
		id.Certificate, id.PrivateKey = p.chain, p.key // no key if it is the device's own
	case flasher.SymmetricKey:
		id.SymmetricKey = p.key
	}
	plan, err := p.dev.Plan(id)
	defer func() {
		for _, s := range plan.Segments {
			s.Data.Wipe()
		}
	}()
	if err != nil {
		return Continue, err
	}
	if err := p.fact(ctx, records.WriteBegun{Manifest: manifestToRecords(plan.Manifest)}); err != nil {
		return Continue, err
	}
	// If we stop here, or anywhere in the write: resume reads the board first.
	if err := p.dev.Write(ctx, plan, p.progress); err != nil {
		return Continue, fmt.Errorf("writing the identity: %w", err)
	}
	return Continue, nil
}

// progress shows the bytes on their way. Erasing comes before them and the chip's
// own check after them; shown alike, both would run the bar full and back.
func (p *passage) progress(pr flasher.Progress) {
	if pr.Step == "write" {
		p.show(func(s *Status) { s.Done, s.Total = pr.Done, pr.Total })
	}
}

// verify finds the identity on the device, independently of the write.
func (p *passage) verify(ctx context.Context) (Result, error) {
	want := manifestToFlasher(p.unit.Manifest)
	if p.found == nil {
		found, err := p.dev.ReadBack(ctx, want)
		if err != nil {
			return Continue, fmt.Errorf("reading the identity back: %w", err)
		}
		if missing := want.Missing(found); len(missing) > 0 {
			return Continue, &records.Refusal{Code: "verify-mismatch",
				Sentence: fmt.Sprintf("The board does not hold what was written: %s differ.", strings.Join(missing, ", ")),
				Next:     "Put it back once; if it happens again, set the board aside."}
		}
		if err := checkProofs(p.unit, found); err != nil {
			return Continue, err
		}
		p.found = found
	}
	p.key.Wipe() // P5: an injected key lives no longer than this
	return Continue, p.fact(ctx, records.UnitVerified{Found: manifestToRecords(p.found)})
	// If we stop here: the board is read and verified again.
}

// release lets the unit leave: passed, released, its enrollment due and the
// passage closed, all or nothing.
func (p *passage) release(ctx context.Context) (Result, error) {
	_, err := p.record(ctx, func(records.View) ([]records.Draft, error) {
		return []records.Draft{
			p.draft(p.id, records.UnitPassed{}),
			p.draft(p.id, records.UnitReleased{RegistrationID: p.unit.RegistrationID}),
			p.draft(p.id, records.PassageClosed{Slot: p.Slot, Verdict: records.Pass}),
		}, nil
		// If we stop here: the pusher finds the enrollment due at start-up.
	})
	if err == nil && p.Released != nil {
		p.Released(p.unit.Customer)
	}
	return Continue, err
}

func newSalt() []byte {
	salt := make([]byte, 16)
	rand.Read(salt)
	return salt
}

// saltedHash names a secret without telling anything of it.
func saltedHash(salt, secret []byte) string {
	h := sha256.New()
	h.Write(salt)
	h.Write(secret)
	return hex.EncodeToString(h.Sum(nil))
}
