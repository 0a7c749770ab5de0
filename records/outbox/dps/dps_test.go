package dps_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	service "nameplate/fixtures/dps"
	"nameplate/fixtures/field"
	"nameplate/records"
	"nameplate/records/outbox"
	"nameplate/records/outbox/dps"
)

const (
	host   = "customer-a.azure-devices-provisioning.net"
	scope  = "0ne0000000A"
	policy = "station"
)

var policyKey = bytes.Repeat([]byte{7}, 32)

func keyText() (outbox.Secret, error) {
	return outbox.Secret(base64.StdEncoding.EncodeToString(policyKey) + "\n"), nil
}

// open starts the service's double and a client for it.
func open(t testing.TB, edit func(*dps.Config), faults ...service.Fault) (*service.Service, *dps.Client) {
	t.Helper()
	s, err := service.New(service.Config{Faults: faults, OperationsPerMinute: 1_000_000,
		Instances: []service.Instance{{Host: host, IDScope: scope, Policies: []service.Policy{
			{Name: policy, Primary: policyKey, Rights: []service.Right{service.EnrollmentWrite, service.EnrollmentRead}},
			{Name: "reader", Primary: policyKey, Rights: []service.Right{service.EnrollmentRead}},
			{Name: "writer", Primary: policyKey, Rights: []service.Right{service.EnrollmentWrite}}}}}})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.RootPEM())
	c := dps.Config{Endpoint: s.ServiceAddr(host), Policy: policy, Key: keyText, Roots: roots, Pace: outbox.NewPace(1_000_000)}
	if edit != nil {
		edit(&c)
	}
	client, err := dps.New(c)
	must(t, err)
	t.Cleanup(client.Close)
	return s, client
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func symmetric(n int) outbox.Item {
	return outbox.Item{Unit: records.UnitID(n), RegistrationID: fmt.Sprintf("dev:a%03d", n), Attestation: records.SymmetricKey,
		Key: bytes.Repeat([]byte{byte(n)}, 32)}
}

