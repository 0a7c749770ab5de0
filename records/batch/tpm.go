package batch

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// ekHead is all that comes before the modulus in the TPM2B_PUBLIC of an RSA-2048
// endorsement key made by the TCG's template L-1 (TCG EK Credential Profile, annex
// B.3.3; TPM 2.0 Part 2, 12.2.5): the one kind that the provisioning service takes.
var ekHead = unhex("013a" + // size of all that follows
	"0001" + "000b" + "000300b2" + // RSA, SHA-256, the attributes
	"0020" + "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa" + // its policy
	"0006" + "0080" + "0043" + "0010" + // AES-128-CFB, no scheme
	"0800" + "00000000" + // 2048 bits, the usual exponent
	"0100") // size of the modulus

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err) // a text of ours
	}
	return b
}

const (
	ekModulus  = 256   // bytes
	ekExponent = 65537 // where a TPM says 0 (TPM 2.0 Part 2, 12.2.3.5)
)

// parseEK reads an endorsement key.
func parseEK(raw []byte) (*rsa.PublicKey, error) {
	modulus, ok := bytes.CutPrefix(raw, ekHead)
	if !ok || len(modulus) != ekModulus || modulus[0] < 0x80 || modulus[ekModulus-1]&1 == 0 {
		return nil, fmt.Errorf("its endorsement key is not the TPM2B_PUBLIC of an RSA-2048 endorsement key")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: ekExponent}, nil
}

// ekHardware is the kind of the hardware ID that a unit has by its endorsement key.
const ekHardware = "ek"

// ekID is the registration ID that the service's own tools derive from an
// endorsement key.
func ekID(ek []byte) string {
	sum := sha256.Sum256(ek)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}

// ekIDForm is that of such a registration ID. Whatever has it says of which
// endorsement key it is.
var ekIDForm = regexp.MustCompile(`^[a-z2-7]{52}$`)

// checkEK says what is wrong with the row's endorsement key, or with what the row
// derives from it.
func (r Row) checkEK() error {
	if _, err := parseEK(r.TPM.EndorsementKey); err != nil {
		return err
	}
	id := ekID(r.TPM.EndorsementKey)
	if ekIDForm.MatchString(r.RegistrationID) && r.RegistrationID != id {
		return fmt.Errorf("its registration ID is that of another endorsement key, not of its own (%s)", id)
	}
	for _, h := range r.Hardware {
		if h.Kind == ekHardware && h.Value != id {
			return fmt.Errorf("its hardware ID %s is that of another endorsement key, not of its own (%s)", h.Value, id)
		}
	}
	return nil
}

// isFor says whether the certificate is for the endorsement key.
func isFor(cert *x509.Certificate, ek []byte) bool {
	key, err := parseEK(ek)
	return err == nil && key.Equal(cert.PublicKey)
}
