package profile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"nameplate/flasher"
	"nameplate/records"
)

// Product is products/NAME.yaml: how one model gets its identity. An order
// carries the file's bytes into the ledger, so that a later change of the file
// touches no order that is open.
type Product struct {
	// Name is the file's name without .yaml.
	Name string `yaml:"name"`
	// Family is the device family: espressif (ESP32 chips through their boot
	// loader) or linux (boards with a shell on a serial console).
	Family string `yaml:"family"`
	// Attestation is how the devices prove who they are: symmetricKey (a key of
	// their own, random), x509 (a certificate from the customer's CA) or tpm (the
	// endorsement key of their TPM; family linux).
	Attestation string `yaml:"attestation"`
	// Key says, for x509, where the private key is made: injected (at the
	// station, kept in memory until it was found on the device), device (on the
	// device, by its own openssl, in a file) or tpm (in the device's TPM); the
	// last two for family linux. Not for symmetricKey and tpm.
	Key string `yaml:"key,optional"`
	// RegistrationID is the template of the registration ID: literal text with
	// {serial}, {mac} (12 hexadecimal digits) and, for devices with a TPM whose
	// endorsement key is rsa-2048, {ek} (52 characters: the ID that the service's
	// own tools derive from that key). It is lower-cased. At least one of them must be in it, and
	// it ends in at most 128 characters, 64 for x509.
	RegistrationID string `yaml:"registration_id"`
	// Device says which device is expected and where it keeps its identity.
	Device Device `yaml:"options"`
	// TPM says what is asked of the device's TPM; needed for attestation tpm and
	// for key tpm, and only there.
	TPM TPM `yaml:"tpm,optional"`
	// Certificate describes the leaf; only for x509, and needed there.
	Certificate Certificate `yaml:"certificate,optional"`
	// Limits bound the steps of a passage.
	Limits Limits `yaml:"limits,optional"`
	// Lock is refused: fuses and read protection are not yet supported.
	Lock Unsupported `yaml:"lock,optional"`
	// Label is refused: printing is not yet supported.
	Label Unsupported `yaml:"label,optional"`

	src source
}

// Device says which device is expected and where it keeps its identity.
type Device struct {
	// Chip is the chip that must be found, as the maker writes it: ESP32,
	// ESP32-S3, ESP32-C3, … For linux it is the board's model as its device tree
	// or its DMI table says it. Any other board is refused.
	Chip string `yaml:"chip"`
	// Baud is the speed of the transfer. Default: the family's first speed,
	// 115200.
	Baud int `yaml:"baud,optional"`
	// Interface is, for linux, the network interface whose address is the board's
	// MAC. Default eth0.
	Interface string `yaml:"interface,optional"`
	// Console is, for linux, how one logs in on the console; needed there.
	Console Console `yaml:"console,optional"`
	// Key is where a device keeps the key that it makes itself; for key device and
	// key tpm.
	Key DeviceKey `yaml:"key,optional"`
	// Store is where the device keeps its identity.
	Store Store `yaml:"store"`
}

// Console is how one logs in on a serial console, as root.
type Console struct {
	// User is the login name. Default root.
	User string `yaml:"user,optional"`
	// PasswordFile is a file that holds the password; a path within the station's
	// folder. Only its owner may read it. Without it the console asks for none.
	PasswordFile string `yaml:"password_file,optional"`
}

// DeviceKey is where a device keeps the key that it makes itself.
type DeviceKey struct {
	// Path is, for key device, the file on the device. Default
	// /var/aziot/secrets/device-id.key.pem.
	Path string `yaml:"path,optional"`
	// Owner is who may read that file: USER:GROUP on the device. Default root.
	Owner string `yaml:"owner,optional"`
	// Handle is, for key tpm, the persistent handle: "0x81000002" to "0x8100ffff";
	// those that are in use by the TPM's storage key and the service's own clients
	// (0x81000001, 0x81000100) are refused. Default "0x81000010".
	Handle string `yaml:"handle,optional"`
	// PKCS11 is, for key tpm and format aziot, how that software reaches the key:
	// it does so through PKCS#11 only, so the device's image must bring a module
	// and know the key by a URI. Without it use format files.
	PKCS11 PKCS11 `yaml:"pkcs11,optional"`
}

// PKCS11 is a key in a PKCS#11 module of the device.
type PKCS11 struct {
	// Module is the module's path on the device. A device without it is refused.
	Module string `yaml:"module"`
	// URI is the key's pkcs11: URI, as the image's maker has set it up.
	URI string `yaml:"uri"`
}

