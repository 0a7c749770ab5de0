package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/records"
)

// body changes what an event carries.
func body[B records.Body](change func(*B)) func(*testing.T, *records.Event) {
	return func(t *testing.T, e *records.Event) {
		var b B
		must(t, json.Unmarshal(e.Data, &b))
		change(&b)
		data, err := json.Marshal(b)
		must(t, err)
		if bytes.Equal(data, e.Data) {
			t.Fatal("nothing was changed")
		}
		e.Data = data
	}
}

func tpmOf(change func(*records.TPMEvidence)) func(*testing.T, *records.Event) {
	return body(func(b *records.EvidenceAccepted) { change(b.TPM) })
}

func keyOf(change func(*records.KeyEvidence)) func(*testing.T, *records.Event) {
	return body(func(b *records.EvidenceAccepted) { change(b.Key) })
}

func termsOf(change func(*records.Terms)) func(*testing.T, *records.Event) {
	return body(func(b *records.OrderOpened) { change(&b.Terms) })
}

// shown changes the item that the device showed possession of.
func shown(change func(*records.Item)) func(*testing.T, *records.Event) {
	return body(func(b *records.UnitVerified) { change(&b.Found[1]) })
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

// Raw evidence is kept and checked again by replay: one field of a true history is
// altered at a time, and each is noticed.
func TestEvidenceIsCheckedAgain(t *testing.T) {
	h := newHistory(t)
	if r := h.replay(0, nil); !r.OK() || r.Checked != 22 {
		t.Fatalf("%d events of the true history were checked, with findings %v", r.Checked, r.Findings)
	}
	var one, two records.TPMEvidence // what the two chips proved
	remember := func(seq int64, into *records.TPMEvidence) {
		h.replay(seq, func(e *records.Event) { tpmOf(func(b *records.TPMEvidence) { *into, b.Nonce = *b, nil })(t, e) })
	}
	remember(h.gateway.tpm, &one)
	remember(h.safe.tpm, &two)
	otherCSR := h.request(h.otherKey, "wo-3-1")
	otherProof := h.proof(h.otherKey)

	const unopened = "the answer is not what the challenge held: no TPM with both keys opened it"
	for _, tt := range []struct {
		name   string
		seq    int64
		change func(*testing.T, *records.Event)
		want   string
	}{
		{"nonce", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Nonce = flip(b.Nonce) }), unopened},
		{"no nonce", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Nonce = nil }), "the nonce has 0 bytes, not 32"},
		{"answer", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Answer = flip(b.Answer) }), unopened},
		{"no answer", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Answer = nil }), unopened},
		{"endorsement key of another", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.EK = two.EK }), unopened},
		{"endorsement key that the board was not identified by", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.EK = two.EK }),
			"the unit was not identified by this endorsement key, ek=" + ek.RegistrationID(two.EK)},
		{"all of another TPM's evidence", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { *b = two }),
			"the unit was not identified by this endorsement key, ek=" + ek.RegistrationID(two.EK)},
		{"endorsement key of another kind", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.EK = bytes.Clone(b.EK); b.EK[9] ^= 1 }), "its attributes are 0x000300b3"},
		{"attestation key of another", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.AK = two.AK }), unopened},
		{"the endorsement key for an attestation key", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.AK = b.EK }), "the attestation key is not on P-256"},
		{"certificate of another", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Certificate = two.Certificate }), "its key is not the endorsement key of the TPM"},
		{"certificate gone", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Certificate = nil }), "the bytes are not one certificate"},
		{"certificate's signature", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Certificate = flip(b.Certificate) }), "its chain does not lead to the root"},
		{"chain gone", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Chain = nil }), "its chain has 0 certificates"},
		{"chain without its middle", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Chain = b.Chain[1:] }), "its chain does not lead to the root"},
		{"chain without its end", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Chain = b.Chain[:1] }), "which is no root that the order trusts"},
		{"manufacturer", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Manufacturer = "IFX" }), `the evidence ["IFX" `},
		{"model", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Model = "" }), "the EK certificate names the TPM"},
		{"version", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Version += "1" }), "the EK certificate names the TPM"},
		{"a finding where none may be", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Finding = "it is old" }),
			"the order requires an EK certificate, and this one was not accepted: it is old"},
		{"a finding that is not true", h.safe.tpm, tpmOf(func(b *records.TPMEvidence) { b.Finding = "it is old" }), "the EK certificate passes, and the evidence says of it: it is old"},
		{"no finding where one belongs", h.safe.tpm, tpmOf(func(b *records.TPMEvidence) { b.Certificate = one.Certificate }), "its key is not the endorsement key of the TPM"},
		{"a finding taken away", h.doubted.tpm, tpmOf(func(b *records.TPMEvidence) { b.Finding = "" }), "its chain has 0 certificates"},
		{"names where nobody looked", h.unasked.tpm, tpmOf(func(b *records.TPMEvidence) { b.Manufacturer = "IFX" }), "the order looks at no EK certificate, and the evidence says something of one"},
		{"names of a vendor that is not trusted", h.doubted.tpm, tpmOf(func(b *records.TPMEvidence) { b.Manufacturer = "IFX" }), `the evidence ["IFX" `},
		{"another answer of a P-384 endorsement key", h.doubted.tpm, tpmOf(func(b *records.TPMEvidence) { b.Answer = flip(b.Answer) }), unopened},
		{"an order by TPM for a P-384 endorsement key", h.doubted.order, termsOf(func(o *records.Terms) { o.Attestation = records.TPM }), "it is of the template H-3, not L-1"},
		{"endorsement key by which the board was identified as another kind", h.doubted.order + 2, body(func(b *records.UnitIdentified) { b.Hardware[0].Kind = "ek" }),
			"the unit was not identified by this endorsement key, ek-p384="},
		{"judged before the certificate", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Judged = b.Judged.AddDate(-1, 0, 0) }), "it is valid from"},
		{"judged before the passage", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Judged = b.Judged.Add(-time.Minute) }), "the TPM was not judged within its passage"},
		{"judged after the event", h.gateway.tpm, tpmOf(func(b *records.TPMEvidence) { b.Judged = b.Judged.Add(time.Minute) }), "the TPM was not judged within its passage"},
		{"never judged", h.unasked.tpm, tpmOf(func(b *records.TPMEvidence) { b.Judged = time.Time{} }), "the TPM was not judged within its passage"},
		{"an order that trusts another vendor", h.gateway.order, termsOf(func(o *records.Terms) { o.EKRoots = h.stranger.Fingerprints() }), "which is no root that the order trusts"},
		{"an order that looks at no certificate", h.gateway.order, termsOf(func(o *records.Terms) { o.EKPolicy = "none" }), "the order looks at no EK certificate, and the evidence says something of one"},
		{"an order without a policy", h.gateway.order, termsOf(func(o *records.Terms) { o.EKPolicy = "" }), `order "WO-1" says nothing of EK certificates`},

		{"request of another key", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.CSR = h.request(h.otherKey, "wo-2-1") }), "the key that is certified is not the one in the request"},
		{"request's signature", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.CSR = flip(b.CSR) }), "its signature is not by its key"},
		{"no request", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.CSR = nil }), "the bytes are not one PKCS#10 request"},
		{"attestation key that certified", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.AK = one.AK }), "the attestation key did not sign the attestation"},
		{"certified key", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.Public = one.AK }), "the attestation is about another key"},
		{"attestation", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.Attest = flip(b.Attest) }), "the attestation key did not sign the attestation"},
		{"attestation's signature", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.Signature = flip(b.Signature) }), "the attestation key did not sign the attestation"},
		{"digest of the key in the TPM", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.SPKI = strings.Repeat("0", 64) }), "the evidence is of 0000"},
		{"key in a file that is in the TPM", h.safe.key, keyOf(func(b *records.KeyEvidence) { b.In = records.KeyInFile }), "no key of the device is wanted"},
		{"key of the file", h.plain.key, keyOf(func(b *records.KeyEvidence) { b.CSR = otherCSR }), "the evidence is of "},
		{"key and digest of the file", h.plain.key, keyOf(func(b *records.KeyEvidence) { b.CSR, b.SPKI = otherCSR, ca.Digest(otherProof.Public) }),
			"the certificate is for a key that was not accepted as the device's"},
		{"request for another name", h.plain.key, keyOf(func(b *records.KeyEvidence) { b.CSR = h.request(h.otherKey, "wo-3-2") }), `its subject is "CN=wo-3-2", not the common name alone`},
		{"request for the unit's name, the claim for another", h.plain.claim, body(func(b *records.IdentityClaimed) { b.RegistrationID = "wo-3-2" }),
			`its subject is "CN=wo-3-1", not the common name alone`},
		{"key in a file, said to be in the TPM", h.plain.key, keyOf(func(b *records.KeyEvidence) { b.In = records.KeyInTPM }), "the bytes are not one TPM2B_PUBLIC"},

		{"challenge", h.plain.verified, shown(func(it *records.Item) { it.Proof.Challenge = flip(it.Proof.Challenge) }), "the key did not sign the challenge"},
		{"short challenge", h.plain.verified, shown(func(it *records.Item) { it.Proof.Challenge = it.Proof.Challenge[:31] }), "the challenge has 31 bytes, not 32"},
		{"signature", h.safe.verified, shown(func(it *records.Item) { it.Proof.Signature = flip(it.Proof.Signature) }), "the key did not sign the challenge"},
		{"public key", h.safe.verified, shown(func(it *records.Item) { it.Proof.Public = otherProof.Public }), "the key did not sign the challenge"},
		{"proof of another key", h.safe.verified, shown(func(it *records.Item) { it.Proof = otherProof }), "not of the one that was found"},
		{"proof of another key, found so", h.plain.verified, shown(func(it *records.Item) { it.Proof, it.SHA256 = otherProof, ca.Digest(otherProof.Public) }),
			"which is not that of the unit's certificate"},
		{"no proof", h.plain.verified, shown(func(it *records.Item) { it.Proof = nil }), "private_key was found by possession, and no proof is recorded"},
		{"key of the device read back", h.plain.verified, shown(func(it *records.Item) { it.How, it.Proof = "bytes", nil }), "the device did not show that it holds the key of its certificate"},
		{"a proof of what was read back", h.plain.verified, shown(func(it *records.Item) { it.How = "bytes" }), "private_key was found by bytes, and a proof is recorded"},
		{"possession of a file", h.plain.verified, body(func(b *records.UnitVerified) { b.Found[0].How = "possession" }), "nobody can show possession of /etc/identity"},
		{"endorsement key found", h.gateway.verified, shown(func(it *records.Item) { it.SHA256 = ca.Digest(two.EK) }), "endorsement_key is not the key that the TPM proved to hold"},
		{"endorsement key read back", h.gateway.verified, shown(func(it *records.Item) { it.How = "bytes" }), "the device did not show that it holds its endorsement key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			r := h.replay(tt.seq, func(e *records.Event) { tt.change(t, e) })
			for _, f := range r.Findings {
				if strings.Contains(f.What, tt.want) {
					if strings.Contains(f.What, "\n") {
						t.Errorf("it is found in several lines: %q", f.What)
					}
					return
				}
			}
			t.Errorf("no finding says %q; found:\n%s", tt.want, fmt.Sprint(r.Findings))
		})
	}
}
