package ek_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/binary"
	"hash"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca"
	"nameplate/ca/ek"
)

// The endorsement keys of the TCG's templates, as go-tpm marshals them, with keys
// made in software.

func rsaPublic(key *rsa.PrivateKey) tpm2.TPMTPublic {
	p := tpm2.RSAEKTemplate
	p.Parameters = rsaParms(func(*tpm2.TPMSRSAParms) {})
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return p
}

func eccPublic(t testing.TB, key *ecdsa.PrivateKey) tpm2.TPMTPublic {
	t.Helper()
	p := tpm2.ECCEKTemplate
	p.Parameters = eccParms(func(*tpm2.TPMSECCParms) {})
	if key.Curve == elliptic.P384() {
		p.NameAlg = tpm2.TPMAlgSHA384
		p.ObjectAttributes.UserWithAuth = true
		p.AuthPolicy.Buffer = policyB(sha512.New384, tpm2.TPMAlgSHA384, 0x01c07f02)
		p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) { e.CurveID, e.Symmetric = tpm2.TPMECCNistP384, aes(256) })
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(point) / 2
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+n:]}})
	return p
}

func aes(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}
}

func rsaParms(alter func(*tpm2.TPMSRSAParms)) tpm2.TPMUPublicParms {
	p := &tpm2.TPMSRSAParms{Symmetric: aes(128), KeyBits: 2048}
	alter(p)
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, p)
}

func eccParms(alter func(*tpm2.TPMSECCParms)) tpm2.TPMUPublicParms {
	p := &tpm2.TPMSECCParms{Symmetric: aes(128), CurveID: tpm2.TPMECCNistP256}
	alter(p)
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, p)
}

func marshal(p tpm2.TPMTPublic) []byte { return tpm2.Marshal(tpm2.New2B(p)) }

// policyA and policyB are computed as a TPM does (Part 3, 23.3, 23.6, 23.22).
func policyA(h func() hash.Hash) []byte {
	extend := func(old []byte, parts ...[]byte) []byte {
		d := h()
		d.Write(old)
		for _, p := range parts {
			d.Write(p)
		}
		return d.Sum(nil)
	}
	start := make([]byte, h().Size())
	return extend(extend(start, []byte{0, 0, 1, 0x51}, []byte{0x40, 0, 0, 0x0b})) // PolicySecret, endorsement hierarchy, no reference
}

