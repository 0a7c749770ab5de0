package aziot_test

import (
	"reflect"
	"testing"

	"github.com/BurntSushi/toml"

	"nameplate/flasher"
	"nameplate/flasher/encode/aziot"
)

const (
	configPath = "/etc/aziot/config.toml"
	certPath   = "/var/aziot/certs/device-id.pem"
	keyPath    = "/var/aziot/secrets/device id.pem"
)

func options() flasher.Options {
	return flasher.Options{Store: flasher.Store{Format: "aziot",
		Config:      flasher.File{Path: configPath, Owner: "root:root"},
		Certificate: flasher.File{Path: certPath, Mode: 0o644},
		PrivateKey:  flasher.File{Path: keyPath, Owner: "aziotks:aziotks"},
	}}
}

func identity(a flasher.Attestation) flasher.Identity {
	id := flasher.Identity{RegistrationURL: "global.azure-devices-provisioning.net", IDScope: "0ne00112233", RegistrationID: "gw-17", Attestation: a}
	switch a {
	case flasher.SymmetricKey:
		id.SymmetricKey = flasher.Secret("azureiotidentityservice|azureiotidentityservice")
	case flasher.X509:
		id.Certificate = []byte("-----BEGIN CERTIFICATE-----\n")
	}
	return id
}

func injected() flasher.Identity {
	id := identity(flasher.X509)
	id.PrivateKey = flasher.Secret("-----BEGIN PRIVATE KEY-----\n")
	return id
}

// table is a table of TOML as another library reads it.
type table = map[string]any

func parse(t testing.TB, text []byte) table {
	t.Helper()
	var got table
	if err := toml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return got
}