func withCertificate(t testing.TB, n int) (outbox.Item, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	id := fmt.Sprintf("dev-x%03d", n)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{CommonName: id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return outbox.Item{Unit: records.UnitID(n), RegistrationID: id, Attestation: records.X509, DER: der},
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// ekHead is all of an RSA-2048 endorsement key's TPM2B_PUBLIC but its modulus
// (TCG EK Credential Profile, template L-1).
const ekHead = "013a" + "0001000b000300b2" + "0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa" +
	"00060080004300100800000000000100"

func withTPM(t testing.TB, n int) outbox.Item {
	t.Helper()
	head, err := hex.DecodeString(ekHead)
	must(t, err)
	modulus := bytes.Repeat([]byte{byte(n)}, 256)
	modulus[0], modulus[255] = 0x80, 1
	return outbox.Item{Unit: records.UnitID(n), RegistrationID: fmt.Sprintf("dev-t%03d", n), Attestation: records.TPM,
		EndorsementKey: append(head, modulus...)}
}

func push(t testing.TB, c *dps.Client, items ...outbox.Item) []outbox.Answer {
	t.Helper()
	answers, err := c.Push(t.Context(), items)
	must(t, err)
	if len(answers) != len(items) {
		t.Fatalf("%d answers for %d items", len(answers), len(items))
	}
	return answers
}

func TestEnrolledDevicesCanRegister(t *testing.T) {
	s, client := open(t, func(c *dps.Config) {
		c.Settings = dps.Settings{AllocationPolicy: "static", IotHubHostName: "customer-a-hub.azure-devices.net",
			Reprovision: &dps.Reprovision{UpdateHubAssignment: true, MigrateDeviceData: true},
			InitialTwin: []byte(`{"tags":{"made":"here"},"properties":{"desired":{"period":60}}}`)}
	})
	sym := symmetric(1)
	cert, keyPEM := withCertificate(t, 2)
	for i, a := range push(t, client, sym, cert) {
		if a.Outcome != outbox.Accepted || a.Found {
			t.Errorf("answer %d = %+v, want accepted and new", i, a)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.RootPEM())
	for _, d := range []field.Device{
		{RegistrationID: sym.RegistrationID, SymmetricKey: sym.Key},
		{RegistrationID: cert.RegistrationID, CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER}), KeyPEM: keyPEM},
	} {
		d.URL, d.IDScope, d.Roots = s.DeviceAddr(), scope, roots
		if _, err := field.Register(t.Context(), d); err != nil {
			t.Errorf("%s cannot register: %v", d.RegistrationID, err)
		}
	}
}

// TestPushAgainFindsWhatIsThere: the answer is lost, or the station stops before
// it is written down; pushing again changes nothing.
func TestPushAgainFindsWhatIsThere(t *testing.T) {
	s, client := open(t, nil, service.Fault{Kind: service.ResetAfter, Door: "service"})
	sym := symmetric(1)
	cert, _ := withCertificate(t, 2)
	tpm := withTPM(t, 4)
	_, err := client.Push(t.Context(), []outbox.Item{sym, cert, tpm})
	wantTrouble(t, err, outbox.Unreachable, "service-unreachable")
	before := dump(t, s)
	for i, a := range push(t, client, sym, cert, tpm, symmetric(3)) {
		if want := i < 3; a.Outcome != outbox.Accepted || a.Found != want || (a.ETag != "") != want {
			t.Errorf("answer %d = %+v, want found: %t", i, a, want)
		}
	}
	if after := dump(t, s); !bytes.HasPrefix(after, before[:len(before)-2]) {
		t.Errorf("what was there has changed:\n%s\n%s", before, after)
	}
}

// TestEndorsementKeyOnTheWire: the service is told what the Azure tools tell it,
// byte for byte: the TPM2B_PUBLIC with its size, in padded base64.
func TestEndorsementKeyOnTheWire(t *testing.T) {
	var said []byte
	client := answering(t, func(w http.ResponseWriter, r *http.Request) {
		said, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"isSuccessful":true,"errors":[]}`)
	})
	it := withTPM(t, 9)
	if a := push(t, client, it)[0]; a.Outcome != outbox.Accepted {
		t.Fatalf("answer = %+v", a)
	}
	// The modulus' 256 bytes 80 09 … 09 01 begin 60 bytes in: at a multiple of 3.
	want := `{"mode":"create","enrollments":[{"registrationId":"dev-t009","attestation":{"type":"tpm","tpm":{"endorsementKey":"` +
		`AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEA` +
		`gAkJ` + strings.Repeat("CQkJ", 84) + `AQ=="}},"capabilities":{"iotEdge":false},"provisioningStatus":"enabled"}]}`
	if string(said) != want {
		t.Errorf("said %s\nwant %s", said, want)
	}
}

func dump(t testing.TB, s *service.Service) []byte {
	t.Helper()
	res, err := http.Get(s.ControlURL() + "/dump/enrollments")
	must(t, err)
	defer res.Body.Close()
	var records []json.RawMessage
	must(t, json.NewDecoder(res.Body).Decode(&records))
	b, err := json.Marshal(records)
	must(t, err)
	return b
}

// TestConflict: something else is enrolled under the ID.
func TestConflict(t *testing.T) {
	cert, _ := withCertificate(t, 1)
	other, _ := withCertificate(t, 1)
	sym := symmetric(1)
	sameID := cert
	sameID.RegistrationID, sameID.Attestation, sameID.DER, sameID.Key = cert.RegistrationID, records.SymmetricKey, nil, sym.Key
	otherKey := symmetric(1)
	otherKey.Key = bytes.Repeat([]byte{9}, 32)
	tpm, otherTPM := withTPM(t, 1), withTPM(t, 2)
	otherTPM.RegistrationID = tpm.RegistrationID
	asKey := sym
	asKey.RegistrationID = tpm.RegistrationID
	for _, c := range []struct {
		name         string
		there, item  outbox.Item
		wantSentence string
	}{
		{"another key", otherKey, sym, "The service holds another enrollment under dev:a001: its keys are others."},
		{"another certificate", other, cert, "The service holds another enrollment under dev-x001: its certificate is another."},
		{"another endorsement key", otherTPM, tpm, "The service holds another enrollment under dev-t001: its endorsement key is another."},
		{"a key instead of a TPM", asKey, tpm, "The service holds another enrollment under dev-t001: its attestation is symmetricKey."},
		{"a TPM instead of a key", tpm, asKey, "The service holds another enrollment under dev-t001: its attestation is tpm."},
		{"another attestation", sameID, cert, "The service holds another enrollment under dev-x001: its attestation is symmetricKey."},
		{"the other way", cert, sameID, "The service holds another enrollment under dev-x001: its attestation is x509."},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, client := open(t, nil)
			push(t, client, c.there)
			before := dump(t, s)
			answers := push(t, client, symmetric(2), c.item)
			if answers[0].Outcome != outbox.Accepted {
				t.Errorf("the neighbour: %+v", answers[0])
			}
			if a := answers[1]; a.Outcome != outbox.Refused || a.Refusal.Code != "enrollment-conflict" || a.Refusal.Sentence != c.wantSentence || a.Refusal.Next == "" {
				t.Errorf("answer = %+v, %v", a, a.Refusal)
			}
			if after := dump(t, s); !bytes.Contains(after, before[1:len(before)-1]) {
				t.Errorf("what was there has changed:\n%s\n%s", before, after)
			}
		})
	}
}

// TestConflictByHand: what only a person can have done at the service.
func TestConflictByHand(t *testing.T) {
	sym := symmetric(1)
	cert, _ := withCertificate(t, 2)
	tpm := withTPM(t, 3)
	ek := base64.StdEncoding.EncodeToString(tpm.EndorsementKey)
	thumb := func(it outbox.Item) string { return fmt.Sprintf("%x", sha(it.DER)) }
	conflict := func(id string) string {
		return `{"isSuccessful":false,"errors":[{"registrationId":"` + strings.ToUpper(id) + `","errorCode":409001,"errorStatus":"exists"}]}`
	}
	record := func(id, att, status string) string {
		return `{"registrationId":"` + id + `","attestation":` + att + `,"provisioningStatus":"` + status + `","etag":"\"e\"","surprise":1}`
	}
	for _, c := range []struct {
		name     string
		item     outbox.Item
		enrolled string
		want     string
	}{
		{"disabled", sym, record(sym.RegistrationID, `{"type":"symmetricKey"}`, "disabled"), "it is not enabled"},
		{"second certificate", cert, record(cert.RegistrationID, `{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"sha256Thumbprint":"`+
			thumb(cert)+`"}},"secondary":{"info":{"sha256Thumbprint":"00"}}}}}`, "enabled"), "it accepts a second certificate"},
		{"signed by a CA", cert, record(cert.RegistrationID, `{"type":"x509","x509":{"caReferences":{"primary":"x"}}}`, "enabled"), "it names no device certificate"},
		{"no endorsement key", tpm, record(tpm.RegistrationID, `{"type":"tpm"}`, "enabled"), "it names no endorsement key"},
		{"another endorsement key", tpm, record(tpm.RegistrationID, `{"type":"tpm","tpm":{"endorsementKey":"`+strings.Replace(ek, "AwMD", "AwME", 1)+`"}}`, "enabled"), "its endorsement key is another"},
		{"an endorsement key that is none", tpm, record(tpm.RegistrationID, `{"type":"tpm","tpm":{"endorsementKey":"?"}}`, "enabled"), "its endorsement key is another"},
		{"a TPM, disabled", tpm, record(tpm.RegistrationID, `{"type":"tpm","tpm":{"endorsementKey":"`+ek+`"}}`, "disabled"), "it is not enabled"},
		{"an equal endorsement key", tpm, record(tpm.RegistrationID, `{"type":"tpm","tpm":{"endorsementKey":"`+ek+`","storageRootKey":"ARoA"}}`, "enabled"), ""},
		{"equal", cert, record(cert.RegistrationID, `{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"sha256Thumbprint":"`+thumb(cert)+`"}}}}}`, "enabled"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := scripted(t, map[string]string{
				"POST /enrollments":                         conflict(c.item.RegistrationID),
				"GET /enrollments/" + c.item.RegistrationID: c.enrolled,
			})
			a := push(t, client, c.item)[0]
			switch {
			case c.want == "" && (a.Outcome != outbox.Accepted || !a.Found || a.ETag != `"e"`):
				t.Errorf("answer = %+v", a)
			case c.want != "" && (a.Outcome != outbox.Refused || !strings.HasSuffix(a.Refusal.Sentence, ": "+c.want+".")):
				t.Errorf("answer = %+v, %v", a, a.Refusal)
			}
		})
	}
}

// TestEnrolledElsewhere: the service will not enroll a key twice, and holds nothing
// under the item's ID. Now and then that is a coincidence; again and again it is a
// conflict, which no further try will end.
func TestEnrolledElsewhere(t *testing.T) {
	cert, _ := withCertificate(t, 2)
	for what, it := range map[string]outbox.Item{"endorsement key": withTPM(t, 1), "certificate": cert} {
		t.Run(what, func(t *testing.T) {
			var there, body string
			status := http.StatusNotFound
			client := answering(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case r.Method == http.MethodPost && there != "":
					io.WriteString(w, there)
				case r.Method == http.MethodPost:
					fmt.Fprintf(w, `{"isSuccessful":false,"errors":[{"registrationId":%q,"errorCode":409001,"errorStatus":"exists"}]}`, it.RegistrationID)
				default:
					w.WriteHeader(status)
					io.WriteString(w, body)
				}
			})
			sentence := fmt.Sprintf("The service calls %s a conflict, and holds nothing of that name: its %s seems to be enrolled under another ID.", it.RegistrationID, what)
			wait := func(times int) {
				t.Helper()
				for n := range times {
					if a := push(t, client, it)[0]; a.Outcome != outbox.Later || a.Refusal.Code != "enrollment-later" || a.Refusal.Sentence != sentence {
						t.Fatalf("answer %d = %+v, %v", n, a, a.Refusal)
					}
				}
			}
			const missing = `{"errorCode":404201,"trackingId":"t-1","message":"Enrollment not found."}`
			body = missing
			wait(4)
			there = `{"isSuccessful":true,"errors":[]}` // and the count begins anew
			if a := push(t, client, it)[0]; a.Outcome != outbox.Accepted {
				t.Fatalf("answer = %+v, %v", a, a.Refusal)
			}
			there = ""
			wait(4)
			body = "<html>not found</html>" // a proxy's, which says nothing of the enrollment
			if a := push(t, client, it)[0]; a.Outcome != outbox.Later || a.Refusal.Code != "service-strange" {
				t.Fatalf("answer = %+v, %v", a, a.Refusal)
			}
			body = missing
			if a := push(t, client, it, symmetric(3)); a[0].Outcome != outbox.Refused || a[0].Refusal.Code != "enrollment-conflict" || a[0].Refusal.Sentence != sentence ||
				!strings.HasPrefix(a[0].Refusal.Next, "Find the enrollment with this "+what) || a[1].Outcome != outbox.Accepted {
				t.Errorf("answers = %+v, %v", a, a[0].Refusal)
			}
			wait(1) // a person has it tried again
		})
	}
}

// scripted is a client of a server that answers 200 with the given bodies.
func scripted(t *testing.T, bodies map[string]string) *dps.Client {
	return answering(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, bodies[r.Method+" "+r.URL.Path])
	})
}

func answering(t *testing.T, h http.HandlerFunc) *dps.Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := dps.New(dps.Config{Endpoint: srv.Listener.Addr().String(), Policy: policy, Key: keyText, Roots: roots, Pace: outbox.NewPace(1_000_000)})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// TestCompareFails: the item that exists cannot be looked at now; it waits, and
// the ones that were created are accepted.
func TestCompareFails(t *testing.T) {
	for _, f := range []service.Fault{
		{Kind: service.Throttle, Match: "GET", RetryAfter: 30},
		{Kind: service.ServerError, Match: "GET"},
		{Kind: service.Nonsense, Match: "GET"},
		{Kind: service.ResetBefore, Match: "attestationmechanism"},
	} {
		t.Run(string(f.Kind), func(t *testing.T) {
			s, client := open(t, nil)
			push(t, client, symmetric(1))
			must(t, s.Inject(f))
			answers := push(t, client, symmetric(1), symmetric(2))
			if a := answers[0]; a.Outcome != outbox.Later || a.Refusal == nil || !a.At.IsZero() != (f.RetryAfter > 0) {
				t.Errorf("answer = %+v", a)
			}
			if answers[1].Outcome != outbox.Accepted {
				t.Errorf("the neighbour: %+v", answers[1])
			}
		})
	}
	t.Run("no right to look", func(t *testing.T) {
		_, client := open(t, func(c *dps.Config) { c.Policy = "writer" })
		push(t, client, symmetric(1))
		if a := push(t, client, symmetric(1))[0]; a.Outcome != outbox.Later || a.Refusal.Code != "service-denied" {
			t.Errorf("answer = %+v", a)
		}
	})
}

func TestCallErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*dps.Config)
		fault *service.Fault
		want  outbox.Trouble
		code  string
	}{
		{"throttled", nil, &service.Fault{Kind: service.Throttle, RetryAfter: 7}, outbox.Throttled, "service-throttled"},
		{"server error", nil, &service.Fault{Kind: service.ServerError}, outbox.Failed, "service-failed"},
		{"unauthorized", nil, &service.Fault{Kind: service.Unauthorized}, outbox.Denied, "service-denied"},
		{"reset before", nil, &service.Fault{Kind: service.ResetBefore}, outbox.Unreachable, "service-unreachable"},
		{"nonsense", nil, &service.Fault{Kind: service.Nonsense}, outbox.Failed, "service-nonsense"},
		{"policy may only read", func(c *dps.Config) { c.Policy = "reader" }, nil, outbox.Denied, "service-denied"},
		{"unknown policy", func(c *dps.Config) { c.Policy = "nobody" }, nil, outbox.Denied, "service-denied"},
		{"wrong key", func(c *dps.Config) { c.Key = func() (outbox.Secret, error) { return outbox.Secret("AAAA"), nil } }, nil, outbox.Denied, "service-denied"},
		{"key is not base64", func(c *dps.Config) { c.Key = func() (outbox.Secret, error) { return outbox.Secret("?"), nil } }, nil, outbox.Denied, "service-denied"},
		{"key file missing", func(c *dps.Config) { c.Key = func() (outbox.Secret, error) { return nil, io.ErrUnexpectedEOF } }, nil, outbox.Denied, "service-denied"},
		{"unknown root", func(c *dps.Config) { c.Roots = x509.NewCertPool() }, nil, outbox.Unreachable, "service-unreachable"},
		{"enrollment without sense", func(c *dps.Config) { c.Settings.InitialTwin = []byte(`{"tags":7}`) }, nil, outbox.Invalid, "enrollment-invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, client := open(t, c.edit)
			if c.fault != nil {
				must(t, s.Inject(*c.fault))
			}
			_, err := client.Push(t.Context(), []outbox.Item{symmetric(1), symmetric(2)})
			call := wantTrouble(t, err, c.want, c.code)
			if call != nil && call.At.IsZero() == (c.want == outbox.Throttled) {
				t.Errorf("to be tried again at %v", call.At)
			}
		})
	}
}

