package ek

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca"
)

// Object is the public part of a TPM object (TPM 2.0 Part 2, 12.2.4).
type Object struct {
	NameAlg    tpm2.TPMAlgID
	Attributes uint32 // TPMA_OBJECT (Part 2, 8.3)
	Policy     []byte // authPolicy; empty: none
	// Symmetric is how a storage key protects its children: algorithm, bits, mode.
	Symmetric Symmetric
	// Scheme is what the key is bound to do, with its digest; TPM_ALG_NULL: whoever
	// uses it says.
	Scheme, SchemeHash tpm2.TPMAlgID
	KDF                tpm2.TPMAlgID // ECC only
	Exponent           uint32        // RSA only, as the object says it: 0 is 65537

	Key  crypto.PublicKey // *rsa.PublicKey, or *ecdsa.PublicKey on P-256 or P-384
	Name []byte           // nameAlg ‖ digest of the TPMT_PUBLIC (Part 1, 16)
}

// Symmetric is a TPMT_SYM_DEF_OBJECT (Part 2, 11.1.7).
type Symmetric struct {
	Algorithm tpm2.TPMAlgID // TPM_ALG_NULL: none
	Bits      uint16
	Mode      tpm2.TPMAlgID
}

// Decode reads a TPM2B_PUBLIC that a board gave. It takes no other encoding of an
// object than the one that a TPM makes, so that the same object is the same bytes.
func Decode(tpm2b []byte) (*Object, error) {
	outer := Reader{Rest: tpm2b}
	raw := outer.Sized()
	if !outer.Done() {
		return nil, errors.New("the bytes are not one TPM2B_PUBLIC of the size that it says (TPM 2.0 Part 2, 12.2.5)")
	}
	r := Reader{Rest: raw}
	var o Object
	kind := tpm2.TPMAlgID(r.Uint16())
	o.NameAlg = tpm2.TPMAlgID(r.Uint16())
	o.Attributes = r.Uint32()
	o.Policy = r.Sized()
	var err error
	switch kind {
	case tpm2.TPMAlgRSA:
		err = o.readRSA(&r)
	case tpm2.TPMAlgECC:
		err = o.readECC(&r)
	default:
		err = fmt.Errorf("its type 0x%04x is neither RSA nor ECC (TPM 2.0 Part 2, 12.2.2)", uint16(kind))
	}
	switch {
	case r.Short:
		return nil, errors.New("the TPMT_PUBLIC ends too early (TPM 2.0 Part 2, 12.2.4)")
	case err != nil:
		return nil, err
	case !r.Done():
		return nil, errors.New("something follows the TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4)")
	}
	o.Name = binary.BigEndian.AppendUint16(nil, uint16(o.NameAlg))
	switch o.NameAlg {
	case tpm2.TPMAlgSHA256:
		sum := sha256.Sum256(raw)
		o.Name = append(o.Name, sum[:]...)
	case tpm2.TPMAlgSHA384:
		sum := sha512.Sum384(raw)
		o.Name = append(o.Name, sum[:]...)
	default:
		return nil, fmt.Errorf("its name algorithm 0x%04x is neither SHA-256 nor SHA-384 (TPM 2.0 Part 1, 16)", uint16(o.NameAlg))
	}
	return &o, nil
}

// readRSA reads TPMS_RSA_PARMS (Part 2, 12.2.3.5) and the modulus.
func (o *Object) readRSA(r *Reader) error {
	o.readSymmetric(r)
	o.Scheme = tpm2.TPMAlgID(r.Uint16())
	if o.Scheme != tpm2.TPMAlgNull && o.Scheme != tpm2.TPMAlgRSAES {
		o.SchemeHash = tpm2.TPMAlgID(r.Uint16())
	}
	bits := int(r.Uint16())
	o.Exponent = r.Uint32()
	modulus := r.Sized()
	n := new(big.Int).SetBytes(modulus)
	if 8*len(modulus) != bits || n.BitLen() != bits || n.Bit(0) == 0 {
		return fmt.Errorf("its modulus is not an odd number of %d bits (TPM 2.0 Part 2, 11.2.4.5)", bits)
	}
	e := int(o.Exponent)
	if e == 0 {
		e = 65537
	}
	o.Key = &rsa.PublicKey{N: n, E: e}
	return nil
}

