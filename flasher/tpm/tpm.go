// Package tpm is the conversation with the TPM 2.0 of a board: who it is, the
// proof that it is here, and a key that never leaves it. It speaks through
// whatever carries commands to the board's TPM; nothing is installed there.
//
// What it asks of the TPM, by section of the specification (TPM 2.0 Library,
// Part 3): GetCapability (30.2), CreatePrimary (24.1), ReadPublic (12.4),
// EvictControl (28.5), NV_ReadPublic and NV_Read (31.6, 31.13), PolicySecret and
// PolicyOR (23.4, 23.6), ActivateCredential (12.5), Create and Load (12.1,
// 12.2), Sign (20.2), Certify (18.2), FlushContext (28.4).
//
// A TPM is believed nothing here that cannot be checked on the spot. Whether
// the EK certificate is genuine and what a certified key is worth is judged by
// others, from the bytes that are handed out.
package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"nameplate/flasher"
)

// Conversation is with one TPM, from Open to Close, between which nobody may
// take its power. It is safe for concurrent use; one call runs at a time.
type Conversation struct {
	mu   sync.Mutex
	t    Transport
	of   endorsement
	ek   key
	cert []byte
	ak   key
}

// key is a key in the TPM under a handle.
type key struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPM2BPublic
}

// auth is the key's handle with its empty password.
func (k key) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(nil)}
}

// Open reads the TPM's RSA-2048 endorsement key and its certificate and makes
// the attestation key. A TPM whose endorsement key is not at its handle yet gets
// it made, from the TCG's template, and persisted: who comes after us finds the
// same one. The caller closes the Conversation.
func Open(ctx context.Context, t Transport) (*Conversation, error) {
	return OpenKind(ctx, t, RSA2048)
}

// OpenKind is Open for another of the TPM's endorsement keys. The provisioning
// service cannot work with it, but its residency can be proved.
func OpenKind(ctx context.Context, t Transport, kind Kind) (*Conversation, error) {
	of, ok := endorsements[kind]
	if !ok {
		return nil, fmt.Errorf("opening a TPM: no endorsement key of kind %q", kind)
	}
	c := &Conversation{t: t, of: of}
	w := c.wire(ctx)
	if err := w.state(); err != nil {
		return nil, err
	}
	if err := c.findEndorsement(w); err != nil {
		return nil, err
	}
	var err error
	if c.ak, err = w.primary(tpm2.TPMRHOwner, attestationTemplate); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Conversation) wire(ctx context.Context) *wire { return &wire{ctx: ctx, t: c.t} }

// state refuses a TPM that would get stuck half-way. TPMA_PERMANENT (Part 2,
// 8.6) says it in one answer and without touching anything.
func (w *wire) state() error {
	const doing = "reading the TPM's state"
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTPermanent),
		PropertyCount: 1,
	}.Execute(w)
	if err != nil {
		return w.judge(doing, err)
	}
	properties, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return w.judge(doing, err)
	}
	if n := len(properties.TPMProperty); n != 1 || properties.TPMProperty[0].Property != tpm2.TPMPTPermanent {
		return w.judge(doing, errors.New("the answer is to another question"))
	}
	const ownerAuthSet, endorsementAuthSet, inLockout = 1 << 0, 1 << 1, 1 << 9
	permanent := properties.TPMProperty[0].Value
	switch err := fmt.Errorf("TPMA_PERMANENT is %#x", permanent); {
	case permanent&inLockout != 0:
		return lockedOut(err)
	case permanent&(ownerAuthSet|endorsementAuthSet) != 0:
		return owned(err)
	}
	return nil
}

// findEndorsement reads the endorsement key from its handle or puts it there,
// and reads its certificate.
func (c *Conversation) findEndorsement(w *wire) error {
	found, err := w.read(c.of.handle)
	if err != nil {
		return err
	}
	if found == nil {
		if c.ek, err = c.makeEndorsement(w); err != nil {
			return err
		}
	} else {
		if !fits(found.public, c.of.template) {
			return endorsementOccupied(c.of.handle, describe(found.public))
		}
		c.ek = *found
	}
	own, err := keyBytes(c.ek.public)
	if err != nil {
		return w.judge("reading the endorsement key", err)
	}
	if c.cert, err = w.certificate(c.of.index); err != nil {
		return err
	}
	if found == nil || c.cert == nil || bytes.Contains(c.cert, own) {
		return nil
	}
	return c.whoseCertificate(w, own)
}

// makeEndorsement makes the endorsement key and persists it. If we stop in
// between, the next one to come makes the same key again.
func (c *Conversation) makeEndorsement(w *wire) (key, error) {
	made, err := w.primary(tpm2.TPMRHEndorsement, c.of.template)
	if err != nil {
		return key{}, err
	}
	defer w.drop(made)
	return w.persist(made, c.of.handle)
}

