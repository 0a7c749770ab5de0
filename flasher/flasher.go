// Package flasher is the vocabulary of writing an identity into a device: what
// to write, what was found, what a device family must be able to do. The rooms
// below do the work: link carries bytes, encode turns an identity into the
// device's own format, and one package per family speaks to its chips.
package flasher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"nameplate/flasher/link"
)

// Attestation is how a device proves who it is to its provisioning service.
// The values are those of the service's own API (DPS 2021-10-01,
// AttestationMechanism.type).
type Attestation string

const (
	SymmetricKey Attestation = "symmetricKey"
	X509         Attestation = "x509"
	TPM          Attestation = "tpm"
)

// Secret is bytes that must never be printed: every fmt verb, JSON and text
// marshalling of it yields a placeholder.
type Secret []byte

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, "[secret]") }
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Wipe overwrites the bytes in place.
func (s Secret) Wipe() { clear(s) }

// Identity is what a device is given. Attestation says what is set beside the
// names: SymmetricKey; Certificate, with PrivateKey if the device did not make
// its own; nothing for TPM, whose key is in the device since it was built.
type Identity struct {
	RegistrationURL string // host name of the device endpoint, e.g. global.azure-devices-provisioning.net
	IDScope         string // "0ne" and 8 characters
	RegistrationID  string
	Attestation     Attestation
	SymmetricKey    Secret // raw bytes, 16 to 64
	Certificate     []byte // PEM: the leaf, then the issuing CA
	PrivateKey      Secret // PEM: PKCS#8
	Salt            []byte // 16 random bytes; salts the digests of secret items in the manifest
}

// Options is what a product says about its devices and their storage.
type Options struct {
	Chip  string // the chip that must be found, e.g. "ESP32-C3"; any other is refused. For linux the board's model
	Baud  int    // speed for the transfer; 0 keeps the family's first speed
	Store Store

	// For family linux.
	Console   Console
	Interface string    // the network interface whose address is the board's MAC, e.g. "eth0"
	TPM       bool      // the board has a TPM, which is read when the board is identified
	EK        string    // the kind of its endorsement key: "rsa-2048", also if empty; "p-256", "p-384"
	Key       DeviceKey // the key that the board makes itself, if the product wants one
}

// Console is how one becomes root on a serial console.
type Console struct {
	User     string
	Password Secret // empty: the console asks for none
}

// DeviceKey is where a device keeps the X.509 key that it made itself.
type DeviceKey struct {
	In     string // "file", "tpm"; "": the device makes no key
	File   File   // for "file": where the key (PEM, PKCS#8) is kept
	Handle uint32 // for "tpm": the persistent handle
	// Module and URI are for software that reaches a key in the TPM through
	// PKCS#11 only: the module's path, which must exist on the board, and the
	// key's pkcs11: URI as the image's maker says it. Both or neither.
	Module, URI string
}

// Store is where and how a device keeps its identity.
type Store struct {
	Format    string // "nvs"; for linux "aziot" or "files"
	Partition string // partition label, e.g. "nvs"
	Namespace string // NVS namespace
	// Keys gives the name under which each item is stored, by item name
	// (ItemRegistrationURL ...). Items that the attestation does not have are
	// not written.
	Keys map[string]string

	// For "aziot": the config.toml of Azure IoT Edge and the identity service,
	// and the files it names. PrivateKey is for a key that was injected.
	Config, Certificate, PrivateKey File
	// For "files": each is written from its Text.
	Files []File
}

// File is a file in a device's file system.
type File struct {
	Path  string // absolute
	Mode  uint32 // permission bits
	Owner string // "user:group", as chown takes it; "": who writes it, root
	// Text, for format "files", is what the file holds, with {registration_url},
	// {id_scope}, {registration_id}, {symmetric_key} (base64), {certificate},
	// {private_key} (PEM) and {key_handle} (0x…) in it.
	Text string
}

// The items of an identity, by name: keys of Store.Keys and names in a Manifest.
const (
	ItemRegistrationURL = "registration_url"
	ItemIDScope         = "id_scope"
	ItemRegistrationID  = "registration_id"
	ItemSymmetricKey    = "symmetric_key"
	ItemCertificate     = "certificate"
	ItemPrivateKey      = "private_key"
	ItemEndorsementKey  = "endorsement_key" // of the device's TPM
)

// How says by what means an item can be found again on the device.
type How string

const (
	ByBytes  How = "bytes"  // the station reads the stored bytes back
	ByDigest How = "digest" // the device computes a digest over what it stored
	// ByPossession: the device proves that it holds a private key. The item's
	// SHA256 is that of the public key: the subject public key info, or for an
	// endorsement key the TPM2B_PUBLIC.
	ByPossession How = "possession"
)

// Item is one thing on a device: its name and the SHA-256 of Salt‖bytes (Salt
// is empty for what is not secret), both lower-case hex.
type Item struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Salt   string `json:"salt,omitempty"`
	How    How    `json:"how"`
	// Proof is how possession was shown, in what was found.
	Proof *Proof `json:"proof,omitempty"`
}

