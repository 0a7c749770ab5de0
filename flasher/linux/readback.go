package linux

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"nameplate/flasher"
	"nameplate/flasher/encode/files"
)

const (
	// blockSize is how much of a file comes in one answer, and has to come again if
	// noise hits it.
	blockSize = 4096
	// blocksAtOnce is how many small files come in one answer.
	blocksAtOnce = 4
)

// ReadBack implements flasher.Device: the files' bytes come back and are digested
// here, and one that is there with another mode or owner is not what was written; a key signs what is drawn here, and the TPM opens a challenge made here.
func (d *device) ReadBack(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	defer d.shell.forget()
	var asked []flasher.File
	for _, it := range items {
		if it.How != flasher.ByBytes || !tidy(it.Name) {
			continue
		}
		f := flasher.File{Path: it.Name}
		for _, is := range stored(d.options) {
			if is.Path == it.Name {
				f.Mode, f.Owner = files.New(is, nil, false).Mode, is.Owner
			}
		}
		asked = append(asked, f)
	}
	files, err := d.readFiles(ctx, asked)
	defer func() {
		for _, data := range files {
			clear(data)
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("reading files back: %w", err)
	}
	found := flasher.Manifest{}
	for _, it := range items {
		is, err := d.findItem(ctx, it, files)
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
func (d *device) findItem(ctx context.Context, it flasher.Item, files map[string][]byte) (*flasher.Item, error) {
	switch {
	case it.How == flasher.ByPossession && it.Name == flasher.ItemPrivateKey:
		return d.provePrivateKey(ctx)
	case it.How == flasher.ByPossession && it.Name == flasher.ItemEndorsementKey:
		return d.proveEndorsementKey(ctx)
	}
	data, ok := files[it.Name]
	if !ok || it.How != flasher.ByBytes {
		return nil, nil
	}
	salt, err := hex.DecodeString(it.Salt)
	if err != nil {
		return nil, fmt.Errorf("its salt is not hex: %w", err)
	}
	is := flasher.NewItem(it.Name, salt, data, flasher.ByBytes)
	return &is, nil
}

// reading prints a file's size, mode, path and first block, if it is a file, and no
// link to one; l prints another block. The mode is that of ls (POSIX.1-2017, ls,
// STDOUT), or a word if the owner is not user u and group v, where these are given:
// as numbers, or as names that i looks up, for which ls may have too little room.
const reading = `l(){ dd if="$1" bs=%[1]d skip=$2 count=1 2>/dev/null|base64;}
i(){ [ -z "$1" ]||[ "$1" = "$2" ]||grep -q "^$1:[^:]*:$2:" /etc/$3;}
g(){ f=$1 u=$2 v=$3;[ ! -f "$f" ]||[ -L "$f" ]||{ set -- $(ls -ln "$f");m=$1;i "$u" "$3" passwd&&i "$v" "$4" group||m=foreign
echo "$(wc -c<"$f") $m $f";l "$f" 0;};}
`

var errChanges = errors.New("a file changes while it is read")

// readFiles returns the files that are there as they shall be and not too large.
func (d *device) readFiles(ctx context.Context, asked []flasher.File) (map[string][]byte, error) {
	files := map[string][]byte{}
	for some := range slices.Chunk(asked, blocksAtOnce) {
		script := fmt.Sprintf(reading, blockSize)
		for _, f := range some {
			user, group, _ := strings.Cut(f.Owner, ":")
			script += fmt.Sprintf("g %s %s %s\n", quoted(f.Path), quoted(user), quoted(group))
		}
		a, err := d.shell.run(ctx, runLimit, script)
		if err != nil {
			return files, err
		}
		sizes, err := firstBlocks(some, a.out, files)
		if err != nil {
			return files, err
		}
		for name, size := range sizes {
			if files[name], err = d.readRest(ctx, name, size, files[name]); err != nil {
				return files, err
			}
		}
	}
	return files, nil
}

// firstBlocks takes what g printed for the files that were asked for: a line with
// size, mode and path for each, and base64, which has no spaces. What nobody asked
// for is refused, so there is room for no more than that.
func firstBlocks(asked []flasher.File, out []byte, files map[string][]byte) (map[string]int, error) {
	sizes, seen := map[string]int{}, map[string]bool{}
	for len(out) > 0 {
		title, rest, _ := bytes.Cut(out, []byte("\n"))
		size, rights, _ := strings.Cut(strings.TrimSpace(string(title)), " ")
		mode, name, ok := strings.Cut(rights, " ")
		n, err := strconv.Atoi(size)
		if !ok || err != nil || n < 0 {
			return nil, fmt.Errorf("a line of %d bytes is not size, mode and name of a file", len(title))
		}
		at := slices.IndexFunc(asked, func(f flasher.File) bool { return f.Path == name })
		if at < 0 || seen[name] {
			return nil, errors.New("the board tells of a file that it was not asked for")
		}
		seen[name] = true
		end := 0
		for end < len(rest) {
			line, _, _ := bytes.Cut(rest[end:], []byte("\n"))
			if bytes.Contains(line, []byte(" ")) {
				break
			}
			end = min(end+len(line)+1, len(rest))
		}
		block, err := unbase64(rest[:end])
		if err == nil && len(block) > n {
			err = errChanges
		}
		if err == nil && n <= largestFile && hasMode(mode, asked[at].Mode) {
			files[name] = append(make([]byte, 0, n), block...)
			sizes[name] = n
		}
		clear(block)
		if err != nil {
			return nil, err
		}
		out = rest[end:]
	}
	return sizes, nil
}

// hasMode compares what ls says of a file, behind which it may say more, with the
// mode that it shall have; 0: nobody cares, as long as it is its owner's.
func hasMode(said string, mode uint32) bool {
	return mode == 0 && said != "foreign" || strings.HasPrefix(said, fs.FileMode(mode).String())
}

// readRest returns the whole of a file whose first block is there, in the same
// memory: it may be a key.
func (d *device) readRest(ctx context.Context, name string, size int, data []byte) ([]byte, error) {
	for {
		if len(data) == size {
			return data, nil
		}
		if len(data) > size || len(data)%blockSize != 0 {
			return data, errChanges
		}
		a, err := d.shell.run(ctx, runLimit, fmt.Sprintf(reading+"l %[2]s %[3]d", blockSize, quoted(name), len(data)/blockSize))
		if err != nil {
			return data, err
		}
		block, err := unbase64(a.out)
		if err == nil && len(block) == 0 || len(data)+len(block) > size {
			err = errChanges
		}
		if err == nil {
			data = append(data, block...)
		}
		clear(block)
		if err != nil {
			return data, err
		}
	}
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
