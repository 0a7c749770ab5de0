package records_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"nameplate/records"
)

var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// event makes an event as the ledger would.
func event(t testing.TB, seq int64, u records.UnitID, order string, p records.PassageID, b records.Body) records.Event {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return records.Event{Seq: seq, Station: "line-1", Time: start, Actor: records.Actor{Kind: "badge", ID: "4711"},
		Kind: b.Kind(), Unit: u, Order: order, Passage: p, Data: data}
}

// unit folds the bodies into unit U2, which is in passage P1 under order wo-1.
func unit(t testing.TB, bodies ...records.Body) (records.Unit, error) {
	t.Helper()
	var u records.Unit
	for i, b := range bodies {
		next, err := records.ApplyUnit(u, event(t, int64(i+2), 2, "wo-1", 1, b))
		if err != nil {
			if !reflect.DeepEqual(next, u) {
				t.Errorf("%s is refused and changes the unit", b.Kind())
			}
			return u, err
		}
		if u = next; u.LastSeq != int64(i+2) {
			t.Errorf("after event %d LastSeq is %d", i+2, u.LastSeq)
		}
		// A state that is stored and read again is the same state.
		row, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		var again records.Unit
		if err := json.Unmarshal(row, &again); err != nil || !reflect.DeepEqual(u, again) {
			t.Errorf("after %s the unit is %+v, and %+v once stored (%v)", b.Kind(), u, again, err)
		}
	}
	return u, nil
}

var (
	hardware   = []records.HardwareID{{Kind: "mac", Value: "aa:bb:cc:00:00:01"}}
	items      = []records.Item{{Name: "id_scope", SHA256: "11", How: "bytes"}, {Name: "key", SHA256: "22", How: "bytes"}}
	identified = records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3", Hardware: hardware}
	symmetric  = records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.SymmetricKey}
	x509       = records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.X509, Key: records.KeyInjected}
	ownKey     = records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.X509, Key: records.KeyInFile}
	keyInTPM   = records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.X509, Key: records.KeyInTPM}
	onlyTPM    = records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.TPM}
	proven     = records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: []byte("ek"), AK: []byte("ak")}}
	made       = records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInFile, SPKI: "key-1"}}
	madeAnew   = records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInFile, SPKI: "key-2"}}
	certified  = records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInTPM, SPKI: "key-1", AK: []byte("ak")}}
	givenBack  = records.IdentityReleased{RegistrationID: "wo-1-a000001", Serial: "A000001", Number: 1}
	sealed     = records.SecretSealed{Ref: "ref-1", What: "symmetric key"}
	destroyed  = records.SecretDestroyed{Ref: "ref-1"}
	issued     = records.CertificateIssued{RegistrationID: "wo-1-a000001", Issuer: "issuer", Serial: "01", SPKI: "key-1", Key: records.KeyInjected}
	reissued   = records.CertificateIssued{RegistrationID: "wo-1-a000001", Issuer: "issuer", Serial: "02", SPKI: "key-2", Key: records.KeyInjected}
	forOwnKey  = records.CertificateIssued{RegistrationID: "wo-1-a000001", Issuer: "issuer", Serial: "01", SPKI: "key-1", Key: records.KeyInFile}
	forNewKey  = records.CertificateIssued{RegistrationID: "wo-1-a000001", Issuer: "issuer", Serial: "02", SPKI: "key-2", Key: records.KeyInFile}
	forTPMKey  = records.CertificateIssued{RegistrationID: "wo-1-a000001", Issuer: "issuer", Serial: "01", SPKI: "key-1", Key: records.KeyInTPM}
	voided     = records.CertificateVoided{Serial: "01"}
	begun      = records.WriteBegun{Manifest: items}
	verified   = records.UnitVerified{Found: items}
	passed     = records.UnitPassed{}
	released   = records.UnitReleased{RegistrationID: "wo-1-a000001"}
	accepted   = records.EnrollmentAccepted{RegistrationID: "wo-1-a000001"}
	rejected   = records.EnrollmentRejected{RegistrationID: "wo-1-a000001"}
	closed     = records.PassageClosed{Slot: "slot-1", Verdict: records.Error}
)