func policyB(h func() hash.Hash, alg tpm2.TPMIAlgHash, index tpm2.TPMHandle) []byte {
	name, err := tpm2.NVName(&tpm2.TPMSNVPublic{NVIndex: index, NameAlg: alg, DataSize: uint16(2 + h().Size()), AuthPolicy: tpm2.TPM2BDigest{Buffer: policyA(h)},
		Attributes: tpm2.TPMANV{PolicyWrite: true, WriteAll: true, PPRead: true, OwnerRead: true, AuthRead: true, PolicyRead: true, NoDA: true, Written: true}})
	if err != nil {
		panic(err)
	}
	start := make([]byte, h().Size())
	c := h()
	c.Write(slices.Concat(start, []byte{0, 0, 1, 0x92}, name.Buffer)) // PolicyAuthorizeNV
	either := h()
	either.Write(slices.Concat(start, []byte{0, 0, 1, 0x71}, policyA(h), c.Sum(nil))) // PolicyOR
	return either.Sum(nil)
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newECC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// high is the high-range variant of a template with SHA-256.
func high(p *tpm2.TPMTPublic) {
	p.ObjectAttributes.UserWithAuth = true
	p.AuthPolicy.Buffer = policyB(sha256.New, tpm2.TPMAlgSHA256, 0x01c07f01)
}

func TestPublic(t *testing.T) {
	rsaKey, p256, p384 := newRSA(t, 2048), newECC(t, elliptic.P256()), newECC(t, elliptic.P384())
	type alter = func(*tpm2.TPMTPublic)
	none := func(*tpm2.TPMTPublic) {}
	for _, tt := range []struct {
		name  string
		of    tpm2.TPMTPublic
		alter alter
		want  []string
	}{
		{"RSA-2048", rsaPublic(rsaKey), none, nil},
		{"RSA-2048, high range", rsaPublic(rsaKey), high, nil},
		{"P-256", eccPublic(t, p256), none, nil},
		{"P-256, high range", eccPublic(t, p256), high, nil},
		{"P-384", eccPublic(t, p384), none, nil},

		{"RSA without a policy", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = nil },
			[]string{"its authorization policy is , not that of an endorsement key (EK Credential Profile, template L-1, B.3.3)"}},
		{"P-256 with a policy of one's own", eccPublic(t, p256), func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) },
			[]string{"its authorization policy is 0000000000000000000000000000000000000000000000000000000000000000, not that of an endorsement key (EK Credential Profile, template L-2, B.3.4)"}},
		{"P-384 with policy A", eccPublic(t, p384), func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = policyA(sha512.New384) },
			[]string{"its authorization policy is 8bbf2266"}},
		{"the storage root key", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes, p.AuthPolicy = tpm2.RSASRKTemplate.ObjectAttributes, tpm2.RSASRKTemplate.AuthPolicy
		}, []string{"its authorization policy is ,", "its attributes are 0x00030472, not 0x000300b2"}},
		{"the attributes of the high range", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.UserWithAuth = true },
			[]string{"its attributes are 0x000300f2, not 0x000300b2 (EK Credential Profile, template L-1, B.3.3)"}},
		{"the policy of the high range", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			high(p)
			p.ObjectAttributes.UserWithAuth = false
		}, []string{"its attributes are 0x000300b2, not 0x000300f2 (EK Credential Profile, template H-2, B.4.5)"}},
		{"may move", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
			[]string{"its attributes are 0x000300b0"}},
		{"may change its parent", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
			[]string{"its attributes are 0x000300a2"}},
		{"made outside", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
			[]string{"its attributes are 0x00030092"}},
		{"not restricted", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false },
			[]string{"its attributes are 0x000200b2"}},
		{"does not decrypt", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = false },
			[]string{"its attributes are 0x000100b2"}},
		{"signs too", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = true },
			[]string{"its attributes are 0x000700b2"}},
		{"named by SHA-384", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 },
			[]string{"its name algorithm is 0x000c, not 0x000b"}},
		{"named by SHA-1", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 },
			[]string{"its name algorithm 0x0004 is neither SHA-256 nor SHA-384 (TPM 2.0 Part 1, 16)"}},
		{"AES-256", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.Parameters = rsaParms(func(r *tpm2.TPMSRSAParms) { r.Symmetric = aes(256) })
		},
			[]string{"it does not protect its children with AES-128 in CFB mode"}},
		{"P-384 and AES-128", eccPublic(t, p384), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) { e.CurveID = tpm2.TPMECCNistP384 })
		}, []string{"it does not protect its children with AES-256 in CFB mode (EK Credential Profile, template H-3, B.4.6)"}},
		{"AES-128 in another mode", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) { e.Symmetric.Mode = tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCBC) })
		}, []string{"it does not protect its children"}},
		{"no children", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) { e.Symmetric = tpm2.TPMTSymDefObject{} })
		}, []string{"it does not protect its children"}},
		{"bound to OAEP", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.Parameters = rsaParms(func(r *tpm2.TPMSRSAParms) {
				r.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA1})}
			})
		}, []string{"it is bound to the scheme 0x0017"}},
		{"bound to ECDH", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) {
				e.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDH, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDH, &tpm2.TPMSKeySchemeECDH{HashAlg: tpm2.TPMAlgSHA256})}
			})
		}, []string{"it is bound to the scheme 0x0019"}},
		{"a key derivation", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) {
				e.KDF = tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgKDF2, Details: tpm2.NewTPMUKDFScheme(tpm2.TPMAlgKDF2, &tpm2.TPMSKDFSchemeKDF2{HashAlg: tpm2.TPMAlgSHA256})}
			})
		}, []string{"it is bound to the key derivation 0x0021"}},
		{"exponent 3", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) { p.Parameters = rsaParms(func(r *tpm2.TPMSRSAParms) { r.Exponent = 3 }) },
			[]string{"its exponent is 3, not the usual one"}},
		{"a short modulus", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: rsaKey.N.Bytes()[:255]})
		}, []string{"its modulus is not an odd number of 2048 bits (TPM 2.0 Part 2, 11.2.4.5)"}},
		{"no modulus", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: make([]byte, 256)})
		}, []string{"its modulus is not an odd number of 2048 bits (TPM 2.0 Part 2, 11.2.4.5)"}},
		{"an even modulus", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			n := rsaKey.N.Bytes()
			n[255] &^= 1
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
		}, []string{"its modulus is not an odd number of 2048 bits (TPM 2.0 Part 2, 11.2.4.5)"}},
		{"RSA-3072", rsaPublic(newRSA(t, 3072)), func(p *tpm2.TPMTPublic) { p.Parameters = rsaParms(func(r *tpm2.TPMSRSAParms) { r.KeyBits = 3072 }) },
			[]string{"it is RSA-3072; endorsement keys here are RSA-2048, P-256 or P-384 (EK Credential Profile B)"}},
		{"a point on no curve", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			one := append(make([]byte, 31), 1)
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: one}, Y: tpm2.TPM2BECCParameter{Buffer: one}})
		}, []string{"its point is not on the curve (TPM 2.0 Part 1, C.8)"}},
		{"no point", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		}, []string{"its point has a coordinate that is not of full length (TPM 2.0 Part 1, C.8)"}},
		{"a point of another curve", eccPublic(t, p256), func(p *tpm2.TPMTPublic) { p.Unique = eccPublic(t, p384).Unique },
			[]string{"its point has a coordinate that is not of full length (TPM 2.0 Part 1, C.8)"}},
		{"another curve", eccPublic(t, p256), func(p *tpm2.TPMTPublic) {
			p.Parameters = eccParms(func(e *tpm2.TPMSECCParms) { e.CurveID = tpm2.TPMECCSM2P256 })
		}, []string{"its curve 0x0020 is neither P-256 nor P-384 (TPM 2.0 Part 2, 6.4)"}},
		{"a secret key", rsaPublic(rsaKey), func(p *tpm2.TPMTPublic) {
			p.Type = tpm2.TPMAlgKeyedHash
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{})
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{})
		}, []string{"its type 0x0008 is neither RSA nor ECC (TPM 2.0 Part 2, 12.2.2)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.of
			tt.alter(&p)
			b := marshal(p)
			o, err := ek.Public(b)
			expect(t, sentences(err), tt.want)
			if err == nil {
				want, err := tpm2.ObjectName(&p)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(o.Name, want.Buffer) {
					t.Errorf("its name is %x, not %x", o.Name, want.Buffer)
				}
			}
		})
	}
}

