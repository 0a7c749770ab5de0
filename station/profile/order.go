package profile

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// Order is a work order's file: make Quota units of Product for Customer. The
// file may lie anywhere; opening it writes all that it refers to into the
// ledger.
type Order struct {
	// ID is the order's number: letters, digits and - . _, at most 64.
	ID string `yaml:"id"`
	// Customer and Product name files of the station's folder.
	Customer string `yaml:"customer"`
	Product  string `yaml:"product"`
	// Quota is how many units are made: 1 to 10,000,000.
	Quota int `yaml:"quota"`
	// Serial is the order's range of serials. Ranges of one product must not
	// overlap.
	Serial Serial `yaml:"serial"`
	// ValidUntil is when the order ends, whatever is left of it: a time such as
	// 2030-12-31T18:00:00Z, or a date, which means that day's end in UTC.
	ValidUntil time.Time `yaml:"valid_until"`

	src source
}

// Serial is a range of serials.
type Serial struct {
	// Format makes a serial of a number: letters, digits and - . _ : around one
	// %d or, for leading zeros, %0Nd with N digits (A%06d makes A000001).
	Format string `yaml:"format"`
	// First is the number of the first unit. Default 1.
	First int64 `yaml:"first,optional"`
}

var (
	orderForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	serialForm = regexp.MustCompile(`^[A-Za-z0-9._:-]*%(?:0([1-9][0-9]?))?d[A-Za-z0-9._:-]*$`)
)

const (
	orderRule = "1 to 64 letters, digits and - . _"
	maxQuota  = 10_000_000
	maxDigits = 18 // what surely fits an int64
	maxFormat = 128
)

// ParseOrder decodes and checks an order's file; name stands in Problems. Whether its customer and product
// exist, Resolve tells; whether it has expired or was opened before, the
// ledger's rules.
func ParseOrder(name string, raw []byte) (Order, error) {
	o := Order{Serial: Serial{First: 1}}
	d := decode(name, raw, &o)
	d.order(o)
	if err := d.problems.orNil(); err != nil {
		return Order{}, err
	}
	o.src = d.source
	return o, nil
}

func (d *decoder) order(o Order) {
	if !orderForm.MatchString(o.ID) {
		d.bad("id", fmt.Sprintf("id is %q", o.ID), orderRule, "correct the value")
	}
	d.name("customer", o.Customer)
	d.name("product", o.Product)
	d.between("quota", int64(o.Quota), 1, maxQuota)
	d.between("serial.first", o.Serial.First, 0, math.MaxInt64-maxQuota)
	verb := serialForm.FindStringSubmatch(o.Serial.Format)
	if verb == nil || len(o.Serial.Format) > maxFormat {
		d.bad("serial.format", fmt.Sprintf("serial.format is %q", o.Serial.Format),
			"letters, digits and - . _ : around one %d or %0Nd, such as A%06d", "correct the format")
		return
	}
	if verb[1] == "" || o.Quota < 1 || o.Quota > maxQuota || o.Serial.First < 0 {
		return
	}
	digits, _ := strconv.Atoi(verb[1])
	last := o.Serial.First + int64(o.Quota) - 1
	if digits > maxDigits {
		d.bad("serial.format", fmt.Sprintf("serial.format asks for %d digits", digits), fmt.Sprintf("at most %d", maxDigits), "correct the format")
	} else if n := len(strconv.FormatInt(last, 10)); n > digits {
		d.bad("serial.format", fmt.Sprintf("the last serial's number, %d, has %d digits", last, n),
			fmt.Sprintf("at most the %d that the format has room for", digits), "widen the format, or lower first or quota")
	}
}
