package ledger_test

import (
	"fmt"
	"testing"

	"nameplate/records"
	"nameplate/records/ledger"
)

func TestRowsBesideTheLog(t *testing.T) {
	path := create(t)
	l := open(t, path)
	do(t, l, orderOpened("wo-1", records.SymmetricKey, 10))
	due, aside, done := released(t, l, "wo-1", "aa"), released(t, l, "wo-1", "bb"), released(t, l, "wo-1", "cc")
	do(t, l, about(aside.ID, "", records.EnrollmentRejected{RegistrationID: aside.RegistrationID, Code: "enrollment-conflict"}))
	do(t, l, about(done.ID, "", records.EnrollmentAccepted{RegistrationID: done.RegistrationID}))
	u, _ := seen(t, l, "slot-1", "dd")
	mustClaim(t, l, u, "wo-1")
	do(t, l, sealed(u, "a-first"))
	do(t, l, about(u, "", records.WriteBegun{Manifest: manifest}))
	do(t, l, about(u, "", records.SecretDestroyed{Ref: "a-first"}))

	var seals, waiting []string
	for r, err := range l.SealRows(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		seals = append(seals, fmt.Sprintf("%s of %s blank=%t", r.Ref, r.Unit, r.Blank))
	}
	if got, want := fmt.Sprint(seals), fmt.Sprintf("[a-first of %s blank=true secret-%[2]s of %[2]s blank=false secret-%[3]s of %[3]s blank=false secret-%[4]s of %[4]s blank=false]",
		u, aside.ID, done.ID, due.ID); got != want { // U12 sorts before U3
		t.Errorf("seals %s, want %s", got, want)
	}
	for r, err := range l.OutboxRows(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, fmt.Sprintf("%s %s %s %s", r.Unit, r.RegistrationID, r.Customer, r.State))
	}
	if got, want := fmt.Sprint(waiting), fmt.Sprintf("[%s %s customer-a due %s %s customer-a aside]", due.ID, due.RegistrationID, aside.ID, aside.RegistrationID); got != want {
		t.Errorf("outbox %s, want %s", got, want)
	}
}

// More rows than are read at once, and keys that only somebody with a shell
// would write.
func TestRowsBesideTheLogByPage(t *testing.T) {
	path := create(t)
	const numbers = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 599) "
	for _, statement := range []string{
		"INSERT INTO seals VALUES ('', 0, NULL)",
		numbers + "INSERT INTO seals SELECT printf('S%03d', i), i, CASE i % 2 WHEN 0 THEN x'00' END FROM n",
		numbers + "INSERT INTO outbox SELECT i - 300, 'id', 'customer-a', 'due', 0, 0, '' FROM n",
		"INSERT INTO outbox VALUES (9223372036854775807, 'id', 'customer-a', 'due', 0, 0, '')",
	} {
		if err := rawSQL(t, path, statement); err != nil {
			t.Fatal(err)
		}
	}
	l := openReadOnly(t, path)
	n := -1
	for r, err := range l.SealRows(ctx) {
		want := ledger.SealRow{Blank: true}
		if n >= 0 {
			want = ledger.SealRow{Ref: fmt.Sprintf("S%03d", n), Unit: records.UnitID(n), Blank: n%2 == 1}
		}
		if err != nil || r != want {
			t.Fatalf("row %d is %+v, %v", n, r, err)
		}
		n++
	}
	if n != 600 {
		t.Errorf("%d seals", n)
	}
	n = 0
	for r, err := range l.OutboxRows(ctx) {
		if err != nil || n < 600 && r.Unit != records.UnitID(n-300) {
			t.Fatalf("row %d is %+v, %v", n, r, err)
		}
		n++
	}
	if n != 601 {
		t.Errorf("%d enrollments", n)
	}
}
