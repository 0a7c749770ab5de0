package home

import (
	"context"
	"fmt"
	"time"

	"nameplate/ca/ek"
	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/line"
	"nameplate/station/profile"
)

// Jobs makes of a work order what the line needs. The product is the one that
// the order was opened with, not today's file.
func (h *Home) Jobs(drivers map[string]flasher.Driver) func(context.Context, string) (line.Job, error) {
	return func(ctx context.Context, id string) (line.Job, error) {
		if _, err := h.Order(ctx, id); err != nil {
			return line.Job{}, err
		}
		opened, err := h.Ledger.Opened(ctx, id)
		if err != nil {
			return line.Job{}, err
		}
		product, err := profile.ParseProduct(opened.Product+".yaml", opened.ProductFile)
		if err != nil {
			return line.Job{}, fmt.Errorf("reading the product of order %s: %w", id, err)
		}
		driver := drivers[product.Family]
		if driver == nil {
			return line.Job{}, &records.Refusal{Code: "family-unknown", Sentence: fmt.Sprintf("This station cannot make devices of family %q.", product.Family),
				Next: "Use a station program that knows the family."}
		}
		options := product.Options()
		if options.Console.Password, err = h.Set.Password(product); err != nil {
			return line.Job{}, &records.Refusal{Code: "console-password", Sentence: fmt.Sprintf("The station cannot read the console's password of product %s.", product.Name),
				Next: "See 'station check'.", Err: err}
		}
		roots, err := TPMRoots(h.Set, product)
		if err != nil {
			return line.Job{}, err
		}
		if roots != nil {
			if roots, err = roots.Only(opened.Terms.EKRoots); err != nil {
				return line.Job{}, err
			}
		}
		ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
		l := opened.Limits
		return line.Job{Order: id, Attestation: opened.Terms.Attestation, Driver: driver, Options: options,
			EK:           line.EK{Policy: ek.Policy(opened.Terms.EKPolicy), Roots: roots},
			Organization: product.Certificate.Organization, ValidDays: opened.Terms.ValidDays, Issuer: opened.Terms.Issuer,
			Limits: line.Limits{Identify: ms(l.Identify), Write: ms(l.Write), Verify: ms(l.Verify), Passage: ms(l.Passage)}}, nil
	}
}