// The same object is always the same bytes: nothing may be added or left out.
func TestPublicIsOneEncoding(t *testing.T) {
	for _, p := range []tpm2.TPMTPublic{rsaPublic(newRSA(t, 2048)), eccPublic(t, newECC(t, elliptic.P256())), eccPublic(t, newECC(t, elliptic.P384()))} {
		good := marshal(p)
		for n := range good {
			if _, err := ek.Public(good[:n]); err == nil {
				t.Errorf("%d of %d bytes passed", n, len(good))
			}
			cut := slices.Clone(good[:n])
			if n >= 2 {
				binary.BigEndian.PutUint16(cut, uint16(n-2))
				if _, err := ek.Public(cut); err == nil {
					t.Errorf("%d of %d bytes passed, with the size corrected", n, len(good))
				}
			}
		}
		if _, err := ek.Public(append(slices.Clone(good), 0)); err == nil {
			t.Error("a byte behind the structure passed")
		}
		longer := append(slices.Clone(good), 0)
		binary.BigEndian.PutUint16(longer, uint16(len(longer)-2))
		if _, err := ek.Public(longer); err == nil {
			t.Error("a byte at the end of the structure passed")
		}
	}
}

// ECDAA has one parameter more than other schemes; nobody here reads it.
func TestPublicWithECDAA(t *testing.T) {
	b := marshal(eccPublic(t, newECC(t, elliptic.P256())))
	const scheme = 2 + 2 + 2 + 4 + 2 + 32 + 6 // behind size, type, name algorithm, attributes, policy, AES
	b = slices.Concat(b[:scheme], []byte{0x00, 0x1a, 0x00, 0x0b, 0x00, 0x00}, b[scheme+2:])
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	_, err := ek.Public(b)
	expect(t, sentences(err), []string{"it is bound to ECDAA, which nobody here checks (TPM 2.0 Part 2, 11.2.5.6)"})
}

