package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"nameplate/flasher"
)

// The refusals of a TPM, each with what a person can do.

func unreadable(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-unreadable",
		Sentence: "What the board's TPM answers cannot be understood.",
		Next:     "Check that the board has a TPM 2.0 and that no other program uses it, then put the board in again; if it happens again, set the board aside.",
		Err:      err,
	}
}

func silent(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-silent",
		Sentence: "The board's TPM does not answer.",
		Next:     "Switch the board off and on and put it in again; if it happens again, set the board aside.",
		Err:      err,
	}
}

func failed(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-failed",
		Sentence: "The board's TPM has failed or was not started.",
		Next:     "Switch the board off and on and put it in again; if it happens again, the TPM is broken: set the board aside.",
		Err:      err,
	}
}

func busy(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-busy",
		Sentence: "The board's TPM is busy or has no room for another key in use.",
		Next:     "Switch the board off and on and put it in again; if it happens again, another program on the board holds the TPM: keep it from starting.",
		Err:      err,
	}
}

func full(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-full",
		Sentence: "The TPM has no room to keep another key.",
		Next:     "Set the board aside; whoever made its image has to free room in the TPM (tpm2_evictcontrol, tpm2_nvundefine).",
		Err:      err,
	}
}

func owned(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-owned",
		Sentence: "Somebody owns this TPM already: its owner or endorsement hierarchy has a password.",
		Next:     "Set the board aside; it needs its TPM cleared (in the firmware's setup, or with tpm2_clear) before it can be given an identity.",
		Err:      err,
	}
}

func disabled(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-disabled",
		Sentence: "The TPM's owner or endorsement hierarchy is switched off.",
		Next:     "Switch the TPM on in the firmware's setup of the board, then put the board in again.",
		Err:      err,
	}
}

func lockedOut(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-locked-out",
		Sentence: "The TPM has locked itself after too many wrong passwords.",
		Next:     "Set the board aside; it opens again by itself after hours, or with tpm2_dictionarylockout -c.",
		Err:      err,
	}
}

func refused(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-refuses",
		Sentence: "The board's TPM refused a command.",
		Next:     "Switch the board off and on and put it in again; if it happens again, set the board aside.",
		Err:      err,
	}
}

func activationFailed(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-activation-failed",
		Sentence: "The TPM did not prove that it holds its endorsement key.",
		Next:     "Set the board aside: its TPM may be false, or stand for another one.",
		Err:      err,
	}
}

func disobedient(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-key-wrong",
		Sentence: "The TPM made another kind of key than it was asked for.",
		Next:     "Set the board aside: its TPM may be false.",
		Err:      err,
	}
}

func signatureWrong(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-signature-wrong",
		Sentence: "The TPM signed, but not with the key that it shows.",
		Next:     "Put the board in again; if it happens again, set the board aside: its TPM may be false.",
		Err:      err,
	}
}

func certificateUnreadable(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "ek-certificate-unreadable",
		Sentence: "The TPM keeps a certificate of its endorsement key, but does not let it be read.",
		Next:     "Set the board aside and have its TPM examined.",
		Err:      err,
	}
}

func endorsementOccupied(handle uint32, by string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "ek-handle-occupied",
		Sentence: fmt.Sprintf("Where the TPM's endorsement key belongs (%#x) is %s.", handle, by),
		Next:     fmt.Sprintf("Set the board aside; whoever made its image has to free that handle (tpm2_evictcontrol -C o -c %#x), then it can be put in again.", handle),
	}
}

// twoTemplates is the trap of the two templates. An endorsement key is computed
// from the TPM's seed and a template. The TCG's template for RSA-2048 has 256
// zero bytes in its field "unique"; some clients of the provisioning service
// leave that field empty. All else is the same, but the keys differ, and the EK
// certificate is for the first.
func twoTemplates(handle uint32) *flasher.Refusal {
	return &flasher.Refusal{
		Code: "ek-handle-occupied",
		Sentence: fmt.Sprintf("The key at %#x is this TPM's, but not the one that its EK certificate is for: "+
			"some program made it from a template whose field \"unique\" is empty, instead of the TCG's.", handle),
		Next: fmt.Sprintf("Free that handle on the board (tpm2_evictcontrol -C o -c %#x) and put the board in again: "+
			"the station then puts the right key there. Keep that program from running before the board has its identity.", handle),
	}
}

func handleOccupied(handle uint32, by string, err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-handle-occupied",
		Sentence: fmt.Sprintf("Where the device's key belongs in the TPM (%#x) is %s.", handle, by),
		Next:     fmt.Sprintf("Set the board aside; whoever made its image has to free that handle (tpm2_evictcontrol -C o -c %#x), or the product has to name another.", handle),
		Err:      err,
	}
}

// judge turns the failure of a command into what the caller gets: what the
// transport said as it is, all else as a refusal.
func (w *wire) judge(doing string, err error) error {
	if w.err != nil {
		return w.err
	}
	err = fmt.Errorf("%s: %w", doing, err)
	var code tpm2.TPMRC
	if !errors.As(err, &code) {
		return unreadable(err)
	}
	for _, r := range responses {
		for _, c := range r.codes {
			if errors.Is(code, c) {
				return r.refuse(err)
			}
		}
	}
	return refused(err)
}

// responses says what a response code (TPM 2.0 Part 2, 6.6.3) means for the
// board, where the command at hand gives it no other meaning.
var responses = []struct {
	refuse func(error) *flasher.Refusal
	codes  []tpm2.TPMRC
}{
	{lockedOut, []tpm2.TPMRC{tpm2.TPMRCLockout}},
	{owned, []tpm2.TPMRC{tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail}},
	{disabled, []tpm2.TPMRC{tpm2.TPMRCHierarchy}},
	{full, []tpm2.TPMRC{tpm2.TPMRCNVSpace}},
	{failed, []tpm2.TPMRC{tpm2.TPMRCFailure, tpm2.TPMRCInitialize, tpm2.TPMRCNeedsTest, tpm2.TPMRCReboot, tpm2.TPMRCUpgrade}},
	{busy, []tpm2.TPMRC{
		tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCCanceled, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable,
		tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles,
		tpm2.TPMRCContextGap, tpm2.TPMRCTooManyContexts,
	}},
}