// Proof is a signature by a device's key over a challenge that the station drew
// at random: ECDSA (ASN.1) over SHA-256 of Challenge.
type Proof struct {
	Challenge []byte `json:"challenge"` // 32 bytes
	Public    []byte `json:"public"`    // DER SubjectPublicKeyInfo
	Signature []byte `json:"signature"`
}

// Manifest is what is, or shall be, on a device, item by item, in a fixed order.
type Manifest []Item

// NewItem makes the item for bytes; salt is nil for what is not secret.
func NewItem(name string, salt, b []byte, how How) Item {
	h := sha256.New()
	h.Write(salt)
	h.Write(b)
	return Item{Name: name, SHA256: hex.EncodeToString(h.Sum(nil)), Salt: hex.EncodeToString(salt), How: how}
}

// Missing returns the names of those items of m that found does not hold with
// the same digest; one without a digest can never be found. Empty means:
// everything arrived.
func (m Manifest) Missing(found Manifest) []string {
	has := make(map[string]string, len(found))
	for _, it := range found {
		has[it.Name] = it.SHA256
	}
	var missing []string
	for _, it := range m {
		if it.SHA256 == "" || has[it.Name] != it.SHA256 {
			missing = append(missing, it.Name)
		}
	}
	return missing
}

// Plan is everything that Write will do, decided before the first byte.
type Plan struct {
	Manifest Manifest
	Segments []Segment
}

// Segment is a run of bytes for one place in the device's storage.
type Segment struct {
	Target string // partition label; for linux the file's path
	Offset uint32 // from the start of the device's storage
	Mode   uint32 // of a file
	Owner  string // of a file
	Data   Secret // it holds keys
}

// Progress is how far a long operation has come. Total is never 0.
type Progress struct {
	Step        string // "erase", "write", "check", "read back"
	Done, Total int64  // bytes
}

// HardwareID is a name the silicon gives: kind ("mac", "chip-uid", …) and value,
// lower-case, as printed on labels (a MAC as aa:bb:cc:dd:ee:ff).
type HardwareID struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// Facts is what a device said about itself when it was identified.
type Facts struct {
	Family      string
	Chip        string
	HardwareIDs []HardwareID
	Security    Security
	FlashSize   uint32 // bytes
	Partitions  []Partition
	StoreBlank  bool // the place for the identity is erased
	KeyHeld     bool // the device holds a key where Options.Key says
	// Endorsement is what the device's TPM says of itself; nil without
	// Options.TPM. The hardware IDs then have one of kind "ek": the registration
	// ID that the provisioning service's own tools derive from the EK.
	Endorsement *Endorsement
}

// Security is a device's lock state. Raw is the chip's own answer, hex, kept as
// evidence.
type Security struct {
	SecureBoot      bool
	FlashEncryption bool
	Raw             string
}

// Partition is one row of a device's partition table; sizes in bytes.
type Partition struct {
	Name          string
	Type, Subtype uint8
	Offset, Size  uint32
	Encrypted     bool
}

// Driver finds devices of one family.
type Driver interface {
	Family() string
	// Probe identifies the device on the port and checks that the product fits
	// it, changing nothing that survives a reset but one: a TPM without an
	// endorsement key at its handle gets it made and persisted, so that everybody
	// after us finds the same one. An unknown or unexpected chip,
	// a silent or locked one, a missing or too small partition is a Refusal,
	// never a guess. The caller closes the Device.
	Probe(ctx context.Context, p link.Port, o Options) (Device, error)
}

// Device is one identified device on its link. Its methods are called by one
// goroutine at a time. An error that wraps link.ErrGone means the cable or the
// device is gone; one that wraps ErrSwapped, that another device answers now.
type Device interface {
	Facts() Facts
	// Can is what the device can do beside being written.
	Can() Powers
	// Plan decides what to write where. It does no I/O and is the same for the
	// same identity; a misfit is a Refusal.
	Plan(Identity) (Plan, error)
	// Write stores the plan and lets the device check what it stored. It first
	// makes sure that the device is still the identified one. on may be nil.
	Write(ctx context.Context, p Plan, on func(Progress)) error
	// ReadBack reads the device's storage again, independently of Write, and
	// returns those of the items that are there, digested with the items' own
	// salts. Storage that cannot be parsed yields an empty manifest, not an error.
	ReadBack(ctx context.Context, items []Item) (Manifest, error)
	// Close resets the device into its application and gives the port back.
	Close(ctx context.Context) error
}

// Refusal is a "no" that a person can act on.
type Refusal struct {
	Code     string // for machines, stable: "board-silent"
	Sentence string // what is wrong
	Next     string // what to do
	Err      error  // the cause, for engineers; may be nil
}

func (r *Refusal) Error() string { return r.Sentence + " " + r.Next }
func (r *Refusal) Unwrap() error { return r.Err }

// ErrSwapped is wrapped by the refusal of a device that is not the one that was
// identified at the start.
var ErrSwapped = fmt.Errorf("another device answers on this port")
