package outbox_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"nameplate/records"
	"nameplate/records/outbox"
)

// TestEndorsementKeyIsPushed: a unit that attests by its TPM is enrolled with the
// endorsement key that it proved to hold, and no secret is opened for it.
func TestEndorsementKeyIsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ek := bytes.Repeat([]byte{7}, 316)
		var unit records.UnitID
		var pushed []outbox.Item
		b := start(t, 0, 60, func(b *bench, _ *outbox.Config) {
			unit = b.releaseTPM(ek)
			b.units = append(b.units, unit)
			b.service.say = func(_ *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
				pushed = append(pushed, items...)
				return nil, nil
			}
		})
		pass(time.Minute)
		b.wantAccepted()
		must(t, b.stop())
		if len(pushed) != 1 || pushed[0].Unit != unit || pushed[0].Attestation != records.TPM || !bytes.Equal(pushed[0].EndorsementKey, ek) ||
			pushed[0].Key != nil || pushed[0].DER != nil || b.vault.revealed != 0 {
			t.Errorf("pushed %+v, %d secrets opened", pushed, b.vault.revealed)
		}
	})
}

// releaseTPM takes a unit with this endorsement key through the line.
func (b *bench) releaseTPM(ek []byte) records.UnitID {
	b.t.Helper()
	do := func(drafts ...records.Draft) []records.Event {
		b.t.Helper()
		events, err := b.ledger.Do(b.t.Context(), func(records.View) ([]records.Draft, error) { return drafts, nil })
		must(b.t, err)
		return events
	}
	do(records.Draft{Actor: actor, Order: "order-2", Body: records.OrderOpened{ID: "order-2", Customer: "customer-a", Product: "gateway", Quota: 1,
		SerialFormat: "B%06d", SerialFirst: 1, ValidUntil: time.Now().AddDate(1, 0, 0),
		Terms: records.Terms{Attestation: records.TPM, RegistrationID: "{ek}", RegistrationURL: registrationURL, IDScope: idScope}}})
	passage := do(records.Draft{Actor: actor, Passage: records.NewPassage, Body: records.PassageOpened{Slot: "slot-tpm"}})[0].Passage
	unit := do(records.Draft{Actor: actor, Unit: records.NewUnit, Passage: passage, Body: records.UnitIdentified{Family: "linux",
		Hardware: []records.HardwareID{{Kind: "ek", Value: "ek-of-the-board"}}}})[0].Unit
	about := func(body records.Body) records.Draft {
		return records.Draft{Actor: actor, Unit: unit, Order: "order-2", Passage: passage, Body: body}
	}
	items := []records.Item{{Name: "endorsement_key", SHA256: "ab", How: "possession"}}
	do(about(records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: ek, AK: []byte("ak")}}),
		about(records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "B000001", RegistrationID: "ek-of-the-board",
			RegistrationURL: registrationURL, IDScope: idScope, Attestation: records.TPM}),
		about(records.WriteBegun{Manifest: items}), about(records.UnitVerified{Found: items}), about(records.UnitPassed{}),
		about(records.UnitReleased{RegistrationID: "ek-of-the-board"}),
		about(records.PassageClosed{Slot: "slot-tpm", Verdict: records.Pass}))
	return unit
}
