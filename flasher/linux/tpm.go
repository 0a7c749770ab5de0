package linux

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"nameplate/flasher"
	"nameplate/flasher/tpm"
)

const (
	// tpmLimit is above what the conversation with a TPM sets for its commands:
	// making an RSA key takes some TPMs minutes.
	tpmLimit = 5 * time.Minute
	// tpmHeader is tag, length and code (TPM 2.0 Part 1, 18).
	tpmHeader = 10
	// tpmMost is what the kernel's driver passes in one response.
	tpmMost = 4096
	// shortMost is what goes to the TPM without dd, and in one line; partMost is how
	// much of the text of a longer one goes in a line.
	shortMost, partMost = 700, 950
	// nvRead is the code of TPM2_NV_Read (Part 2, 6.5.2).
	nvRead = 0x14E
	// tpmReads is how often one reads for one response. A driver gives it whole to
	// the first; before Linux 5.0 what that left was gone.
	tpmReads = 64
)

// talking opens the TPM for the whole conversation: when the descriptor closes,
// the kernel's resource manager flushes sessions and objects. t hands over one
// command in one write, which the driver takes for one command; the C libraries'
// buffers have 1024 bytes (musl) and more, and for what is longer dd gathers it. A
// device that cannot be opened answers with nothing; one that is not there would
// be made, a plain file.
const talking = `t(){ c=$2;o=$(printf %s "$2"|base64 -d>&3;u);z $1 $?;}
T(){ c=$2;o=$(printf %s "$2"|base64 -d|dd obs=4096 2>/dev/null >&3;u);z $1 $?;}
u(){ dd bs=4096 count=1 <&3 2>/dev/null|base64;}
[ ! -c ` + tpmDevice + ` ]||command exec 3<>` + tpmDevice + `
`

// ekIDs is what hardware IDs by an endorsement key are called, by the key's kind: a
// TPM has one of each, and is not two because two products ask for different ones.
var ekIDs = map[tpm.Kind]string{tpm.RSA2048: "ek", tpm.P256: "ek-p256", tpm.P384: "ek-p384"}

// openTPM begins the conversation with the board's TPM.
func (d *device) openTPM(ctx context.Context) error {
	kind := tpm.Kind(cmp.Or(d.options.EK, string(tpm.RSA2048)))
	c, err := tpm.OpenKind(ctx, d, kind)
	if err != nil {
		return err
	}
	d.tpm = c
	e := c.Endorsement()
	d.facts.Endorsement = &e
	d.facts.HardwareIDs = append(d.facts.HardwareIDs, flasher.HardwareID{Kind: ekIDs[kind], Value: c.RegistrationID()})
	if d.options.Key.In == inTPM {
		if d.facts.KeyHeld, err = c.KeyHeld(ctx, d.options.Key.Handle); err != nil {
			return err
		}
	}
	return nil
}

// Send implements tpm.Transport. A command is never sent twice; its response is,
// when noise hit it on its way. One that noise hit on its way to the TPM is none of
// ours, and what it led to is not looked at.
func (d *device) Send(ctx context.Context, command []byte) ([]byte, error) {
	text := base64.StdEncoding.AppendEncode(nil, command)
	line := make([]byte, 0, len(text)+100)
	if len(command) <= shortMost {
		line = fmt.Appendf(line, "t %%d %s\n", text)
	} else {
		line = append(line, "q=\n"...)
		for ; len(text) > partMost; text = text[partMost:] {
			line = fmt.Appendf(line, "q=$q%s\n", text[:partMost])
		}
		line = fmt.Appendf(line, "T %%d $q%s\n", text)
	}
	seq, err := d.shell.ask(ctx, line, base64.StdEncoding.EncodeToString(command))
	if err != nil {
		return nil, err
	}
	if len(command) > tpmHeader && binary.BigEndian.Uint32(command[6:]) == nvRead {
		// While a certificate comes, nothing goes: time for what writing needs.
		if err := d.teachWriting(ctx); err != nil {
			return nil, err
		}
	}
	a, err := d.shell.answer(ctx, tpmLimit, seq)
	if err != nil {
		return nil, final(err)
	}
	var response []byte
	for read := 1; ; read++ {
		part, err := unbase64(a.out)
		if err != nil {
			return nil, err
		}
		response = append(response, part...)
		if len(part) == 0 || len(response) > tpmMost || read == tpmReads {
			return nil, tpmUnusable(fmt.Errorf("its response ends after %d bytes", len(response)))
		}
		if len(response) >= tpmHeader && len(response) >= int(binary.BigEndian.Uint32(response[2:])) {
			return response, nil
		}
		if a, err = d.shell.once(ctx, tpmLimit, "u"); err != nil {
			return nil, err
		}
	}
}
