package groupkey_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"nameplate/ca"
	"nameplate/ca/groupkey"
)

const (
	// The vector of the service's own documentation.
	docKey     = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	docID      = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
	docDerived = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
)

func TestDerivePublishedVector(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString(docKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := groupkey.Derive(key, docID)
	if err != nil {
		t.Fatal(err)
	}
	if b64 := base64.StdEncoding.EncodeToString(got); b64 != docDerived {
		t.Errorf("Derive = %s, want %s", b64, docDerived)
	}
}

func TestDeriveRefuses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		key      int // length
		id       string
		code     string
		sentence string
	}{
		{"upper case", 64, "SN-007", "registration-id-form", `The registration ID "SN-007" has upper-case letters.`},
		{"space", 64, "sn 007", "registration-id-form", `The registration ID "sn 007" has the character ' '.`},
		{"newline at the end", 64, "sn-007\n", "registration-id-form", `The registration ID "sn-007\n" has the character '\n'.`},
		{"not ASCII", 64, "sn-ſ", "registration-id-form", `The registration ID "sn-ſ" has the character 'ſ'.`},
		{"colon last", 64, "sn:", "registration-id-form", `The registration ID "sn:" begins or ends with ':'.`},
		{"empty", 64, "", "registration-id-form", `The registration ID "" is empty.`},
		{"short key", 15, "sn-007", "group-key-length", "The group key has 15 bytes; the service takes 16 to 64."},
		{"base64 instead of bytes", 88, "sn-007", "group-key-length", "The group key has 88 bytes; the service takes 16 to 64."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := groupkey.Derive(make([]byte, tt.key), tt.id)
			var no *ca.Refusal
			if !errors.As(err, &no) {
				t.Fatalf("Derive: %v, want a refusal", err)
			}
			if no.Code != tt.code || no.Sentence != tt.sentence || no.Next == "" {
				t.Errorf("refused with %s: %s\nwant %s: %s", no.Code, no.Sentence, tt.code, tt.sentence)
			}
		})
	}
}

func TestDeriveTakesTheLongestID(t *testing.T) {
	if _, err := groupkey.Derive(make([]byte, 16), strings.Repeat("a", 128)); err != nil {
		t.Error(err)
	}
	if _, err := groupkey.Derive(make([]byte, 16), strings.Repeat("a", 129)); err == nil {
		t.Error("129 characters were taken")
	}
}
