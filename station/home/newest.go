package home

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"nameplate/records"

	"golang.org/x/mod/sumdb/note"
)

// newest is the file that holds the newest checkpoint outside the ledger. A
// ledger put back from a backup, which would give identities a second time, does
// not continue it. A backup of the whole folder does: only a checkpoint that
// somebody else holds shows that.
const newest = "checkpoint.txt"

// checkpoint signs the ledger as it is, and keeps the statement outside the
// ledger too.
func (h *Home) checkpoint(ctx context.Context) ([]byte, error) {
	signer, err := h.Vault.Signer()
	if err != nil {
		return nil, err
	}
	text, err := h.Ledger.Checkpoint(ctx, signer)
	if err != nil {
		return nil, err
	}
	h.signing.Lock() // two at once may leave the older one: it holds too, and covers a little less
	defer h.signing.Unlock()
	return text, replaceFile(h.path(newest), text, 0o644)
}

// Sign signs what the ledger holds now. A station that was never unlocked has made
// nothing and signs nothing.
func (h *Home) Sign(ctx context.Context) error {
	if !h.Vault.Unlocked() {
		return nil
	}
	_, err := h.checkpoint(ctx)
	return err
}

// checkNewest refuses a ledger that does not continue the newest checkpoint.
func (h *Home) checkNewest(ctx context.Context) error {
	text, err := os.ReadFile(h.path(newest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever signed
	}
	if err != nil {
		return fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	verifier, err := h.Verifier()
	if err != nil {
		return err
	}
	older := func(err error) error {
		return &records.Refusal{Code: "ledger-not-newest", Sentence: "The ledger is not the newest of this station, or not this station's.",
			Next: "Put the newest ledger.db back. Do not make units with this one: they would get identities that exist already.", Err: err}
	}
	signed, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return &records.Refusal{Code: "checkpoint-unreadable", Sentence: "The station's newest checkpoint, checkpoint.txt, is damaged or not this station's.",
			Next: "Put the newest copy of that file back; every batch holds one. Remove it only if you are sure that ledger.db is the newest.", Err: err}
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 3 || lines[0] != h.Ledger.Origin() {
		return older(fmt.Errorf("%s is of another ledger", newest))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size > h.Ledger.Size() {
		return older(fmt.Errorf("%s covers %s events, the ledger has %d", newest, lines[1], h.Ledger.Size()))
	}
	root, err := h.Ledger.Root(ctx, size)
	if err != nil {
		return err
	}
	if base64.StdEncoding.EncodeToString(root[:]) != lines[2] {
		return older(fmt.Errorf("the root of the first %d events is not that of %s", size, newest))
	}
	return nil
}

// replaceFile puts data under a name, whole or not at all.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", fresh, err)
	}
	if err := writeNew(fresh, data, mode); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("naming %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}
