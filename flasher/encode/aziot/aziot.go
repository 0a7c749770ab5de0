// Package aziot turns an identity into config.toml of the Azure IoT identity
// service and of IoT Edge, and the files it names. The settings are those of the
// services' own reader (Azure/iot-identity-service, aziotctl-common,
// config/super_config.rs, DpsAttestationMethod and Config) and of IoT Edge's
// template (Azure/iotedge, contrib/config/linux/template.toml, "DPS
// provisioning" and "PKCS#11").
package aziot

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"

	"nameplate/flasher"
	"nameplate/flasher/encode/files"
)

type config struct {
	Provisioning provisioning `toml:"provisioning"`
	Keys         *keys        `toml:"aziot_keys,omitempty"`
}

type provisioning struct {
	Source         string      `toml:"source"`
	GlobalEndpoint string      `toml:"global_endpoint"`
	IDScope        string      `toml:"id_scope"`
	Attestation    attestation `toml:"attestation"`
}

type attestation struct {
	Method         string        `toml:"method"`
	RegistrationID string        `toml:"registration_id"`
	SymmetricKey   *symmetricKey `toml:"symmetric_key,inline,omitempty"`
	IdentityCert   string        `toml:"identity_cert,omitempty"`
	IdentityPK     string        `toml:"identity_pk,omitempty"`
}

type symmetricKey struct {
	Value string `toml:"value"`
}

// keys are settings of the keys service; the library reaches keys in hardware.
type keys struct {
	Library string `toml:"pkcs11_lib_path"`
}

// pkcs11 is the scheme of a key's URI in a PKCS#11 module, which may hold a PIN
// (RFC 7512, 2.3 and 2.4).
const pkcs11 = "pkcs11:"

// Encode makes the files of an identity, config.toml last, which names the
// others. An error means that the services cannot take it as o says.
func Encode(id flasher.Identity, o flasher.Options) ([]files.File, error) {
	if id.RegistrationURL == "" || id.IDScope == "" || id.RegistrationID == "" {
		return nil, errors.New("the identity lacks registration URL, ID scope or registration ID")
	}
	endpoint := url.URL{Scheme: "https", Host: id.RegistrationURL}
	if u, err := url.Parse(endpoint.String()); err != nil || u.Host != id.RegistrationURL || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is not the name of a host", id.RegistrationURL)
	}
	for _, text := range []string{id.IDScope, id.RegistrationID, o.Key.URI, o.Key.Module} {
		if !utf8.ValidString(text) { // as TOML is; it would be altered without a word
			return nil, fmt.Errorf("%q is not UTF-8", text)
		}
	}
	s := o.Store
	if s.Config.Path == "" {
		return nil, errors.New("it names no file for config.toml")
	}
	c := config{Provisioning: provisioning{
		Source: "dps", GlobalEndpoint: endpoint.String(), IDScope: id.IDScope,
		Attestation: attestation{RegistrationID: id.RegistrationID},
	}}
	a := &c.Provisioning.Attestation
	var made []files.File
	secret := false
	switch id.Attestation {
	case flasher.TPM:
		a.Method = "tpm"
	case flasher.SymmetricKey:
		if len(id.SymmetricKey) == 0 {
			return nil, errors.New("the identity has no symmetric key")
		}
		a.Method, secret = "symmetric_key", true
		a.SymmetricKey = &symmetricKey{base64.StdEncoding.EncodeToString(id.SymmetricKey)}
	case flasher.X509:
		key, injected, err := privateKey(id, o)
		if err != nil {
			return nil, err
		}
		if len(id.Certificate) == 0 {
			return nil, errors.New("the identity has no certificate")
		}
		if s.Certificate.Path == "" {
			return nil, errors.New("it names no file for the certificate")
		}
		a.Method, a.IdentityCert, a.IdentityPK = "x509", fileURI(s.Certificate.Path), key
		made = append(made, files.New(s.Certificate, id.Certificate, false))
		if injected {
			made = append(made, files.New(s.PrivateKey, id.PrivateKey, true))
		}
		if strings.HasPrefix(key, pkcs11) {
			c.Keys = &keys{o.Key.Module}
			secret = strings.Contains(key, "pin-value=")
		}
	default:
		return nil, fmt.Errorf("attestation %q is not one that these services know", id.Attestation)
	}
	text, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("marshalling config.toml: %w", err)
	}
	return append(made, files.New(s.Config, text, secret)), nil
}

// privateKey is the URI under which the services find the key, and whether the
// key is one of the files.
func privateKey(id flasher.Identity, o flasher.Options) (uri string, injected bool, err error) {
	switch k := o.Key; {
	case len(id.PrivateKey) > 0 && k.In != "":
		return "", false, errors.New("the identity brings a private key, and the device makes its own")
	case len(id.PrivateKey) > 0 && o.Store.PrivateKey.Path == "":
		return "", false, errors.New("it names no file for the private key")
	case len(id.PrivateKey) > 0:
		return fileURI(o.Store.PrivateKey.Path), true, nil
	case k.In == "file":
		return fileURI(k.File.Path), false, nil
	case k.In == "tpm" && (k.Module == "" || !strings.HasPrefix(k.URI, pkcs11)):
		return "", false, errors.New("these services reach a key in a TPM through PKCS#11 only, and no module and pkcs11: URI are given")
	case k.In == "tpm":
		return k.URI, false, nil
	}
	return "", false, errors.New("the identity has no private key, and the device makes none")
}

func fileURI(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
