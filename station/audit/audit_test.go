package audit_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"nameplate/ca"
	"nameplate/ca/authority"
	"nameplate/records"
	"nameplate/station/audit"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What replay asks of a certificate: one word of the event altered at a time, and
// each is noticed.
func TestCertificate(t *testing.T) {
	root, err := authority.CreateRoot("factory.example root", time.Now())
	must(t, err)
	issuing, err := authority.CreateIssuing(root, "factory.example customer-a", time.Now())
	must(t, err)
	other, err := authority.CreateIssuing(root, "factory.example customer-b", time.Now())
	must(t, err)
	a, err := authority.Open(authority.Config{Root: root.Certificate, Issuers: map[string]authority.Pair{"customer-a": issuing, "customer-b": other}})
	must(t, err)
	issue := func(customer, id string) records.CertificateIssued {
		csr, _, err := ca.InjectedKey(id)
		must(t, err)
		from := time.Now().UTC().Add(-ca.Backdate).Truncate(time.Second)
		c, err := a.Issue(t.Context(), ca.Request{Customer: customer, CommonName: id, Organization: "factory.example", CSR: csr, NotBefore: from, NotAfter: from.AddDate(1, 0, 0)})
		must(t, err)
		return records.CertificateIssued{RegistrationID: id, Issuer: ca.Digest(c.Chain[0]), Serial: c.Serial, SPKI: c.SPKI, Key: "injected", DER: c.DER}
	}
	good, foreign := issue("customer-a", "a-1"), issue("customer-b", "a-1")
	check := audit.Checks(root.Certificate, []*x509.Certificate{issuing.Certificate, other.Certificate})[good.Kind()]
	order := records.Order{OrderOpened: records.OrderOpened{Terms: records.Terms{Issuer: good.Issuer}}}
	must(t, check(records.Unit{}, order, records.Event{}, good))

	for name, tt := range map[string]struct {
		change func(*records.CertificateIssued)
		says   string
	}{
		"another name":      {func(c *records.CertificateIssued) { c.RegistrationID = "a-2" }, "a-1"},
		"another serial":    {func(c *records.CertificateIssued) { c.Serial = foreign.Serial }, "serial"},
		"another key":       {func(c *records.CertificateIssued) { c.SPKI = foreign.SPKI }, "key is not the one"},
		"another's issuer":  {func(c *records.CertificateIssued) { c.Issuer = foreign.Issuer }, "is not that of the order"},
		"an unknown issuer": {func(c *records.CertificateIssued) { c.Issuer = strings.Repeat("0", 64) }, "not among the station's CAs"},
		"signed again":      {func(c *records.CertificateIssued) { c.DER = foreign.DER }, "did not sign"},
		"cut off":           {func(c *records.CertificateIssued) { c.DER = c.DER[:100] }, "parsing the certificate"},
		"of another order":  {func(c *records.CertificateIssued) { *c = foreign }, "is not that of the order"},
	} {
		c := good
		tt.change(&c)
		if err := check(records.Unit{}, order, records.Event{}, c); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want %q in it", name, err, tt.says)
		}
	}
}

// An order's copies of its files are the ones that it names.
func TestFiles(t *testing.T) {
	product, customer := []byte("name: sensor\n"), []byte("name: customer-a\n")
	o := records.OrderOpened{ProductFile: product, ProductSHA256: ca.Digest(product), CustomerFile: customer, CustomerSHA256: ca.Digest(customer)}
	check := audit.Checks(nil, nil)[o.Kind()]
	must(t, check(records.Unit{}, records.Order{}, records.Event{}, o))
	for _, change := range []func(*records.OrderOpened){
		func(o *records.OrderOpened) { o.ProductFile = customer },
		func(o *records.OrderOpened) { o.CustomerSHA256 = o.ProductSHA256 },
	} {
		changed := o
		change(&changed)
		if check(records.Unit{}, records.Order{}, records.Event{}, changed) == nil {
			t.Errorf("nothing was found in %+v", changed)
		}
	}
}
