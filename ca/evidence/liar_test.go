package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"nameplate/ca"
	"nameplate/ca/ek"
	"nameplate/ca/evidence"
)

func akTemplate() tpm2.TPMTPublic {
	p := deviceTemplate()
	p.ObjectAttributes.Restricted = true
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	})
	return p
}

func deviceTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// softKey is a key in software that claims to be in a TPM.
type softKey struct {
	private *ecdsa.PrivateKey
	public  []byte // TPM2B_PUBLIC
}

func newSoftKey(t testing.TB, template tpm2.TPMTPublic) softKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return softKey{private, claim(t, template, private)}
}

// claim is the TPM2B_PUBLIC of a template with a key of one's own in it.
func claim(t testing.TB, template tpm2.TPMTPublic, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(point) / 2
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+n:]}})
	return tpm2.Marshal(tpm2.New2B(template))
}

// liar is a TPM in software, which can say whatever it likes. It starts with what
// a good one says; a test alters one thing and sign puts the signature under it.
type liar struct {
	t             testing.TB
	ak, key       softKey
	by            *ecdsa.PrivateKey // what signs the attestation; the attestation key
	csr           []byte
	attest        tpm2.TPMSAttest
	raw           []byte // set to say something that is no TPMS_ATTEST
	hash          tpm2.TPMIAlgHash
	alterSigned   func([]byte) []byte
	wrapSignature func([]byte) []byte
}

func newLiar(t testing.TB) *liar {
	t.Helper()
	l := &liar{t: t, ak: newSoftKey(t, akTemplate()), key: newSoftKey(t, deviceTemplate()), hash: tpm2.TPMAlgSHA256}
	l.by = l.ak.private
	l.csr = newCSR(t, l.key.private, "sn-0001")
	l.attest = tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		Type:            tpm2.TPMSTAttestCertify,
		QualifiedSigner: tpm2.TPM2BName{Buffer: name(t, l.ak.public)},
		ExtraData:       tpm2.TPM2BData{Buffer: digest(l.csr)},
		ClockInfo:       tpm2.TPMSClockInfo{Clock: 4711, ResetCount: 3, RestartCount: 1, Safe: true},
		FirmwareVersion: 0x2026_0301,
		Attested:        certified(name(t, l.key.public)),
	}
	return l
}

func certified(name []byte) tpm2.TPMUAttest {
	return tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: name}})
}

func (l *liar) request() evidence.Request {
	l.t.Helper()
	raw := l.raw
	if raw == nil {
		raw = tpm2.Marshal(l.attest)
	}
	signed := raw
	if l.alterSigned != nil {
		raw = l.alterSigned(bytes.Clone(raw))
	}
	sum := digest(signed)
	r, s, err := signRS(l.by, sum)
	if err != nil {
		l.t.Fatal(err)
	}
	signature := tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: l.hash, SignatureR: tpm2.TPM2BECCParameter{Buffer: r}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s}})})
	if l.wrapSignature != nil {
		signature = l.wrapSignature(signature)
	}
	return evidence.Request{CSR: l.csr, CommonName: "sn-0001", InTPM: true, AK: l.ak.public, Public: l.key.public, Attest: raw, Signature: signature}
}

func signRS(key *ecdsa.PrivateKey, sum []byte) (r, s []byte, err error) {
	der, err := ecdsa.SignASN1(rand.Reader, key, sum)
	if err != nil {
		return nil, nil, err
	}
	var both struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &both); err != nil {
		return nil, nil, err
	}
	return both.R.FillBytes(make([]byte, 32)), both.S.FillBytes(make([]byte, 32)), nil
}