func TestUnitComesThrough(t *testing.T) {
	tests := []struct {
		name   string
		bodies []records.Body
		state  records.UnitState
	}{
		{"seen", []records.Body{identified}, records.Seen},
		{"claimed", []records.Body{identified, symmetric}, records.Claimed},
		{"a claim given back", []records.Body{identified, symmetric, givenBack}, records.Seen},
		{"claimed again", []records.Body{identified, symmetric, givenBack, x509}, records.Claimed},
		{"symmetric key, all the way", []records.Body{identified, symmetric, sealed, begun, verified, passed, released, closed, accepted}, records.Released},
		{"certificate, all the way", []records.Body{identified, x509, issued, begun, verified, passed, released, closed, accepted}, records.Released},
		{"rejected, then accepted", []records.Body{identified, x509, issued, begun, verified, passed, released, rejected, rejected, accepted}, records.Released},
		{"died while writing, wrote again", []records.Body{identified, symmetric, sealed, begun, closed, identified, begun, verified}, records.Verified},
		{"a new secret after an unreadable write", []records.Body{identified, symmetric, sealed, begun, destroyed,
			records.SecretSealed{Ref: "ref-2"}}, records.Keyed},
		{"a new certificate before any write", []records.Body{identified, x509, issued, voided, reissued}, records.Issued},
		{"a new certificate after a write", []records.Body{identified, x509, issued, begun, voided, reissued, begun}, records.Writing},
		{"its own key accepted", []records.Body{identified, ownKey, made}, records.Keyed},
		{"its own key, all the way", []records.Body{identified, ownKey, made, forOwnKey, begun, verified, passed, released, closed, accepted}, records.Released},
		{"its own key shown again", []records.Body{identified, ownKey, made, closed, identified, made, forOwnKey, closed, identified, made, begun}, records.Writing},
		{"its own key lost before any write", []records.Body{identified, ownKey, made, forOwnKey, voided, madeAnew, forNewKey}, records.Issued},
		{"its own key lost after a write", []records.Body{identified, ownKey, made, forOwnKey, begun, voided, madeAnew, forNewKey, begun}, records.Writing},
		{"another key before any certificate", []records.Body{identified, ownKey, made, madeAnew, forNewKey}, records.Issued},
		{"a key in its TPM, all the way", []records.Body{identified, proven, keyInTPM, certified, forTPMKey, begun, verified, passed, released}, records.Released},
		{"a TPM, all the way", []records.Body{identified, proven, onlyTPM, begun, verified, passed, released, closed, accepted}, records.Released},
		{"a TPM, proved again and written again", []records.Body{identified, proven, onlyTPM, begun, closed, identified, proven, begun, verified}, records.Verified},
		{"another kind of endorsement key, nothing claimed", []records.Body{identified, proven, records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: []byte("other")}}}, records.Seen},
		{"a TPM's claim given back", []records.Body{identified, proven, onlyTPM, givenBack}, records.Seen},
		{"failed and refused change nothing", []records.Body{identified, records.UnitFailed{}, records.UnitRefused{}}, records.Seen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if u, err := unit(t, tt.bodies...); err != nil || u.State != tt.state {
				t.Errorf("state %q, %v, want %q", u.State, err, tt.state)
			}
		})
	}
}

