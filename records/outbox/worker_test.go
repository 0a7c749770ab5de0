package outbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/outbox"
)

// pass lets the bubble's time go by until everybody waits again.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestP8RateHolds: a full outbox drains at 98 % of the allowed rate or more, and
// never over it in any 60 seconds, though each call takes longer than a step.
func TestP8RateHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perMinute, units = 10, 400
		b := start(t, units, perMinute, func(b *bench, _ *outbox.Config) { b.service.latency = 20 * time.Second })
		pass(5 * time.Minute)
		b.wantAccepted()
		must(t, b.stop())
		calls := b.service.times()
		if len(calls) != units/outbox.MaxItems {
			t.Fatalf("%d calls for %d units", len(calls), units)
		}
		wantRate(t, calls, perMinute, 0.98)
	})
}

// wantRate holds the times to the allowed number in any minute, and to a share of
// it over all.
func wantRate(t *testing.T, calls []time.Time, perMinute int, share float64) {
	t.Helper()
	for i := perMinute; i < len(calls); i++ {
		if span := calls[i].Sub(calls[i-perMinute]); span < time.Minute {
			t.Errorf("calls %d to %d came within %s", i-perMinute, i, span)
		}
	}
	n := len(calls) - 1
	if rate := float64(n) / calls[n].Sub(calls[0]).Minutes(); rate < share*float64(perMinute) {
		t.Errorf("%.2f calls a minute of %d allowed", rate, perMinute)
	}
}

// TestP8PoisonStopsNobody: among many good records there is one of each bad kind.
func TestP8PoisonStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const units, perMinute = 250, 60
		var refused, conflict, invalid, breaking records.UnitID
		holds := func(items []outbox.Item, unit records.UnitID) bool {
			for _, it := range items {
				if it.Unit == unit {
					return true
				}
			}
			return false
		}
		b := start(t, units, perMinute, func(b *bench, _ *outbox.Config) {
			refused, conflict, invalid, breaking = b.units[3], b.units[57], b.units[101], b.units[222]
			b.service.latency = 200 * time.Millisecond
			b.service.say = func(s *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
				switch {
				case holds(items, invalid):
					return nil, trouble(outbox.Invalid, time.Time{})
				case holds(items, breaking):
					return nil, trouble(outbox.Failed, time.Time{})
				}
				return map[records.UnitID]outbox.Answer{
					refused:  {Outcome: outbox.Refused, Refusal: &records.Refusal{Code: "enrollment-refused", Sentence: "No."}},
					conflict: {Outcome: outbox.Refused, Refusal: &records.Refusal{Code: "enrollment-conflict", Sentence: "Another."}},
				}, nil
			}
		})
		bad := map[records.UnitID]string{refused: "enrollment-refused", conflict: "enrollment-conflict", invalid: "trouble", breaking: "enrollment-breaks-service"}
		// Everything good fits into 25 calls; the bad ones cost some 25 more.
		pass(80 * time.Second)
		b.wantAccepted(refused, conflict, invalid, breaking)
		// Only while others pass is it sure that the breaking one is to blame.
		for range 3 {
			b.units = append(b.units, release(t, b.ledger, 1)...)
			b.worker.Kick()
			pass(2 * time.Minute)
		}
		b.wantAccepted(refused, conflict, invalid, breaking)
		for unit, code := range bad {
			got, ok := first(b.events(unit)).(records.EnrollmentRejected)
			if !ok || got.Code != code || got.Sentence == "" {
				t.Errorf("unit %s: %+v, want rejected: %s", unit, b.events(unit), code)
			}
		}
		if s := b.status(); s.Due != 0 || s.Aside != 4 || s.Accepted != units-4+3 {
			t.Errorf("status = %+v", s)
		}
		must(t, b.stop())
		// No wait for the poison's sake: the pace is the only brake.
		wantRate(t, b.service.times()[:units/outbox.MaxItems], perMinute, 0.98)
	})
}