// whoseCertificate finds out why the EK certificate is not for the key at the
// endorsement key's handle, own. A certificate for neither key is not judged here:
// it is evidence, and goes to who checks it.
func (c *Conversation) whoseCertificate(w *wire, own []byte) error {
	right, err := w.transient(c.of.template)
	if err != nil {
		return err
	}
	if !bytes.Contains(c.cert, right) {
		return nil
	}
	empty := c.of.template
	if empty.Type == tpm2.TPMAlgRSA {
		empty.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	} else {
		empty.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	other, err := w.transient(empty)
	if err != nil {
		return err
	}
	if bytes.Equal(own, other) {
		return twoTemplates(c.of.handle)
	}
	return endorsementOccupied(c.of.handle, "another key than the one that its EK certificate is for")
}

// transient makes an endorsement key, looks at it and drops it.
func (w *wire) transient(template tpm2.TPMTPublic) ([]byte, error) {
	made, err := w.primary(tpm2.TPMRHEndorsement, template)
	if err != nil {
		return nil, err
	}
	w.drop(made)
	b, err := keyBytes(made.public)
	if err != nil {
		return nil, w.judge("making an endorsement key", err)
	}
	return b, nil
}

// Endorsement is what the TPM says of itself.
func (c *Conversation) Endorsement() flasher.Endorsement {
	return flasher.Endorsement{
		Public:      tpm2.Marshal(c.ek.public),
		Certificate: bytes.Clone(c.cert),
		AK:          tpm2.Marshal(c.ak.public),
	}
}

// RegistrationID is the name under which the provisioning service's own tools
// enroll this TPM: SHA-256 over the endorsement key's TPM2B_PUBLIC, its size
// included, in base32 (RFC 4648, section 6), lower-case and without padding.
func (c *Conversation) RegistrationID() string {
	sum := sha256.Sum256(tpm2.Marshal(c.ek.public))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}

// Activate lets the TPM open a challenge for its endorsement key and its
// attestation key.
func (c *Conversation) Activate(ctx context.Context, challenge flasher.Challenge) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.activate(c.wire(ctx), challenge)
}

func (c *Conversation) activate(w *wire, challenge flasher.Challenge) ([]byte, error) {
	const doing = "activating a credential"
	object, err := sized(challenge.Object)
	if err != nil {
		return nil, activationFailed(fmt.Errorf("reading the challenge: %w", err))
	}
	secret, err := sized(challenge.Secret)
	if err != nil {
		return nil, activationFailed(fmt.Errorf("reading the challenge: %w", err))
	}
	var unmet error
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: c.ak.auth(),
		KeyHandle: tpm2.AuthHandle{
			Handle: c.ek.handle,
			Name:   c.ek.name,
			Auth: tpm2.Policy(c.of.template.NameAlg, 16, func(_ transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
				unmet = w.meetPolicy(c.of.branches, session, nonce)
				return unmet
			}),
		},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: object},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(w)
	switch {
	case err == nil:
	case w.err == nil && unmet == nil && (isAny(err, notActivated) || w.works(c.ek, err)):
		return nil, activationFailed(fmt.Errorf("%s: %w", doing, err))
	default:
		return nil, w.judge(doing, err)
	}
	return rsp.CertInfo.Buffer, nil
}

// sized is what a TPM2B holds: two bytes of size, and so many bytes.
func sized(b []byte) ([]byte, error) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return nil, errors.New("its size is not what it says")
	}
	return b[2:], nil
}

// notActivated are the answers of a TPM that cannot open a challenge: it was made
// for another object (INTEGRITY) or another key (the rest); or the keys at the
// handles have other names than they were shown with (AUTH_FAIL, BAD_AUTH: the
// names are part of what the session authenticates).
var notActivated = []tpm2.TPMRC{
	tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCInsufficient, tpm2.TPMRCECCPoint, tpm2.TPMRCPolicyFail,
	tpm2.TPMRCType, tpm2.TPMRCAttributes, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth,
}

// works tells whether a TPM that said it had failed answers nevertheless: so
// does libtpms when it cannot decrypt a secret. One that has failed answers
// nothing of this kind any more (Part 1, 12).
func (w *wire) works(k key, err error) bool {
	if !errors.Is(err, tpm2.TPMRCFailure) {
		return false
	}
	_, err = tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(w)
	return err == nil
}

// meetPolicy meets the policy of an endorsement key in a session.
func (w *wire) meetPolicy(branches []tpm2.TPM2BDigest, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(w)
	if err == nil && branches != nil {
		_, err = tpm2.PolicyOr{PolicySession: session, PHashList: tpm2.TPMLDigest{Digests: branches}}.Execute(w)
	}
	if err != nil && w.err == nil {
		// go-tpm leaves a session open whose policy fails. What comes of closing
		// it changes nothing: the first failure counts.
		_, _ = tpm2.FlushContext{FlushHandle: session}.Execute(w)
	}
	return err
}

// ProveEndorsement makes a challenge that only the holder of this endorsement
// key can open, if the attestation key is in the same TPM, and lets the TPM open
// it. The EK's public key and the AK's are then those of one TPM that is here.
// It says nothing of who made the TPM, nor of whether the way to it is short.
func (c *Conversation) ProveEndorsement(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wire(ctx)
	public, err := c.ek.public.Contents()
	if err != nil {
		return w.judge("reading the endorsement key", err)
	}
	to, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return w.judge("reading the endorsement key", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	object, encrypted, err := tpm2.CreateCredential(rand.Reader, to, c.ak.name.Buffer, secret)
	if err != nil {
		return w.judge("making a challenge", err)
	}
	answer, err := c.activate(w, flasher.Challenge{
		Object: tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: object}),
		Secret: tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: encrypted}),
	})
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(answer, secret) != 1 {
		return activationFailed(errors.New("activating a credential: the answer is not the secret"))
	}
	return nil
}

// Close gives back what the conversation holds in the TPM.
func (c *Conversation) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wire(ctx)
	if _, err := (tpm2.FlushContext{FlushHandle: c.ak.handle}).Execute(w); err != nil {
		return w.judge("dropping the attestation key", err)
	}
	return nil
}
