package home

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/station/profile"
)

// Order returns an order, or refuses if there is none.
func (h *Home) Order(ctx context.Context, id string) (records.Order, error) {
	o, err := h.Ledger.Order(ctx, id)
	if err == nil && o.ID == "" {
		err = &records.Refusal{Code: "order-unknown", Sentence: fmt.Sprintf("There is no order %q.", id), Next: "See 'station order list'."}
	}
	return o, err
}

// OpenOrder writes an order, with all that its units will need, into the ledger.
func (h *Home) OpenOrder(ctx context.Context, actor records.Actor, name string, file []byte) (records.Order, error) {
	order, err := profile.ParseOrder(name, file)
	if err != nil {
		return records.Order{}, invalid(err)
	}
	opened, err := h.Set.Resolve(order)
	if err != nil {
		return records.Order{}, invalid(err)
	}
	if opened.Terms.Attestation == records.X509 {
		issuer, err := h.issuer(opened.Customer)
		if err != nil {
			return records.Order{}, err
		}
		opened.Terms.Issuer = ca.Digest(issuer.Raw)
	}
	if roots, err := TPMRoots(h.Set, h.Set.Products[opened.Product]); err != nil {
		return records.Order{}, err
	} else if roots != nil {
		opened.Terms.EKRoots = roots.Fingerprints()
	}
	_, err = h.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		if err := records.OpenOrder(v, opened); err != nil {
			return nil, err
		}
		return []records.Draft{{Actor: actor, Order: opened.ID, Body: opened}}, nil
	})
	if err != nil {
		return records.Order{}, err
	}
	return h.Order(ctx, opened.ID)
}

// TPMRoots are the TPM makers' roots that a product names; nil if it names none.
func TPMRoots(set profile.Set, p profile.Product) (*ek.Roots, error) {
	if p.TPM.Roots == "" {
		return nil, nil
	}
	return ek.LoadRoots(filepath.Join(set.Dir, p.TPM.Roots))
}

// invalid is how a file's mistakes reach a caller who may be elsewhere.
func invalid(err error) error {
	return &records.Refusal{Code: "order-invalid", Sentence: "The order has mistakes:\n" + err.Error(), Next: "Correct the file and open the order again.", Err: err}
}

// CloseOrder ends an order. Claims for which nothing was made yet are given back
// first, so that their serials are free; the order is closed in the same
// transaction.
func (h *Home) CloseOrder(ctx context.Context, actor records.Actor, id, reason string) (records.Order, error) {
	if _, err := h.Order(ctx, id); err != nil {
		return records.Order{}, err
	}
	var waiting []records.UnitID
	for u, err := range h.Ledger.Units(ctx, ledger.UnitQuery{Order: id, State: records.Claimed}) {
		if err != nil {
			return records.Order{}, err
		}
		waiting = append(waiting, u.ID)
	}
	_, err := h.Ledger.Do(ctx, func(v records.View) ([]records.Draft, error) {
		o, err := v.Order(id)
		if err != nil {
			return nil, err
		}
		if o.Closed {
			return nil, &records.Refusal{Code: "order-closed", Sentence: fmt.Sprintf("Order %s is closed already.", id), Next: "Nothing needs to be done."}
		}
		var drafts []records.Draft
		for _, unit := range waiting {
			u, err := v.Unit(unit)
			if err != nil {
				return nil, err
			}
			if u.State != records.Claimed || u.Passage != 0 || u.Made {
				continue // it moved on meanwhile
			}
			drafts = append(drafts, records.Draft{Actor: actor, Unit: u.ID, Order: id,
				Body: records.IdentityReleased{RegistrationID: u.RegistrationID, Serial: u.Serial, Number: u.Number, Reason: "order closed"}})
		}
		return append(drafts, records.Draft{Actor: actor, Order: id, Body: records.OrderClosed{Reason: reason}}), nil
	})
	if err != nil {
		return records.Order{}, err
	}
	o, err := h.Order(ctx, id)
	if h.Vault.Unlocked() {
		// The order is closed, whether or not the ledger can be signed over it now:
		// the next signature covers it too.
		_, _ = h.checkpoint(ctx)
	}
	return o, err
}

// Denied records that somebody was refused an action. Only the first line of the
// sentence is recorded: what follows may quote a file, and an event is for ever.
func (h *Home) Denied(ctx context.Context, actor records.Actor, action, code, sentence string) error {
	sentence, _, _ = strings.Cut(sentence, "\n")
	_, err := h.Ledger.Do(ctx, func(records.View) ([]records.Draft, error) {
		return []records.Draft{{Actor: actor, Body: records.ActionDenied{Action: action, Code: code, Sentence: sentence}}}, nil
	})
	return err
}

// History finds a unit by any of its names, with its events.
func (h *Home) History(ctx context.Context, text string) (records.Unit, []records.Event, error) {
	u, err := h.Ledger.Find(ctx, text)
	if err != nil {
		return u, nil, err
	}
	events, err := h.Ledger.UnitEvents(ctx, u.ID)
	return u, events, err
}

// cleanDir makes a path given by a caller absolute; a relative one would mean
// the daemon's folder, not the caller's.
func cleanDir(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", &records.Refusal{Code: "export-dir-invalid", Sentence: fmt.Sprintf("%q is not an absolute path.", dir), Next: "Write the whole path of a folder that does not exist yet."}
	}
	return filepath.Clean(dir), nil
}
