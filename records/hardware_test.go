package records_test

import (
	"encoding/json"
	"slices"
	"testing"

	"nameplate/records"
)

// A later reading that lacks an ID does not take it from the unit: a twin that
// shares the other ID must still be told apart.
func TestHardwareIDsStayWithTheUnit(t *testing.T) {
	var u records.Unit
	for i, hw := range [][]records.HardwareID{
		{{Kind: "mac", Value: "aa"}, {Kind: "chip-uid", Value: "11"}},
		{{Kind: "mac", Value: "aa"}},
	} {
		data, err := json.Marshal(records.UnitIdentified{Family: "espressif", Chip: "ESP32-C3", Hardware: hw})
		if err != nil {
			t.Fatal(err)
		}
		seq := int64(2 + 3*i)
		e := records.Event{Seq: seq, Kind: records.UnitIdentified{}.Kind(), Unit: 2, Passage: records.PassageID(seq - 1), Data: data}
		if u, err = records.ApplyUnit(u, e); err != nil {
			t.Fatal(err)
		}
		u.Passage = 0
	}
	if want := []records.HardwareID{{Kind: "mac", Value: "aa"}, {Kind: "chip-uid", Value: "11"}}; !slices.Equal(u.Hardware, want) {
		t.Errorf("the unit has %v, want %v", u.Hardware, want)
	}
}
