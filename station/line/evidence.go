package line

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/ca/evidence"
	"nameplate/flasher"
	"nameplate/records"
)

// What a board proves of its own keys. The checks are those of ca, which need the
// bytes alone; replay makes them again from what is recorded here.

// proveTPM makes sure that the TPM which a board speaks of is the one in it, and
// holds the endorsement key's certificate against the order's policy. Nothing is
// recorded yet; without a TPM there is nothing to prove.
func (p *passage) proveTPM(ctx context.Context, e *flasher.Endorsement) (*records.TPMEvidence, error) {
	if e == nil {
		return nil, nil
	}
	attester := p.dev.Can().TPM
	if attester == nil {
		return nil, fmt.Errorf("letting the TPM prove itself: a device of family %s shows an endorsement key and cannot be asked about it", p.dev.Facts().Family)
	}
	if p.job.Attestation == records.TPM {
		if err := ek.ServiceCapable(e.Public); err != nil {
			return nil, err
		}
	}
	now, err := p.now(ctx)
	if err != nil {
		return nil, err
	}
	vendor, finding, err := ek.Admit(p.job.EK.Policy, e.Certificate, p.job.EK.Roots, e.Public, now)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, evidence.NonceSize)
	rand.Read(nonce)
	c, _, err := evidence.NewChallenge(e.Public, e.AK, nonce)
	if err != nil {
		return nil, err
	}
	answer, err := attester.Activate(ctx, flasher.Challenge{Object: c.Object, Secret: c.Secret})
	if err != nil {
		return nil, fmt.Errorf("letting the TPM open a challenge: %w", err)
	}
	if err := evidence.CheckActivation(e.Public, e.AK, nonce, answer); err != nil {
		return nil, err
	}
	return &records.TPMEvidence{EK: e.Public, AK: e.AK, Nonce: nonce, Answer: answer, Judged: now, Certificate: vendor.DER, Chain: vendor.Chain,
		Manufacturer: vendor.Manufacturer, Model: vendor.Model, Version: vendor.Version, Finding: clip(finding)}, nil
}

// now is the ledger's clock.
func (p *passage) now(ctx context.Context) (now time.Time, err error) {
	_, err = p.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		now = v.Now()
		return nil, nil
	})
	return now, err
}

// askKey lets the device make its key, or show the one that it holds.
// If we stop after the device has made it: it is found there and used.
func (p *passage) askKey(ctx context.Context) error {
	holder := p.dev.Can().Keys
	if holder == nil {
		return fmt.Errorf("asking for a key: a device of family %s makes none", p.unit.Family)
	}
	r, err := holder.Request(ctx, p.unit.RegistrationID)
	if err != nil {
		return fmt.Errorf("letting the device make its key: %w", err)
	}
	k := records.KeyEvidence{In: p.unit.Key, CSR: r.CSR}
	if k.In == records.KeyInTPM {
		k.AK = p.unit.AK
		if c := r.Certified; c != nil {
			k.Public, k.Attest, k.Signature = c.Public, c.Attest, c.Signature
		}
	}
	if k.SPKI, err = evidence.CheckRequest(KeyRequest(k, p.unit.RegistrationID)); err != nil {
		return err
	}
	p.csr = r.CSR
	_, err = p.record(ctx, func(v records.View) ([]records.Draft, error) {
		if err := records.CheckKey(v, p.unit, k.SPKI); err != nil {
			return nil, err
		}
		var drafts []records.Draft
		if c := p.unit.Cert; c != nil {
			if c.SPKI == k.SPKI {
				return nil, nil
			}
			reason := "its key is no longer on the device"
			if p.unit.Manifest != nil {
				reason += ", to which the certificate may have been written: both may live on in a copy"
			}
			drafts = append(drafts, p.draft(p.id, records.CertificateVoided{Serial: c.Serial, Reason: reason}))
		}
		return append(drafts, p.draft(p.id, records.EvidenceAccepted{Key: &k})), nil
		// If we stop here: the key waits on the device for its certificate.
	})
	return err
}

// KeyRequest is recorded evidence of a key, in the form in which ca checks it.
func KeyRequest(k records.KeyEvidence, registrationID string) evidence.Request {
	return evidence.Request{CSR: k.CSR, CommonName: registrationID, InTPM: k.In == records.KeyInTPM,
		AK: k.AK, Public: k.Public, Attest: k.Attest, Signature: k.Signature}
}

// checkProofs holds what the board proved against the keys of the unit's identity.
// A key that stays on the board is never read back: nothing but a proof says that
// it is there.
func checkProofs(u records.Unit, found flasher.Manifest) error {
	var name, want string
	switch {
	case u.Attestation == records.TPM:
		name, want = flasher.ItemEndorsementKey, ca.Digest(u.EK)
	case u.Attestation == records.X509 && u.Key != records.KeyInjected:
		name, want = flasher.ItemPrivateKey, u.Cert.SPKI
	default:
		return nil
	}
	i := slices.IndexFunc(found, func(it flasher.Item) bool {
		return it.Name == name && it.How == flasher.ByPossession && it.SHA256 == want
	})
	switch {
	case i < 0:
		return fmt.Errorf("checking what the board proved: it is not possession of its %s", name)
	case name == flasher.ItemEndorsementKey:
		return nil // the family has let the TPM open a challenge of its own
	}
	var p flasher.Proof
	if found[i].Proof != nil {
		p = *found[i].Proof
	}
	if err := evidence.CheckPossession(p.Challenge, p.Public, p.Signature); err != nil {
		return fmt.Errorf("checking the proof of %s: %w", name, err)
	}
	if ca.Digest(p.Public) != want {
		return fmt.Errorf("checking the proof of %s: it is about another key", name)
	}
	return nil
}
