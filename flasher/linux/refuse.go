package linux

import (
	"errors"
	"fmt"
	"strings"

	"nameplate/flasher"
)

// The refusals of this family, each with what a person can do.

func boardSilent(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-silent",
		Sentence: "The board's console does not answer.",
		Next:     "Check that the board has power and sits right in the slot, and the console's cable; then put it in again.",
		Err:      err,
	}
}

func noPrompt(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "no-prompt",
		Sentence: "The board's console speaks, but neither a login nor a shell answers on it.",
		Next:     "Wait until the board has started, then put it in again; if it happens again, check the console's speed in the product file, and that the board's image starts a login on this console.",
		Err:      err,
	}
}

func inBootLoader(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-in-boot-loader",
		Sentence: "The board stands in its boot loader.",
		Next:     "Switch it off and on without touching a key, then put it in again; if it happens again, have its image checked.",
		Err:      err,
	}
}

func loginNeeded() *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "login-needed",
		Sentence: "The board's console asks for a user, and the product file names none.",
		Next:     "Name the user in the console section of the product file.",
	}
}

func loginRefused() *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "login-refused",
		Sentence: "The board did not accept the user name and the password for its console.",
		Next:     "Check that the right board is in the slot, then the console section of the product file and the password it names; the station does not try twice.",
	}
}

func notRoot(uid string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "not-root",
		Sentence: fmt.Sprintf("The user of the board's console is not root: its number is %.16q.", uid),
		Next:     "Name a user with number 0 in the console section of the product file.",
	}
}

func toolMissing(names ...string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tool-missing",
		Sentence: fmt.Sprintf("The board's image has no %s.", strings.Join(names, ", ")),
		Next:     "Set the board aside; its image must bring what is missing.",
	}
}

func garbled(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "console-garbled",
		Sentence: "What goes over the board's console does not arrive as it was sent.",
		Next:     "Check the cable and the console's speed; keep other programs and the kernel from writing to the console (loglevel); then put the board in again.",
		Err:      err,
	}
}

// boardRestarted: what answers is not the shell that identified the board.
func boardRestarted(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-restarted",
		Sentence: "The board has started again, or another one is in the slot now.",
		Next:     "Put the first board in again, or start again with this one; if boards do this often, check their power.",
		Err:      errors.Join(flasher.ErrSwapped, err),
	}
}

func readDiffers() *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-read-differs",
		Sentence: "The board's hardware ID was read differently twice.",
		Next:     "Put the board in again; if it happens again, set it aside.",
	}
}

func modelUnexpected(found, expected string) *flasher.Refusal {
	r := &flasher.Refusal{
		Code:     "chip-unexpected",
		Sentence: fmt.Sprintf("This board is a %.64q, but the product is a %.64q.", found, expected),
		Next:     "Put a board of this product into the slot, or choose the right work order.",
	}
	if found == "" {
		r.Sentence = fmt.Sprintf("This board does not say which model it is; the product is a %q.", expected)
	}
	return r
}

func interfaceMissing(name string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "interface-missing",
		Sentence: fmt.Sprintf("The board has no network interface %s.", name),
		Next:     "Check the interface in the product file; if it is right, set the board aside.",
	}
}

func macInvalid(name, mac string, foreign bool) *flasher.Refusal {
	r := &flasher.Refusal{
		Code:     "mac-invalid",
		Sentence: fmt.Sprintf("The address of the board's %s reads as %.64q, which no board has.", name, mac),
		Next:     "Put the board in again; if it happens again, set the board aside.",
	}
	if foreign {
		r.Sentence = fmt.Sprintf("The board's %s has no address of its own: %.64q was drawn at random, or set by a program of its image.", name, mac)
		r.Next = "Set the board aside; its address was never programmed."
	}
	return r
}

func tpmMissing() *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-missing",
		Sentence: fmt.Sprintf("The board has no TPM: there is no %s.", tpmDevice),
		Next:     "Check that the TPM is fitted and switched on, and that the image has its driver; then put the board in again.",
	}
}

func tpmUnusable(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "tpm-silent",
		Sentence: "The board's TPM does not answer.",
		Next:     "Switch the board off and on and put it in again; if it happens again, set the board aside.",
		Err:      err,
	}
}

func moduleMissing(path string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "pkcs11-missing",
		Sentence: fmt.Sprintf("The board's image has no PKCS#11 module %s, through which Azure's services reach a key in the TPM.", path),
		Next:     "Use an image with the module, or let the product write plain files (format files) that name the key's handle.",
	}
}