// A TPM that lies is found out, whatever it lies about. One lie each.
func TestLyingTPM(t *testing.T) {
	const notInTPM, akUnusable = "key-not-in-tpm", "ak-unusable"
	for _, tt := range []struct {
		name string
		lie  func(*liar)
		code string
		want []string // how each sentence begins
	}{
		{"the truth", func(l *liar) {}, "", nil},
		{"another clock, which says nothing", func(l *liar) { l.attest.ClockInfo = tpm2.TPMSClockInfo{} }, "", nil},
		{"a key that is not subject to lockout", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = true })
		}, "", nil},
		{"a key bound to ECDSA", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.Parameters = akTemplate().Parameters })
		}, "", nil},

		{"signed by another key", func(l *liar) { l.by = newSoftKey(l.t, akTemplate()).private }, notInTPM,
			[]string{"the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2): it is a signature by another key"}},
		{"clock changed after signing", func(l *liar) { l.alterSigned = func(b []byte) []byte { b[len(b)-90] ^= 1; return b } }, notInTPM,
			[]string{"the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2): it is a signature by another key, or over other bytes"}},
		{"the digest called SHA-1", func(l *liar) { l.hash = tpm2.TPMAlgSHA1 }, notInTPM,
			[]string{"the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2): its digest is 0x0004, not SHA-256"}},
		{"the signature called ECDAA", func(l *liar) {
			l.wrapSignature = func(b []byte) []byte { binary.BigEndian.PutUint16(b, uint16(tpm2.TPMAlgECDAA)); return b }
		}, notInTPM, []string{"the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2): its algorithm is 0x001a, not ECDSA"}},
		{"the signature of no known kind", func(l *liar) {
			l.wrapSignature = func(b []byte) []byte { b[0] = 0x77; return b }
		}, notInTPM, []string{"the attestation key did not sign the attestation"}},
		{"something behind the signature", func(l *liar) { l.wrapSignature = func(b []byte) []byte { return append(b, 0) } }, notInTPM,
			[]string{"the attestation key did not sign the attestation (TPM 2.0 Part 3, 18.2): it is not two numbers and nothing else"}},
		{"half a signature", func(l *liar) { l.wrapSignature = func(b []byte) []byte { return b[:20] } }, notInTPM,
			[]string{"the attestation key did not sign the attestation"}},
		{"no signature", func(l *liar) { l.wrapSignature = func([]byte) []byte { return nil } }, notInTPM,
			[]string{"the attestation key did not sign the attestation"}},

		{"no attestation", func(l *liar) { l.raw = []byte{} }, notInTPM,
			[]string{"the attestation does not begin with TPM_GENERATED: no TPM made it (TPM 2.0 Part 2, 6.2)"}},
		{"another magic", func(l *liar) { l.raw = tpm2.Marshal(l.attest); l.raw[0] = 0xfe }, notInTPM,
			[]string{"the attestation does not begin with TPM_GENERATED: no TPM made it (TPM 2.0 Part 2, 6.2)"}},
		{"a quote", func(l *liar) {
			l.attest.Type = tpm2.TPMSTAttestQuote
			l.attest.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)}})
		}, notInTPM, []string{"the attestation is of the type 0x8018, not TPM_ST_ATTEST_CERTIFY (TPM 2.0 Part 2, 6.9)"}},
		{"half an attestation", func(l *liar) { l.raw = tpm2.Marshal(l.attest)[:60] }, notInTPM,
			[]string{"the attestation is not one TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12)"}},
		{"something behind the attestation", func(l *liar) { l.raw = append(tpm2.Marshal(l.attest), 0) }, notInTPM,
			[]string{"the attestation is not one TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12)"}},
		{"the name of another key", func(l *liar) { l.attest.Attested = certified(name(l.t, newSoftKey(l.t, deviceTemplate()).public)) }, notInTPM,
			[]string{"the attestation is about another key (TPM 2.0 Part 2, 10.12.3)"}},
		{"no name", func(l *liar) { l.attest.Attested = certified(nil) }, notInTPM,
			[]string{"the attestation is about another key (TPM 2.0 Part 2, 10.12.3)"}},
		{"made for another request", func(l *liar) { l.attest.ExtraData.Buffer = digest(newCSR(l.t, l.key.private, "sn-0001")) }, notInTPM,
			[]string{"the attestation was made for another request (TPM 2.0 Part 3, 18.2: qualifyingData)"}},
		{"made for no request", func(l *liar) { l.attest.ExtraData.Buffer = nil }, notInTPM,
			[]string{"the attestation was made for another request (TPM 2.0 Part 3, 18.2: qualifyingData)"}},
		{"a request by a key outside", func(l *liar) {
			outside := newSoftKey(l.t, deviceTemplate())
			l.csr = newCSR(l.t, outside.private, "sn-0001")
			l.attest.ExtraData.Buffer = digest(l.csr)
		}, notInTPM, []string{"the key that is certified is not the one in the request (RFC 2986 4.1)"}},

		{"a key that may move", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false })
		}, notInTPM, []string{"the device key has the attributes 0x00040070, not 0x00040072 (TPM 2.0 Part 2, 8.3)"}},
		{"a key that may change its parent", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false })
		}, notInTPM, []string{"the device key has the attributes 0x00040062"}},
		{"a key made outside", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false })
		}, notInTPM, []string{"the device key has the attributes 0x00040052"}},
		{"a key that nobody may use", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.UserWithAuth = false })
		}, notInTPM, []string{"the device key has the attributes 0x00040032"}},
		{"a key that cannot sign", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false })
		}, notInTPM, []string{"the device key has the attributes 0x00000072"}},
		{"a restricted key", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = true })
		}, notInTPM, []string{"the device key has the attributes 0x00050072"}},
		{"a key that decrypts", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true })
		}, notInTPM, []string{"the device key has the attributes 0x00060072"}},
		{"a key for duplication", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.EncryptedDuplication = true })
		}, notInTPM, []string{"the device key has the attributes 0x00040872"}},
		{"a key until the next restart", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.STClear = true })
		}, notInTPM, []string{"the device key has the attributes 0x00040076"}},
		{"a key with a policy", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) })
		}, notInTPM, []string{"the device key can be used by a policy (TPM 2.0 Part 2, 12.2.4)"}},
		{"a key named by SHA-384", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 })
		}, notInTPM, []string{"the device key has a name algorithm other than SHA-256 (TPM 2.0 Part 2, 12.2.4)"}},
		{"a key for SHA-384", func(l *liar) {
			l.template(func(p *tpm2.TPMTPublic) {
				p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
					Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA384})}})
			})
		}, notInTPM, []string{"the device key is bound to a scheme other than ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)"}},
		{"a key on no curve", func(l *liar) { l.key.public[len(l.key.public)-1] ^= 1 }, notInTPM,
			[]string{"the key that is certified cannot be read: its point is not on the curve"}},
		{"no key", func(l *liar) { l.key.public = nil }, notInTPM,
			[]string{"the key that is certified cannot be read: the bytes are not one TPM2B_PUBLIC"}},

		{"an attestation key that signs anything", func(l *liar) {
			l.ak.public = claim(l.t, altered(akTemplate(), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }), l.ak.private)
		}, akUnusable, []string{"the attestation key has the attributes 0x00040072, not 0x00050072 (TPM 2.0 Part 2, 8.3)"}},
		{"no attestation key", func(l *liar) { l.ak.public = nil }, akUnusable,
			[]string{"the bytes are not one TPM2B_PUBLIC of the size that it says (TPM 2.0 Part 2, 12.2.5)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLiar(t)
			tt.lie(l)
			_, err := evidence.CheckRequest(l.request())
			if tt.code != "" {
				expectCode(t, err, tt.code)
			}
			expect(t, sentences(err), tt.want)
		})
	}
}

