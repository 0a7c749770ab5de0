package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"nameplate/records"
	"nameplate/records/batch"
	"nameplate/records/ledger"
)

// Exported is a batch that was written.
type Exported struct {
	Dir      string
	Units    int
	Manifest string // SHA-256 of manifest.jws
	Events   int64  // covered by its checkpoint
}

// Export writes the released units of an order, or of all of a customer's
// orders, as a batch into the folder dir, and records it.
func (h *Home) Export(ctx context.Context, actor records.Actor, customer, order, dir string) (Exported, error) {
	dir, err := cleanDir(dir)
	if err != nil {
		return Exported{}, err
	}
	orders, customer, err := h.exported(ctx, customer, order)
	if err != nil {
		return Exported{}, err
	}
	key, err := h.Vault.StationKey()
	if err != nil {
		return Exported{}, err
	}
	cas, err := h.chain(customer)
	if err != nil {
		return Exported{}, err
	}
	result, err := batch.Write(ctx, batch.Input{Dir: dir, Station: h.Set.Station.Name, Customer: customer, Orders: orders,
		Units: h.Ledger.Units(ctx, ledger.UnitQuery{Customer: customer, Order: order, State: records.Released}),
		CAs:   cas, EKCertificate: h.ekCertificate,
		Checkpoint: h.checkpoint,
		Record: func(ctx context.Context, r batch.Result) error {
			_, err := h.Ledger.Do(ctx, func(records.View) ([]records.Draft, error) {
				return []records.Draft{{Actor: actor, Order: order, Body: records.BatchExported{Customer: customer,
					Manifest: r.ManifestSHA256, Units: r.Units, Size: r.Size}}}, nil
			})
			return err
		},
		Key: key, QuotaLevel: batch.QuotaFile, Time: time.Now()})
	return Exported{Dir: dir, Units: result.Units, Manifest: result.ManifestSHA256, Events: result.Size}, err
}

// exported finds the orders of a batch, and whose they are.
func (h *Home) exported(ctx context.Context, customer, order string) ([]records.Order, string, error) {
	if order != "" {
		o, err := h.Order(ctx, order)
		if err == nil && customer != "" && customer != o.Customer {
			err = &records.Refusal{Code: "order-other-customer", Sentence: fmt.Sprintf("Order %s is not of customer %q.", order, customer),
				Next: "Name the order alone, or the customer alone."}
		}
		return []records.Order{o}, o.Customer, err
	}
	all, err := h.Ledger.Orders(ctx)
	if err != nil {
		return nil, "", err
	}
	var orders []records.Order
	for _, o := range all {
		if o.Customer == customer {
			orders = append(orders, o)
		}
	}
	if len(orders) == 0 {
		return nil, "", &records.Refusal{Code: "customer-unknown", Sentence: fmt.Sprintf("No order was ever opened for customer %q.", customer),
			Next: "See 'station order list'."}
	}
	return orders, customer, nil
}

// ekCertificate is the certificate of the unit's endorsement key as it was last
// read from the TPM, nil if there was none. It stays in its event: a unit's state
// is written often.
func (h *Home) ekCertificate(ctx context.Context, u records.Unit) ([]byte, error) {
	events, err := h.Ledger.UnitEvents(ctx, u.ID)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(events) {
		if e.Kind != (records.EvidenceAccepted{}).Kind() {
			continue
		}
		b, err := e.Body()
		if err != nil {
			return nil, err
		}
		if tpm := b.(records.EvidenceAccepted).TPM; tpm != nil {
			return tpm.Certificate, nil
		}
	}
	return nil, nil
}

// chain is what the customer's certificates are checked with: its issuing CA and
// the root. A customer without a CA has no certificates.
func (h *Home) chain(customer string) ([]byte, error) {
	issuing, err := os.ReadFile(h.path("ca", customer+".pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the issuing CA: %w", err)
	}
	root, err := os.ReadFile(h.path("ca", "root.pem"))
	if err != nil {
		return nil, fmt.Errorf("reading the root: %w", err)
	}
	return append(issuing, root...), nil
}