// Store is where and in what form the device keeps its identity.
type Store struct {
	// Format is, for espressif, nvs: the non-volatile storage of ESP-IDF. For
	// linux it is aziot (the config.toml of Azure IoT Edge and the identity
	// service) or files (plain files by template).
	Format string `yaml:"format"`
	// Partition is the label of the partition in the device's own table. All of
	// it is written anew. Default nvs.
	Partition string `yaml:"partition,optional"`
	// Namespace is the NVS namespace, 1 to 15 characters. Default identity.
	Namespace string `yaml:"namespace,optional"`
	// Keys are the NVS keys of the items, 1 to 15 characters each; those not
	// given keep their defaults: registration_url: reg_url, id_scope: id_scope,
	// registration_id: reg_id, symmetric_key: sym_key, certificate: cert,
	// private_key: priv_key.
	Keys map[string]string `yaml:"keys,optional"`
	// Config, for aziot, is the configuration file. Default
	// /etc/aziot/config.toml, mode 0600.
	Config File `yaml:"config,optional"`
	// Certificate, for aziot and x509, is the file for the certificate and the
	// issuing CA. Default /var/aziot/certs/device-id.pem, mode 0644.
	Certificate File `yaml:"certificate,optional"`
	// PrivateKey, for aziot and key injected, is the file for the key. Default
	// /var/aziot/secrets/device-id.key.pem, mode 0600.
	PrivateKey File `yaml:"private_key,optional"`
	// Files, for format files, are the files to write.
	Files []File `yaml:"files,optional"`
}

// File is a file on a device.
type File struct {
	// Path is absolute.
	Path string `yaml:"path,optional"`
	// Mode is the permission bits, octal in quotes: "0600". Default "0600".
	Mode string `yaml:"mode,optional"`
	// Owner is USER:GROUP on the device. Default root.
	Owner string `yaml:"owner,optional"`
	// Text, for format files, is what the file holds. {registration_url},
	// {id_scope}, {registration_id}, {symmetric_key} (base64), {certificate},
	// {private_key} (PEM) and {key_handle} are filled in.
	Text Text `yaml:"text,optional"`
}

// TPM says what is asked of a device's TPM.
type TPM struct {
	// EKCertificate is what is asked of the certificate that the TPM's maker put
	// in for the endorsement key: require (no unit without one that leads to a
	// root in Roots), record (what is wrong with it is recorded, and the unit
	// goes on) or none.
	EKCertificate string `yaml:"ek_certificate"`
	// EK is the kind of the endorsement key: rsa-2048, p-256 or p-384. The
	// provisioning service knows RSA alone; the others are for key tpm. Default
	// rsa-2048.
	EK string `yaml:"ek,optional"`
	// Roots is a folder within the station's folder with the TPM makers' roots
	// and intermediates, *.pem; needed unless EKCertificate is none. An order is
	// held to the roots that were there when it was opened.
	Roots string `yaml:"roots,optional"`
}

// Certificate describes the leaf.
type Certificate struct {
	// ValidDays is how long it is valid from the moment of issuing; the issuing
	// CA must outlive it.
	ValidDays int `yaml:"valid_days"`
	// Organization is the subject's O; at most 64 characters. Optional.
	Organization string `yaml:"organization,optional"`
}

// Limits bound the steps of a passage: when one is over, the step ends, the
// verdict is ERROR and the slot is free again.
type Limits struct {
	// Identify covers entering download mode up to the partition table; for linux
	// also the boot of a board that was just put in. Default 30s, 90s for linux.
	Identify time.Duration `yaml:"identify,optional"`
	// Write covers one write of the store. Default 2m.
	Write time.Duration `yaml:"write,optional"`
	// Verify covers one read-back of the store. Default 1m.
	Verify time.Duration `yaml:"verify,optional"`
	// Passage covers everything; at least the sum of the others. Default 5m.
	Passage time.Duration `yaml:"passage,optional"`
}

// defaultKeys leave room under NVS's limit of 15 characters.
var defaultKeys = map[string]string{
	flasher.ItemRegistrationURL: "reg_url",
	flasher.ItemIDScope:         "id_scope",
	flasher.ItemRegistrationID:  "reg_id",
	flasher.ItemSymmetricKey:    "sym_key",
	flasher.ItemCertificate:     "cert",
	flasher.ItemPrivateKey:      "priv_key",
}

func newProduct() Product {
	return Product{
		Device: Device{Interface: "eth0", Console: Console{User: "root"},
			Key: DeviceKey{Path: "/var/aziot/secrets/device-id.key.pem", Handle: "0x81000010"},
			Store: Store{Partition: "nvs", Namespace: "identity",
				Config:      File{Path: "/etc/aziot/config.toml"},
				Certificate: File{Path: "/var/aziot/certs/device-id.pem", Mode: "0644"},
				PrivateKey:  File{Path: "/var/aziot/secrets/device-id.key.pem"}}},
		TPM:    TPM{EK: "rsa-2048"},
		Limits: Limits{Identify: 30 * time.Second, Write: 2 * time.Minute, Verify: time.Minute, Passage: 5 * time.Minute},
	}
}

