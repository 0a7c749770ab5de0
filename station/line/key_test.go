package line_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"testing"

	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/records"
	"nameplate/station/line"
)

// A request that is not for the name that the board was given, or not by a key of
// its own that is worth a certificate, gets none. The claim waits until the board
// asks as it should.
func TestRequestsThatGetNoCertificate(t *testing.T) {
	const again = "Set the board aside if a second passage ends the same way."
	outside := refusal{records.Fail, "key-not-in-tpm", "The board did not prove that its device key was made in its TPM.",
		"Set the board aside: its key may have been made elsewhere, and copied.", nil}
	with := func(key any, name string) func(*testing.T, *board, *flasher.KeyRequest) {
		return func(t *testing.T, _ *board, r *flasher.KeyRequest) {
			csr, err := request(key, name)
			must(t, err)
			r.CSR = csr
		}
	}
	on := func(curve elliptic.Curve) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		must(t, err)
		return key
	}
	short, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	tests := []struct {
		name string
		way  string
		ask  func(*testing.T, *board, *flasher.KeyRequest)
		want refusal
	}{
		{"another name", ownKey, func(t *testing.T, b *board, r *flasher.KeyRequest) {
			with(b.own(), "x509-device-a000009")(t, b, r)
		}, refusal{records.Fail, "csr-name", `The certificate request is for "x509-device-a000009", but the board was given x509-device-a000001.`, again, nil}},
		{"no name", ownKey, func(t *testing.T, b *board, r *flasher.KeyRequest) {
			with(b.own(), "")(t, b, r)
		}, refusal{records.Fail, "csr-name", `The certificate request is for "", but the board was given x509-device-a000001.`, again, nil}},
		{"another key's signature", ownKey, func(t *testing.T, b *board, r *flasher.KeyRequest) {
			other, err := request(on(elliptic.P256()), "x509-device-a000001")
			must(t, err)
			r.CSR = signedAs(t, r.CSR, other)
		}, refusal{records.Fail, "csr-signature", "The certificate request was not signed by the key it names.", again, nil}},
		{"a longer digest", ownKey, func(t *testing.T, b *board, r *flasher.KeyRequest) {
			csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
				Subject: pkix.Name{CommonName: "x509-device-a000001"}, SignatureAlgorithm: x509.ECDSAWithSHA384}, b.own())
			must(t, err)
			r.CSR = csr
		}, refusal{records.Fail, "csr-signature", "The certificate request is not signed with ECDSA and SHA-256.", "Correct the device's firmware.", nil}},
		{"a key on P-384", ownKey, with(on(elliptic.P384()), "x509-device-a000001"), refusal{records.Fail, "csr-key", "The certificate request is not for a P-256 key.",
			"Correct the product's profile or the device's firmware: device keys are on P-256.", nil}},
		{"an RSA key", ownKey, with(short, "x509-device-a000001"), refusal{records.Fail, "csr-key", "The certificate request is not for a P-256 key.",
			"Correct the product's profile or the device's firmware: device keys are on P-256.", nil}},
		{"a key that everybody knows", ownKey, with(small(t, 7), "x509-device-a000001"), refusal{records.Fail, "csr-key-known", "The board's device key is one that everybody knows.",
			"Stop the line and call the process engineer: these boards make their keys without randomness.", nil}},
		{"half a request", ownKey, func(_ *testing.T, _ *board, r *flasher.KeyRequest) { r.CSR = r.CSR[:len(r.CSR)/2] },
			refusal{records.Fail, "csr-unreadable", "The certificate request cannot be read.", again, nil}},
		{"no request", ownKey, func(_ *testing.T, _ *board, r *flasher.KeyRequest) { r.CSR = nil },
			refusal{records.Fail, "csr-unreadable", "The certificate request cannot be read.", again, nil}},
		{"an endless one", ownKey, func(_ *testing.T, _ *board, r *flasher.KeyRequest) { r.CSR = make([]byte, 1<<20) },
			refusal{records.Fail, "csr-unreadable", "The certificate request is too long to be one.", again, nil}},
		{"a key outside the TPM", tpmKey, with(on(elliptic.P256()), "x509-tpm-a000001"), outside},
		{"a key that is not certified", tpmKey, func(_ *testing.T, _ *board, r *flasher.KeyRequest) { r.Certified = nil }, outside},
		{"another key's certification", tpmKey, func(_ *testing.T, _ *board, r *flasher.KeyRequest) {
			r.Certified.Public = bytes.Clone(r.Certified.Public)
			r.Certified.Public[len(r.Certified.Public)-1] ^= 1
		}, outside},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &fakeDriver{}
			s := newStation(t, d)
			order, b := s.order(tt.way, 1), boardFor(t, tt.way, "a")
			d.request = func(r *flasher.KeyRequest) { tt.ask(t, b, r) }
			signed := &countingIssuer{Issuer: s.issuer}
			w := s.slot("slot-1", at(b), func(c *line.Config) { c.Issuer = signed })
			tt.want.events = failedAt(tt.way, "identity.claimed")
			from := s.size()
			s.wantRefusal(w.pass(order), from, tt.want)
			if s.live(order) != 0 || signed.n != 0 || b.written() != 0 {
				t.Errorf("%d claims, %d certificates, %d writes", s.live(order), signed.n, b.written())
			}
			d.request = nil
			from = s.size()
			wantVerdict(t, w.pass(order), records.Pass, "")
			wantKinds(t, s.kinds(from), slices.Concat([]records.Kind{"passage.opened"}, whole(tt.way))...)
			if b.made() != 1 {
				t.Errorf("the board made %d keys", b.made())
			}
			s.holds(b, s.unit())
			s.oneIdentity(order, 1)
		})
	}
}

