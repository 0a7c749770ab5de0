package outbox_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	double "nameplate/fixtures/dps"
	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/records/outbox/dps"
)

// drainLimit ends the test; draining takes a few seconds, most of them waits that
// the faults cause.
const drainLimit = 2 * time.Minute

// TestDrainThroughFaults: ledger, worker, client and the service's double, over
// TLS, in real time, though calls fail in several ways; in the end the
// service holds each identity once, with the key that was sealed for it.
func TestDrainThroughFaults(t *testing.T) {
	const host = "customer-a.azure-devices-provisioning.net"
	key := bytes.Repeat([]byte{7}, 32)
	svc, err := double.New(double.Config{
		Instances: []double.Instance{{Host: host, IDScope: "0ne0000000A", Policies: []double.Policy{
			{Name: "station", Primary: key, Rights: []double.Right{double.EnrollmentRead, double.EnrollmentWrite}}}}},
		Faults: []double.Fault{
			{Kind: double.ResetAfter, Match: "POST"},
			{Kind: double.Throttle, RetryAfter: 1},
			{Kind: double.Nonsense},
			{Kind: double.Unauthorized},
		},
	})
	must(t, err)
	t.Cleanup(func() { svc.Close() })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(svc.RootPEM())
	pace := outbox.NewPace(1000)
	client, err := dps.New(dps.Config{Endpoint: svc.ServiceAddr(host), Policy: "station", Roots: roots, Pace: pace,
		Key: func() (outbox.Secret, error) { return outbox.Secret(base64.StdEncoding.EncodeToString(key)), nil }})
	must(t, err)
	t.Cleanup(client.Close)

	b := start(t, 33, 1000, func(_ *bench, c *outbox.Config) { c.Pusher, c.Pace = client, pace })
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for end := time.After(drainLimit); b.status().Accepted < len(b.units); {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("after %s: %+v", drainLimit, b.status())
		}
	}
	b.wantAccepted()
	found := 0
	for _, u := range b.units {
		if b.events(u)[0].(records.EnrollmentAccepted).Found {
			found++
		}
	}
	if found == 0 {
		t.Error("the items whose answer was lost were not found again")
	}
	var held []struct {
		RegistrationID string `json:"registrationId"`
	}
	res, err := http.Get(svc.ControlURL() + "/dump/enrollments")
	must(t, err)
	defer res.Body.Close()
	must(t, json.NewDecoder(res.Body).Decode(&held))
	if len(held) != len(b.units) {
		t.Errorf("the service holds %d enrollments of %d", len(held), len(b.units))
	}
	must(t, b.stop())
}
