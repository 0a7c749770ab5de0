package replay_test

import (
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
	"nameplate/records/replay"
)

// newBusyHistory ends with units that are not done: the enrollment of U84 is due,
// that of U93 set aside, that of U103 due again after it was, and U113 got a new
// secret (S11-again) in the place of a destroyed one (S11).
func newBusyHistory(t testing.TB) *history {
	t.Helper()
	h := newHistory(t, 8)
	l, err := ledger.Open(ctx, ledger.Config{Path: h.path, Station: "line-1"})
	must(t, err)
	defer l.Close()
	do := func(n int, change func([]records.Draft) []records.Draft) {
		t.Helper()
		_, err := l.Do(ctx, func(v records.View) ([]records.Draft, error) {
			ds, err := drafts(n, "WO-"+records.SymmetricKey)(counted{v, l.Size()})
			if err != nil {
				return nil, err
			}
			return change(ds), nil
		})
		must(t, err)
	}
	accepted := func(ds []records.Draft) *records.Draft { return &ds[len(ds)-1] }
	rejected := func(ds []records.Draft) []records.Draft {
		d := accepted(ds)
		d.Body = records.EnrollmentRejected{RegistrationID: d.Body.(records.EnrollmentAccepted).RegistrationID, Code: "enrollment-conflict", Sentence: "The service holds another key."}
		return ds
	}
	do(8, func(ds []records.Draft) []records.Draft { return ds[:len(ds)-1] })
	do(9, rejected)
	do(10, rejected)
	must(t, l.OutboxRetry(ctx, 103))
	do(11, func(ds []records.Draft) []records.Draft {
		ds = ds[:5] // up to write.begun
		destroyed, again := ds[4], ds[3]
		destroyed.Body = records.SecretDestroyed{Ref: "S11", Reason: "it may be in part on the device"}
		s := again.Body.(records.SecretSealed)
		s.Ref = "S11-again"
		again.Body = s
		return append(ds, destroyed, again)
	})
	h.size = l.Size()
	return h
}

