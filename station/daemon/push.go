package daemon

import (
	"fmt"

	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/records/outbox/dps"
)

// makeWorkers makes one pusher per customer, so that the trouble of one
// customer's service is no other's. A service whose files are not in order is
// named in the log and waited for: the line runs without it.
func (d *daemon) makeWorkers() error {
	self := records.Actor{Kind: "station", ID: d.home.Set.Station.Name}
	for name, c := range d.home.Set.Customers {
		roots, err := d.home.Set.ServiceRoots(name)
		if err != nil {
			return fmt.Errorf("customer %s: %w", name, err)
		}
		pace := outbox.NewPace(c.Service.PerMinute)
		client, err := dps.New(dps.Config{Endpoint: c.Service.Endpoint, Policy: c.Service.Policy, Roots: roots, Pace: pace,
			Key: func() (outbox.Secret, error) {
				key, err := d.home.Set.ServiceKey(name)
				return outbox.Secret(key), err
			},
			Settings: dps.Settings{AllocationPolicy: c.Enrollment.AllocationPolicy, IotHubHostName: c.Enrollment.IoTHubHostName,
				Reprovision: (*dps.Reprovision)(&c.Enrollment.Reprovision)}})
		if err != nil {
			return fmt.Errorf("customer %s: %w", name, err)
		}
		d.workers[name] = outbox.New(outbox.Config{Customer: name, Ledger: d.ledger, Secrets: d.home, Pusher: client, Pace: pace,
			Actor: self, Log: d.Log})
	}
	return nil
}
