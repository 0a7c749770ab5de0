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
//
// A page or entry with a wrong bit is not there either, so what does not show
// the items whole is read once more before anyone is told that they are missing.
func (d *device) ReadBack(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	if err := d.sameBoard(ctx); err != nil {
		return nil, explain(err)
	}
	found, err := d.readItems(ctx, items)
	if err == nil && len(flasher.Manifest(items).Missing(found)) > 0 {
		found, err = d.readItems(ctx, items)
	}
	return found, explain(err)
}

// readItems reads the storage once.
func (d *device) readItems(ctx context.Context, items []flasher.Item) (flasher.Manifest, error) {
	image := make([]byte, d.part.Size)
	// It holds keys, also when the cable goes in the middle of it.
	defer clear(image)
	defer d.rom.forget()
	if err := d.readStore(ctx, image); err != nil {
		return nil, fmt.Errorf("reading %q back: %w", d.part.Name, err)
	}
	found := flasher.Manifest{}
	store, err := nvs.Parse(image)
	if err != nil {
		return found, nil
	}
	defer func() { // blobs of several pieces are copies
		for _, st := range stored {
			b, _ := d.lookup(store, st.item)
			clear(b)
		}
	}()
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

// readStore fills image with the partition, of each page as much as the page says is in
// use: the ROM gives 64 bytes a command, and most of the partition is erased.
func (d *device) readStore(ctx context.Context, image []byte) error {
	for i := range image {
		image[i] = 0xFF
	}
	for at := 0; at < len(image); at += nvs.PageSize {
		page := image[at : at+nvs.PageSize]
		offset := d.part.Offset + uint32(at)
		if err := d.rom.readFlash(ctx, offset, page[:nvs.HeadSize]); err != nil {
			return err
		}
		if used := nvs.InUse(page[:nvs.HeadSize]); used > nvs.HeadSize {
			if err := d.rom.readFlash(ctx, offset+nvs.HeadSize, page[nvs.HeadSize:used]); err != nil {
				return err
			}
		}
	}
	return nil
}