// The promise P7 covers what lies beside the log too: sealed secrets and the
// outbox follow from the events.
func TestP7WhatLiesBesideTheLog(t *testing.T) {
	h := newBusyHistory(t)
	opts := replay.Options{Verifier: h.verifier}
	if r := h.replay(t, opts); !r.OK() || r.Units != 12 {
		t.Fatalf("%d units; findings in a clean history:\n%s", r.Units, list(r))
	}
	for _, c := range []struct {
		name, sql string
		want      []string
	}{
		{"outbox emptied", `DELETE FROM outbox`, []string{
			"the enrollment of unit U84 is not in the outbox, so that nobody pushes it",
			"the enrollment of unit U93 is not in the outbox, so that nobody pushes it",
			"the enrollment of unit U103 is not in the outbox, so that nobody pushes it"}},
		{"set aside", `UPDATE outbox SET state = 'aside' WHERE unit = 84`, []string{"the enrollment of unit U84 is set aside, and no event rejected it"}},
		{"for another customer", `UPDATE outbox SET customer = 'customer-b' WHERE unit = 84`, []string{
			`the enrollment of unit U84 is not stored as its events make it: expected "symmetrickey-a000005-020000000008" for customer "customer-a", found "symmetrickey-a000005-020000000008" for customer "customer-b"`}},
		{"under another ID", `UPDATE outbox SET registration_id = 'another' WHERE unit = 84`, []string{
			`the enrollment of unit U84 is not stored as its events make it: expected "symmetrickey-a000005-020000000008" for customer "customer-a", found "another" for customer "customer-a"`}},
		{"enrolled once more", `INSERT INTO outbox SELECT 4, registration_id, customer, state, tries, next_at, last_error FROM outbox WHERE unit = 84`, []string{
			"the outbox holds an enrollment of unit U4, of which none is due"}},
		{"enrolled before release", `INSERT INTO outbox SELECT 113, registration_id, customer, state, tries, next_at, last_error FROM outbox WHERE unit = 84`, []string{
			"the outbox holds an enrollment of unit U113, of which none is due"}},
		{"enrollments of no unit", `INSERT INTO outbox SELECT u.unit, registration_id, customer, state, tries, next_at, last_error FROM outbox,
			(SELECT -5 AS unit UNION SELECT 85 UNION SELECT 9999 UNION SELECT 10000) u WHERE outbox.unit = 84`, []string{
			"the outbox holds an enrollment of unit U-5, and there is no such unit to hold it against",
			"the outbox holds an enrollment of unit U85, and there is no such unit to hold it against",
			"the outbox holds an enrollment of unit U9999, and there is no such unit to hold it against",
			"the outbox holds an enrollment of unit U10000, and there is no such unit to hold it against"}},
		{"accepted miscounted", `UPDATE outbox_customers SET accepted = 7`, []string{
			"the count of accepted enrollments of customer customer-a is not what the events make: expected 8, found 7"}},
		{"customer forgotten", `DELETE FROM outbox_customers`, []string{
			"the count of accepted enrollments of customer customer-a is missing"}},
		{"customer added", `INSERT INTO outbox_customers VALUES ('customer-b', 0, '')`, []string{
			"accepted enrollments are counted for customer customer-b, of which no unit was released"}},

		{"seals removed", `DELETE FROM seals`, []string{
			"event 6: the secret S0 is not stored, though it was sealed",
			"event 115: the secret S11 is not stored, though it was sealed",
			"event 118: the secret S11-again is not stored, though it was sealed"}},
		{"seal removed", `DELETE FROM seals WHERE ref = 'S8'`, []string{"event 86: the secret S8 is not stored, though it was sealed"}},
		{"seal blanked", `UPDATE seals SET sealed = NULL WHERE ref = 'S8'`, []string{
			"the bytes of the secret S8 of unit U84 are gone, and no event destroyed them"}},
		{"seal emptied", `UPDATE seals SET sealed = x'' WHERE ref = 'S11-again'`, []string{
			"the bytes of the secret S11-again of unit U113 are gone, and no event destroyed them"}},
		{"destroyed seal put back", `UPDATE seals SET sealed = CAST('sealed' AS BLOB) WHERE ref = 'S11'`, []string{
			"the secret S11 of unit U113 was destroyed, and bytes of it are stored"}},
		{"seal of another unit", `UPDATE seals SET unit = 4 WHERE ref = 'S8'`, []string{
			"the secret S8 is stored with another unit's: expected U84, found U4"}},
		{"seals of nothing", `INSERT INTO seals VALUES ('', 4, NULL), ('ghost', 4, x'00')`, []string{
			`a secret is stored as "", which no event sealed`, `a secret is stored as "ghost", which no event sealed`}},
		{"seals renamed", `UPDATE seals SET ref = 'T8' WHERE ref = 'S8'`, []string{
			`a secret is stored as "T8", which no event sealed`, "event 86: the secret S8 is not stored, though it was sealed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			broken := h.copy(t)
			broken.sql(t, c.sql)
			r := broken.replay(t, opts)
			for _, want := range c.want {
				if !has(r, want) {
					t.Errorf("no finding says %q; found:\n%s", want, list(r))
				}
			}
			if c.name != "seals removed" && len(r.Findings) != len(c.want) {
				t.Errorf("%d findings, want %d:\n%s", len(r.Findings), len(c.want), list(r))
			}
		})
	}
}

// One reference stands for one secret, for ever.
func TestSealedTwice(t *testing.T) {
	h := newBusyHistory(t)
	l, err := ledger.OpenReadOnly(ctx, h.path)
	must(t, err)
	defer l.Close()
	r, err := replay.Run(ctx, forged{l, func(leaf ledger.Leaf) []ledger.Leaf {
		if leaf.Seq == 118 {
			leaf.Bytes = edit(t, leaf.Bytes, func(e *records.Event) { e.Data = []byte(`{"ref":"S8"}`) })
		}
		return []ledger.Leaf{leaf}
	}}, replay.Options{})
	must(t, err)
	if want := "event 118: the secret S8 is sealed a second time"; !has(r, want) {
		t.Errorf("no finding says %q; found:\n%s", want, list(r))
	}
}