func wantTrouble(t testing.TB, err error, want outbox.Trouble, code string) *outbox.CallError {
	t.Helper()
	var call *outbox.CallError
	if !errors.As(err, &call) || call.Trouble != want || call.Refusal.Code != code || call.Refusal.Sentence == "" || call.Refusal.Next == "" {
		t.Errorf("error = %#v (%v), want trouble %d, code %s", call, err, want, code)
		return nil
	}
	return call
}

// TestKeyFileReplaced: a new key works from the next call on, without a restart.
func TestKeyFileReplaced(t *testing.T) {
	text := "AAAA"
	_, client := open(t, func(c *dps.Config) { c.Key = func() (outbox.Secret, error) { return outbox.Secret(text), nil } })
	_, err := client.Push(t.Context(), []outbox.Item{symmetric(1)})
	wantTrouble(t, err, outbox.Denied, "service-denied")
	text = base64.StdEncoding.EncodeToString(policyKey)
	push(t, client, symmetric(1))
}

// TestItemErrors: what one item's error in a bulk answer means.
func TestItemErrors(t *testing.T) {
	for code, want := range map[int]outbox.Outcome{
		400004: outbox.Refused, 404001: outbox.Refused, 413001: outbox.Refused,
		401002: outbox.Later, 403001: outbox.Later, 429001: outbox.Later, 500001: outbox.Later, 503001: outbox.Later, 7: outbox.Later,
	} {
		client := scripted(t, map[string]string{"POST /enrollments": fmt.Sprintf(
			`{"isSuccessful":false,"errors":[{"registrationId":"dev:a001","errorCode":%d,"errorStatus":"why\u0007not"}]}`, code)})
		answers := push(t, client, symmetric(1), symmetric(2))
		if a := answers[0]; a.Outcome != want || !strings.Contains(a.Refusal.Sentence, fmt.Sprintf("error %d: why not", code)) {
			t.Errorf("%d: %+v %v", code, a, a.Refusal)
		}
		if answers[1].Outcome != outbox.Accepted {
			t.Errorf("%d: the neighbour: %+v", code, answers[1])
		}
	}
}

