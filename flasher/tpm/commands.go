package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// read reads the public part of the key at a persistent handle; nil: there is none.
func (w *wire) read(handle uint32) (*key, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(w)
	switch {
	case w.err == nil && errors.Is(err, tpm2.TPMRCHandle):
		return nil, nil
	case err != nil:
		return nil, w.judge(fmt.Sprintf("reading the key at %#x", handle), err)
	}
	return w.named(key{tpm2.TPMHandle(handle), rsp.Name, rsp.OutPublic})
}

// named checks that a key has the name of its public part. A challenge made for
// another name would prove something about another key.
func (w *wire) named(k key) (*key, error) {
	public, err := k.public.Contents()
	if err != nil {
		return nil, w.judge("reading a key", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, w.judge("reading a key", err)
	}
	if string(name.Buffer) != string(k.name.Buffer) {
		return nil, unreadable(errors.New("reading a key: its name is that of another"))
	}
	return &k, nil
}

// primary makes a primary key, transient: the same one each time, from the
// hierarchy's seed and the template.
func (w *wire) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (key, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: hierarchy,
		InPublic:      tpm2.New2B(template),
	}.Execute(w)
	if err != nil {
		return key{}, w.judge("making a primary key", err)
	}
	k := key{rsp.ObjectHandle, rsp.Name, rsp.OutPublic}
	if err := w.made(k, template); err != nil {
		w.drop(k)
		return key{}, err
	}
	return k, nil
}

// made checks that a key is what was asked for.
func (w *wire) made(k key, template tpm2.TPMTPublic) error {
	if _, err := w.named(k); err != nil {
		return err
	}
	if !fits(k.public, template) {
		return disobedient(fmt.Errorf("asked for another key, it made %s", describe(k.public)))
	}
	return nil
}

// persist keeps a transient key at a persistent handle, too. When it returns,
// the key survives a power cut.
func (w *wire) persist(k key, handle uint32) (key, error) {
	_, err := tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: k.handle, Name: k.name},
		PersistentHandle: tpm2.TPMIDHPersistent(handle),
	}.Execute(w)
	if err != nil {
		return key{}, w.judge(fmt.Sprintf("persisting a key at %#x", handle), err)
	}
	k.handle = tpm2.TPMHandle(handle)
	return k, nil
}

// drop makes room of a transient key. Where that fails, the next command fails
// as well and tells why, or has room enough.
func (w *wire) drop(k key) {
	_, _ = tpm2.FlushContext{FlushHandle: k.handle}.Execute(w)
}

const (
	// firstChunk is what most TPMs read from NV at once; one that cannot says so,
	// which costs less than asking each. lastChunk is the least that a TPM for PCs
	// has (TPM_PT_NV_BUFFER_MAX).
	firstChunk = 1024
	lastChunk  = 512
	// maxCertificate is far more than any NV index of a TPM holds.
	maxCertificate = 8192
)

// certificate reads an NV index as it is; nil: there is none, or nothing was
// ever written to it. Its own empty password opens it (EK Credential Profile
// 2.5, 2.2.1.4: TPMA_NV_AUTHREAD), so that the owner need not.
func (w *wire) certificate(index uint32) ([]byte, error) {
	const doing = "reading the EK certificate"
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(w)
	switch {
	case w.err == nil && errors.Is(err, tpm2.TPMRCHandle):
		return nil, nil
	case err != nil:
		return nil, w.judge(doing, err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, w.judge(doing, err)
	}
	if !public.Attributes.Written || public.DataSize == 0 {
		return nil, nil
	}
	size := int(public.DataSize)
	if size > maxCertificate {
		return nil, certificateUnreadable(fmt.Errorf("%s: it has %d bytes", doing, size))
	}
	at := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: rsp.NVName}
	cert := make([]byte, 0, size)
	for chunk := firstChunk; len(cert) < size; {
		want := min(chunk, size-len(cert))
		rsp, err := tpm2.NVRead{
			AuthHandle: at,
			NVIndex:    at,
			Size:       uint16(want),
			Offset:     uint16(len(cert)),
		}.Execute(w)
		switch {
		case err != nil && w.err == nil && errors.Is(err, tpm2.TPMRCValue) && chunk > lastChunk:
			chunk = lastChunk
			continue
		case err != nil && w.err == nil && isAny(err, notReadable):
			return nil, certificateUnreadable(fmt.Errorf("%s: %w", doing, err))
		case err != nil:
			return nil, w.judge(doing, err)
		case len(rsp.Data.Buffer) != want:
			return nil, w.judge(doing, fmt.Errorf("asked for %d bytes, got %d", want, len(rsp.Data.Buffer)))
		}
		cert = append(cert, rsp.Data.Buffer...)
	}
	return cert, nil
}

// notReadable are the answers of an index that is not for everybody's eyes.
var notReadable = []tpm2.TPMRC{
	tpm2.TPMRCNVAuthorization, tpm2.TPMRCNVLocked, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail, tpm2.TPMRCAuthUnavailable, tpm2.TPMRCAuthType,
}

func isAny(err error, codes []tpm2.TPMRC) bool {
	for _, code := range codes {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
