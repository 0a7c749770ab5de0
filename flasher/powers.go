package flasher

import "context"

// Powers are what a device can do beside being written. What is nil it cannot.
type Powers struct {
	Keys KeyHolder
	TPM  Attester
}

// KeyHolder is a device that makes its own X.509 key and never gives it away.
type KeyHolder interface {
	// Request lets the device make its key, unless it holds one, and sign a
	// certificate request with it. When it returns, the key survives a power cut
	// at any instant. It is harmless to repeat: a key that exists is used again.
	Request(ctx context.Context, commonName string) (KeyRequest, error)
}

// KeyRequest is a key of the device and the proof that it is the device's.
type KeyRequest struct {
	CSR []byte // DER, PKCS#10
	// Certified is the TPM's word that the key is in it; nil for a key in a file.
	Certified *Certified
}

// Certified is TPM2_Certify by the attestation key over the device key, with the
// SHA-256 of the CSR as qualifying data (TPM 2.0 Part 3, 18.2).
type Certified struct {
	Public    []byte // TPM2B_PUBLIC of the device key
	Attest    []byte // TPMS_ATTEST, the bytes that were signed
	Signature []byte // TPMT_SIGNATURE
}

// Attester is a device with a TPM.
type Attester interface {
	// Activate lets the TPM open a challenge that was made for its endorsement
	// key and its attestation key (TPM2_ActivateCredential, Part 3, 12.5). A TPM
	// that cannot is a Refusal.
	Activate(ctx context.Context, c Challenge) ([]byte, error)
}

// Challenge is what TPM2_MakeCredential yields.
type Challenge struct {
	Object []byte // TPM2B_ID_OBJECT
	Secret []byte // TPM2B_ENCRYPTED_SECRET
}

// Endorsement is what a TPM says of itself.
type Endorsement struct {
	Public []byte // TPM2B_PUBLIC of the endorsement key, size and all
	// Certificate is the EK certificate's NV index as it was read, padding and
	// all; nil if there is none.
	Certificate []byte
	// AK is the TPM2B_PUBLIC of the attestation key: restricted, P-256, a
	// primary key of the owner hierarchy, the same at each power-up.
	AK []byte
}