// TestStrangeAnswers: 200s that contradict themselves, and servers that are not
// the service.
func TestStrangeAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"no verdict":          `{"errors":[]}`,
		"success with errors": `{"isSuccessful":true,"errors":[{"registrationId":"dev:a001","errorCode":409001,"errorStatus":""}]}`,
		"failure without":     `{"isSuccessful":false,"errors":[]}`,
		"another's error":     `{"isSuccessful":false,"errors":[{"registrationId":"dev-z","errorCode":409001,"errorStatus":""}]}`,
		"error twice": `{"isSuccessful":false,"errors":[{"registrationId":"dev:a001","errorCode":409001,"errorStatus":""},` +
			`{"registrationId":"DEV:A001","errorCode":400001,"errorStatus":""}]}`,
		"no code":        `{"isSuccessful":false,"errors":[{"registrationId":"dev:a001","errorStatus":""}]}`,
		"two answers":    `{"isSuccessful":true,"errors":[]}{}`,
		"empty":          ``,
		"null":           `null`,
		"wrong type":     `{"isSuccessful":"true","errors":[]}`,
		"endless spaces": strings.Repeat(" ", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scripted(t, map[string]string{"POST /enrollments": body}).Push(t.Context(), []outbox.Item{symmetric(1)})
			wantTrouble(t, err, outbox.Failed, "service-nonsense")
		})
	}
	for _, c := range []struct {
		status int
		header string
		body   string
		want   outbox.Trouble
		code   string
	}{
		{302, "", "", outbox.Strange, "service-strange"},
		{400, "", "<html>bad request</html>", outbox.Strange, "service-strange"},
		{400, "", `{"errorCode":404001,"message":"x"}`, outbox.Strange, "service-strange"},
		{404, "", `{"errorCode":404202,"trackingId":"t-1","message":"no instance"}`, outbox.Strange, "service-strange"},
		{403, "", "<html>blocked by policy</html>", outbox.Strange, "service-strange"},
		{403, "", `{"errorCode":403001,"message":"x"}`, outbox.Denied, "service-denied"},
		{401, "", "", outbox.Denied, "service-denied"},
		{407, "", "", outbox.Denied, "service-denied"},
		{409, "", `{"errorCode":409001,"message":"x"}`, outbox.Strange, "service-strange"},
		{413, "", "", outbox.Strange, "service-strange"},
		{422, "", "", outbox.Strange, "service-strange"},
		{503, "12", "", outbox.Unreachable, "service-unavailable"},
		{429, "", "", outbox.Throttled, "service-throttled"},
		{204, "", "", outbox.Strange, "service-strange"},
	} {
		client := answering(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/enrollments" {
				t.Errorf("the redirect was followed to %s", r.URL)
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/elsewhere")
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		_, err := client.Push(t.Context(), []outbox.Item{symmetric(1)})
		if call := wantTrouble(t, err, c.want, c.code); call != nil && call.At.IsZero() != (c.header == "") {
			t.Errorf("%d: to be tried again at %v", c.status, call.At)
		}
	}
}

