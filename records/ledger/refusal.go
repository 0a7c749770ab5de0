package ledger

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"nameplate/records"
)

// ErrStateUnknown says that a COMMIT failed in a way that leaves open whether
// its events are on disk. Nothing may be concluded from it: close the ledger,
// open it again, and look.
var ErrStateUnknown = errors.New("the ledger's state is unknown: a commit failed")

// ErrClosed says that the ledger was closed.
var ErrClosed = errors.New("the ledger is closed")

func alreadyThere(path string) error {
	return &records.Refusal{Code: "ledger-exists", Sentence: fmt.Sprintf("There is a ledger already: %s.", path),
		Next: "Use it, or name another folder. A ledger is never overwritten."}
}

func missing(path string) error {
	return &records.Refusal{Code: "ledger-missing", Sentence: fmt.Sprintf("There is no ledger %s.", path),
		Next: "Check the folder's name; for a new station run 'station init DIR'."}
}

func inUse(path string, err error) error {
	return &records.Refusal{Code: "ledger-in-use", Sentence: fmt.Sprintf("Another program is writing to %s.", path),
		Next: "Stop the other 'station serve', or ask it to do the work.", Err: err}
}

func notALedger(path string) error {
	return &records.Refusal{Code: "ledger-foreign", Sentence: fmt.Sprintf("%s is not a station's ledger.", path),
		Next: "Check the folder's name."}
}

func tooNew(path string, version int) error {
	return &records.Refusal{Code: "ledger-newer",
		Sentence: fmt.Sprintf("%s was written by a newer program (schema %d; this one knows %d).", path, version, schemaVersion),
		Next:     "Run the newer program."}
}

func tooOld(path string, version int) error {
	return &records.Refusal{Code: "ledger-older",
		Sentence: fmt.Sprintf("%s was written by an older program (schema %d; this one wants %d).", path, version, schemaVersion),
		Next:     "Run 'station serve' once: it brings the ledger up to date."}
}

func otherStation(path, is, want string) error {
	return &records.Refusal{Code: "ledger-other-station", Sentence: fmt.Sprintf("%s is the ledger of station %q, not of %q.", path, is, want),
		Next: "Correct the station's name in its configuration, or use its own folder."}
}

func badStationName(name string) error {
	return &records.Refusal{Code: "station-name-invalid", Sentence: fmt.Sprintf("%q cannot be a station's name.", name),
		Next: "Use 1 to 64 letters, digits and - . _ and begin with a letter or digit."}
}

func damaged(what string, cause error) error {
	return &records.Refusal{Code: "ledger-damaged", Sentence: "The ledger is damaged: " + what + ".",
		Next: "Stop using it, keep the file, run 'station replay', and restore the newest backup.", Err: cause}
}

// unreadable is damage of which replay could say no more.
func unreadable(what string, cause error) error {
	return &records.Refusal{Code: "ledger-damaged", Sentence: "The ledger is damaged: " + what + ".",
		Next: "Stop using it, keep the file, and restore the newest backup.", Err: cause}
}

func notAUnit(name string, p records.PassageID) error {
	return damaged(fmt.Sprintf("%q in passage %s is no unit", name, p), nil)
}

func readOnly() error {
	return &records.Refusal{Code: "ledger-read-only", Sentence: "The ledger was opened for reading only.",
		Next: "Ask the running 'station serve' to do it."}
}

func taken(space records.Space, name string, owner int64) error {
	return &records.Refusal{Code: "identity-taken",
		Sentence: fmt.Sprintf("The %s %s belongs to %s already.", space, name, ownerName(space, owner)),
		Next:     "Set the board aside and call the process engineer."}
}

// ownerName is how people call the owner: units own names, passages own places.
func ownerName(space records.Space, owner int64) string {
	if space == records.SlotSpace || space == records.BoardSpace {
		return "passage " + records.PassageID(owner).String()
	}
	return "unit " + records.UnitID(owner).String()
}

// refuse turns SQLite's result code into what a person can act on; other errors
// pass with what was being done put before them.
func refuse(doing string, err error) error {
	cause := fmt.Errorf("%s: %w", doing, err)
	switch primaryCode(err) {
	case sqlite3.SQLITE_FULL:
		return &records.Refusal{Code: "disk-full", Sentence: "The disk that holds the ledger is full; nothing was recorded.",
			Next: "Free some space, then try again.", Err: cause}
	case sqlite3.SQLITE_IOERR:
		return &records.Refusal{Code: "disk-error", Sentence: "The disk that holds the ledger does not work as it should; nothing was recorded.",
			Next: "Stop the line and have the disk checked.", Err: cause}
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return &records.Refusal{Code: "ledger-busy", Sentence: "Another program keeps the ledger locked; nothing was recorded.",
			Next: "Close other programs that have ledger.db open, then try again.", Err: cause}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return unreadable("SQLite cannot read it", cause)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		return &records.Refusal{Code: "ledger-unreadable", Sentence: "The ledger's file cannot be opened as needed.",
			Next: "Check the owner and the modes of the station's folder.", Err: cause}
	}
	return cause
}

// primaryCode is SQLite's result code without its extension; 0 if the error is
// not SQLite's.
func primaryCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

// fatalToTransaction tells whether SQLite may have rolled back the whole
// transaction by itself (sqlite.org/lang_transaction.html, "Response To Errors
// Within A Transaction"), so that no savepoint can be trusted.
func fatalToTransaction(err error) bool {
	switch primaryCode(err) {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_CORRUPT:
		return true
	}
	return false
}