// P4 and P5 in the fold: what must not be written down, whoever asks.
func TestWhatCannotFollow(t *testing.T) {
	other := symmetric
	other.RegistrationID = "wo-1-a000002"
	tests := []struct {
		name, want string
		bodies     []records.Body
	}{
		{"passed, never verified", "this cannot follow", []records.Body{identified, symmetric, sealed, begun, passed}},
		{"released, never passed", "this cannot follow", []records.Body{identified, symmetric, sealed, begun, verified, released}},
		{"verified, nothing written", "this cannot follow", []records.Body{identified, symmetric, sealed, verified}},
		{"verified, an item missing", "key was not found on the device", []records.Body{identified, symmetric, sealed, begun, records.UnitVerified{Found: items[:1]}}},
		{"verified, nothing found", "id_scope, key was not found on the device", []records.Body{identified, symmetric, sealed, begun, records.UnitVerified{}}},
		{"an empty manifest", "its manifest is empty", []records.Body{identified, symmetric, sealed, records.WriteBegun{}}},
		{"write without a key", "there is no identity to write: no live secret or certificate, no proven TPM", []records.Body{identified, symmetric, begun}},
		{"write without a certificate", "there is no identity to write: no live secret or certificate, no proven TPM", []records.Body{identified, ownKey, made, begun}},
		{"a claim for a TPM that proved nothing", "its TPM has proved nothing", []records.Body{identified, onlyTPM}},
		{"evidence of nothing", "it speaks of one thing, a TPM or a key", []records.Body{identified, records.EvidenceAccepted{}}},
		{"another TPM", "its endorsement key is another", []records.Body{identified, proven, onlyTPM, records.EvidenceAccepted{TPM: &records.TPMEvidence{EK: []byte("other")}}}},
		{"a key of its own, none wanted", "no key of the device is wanted", []records.Body{identified, x509, made}},
		{"a key in a file, wanted in the TPM", "no key of the device is wanted", []records.Body{identified, proven, keyInTPM, made}},
		{"a key of its own before the claim", "this cannot follow", []records.Body{identified, made}},
		{"a claim for a key in a TPM that proved nothing", "its TPM has proved nothing", []records.Body{identified, keyInTPM}},
		{"a key certified by another TPM", "the key was not certified by the attestation key that its TPM proved", []records.Body{identified, proven, keyInTPM,
			records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInTPM, SPKI: "key-1", AK: []byte("other")}}}},
		{"another key under a live certificate", "its certificate is for another key", []records.Body{identified, ownKey, made, forOwnKey, madeAnew}},
		{"a certificate for a key that was not accepted", "the certificate is for a key that was not accepted as the device's", []records.Body{identified, ownKey, made, forNewKey}},
		{"a certificate for an injected key, its own wanted", `its key was to be made otherwise: "device", not "injected"`, []records.Body{identified, ownKey, made, issued}},
		{"giving back after its key was accepted", "this cannot follow", []records.Body{identified, ownKey, made, givenBack}},
		{"write after the secret was destroyed", "there is no identity to write: no live secret or certificate, no proven TPM", []records.Body{identified, symmetric, sealed, begun, destroyed, begun}},
		{"a second secret", "this cannot follow", []records.Body{identified, symmetric, sealed, sealed}},
		{"a second secret after a write", "no secret is wanted", []records.Body{identified, symmetric, sealed, begun, records.SecretSealed{Ref: "ref-2"}}},
		{"a secret for a certificate's unit", "no secret is wanted", []records.Body{identified, x509, sealed}},
		{"a certificate for a secret's unit", "no certificate is wanted", []records.Body{identified, symmetric, issued}},
		{"another unit's certificate", "the certificate names x, the unit is wo-1-a000001", []records.Body{identified, x509, records.CertificateIssued{RegistrationID: "x", Key: records.KeyInjected}}},
		{"destroying another secret", "secret ref-9 is not the live one", []records.Body{identified, symmetric, sealed, begun, records.SecretDestroyed{Ref: "ref-9"}}},
		{"voiding another certificate", "certificate 09 is not the live one", []records.Body{identified, x509, issued, records.CertificateVoided{Serial: "09"}}},
		{"a second claim", "this cannot follow", []records.Body{identified, symmetric, other}},
		{"giving back after sealing", "this cannot follow", []records.Body{identified, symmetric, sealed, givenBack}},
		{"giving back after a voided certificate", "something was made for it already", []records.Body{identified, x509, issued, voided, givenBack}},
		{"giving back another's claim", "its claim is wo-1-a000001, serial A000001, number 1 of order wo-1",
			[]records.Body{identified, symmetric, records.IdentityReleased{RegistrationID: "wo-1-a000002", Serial: "A000002", Number: 2}}},
		{"released under another name", "its registration ID is wo-1-a000001, of order wo-1",
			[]records.Body{identified, symmetric, sealed, begun, verified, passed, records.UnitReleased{RegistrationID: "x"}}},
		{"a secret after release", "this cannot follow", []records.Body{identified, symmetric, sealed, begun, verified, passed, released, sealed}},
		{"a write after release", "this cannot follow", []records.Body{identified, symmetric, sealed, begun, verified, passed, released, begun}},
		{"enrolled before release", "this cannot follow", []records.Body{identified, symmetric, sealed, begun, verified, passed, accepted}},
		{"enrolled twice", "no enrollment of wo-1-a000001 is due", []records.Body{identified, x509, issued, begun, verified, passed, released, accepted, accepted}},
		{"rejected after it was accepted", "no enrollment of wo-1-a000001 is due", []records.Body{identified, x509, issued, begun, verified, passed, released, accepted, rejected}},
		{"two passages at once", "passage P1 is still open", []records.Body{identified, identified}},
		{"a passage closed twice", "the open passage is P0", []records.Body{identified, closed, closed}},
		{"never identified", "this cannot follow", []records.Body{symmetric}},
		{"not about a unit", "this is not about a unit", []records.Body{identified, records.OrderClosed{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := unit(t, tt.bodies...)
			if err == nil || !strings.HasSuffix(err.Error(), ": "+tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("a unit that was never made known", func(t *testing.T) {
		if _, err := records.ApplyUnit(records.Unit{}, event(t, 9, 2, "", 1, identified)); err == nil {
			t.Error("event 9 made U2 known")
		}
	})
	t.Run("an unknown kind", func(t *testing.T) {
		e := event(t, 2, 2, "", 1, identified)
		e.Kind = "unit.blessed"
		if _, err := records.ApplyUnit(records.Unit{}, e); err == nil {
			t.Error("an unknown fact was understood")
		}
	})
}

// order folds the bodies into order wo-1 of three units.
func order(t testing.TB, bodies ...records.Body) (records.Order, error) {
	t.Helper()
	opened := records.OrderOpened{ID: "wo-1", Customer: "customer-a", Product: "sensor", Quota: 3, SerialFormat: "A%06d", SerialFirst: 1,
		ValidUntil: start.AddDate(1, 0, 0), ProductFile: []byte("x"), CustomerFile: []byte("y"),
		Terms: records.Terms{Attestation: records.SymmetricKey, RegistrationID: "{serial}-{mac}"}}
	var o records.Order
	for i, b := range append([]records.Body{opened}, bodies...) {
		next, err := records.ApplyOrder(o, event(t, int64(i+1), 2, "wo-1", 1, b))
		if err != nil {
			return o, err
		}
		o = next
		row, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var again records.Order
		if err := json.Unmarshal(row, &again); err != nil || !reflect.DeepEqual(o, again) {
			t.Errorf("after %s the order is %+v, and %+v once stored (%v)", b.Kind(), o, again, err)
		}
	}
	return o, nil
}

func number(n int) records.IdentityClaimed    { return records.IdentityClaimed{Number: n} }
func giveBack(n int) records.IdentityReleased { return records.IdentityReleased{Number: n} }

// P6 in the fold.
func TestOrderCounts(t *testing.T) {
	o, err := order(t, number(1), number(2), number(3), giveBack(2), giveBack(1), number(2),
		records.UnitReleased{}, records.PassageClosed{Verdict: records.Pass}, records.PassageClosed{Verdict: records.Fail},
		records.PassageClosed{Verdict: records.Error}, records.OrderClosed{})
	if err != nil {
		t.Fatal(err)
	}
	if o.Live != 2 || o.Next != 4 || fmt.Sprint(o.Free) != "[1]" || o.Released != 1 || o.Passes != 1 || o.Fails != 1 || o.Errors != 1 || !o.Closed {
		t.Errorf("got %+v", o)
	}
	if o.ProductFile != nil || o.CustomerFile != nil {
		t.Error("the state, which is written often, carries the files")
	}
	for _, tt := range []struct {
		name, want string
		bodies     []records.Body
	}{
		{"one more than the quota", "its quota of 3 is used up", []records.Body{number(1), number(2), number(3), number(4)}},
		{"out of turn", "number 2 is out of turn: 1 is next", []records.Body{number(2)}},
		{"given-back ones first", "number 3 is out of turn: 1 is next", []records.Body{number(1), number(2), giveBack(1), number(3)}},
		{"never claimed", "number 2 is not a live claim", []records.Body{number(1), giveBack(2)}},
		{"claimed after closing", "it is closed", []records.Body{records.OrderClosed{}, number(1)}},
		{"closed twice", "it is closed already", []records.Body{records.OrderClosed{}, records.OrderClosed{}}},
		{"opened twice", "it is open already", []records.Body{records.OrderOpened{ID: "wo-1"}}},
		{"no verdict", `"" is no verdict`, []records.Body{records.PassageClosed{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := order(t, tt.bodies...); err == nil || !strings.HasSuffix(err.Error(), ": "+tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if _, err := records.ApplyOrder(records.Order{}, event(t, 1, 0, "wo-1", 0, number(1))); err == nil {
		t.Error("an order that was never opened has a claim")
	}
}

func TestMarksRefuseNonsense(t *testing.T) {
	for name, e := range map[string]records.Event{
		"identified by nothing":     event(t, 2, 2, "", 1, records.UnitIdentified{}),
		"opening another's passage": event(t, 2, 0, "", 1, records.PassageOpened{Slot: "slot-1"}),
	} {
		if _, err := records.Marks(e, records.Order{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRefusalIsAnError(t *testing.T) {
	cause := errors.New("cause")
	var err error = &records.Refusal{Code: "no", Sentence: "No.", Next: "Ask again.", Err: cause}
	if err.Error() != "No. Ask again." || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