// TestP8PoisonWhateverItBreaks: one record brings down each call that holds it,
// in a way that looks like the network's or a filter's fault. The others get
// through though nothing is released after them, and go on getting through.
func TestP8PoisonWhateverItBreaks(t *testing.T) {
	for name, tt := range map[string]struct {
		kind  outbox.Trouble
		aside bool // once it has failed alone often enough, while others were accepted
	}{
		"connection cut":       {outbox.Unreachable, false},
		"not a service's word": {outbox.Strange, true},
		"service fails":        {outbox.Failed, true},
	} {
		for _, units := range []int{10, 100} {
			t.Run(fmt.Sprintf("%s, %d units", name, units), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var bad records.UnitID
					b := start(t, units, 60, func(b *bench, _ *outbox.Config) {
						bad = b.units[units/2]
						b.service.say = func(_ *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
							for _, it := range items {
								if it.Unit == bad {
									return nil, trouble(tt.kind, time.Time{})
								}
							}
							return nil, nil
						}
					})
					pass(5 * time.Minute)
					b.wantAccepted(bad)
					// It does not eat up the rate that others need.
					before := len(b.service.times())
					pass(time.Hour)
					if n := len(b.service.times()) - before; n > 150 {
						t.Errorf("%d calls in an hour for one item", n)
					}
					if s := b.status(); s.Due != 1 || s.LastError != "It went wrong. Wait." {
						t.Errorf("status = %+v", s)
					}
					for range 5 {
						b.units = append(b.units, release(t, b.ledger, 1)...)
						b.worker.Kick()
						pass(2 * time.Minute)
					}
					b.wantAccepted(bad)
					got, aside := first(b.events(bad)).(records.EnrollmentRejected)
					if aside != tt.aside || aside && got.Code != "enrollment-breaks-service" {
						t.Errorf("events = %+v", b.events(bad))
					}
					must(t, b.stop())
				})
			})
		}
	}
}

// TestRetryAfterHoldsEverything: no item of the customer moves before the time
// the service named.
func TestRetryAfterHoldsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 50, 6000, func(b *bench, _ *outbox.Config) {
			b.service.say = func(s *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
				if len(s.calls) == 1 {
					return nil, trouble(outbox.Throttled, time.Now().Add(90*time.Second))
				}
				return nil, nil
			}
		})
		pass(89 * time.Second)
		if n := len(b.service.times()); n != 1 {
			t.Errorf("%d calls before the time, want 1", n)
		}
		b.worker.Kick() // a unit is released: that changes nothing
		synctest.Wait()
		if s := b.status(); s.Accepted != 0 || s.LastError != "It went wrong. Wait." {
			t.Errorf("status = %+v", s)
		}
		pass(3 * time.Second)
		b.wantAccepted()
		must(t, b.stop())
	})
}

// TestOutage: whatever the trouble, nobody is set aside, the service is left in
// peace, and all goes on when it is back.
func TestOutage(t *testing.T) {
	for name, kind := range map[string]outbox.Trouble{
		"unreachable": outbox.Unreachable, "credential refused": outbox.Denied, "failing": outbox.Failed, "another answers": outbox.Strange, "throttling without a time": outbox.Throttled,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var back time.Time
				b := start(t, 60, 6000, func(b *bench, _ *outbox.Config) {
					back = time.Now().Add(time.Hour)
					b.service.say = func(*service, []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
						if time.Now().Before(back) {
							return nil, trouble(kind, time.Time{})
						}
						return nil, nil
					}
				})
				pass(time.Until(back))
				// A volley or two, then a probe a minute or so.
				if n := len(b.service.times()); n < 60 || n > 160 {
					t.Errorf("%d calls in an hour of trouble", n)
				}
				calls := b.service.times()
				for i := 14; i < len(calls); i++ {
					if gap := calls[i].Sub(calls[i-1]); gap < time.Second {
						t.Errorf("call %d came %s after the one before", i, gap)
					}
				}
				// Another customer of the same service is held back only when the service asks.
				if held := !b.service.pace.Held().IsZero(); held != (kind == outbox.Throttled) {
					t.Errorf("the pace that others share was held: %t", held)
				}
				if s := b.status(); s.Due != 60 || s.Aside != 0 || s.Accepted != 0 || s.LastError == "" {
					t.Errorf("status = %+v", s)
				}
				pass(3 * time.Minute)
				b.wantAccepted()
				must(t, b.stop())
			})
		})
	}
}

// TestLockedStation: items with a sealed key wait until the station is unlocked.
func TestLockedStation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 25, 6000, func(b *bench, _ *outbox.Config) { b.vault.lock(true) })
		pass(10 * time.Minute)
		if s := b.status(); len(b.service.times()) != 0 || s.Due != 25 || s.Aside != 0 || s.LastError != "the station is locked" {
			t.Errorf("%d calls, status %+v", len(b.service.times()), s)
		}
		b.vault.lock(false)
		pass(2 * time.Minute)
		b.wantAccepted()
		u, err := b.ledger.Unit(t.Context(), b.units[0])
		must(t, err)
		if got := b.service.known[u.ID]; got != keyOf("ref-"+u.RegistrationID) {
			t.Errorf("enrolled with %q", got)
		}
		for _, key := range b.service.seen {
			if !bytes.Equal(key, make([]byte, len(key))) {
				t.Errorf("a key was not wiped: %q", key)
			}
		}
		must(t, b.stop())
	})
}

