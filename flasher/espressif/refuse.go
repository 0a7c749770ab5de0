package espressif

import (
	"errors"
	"fmt"

	"nameplate/flasher"
)

// The refusals of this family, each with what a person can do.

func boardSilent(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-silent",
		Sentence: "The board does not answer.",
		Next:     "Check that it has power and sits right in the slot, and that cable and adapter carry DTR and RTS; then put it in again.",
		Err:      err,
	}
}

func commandRefused(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-refuses",
		Sentence: "The board's boot loader refused a command.",
		Next:     "Put the board in again; if it happens again, set the board aside.",
		Err:      err,
	}
}

func noLines(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "port-without-lines",
		Sentence: "This port has no DTR and RTS, so the station cannot reset the board.",
		Next:     "Connect the slot through an adapter that carries both lines.",
		Err:      err,
	}
}

func chipUnknown(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "chip-unknown",
		Sentence: "The chip on this board is not one that the station knows.",
		Next:     "Check that the right board is in the slot; if it is, the station needs a version that knows this chip.",
		Err:      err,
	}
}

func chipUnexpected(found, expected string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "chip-unexpected",
		Sentence: fmt.Sprintf("This board carries an %s, but the product is built on the %s.", found, expected),
		Next:     "Put a board of this product into the slot, or choose the right work order.",
	}
}

func boardLocked(chip string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-locked",
		Sentence: fmt.Sprintf("This board's %s is locked: secure download mode is on.", chip),
		Next:     "Set the board aside; the lock is a fuse and cannot be undone.",
	}
}

func boardEncrypted() *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-encrypted",
		Sentence: "Flash encryption is on, so the station cannot read or write this board's storage.",
		Next:     "Set the board aside; boards of this product get their identity before encryption is switched on.",
	}
}

func macInvalid(mac string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "mac-invalid",
		Sentence: fmt.Sprintf("The chip's own address reads as %s, which no chip has.", mac),
		Next:     "Put the board in again; if it happens again, set the board aside.",
	}
}

// readDiffers is said when no two of several readings agree.
func readDiffers(what string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-read-differs",
		Sentence: fmt.Sprintf("The board's %s was read differently twice.", what),
		Next:     "Put the board back; check the cable.",
	}
}

func boardSwapped(was, is string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "board-swapped",
		Sentence: fmt.Sprintf("Another board is in the slot now: %s was identified, %s answers.", was, is),
		Next:     "Put the first board back, or start again with this one.",
		Err:      flasher.ErrSwapped,
	}
}

func tableUnreadable(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "partition-table-unreadable",
		Sentence: "The board has no valid partition table.",
		Next:     "Flash the product's firmware onto it first, then put it in again.",
		Err:      err,
	}
}

func partitionMissing(name string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "partition-missing",
		Sentence: fmt.Sprintf("The board's partition table has no NVS partition %q.", name),
		Next:     "Check that the board carries this product's firmware, and the partition's name in the product file.",
	}
}

func partitionTooSmall(name string, size uint32) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "partition-too-small",
		Sentence: fmt.Sprintf("The partition %q has %d bytes, which is too small for NVS.", name, size),
		Next:     "NVS needs three pages of 4096 bytes: change the firmware's partition table.",
	}
}

func partitionTooLarge(name string, size uint32) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "partition-too-large",
		Sentence: fmt.Sprintf("The partition %q has %d bytes; the station writes NVS partitions up to %d.", name, size, largestStore),
		Next:     "Name a smaller partition for the identity in the product file.",
	}
}

func partitionEncrypted(name string) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "partition-encrypted",
		Sentence: fmt.Sprintf("The partition %q is marked as encrypted, and the station writes it in plain.", name),
		Next:     "Name another partition in the product file, or take the mark off in the firmware's partition table.",
	}
}

func misfit(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "profile-does-not-fit",
		Sentence: fmt.Sprintf("This identity cannot be stored as the product file says: %v.", err),
		Next:     "Change the store section of the product file, or the firmware's partition table.",
		Err:      err,
	}
}

func verifyFailed(err error) *flasher.Refusal {
	return &flasher.Refusal{
		Code:     "flash-verify-failed",
		Sentence: "The board's flash does not hold what was written to it, twice.",
		Next:     "Set the board aside: its flash may be bad.",
		Err:      err,
	}
}

// explain gives the errors of the conversation the words for a person. Refusals
// and lost links pass as they are.
func explain(err error) error {
	var (
		refusal *flasher.Refusal
		refused *romError
	)
	switch {
	case err == nil || errors.As(err, &refusal):
		return err
	case errors.Is(err, errSilent):
		return boardSilent(err)
	case errors.As(err, &refused):
		return commandRefused(err)
	}
	return err
}
