package espressif

import (
	"context"
	"encoding/hex"
	"fmt"

	"nameplate/flasher"
	"nameplate/flasher/encode/nvs"
)

// ReadBack implements flasher.Device: it reads the entries out of the flash and
// decodes them with the reader that takes any device's storage, so it finds an
// identity also when the firmware has moved it since. An item kept as another
// NVS type than Plan gives it is not there: the firmware would not find it.
func (d *device) ReadBack(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	if err := d.sameBoard(ctx); err != nil {
		return nil, explain(err)
	}
	image, err := d.readStore(ctx)
	if err != nil {
		return nil, explain(fmt.Errorf("reading %q back: %w", d.part.Name, err))
	}
	defer clear(image)
	store, err := nvs.Parse(image)
	if err != nil {
		return flasher.Manifest{}, nil
	}
	defer d.rom.forget()
	defer func() { // blobs of several pieces are copies
		for _, st := range stored {
			b, _ := d.lookup(store, st.item)
			clear(b)
		}
	}()
	found := flasher.Manifest{}
	for _, it := range items {
		salt, err := hex.DecodeString(it.Salt)
		if err != nil {
			return nil, fmt.Errorf("reading back %s: its salt is not hex: %w", it.Name, err)
		}
		if b, ok := d.lookup(store, it.Name); ok && it.How == flasher.ByBytes {
			found = append(found, flasher.NewItem(it.Name, salt, b, flasher.ByBytes))
		}
	}
	return found, nil
}

func (d *device) lookup(store *nvs.Store, item string) ([]byte, bool) {
	for _, st := range stored {
		if st.item == item {
			v, ok := store.Lookup(d.options.Store.Namespace, d.options.Store.Keys[item])
			return v.Data, ok && v.Type == st.as
		}
	}
	return nil, false
}

// readStore reads the partition, of each page as much as the page says is in
// use: the ROM gives 64 bytes a command, and most of the partition is erased.
func (d *device) readStore(ctx context.Context) ([]byte, error) {
	image := make([]byte, d.part.Size)
	for i := range image {
		image[i] = 0xFF
	}
	for at := 0; at < len(image); at += nvs.PageSize {
		page := image[at : at+nvs.PageSize]
		offset := d.part.Offset + uint32(at)
		if err := d.rom.readFlash(ctx, offset, page[:nvs.HeadSize]); err != nil {
			return nil, err
		}
		if used := nvs.InUse(page[:nvs.HeadSize]); used > nvs.HeadSize {
			if err := d.rom.readFlash(ctx, offset+nvs.HeadSize, page[nvs.HeadSize:used]); err != nil {
				return nil, err
			}
		}
	}
	return image, nil
}
