package daemon

import (
	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/records/outbox/dps"
)

// makeWorkers makes one pusher per customer, so that the trouble of one
// customer's service is no other's. A service whose settings cannot be used is
// named in the log, and its enrollments wait: the line runs without it.
func (d *daemon) makeWorkers() {
	for name := range d.home.Set.Customers {
		w, err := d.makeWorker(name)
		if err != nil {
			d.Log.Error().Err(err).Str("customer", name).Msg("enrollments wait until this is mended and the station started again")
			continue
		}
		d.workers[name] = w
	}
}

func (d *daemon) makeWorker(name string) (*outbox.Worker, error) {
	c := d.home.Set.Customers[name]
	roots, err := d.home.Set.ServiceRoots(name)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	return outbox.New(outbox.Config{Customer: name, Ledger: d.ledger, Secrets: d.home, Pusher: client, Pace: pace,
		Actor: records.Actor{Kind: "station", ID: d.home.Set.Station.Name}, Log: d.Log}), nil
}