func TestEncode(t *testing.T) {
	inFile, inTPM := options(), options()
	inFile.Key = flasher.DeviceKey{In: "file", File: flasher.File{Path: "/var/own%20key.pem"}}
	inTPM.Key = flasher.DeviceKey{In: "tpm", Handle: 0x81000010, Module: "/usr/lib/libtpm2_pkcs11.so", URI: "pkcs11:token=t;object=device%20id?pin-value=1234"}
	dps := func(attestation table) table {
		return table{"provisioning": table{"source": "dps", "global_endpoint": "https://global.azure-devices-provisioning.net",
			"id_scope": "0ne00112233", "attestation": attestation}}
	}
	x509 := func(key string) table {
		return dps(table{"method": "x509", "registration_id": "gw-17", "identity_cert": "file:///var/aziot/certs/device-id.pem", "identity_pk": key})
	}
	throughPKCS11 := x509(inTPM.Key.URI)
	throughPKCS11["aziot_keys"] = table{"pkcs11_lib_path": "/usr/lib/libtpm2_pkcs11.so"}
	for _, tt := range []struct {
		name   string
		id     flasher.Identity
		o      flasher.Options
		config table
		files  []string // what each begins with, by order; the last is the configuration
		secret []bool
	}{
		{"tpm", identity(flasher.TPM), options(), dps(table{"method": "tpm", "registration_id": "gw-17"}),
			[]string{configPath}, []bool{false}},
		{"symmetric key", identity(flasher.SymmetricKey), options(),
			dps(table{"method": "symmetric_key", "registration_id": "gw-17",
				"symmetric_key": table{"value": "YXp1cmVpb3RpZGVudGl0eXNlcnZpY2V8YXp1cmVpb3RpZGVudGl0eXNlcnZpY2U="}}),
			[]string{configPath}, []bool{true}},
		{"injected key", injected(), options(), x509("file:///var/aziot/secrets/device%20id.pem"),
			[]string{certPath, keyPath, configPath}, []bool{false, true, false}},
		{"key in a file of the device", identity(flasher.X509), inFile, x509("file:///var/own%2520key.pem"),
			[]string{certPath, configPath}, []bool{false, false}},
		{"key in the device's TPM", identity(flasher.X509), inTPM, throughPKCS11,
			[]string{certPath, configPath}, []bool{false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			made, err := aziot.Encode(tt.id, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var paths []string
			var secret []bool
			for _, f := range made {
				paths, secret = append(paths, f.Target), append(secret, f.Secret)
				want := map[string]string{certPath: string(tt.id.Certificate), keyPath: string(tt.id.PrivateKey)}[f.Target]
				if f.Target != configPath && string(f.Data) != want {
					t.Errorf("%s holds %q", f.Target, string(f.Data))
				}
			}
			if !reflect.DeepEqual(paths, tt.files) || !reflect.DeepEqual(secret, tt.secret) {
				t.Fatalf("made %q, secret %v, want %q, %v", paths, secret, tt.files, tt.secret)
			}
			if got := parse(t, made[len(made)-1].Data); !reflect.DeepEqual(got, tt.config) {
				t.Errorf("got %v, want %v", got, tt.config)
			}
		})
	}
}

// The file is written as the services' own documentation shows it, so that a
// person finds in it what the documentation speaks of.
func TestTextIsTheUsualOne(t *testing.T) {
	made, err := aziot.Encode(identity(flasher.SymmetricKey), options())
	if err != nil {
		t.Fatal(err)
	}
	const want = `[provisioning]
source = 'dps'
global_endpoint = 'https://global.azure-devices-provisioning.net'
id_scope = '0ne00112233'

[provisioning.attestation]
method = 'symmetric_key'
registration_id = 'gw-17'
symmetric_key = {value = 'YXp1cmVpb3RpZGVudGl0eXNlcnZpY2V8YXp1cmVpb3RpZGVudGl0eXNlcnZpY2U='}
`
	if got := string(made[0].Data); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if made[0].Mode != 0o600 || made[0].Owner != "root:root" {
		t.Errorf("mode %#o, owner %q", made[0].Mode, made[0].Owner)
	}
}

func TestMisfits(t *testing.T) {
	change := func(f func(*flasher.Identity, *flasher.Options)) (flasher.Identity, flasher.Options) {
		id, o := injected(), options()
		f(&id, &o)
		return id, o
	}
	for _, tt := range []struct {
		name   string
		change func(*flasher.Identity, *flasher.Options)
		says   string
	}{
		{"no scope", func(id *flasher.Identity, _ *flasher.Options) { id.IDScope = "" },
			"the identity lacks registration URL, ID scope or registration ID"},
		{"URL for a host", func(id *flasher.Identity, _ *flasher.Options) { id.RegistrationURL = "https://dps.example/" },
			`"https://dps.example/" is not the name of a host`},
		{"user in the host", func(id *flasher.Identity, _ *flasher.Options) { id.RegistrationURL = "a@b" }, `"a@b" is not the name of a host`},
		{"line in the host", func(id *flasher.Identity, _ *flasher.Options) { id.RegistrationURL = "a\nb" }, `"a\nb" is not the name of a host`},
		{"no file for the configuration", func(_ *flasher.Identity, o *flasher.Options) { o.Store.Config.Path = "" },
			"it names no file for config.toml"},
		{"no file for the certificate", func(_ *flasher.Identity, o *flasher.Options) { o.Store.Certificate.Path = "" },
			"it names no file for the certificate"},
		{"no file for the key", func(_ *flasher.Identity, o *flasher.Options) { o.Store.PrivateKey.Path = "" },
			"it names no file for the private key"},
		{"no certificate", func(id *flasher.Identity, _ *flasher.Options) { id.Certificate = nil }, "the identity has no certificate"},
		{"no key", func(id *flasher.Identity, _ *flasher.Options) { id.PrivateKey = nil },
			"the identity has no private key, and the device makes none"},
		{"two keys", func(_ *flasher.Identity, o *flasher.Options) { o.Key.In = "file" },
			"the identity brings a private key, and the device makes its own"},
		{"no symmetric key", func(id *flasher.Identity, _ *flasher.Options) { id.Attestation = flasher.SymmetricKey },
			"the identity has no symmetric key"},
		{"TPM without PKCS#11", func(id *flasher.Identity, o *flasher.Options) { id.PrivateKey = nil; o.Key.In = "tpm" },
			"these services reach a key in a TPM through PKCS#11 only, and no module and pkcs11: URI are given"},
		{"invented URI", func(id *flasher.Identity, o *flasher.Options) {
			id.PrivateKey = nil
			o.Key = flasher.DeviceKey{In: "tpm", Module: "/m.so", URI: "tpm:0x81000010"}
		}, "these services reach a key in a TPM through PKCS#11 only, and no module and pkcs11: URI are given"},
		{"no UTF-8", func(id *flasher.Identity, _ *flasher.Options) { id.RegistrationID = "\xb5" }, `"\xb5" is not UTF-8`},
		{"other attestation", func(id *flasher.Identity, _ *flasher.Options) { id.Attestation = "none" },
			`attestation "none" is not one that these services know`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, o := change(tt.change)
			if made, err := aziot.Encode(id, o); err == nil || err.Error() != tt.says {
				t.Errorf("got %v, %v, want %q", made, err, tt.says)
			}
		})
	}
}

// Whatever an identity holds, another reader of TOML finds it as it was.
func FuzzEncode(f *testing.F) {
	f.Add("gw-17", "0ne00112233", "/var/key.pem")
	f.Add("a'b\"\"\"c\\", "\n[x]\ny=1", "/ü?#%/ k")
	f.Add("\x00\x7f\u2028", "\t\r\n", "/")
	f.Fuzz(func(t *testing.T, registration, scope, path string) {
		id, o := identity(flasher.X509), options()
		id.RegistrationID, id.IDScope = registration, scope
		o.Key = flasher.DeviceKey{In: "tpm", Module: path, URI: "pkcs11:object=" + registration}
		made, err := aziot.Encode(id, o)
		if err != nil {
			return
		}
		got := parse(t, made[1].Data)
		provisioning := got["provisioning"].(table)
		attestation := provisioning["attestation"].(table)
		if provisioning["id_scope"] != scope || attestation["registration_id"] != registration ||
			attestation["identity_pk"] != "pkcs11:object="+registration || got["aziot_keys"].(table)["pkcs11_lib_path"] != path {
			t.Errorf("%q, %q, %q became\n%s", registration, scope, path, string(made[1].Data))
		}
	})
}
