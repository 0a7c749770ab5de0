package ledger_test

import (
	"testing"

	"nameplate/records"
)

func TestOpenedHasTheFiles(t *testing.T) {
	l := open(t, create(t))
	do(t, l, orderOpened("wo-1", records.X509, 1), orderOpened("wo-2", records.X509, 2))
	o, err := l.Opened(ctx, "wo-2")
	if err != nil || o.ID != "wo-2" || string(o.ProductFile) != "name: sensor\n" || string(o.CustomerFile) != "name: customer-a\n" {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err := l.Opened(ctx, "wo-9"); err != nil || o.ID != "" {
		t.Errorf("an order that is none: %+v, %v", o, err)
	}
}
