package line

import (
	"context"
	"crypto/rand"
	"fmt"
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
	answer, err := p.dev.Can().TPM.Activate(ctx, flasher.Challenge{Object: c.Object, Secret: c.Secret})
	if err != nil {
		return nil, fmt.Errorf("letting the TPM open a challenge: %w", err)
	}
	if err := evidence.CheckActivation(e.Public, e.AK, nonce, answer); err != nil {
		return nil, err
	}
	return &records.TPMEvidence{EK: e.Public, AK: e.AK, Nonce: nonce, Answer: answer, Certificate: vendor.DER, Chain: vendor.Chain,
		Manufacturer: vendor.Manufacturer, Model: vendor.Model, Version: vendor.Version, Finding: finding}, nil
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
	if c := r.Certified; c != nil {
		k.AK, k.Public, k.Attest, k.Signature = p.unit.AK, c.Public, c.Attest, c.Signature
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
			drafts = append(drafts, p.draft(p.id, records.CertificateVoided{Serial: c.Serial, Reason: "its key is no longer on the device"}))
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

// checkProofs holds each proof of possession against the key that it is about.
func checkProofs(found flasher.Manifest) error {
	for _, it := range found {
		if it.Proof == nil {
			continue
		}
		if ca.Digest(it.Proof.Public) != it.SHA256 {
			return fmt.Errorf("checking the proof of %s: it is about another key", it.Name)
		}
		if err := evidence.CheckPossession(it.Proof.Challenge, it.Proof.Public, it.Proof.Signature); err != nil {
			return fmt.Errorf("checking the proof of %s: %w", it.Name, err)
		}
	}
	return nil
}