// The leading zeros of a coordinate left out: the same key by another name.
func TestShortCoordinate(t *testing.T) {
	for {
		key := newECC(t, elliptic.P256())
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] != 0 {
			continue
		}
		p := eccPublic(t, key)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[2:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
		_, err = ek.Public(marshal(p))
		expect(t, sentences(err), []string{"its point has a coordinate that is not of full length (TPM 2.0 Part 1, C.8)"})
		return
	}
}

func TestRegistrationID(t *testing.T) {
	b := marshal(rsaPublic(newRSA(t, 2048)))
	if len(b) != 316 {
		t.Fatalf("%d bytes, not 316", len(b))
	}
	id := ek.RegistrationID(b)
	if len(id) != 52 || id != strings.ToLower(id) {
		t.Errorf("%q", id)
	}
	digest, err := base32.StdEncoding.DecodeString(strings.ToUpper(id) + "====")
	if sum := sha256.Sum256(b); err != nil || !bytes.Equal(digest, sum[:]) {
		t.Errorf("%q is %x, %v; not %x", id, digest, err, sum)
	}
	// printf hello | sha256sum, then base32.
	if got := ek.RegistrationID([]byte("hello")); got != "ftze3os7wcrq4jxihmvmlopctynrmhs4d6tuexttaqzwfe4ltasa" {
		t.Errorf("%q", got)
	}
}

func TestServiceCapable(t *testing.T) {
	rsaKey := newRSA(t, 2048)
	if err := ek.ServiceCapable(marshal(rsaPublic(rsaKey))); err != nil {
		t.Error(err)
	}
	highRange := rsaPublic(rsaKey)
	high(&highRange)
	broken := rsaPublic(rsaKey)
	broken.AuthPolicy.Buffer = nil
	for name, tt := range map[string]struct {
		public tpm2.TPMTPublic
		code   string
	}{
		"P-256":                {eccPublic(t, newECC(t, elliptic.P256())), "ek-not-for-service"},
		"P-384":                {eccPublic(t, newECC(t, elliptic.P384())), "ek-not-for-service"},
		"RSA-2048, high range": {highRange, "ek-not-for-service"},
		"no endorsement key":   {broken, "ek-unusable"},
	} {
		expectCode(t, name, ek.ServiceCapable(marshal(tt.public)), tt.code)
	}
}

func FuzzPublic(f *testing.F) {
	for _, b := range [][]byte{marshal(rsaPublic(newRSA(f, 2048))), marshal(eccPublic(f, newECC(f, elliptic.P256()))), marshal(eccPublic(f, newECC(f, elliptic.P384())))} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ek.Decode(b)
		if err != nil {
			if _, err := ek.Public(b); err == nil {
				t.Error("an object that cannot be decoded is an endorsement key")
			}
			return
		}
		// What we take, the library reads as the same object.
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b[2:])
		if err != nil {
			if o.Symmetric.Algorithm == tpm2.TPMAlgNull || o.Symmetric.Algorithm == tpm2.TPMAlgAES {
				t.Skip() // a scheme that the library does not know
			}
			return
		}
		if uint16(area.NameAlg) != uint16(o.NameAlg) || !bytes.Equal(area.AuthPolicy.Buffer, o.Policy) {
			t.Errorf("the library reads another object: %+v, %+v", area, o)
		}
		if again := marshal(*area); !bytes.Equal(again, b) {
			t.Errorf("%x is marshalled as %x", b, again)
		}
	})
}

// expect compares sentences with how each should begin.
func expect(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("failed checks:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// sentences are the failed checks behind a refusal, or in a joined error.
func sentences(err error) []string {
	switch e := err.(type) {
	case nil:
		return nil
	case *ca.Refusal:
		return sentences(e.Err)
	case interface{ Unwrap() []error }:
		var all []string
		for _, one := range e.Unwrap() {
			all = append(all, one.Error())
		}
		return all
	}
	return []string{err.Error()}
}

func expectCode(t *testing.T, name string, err error, code string) {
	t.Helper()
	r, ok := err.(*ca.Refusal)
	if !ok || r.Code != code {
		t.Errorf("%s: %v; want %s", name, err, code)
		return
	}
	if !strings.HasSuffix(r.Sentence, ".") || !strings.HasSuffix(r.Next, ".") {
		t.Errorf("%s: a refusal without sentence or action: %#v", name, r)
	}
}