// TestP5ExchangedSecretIsNotEnrolled: whoever can write the station's files seals a
// key of their own under the unit's reference; that item goes to a person, and
// the others go on.
func TestP5ExchangedSecretIsNotEnrolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unit records.UnitID
		b := start(t, 25, 6000, func(b *bench, _ *outbox.Config) {
			unit = b.units[7]
			u, err := b.ledger.Unit(t.Context(), unit)
			must(t, err)
			b.vault.exchanged = u.Secret.Ref
		})
		pass(time.Minute)
		b.wantAccepted(unit)
		got, ok := first(b.events(unit)).(records.EnrollmentRejected)
		if !ok || got.Code != "secret-exchanged" || got.Sentence != "The sealed key of this unit is not the one that was sealed for it." {
			t.Errorf("events = %+v", b.events(unit))
		}
		if _, known := b.service.known[unit]; known {
			t.Error("the service was given the exchanged key")
		}
		if s := b.status(); s.Aside != 1 || s.Due != 0 {
			t.Errorf("status = %+v", s)
		}
		must(t, b.stop())
	})
}

// TestCustomerChanged: the units hold what the customer said when their order was
// opened; to a service that goes with something else they are not told. They wait
// in sight, and go once the customer's file says it again.
func TestCustomerChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*outbox.Config)
		says string
	}{
		"ID scope": {func(c *outbox.Config) { c.IDScope = "0ne0000000B" },
			"customer-changed: The unit was made for ID scope 0ne0000000A at register.example; the customer's file now says 0ne0000000B at register.example." +
				" Restore the customer's file, or make the new service a customer of its own; then start the station again."},
		"registration URL": {func(c *outbox.Config) { c.RegistrationURL = "elsewhere.example" },
			"customer-changed: The unit was made for ID scope 0ne0000000A at register.example; the customer's file now says 0ne0000000A at elsewhere.example." +
				" Restore the customer's file, or make the new service a customer of its own; then start the station again."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 25, 6000, func(_ *bench, c *outbox.Config) { tt.edit(c) })
				pass(24 * time.Hour)
				if s := b.status(); len(b.service.times()) != 0 || s.Due != 25 || s.Aside != 0 || s.LastError != tt.says {
					t.Errorf("%d calls, status %+v", len(b.service.times()), s)
				}
				// The file is restored, the station started again.
				must(t, b.halt())
				if b.vault.revealed != 0 {
					t.Errorf("%d keys were revealed", b.vault.revealed)
				}
				b.run(b.config())
				pass(changedWait)
				b.wantAccepted()
				must(t, b.stop())
			})
		})
	}
}

// changedWait is more than what an item waits whose customer's file has changed.
const changedWait = 11 * time.Minute

// failing is a ledger whose Do fails n times, before or after it has worked.
type failing struct {
	*ledger.Ledger
	n       int
	applied bool
	err     error
}

func (f *failing) Do(ctx context.Context, decide func(records.View) ([]records.Draft, error)) ([]records.Event, error) {
	if f.n == 0 {
		return f.Ledger.Do(ctx, decide)
	}
	f.n--
	if f.applied {
		if _, err := f.Ledger.Do(ctx, decide); err != nil {
			return nil, err
		}
	}
	return nil, f.err
}

// TestResultCannotBeRecorded: the service has taken the items, and the ledger
// fails, with or without having written it: the items are pushed again if need
// be, found, and recorded once.
func TestResultCannotBeRecorded(t *testing.T) {
	for _, applied := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied=%t", applied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, 5, 6000, func(b *bench, c *outbox.Config) {
					c.Ledger = &failing{Ledger: b.ledger, n: 2, applied: applied, err: errors.New("disk full")}
				})
				pass(time.Minute)
				b.wantAccepted()
				accepted := b.events(b.units[0])[0].(records.EnrollmentAccepted)
				// What was not recorded is pushed again, and found: three calls, more if
				// the items do not all come due at one moment. What was recorded is not.
				if calls := len(b.service.times()); applied && calls != 1 || !applied && calls < 3 || accepted.Found == applied {
					t.Errorf("applied %t: %d calls, event %+v", applied, calls, accepted)
				}
				must(t, b.stop())
			})
		})
	}
}