// signedAs is a request with the signature of another.
func signedAs(t *testing.T, csr, other []byte) []byte {
	t.Helper()
	var is, from struct {
		Content   asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	for der, to := range map[string]any{string(csr): &is, string(other): &from} {
		_, err := asn1.Unmarshal([]byte(der), to)
		must(t, err)
	}
	is.Signature = from.Signature
	der, err := asn1.Marshal(is)
	must(t, err)
	return der
}

// small is a private key that one finds by counting.
func small(t *testing.T, d byte) *ecdsa.PrivateKey {
	t.Helper()
	raw := make([]byte, 32)
	raw[31] = d
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	must(t, err)
	return key
}

// A board that asks with one key and holds another never passes: its certificate
// is of no use to it.
func TestP4CertificateForAKeyThatIsNotThere(t *testing.T) {
	d := &fakeDriver{}
	s := newStation(t, d)
	order, b := s.order(ownKey, 1), newBoard("a")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	d.request = func(r *flasher.KeyRequest) {
		r.CSR, err = request(other, "x509-device-a000001")
		must(t, err)
	}
	from := s.size()
	s.wantRefusal(s.passage(at(b), order), from, refusal{records.Fail, "verify-mismatch", "The board does not hold what was written: private_key differ.",
		"Put it back once; if it happens again, set the board aside.", failedAt(ownKey, "write.begun")})
	// What it asks with when it is honest is another key: the certificate is void.
	d.request = nil
	from = s.size()
	wantVerdict(t, s.passage(at(b), order), records.Pass, "")
	wantKinds(t, s.kinds(from), lostKey(ownKey)...)
	s.holds(b, s.unit())
	s.oneIdentity(order, 1)
}

// lostKey is the passage of a board whose certificate is for a key that it does not
// hold any more.
func lostKey(way string) []records.Kind {
	return slices.Concat([]records.Kind{"passage.opened"}, identified(way), []records.Kind{"certificate.voided"},
		path(way)[slices.Index(path(way), "identity.claimed")+1:])
}

// P4: a key that stays on the board was found there only if it signed what it was
// asked to; and so the line says no before replay would have to.
func TestP4NoFalsePossession(t *testing.T) {
	change := func(how func(*flasher.Item)) func(flasher.Manifest) flasher.Manifest {
		return func(found flasher.Manifest) flasher.Manifest {
			for i := range found {
				if found[i].How == flasher.ByPossession {
					how(&found[i])
				}
			}
			return found
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	unheld := refusal{records.Fail, "key-not-held", "The board did not prove that it holds the key of its certificate.",
		"Set the board aside if a second passage ends the same way.", nil}
	differs := func(item string) refusal {
		return refusal{records.Fail, "verify-mismatch", "The board does not hold what was written: " + item + " differ.",
			"Put it back once; if it happens again, set the board aside.", nil}
	}
	broken := refusal{records.Error, "station-error", `The station could not finish "verify".`, "Call the process engineer; the station's log says why.", nil}
	tests := []struct {
		name  string
		ways  []string
		found func(flasher.Manifest) flasher.Manifest
		want  func(item string) refusal
	}{
		{"nothing to show for it", []string{ownKey, tpmKey}, change(func(it *flasher.Item) { it.Proof = nil }), func(string) refusal { return unheld }},
		{"a signature over something else", []string{ownKey, tpmKey}, change(func(it *flasher.Item) { it.Proof.Challenge[0] ^= 1 }), func(string) refusal { return unheld }},
		{"a short challenge", []string{ownKey, tpmKey}, change(func(it *flasher.Item) { it.Proof.Challenge = it.Proof.Challenge[:16] }), func(string) refusal { return unheld }},
		{"the proof of another key", []string{ownKey, tpmKey}, change(func(it *flasher.Item) {
			p, err := proof(other)
			must(t, err)
			it.Proof = &p
		}), func(string) refusal { return broken }},
		{"another key", []string{ownKey, tpmKey}, change(func(it *flasher.Item) {
			p, err := proof(other)
			must(t, err)
			*it = possessed(it.Name, p.Public, &p)
		}), differs},
		{"another endorsement key", []string{records.TPM}, change(func(it *flasher.Item) { *it = possessed(it.Name, []byte("another"), nil) }), differs},
		{"no key", proving, func(found flasher.Manifest) flasher.Manifest {
			return slices.DeleteFunc(found, func(it flasher.Item) bool { return it.How == flasher.ByPossession })
		}, differs},
		{"a key that was read", proving, change(func(it *flasher.Item) { it.How, it.Proof = flasher.ByBytes, nil }), func(string) refusal { return broken }},
	}
	for _, tt := range tests {
		for _, way := range tt.ways {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				d := &fakeDriver{found: tt.found}
				s := newStation(t, d)
				order, b := s.order(way, 1), boardFor(t, way, "a")
				place := at(b)
				item := flasher.ItemPrivateKey
				if way == records.TPM {
					item = flasher.ItemEndorsementKey
				}
				want := tt.want(item)
				end := []records.Kind{"unit.failed", "passage.closed"}
				if want.verdict == records.Error {
					end = brokeOff[1:]
				}
				want.events = slices.Concat(upTo(way, "write.begun"), end)
				from := s.size()
				s.wantRefusal(s.passage(place, order), from, want)
				// It comes back, is read, is not believed, and is written again.
				want.events = slices.Concat([]records.Kind{"passage.opened"}, identified(way), []records.Kind{"write.begun"}, end)
				from = s.size()
				s.wantRefusal(s.passage(place, order), from, want)
				d.found = nil
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				s.holds(b, s.unit())
				s.oneIdentity(order, 1)
			})
		}
	}
}

// P4: a driver that forgets to plan what the board has to prove gets no PASS.
func TestP4NothingToProveIsNoPass(t *testing.T) {
	for _, way := range proving {
		d := forgetful{&fakeDriver{}}
		s := newStation(t, d)
		order := s.order(way, 1)
		wantVerdict(t, s.passage(at(boardFor(t, way, "a")), order), records.Error, "station-error")
		s.replays()
	}
}

// forgetful makes plans without what has to be proved.
type forgetful struct{ *fakeDriver }

func (d forgetful) Probe(ctx context.Context, p link.Port, o flasher.Options) (flasher.Device, error) {
	v, err := d.fakeDriver.Probe(ctx, p, o)
	return forgetfulDevice{v}, err
}

type forgetfulDevice struct{ flasher.Device }

func (v forgetfulDevice) Plan(id flasher.Identity) (flasher.Plan, error) {
	p, err := v.Device.Plan(id)
	p.Manifest = slices.DeleteFunc(p.Manifest, func(it flasher.Item) bool { return it.How == flasher.ByPossession })
	return p, err
}

// A board that lost its key between two passages, because its storage was erased or
// its TPM cleared, makes another under the same claim. A certificate for the lost
// one is void; nothing else of the unit changes but the TPM's attestation key,
// which goes with its owner.
func TestLostKey(t *testing.T) {
	lose := func(way string, b *board) {
		if way == ownKey {
			b.keep(nil)
			return
		}
		b.chip.clear()
	}
	for _, way := range proving {
		for i, after := range path(way) {
			if after == "unit.passed" {
				break
			}
			t.Run(fmt.Sprint(i, " ", after, "/", way), func(t *testing.T) {
				t.Parallel()
				s := newStation(t, &fakeDriver{})
				order, b := s.order(way, 1), boardFor(t, way, "a")
				s.book.failAfter(count(path(way)[:i], after), after, applied)
				s.dies(at(b), order)
				s.restart()
				var before records.Unit
				if all := s.units(); len(all) == 1 {
					before = all[0]
				}
				lose(way, b)
				want := slices.Concat([]records.Kind{"passage.opened"}, keeps(way))
				switch {
				case i < slices.Index(path(way), "identity.claimed"):
					want = path(way)
				case before.Cert != nil:
					want = lostKey(way)
				case after == "unit.verified":
					want = slices.Concat([]records.Kind{"passage.opened"}, again(way))
				}
				from := s.size()
				wantVerdict(t, s.passage(at(b), order), records.Pass, "")
				wantKinds(t, s.kinds(from), want...)
				u := s.unit()
				if before.RegistrationID != "" && before.RegistrationID != u.RegistrationID {
					t.Errorf("%s became %s", before.RegistrationID, u.RegistrationID)
				}
				if before.EK != nil && (!bytes.Equal(u.EK, before.EK) || bytes.Equal(u.AK, before.AK)) {
					t.Error("a cleared TPM has the same endorsement key and another attestation key")
				}
				if before.DeviceKey != "" && (u.DeviceKey == before.DeviceKey || b.made() != 2) {
					t.Errorf("the key %s became %s, %d were made", before.DeviceKey, u.DeviceKey, b.made())
				}
				if before.Cert != nil && u.Cert.Serial == before.Cert.Serial {
					t.Error("the certificate is for the lost key")
				}
				for _, e := range s.events() {
					// It belongs on a revocation list only if it has left the station.
					if v, ok := s.body(e).(records.CertificateVoided); ok && strings.Contains(v.Reason, "may live on") != (before.Manifest != nil) {
						t.Errorf("the certificate is void because %s", v.Reason)
					}
				}
				s.holds(b, u)
				s.oneIdentity(order, 1)
			})
		}
	}
}

// P3: while a lost key is made good, each event may fail.
func TestP3DeathWhileAKeyIsMadeGood(t *testing.T) {
	for _, kind := range []records.Kind{"certificate.voided", "certificate.issued", "write.begun"} {
		for _, f := range []fate{refused, lost, applied} {
			t.Run(string(kind)+" "+string(f), func(t *testing.T) {
				s := newStation(t, &fakeDriver{})
				order, b := s.order(ownKey, 1), newBoard("a")
				place := at(b)
				s.book.fail("unit.verified", applied)
				s.dies(place, order)
				s.restart()
				was := s.unit()
				b.keep(nil)
				s.book.fail(kind, f)
				if f == refused {
					wantVerdict(t, s.passage(place, order), records.Error, "disk-full")
				} else {
					s.dies(place, order)
					s.restart()
				}
				key := b.keyOf(t, ownKey)
				wantVerdict(t, s.passage(place, order), records.Pass, "")
				if u := s.unit(); u.RegistrationID != was.RegistrationID || u.DeviceKey != key || u.Cert.Serial == was.Cert.Serial {
					t.Errorf("%s with the key %s became %s with %s", was.RegistrationID, key, u.RegistrationID, u.DeviceKey)
				}
				s.holds(b, s.unit())
				s.oneIdentity(order, 1)
			})
		}
	}
}

// A claim that goes back to an order that was closed takes no key with it: the
// board is asked again under its next order, and shows the key that it has kept.
func TestKeyOutlivesItsClaim(t *testing.T) {
	for _, way := range []string{ownKey, tpmKey} {
		t.Run(way, func(t *testing.T) {
			d := &fakeDriver{}
			s := newStation(t, d)
			first, b := s.order(way, 1), boardFor(t, way, "a")
			d.at(keyed, func(context.Context, *board) error {
				s.do(func(records.View) ([]records.Draft, error) {
					return []records.Draft{{Actor: badge, Order: first, Body: records.OrderClosed{Reason: "done"}}}, nil
				})
				return errBroken
			})
			from := s.size()
			wantVerdict(t, s.passage(at(b), first), records.Error, "station-error")
			wantKinds(t, s.kinds(from), slices.Concat(upTo(way, "identity.claimed"), []records.Kind{"order.closed", "identity.released", "passage.closed"})...)
			if s.live(first) != 0 {
				t.Error("the claim was not given back")
			}
			second := s.orderAs("second", way, 1, s.clock.now().AddDate(1, 0, 0))
			wantVerdict(t, s.passage(at(b), second), records.Pass, "")
			if b.made() != 1 {
				t.Errorf("the board made %d keys", b.made())
			}
			s.holds(b, s.unit())
			s.oneIdentity(second, 1)
		})
	}
}