// readECC reads TPMS_ECC_PARMS (Part 2, 12.2.3.6) and the point.
func (o *Object) readECC(r *Reader) error {
	o.readSymmetric(r)
	o.Scheme = tpm2.TPMAlgID(r.Uint16())
	if o.Scheme == tpm2.TPMAlgECDAA {
		return errors.New("it is bound to ECDAA, which nobody here checks (TPM 2.0 Part 2, 11.2.5.6)")
	}
	if o.Scheme != tpm2.TPMAlgNull {
		o.SchemeHash = tpm2.TPMAlgID(r.Uint16())
	}
	id := tpm2.TPMECCCurve(r.Uint16())
	if o.KDF = tpm2.TPMAlgID(r.Uint16()); o.KDF != tpm2.TPMAlgNull {
		r.Uint16() // its digest
	}
	x, y := r.Sized(), r.Sized()
	var curve elliptic.Curve
	switch id {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	default:
		return fmt.Errorf("its curve 0x%04x is neither P-256 nor P-384 (TPM 2.0 Part 2, 6.4)", uint16(id))
	}
	// The bytes name a TPM: with its leading zeros left out, one key would have two
	// names.
	size := curve.Params().BitSize / 8
	if len(x) != size || len(y) != size {
		return errors.New("its point has a coordinate that is not of full length (TPM 2.0 Part 1, C.8)")
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed (SEC 1, 2.3.4)
	copy(point[1:], x)
	copy(point[1+size:], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return fmt.Errorf("its point is not on the curve (TPM 2.0 Part 1, C.8): %w", err)
	}
	o.Key = key
	return nil
}

func (o *Object) readSymmetric(r *Reader) {
	o.Symmetric.Algorithm = tpm2.TPMAlgID(r.Uint16())
	if o.Symmetric.Algorithm != tpm2.TPMAlgNull {
		o.Symmetric.Bits = r.Uint16()
		o.Symmetric.Mode = tpm2.TPMAlgID(r.Uint16())
	}
}

// Reader takes apart what a TPM marshalled: big-endian numbers and sized byte
// strings (Part 2, 4). Its own decoder, because a board's bytes are hostile, the
// library's is lenient, and replay reads a million of them. What is read beyond
// the end is zero, and Short says so.
type Reader struct {
	Rest  []byte
	Short bool
}

func (r *Reader) take(n int) []byte {
	if r.Short || n > len(r.Rest) {
		r.Short = true
		return make([]byte, min(n, 8)) // enough for a number
	}
	taken := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return taken
}

func (r *Reader) Uint8() uint8   { return r.take(1)[0] }
func (r *Reader) Uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *Reader) Uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *Reader) Uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// Sized reads a TPM2B: 16 bits of size, then the bytes.
func (r *Reader) Sized() []byte { return r.take(int(r.Uint16())) }

// Done says that everything was there, and nothing is left.
func (r *Reader) Done() bool { return !r.Short && len(r.Rest) == 0 }

// template is one of the endorsement keys that the TCG describes (EK Credential
// Profile, annex B). Those of the high range may also be used with their own
// authorization, and their policy is one of two.
type template struct {
	name, section string
	key           string
	nameAlg       tpm2.TPMAlgID
	attributes    uint32
	policy        []byte
	aes           uint16
}

const (
	// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted,
	// decrypt; for the high range userWithAuth too (Part 2, 8.3).
	lowRange  = 0x000300b2
	highRange = 0x000300f2
)

// The policies are those of EK Credential Profile B.6: A is PolicySecret with the
// endorsement hierarchy, B is A or what a certain NV index says.
var (
	policyA    = unhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
	policyB256 = unhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
	policyB384 = unhex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12")
)

