package seal_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"nameplate/ca"
	"nameplate/ca/seal"
)

func passphrase(t testing.TB, s string) ca.Passphrase {
	t.Helper()
	p, err := ca.NewPassphrase([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A seal under the passphrase "correct". Two are made once, for stretching a
// passphrase is slow on purpose.
type made struct {
	identity  []byte
	recipient string
	err       error
}

func create() (m made) {
	p, err := ca.NewPassphrase([]byte("correct"))
	if err != nil {
		return made{err: err}
	}
	m.identity, m.recipient, m.err = seal.Create(p)
	return m
}

var ours, theirs = sync.OnceValue(create), sync.OnceValue(create)

// station is a locked box, its identity file and its recipient.
func station(t testing.TB, which func() made) (*seal.Box, []byte, string) {
	t.Helper()
	m := which()
	if m.err != nil {
		t.Fatal(m.err)
	}
	box, err := seal.Open(m.recipient)
	if err != nil {
		t.Fatal(err)
	}
	return box, m.identity, m.recipient
}

// unlocked makes a box that is open, and its recipient.
func unlocked(t testing.TB, which func() made) (*seal.Box, string) {
	t.Helper()
	box, identity, recipient := station(t, which)
	if err := box.Unlock(identity, passphrase(t, "correct")); err != nil {
		t.Fatal(err)
	}
	return box, recipient
}

func TestSealWhileLockedRevealAfterUnlock(t *testing.T) {
	box, identity, _ := station(t, ours)
	secrets := map[string][]byte{
		seal.NewRef():          []byte("a symmetric key of 32 bytes....."),
		"group-key/customer-a": bytes.Repeat([]byte{0, '\n', 255}, 100),
		"empty":                {},
		"largest":              make([]byte, 64<<10),
	}
	sealed := map[string][]byte{}
	for ref, secret := range secrets {
		var err error
		if sealed[ref], err = box.Seal(ref, secret); err != nil {
			t.Fatal(err)
		}
		if len(secret) > 8 && bytes.Contains(sealed[ref], secret[:8]) {
			t.Errorf("%s: the secret shows", ref)
		}
		_, err = box.Reveal(ref, sealed[ref])
		refused(t, err, "locked", "The station is locked: it cannot read its sealed secrets.")
	}
	if err := box.Unlock(identity, passphrase(t, "correct")); err != nil {
		t.Fatal(err)
	}
	for ref, secret := range secrets {
		got, err := box.Reveal(ref, sealed[ref])
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("Reveal(%s): %d bytes, %v", ref, len(got), err)
		}
	}
}

func TestRevealRefuses(t *testing.T) {
	box, recipient := unlocked(t, ours)
	other, _ := unlocked(t, theirs)
	const ref, damaged, swapped = "0123", "The sealed secret 0123 is damaged or was sealed by another station.", "What is stored as the sealed secret 0123 was sealed under another reference."
	good, err := box.Seal(ref, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	mac := bytes.Index(good, []byte("--- "))
	for _, tt := range []struct {
		name, code, sentence string
		sealed               []byte
	}{
		{"nothing", "sealed-damaged", damaged, nil},
		{"noise", "sealed-damaged", damaged, []byte("hello")},
		{"version", "sealed-damaged", damaged, flip(len("age-encryption.org/v"))},
		{"recipient", "sealed-damaged", damaged, flip(bytes.Index(good, []byte("X25519")) + 10)},
		{"header mac", "sealed-damaged", damaged, flip(mac + 10)},
		{"nonce", "sealed-damaged", damaged, flip(mac + 50)},
		{"contents", "sealed-damaged", damaged, flip(len(good) - 20)},
		{"tag", "sealed-damaged", damaged, flip(len(good) - 1)},
		{"cut", "sealed-damaged", damaged, good[:len(good)-1]},
		{"cut to the header", "sealed-damaged", damaged, good[:mac+20]},
		{"something behind it", "sealed-damaged", damaged, append(bytes.Clone(good), 0)},
		{"huge", "sealed-damaged", damaged, make([]byte, 1<<20)},
		{"another station's", "sealed-damaged", damaged, must(other.Seal(ref, []byte("secret")))},
		{"another secret", "sealed-swapped", swapped, must(box.Seal("0124", []byte("secret")))},
		{"a longer reference", "sealed-swapped", swapped, must(box.Seal("01234", []byte("secret")))},
		{"a reference in the secret", "sealed-swapped", swapped, must(box.Seal("012", []byte("3\nsecret")))},
		{"no reference", "sealed-swapped", swapped, encrypt(t, recipient, "0123")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := box.Reveal(ref, tt.sealed)
			refused(t, err, tt.code, tt.sentence)
			if got != nil {
				t.Errorf("and yet %q came out", got)
			}
			if err != nil && strings.Contains(err.Error(), "secret\n") {
				t.Errorf("the refusal shows what was inside: %v", err)
			}
		})
	}
}

// encrypt makes an age file, as anybody can who knows the recipient.
func encrypt(t testing.TB, recipient, text string) []byte {
	t.Helper()
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := age.Encrypt(&file, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestSealRefusesWhatItCouldNotReveal(t *testing.T) {
	box, _, _ := station(t, ours)
	for _, ref := range []string{"", "a\nb", "A", " a", strings.Repeat("a", 129)} {
		if _, err := box.Seal(ref, []byte("secret")); err == nil {
			t.Errorf("Seal took the reference %q", ref)
		}
	}
	if _, err := box.Seal("a", make([]byte, 64<<10+1)); err == nil {
		t.Error("Seal took more than 64 KiB")
	}
}

func TestUnlockRefuses(t *testing.T) {
	box, identity, recipient := station(t, ours)
	_, other, _ := station(t, theirs)
	for _, tt := range []struct {
		name, passphrase, code, sentence string
		file                             []byte
	}{
		{"passphrase", "guess", "passphrase-wrong", "The passphrase does not open the station's seal.", identity},
		{"another station's", "correct", "seal-other", "The file with the station's seal belongs to another seal.", other},
		{"empty", "correct", "seal-damaged", "The file with the station's seal is damaged.", nil},
		{"noise", "correct", "seal-damaged", "The file with the station's seal is damaged.", []byte("hello")},
		{"cut", "correct", "seal-damaged", "The file with the station's seal is damaged.", identity[:len(identity)-60]},
		{"not under a passphrase", "correct", "seal-damaged", "The file with the station's seal is damaged.", armored(t, encrypt(t, recipient, "AGE-SECRET-KEY-1"))},
		{"too costly", "correct", "seal-damaged", "The file with the station's seal is damaged.", costly(t)},
		{"huge", "correct", "seal-damaged", "The file with the station's seal is damaged.", make([]byte, 1<<20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, box.Unlock(tt.file, passphrase(t, tt.passphrase)), tt.code, tt.sentence)
			_, err := box.Reveal("a", nil)
			refused(t, err, "locked", "The station is locked: it cannot read its sealed secrets.")
		})
	}
}

func TestOpenRefusesAnotherKind(t *testing.T) {
	for _, recipient := range []string{"", "age1", "ssh-ed25519 AAAA"} {
		if _, err := seal.Open(recipient); err == nil {
			t.Errorf("Open(%q) succeeded", recipient)
		}
	}
}

func TestBoxFromManyGoroutines(t *testing.T) {
	box, identity, _ := station(t, ours)
	var all sync.WaitGroup
	all.Go(func() {
		if err := box.Unlock(identity, passphrase(t, "correct")); err != nil {
			t.Error(err)
		}
	})
	for range 8 {
		all.Go(func() {
			ref := seal.NewRef()
			sealed, err := box.Seal(ref, []byte("secret"))
			if err != nil {
				t.Error(err)
				return
			}
			var no *ca.Refusal
			if _, err := box.Reveal(ref, sealed); err != nil && (!errors.As(err, &no) || no.Code != "locked") {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestNewRef(t *testing.T) {
	a, b := seal.NewRef(), seal.NewRef()
	if len(a) != 32 || a == b {
		t.Errorf("NewRef: %s, %s", a, b)
	}
}

func FuzzReveal(f *testing.F) {
	box, _ := unlocked(f, ours)
	good, err := box.Seal("0123", []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 \n--- \n"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := box.Reveal("0123", sealed); err == nil && !bytes.Equal(sealed, good) {
			t.Errorf("revealed from other bytes: %q", sealed)
		}
	})
}

func FuzzUnlock(f *testing.F) {
	box, identity, _ := station(f, ours)
	f.Add(identity)
	f.Add(costly(f))
	f.Fuzz(func(t *testing.T, file []byte) {
		var no *ca.Refusal
		if err := box.Unlock(file, passphrase(t, "guess")); !errors.As(err, &no) {
			t.Errorf("not a refusal: %v", err)
		}
	})
}

// costly is an identity file that would keep scrypt busy for minutes.
func costly(t testing.TB) []byte {
	return armored(t, []byte("age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\n"+strings.Repeat("A", 43)+"\n--- "+strings.Repeat("A", 43)+"\n"+strings.Repeat("x", 64)))
}

func armored(t testing.TB, file []byte) []byte {
	t.Helper()
	var text bytes.Buffer
	w := armor.NewWriter(&text)
	if _, err := w.Write(file); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func refused(t *testing.T, err error, code, sentence string) {
	t.Helper()
	var no *ca.Refusal
	if !errors.As(err, &no) {
		t.Fatalf("%v, want the refusal: %s", err, sentence)
	}
	if no.Code != code || no.Sentence != sentence || no.Next == "" {
		t.Errorf("refused with %s: %s\nwant %s: %s", no.Code, no.Sentence, code, sentence)
	}
}
