package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/ca/evidence"
	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/line"
)

// What devices proved of their keys is checked again here from the bytes that were
// kept, by the functions that the line itself asked.

// findings collects one sentence per failed check.
type findings []string

func (f *findings) check(ok bool, sentence string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Sprintf(sentence, args...))
	}
}

// wrap says of what an error is about, and of a refusal the cause and not what to
// do next: for that it is late.
func (f *findings) wrap(about string, err error) {
	if err == nil {
		return
	}
	if r := (*ca.Refusal)(nil); errors.As(err, &r) && r.Err != nil {
		err = r.Err
	}
	*f = append(*f, about+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
}

func (f findings) join() error {
	if len(f) == 0 {
		return nil
	}
	return errors.New(strings.Join(f, "; "))
}

// tpm holds what a TPM proved against itself, the unit it is in, and what the
// order asks of TPMs.
func tpm(u records.Unit, o records.Order, t records.TPMEvidence) error {
	var f findings
	f.wrap("the TPM's proof", evidence.CheckActivation(t.EK, t.AK, t.Nonce, t.Answer))
	// That no two units have one endorsement key is held by their hardware IDs.
	id := records.HardwareID{Kind: kindOf(t.EK), Value: ek.RegistrationID(t.EK)}
	f.check(slices.Contains(u.Hardware, id), "the unit was not identified by this endorsement key, %s", records.HardwareName(id))
	if o.Terms.Attestation == records.TPM {
		f.wrap("the endorsement key", ek.ServiceCapable(t.EK))
	}
	f.endorsed(o, t)
	return f.join()
}

// kindOf is the kind of the hardware ID that a board has by an endorsement key: a
// TPM has a key of each kind. Of bytes that are no key others say so.
func kindOf(public []byte) string {
	o, err := ek.Decode(public)
	if err != nil {
		return "ek"
	}
	key, ok := o.Key.(*ecdsa.PublicKey)
	switch {
	case !ok:
		return "ek"
	case key.Curve == elliptic.P256():
		return "ek-p256"
	}
	return "ek-p384"
}

// endorsed holds the EK certificate against the order's policy, at the time at which
// the line did. That this was within the passage is replay's to see.
func (f *findings) endorsed(o records.Order, t records.TPMEvidence) {
	named := [3]string{t.Manufacturer, t.Model, t.Version}
	policy := ek.Policy(o.Terms.EKPolicy)
	switch policy {
	case ek.None:
		f.check(named == [3]string{} && len(t.Chain) == 0 && t.Finding == "", "the order looks at no EK certificate, and the evidence says something of one")
		return
	case ek.Require, ek.Record:
	default:
		f.check(false, "order %q says nothing of EK certificates", o.ID)
		return
	}
	err := ek.Verify(t.Certificate, t.Chain, o.Terms.EKRoots, t.EK, t.Judged)
	switch {
	case t.Finding == "":
		f.wrap("the EK certificate", err)
	case policy == ek.Require:
		f.check(false, "the order requires an EK certificate, and this one was not accepted: %s", t.Finding)
	default:
		f.check(err != nil, "the EK certificate passes, and the evidence says of it: %s", t.Finding)
	}
	// Nobody is trusted here: it is for the names alone.
	said, _ := ek.Check(t.Certificate, nil, t.EK, t.Judged)
	f.check(named == [3]string{said.Manufacturer, said.Model, said.Version}, "the EK certificate names the TPM %q, the evidence %q",
		[]string{said.Manufacturer, said.Model, said.Version}, named)
}

// key holds what a device proved of the key that it made.
func key(u records.Unit, k records.KeyEvidence) error {
	var f findings
	spki, err := evidence.CheckRequest(line.KeyRequest(k, u.RegistrationID))
	f.wrap("the key's certificate request", err)
	f.check(err != nil || spki == k.SPKI, "the request is for the key %s, the evidence is of %s", spki, k.SPKI)
	return f.join()
}

// verified holds the proofs of possession in what was found on a device against
// the keys of its identity. A key of its own is never read back: without such a
// proof nothing says that the device holds it.
func verified(u records.Unit, b records.UnitVerified) error {
	var f findings
	held := make(map[string]bool)
	for _, it := range b.Found {
		if it.How != string(flasher.ByPossession) {
			f.check(it.Proof == nil, "%s was found by %s, and a proof is recorded", it.Name, it.How)
			continue
		}
		held[it.Name] = true
		switch it.Name {
		case flasher.ItemPrivateKey:
			f.possession(u, it)
		case flasher.ItemEndorsementKey:
			f.check(it.SHA256 == ca.Digest(u.EK), "%s is not the key that the TPM proved to hold", it.Name)
		default:
			f.check(false, "nobody can show possession of %s", it.Name)
		}
	}
	if u.Key == records.KeyInFile || u.Key == records.KeyInTPM {
		f.check(held[flasher.ItemPrivateKey], "the device did not show that it holds the key of its certificate")
	}
	if u.Attestation == records.TPM {
		f.check(held[flasher.ItemEndorsementKey], "the device did not show that it holds its endorsement key")
	}
	return f.join()
}

func (f *findings) possession(u records.Unit, it records.Item) {
	if it.Proof == nil {
		f.check(false, "%s was found by possession, and no proof is recorded", it.Name)
		return
	}
	f.wrap("the proof of "+it.Name, evidence.CheckPossession(it.Proof.Challenge, it.Proof.Public, it.Proof.Signature))
	spki := ca.Digest(it.Proof.Public)
	f.check(spki == it.SHA256, "%s was proved of the key %s, not of the one that was found", it.Name, spki)
	f.check(u.Cert != nil && spki == u.Cert.SPKI, "%s was proved of the key %s, which is not that of the unit's certificate", it.Name, spki)
}