// For each kind of key the usual template comes first.
var templates = []template{
	{"L-1", "B.3.3", "RSA-2048", tpm2.TPMAlgSHA256, lowRange, policyA, 128},
	{"H-1", "B.4.4", "RSA-2048", tpm2.TPMAlgSHA256, highRange, policyB256, 128},
	{"L-2", "B.3.4", "P-256", tpm2.TPMAlgSHA256, lowRange, policyA, 128},
	{"H-2", "B.4.5", "P-256", tpm2.TPMAlgSHA256, highRange, policyB256, 128},
	{"H-3", "B.4.6", "P-384", tpm2.TPMAlgSHA384, highRange, policyB384, 256},
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Public reads an endorsement key's TPM2B_PUBLIC and holds it against the
// templates of the TCG: RSA-2048, P-256 and P-384. The error joins one sentence
// for each check that failed.
func Public(tpm2b []byte) (*Object, error) {
	o, _, err := public(tpm2b)
	return o, err
}

func public(tpm2b []byte) (*Object, *template, error) {
	o, err := Decode(tpm2b)
	if err != nil {
		return nil, nil, err
	}
	kind := kindOf(o.Key)
	var t *template
	for i := range templates {
		if c := &templates[i]; c.key == kind && (t == nil || bytes.Equal(c.policy, o.Policy)) {
			t = c
		}
	}
	if t == nil {
		return nil, nil, fmt.Errorf("it is %s; endorsement keys here are RSA-2048, P-256 or P-384 (EK Credential Profile B)", kind)
	}
	var failed []error
	check := func(ok bool, sentence string, args ...any) {
		if !ok {
			args = append(args, t.name, t.section)
			failed = append(failed, fmt.Errorf(sentence+" (EK Credential Profile, template %s, %s)", args...))
		}
	}
	check(bytes.Equal(o.Policy, t.policy), "its authorization policy is %x, not that of an endorsement key", o.Policy)
	check(o.NameAlg == t.nameAlg, "its name algorithm is 0x%04x, not 0x%04x", uint16(o.NameAlg), uint16(t.nameAlg))
	check(o.Attributes == t.attributes, "its attributes are 0x%08x, not 0x%08x", o.Attributes, t.attributes)
	check(o.Symmetric == Symmetric{tpm2.TPMAlgAES, t.aes, tpm2.TPMAlgCFB}, "it does not protect its children with AES-%d in CFB mode", t.aes)
	check(o.Scheme == tpm2.TPMAlgNull, "it is bound to the scheme 0x%04x", uint16(o.Scheme))
	if kind == "RSA-2048" {
		check(o.Exponent == 0, "its exponent is %d, not the usual one", o.Exponent)
	} else {
		check(o.KDF == tpm2.TPMAlgNull, "it is bound to the key derivation 0x%04x", uint16(o.KDF))
	}
	return o, t, errors.Join(failed...)
}

func kindOf(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return k.Params().Name
	}
	return fmt.Sprintf("a %T", key)
}

// RegistrationID is the name that the provisioning service's own tools derive from
// an endorsement key: the SHA-256 of the whole TPM2B_PUBLIC, its size included, in
// lower-case base32 without padding; 52 characters.
func RegistrationID(tpm2b []byte) string {
	sum := sha256.Sum256(tpm2b)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}

// Refuse makes a Refusal of an endorsement key that Public found fault with.
func Refuse(err error) *ca.Refusal {
	return &ca.Refusal{Code: unusable, Sentence: "The board's endorsement key is not of a kind that TPM makers provide.",
		Next: "Set the board aside: its TPM was changed, or is of a kind that this station does not know.", Err: err}
}

// ServiceCapable refuses an endorsement key that the provisioning service and its
// device SDKs cannot use: they know the template L-1 alone, RSA-2048.
func ServiceCapable(tpm2b []byte) error {
	o, t, err := public(tpm2b)
	if err != nil {
		return Refuse(err)
	}
	if t.name != "L-1" {
		return &ca.Refusal{Code: "ek-not-for-service",
			Sentence: fmt.Sprintf("The board's endorsement key is %s; the provisioning service takes RSA-2048 only.", kindOf(o.Key)),
			Next:     "Correct the product's profile: these boards can be given an X.509 key in their TPM.",
			Err:      fmt.Errorf("it is of the template %s, not L-1 (EK Credential Profile %s)", t.name, t.section)}
	}
	return nil
}