func loadProduct(file string) (Product, Problems, error) {
	p := newProduct()
	d, err := decodeFile(file, &p)
	if err != nil {
		return p, nil, err
	}
	d.product(&p)
	d.fileName(p.Name)
	return p, d.problems, nil
}

// ParseProduct decodes a product file as an order.opened event carries it: the
// passages of an open order follow those bytes, not today's file. name stands
// in Problems.
func ParseProduct(name string, raw []byte) (Product, error) {
	p := newProduct()
	d := decode(name, raw, &p)
	d.product(&p)
	return p, d.problems.orNil()
}

func (d *decoder) product(p *Product) {
	p.src = d.source
	d.name("name", p.Name)
	d.oneOf("family", p.Family, espressif, linux)
	attestations := []string{records.SymmetricKey, records.X509}
	if p.Family == linux {
		attestations = append(attestations, records.TPM)
	}
	d.oneOf("attestation", p.Attestation, attestations...)
	if slices.Contains(attestations, p.Attestation) {
		d.attestation(*p)
		d.tpm(*p)
	}
	d.template(*p)
	switch p.Family {
	case espressif:
		d.foreign(linux, "options.interface", "options.console", "options.key", "options.store.config", "options.store.certificate",
			"options.store.private_key", "options.store.files")
		d.device(p.Device)
	case linux:
		if _, given := d.lines["limits.identify"]; !given {
			p.Limits.Identify = 90 * time.Second
		}
		d.foreign(espressif, "options.store.partition", "options.store.namespace", "options.store.keys")
		d.board(*p)
	}
	d.limits(p.Limits)
	keys := maps.Clone(defaultKeys)
	maps.Copy(keys, p.Device.Store.Keys)
	p.Device.Store.Keys = keys
}

// The device families.
const (
	espressif = "espressif"
	linux     = "linux"
)

// HasTPM says that the product's devices have a TPM that is put to the proof.
func (p Product) HasTPM() bool {
	return p.Attestation == records.TPM || p.Key == records.KeyInTPM
}

// foreign refuses what only another family has.
func (d *decoder) foreign(family string, paths ...string) {
	for _, at := range paths {
		if _, given := d.lines[at]; given {
			d.bad(at, fmt.Sprintf("%s is only for family %s", at, family), "no such key", "remove it")
		}
	}
}

func (d *decoder) attestation(p Product) {
	_, key := d.lines["key"]
	_, certificate := d.lines["certificate"]
	switch p.Attestation {
	case records.SymmetricKey, records.TPM:
		if key {
			todo := "remove it; a symmetric key is always made at the station"
			if p.Attestation == records.TPM {
				todo = "remove it; the TPM's key is in it since it was made"
			}
			d.bad("key", "key is only for attestation x509", "no such key", todo)
		}
		if certificate {
			d.bad("certificate", "certificate is only for attestation x509", "no such section", "remove it")
		}
	case records.X509:
		switch {
		case !key:
			d.bad("key", "key is missing", "injected, or for family linux device or tpm", "say where the private key is made: add key: injected")
		case p.Family == linux:
			d.oneOf("key", p.Key, records.KeyInjected, records.KeyInFile, records.KeyInTPM)
		case p.Key == records.KeyInFile || p.Key == records.KeyInTPM:
			d.bad("key", "chips of family espressif cannot yet make their own key here", "injected",
				"use injected, or wait for a version that supports it")
		default:
			d.oneOf("key", p.Key, records.KeyInjected)
		}
		if !certificate {
			d.bad("certificate", "certificate is missing", "a section with valid_days", "add it")
			return
		}
		d.between("certificate.valid_days", int64(p.Certificate.ValidDays), 1, 36500)
		// X.520 ub-organization-name.
		if o := p.Certificate.Organization; utf8.RuneCountInString(o) > 64 || strings.ContainsFunc(o, unicode.IsControl) {
			d.bad("certificate.organization", "certificate.organization is too long or holds control characters", "at most 64 characters", "shorten it")
		}
	}
}

var placeholder = regexp.MustCompile(`\{[^{}]*\}|[{}]`)

