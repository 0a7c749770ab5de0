package profile

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"nameplate/flasher"
	"nameplate/records"
)

// What a product of family linux says beyond the others.

func (d *decoder) tpm(p Product) {
	_, given := d.lines["tpm"]
	switch {
	case !p.HasTPM():
		if given {
			d.bad("tpm", "tpm is only for attestation tpm and for key tpm", "no such section", "remove it")
		}
		return
	case !given:
		d.bad("tpm", "tpm is missing", "a section with ek_certificate", "say what is asked of the endorsement key's certificate")
		return
	}
	d.oneOf("tpm.ek_certificate", p.TPM.EKCertificate, "require", "record", "none")
	if p.Attestation == records.TPM {
		d.oneOf("tpm.ek", p.TPM.EK, "rsa-2048")
	} else {
		d.oneOf("tpm.ek", p.TPM.EK, "rsa-2048", "p-256", "p-384")
	}
	_, roots := d.lines["tpm.roots"]
	switch needs := p.TPM.EKCertificate != "none"; {
	case needs && !roots:
		d.bad("tpm.roots", "tpm.roots is missing", "a folder with the TPM makers' roots", "add the key, or set ek_certificate: none")
	case !needs && roots:
		d.bad("tpm.roots", "tpm.roots has no effect with ek_certificate: none", "no such key", "remove it, or choose another policy")
	case roots:
		d.inside("tpm.roots", p.TPM.Roots)
	}
}

