package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/records/outbox/dps"
	"nameplate/station/profile"
)

// makeWorkers makes one pusher per customer, so that the trouble of one
// customer's service is no other's. A service whose settings cannot be used is
// named in the log, and its enrollments wait: the line runs without it.
func (d *daemon) makeWorkers() {
	paces := makePaces(d.home.Set.Customers)
	for name := range d.home.Set.Customers {
		w, err := d.makeWorker(name, paces[name])
		if err != nil {
			d.unpushed[name] = err
			d.Log.Error().Err(err).Str("customer", name).Msg(waits)
			continue
		}
		d.workers[name] = w
	}
}

const waits = "enrollments wait until this is mended and the station started again"

// makePaces returns each customer's pace. Those whose files name the same service
// have one together, and the smallest number that is written for it: the service
// counts what the station does, for whomever.
func makePaces(customers map[string]profile.Customer) map[string]*outbox.Pace {
	perMinute := make(map[string]int)
	for _, c := range customers {
		at, n := door(c.Service.Endpoint), c.Service.PerMinute
		if known, some := perMinute[at]; !some || n < known {
			perMinute[at] = n
		}
	}
	shared := make(map[string]*outbox.Pace)
	for at, n := range perMinute {
		shared[at] = outbox.NewPace(n)
	}
	paces := make(map[string]*outbox.Pace)
	for name, c := range customers {
		paces[name] = shared[door(c.Service.Endpoint)]
	}
	return paces
}

// door is the one spelling of an endpoint.
func door(endpoint string) string {
	if _, _, err := net.SplitHostPort(endpoint); err != nil {
		endpoint = net.JoinHostPort(endpoint, "443")
	}
	return strings.ToLower(endpoint)
}

// noteUnpushed says of each customer with enrollments due and no pusher that they
// wait, and why.
func (d *daemon) noteUnpushed(ctx context.Context) error {
	counts, err := d.home.Ledger.OutboxStatus(ctx)
	if err != nil {
		return err
	}
	for _, c := range counts {
		if c.Due > 0 && d.workers[c.Customer] == nil {
			if err := d.note(ctx, c.Customer); err != nil {
				return err
			}
		}
	}
	return nil
}

// note says so in 'push status', and in the log what that does not have yet.
func (d *daemon) note(ctx context.Context, customer string) error {
	why := d.unpushed[customer]
	if why == nil {
		why = &records.Refusal{Code: "customer-missing", Sentence: fmt.Sprintf("There is no file customers/%s.yaml any more.", customer),
			Next: "Restore it."}
		d.Log.Error().Err(why).Str("customer", customer).Msg(waits)
	}
	text := strings.TrimSuffix(why.Error(), ".")
	if r := (*records.Refusal)(nil); errors.As(why, &r) {
		text = r.Code + ": " + text
	}
	return d.home.Ledger.OutboxNote(ctx, customer, text+". The "+waits+".")
}

// signEvery is after how many releases the ledger is signed anew: a ledger put
// back from a backup is noticed if it lacks as many.
const signEvery = 100

// released is told of every unit that leaves the line.
func (d *daemon) released(customer string) {
	if d.releases.Add(1)%signEvery == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), keepLimit)
		defer cancel()
		d.sign(ctx)
	}
	d.kick(customer)
}

// kick wakes the customer's pusher. That there is none is no trouble of the line.
func (d *daemon) kick(customer string) {
	if w := d.workers[customer]; w != nil {
		w.Kick()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepLimit)
	defer cancel()
	if err := d.note(ctx, customer); err != nil {
		d.Log.Error().Err(err).Str("customer", customer).Msg("cannot note that enrollments wait")
	}
}

func (d *daemon) makeWorker(name string, pace *outbox.Pace) (*outbox.Worker, error) {
	c := d.home.Set.Customers[name]
	roots, err := d.home.Set.ServiceRoots(name)
	if err != nil {
		return nil, err
	}
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
	return outbox.New(outbox.Config{Customer: name, RegistrationURL: c.RegistrationURL, IDScope: c.IDScope, Ledger: d.ledger, Secrets: d.home, Pusher: client, Pace: pace,
		Actor: records.Actor{Kind: "station", ID: d.home.Set.Station.Name}, Log: d.Log}), nil
}
