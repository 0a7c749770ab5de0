package replay_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	_ "modernc.org/sqlite" // to break a ledger as somebody with a shell would

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
)

var (
	ctx   = context.Background()
	badge = records.Actor{Kind: "badge", ID: "4711"}
)

// history is a ledger on disk: units of two orders, half with a symmetric key,
// half with a certificate, the last of them still on the line; signed at two
// places.
type history struct {
	path     string
	verifier note.Verifier
	signer   note.Signer
	signed   []byte // the newest checkpoint, over all events
	size     int64
}

func drafts(n int, order string) func(records.View) ([]records.Draft, error) {
	about := func(u records.UnitID, p records.PassageID, b records.Body) records.Draft {
		return records.Draft{Actor: badge, Unit: u, Order: order, Passage: p, Body: b}
	}
	return func(v records.View) ([]records.Draft, error) {
		hw := []records.HardwareID{{Kind: "mac", Value: fmt.Sprintf("02:00:00:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255)}}
		slot := fmt.Sprintf("slot-%d", n)
		o, err := v.Order(order)
		if err != nil {
			return nil, err
		}
		// The draft's names: the events' own numbers, which are not known here.
		// They are, in a ledger that nobody else writes to.
		first := seqOf(v) + 1
		p, u := records.PassageID(first), records.UnitID(first+1)
		claim, _, err := records.Claim(v, records.Unit{ID: u, State: records.Seen, Hardware: hw}, order)
		if err != nil {
			return nil, err
		}
		items := []records.Item{{Name: "registration_id", SHA256: "00", How: "bytes"}}
		ds := []records.Draft{
			{Actor: badge, Passage: records.NewPassage, Body: records.PassageOpened{Slot: slot}},
			{Actor: badge, Unit: records.NewUnit, Passage: p, Body: records.UnitIdentified{Family: "espressif", Chip: "ESP32", Hardware: hw, Security: "00"}},
			about(u, p, claim),
		}
		if o.Terms.Attestation == records.SymmetricKey {
			d := about(u, p, records.SecretSealed{Ref: fmt.Sprintf("S%d", n), What: "symmetric key", Salt: []byte("salt"), SHA256: "00"})
			d.Sealed = []byte("sealed")
			ds = append(ds, d)
		} else {
			ds = append(ds, about(u, p, records.CertificateIssued{RegistrationID: claim.RegistrationID, Issuer: "aa", Serial: fmt.Sprintf("%032x", n), SPKI: fmt.Sprintf("%064x", n), Key: "injected", DER: make([]byte, 700)}))
		}
		return append(ds,
			about(u, p, records.WriteBegun{Manifest: items}),
			about(u, p, records.UnitVerified{Found: items}),
			about(u, p, records.UnitPassed{}),
			about(u, p, records.UnitReleased{RegistrationID: claim.RegistrationID}),
			about(u, p, records.PassageClosed{Slot: slot, Verdict: records.Pass}),
			about(u, 0, records.EnrollmentAccepted{RegistrationID: claim.RegistrationID}),
		), nil
	}
}

// seqOf is the number of the last event: the tests' units are numbered by it.
func seqOf(v records.View) int64 { return v.(interface{ Seq() int64 }).Seq() }

// counted gives a View the number of the last event.
type counted struct {
	records.View
	seq int64
}

func (c counted) Seq() int64 { return c.seq }

func newHistory(t testing.TB, units int) *history {
	t.Helper()
	h := &history{path: filepath.Join(t.TempDir(), "ledger.db")}
	must(t, ledger.Create(ctx, h.path, "line-1"))
	l, err := ledger.Open(ctx, ledger.Config{Path: h.path, Station: "line-1"})
	must(t, err)
	defer l.Close()
	private, public, err := note.GenerateKey(rand.Reader, l.Origin())
	must(t, err)
	h.signer, err = note.NewSigner(private)
	must(t, err)
	h.verifier, err = note.NewVerifier(public)
	must(t, err)

	do := func(decide func(records.View) ([]records.Draft, error)) {
		t.Helper()
		_, err := l.Do(ctx, func(v records.View) ([]records.Draft, error) { return decide(counted{v, l.Size()}) })
		must(t, err)
	}
	for _, a := range []string{records.SymmetricKey, records.X509} {
		key := ""
		if a == records.X509 {
			key = records.KeyInjected
		}
		do(func(records.View) ([]records.Draft, error) {
			return []records.Draft{{Actor: badge, Order: "WO-" + a, Body: records.OrderOpened{
				ID: "WO-" + a, Customer: "customer-a", Product: "sensor-" + a, Quota: units, SerialFormat: "A%06d", SerialFirst: 1,
				ValidUntil: time.Now().AddDate(1, 0, 0), ProductFile: []byte("name: sensor\n"), CustomerFile: []byte("name: customer-a\n"),
				Terms: records.Terms{Family: "espressif", Attestation: a, Key: key, RegistrationID: a + "-{serial}-{mac}", RegistrationURL: "dps.example", IDScope: "0ne00000001"},
			}}}, nil
		})
	}
	for n := range units {
		order := "WO-" + records.SymmetricKey
		if n%2 == 1 {
			order = "WO-" + records.X509
		}
		do(drafts(n, order))
		if n == units/2 {
			_, err := l.Checkpoint(ctx, h.signer)
			must(t, err)
		}
	}
	h.signed, err = l.Checkpoint(ctx, h.signer)
	must(t, err)
	h.size = l.Size()
	return h
}

// copy is the same ledger once more, to break.
func (h *history) copy(t testing.TB) *history {
	t.Helper()
	c := *h
	c.path = filepath.Join(t.TempDir(), "ledger.db")
	from, err := os.Open(h.path)
	must(t, err)
	defer from.Close()
	to, err := os.Create(c.path)
	must(t, err)
	_, err = io.Copy(to, from)
	must(t, err)
	must(t, to.Close())
	return &c
}

// sql changes the file behind the ledger's back.
func (h *history) sql(t testing.TB, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", h.path)
	must(t, err)
	defer db.Close()
	for _, s := range append([]string{"DROP TRIGGER events_stay", "DROP TRIGGER events_remain", "DROP TRIGGER owners_stay"}, statements...) {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func (h *history) replay(t testing.TB, o replay.Options) replay.Report {
	t.Helper()
	l, err := ledger.OpenReadOnly(ctx, h.path)
	must(t, err)
	defer l.Close()
	r, err := replay.Run(ctx, l, o)
	must(t, err)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func has(r replay.Report, want string) bool {
	for _, f := range r.Findings {
		if strings.Contains(f.String(), want) {
			return true
		}
	}
	return false
}

func list(r replay.Report) string {
	var b strings.Builder
	for i, f := range r.Findings {
		if i == 8 {
			fmt.Fprintf(&b, "… %d more", len(r.Findings)-i+r.More)
			break
		}
		fmt.Fprintf(&b, "  %.300s\n", f)
	}
	return b.String()
}

// edit changes one event's fields and leaves the rest of the leaf as it is.
func edit(t testing.TB, leaf []byte, change func(*records.Event)) []byte {
	t.Helper()
	var e records.Event
	must(t, json.Unmarshal(leaf, &e))
	change(&e)
	out, err := json.Marshal(e)
	must(t, err)
	return out
}
