package ledger_test

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"nameplate/records"
	"nameplate/records/ledger"
)

// Whatever is thrown at the ledger, after each call its rows are what folding
// its stored bytes from the first one gives: live = replayed for every prefix.
// And no promise that the fold knows is broken on the way.
func TestLiveIsReplayed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := create(t)
		l := open(t, path)
		defer func() { l.Close() }()
		f := newFold()
		w := &walk{t: rt, l: l}
		for range rapid.IntRange(20, 50).Draw(rt, "steps") {
			if rapid.IntRange(0, 19).Draw(rt, "reopen") == 19 {
				l.Close() // nothing of what follows may rest on what was remembered
				l = open(t, path)
				w.l = l
			}
			w.step()
			if err := errors.Join(f.read(l), f.compare(l)); err != nil {
				rt.Fatal(err)
			}
		}
		for id, o := range f.orders {
			if o.Live > o.Quota {
				rt.Fatalf("order %s has %d live identities of %d", id, o.Live, o.Quota)
			}
		}
	})
}

// walk appends what may follow and, often, what may not.
type walk struct {
	t *rapid.T
	l *ledger.Ledger
	n int // makes names fresh
}

func (w *walk) step() {
	w.n++
	drafts := 1
	if rapid.IntRange(0, 9).Draw(w.t, "more") == 9 {
		drafts = 2
	}
	// The error is the ledger's business: accepted or not, rows and log agree.
	w.l.Do(ctx, func(v records.View) ([]records.Draft, error) {
		var all []records.Draft
		for range drafts {
			d, err := w.draft(v)
			if err != nil {
				return nil, err
			}
			all = append(all, d)
		}
		return all, nil
	})
}

