package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Kind is which of its endorsement keys a TPM is asked for. A TPM may have
// several; the provisioning service knows RSA2048 only.
type Kind string

const (
	RSA2048 Kind = "rsa-2048"
	P256    Kind = "p-256"
	P384    Kind = "p-384"
)

// endorsement is where an endorsement key and its certificate are, how the key
// is made, and how its policy is met: the endorsement hierarchy gives its word,
// and where the policy has several branches that is the first.
type endorsement struct {
	handle   uint32
	index    uint32
	template tpm2.TPMTPublic
	branches []tpm2.TPM2BDigest
}

// endorsements: NV indices, templates and policies are those of the TCG EK
// Credential Profile 2.5, Annex B: L-1, L-2, H-3. For the handles it has a range
// only; 0x81010001 is where everybody looks for the RSA key, and the others'
// last byte is that of the certificate's index, as swtpm has it.
//
// The third has a password, empty, that would do too. But its use counts as an
// attempt against the TPM's lockout, see signer.
var endorsements = map[Kind]endorsement{
	RSA2048: {handle: 0x81010001, index: 0x01C00002, template: tpm2.RSAEKTemplate},
	P256:    {handle: 0x8101000A, index: 0x01C0000A, template: tpm2.ECCEKTemplate},
	P384: {handle: 0x81010016, index: 0x01C00016, template: p384Template, branches: []tpm2.TPM2BDigest{
		{Buffer: []byte{ // PolicyA, SHA-384: PolicySecret by the endorsement hierarchy
			0x8B, 0xBF, 0x22, 0x66, 0x53, 0x7C, 0x17, 0x1C, 0xB5, 0x6E, 0x40, 0x3C,
			0x4D, 0xC1, 0xD4, 0xB6, 0x4F, 0x43, 0x26, 0x11, 0xDC, 0x38, 0x6E, 0x6F,
			0x53, 0x20, 0x50, 0xC3, 0x27, 0x8C, 0x93, 0x0E, 0x14, 0x3E, 0x8B, 0xB1,
			0x13, 0x38, 0x24, 0xCC, 0xB4, 0x31, 0x05, 0x38, 0x71, 0xC6, 0xDB, 0x53,
		}},
		{Buffer: []byte{ // PolicyC, SHA-384: a policy kept in NV
			0xD6, 0x03, 0x2C, 0xE6, 0x1F, 0x2F, 0xB3, 0xC2, 0x40, 0xEB, 0x3C, 0xF6,
			0xA3, 0x32, 0x37, 0xEF, 0x2B, 0x6A, 0x16, 0xF4, 0x29, 0x3C, 0x22, 0xB4,
			0x55, 0xE2, 0x61, 0xCF, 0xFD, 0x21, 0x7A, 0xD5, 0xB4, 0x94, 0x7C, 0x2D,
			0x73, 0xE6, 0x30, 0x05, 0xEE, 0xD2, 0xDC, 0x2B, 0x35, 0x93, 0xD1, 0x65,
		}},
	}},
}

// p384Template is H-3. Its policy is "PolicyB": PolicyA or PolicyC.
var p384Template = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA384,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		AdminWithPolicy:     true,
		Restricted:          true,
		Decrypt:             true,
	},
	AuthPolicy: tpm2.TPM2BDigest{Buffer: []byte{
		0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC,
		0xF5, 0xFD, 0x3A, 0x1A, 0x07, 0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4,
		0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA, 0xCB, 0x47, 0xBA, 0x09,
		0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
	}},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}

// signer is a P-256 key that signs with ECDSA over SHA-256 and that nothing but
// this TPM has ever had.
//
// NoDA keeps its use, with an empty password, out of the TPM's count of wrong
// passwords (Part 1, 19.8). Else a TPM that loses its power after such a use, as
// boards on a line do, counts one failure: three pulled plugs lock it.
func signer(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          restricted,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

var (
	attestationTemplate = signer(true)
	deviceTemplate      = signer(false)
)

// fits tells whether a key was made from a template: all is the same but what is
// unique to the key, and not a byte is left over.
func fits(public tpm2.TPM2BPublic, template tpm2.TPMTPublic) bool {
	found, err := public.Contents()
	if err != nil || found.Type != template.Type || !bytes.Equal(tpm2.Marshal(*found), public.Bytes()) {
		return false
	}
	blank := *found
	blank.Unique = template.Unique
	return bytes.Equal(tpm2.Marshal(blank), tpm2.Marshal(template))
}

// keyBytes is what a certificate for the key must have in it: the modulus, or
// both coordinates of the point.
func keyBytes(public tpm2.TPM2BPublic) ([]byte, error) {
	p, err := public.Contents()
	if err != nil {
		return nil, err
	}
	switch p.Type {
	case tpm2.TPMAlgRSA:
		n, err := p.Unique.RSA()
		if err != nil {
			return nil, err
		}
		if len(n.Buffer) != 256 || n.Buffer[0] < 0x80 {
			return nil, fmt.Errorf("a modulus of %d bytes", len(n.Buffer))
		}
		return n.Buffer, nil
	case tpm2.TPMAlgECC:
		parms, err := p.Parameters.ECCDetail()
		if err != nil {
			return nil, err
		}
		at, err := p.Unique.ECC()
		if err != nil {
			return nil, err
		}
		key, err := tpm2.ECDHPub(parms, at) // it must be a point of the curve
		if err != nil {
			return nil, err
		}
		return key.Bytes()[1:], nil
	}
	return nil, fmt.Errorf("a key of type %v", p.Type)
}

// ecdsaKey is the public key of a device or attestation key.
func ecdsaKey(public tpm2.TPM2BPublic) (*ecdsa.PublicKey, error) {
	xy, err := keyBytes(public)
	if err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, xy...))
}

// describe says in plain words what kind of key somebody has put where another
// was expected.
func describe(public tpm2.TPM2BPublic) string {
	p, err := public.Contents()
	if err != nil {
		return "something that is no key"
	}
	kind := "a key of an unknown kind"
	switch p.Type {
	case tpm2.TPMAlgRSA:
		kind = "an RSA key"
		if parms, err := p.Parameters.RSADetail(); err == nil {
			kind = fmt.Sprintf("an RSA key of %d bits", parms.KeyBits)
		}
	case tpm2.TPMAlgECC:
		kind = "a key on an elliptic curve"
		if parms, err := p.Parameters.ECCDetail(); err == nil {
			switch parms.CurveID {
			case tpm2.TPMECCNistP256:
				kind = "a P-256 key"
			case tpm2.TPMECCNistP384:
				kind = "a P-384 key"
			}
		}
	case tpm2.TPMAlgKeyedHash:
		return "sealed data or a key for HMAC"
	case tpm2.TPMAlgSymCipher:
		return "a symmetric key"
	}
	a := p.ObjectAttributes
	switch {
	case a.SignEncrypt && a.Decrypt:
		return kind + " that signs and decrypts"
	case a.SignEncrypt && a.Restricted:
		return kind + " that attests"
	case a.SignEncrypt:
		return kind + " that signs"
	case a.Decrypt && a.Restricted && len(p.AuthPolicy.Buffer) == 0:
		return kind + " that stores other keys"
	case a.Decrypt && a.Restricted:
		return kind + " with another policy"
	case a.Decrypt:
		return kind + " that decrypts"
	}
	return kind
}