// TestNothingSecretIsRepeated: a service that repeats what it was sent, in every
// place where it may speak.
func TestNothingSecretIsRepeated(t *testing.T) {
	it := symmetric(1)
	secret := base64.StdEncoding.EncodeToString(it.Key)
	var token string
	for _, status := range []int{200, 400, 401, 500} {
		client := answering(t, func(w http.ResponseWriter, r *http.Request) {
			said, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Contains(said, []byte(secret)) {
				t.Errorf("the key was not sent: %v", err)
			}
			token = r.Header.Get("Authorization")
			all, err := json.Marshal(string(said) + token)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if status == 200 {
				fmt.Fprintf(w, `{"isSuccessful":false,"errors":[{"registrationId":%q,"errorCode":400004,"errorStatus":%s}]}`, it.RegistrationID, all)
			} else {
				fmt.Fprintf(w, `{"errorCode":%d001,"trackingId":%s,"message":%s}`, status, all, all)
			}
		})
		answers, err := client.Push(t.Context(), []outbox.Item{it})
		text := fmt.Sprintf("%v %+v", err, err)
		for _, a := range answers {
			text += fmt.Sprintf(" %v %+v", a.Refusal, a)
		}
		_, sig, _ := strings.Cut(token, "&sig=")
		if strings.Contains(text, secret[:20]) || strings.Contains(text, sig[:20]) {
			t.Errorf("%d: %s", status, text)
		}
	}
}