func (w *walk) draft(v records.View) (records.Draft, error) {
	order := rapid.SampledFrom([]string{"wo-1", "wo-2", "wo-3"}).Draw(w.t, "order")
	slot := rapid.SampledFrom([]string{"slot-1", "slot-2"}).Draw(w.t, "slot")
	mac := rapid.SampledFrom([]string{"aa", "bb", "cc"}).Draw(w.t, "mac")
	owner, err := v.Owner(records.HardwareSpace, "mac="+mac)
	if err != nil {
		return records.Draft{}, err
	}
	u, err := v.Unit(records.UnitID(owner))
	if err != nil {
		return records.Draft{}, err
	}
	passage, err := v.Owner(records.SlotSpace, slot)
	if err != nil {
		return records.Draft{}, err
	}
	id, p := u.ID, records.PassageID(passage)
	known := id
	if known == 0 {
		known = records.NewUnit
	}
	if u.Order != "" && rapid.IntRange(0, 9).Draw(w.t, "stay") < 9 {
		order = u.Order
	}
	fresh := fmt.Sprintf("%d", w.n)
	found := manifest
	if rapid.IntRange(0, 9).Draw(w.t, "misread") == 9 {
		found = []records.Item{{Name: "id_scope", SHA256: "99"}}
	}
	live := records.SecretDestroyed{Reason: "not on the device"}
	if u.Secret != nil {
		live.Ref = u.Secret.Ref
	}
	voided := records.CertificateVoided{Reason: "key gone"}
	if u.Cert != nil {
		voided.Serial = u.Cert.Serial
	}
	claimOr := func() records.Body {
		c, isNew, err := records.Claim(v, u, order)
		if err != nil || !isNew {
			return records.IdentityClaimed{Customer: "customer-a", Number: 1, Serial: "A000001", RegistrationID: "wo-1-a000001", Attestation: records.X509, Key: records.KeyInjected}
		}
		return c
	}
	opened := rapid.SampledFrom([]func(quota int) records.Draft{
		func(quota int) records.Draft { return orderOpened(order, records.SymmetricKey, quota) },
		func(quota int) records.Draft { return orderOpened(order, records.X509, quota) },
		func(quota int) records.Draft { return orderOpened(order, records.TPM, quota) },
		func(quota int) records.Draft { return makingKeys(order, records.KeyInFile, quota) },
		func(quota int) records.Draft { return makingKeys(order, records.KeyInTPM, quota) },
	}).Draw(w.t, "opened")
	// Keys that devices make are few, so that two of them meet.
	key := rapid.SampledFrom([]string{"key-a", "key-b", "key-c"}).Draw(w.t, "key")
	certificate := issued(id, u.RegistrationID, fresh, "key-"+fresh)
	if u.Key == records.KeyInFile || u.Key == records.KeyInTPM {
		c := certificate.Body.(records.CertificateIssued)
		c.Key, c.SPKI = u.Key, u.DeviceKey
		certificate.Body = c
	}
	all := []func() records.Draft{
		func() records.Draft {
			return opened(rapid.IntRange(0, 3).Draw(w.t, "quota"))
		},
		func() records.Draft { return about(0, order, records.OrderClosed{Reason: "done"}) },
		func() records.Draft { return passageOpened(slot) },
		func() records.Draft {
			return passageClosed(slot, p, rapid.SampledFrom([]records.UnitID{0, id}).Draw(w.t, "closed with"), order,
				rapid.SampledFrom([]records.Verdict{records.Pass, records.Fail, records.Error, "odd"}).Draw(w.t, "verdict"))
		},
		func() records.Draft { return passageClosed(slot, u.Passage, id, order, records.Pass) },
		func() records.Draft { return identified(known, p, mac) },
		func() records.Draft { return about(id, order, claimOr()) },
		func() records.Draft {
			return about(id, order, records.IdentityReleased{RegistrationID: u.RegistrationID, Serial: u.Serial, Number: u.Number})
		},
		func() records.Draft { return sealed(id, "ref-"+fresh) },
		func() records.Draft { return certificate },
		func() records.Draft { return about(id, "", live) },
		func() records.Draft { return about(id, "", voided) },
		func() records.Draft { return about(id, "", records.WriteBegun{Manifest: manifest}) },
		func() records.Draft { return about(id, "", records.WriteBegun{}) },
		func() records.Draft { return about(id, "", records.UnitVerified{Found: found}) },
		func() records.Draft { return about(id, "", records.UnitPassed{}) },
		func() records.Draft { return about(id, "", records.UnitFailed{Step: "write", Code: "x"}) },
		func() records.Draft { return about(id, "", records.UnitRefused{Step: "identify", Code: "x"}) },
		func() records.Draft {
			return about(id, order, records.UnitReleased{RegistrationID: u.RegistrationID})
		},
		func() records.Draft {
			return about(id, "", records.EnrollmentAccepted{RegistrationID: u.RegistrationID})
		},
		func() records.Draft {
			return about(id, "", records.EnrollmentRejected{RegistrationID: u.RegistrationID, Code: "x"})
		},
		func() records.Draft {
			return records.Draft{Actor: badge, Body: records.ActionDenied{Action: "order open"}}
		},
		func() records.Draft {
			return proved(id, u.Passage, rapid.SampledFrom([]string{mac, mac, mac, "x"}).Draw(w.t, "ek"))
		},
		func() records.Draft { return accepted(id, u.Passage, u.Key, key, mac) },
	}
	// What the unit wants next comes more often, so that some get to the end.
	if next, ok := map[records.UnitState]int{"": 5, records.Seen: 6, records.Claimed: 8, records.Keyed: 12, records.Issued: 12,
		records.Writing: 14, records.Verified: 15, records.Passed: 18, records.Released: 19}[u.State]; ok && rapid.IntRange(0, 9).Draw(w.t, "onward") < 8 {
		switch {
		case next == 5 && p == 0:
			next = 2
		case next == 8 && u.Attestation == records.TPM:
			next = 12
		case next == 8 && u.Key != "" && u.Key != records.KeyInjected:
			next = 23
		case next == 8 && u.Attestation == records.X509, next == 12 && u.DeviceKey != "" && u.Cert == nil:
			next = 9
		case next == 6:
			o, err := v.Order(order)
			switch {
			case err == nil && o.ID == "":
				return opened(rapid.IntRange(1, 3).Draw(w.t, "quota")), nil
			case err == nil && u.EK == nil && (o.Terms.Attestation == records.TPM || o.Terms.Key == records.KeyInTPM):
				next = 22
			}
		}
		return all[next](), nil
	}
	return rapid.SampledFrom(all).Draw(w.t, "draft")(), nil
}
