package line

import (
	"errors"

	"nameplate/ca"
	"nameplate/flasher"
	"nameplate/records"
)

// refusal finds the "no" in an error, whichever department said it.
func refusal(err error) (*records.Refusal, bool) {
	var r *records.Refusal
	if errors.As(err, &r) {
		return r, true
	}
	var f *flasher.Refusal
	if errors.As(err, &f) {
		return (*records.Refusal)(f), true
	}
	var c *ca.Refusal
	if errors.As(err, &c) {
		return (*records.Refusal)(c), true
	}
	return nil, false
}

func hardwareToRecords(ids []flasher.HardwareID) []records.HardwareID {
	out := make([]records.HardwareID, len(ids))
	for i, id := range ids {
		out[i] = records.HardwareID(id)
	}
	return out
}

func manifestToRecords(m flasher.Manifest) []records.Item {
	out := make([]records.Item, len(m))
	for i, it := range m {
		out[i] = records.Item{Name: it.Name, SHA256: it.SHA256, Salt: it.Salt, How: string(it.How), Proof: (*records.Proof)(it.Proof)}
	}
	return out
}

func manifestToFlasher(items []records.Item) flasher.Manifest {
	out := make(flasher.Manifest, len(items))
	for i, it := range items {
		out[i] = flasher.Item{Name: it.Name, SHA256: it.SHA256, Salt: it.Salt, How: flasher.How(it.How), Proof: (*flasher.Proof)(it.Proof)}
	}
	return out
}