// TestP5ETagIsNoKey: an etag is kept for later, in an event; one that could be a
// key which the service repeats is not.
func TestP5ETagIsNoKey(t *testing.T) {
	it := symmetric(1)
	it.Key = bytes.Repeat([]byte{0xd7}, 16)
	base, url := base64.StdEncoding.EncodeToString(it.Key), base64.RawURLEncoding.EncodeToString(it.Key)
	held := fmt.Sprintf(`{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}`, base, secondaryOf(it))
	for etag, kept := range map[string]bool{
		`"13003fea-0000-0300-0000-62d1d5e50000"`: true,
		`13003fea-0000-0300-0000-62d1d5e50000`:   true,
		`W/"baf36b31ffd5"`:                       true,
		`"AAAAAAFYHFo="`:                         true,
		"":                                       false,
		base:                                     false,
		`"` + base + `"`:                         false,
		url:                                      false,
		hex.EncodeToString(it.Key):               false,
		"e-" + base:                              false,
		secondaryOf(it):                          false,
		"a b":                                    false,
		"e\n":                                    false,
	} {
		client := scripted(t, map[string]string{
			"POST /enrollments":                               `{"isSuccessful":false,"errors":[{"registrationId":"dev:a001","errorCode":409001,"errorStatus":"exists"}]}`,
			"GET /enrollments/dev:a001":                       fmt.Sprintf(`{"registrationId":"dev:a001","attestation":{"type":"symmetricKey"},"provisioningStatus":"enabled","etag":%q}`, etag),
			"POST /enrollments/dev:a001/attestationmechanism": held,
		})
		want := ""
		if kept {
			want = etag
		}
		if a := push(t, client, it)[0]; a.Outcome != outbox.Accepted || a.ETag != want {
			t.Errorf("etag %q: %+v %v", etag, a, a.Refusal)
		}
	}
}

