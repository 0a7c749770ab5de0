package files_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"nameplate/flasher"
	"nameplate/flasher/encode/files"
)

func identity(a flasher.Attestation) flasher.Identity {
	id := flasher.Identity{RegistrationURL: "dps.example", IDScope: "0ne00112233", RegistrationID: "gw-17", Attestation: a}
	switch a {
	case flasher.SymmetricKey:
		id.SymmetricKey = flasher.Secret{0xfb, 0xff, 0xfe}
	case flasher.X509:
		id.Certificate = []byte("-----BEGIN CERTIFICATE-----\n")
	}
	return id
}

// holding is options with files of these texts.
func holding(texts ...string) flasher.Options {
	var o flasher.Options
	for i, text := range texts {
		o.Store.Files = append(o.Store.Files, flasher.File{Path: "/etc/" + string(rune('a'+i)), Text: text})
	}
	return o
}

func TestEncode(t *testing.T) {
	injected := identity(flasher.X509)
	injected.PrivateKey = flasher.Secret("-----BEGIN PRIVATE KEY-----\n")
	odd := identity(flasher.TPM)
	odd.RegistrationID = "a\"'\\\n{id_scope}é"
	inTPM := holding("{certificate}", "{key_handle}")
	inTPM.Key = flasher.DeviceKey{In: "tpm", Handle: 0x81000010}
	for _, tt := range []struct {
		name   string
		id     flasher.Identity
		o      flasher.Options
		want   []string
		secret []bool
	}{
		{"symmetric key", identity(flasher.SymmetricKey), holding("{registration_url} {id_scope} {registration_id}\n", "key={symmetric_key}"),
			[]string{"dps.example 0ne00112233 gw-17\n", "key=+//+"}, []bool{false, true}},
		{"injected key", injected, holding("{certificate}", "{private_key}", "nothing"),
			[]string{"-----BEGIN CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\n", "nothing"}, []bool{false, true, false}},
		{"key in the TPM", identity(flasher.X509), inTPM,
			[]string{"-----BEGIN CERTIFICATE-----\n", "0x81000010"}, []bool{false, false}},
		{"braces of others", identity(flasher.TPM), holding(`{"id": "{registration_id}", "empty": {}, "{ A": {{id_scope}}}`),
			[]string{`{"id": "gw-17", "empty": {}, "{ A": {0ne00112233}}`}, []bool{false}},
		{"a value is not filled again, nor altered", odd, holding("{registration_id}{registration_id}"),
			[]string{odd.RegistrationID + odd.RegistrationID}, []bool{false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			made, err := files.Encode(tt.id, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			var secret []bool
			for i, f := range made {
				got, secret = append(got, string(f.Data)), append(secret, f.Secret)
				if f.Target != tt.o.Store.Files[i].Path || f.Mode != 0o600 {
					t.Errorf("file %d is %s, mode %#o", i, f.Target, f.Mode)
				}
			}
			if !reflect.DeepEqual(got, tt.want) || !reflect.DeepEqual(secret, tt.secret) {
				t.Errorf("got %q %v, want %q %v", got, secret, tt.want, tt.secret)
			}
		})
	}
}

func TestModeAndOwnerAreTheProducts(t *testing.T) {
	o := holding("{registration_id}")
	o.Store.Files[0].Mode, o.Store.Files[0].Owner = 0o644, "app:app"
	made, err := files.Encode(identity(flasher.TPM), o)
	if err != nil || made[0].Mode != 0o644 || made[0].Owner != "app:app" {
		t.Fatalf("%+v, %v", made, err)
	}
}

func TestMisfits(t *testing.T) {
	blank := identity(flasher.SymmetricKey)
	blank.IDScope = ""
	injected := identity(flasher.X509)
	injected.PrivateKey = flasher.Secret("k")
	for _, tt := range []struct {
		name string
		id   flasher.Identity
		o    flasher.Options
		says string
	}{
		{"no file", identity(flasher.TPM), holding(), "it names no file"},
		{"unknown placeholder", identity(flasher.TPM), holding("{registration_id}", "{serial}"),
			"the text of /etc/b has {serial} in it, which is no placeholder"},
		{"no key for it", identity(flasher.X509), holding("{certificate}{symmetric_key}"),
			"the text of /etc/a: the identity has nothing for {symmetric_key}"},
		{"no injected key", identity(flasher.X509), holding("{certificate}{private_key}"),
			"the text of /etc/a: the identity has nothing for {private_key}"},
		{"no key in a TPM", identity(flasher.X509), holding("{certificate}{key_handle}"),
			"the text of /etc/a: the identity has nothing for {key_handle}"},
		{"empty value", blank, holding("{symmetric_key}{id_scope}"), "the text of /etc/a: the identity has nothing for {id_scope}"},
		{"key left out", identity(flasher.SymmetricKey), holding("{registration_id}"), "no file has {symmetric_key} in its text"},
		{"certificate left out", identity(flasher.X509), holding("{registration_id}"), "no file has {certificate} in its text"},
		{"injected key left out", injected, holding("{certificate}"), "no file has {private_key} in its text"},
		{"ID left out", identity(flasher.TPM), holding("{id_scope}"), "no file has {registration_id} in its text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if made, err := files.Encode(tt.id, tt.o); err == nil || err.Error() != tt.says {
				t.Errorf("got %v, %v, want %q", made, err, tt.says)
			}
		})
	}
}

// Whatever a template and a value hold, the value stands where its placeholder
// stood and the rest is as it was.
func FuzzEncode(f *testing.F) {
	f.Add("id={registration_id}\n", "gw-17")
	f.Add("{{registration_id}}{id}", "{id_scope}")
	f.Add("é\x00{registration_id}\xff", "\"\n")
	f.Fuzz(func(t *testing.T, text, value string) {
		id := identity(flasher.TPM)
		id.RegistrationID = value
		made, err := files.Encode(id, holding(text))
		if err != nil {
			return
		}
		want := strings.NewReplacer("{registration_id}", value, "{id_scope}", id.IDScope, "{registration_url}", id.RegistrationURL).Replace(text)
		if !bytes.Equal(made[0].Data, []byte(want)) {
			t.Errorf("%q with %q became %q, want %q", text, value, made[0].Data, want)
		}
	})
}
