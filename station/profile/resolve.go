package profile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"nameplate/records"
)

// Resolve fills in everything that an order.opened event carries, except
// Terms.Issuer and Terms.EKRoots, which only the CA's side knows. It makes sure that the first and the
// last unit would get a legal registration ID, by the very rule that the line
// follows.
func (s Set) Resolve(o Order) (records.OrderOpened, error) {
	c, okCustomer := s.Customers[o.Customer]
	p, okProduct := s.Products[o.Product]
	var problems Problems
	if !okCustomer {
		problems = append(problems, o.src.problem("customer", fmt.Sprintf("there is no customer %q", o.Customer),
			orNone(slices.Sorted(maps.Keys(s.Customers))), "correct the name, or add customers/"+o.Customer+".yaml"))
	}
	if !okProduct {
		problems = append(problems, o.src.problem("product", fmt.Sprintf("there is no product %q", o.Product),
			orNone(slices.Sorted(maps.Keys(s.Products))), "correct the name, or add products/"+o.Product+".yaml"))
	}
	if err := problems.orNil(); err != nil {
		return records.OrderOpened{}, err
	}
	opened := records.OrderOpened{
		ID: o.ID, Customer: c.Name, Product: p.Name, Quota: o.Quota,
		SerialFormat: o.Serial.Format, SerialFirst: o.Serial.First, ValidUntil: o.ValidUntil,
		ProductFile: p.src.raw, ProductSHA256: digest(p.src.raw),
		CustomerFile: c.src.raw, CustomerSHA256: digest(c.src.raw),
		Limits: records.Limits{
			Identify: p.Limits.Identify.Milliseconds(), Write: p.Limits.Write.Milliseconds(),
			Verify: p.Limits.Verify.Milliseconds(), Passage: p.Limits.Passage.Milliseconds(),
		},
		Terms: records.Terms{
			Family: p.Family, Attestation: p.Attestation, Key: p.Key, RegistrationID: p.RegistrationID,
			RegistrationURL: c.RegistrationURL, IDScope: c.IDScope, ValidDays: p.Certificate.ValidDays, EKPolicy: p.TPM.EKCertificate,
		},
	}
	for _, number := range []int{1, o.Quota} {
		if _, _, err := records.Claim(rehearsal{opened, number}, sampleUnit, o.ID); err != nil {
			wrong := err.Error()
			var refused *records.Refusal
			if errors.As(err, &refused) {
				wrong = strings.TrimSuffix(refused.Sentence, ".")
			}
			return records.OrderOpened{}, Problems{p.src.problem("registration_id",
				fmt.Sprintf("with order %s, unit %d: %s", o.ID, number, wrong), "a legal registration ID for every unit",
				"change registration_id here, or the order's serial.format")}
		}
	}
	return opened, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "one that the station knows (it knows none)"
	}
	return "one of " + strings.Join(names, ", ")
}

// sampleUnit stands for any unit: every MAC and every RSA EK's ID has the same
// length and alphabet.
var sampleUnit = records.Unit{ID: 1, State: records.Seen, Hardware: []records.HardwareID{
	{Kind: "mac", Value: "00:00:5e:00:53:01"}, {Kind: "ek", Value: strings.Repeat("a", 52)}}}

// rehearsal is the state in which an order's number is claimed next.
type rehearsal struct {
	opened records.OrderOpened
	number int
}

func (r rehearsal) Now() time.Time                           { return r.opened.ValidUntil }
func (rehearsal) ClockBehind() time.Duration                 { return 0 }
func (rehearsal) Unit(records.UnitID) (records.Unit, error)  { return sampleUnit, nil }
func (rehearsal) Owner(records.Space, string) (int64, error) { return 0, nil }
func (r rehearsal) Order(string) (records.Order, error) {
	return records.Order{OrderOpened: r.opened, Next: r.number}, nil
}
