package linux

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nameplate/flasher"
)

// blockSize is how much of a file comes in one answer: at 9600 baud seven
// seconds, and what has to come again if noise hits it.
const blockSize = 4096

// ReadBack implements flasher.Device: the files' bytes come back and are digested
// here; a key signs what is drawn here, and the TPM opens a challenge made here.
func (d *device) ReadBack(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	defer d.shell.forget()
	sizes, err := d.sizes(ctx, items)
	if err != nil {
		return nil, fmt.Errorf("looking for files: %w", err)
	}
	found := flasher.Manifest{}
	for _, it := range items {
		is, err := d.findItem(ctx, it, sizes)
		if err != nil {
			return nil, fmt.Errorf("reading back %s: %w", it.Name, err)
		}
		if is != nil {
			found = append(found, *is)
		}
	}
	return found, nil
}

// findItem returns the item as it is on the board, nil if it is not there.
func (d *device) findItem(ctx context.Context, it flasher.Item, sizes map[string]int) (*flasher.Item, error) {
	switch {
	case it.How == flasher.ByPossession && it.Name == flasher.ItemPrivateKey:
		return d.provePrivateKey(ctx)
	case it.How == flasher.ByPossession && it.Name == flasher.ItemEndorsementKey:
		return d.proveEndorsementKey(ctx)
	case it.How != flasher.ByBytes:
		return nil, nil
	}
	size, ok := sizes[it.Name]
	if !ok || size > largestFile {
		return nil, nil
	}
	salt, err := hex.DecodeString(it.Salt)
	if err != nil {
		return nil, fmt.Errorf("its salt is not hex: %w", err)
	}
	data, err := d.readFile(ctx, it.Name, size)
	defer clear(data)
	if err != nil {
		return nil, err
	}
	is := flasher.NewItem(it.Name, salt, data, flasher.ByBytes)
	return &is, nil
}

// measure prints the size of a file, if it is one.
const measure = `g(){ [ ! -f "$1" ]||echo "$(wc -c<"$1") $1";}
`

// sizes is how long the items' files are, those that are there.
func (d *device) sizes(ctx context.Context, items []flasher.Item) (map[string]int, error) {
	var paths []string
	for _, it := range items {
		if it.How == flasher.ByBytes && tidy(it.Name) {
			paths = append(paths, it.Name)
		}
	}
	out, status, err := d.each(ctx, measure, "g", paths)
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, storageRefused(status, out)
	}
	sizes := map[string]int{}
	for line := range strings.Lines(string(out)) {
		size, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(size); err == nil && n >= 0 {
			sizes[name] = n
		}
	}
	return sizes, nil
}

// readFile returns a file's bytes, in memory that is not moved: it may be a key.
func (d *device) readFile(ctx context.Context, name string, size int) ([]byte, error) {
	data := make([]byte, 0, size)
	for len(data) < size {
		a, err := d.shell.run(ctx, runLimit, fmt.Sprintf("dd if=%s bs=%d skip=%d count=1 2>/dev/null|base64", quoted(name), blockSize, len(data)/blockSize))
		if err != nil {
			return data, err
		}
		block, err := unbase64(a.out)
		room := size - len(data)
		if err == nil && (len(block) == 0 || len(block) > room || len(block) < blockSize && len(block) < room) {
			err = errors.New("the file changes while it is read")
		}
		if err != nil {
			clear(block)
			return data, err
		}
		data = append(data, block...)
		clear(block)
	}
	return data, nil
}

// provePrivateKey lets the key that the board made sign a challenge.
func (d *device) provePrivateKey(ctx context.Context) (*flasher.Item, error) {
	var prove func(context.Context) (flasher.Proof, error)
	switch d.options.Key.In {
	case inFile:
		prove = fileKey{d}.prove
	case inTPM:
		prove = tpmKey{d}.prove
	default:
		return nil, nil
	}
	proof, err := prove(ctx)
	if err != nil {
		return nil, unproved(err)
	}
	is := possessed(flasher.ItemPrivateKey, proof.Public, &proof)
	return &is, nil
}

// proveEndorsementKey lets the TPM open a fresh challenge.
func (d *device) proveEndorsementKey(ctx context.Context) (*flasher.Item, error) {
	if d.tpm == nil {
		return nil, nil
	}
	if err := d.tpm.ProveEndorsement(ctx); err != nil {
		return nil, unproved(err)
	}
	is := possessed(flasher.ItemEndorsementKey, bytes.Clone(d.tpm.Endorsement().Public), nil)
	return &is, nil
}

// disproved is the refusals of boards that were asked and do not hold the key, or
// hold another: what was looked for is then not there. All else, a TPM that has
// locked itself or a console that fell silent, says nothing of the key.
var disproved = []string{"device-key-unusable", "tpm-key-missing", "tpm-handle-occupied", "tpm-activation-failed", "tpm-signature-wrong"}

func unproved(err error) error {
	var refusal *flasher.Refusal
	if errors.As(err, &refusal) && slices.Contains(disproved, refusal.Code) {
		return nil
	}
	return err
}