// TestLedgerStateUnknown ends the worker: the station must open the ledger again.
func TestLedgerStateUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 5, 6000, func(b *bench, c *outbox.Config) {
			c.Ledger = &failing{Ledger: b.ledger, n: 1, err: fmt.Errorf("committing: %w", ledger.ErrStateUnknown)}
		})
		pass(time.Second)
		if err := b.stop(); !errors.Is(err, ledger.ErrStateUnknown) {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestStopDuringCall: a call that the shutdown cuts off counts for nothing.
func TestStopDuringCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 5, 6000, func(b *bench, _ *outbox.Config) { b.service.latency = time.Minute })
		pass(time.Second)
		if len(b.service.times()) != 1 {
			t.Fatalf("%d calls", len(b.service.times()))
		}
		items, err := b.ledger.OutboxDue(t.Context(), "customer-a", time.Now(), 10)
		must(t, err)
		must(t, b.stop())
		if len(items) != 5 || items[0].Tries != 0 || items[0].LastError != "" {
			t.Errorf("items = %+v", items)
		}
	})
}

// TestKick: a unit released while the worker sleeps is pushed at once.
func TestKick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, 6000, nil)
		pass(time.Hour)
		b.units = append(b.units, release(t, b.ledger, 1)...)
		b.worker.Kick()
		pass(time.Second)
		b.wantAccepted()
		must(t, b.stop())
	})
}

// TestRetryByAPerson: an item set aside and put back is pushed again.
func TestRetryByAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, 1, 6000, func(b *bench, _ *outbox.Config) {
			b.service.say = func(s *service, items []outbox.Item) (map[records.UnitID]outbox.Answer, error) {
				if len(s.calls) > 1 {
					return nil, nil
				}
				return map[records.UnitID]outbox.Answer{items[0].Unit: {Outcome: outbox.Refused, Refusal: &records.Refusal{Code: "no", Sentence: "No."}}}, nil
			}
		})
		pass(time.Minute)
		must(t, b.ledger.OutboxRetry(t.Context(), b.units[0]))
		b.worker.Kick()
		pass(time.Second)
		got := b.events(b.units[0])
		if _, ok := got[len(got)-1].(records.EnrollmentAccepted); len(got) != 2 || !ok {
			t.Errorf("events = %+v", got)
		}
		must(t, b.stop())
	})
}

// TestPace: whoever asks, however late they wake, the rate holds; after a hold
// there is no burst.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perMinute, askers, each = 600, 20, 100
		began := time.Now()
		p := outbox.NewPace(perMinute)
		times := make(chan time.Time, askers*each)
		for range askers {
			go func() {
				for range each {
					if err := p.Wait(t.Context()); err != nil {
						t.Error(err)
					}
					times <- time.Now()
				}
			}()
		}
		pass(30 * time.Second)
		p.Hold(time.Now().Add(30 * time.Second))
		p.Hold(time.Now()) // never shortens
		var all []time.Time
		for range askers * each {
			all = append(all, <-times)
		}
		if first := all[0].Sub(began); first < 100*time.Millisecond {
			t.Errorf("the first came %s after the start", first)
		}
		gaps := 0
		for i := 1; i < len(all); i++ {
			gap := all[i].Sub(all[i-1])
			if gap < 100*time.Millisecond {
				t.Errorf("operations %d and %d are %s apart", i-1, i, gap)
			}
			if gap > 10*time.Second {
				gaps++
			}
		}
		if gaps != 1 {
			t.Errorf("%d gaps, want the one hold", gaps)
		}
		wantRate(t, all[400:], perMinute, 0.98)
		ctx, cancel := context.WithCancel(t.Context())
		p.Hold(time.Now().Add(time.Hour))
		cancel()
		if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Wait = %v", err)
		}
	})
}

func TestSecretIsNeverPrinted(t *testing.T) {
	it := outbox.Item{RegistrationID: "dev-1", Key: outbox.Secret("hunter2")}
	b, err := json.Marshal(it)
	must(t, err)
	for _, text := range []string{fmt.Sprint(it), fmt.Sprintf("%+v %#v %x %q %s %d", it, it, it, it, it, it.Key), string(b), it.Key.String()} {
		if bytes.Contains([]byte(text), []byte("hunter2")) || bytes.Contains([]byte(text), []byte("68756e")) || bytes.Contains([]byte(text), []byte("104 117")) {
			t.Errorf("printed: %s", text)
		}
	}
}