func misfit(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "profile-does-not-fit",
		Sentence: fmt.Sprintf("This identity cannot be stored as the product file says: %v.", err),
		Next:     "Change the options section of the product file.",
		Err:      err,
	}
}

func keyUnusable(path string, err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "device-key-unusable",
		Sentence: fmt.Sprintf("The key that the board has in %s cannot be used: %v.", path, err),
		Next:     "Set the board aside. The station never overwrites a key: whoever knows what it is for has to remove it.",
		Err:      err,
	}
}

// errChecksum: the board has something else in the file than was sent.
var errChecksum = errors.New("the SHA-256 on the board differs")

// errnos is what the C library says of the errors that a file can meet (errno(3),
// strerror in the locale C).
var errnos = []string{"Read-only file system", "No space left on device", "Disk quota exceeded", "Permission denied", "Operation not permitted",
	"Input/output error", "No such file or directory", "Not a directory", "Is a directory", "File exists", "Too many levels of symbolic links", "invalid user", "unknown user", "unknown group"}

// heard is what may be repeated of a board's words: those that we know. The others
// may be what we told it, a key among them.
func heard(said string) string {
	var known []string
	for _, e := range errnos {
		if strings.Contains(said, e) {
			known = append(known, e)
		}
	}
	if len(known) == 0 && said != "" {
		return fmt.Sprintf("%d bytes that are no known error", len(said))
	}
	return strings.Join(known, ", ")
}

// storageRefused says why the board could not keep a file, by the status of our
// script and by what the C library says of an error (LC_ALL is C there).
func storageRefused(status int, out []byte) *flasher.Refusal {
	said := strings.TrimSpace(string(plain(out)))
	err := fmt.Errorf("status %d, the board says %q", status, heard(said))
	switch {
	case status == statusVolatile:
		return &flasher.Refusal{
			Code:     "filesystem-volatile",
			Sentence: "What is written to the place for the identity stays in the board's memory, and is gone with its power.",
			Next:     "If other boards of this product work, set this one aside: its storage is not in its place. Otherwise check the paths in the product file, and the image.",
			Err:      err,
		}
	case status == statusSync:
		return &flasher.Refusal{
			Code:     "filesystem-sync-failed",
			Sentence: "The board could not bring what was written to its storage.",
			Next:     "Put the board in again; if it happens again, set the board aside: its storage is bad.",
			Err:      err,
		}
	case strings.Contains(said, "Read-only file system"):
		return &flasher.Refusal{
			Code:     "filesystem-read-only",
			Sentence: "The board's file system can only be read.",
			Next:     "Check the image and the product file: the identity needs a place that can be written. A storage with errors is made read-only by the kernel: if other boards of this product work, set this one aside.",
			Err:      err,
		}
	case strings.Contains(said, "No space left on device"), strings.Contains(said, "Disk quota exceeded"):
		return &flasher.Refusal{
			Code:     "filesystem-full",
			Sentence: "The board's file system is full.",
			Next:     "Set the board aside; its image must leave room for the identity.",
			Err:      err,
		}
	case status == statusChecksum:
		return &flasher.Refusal{
			Code:     "checksum-differs",
			Sentence: "The file on the board is not what was sent, twice.",
			Next:     "Check the console's cable and speed, and put the board in again; if it happens again, set the board aside: its storage may be bad.",
			Err:      errors.Join(errChecksum, err),
		}
	case status == statusOwner:
		return &flasher.Refusal{
			Code:     "owner-unknown",
			Sentence: "The board does not know the user or the group that shall own a file.",
			Next:     "Check the owners in the product file, and that the image has the software they belong to.",
			Err:      err,
		}
	case status == statusFolder:
		return &flasher.Refusal{
			Code:     "path-is-folder",
			Sentence: "Where the product file wants a file, the board has a folder.",
			Next:     "Check the paths in the product file.",
			Err:      err,
		}
	case status == statusNoKey:
		return &flasher.Refusal{
			Code:     "device-key-failed",
			Sentence: "The board's openssl could not make a key.",
			Next:     "Put the board in again; if it happens again, set the board aside and have its image checked.",
			Err:      err,
		}
	}
	return &flasher.Refusal{
		Code:     "filesystem-refuses",
		Sentence: "The board could not write a file.",
		Next:     "Put the board in again; if it happens again, set the board aside and have its image checked.",
		Err:      err,
	}
}
