package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca"
	"nameplate/ca/ek"
)

// NonceSize is the length of the random bytes that a challenge is made from.
const NonceSize = 32

// Challenge is what TPM2_MakeCredential yields (TPM 2.0 Part 3, 12.6).
type Challenge struct {
	Object []byte // TPM2B_ID_OBJECT
	Secret []byte // TPM2B_ENCRYPTED_SECRET
}

// NewChallenge is TPM2_MakeCredential without a TPM: a secret that only the TPM
// with this endorsement key can open, and only while it holds this attestation
// key. Both are TPM2B_PUBLIC; one that is not what it should be is a Refusal.
// answer is what the TPM then finds in it.
//
// All that is random in it comes from the nonce, which the caller draws and lets
// nobody see before the answer is there. So the recorded nonce tells, at any later
// time, what the TPM was asked and what it had to answer.
func NewChallenge(endorsement, attestation, nonce []byte) (c Challenge, answer []byte, err error) {
	d, err := newDraw(endorsement, attestation, nonce)
	if err != nil {
		return Challenge{}, nil, err
	}
	answer = d.answer()
	object, secret, err := d.seal(answer)
	if err != nil {
		return Challenge{}, nil, fmt.Errorf("making a challenge for a TPM: %w", err)
	}
	return Challenge{Object: sized(object), Secret: sized(secret)}, answer, nil
}

// CheckActivation refuses an answer that is not the one to the challenge which
// NewChallenge makes of the same keys and nonce.
func CheckActivation(endorsement, attestation, nonce, answer []byte) error {
	d, err := newDraw(endorsement, attestation, nonce)
	if err != nil {
		return err
	}
	var failed findings
	failed.check(subtle.ConstantTimeCompare(answer, d.answer()) == 1,
		"the answer is not what the challenge held: no TPM with both keys opened it (TPM 2.0 Part 1, 24.4; Part 3, 12.5)")
	return failed.refusal(ca.Refusal{Code: "tpm-activation-failed",
		Sentence: "The board's TPM did not prove that it holds its endorsement key.",
		Next:     "Set the board aside: what answers there is not the TPM that it says it is."})
}

// draw derives all parts of a challenge from its nonce (RFC 5869). The names of
// both keys are the salt, so that an answer is worth nothing for other keys.
type draw struct {
	raw         []byte     // TPM2B_PUBLIC
	endorsement *ek.Object // what is in it
	attestation *ek.Object
	prk         []byte
}

func newDraw(endorsement, attestation, nonce []byte) (*draw, error) {
	e, err := ek.Public(endorsement)
	if err != nil {
		return nil, ek.Refuse(err)
	}
	a, err := readAK(attestation)
	if err != nil {
		return nil, err
	}
	if len(nonce) != NonceSize {
		return nil, fmt.Errorf("making a challenge for a TPM: the nonce has %d bytes, not %d", len(nonce), NonceSize)
	}
	prk, err := hkdf.Extract(sha256.New, nonce, append(bytes.Clone(e.Name), a.Name...))
	if err != nil {
		return nil, fmt.Errorf("deriving a challenge: %w", err)
	}
	return &draw{raw: endorsement, endorsement: e, attestation: a, prk: prk}, nil
}

// bytes are n of the part's own; at most 255 digests (RFC 5869 2.3).
func (d *draw) bytes(part string, n int) []byte {
	b, err := hkdf.Expand(sha256.New, d.prk, "nameplate TPM challenge, "+part, n)
	if err != nil {
		panic(err) // n is a constant of ours
	}
	return b
}

// answer is as long as the smallest digest among the endorsement keys' name
// algorithms: a credential may not be longer (Part 3, 12.6).
func (d *draw) answer() []byte { return d.bytes("answer", sha256.Size) }

// seal makes the TPMS_ID_OBJECT and the TPMU_ENCRYPTED_SECRET (Part 1, 24).
func (d *draw) seal(answer []byte) (object, secret []byte, err error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](d.raw[2:])
	if err != nil {
		return nil, nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, err
	}
	h, err := to.NameAlg().Hash()
	if err != nil {
		return nil, nil, err
	}
	// For RSA the seed and then the padding are read from it (Part 1, B.10.4 and
	// B.4); crypto/rsa reads nothing else for OAEP. For ECC it is not read.
	from := io.Reader(bytes.NewReader(d.bytes("seed and padding", 2*h.Size())))
	if peer, ok := d.endorsement.Key.(*ecdsa.PublicKey); ok {
		p, err := peer.ECDH()
		if err != nil {
			return nil, nil, err
		}
		ephemeral, err := d.ephemeral(p.Curve(), (peer.Params().BitSize+7)/8)
		if err != nil {
			return nil, nil, err
		}
		to = agreed{to, p, ephemeral, h}
	}
	return tpm2.CreateCredential(from, to, d.attestation.Name, answer)
}

// ephemeral tries one candidate after the other; nearly always the first is good.
func (d *draw) ephemeral(curve ecdh.Curve, size int) (*ecdh.PrivateKey, error) {
	for i := range 100 {
		if key, err := curve.NewPrivateKey(d.bytes(fmt.Sprintf("ephemeral key %d", i), size)); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("no ephemeral key comes out of the nonce")
}

// agreed encapsulates for an ECC key with a given ephemeral key (Part 1, C.6.4),
// where go-tpm would draw its own.
type agreed struct {
	tpm2.LabeledEncapsulationKey
	peer      *ecdh.PublicKey
	ephemeral *ecdh.PrivateKey
	hash      crypto.Hash
}

func (a agreed) Encapsulate(_ io.Reader, label string) (secret, ciphertext []byte, err error) {
	z, err := a.ephemeral.ECDH(a.peer)
	if err != nil {
		return nil, nil, err
	}
	x, y := coordinates(a.ephemeral.PublicKey())
	peerX, _ := coordinates(a.peer)
	point := tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}}
	return tpm2.KDFe(a.hash, z, label, x, peerX, 8*a.hash.Size()), tpm2.Marshal(point), nil
}

// coordinates of a point, at full length (SEC 1, 2.3.3).
func coordinates(key *ecdh.PublicKey) (x, y []byte) {
	b := key.Bytes()[1:]
	return b[:len(b)/2], b[len(b)/2:]
}

// sized puts the 16-bit size of a TPM2B in front (Part 2, 10.4.1).
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}