func (d *decoder) template(p Product) {
	t := p.RegistrationID
	ek := p.HasTPM() && p.TPM.EK == "rsa-2048"
	names, either := "{serial} and {mac}", "{serial} or {mac}"
	if ek {
		names, either = "{serial}, {mac} and {ek}", "{serial}, {mac} or {ek}"
	}
	found := placeholder.FindAllString(t, -1)
	for _, f := range found {
		switch {
		case f == "{serial}", f == "{mac}", f == "{ek}" && ek:
		case f == "{ek}" && p.HasTPM():
			d.bad("registration_id", "registration_id holds {ek}, and tpm.ek is "+p.TPM.EK, "{ek} for rsa-2048 only", "use {serial} or {mac}")
		default:
			d.bad("registration_id", fmt.Sprintf("registration_id holds %s", f), names+" only", "correct the template")
		}
	}
	if len(found) == 0 {
		d.bad("registration_id", fmt.Sprintf("registration_id %q is the same for every unit", t), either+" in it", "add one of them")
	}
}

// The labels and keys of ESP-IDF: printable ASCII; 16 bytes for a partition's
// label, 15 for an NVS namespace or key (the 16th is a NUL).
var labelForm, nvsForm = regexp.MustCompile(`^[!-~]{1,16}$`), regexp.MustCompile(`^[!-~]{1,15}$`)

var chipForm = regexp.MustCompile(`^ESP[0-9]+(-[A-Z][0-9A-Z]*)?$`)

func (d *decoder) device(o Device) {
	if !chipForm.MatchString(o.Chip) {
		d.bad("options.chip", fmt.Sprintf("options.chip is %q", o.Chip), "a chip as the maker writes it, such as ESP32-C3", "correct the value")
	}
	if _, given := d.lines["options.baud"]; given {
		d.between("options.baud", int64(o.Baud), 9600, 3_000_000)
	}
	s := o.Store
	d.oneOf("options.store.format", s.Format, "nvs")
	if !labelForm.MatchString(s.Partition) {
		d.bad("options.store.partition", fmt.Sprintf("options.store.partition is %q", s.Partition), "1 to 16 printable characters", "write the label from the device's partition table")
	}
	const rule = "1 to 15 printable characters without spaces"
	if !nvsForm.MatchString(s.Namespace) {
		d.bad("options.store.namespace", fmt.Sprintf("options.store.namespace is %q", s.Namespace), rule, "correct the value")
	}
	items := slices.Sorted(maps.Keys(defaultKeys))
	used := map[string]string{}
	for _, item := range items {
		key, given := s.Keys[item]
		if !given {
			key = defaultKeys[item]
		}
		if other, twice := used[key]; twice {
			at := "options.store.keys." + item
			if !given {
				at = "options.store.keys." + other
			}
			d.bad(at, fmt.Sprintf("key %q is that of %s and of %s", key, other, item), "a key of its own for each item", "change one of them")
		}
		used[key] = item
	}
	for _, item := range slices.Sorted(maps.Keys(s.Keys)) {
		at := "options.store.keys." + item
		switch {
		case !slices.Contains(items, item):
			d.bad(at, fmt.Sprintf("%q is no item of an identity", item), "one of "+strings.Join(items, ", "), "correct the name")
		case !nvsForm.MatchString(s.Keys[item]):
			d.bad(at, fmt.Sprintf("%s is %q", at, s.Keys[item]), rule, "correct the value")
		}
	}
}

func (d *decoder) limits(l Limits) {
	const longest = time.Hour // a slot that is stuck for longer is a lost shift
	legal := true
	for _, x := range []struct {
		at string
		d  time.Duration
	}{{"limits.identify", l.Identify}, {"limits.write", l.Write}, {"limits.verify", l.Verify}, {"limits.passage", l.Passage}} {
		if x.d < time.Second || x.d > longest {
			d.bad(x.at, fmt.Sprintf("%s is %s", x.at, x.d), "a duration from 1s to 1h", "correct the value")
			legal = false
		}
	}
	if sum := l.Identify + l.Write + l.Verify; legal && l.Passage < sum {
		d.bad("limits.passage", fmt.Sprintf("limits.passage is %s", l.Passage),
			fmt.Sprintf("at least the sum of identify, write and verify (%s)", sum), "raise it, or lower one of them")
	}
}

// Options is what the device family needs to know. The console's password is not
// in it: see Set.Password.
func (p Product) Options() flasher.Options {
	s := p.Device.Store
	o := flasher.Options{Chip: p.Device.Chip, Baud: p.Device.Baud, Store: flasher.Store{Format: s.Format}}
	if p.Family == linux {
		p.linuxOptions(&o)
		return o
	}
	o.Store.Partition, o.Store.Namespace, o.Store.Keys = s.Partition, s.Namespace, maps.Clone(s.Keys)
	return o
}
