package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"nameplate/ca/ek"
	"nameplate/records"
)

// What a station shows of a unit that made its key in its TPM, and of one that
// attests by its TPM.
func TestShowUnit(t *testing.T) {
	digest := strings.Repeat("5e", 32)
	chip := &records.TPMEvidence{EK: []byte("endorsement key"), AK: []byte("attestation key"), Manufacturer: "IFX", Model: "SLB9670", Version: "id:000D"}
	doubted := *chip
	doubted.Finding = "it leads to no root that is trusted here (RFC 5280 6.1)"
	identified := records.UnitIdentified{Family: "linux", Chip: "Example Gateway 2", Hardware: []records.HardwareID{{Kind: "mac", Value: "00:00:5e:00:53:01"}, {Kind: "ek", Value: ek.RegistrationID(chip.EK)}}}
	file := records.Item{Name: "/etc/aziot/config.toml", SHA256: digest, How: "bytes"}
	possessed := func(name string) records.Item {
		return records.Item{Name: name, SHA256: digest, How: "possession"}
	}
	claimed := func(attestation, key string) records.IdentityClaimed {
		return records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "GW-0001", RegistrationID: "gw-0001", RegistrationURL: "global.azure-devices-provisioning.net",
			IDScope: "0ne0000000A", Attestation: attestation, Key: key}
	}
	for name, bodies := range map[string][]records.Body{
		"unit-key.golden": {identified, records.EvidenceAccepted{TPM: chip}, claimed(records.X509, records.KeyInTPM),
			records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInTPM, SPKI: digest, AK: chip.AK}},
			records.CertificateIssued{RegistrationID: "gw-0001", Serial: "70f1", SPKI: digest, Key: records.KeyInTPM},
			records.WriteBegun{Manifest: []records.Item{file, possessed("private_key")}},
			records.UnitVerified{Found: []records.Item{file, possessed("private_key")}}, records.UnitPassed{},
			records.UnitReleased{RegistrationID: "gw-0001"}, records.PassageClosed{Slot: "a1", Verdict: records.Pass}},
		"unit-tpm.golden": {identified, records.EvidenceAccepted{TPM: &doubted}, claimed(records.TPM, ""),
			records.WriteBegun{Manifest: []records.Item{file, possessed("endorsement_key")}},
			records.UnitVerified{Found: []records.Item{file, possessed("endorsement_key")}}},
		"unit-file.golden": {identified, claimed(records.X509, records.KeyInFile),
			records.EvidenceAccepted{Key: &records.KeyEvidence{In: records.KeyInFile, SPKI: digest}}},
	} {
		var u records.Unit
		var events []records.Event
		for i, b := range bodies {
			data, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			e := records.Event{Seq: int64(i + 4), Time: noon.Add(time.Duration(i) * time.Second), Actor: records.Actor{Kind: "badge", ID: "4711"},
				Kind: b.Kind(), Unit: 4, Order: "WO-7", Passage: 3, Data: data}
			if u, err = records.ApplyUnit(u, e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		var shown bytes.Buffer
		showUnit(&shown, u, events)
		golden(t, name, shown.String())
	}
}

// What a board or a person brought is shown and not obeyed.
func TestShowUnitSteersNoTerminal(t *testing.T) {
	const steers = "a\x1b]0;title\a\u009b31m\u202eb"
	data, err := json.Marshal(records.UnitFailed{Step: "identify", Code: "x", Sentence: "The board says " + steers})
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	showUnit(&shown, records.Unit{ID: 3, Chip: steers, Hardware: []records.HardwareID{{Kind: steers, Value: steers}}},
		[]records.Event{{Seq: 4, Time: noon, Actor: records.Actor{Kind: "badge", ID: steers}, Kind: records.UnitFailed{}.Kind(), Data: data}})
	if text := shown.String(); strings.ContainsAny(text, "\x1b\a\u009b\u202e") || strings.Count(text, "a\uFFFD]0;title") != 5 {
		t.Errorf("%q", text)
	}
}