var (
	interfaceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	userForm      = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	ownerForm     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}(:[a-z_][a-z0-9_-]{0,31})?$`)
	modeForm      = regexp.MustCompile(`^0[0-7]{3}$`)
	handleForm    = regexp.MustCompile(`^0x8100[0-9a-f]{4}$`)
	pathForm      = regexp.MustCompile(`^/[A-Za-z0-9/._@+-]{1,254}$`)
)

// ownHandles are the persistent handles that others use: the storage root key
// (TCG provisioning guidance, 7.8) and the key that the service's own clients
// keep (azure-iot-sdk-c, hsm_client_tpm.c).
var ownHandles = []string{"0x81000000", "0x81000001", "0x81000100"}

// board checks the options of a board with a shell on its console.
func (d *decoder) board(p Product) {
	o := p.Device
	if strings.TrimSpace(o.Chip) == "" || len(o.Chip) > 128 {
		d.bad("options.chip", fmt.Sprintf("options.chip is %.40q", o.Chip), "the board's model as its device tree or its DMI table says it", "correct the value")
	}
	if _, given := d.lines["options.baud"]; given {
		d.between("options.baud", int64(o.Baud), 9600, 3_000_000)
	}
	if !interfaceForm.MatchString(o.Interface) {
		d.bad("options.interface", fmt.Sprintf("options.interface is %q", o.Interface), "the name of a network interface, such as eth0", "correct the value")
	}
	if _, given := d.lines["options.console"]; !given {
		d.bad("options.console", "options.console is missing", "a section with user and password_file", "say how one logs in on the console")
	}
	if !userForm.MatchString(o.Console.User) {
		d.bad("options.console.user", fmt.Sprintf("options.console.user is %q", o.Console.User), "a login name", "correct the value")
	}
	if _, given := d.lines["options.console.password_file"]; given {
		d.inside("options.console.password_file", o.Console.PasswordFile)
	}
	d.deviceKey(p)
	d.files(p)
}

func (d *decoder) deviceKey(p Product) {
	k := p.Device.Key
	only := func(at, key string) {
		if _, given := d.lines[at]; given && p.Key != key {
			d.bad(at, fmt.Sprintf("%s is only for key %s", at, key), "no such key", "remove it")
		}
	}
	only("options.key.path", records.KeyInFile)
	only("options.key.owner", records.KeyInFile)
	only("options.key.handle", records.KeyInTPM)
	only("options.key.pkcs11", records.KeyInTPM)
	d.filePath("options.key.path", k.Path)
	d.owner("options.key.owner", k.Owner)
	legal := handleForm.MatchString(k.Handle)
	for _, used := range ownHandles {
		legal = legal && k.Handle != used
	}
	if !legal {
		d.bad("options.key.handle", fmt.Sprintf("options.key.handle is %q", k.Handle), `"0x81000002" to "0x8100ffff", but 0x81000100`, "choose a handle that nothing else on the device uses")
	}
	_, pkcs11 := d.lines["options.key.pkcs11"]
	if pkcs11 {
		d.filePath("options.key.pkcs11.module", k.PKCS11.Module)
		if !strings.HasPrefix(k.PKCS11.URI, "pkcs11:") || len(k.PKCS11.URI) > 512 {
			d.bad("options.key.pkcs11.uri", fmt.Sprintf("options.key.pkcs11.uri is %.40q", k.PKCS11.URI), "a pkcs11: URI (RFC 7512)", "write it as the image's maker has set the key up")
		}
	}
	if p.Key == records.KeyInTPM && p.Device.Store.Format == "aziot" && !pkcs11 {
		d.bad("options.store.format", "aziot reaches a key in the TPM through PKCS#11 only", "options.key.pkcs11, or format files",
			"add module and URI if the image has them, else use format files with {key_handle}")
	}
}

func (d *decoder) files(p Product) {
	s := p.Device.Store
	d.oneOf("options.store.format", s.Format, "aziot", "files")
	_, given := d.lines["options.store.files"]
	switch {
	case s.Format == "files":
		d.foreign("linux with format aziot", "options.store.config", "options.store.certificate", "options.store.private_key")
		if len(s.Files) == 0 {
			d.bad("options.store.files", "options.store.files is empty", "at least one file with path and text", "add the files that the device reads")
		}
	case given:
		d.bad("options.store.files", "options.store.files is only for format files", "no such key", "remove it, or use format: files")
	}
	used := map[string]bool{}
	for i, f := range s.Files {
		at := fmt.Sprintf("options.store.files[%d]", i)
		d.deviceFile(at, f)
		switch {
		case f.Text == "":
			d.bad(at+".text", at+".text is missing", "what the file holds", "add it")
		case used[f.Path]:
			d.bad(at+".path", fmt.Sprintf("%s stands here a second time", f.Path), "each file once", "remove one of them")
		}
		used[f.Path] = true
	}
	d.deviceFile("options.store.config", s.Config)
	d.deviceFile("options.store.certificate", s.Certificate)
	d.deviceFile("options.store.private_key", s.PrivateKey)
	for _, at := range []string{"config", "certificate", "private_key"} {
		if _, given := d.lines["options.store."+at+".text"]; given {
			d.bad("options.store."+at+".text", "text is only for format files", "no such key", "remove it")
		}
	}
}

func (d *decoder) deviceFile(at string, f File) {
	d.filePath(at+".path", f.Path)
	d.owner(at+".owner", f.Owner)
	if f.Mode != "" && !modeForm.MatchString(f.Mode) {
		d.bad(at+".mode", fmt.Sprintf("%s.mode is %q", at, f.Mode), `four octal digits, such as "0600"`, "correct the value")
	}
}

func (d *decoder) filePath(at, p string) {
	if !pathForm.MatchString(p) || path.Clean(p) != p {
		d.bad(at, fmt.Sprintf("%s is %.60q", at, p), "an absolute path of letters, digits and / . _ @ + -", "correct the path")
	}
}

func (d *decoder) owner(at, o string) {
	if o != "" && !ownerForm.MatchString(o) {
		d.bad(at, fmt.Sprintf("%s is %.40q", at, o), "USER or USER:GROUP", "correct the value")
	}
}

func (p Product) linuxOptions(o *flasher.Options) {
	s, k := p.Device.Store, p.Device.Key
	o.Interface = p.Device.Interface
	if p.HasTPM() {
		o.TPM, o.EK = true, p.TPM.EK
	}
	o.Console.User = p.Device.Console.User
	switch p.Key {
	case records.KeyInFile:
		o.Key = flasher.DeviceKey{In: "file", File: flasher.File{Path: k.Path, Mode: 0o600, Owner: k.Owner}}
	case records.KeyInTPM:
		handle, _ := strconv.ParseUint(k.Handle, 0, 32) // its form was checked
		o.Key = flasher.DeviceKey{In: "tpm", Handle: uint32(handle), Module: k.PKCS11.Module, URI: k.PKCS11.URI}
	}
	if s.Format == "files" {
		for _, f := range s.Files {
			o.Store.Files = append(o.Store.Files, f.flasher())
		}
		return
	}
	o.Store.Config, o.Store.Certificate, o.Store.PrivateKey = s.Config.flasher(), s.Certificate.flasher(), s.PrivateKey.flasher()
}

func (f File) flasher() flasher.File {
	mode := uint64(0o600)
	if f.Mode != "" {
		mode, _ = strconv.ParseUint(f.Mode, 8, 32) // its form was checked
	}
	return flasher.File{Path: f.Path, Mode: uint32(mode), Owner: f.Owner, Text: string(f.Text)}
}

// Password reads the password for the console of the product's devices; empty if
// it names none. A file that others may read is refused, and so is one that no
// console could take: a password is one line.
func (s Set) Password(p Product) (flasher.Secret, error) {
	file := p.Device.Console.PasswordFile
	if p.Family != linux || file == "" {
		return nil, nil
	}
	raw, mode, err := s.read(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the console's password: %w", err)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("reading the console's password: others than its owner may use %s (mode %04o)", file, mode.Perm())
	}
	password := bytes.TrimRight(raw, "\r\n")
	if len(password) == 0 || len(password) > 128 || bytes.ContainsFunc(password, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("reading the console's password: %s does not hold one line of up to 128 characters", file)
	}
	return password, nil
}