// template alters the device key's public area, and says its new name.
func (l *liar) template(alter func(*tpm2.TPMTPublic)) {
	l.t.Helper()
	l.key.public = claim(l.t, altered(deviceTemplate(), alter), l.key.private)
	l.attest.Attested = certified(name(l.t, l.key.public))
}

func TestCheckAK(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scheme := func(curve tpm2.TPMECCCurve, hash tpm2.TPMIAlgHash) tpm2.TPMUPublicParms {
		return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})}})
	}
	key := newSoftKey(t, akTemplate()).private
	for _, tt := range []struct {
		name  string
		alter func(*tpm2.TPMTPublic)
		key   *ecdsa.PrivateKey
		want  []string
	}{
		{"as made", func(p *tpm2.TPMTPublic) {}, key, nil},
		{"not subject to lockout", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = true }, key, nil},
		{"may move", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }, key,
			[]string{"the attestation key has the attributes 0x00050070, not 0x00050072 (TPM 2.0 Part 2, 8.3)"}},
		{"may change its parent", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false }, key,
			[]string{"the attestation key has the attributes 0x00050062"}},
		{"made outside", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false }, key,
			[]string{"the attestation key has the attributes 0x00050052"}},
		{"not restricted", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }, key,
			[]string{"the attestation key has the attributes 0x00040072"}},
		{"decrypts", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }, key,
			[]string{"the attestation key has the attributes 0x00070072"}},
		{"signs no TPM2_Sign", func(p *tpm2.TPMTPublic) { p.ObjectAttributes.X509Sign = true }, key,
			[]string{"the attestation key has the attributes 0x000d0072"}},
		{"has a policy", func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) }, key,
			[]string{"the attestation key can be used by a policy (TPM 2.0 Part 2, 12.2.4)"}},
		{"SHA-1", func(p *tpm2.TPMTPublic) { p.Parameters = scheme(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA1) }, key,
			[]string{"the attestation key is not bound to ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)"}},
		{"any scheme", func(p *tpm2.TPMTPublic) { p.Parameters = deviceTemplate().Parameters }, key,
			[]string{"the attestation key is not bound to ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)"}},
		{"named by SHA-384", func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 }, key,
			[]string{"the attestation key has a name algorithm other than SHA-256 (TPM 2.0 Part 2, 12.2.4)"}},
		{"P-384", func(p *tpm2.TPMTPublic) { p.Parameters = scheme(tpm2.TPMECCNistP384, tpm2.TPMAlgSHA256) }, p384,
			[]string{"the attestation key is not on P-256 (TPM 2.0 Part 2, 12.2.3.6)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := evidence.CheckAK(claim(t, altered(akTemplate(), tt.alter), tt.key))
			if tt.want != nil {
				expectCode(t, err, "ak-unusable")
			}
			expect(t, sentences(err), tt.want)
		})
	}
	p := akTemplate()
	p.Type = tpm2.TPMAlgRSA
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048})
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: rsaKey.N.Bytes()})
	expect(t, sentences(evidence.CheckAK(tpm2.Marshal(tpm2.New2B(p)))), []string{
		"the attestation key is not on P-256 (TPM 2.0 Part 2, 12.2.3.6)", "the attestation key is not bound to ECDSA with SHA-256 (TPM 2.0 Part 2, 11.2.5.6)"})
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

func altered(p tpm2.TPMTPublic, alter func(*tpm2.TPMTPublic)) tpm2.TPMTPublic {
	alter(&p)
	return p
}

func name(t testing.TB, public []byte) []byte {
	t.Helper()
	o, err := ek.Decode(public)
	if err != nil {
		t.Fatal(err)
	}
	return o.Name
}

func digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func newCSR(t testing.TB, key *ecdsa.PrivateKey, commonName string) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: commonName}, SignatureAlgorithm: x509.ECDSAWithSHA256}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}
