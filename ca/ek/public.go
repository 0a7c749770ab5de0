package ek

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
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

// Object is the public part of a TPM object.
type Object struct {
	Area       *tpm2.TPMTPublic
	Attributes uint32           // TPMA_OBJECT (TPM 2.0 Part 2, 8.3)
	Key        crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	Name       []byte           // nameAlg ‖ digest of the TPMT_PUBLIC (Part 1, 16)
}

// Decode reads a TPM2B_PUBLIC that a board gave. It takes no other encoding of an
// object than the one that a TPM makes, so that the same object is the same bytes.
func Decode(tpm2b []byte) (*Object, error) {
	if len(tpm2b) < 2 || int(binary.BigEndian.Uint16(tpm2b)) != len(tpm2b)-2 {
		return nil, errors.New("the bytes are not one TPM2B_PUBLIC of the size that it says (TPM 2.0 Part 2, 12.2.5)")
	}
	raw := tpm2b[2:]
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return nil, fmt.Errorf("the bytes are not one TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4): %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(area), raw) {
		return nil, errors.New("the TPMT_PUBLIC is not encoded as a TPM does (TPM 2.0 Part 2, 12.2.4)")
	}
	h, err := area.NameAlg.Hash()
	if err != nil {
		return nil, fmt.Errorf("its name algorithm is unknown (TPM 2.0 Part 1, 16): %w", err)
	}
	key, err := publicKey(area)
	if err != nil {
		return nil, err
	}
	name := binary.BigEndian.AppendUint16(nil, uint16(area.NameAlg))
	digest := h.New()
	digest.Write(raw)
	return &Object{Area: area, Attributes: binary.BigEndian.Uint32(raw[4:]), Key: key, Name: digest.Sum(name)}, nil
}

func publicKey(area *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	switch area.Type {
	case tpm2.TPMAlgRSA:
		parms, err := area.Parameters.RSADetail()
		if err != nil {
			return nil, fmt.Errorf("it has no RSA parameters (TPM 2.0 Part 2, 12.2.3.5): %w", err)
		}
		modulus, err := area.Unique.RSA()
		if err != nil {
			return nil, fmt.Errorf("it has no RSA modulus (TPM 2.0 Part 2, 11.2.4.5): %w", err)
		}
		n := new(big.Int).SetBytes(modulus.Buffer)
		if len(modulus.Buffer) != int(parms.KeyBits)/8 || n.BitLen() != int(parms.KeyBits) || n.Bit(0) == 0 {
			return nil, fmt.Errorf("its modulus is not an odd number of %d bits (TPM 2.0 Part 2, 11.2.4.5)", parms.KeyBits)
		}
		e := int(parms.Exponent)
		if e == 0 {
			e = 65537 // Part 2, 12.2.3.5
		}
		return &rsa.PublicKey{N: n, E: e}, nil
	case tpm2.TPMAlgECC:
		parms, err := area.Parameters.ECCDetail()
		if err != nil {
			return nil, fmt.Errorf("it has no ECC parameters (TPM 2.0 Part 2, 12.2.3.6): %w", err)
		}
		point, err := area.Unique.ECC()
		if err != nil {
			return nil, fmt.Errorf("it has no point (TPM 2.0 Part 2, 11.2.5.2): %w", err)
		}
		var curve elliptic.Curve
		switch parms.CurveID {
		case tpm2.TPMECCNistP256:
			curve = elliptic.P256()
		case tpm2.TPMECCNistP384:
			curve = elliptic.P384()
		default:
			return nil, fmt.Errorf("its curve 0x%04x is neither P-256 nor P-384 (TPM 2.0 Part 2, 6.4)", uint16(parms.CurveID))
		}
		size := (curve.Params().BitSize + 7) / 8
		x, y := point.X.Buffer, point.Y.Buffer
		if len(x) > size || len(y) > size {
			return nil, errors.New("its point has a coordinate that is too long (TPM 2.0 Part 2, 11.2.5.2)")
		}
		uncompressed := make([]byte, 1+2*size)
		uncompressed[0] = 4
		copy(uncompressed[1+size-len(x):], x)
		copy(uncompressed[1+2*size-len(y):], y)
		key, err := ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
		if err != nil {
			return nil, fmt.Errorf("its point is not on the curve (TPM 2.0 Part 1, C.8): %w", err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("its type 0x%04x is neither RSA nor ECC (TPM 2.0 Part 2, 12.2.2)", uint16(area.Type))
}

// template is one of the endorsement keys that the TCG describes (EK Credential
// Profile, annex B). Those of the high range may also be used with their own
// authorization, and their policy is one of two.
type template struct {
	name, section string
	key           string
	nameAlg       tpm2.TPMAlgID
	attributes    uint32
	policy        []byte
	aes           tpm2.TPMKeyBits
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
		if c := &templates[i]; c.key == kind && (t == nil || bytes.Equal(c.policy, o.Area.AuthPolicy.Buffer)) {
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
	check(bytes.Equal(o.Area.AuthPolicy.Buffer, t.policy), "its authorization policy is %x, not that of an endorsement key", o.Area.AuthPolicy.Buffer)
	check(o.Area.NameAlg == t.nameAlg, "its name algorithm is 0x%04x, not 0x%04x", uint16(o.Area.NameAlg), uint16(t.nameAlg))
	check(o.Attributes == t.attributes, "its attributes are 0x%08x, not 0x%08x", o.Attributes, t.attributes)
	var sym tpm2.TPMTSymDefObject
	switch kind {
	case "RSA-2048":
		parms, _ := o.Area.Parameters.RSADetail()
		sym = parms.Symmetric
		check(parms.Scheme.Scheme == tpm2.TPMAlgNull, "it is bound to the scheme 0x%04x", uint16(parms.Scheme.Scheme))
		check(parms.Exponent == 0, "its exponent is %d, not the usual one", parms.Exponent)
	default:
		parms, _ := o.Area.Parameters.ECCDetail()
		sym = parms.Symmetric
		check(parms.Scheme.Scheme == tpm2.TPMAlgNull, "it is bound to the scheme 0x%04x", uint16(parms.Scheme.Scheme))
		check(parms.KDF.Scheme == tpm2.TPMAlgNull, "it is bound to the key derivation 0x%04x", uint16(parms.KDF.Scheme))
	}
	check(isAES(sym, t.aes), "it does not protect its children with AES-%d in CFB mode", t.aes)
	return o, t, errors.Join(failed...)
}

func isAES(sym tpm2.TPMTSymDefObject, want tpm2.TPMKeyBits) bool {
	if sym.Algorithm != tpm2.TPMAlgAES {
		return false
	}
	bits, err := sym.KeyBits.AES()
	if err != nil || *bits != want {
		return false
	}
	mode, err := sym.Mode.AES()
	return err == nil && *mode == tpm2.TPMAlgCFB
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
