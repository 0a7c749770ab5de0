package flasher_test

import (
	"slices"
	"testing"

	"nameplate/flasher"
)

func TestMissingIsWhatWasNotFoundWithTheSameDigest(t *testing.T) {
	item := func(name, digest string) flasher.Item {
		return flasher.Item{Name: name, SHA256: digest, How: flasher.ByBytes}
	}
	for _, tt := range []struct {
		name        string
		want, found flasher.Manifest
		missing     []string
	}{
		{"all of it", flasher.Manifest{item("a", "11"), item("b", "22")}, flasher.Manifest{item("b", "22"), item("a", "11")}, nil},
		{"none of it", flasher.Manifest{item("a", "11"), item("b", "22")}, nil, []string{"a", "b"}},
		{"another digest", flasher.Manifest{item("a", "11")}, flasher.Manifest{item("a", "12")}, []string{"a"}},
		{"something else besides", flasher.Manifest{item("a", "11")}, flasher.Manifest{item("a", "11"), item("b", "22")}, nil},
		{"no digest, not found", flasher.Manifest{item("a", "")}, nil, []string{"a"}},
		{"no digest on either side", flasher.Manifest{item("a", "")}, flasher.Manifest{item("a", "")}, []string{"a"}},
	} {
		if got := tt.want.Missing(tt.found); !slices.Equal(got, tt.missing) {
			t.Errorf("%s: %q missing, want %q", tt.name, got, tt.missing)
		}
	}
}
