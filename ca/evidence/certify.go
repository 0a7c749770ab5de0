package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca"
	"nameplate/ca/ek"
)

const (
	// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign (TPM 2.0 Part
	// 2, 8.3): made by the TPM, never to leave it, usable, and only to sign.
	deviceKey = 0x00040072
	// restricted: it signs no bytes from outside that look like the TPM's own.
	restricted     = 0x00010000
	attestationKey = deviceKey | restricted
	// noDA: a wrong password does not lock the TPM. Either is as good for a proof.
	noDA = 0x00000400
)

// CheckAK refuses an attestation key, as TPM2B_PUBLIC, whose word would prove
// nothing: it must be made by the TPM, bound to it, restricted to what the TPM
// itself says, and sign with ECDSA on P-256 and SHA-256.
func CheckAK(attestation []byte) error {
	_, err := readAK(attestation)
	return err
}

func readAK(attestation []byte) (*ek.Object, error) {
	var failed findings
	ak, err := ek.Decode(attestation)
	if err != nil {
		failed = append(failed, err)
	} else {
		failed.checkSigner("the attestation key", ak, attestationKey)
		failed.check(signsECDSA(ak), "the attestation key is not bound to ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)")
	}
	return ak, failed.refusal(ca.Refusal{Code: "ak-unusable",
		Sentence: "The attestation key that the board's TPM shows proves nothing.",
		Next:     "Set the board aside: this station makes that key itself, and never of this kind."})
}

// checkSigner is what an attestation key and a device key share.
func (f *findings) checkSigner(who string, o *ek.Object, attributes uint32) {
	key, ok := o.Key.(*ecdsa.PublicKey)
	f.check(ok && key.Curve == elliptic.P256(), "%s is not on P-256 (TPM 2.0 Part 2, 12.2.3.6)", who)
	f.check(o.NameAlg == tpm2.TPMAlgSHA256, "%s has a name algorithm other than SHA-256 (TPM 2.0 Part 2, 12.2.4)", who)
	f.check(o.Attributes&^noDA == attributes, "%s has the attributes 0x%08x, not 0x%08x (TPM 2.0 Part 2, 8.3)", who, o.Attributes, attributes)
	f.check(len(o.Policy) == 0, "%s can be used by a policy (TPM 2.0 Part 2, 12.2.4)", who)
}

func signsECDSA(o *ek.Object) bool {
	return o.Scheme == tpm2.TPMAlgECDSA && o.SchemeHash == tpm2.TPMAlgSHA256
}

// checkCertified holds TPM2_Certify (TPM 2.0 Part 3, 18.2) against the attestation
// key and the request whose key it is about.
func (f *findings) checkCertified(r Request, ak *ek.Object, csrKey *ecdsa.PublicKey) {
	// The exact bytes that were signed: clock and firmware version in them say
	// nothing here, but are the TPM's own.
	f.wrap(checkSignature(ak, r.Attest, r.Signature), "the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2)")
	key, err := ek.Decode(r.Public)
	if err != nil {
		f.wrap(err, "the key that is certified cannot be read")
		return
	}
	f.checkAttest(r.Attest, key.Name, sha256.Sum256(r.CSR))
	f.checkSigner("the device key", key, deviceKey)
	f.check(key.Scheme == tpm2.TPMAlgNull || signsECDSA(key), "the device key is bound to a scheme other than ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)")
	public, ok := key.Key.(*ecdsa.PublicKey)
	f.check(ok && public.Equal(csrKey), "the key that is certified is not the one in the request (RFC 2986 4.1)")
}

// checkAttest reads a TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12). Magic and type are
// looked at before the rest is taken for what they say it is.
func (f *findings) checkAttest(attest, name []byte, csr [sha256.Size]byte) {
	r := ek.Reader{Rest: attest}
	if r.Uint32() != uint32(tpm2.TPMGeneratedValue) {
		f.check(false, "the attestation does not begin with TPM_GENERATED: no TPM made it (TPM 2.0 Part 2, 6.2)")
		return
	}
	if kind := r.Uint16(); kind != uint16(tpm2.TPMSTAttestCertify) {
		f.check(false, "the attestation is of the type 0x%04x, not TPM_ST_ATTEST_CERTIFY (TPM 2.0 Part 2, 6.9)", kind)
		return
	}
	r.Sized() // qualified name of the attestation key
	extra := r.Sized()
	r.Uint64() // clock
	r.Uint32() // resets
	r.Uint32() // restarts
	safe := r.Uint8()
	r.Uint64() // firmware
	certified := r.Sized()
	r.Sized() // qualified name of the key
	if !r.Done() || safe > 1 {
		f.check(false, "the attestation is not one TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12)")
		return
	}
	f.check(bytes.Equal(certified, name), "the attestation is about another key (TPM 2.0 Part 2, 10.12.3)")
	f.check(bytes.Equal(extra, csr[:]), "the attestation was made for another request (TPM 2.0 Part 3, 18.2: qualifyingData)")
}

// checkSignature holds a TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4) against the bytes
// that were signed.
func checkSignature(ak *ek.Object, signed, signature []byte) error {
	key, ok := ak.Key.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("its key is a %T", ak.Key)
	}
	in := ek.Reader{Rest: signature}
	if alg := in.Uint16(); alg != uint16(tpm2.TPMAlgECDSA) {
		return fmt.Errorf("its algorithm is 0x%04x, not ECDSA", alg)
	}
	if hash := in.Uint16(); hash != uint16(tpm2.TPMAlgSHA256) {
		return fmt.Errorf("its digest is 0x%04x, not SHA-256", hash)
	}
	r, s := in.Sized(), in.Sized()
	if !in.Done() {
		return errors.New("it is not two numbers and nothing else")
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(signed)
	if !ecdsa.VerifyASN1(key, sum[:], der) {
		return errors.New("it is a signature by another key, or over other bytes")
	}
	return nil
}
