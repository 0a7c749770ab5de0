package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"nameplate/flasher"
)

// KeyHeld tells whether the TPM holds the device's key at a persistent handle. A
// key of another kind there is a refusal.
func (c *Conversation) KeyHeld(ctx context.Context, handle uint32) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, err := c.wire(ctx).deviceKey(handle)
	return k != nil, err
}

// deviceKey finds the device's key; nil: nothing is there.
func (w *wire) deviceKey(handle uint32) (*key, error) {
	k, err := w.read(handle)
	if k == nil || err != nil {
		return nil, err
	}
	if !fits(k.public, deviceTemplate) {
		return nil, handleOccupied(handle, describe(k.public), nil)
	}
	return k, nil
}

// Request lets the TPM make the device's key at a persistent handle, unless it
// is there, sign a certificate request with it, and certify with the attestation
// key that it is in this TPM. When it returns, the key survives a power cut.
func (c *Conversation) Request(ctx context.Context, handle uint32, commonName string) (flasher.KeyRequest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wire(ctx)
	k, err := w.deviceKey(handle)
	if err != nil {
		return flasher.KeyRequest{}, err
	}
	if k == nil {
		// If we stop before it is persistent there is no key, and the next one to
		// ask gets another. Nobody has seen this one.
		made, err := w.makeKey(handle)
		if err != nil {
			return flasher.KeyRequest{}, err
		}
		k = &made
	}
	csr, err := w.request(*k, commonName)
	if err != nil {
		return flasher.KeyRequest{}, err
	}
	certified, err := c.certify(w, *k, sha256.Sum256(csr))
	if err != nil {
		return flasher.KeyRequest{}, err
	}
	return flasher.KeyRequest{CSR: csr, Certified: certified}, nil
}

// makeKey makes the device's key and keeps it at a persistent handle.
func (w *wire) makeKey(handle uint32) (key, error) {
	made, err := w.child()
	if err != nil {
		return key{}, err
	}
	defer w.drop(made)
	return w.persist(made, handle)
}

// child makes the device's key, transient, below a storage key that is itself
// made anew each time, so that nothing but the device's key is kept in the TPM.
func (w *wire) child() (key, error) {
	const doing = "making the device's key"
	storage, err := w.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return key{}, err
	}
	defer w.drop(storage)
	made, err := tpm2.Create{ParentHandle: storage.auth(), InPublic: tpm2.New2B(deviceTemplate)}.Execute(w)
	if err != nil {
		return key{}, w.judge(doing, err)
	}
	loaded, err := tpm2.Load{ParentHandle: storage.auth(), InPrivate: made.OutPrivate, InPublic: made.OutPublic}.Execute(w)
	if err != nil {
		return key{}, w.judge(doing, err)
	}
	k := key{loaded.ObjectHandle, loaded.Name, made.OutPublic}
	if err := w.made(k, deviceTemplate); err != nil {
		w.drop(k)
		return key{}, err
	}
	return k, nil
}

// request is a certificate request (PKCS #10) signed by a key in the TPM.
func (w *wire) request(k key, commonName string) ([]byte, error) {
	public, err := ecdsaKey(k.public)
	if err != nil {
		return nil, w.judge("reading the device's key", err)
	}
	s := &signing{w: w, key: k, public: public}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:            pkix.Name{CommonName: commonName},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, s)
	if s.err != nil {
		return nil, s.err
	}
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return csr, nil
}

// Prove lets the device's key sign a challenge that is drawn here.
func (c *Conversation) Prove(ctx context.Context, handle uint32) (flasher.Proof, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wire(ctx)
	k, err := w.deviceKey(handle)
	if err != nil {
		return flasher.Proof{}, err
	}
	if k == nil {
		return flasher.Proof{}, &flasher.Refusal{
			Code:     "tpm-key-missing",
			Sentence: fmt.Sprintf("The device's key is not in the TPM (%#x).", handle),
			Next:     "Put the board in again; if the TPM was cleared, the board needs a new identity.",
		}
	}
	public, err := ecdsaKey(k.public)
	if err != nil {
		return flasher.Proof{}, w.judge("reading the device's key", err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return flasher.Proof{}, w.judge("reading the device's key", err)
	}
	challenge := make([]byte, 32)
	rand.Read(challenge)
	digest := sha256.Sum256(challenge)
	signature, err := w.sign(*k, public, digest[:])
	if err != nil {
		return flasher.Proof{}, err
	}
	return flasher.Proof{Challenge: challenge, Public: der, Signature: signature}, nil
}

// signing is a crypto.Signer whose private key is in the TPM, for one call.
type signing struct {
	w      *wire
	key    key
	public *ecdsa.PublicKey
	err    error // what sign said, which x509 may wrap
}

func (s *signing) Public() crypto.PublicKey { return s.public }

func (s *signing) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	signature, err := s.w.sign(s.key, s.public, digest)
	s.err = err
	return signature, err
}

// sign signs a SHA-256 digest and checks the signature, ECDSA in ASN.1.
func (w *wire) sign(k key, public *ecdsa.PublicKey, digest []byte) ([]byte, error) {
	const doing = "signing with the device's key"
	rsp, err := tpm2.Sign{
		KeyHandle:  k.auth(),
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(w)
	if err != nil {
		return nil, w.judgeKey(doing, k, err)
	}
	parts, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, w.judge(doing, err)
	}
	signature, err := asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(parts.SignatureR.Buffer),
		new(big.Int).SetBytes(parts.SignatureS.Buffer),
	})
	if err != nil {
		return nil, w.judge(doing, err)
	}
	if !ecdsa.VerifyASN1(public, digest, signature) {
		return nil, signatureWrong(fmt.Errorf("%s: it does not verify", doing))
	}
	return signature, nil
}

// certify lets the attestation key sign what the TPM knows of the device's key,
// with the request's digest in it.
func (c *Conversation) certify(w *wire, k key, csr [sha256.Size]byte) (*flasher.Certified, error) {
	const doing = "certifying the device's key"
	rsp, err := tpm2.Certify{
		ObjectHandle:   k.auth(),
		SignHandle:     c.ak.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: csr[:]},
	}.Execute(w)
	if err != nil {
		return nil, w.judgeKey(doing, k, err)
	}
	attest := rsp.CertifyInfo.Bytes()
	if _, err := rsp.Signature.Signature.ECDSA(); err != nil || len(attest) == 0 {
		return nil, w.judge(doing, errors.New("nothing is certified"))
	}
	return &flasher.Certified{
		Public:    tpm2.Marshal(k.public),
		Attest:    attest,
		Signature: tpm2.Marshal(rsp.Signature),
	}, nil
}

// judgeKey is judge for a command that uses the device's key: one that wants a
// password was made by somebody else.
func (w *wire) judgeKey(doing string, k key, err error) error {
	if w.err == nil && isAny(err, []tpm2.TPMRC{tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail}) {
		return handleOccupied(uint32(k.handle), "a key with a password", fmt.Errorf("%s: %w", doing, err))
	}
	return w.judge(doing, err)
}
