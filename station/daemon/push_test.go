package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"nameplate/station/profile"
)

// Customers whose files name one service share what it allows, and the smaller
// number holds; other services have a pace of their own.
func TestOnePacePerService(t *testing.T) {
	customers := map[string]profile.Customer{}
	for name, s := range map[string]profile.Service{
		"a": {Endpoint: "One.azure-devices-provisioning.net", PerMinute: 300},
		"b": {Endpoint: "one.azure-devices-provisioning.net:443", PerMinute: 60},
		"c": {Endpoint: "two.azure-devices-provisioning.net", PerMinute: 300},
		"d": {Endpoint: "two.azure-devices-provisioning.net:8443", PerMinute: 300},
	} {
		customers[name] = profile.Customer{Name: name, Service: s}
	}
	synctest.Test(t, func(t *testing.T) {
		paces := makePaces(customers)
		if paces["a"] != paces["b"] || paces["a"] == paces["c"] || paces["c"] == paces["d"] || len(paces) != len(customers) {
			t.Errorf("paces: %v", paces)
		}
		for name, want := range map[string]time.Duration{"a": time.Second, "c": time.Second / 5} {
			began := time.Now()
			for range 4 {
				if err := paces[name].Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(began); took < 3*want || took > 5*want {
				t.Errorf("customer %s: 4 operations in %s, want one each %s", name, took, want)
			}
		}
	})
}