// secondaryOf is the second key of the item's enrollment.
func secondaryOf(it outbox.Item) string {
	mac := hmac.New(sha256.New, it.Key)
	mac.Write([]byte("nameplate secondary key 1\n" + it.RegistrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// TestIncompleteItem: an item that cannot be sent is refused, its neighbours go.
func TestIncompleteItem(t *testing.T) {
	_, client := open(t, nil)
	short := symmetric(1)
	short.Key = short.Key[:8]
	none := outbox.Item{Unit: 2, RegistrationID: "dev-2", Attestation: records.X509}
	answers := push(t, client, short, symmetric(3), none)
	for i, want := range []outbox.Outcome{outbox.Refused, outbox.Accepted, outbox.Refused} {
		if a := answers[i]; a.Outcome != want || (a.Refusal != nil) != (want == outbox.Refused) {
			t.Errorf("answer %d = %+v", i, a)
		}
	}
	if got, want := answers[2].Refusal.Sentence, `dev-2 cannot be enrolled: the record of unit U2 lacks what attestation "x509" needs.`; got != want {
		t.Errorf("sentence %q", got)
	}
	for name, ek := range map[string][]byte{"missing": nil, "short": withTPM(t, 4).EndorsementKey[:315], "without its size": withTPM(t, 4).EndorsementKey[2:],
		"longer than its size": append(withTPM(t, 4).EndorsementKey, 0), "of another kind": make([]byte, 316)} {
		it := withTPM(t, 4)
		it.EndorsementKey = ek
		if a := push(t, client, it)[0]; a.Outcome != outbox.Refused || a.Refusal.Code != "enrollment-incomplete" {
			t.Errorf("an endorsement key %s: %+v", name, a)
		}
	}
	if a := push(t, client, short)[0]; a.Refusal.Code != "enrollment-incomplete" {
		t.Errorf("alone: %+v", a)
	}
}

func TestNewRefusals(t *testing.T) {
	for endpoint, settings := range map[string]dps.Settings{
		"":                      {},
		"https://service":       {},
		"service/path":          {},
		"service:0":             {},
		"service:99999":         {},
		"user@service":          {},
		"a.example.invalid":     {AllocationPolicy: "custom"},
		"b.example.invalid":     {AllocationPolicy: "static"},
		"c.example.invalid:443": {InitialTwin: []byte("{")},
	} {
		_, err := dps.New(dps.Config{Endpoint: endpoint, Settings: settings, Key: keyText, Pace: outbox.NewPace(1)})
		var r *records.Refusal
		if !errors.As(err, &r) || r.Next == "" {
			t.Errorf("%q %+v: %v", endpoint, settings, err)
		}
	}
}

func sha(b []byte) [32]byte { return sha256.Sum256(b) }
