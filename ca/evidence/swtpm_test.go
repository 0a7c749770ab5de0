package evidence_test

// Real TPMs, as far as a machine has them: swtpm, driven by go-tpm, and by
// tpm2-tools as a third party.

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"nameplate/ca/ek"
	"nameplate/ca/evidence"
	"nameplate/fixtures/tpm"
)

var update = flag.Bool("update", false, "write testdata/golden.json anew")

// needTool skips without the tool, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("NAMEPLATE_TOOLS") == "1" {
			t.Fatalf("%s is not installed, and NAMEPLATE_TOOLS=1 demands it", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// chip is a running TPM. Its methods fail the test.
type chip struct {
	*tpm.TPM
	t   *testing.T
	ctx context.Context
}

// Send sends a command again when the TPM, still testing itself, asks for it
// (TPM_RC_RETRY, Part 2, 6.6.3).
func (c chip) Send(command []byte) ([]byte, error) {
	for {
		rsp, err := c.TPM.Send(c.ctx, command)
		if err == nil && len(rsp) >= 10 && tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) == tpm2.TPMRCRetry {
			continue
		}
		return rsp, err
	}
}

func newChip(t *testing.T) chip {
	t.Helper()
	needTool(t, "swtpm", "swtpm_setup")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	vendor, err := tpm.NewCA(filepath.Join(t.TempDir(), "ca"), "Example Chips")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "chip")
	if err := tpm.Make(ctx, tpm.Config{Dir: dir, CA: vendor}); err != nil {
		t.Fatal(err)
	}
	running, err := tpm.Start(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { running.Close() })
	return chip{running, t, ctx}
}

// object is a loaded key.
type object struct {
	tpm2.NamedHandle
	public []byte // TPM2B_PUBLIC
	flush  bool
}

func (c chip) at(handle tpm2.TPMHandle) object {
	c.t.Helper()
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return object{tpm2.NamedHandle{Handle: handle, Name: r.Name}, tpm2.Marshal(r.OutPublic), false}
}

func (c chip) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) object {
	c.t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return object{tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, tpm2.Marshal(r.OutPublic), true}
}

func (c chip) flush(o object) {
	c.t.Helper()
	if !o.flush {
		return
	}
	if _, err := (tpm2.FlushContext{FlushHandle: o.Handle}).Execute(c); err != nil {
		c.t.Fatal(err)
	}
}

// high is the high-range variant of a template (EK Credential Profile B.4).
func high(template tpm2.TPMTPublic, policy string, unique tpm2.TPMUPublicID) tpm2.TPMTPublic {
	template.ObjectAttributes.UserWithAuth = true
	template.AuthPolicy = tpm2.TPM2BDigest{Buffer: unhex(policy)}
	template.Unique = unique
	return template
}

const (
	policyA256 = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
	policyB256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyC256 = "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"
	policyA384 = "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"
	policyC384 = "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"
)

// endorsement is a kind of endorsement key, how to get one, and what opens it.
type endorsement struct {
	name   string
	load   func(chip) object
	hash   tpm2.TPMIAlgHash
	policy []string // what PolicyOR takes after PolicySecret; none: nothing more
}

var endorsements = []endorsement{
	{"RSA-2048", func(c chip) object { return c.at(0x81010001) }, tpm2.TPMAlgSHA256, nil},
	{"P-256", func(c chip) object { return c.primary(tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate) }, tpm2.TPMAlgSHA256, nil},
	{"P-384", func(c chip) object { return c.at(0x81010016) }, tpm2.TPMAlgSHA384, []string{policyA384, policyC384}},
	{"RSA-2048, high range", func(c chip) object {
		return c.primary(tpm2.TPMRHEndorsement, high(tpm2.RSAEKTemplate, policyB256, tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})))
	}, tpm2.TPMAlgSHA256, []string{policyA256, policyC256}},
	{"P-256, high range", func(c chip) object {
		return c.primary(tpm2.TPMRHEndorsement, high(tpm2.ECCEKTemplate, policyB256, tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})))
	}, tpm2.TPMAlgSHA256, []string{policyA256, policyC256}},
}

// activate is TPM2_ActivateCredential.
func (c chip) activate(e endorsement, ek, ak object, ch evidence.Challenge) ([]byte, error) {
	session := tpm2.Policy(e.hash, 16, func(t transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		if _, err := (tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: handle, NonceTPM: nonce}).Execute(t); err != nil {
			return err
		}
		if e.policy == nil {
			return nil
		}
		var either tpm2.TPMLDigest
		for _, p := range e.policy {
			either.Digests = append(either.Digests, tpm2.TPM2BDigest{Buffer: unhex(p)})
		}
		_, err := tpm2.PolicyOr{PolicySession: handle, PHashList: either}.Execute(t)
		return err
	})
	r, err := tpm2.ActivateCredential{
		ActivateHandle: ak.NamedHandle,
		KeyHandle:      tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: session},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: ch.Object[2:]},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: ch.Secret[2:]},
	}.Execute(c)
	if err != nil {
		return nil, err
	}
	return r.CertInfo.Buffer, nil
}

// signer is a key in the TPM, as crypto.Signer.
type signer struct {
	chip
	key    object
	public *ecdsa.PublicKey
}

func (s signer) Public() crypto.PublicKey { return s.public }

func (s signer) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	r, err := tpm2.Sign{
		KeyHandle:  s.key.NamedHandle,
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(s)
	if err != nil {
		return nil, err
	}
	e, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)})
}

// certify makes a device key in the TPM, asks for a certificate with it, and lets
// the attestation key certify it.
func (c chip) certify(ak object, commonName string) evidence.Request {
	c.t.Helper()
	key := c.primary(tpm2.TPMRHOwner, deviceTemplate())
	defer c.flush(key)
	decoded, err := ek.Decode(key.public)
	if err != nil {
		c.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}, SignatureAlgorithm: x509.ECDSAWithSHA256},
		signer{c, key, decoded.Key.(*ecdsa.PublicKey)})
	if err != nil {
		c.t.Fatal(err)
	}
	sum := digest(csr)
	r, err := tpm2.Certify{ObjectHandle: key.NamedHandle, SignHandle: ak.NamedHandle, QualifyingData: tpm2.TPM2BData{Buffer: sum}}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return evidence.Request{CSR: csr, CommonName: commonName, InTPM: true, AK: ak.public, Public: key.public,
		Attest: r.CertifyInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}
}

// A real TPM opens our challenges with each kind of endorsement key, and what its
// attestation key certifies passes. With -update it is kept as golden.json.
func TestRealTPM(t *testing.T) {
	c := newChip(t)
	var kept []golden
	for _, e := range endorsements {
		t.Run(e.name, func(t *testing.T) {
			c := c
			c.t = t
			endorsed := e.load(c)
			defer c.flush(endorsed)
			ak := c.primary(tpm2.TPMRHOwner, akTemplate())
			defer c.flush(ak)
			nonce := make([]byte, evidence.NonceSize)
			rand.Read(nonce)
			challenge, want, err := evidence.NewChallenge(endorsed.public, ak.public, nonce)
			if err != nil {
				t.Fatal(sentences(err))
			}
			answer, err := c.activate(e, endorsed, ak, challenge)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(answer, want) {
				t.Errorf("the TPM found %x, not %x", answer, want)
			}
			if err := evidence.CheckActivation(endorsed.public, ak.public, nonce, answer); err != nil {
				t.Error(sentences(err))
			}
			request := c.certify(ak, "sn-0001")
			if _, err := evidence.CheckRequest(request); err != nil {
				t.Error(sentences(err))
			}
			kept = append(kept, golden{Name: e.name, EK: endorsed.public, Nonce: nonce, Object: challenge.Object, Secret: challenge.Secret, Answer: answer, Request: request})
		})
	}
	if *update && !t.Failed() {
		b, err := json.MarshalIndent(kept, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A TPM without the attestation key that a challenge was made for cannot open it.
func TestRealTPMNeedsTheAttestationKey(t *testing.T) {
	c := newChip(t)
	e := endorsements[0]
	endorsed := e.load(c)
	foreign := newLiar(t).ak.public
	nonce := bytes.Repeat([]byte{1}, evidence.NonceSize)
	challenge, _, err := evidence.NewChallenge(endorsed.public, foreign, nonce)
	if err != nil {
		t.Fatal(sentences(err))
	}
	own := c.primary(tpm2.TPMRHOwner, akTemplate())
	answer, err := c.activate(e, endorsed, own, challenge)
	if err == nil {
		t.Errorf("the TPM opened a challenge for another key: %x", answer)
	}
	if err := evidence.CheckActivation(endorsed.public, foreign, nonce, answer); err == nil {
		t.Error("no answer was taken for one")
	}
}

// tpm2-tools make endorsement and attestation key and open our challenge.
func TestToolsOpenTheChallenge(t *testing.T) {
	needTool(t, "tpm2_createek", "tpm2_createak", "tpm2_activatecredential")
	chip := newChip(t)
	for _, kind := range []string{"rsa", "ecc"} {
		t.Run(kind, func(t *testing.T) {
			c := chip
			c.t = t
			dir := t.TempDir()
			in := func(name string) string { return filepath.Join(dir, name) }
			tool := func(name string, args ...string) {
				t.Helper()
				if out, err := c.Tool(c.ctx, name, args...); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			tool("tpm2_createek", "-c", in("ek.ctx"), "-G", kind, "-u", in("ek.pub"))
			tool("tpm2_flushcontext", "-t")
			tool("tpm2_createprimary", "-C", "o", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null", "-c", in("ak.ctx"),
				"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign")
			tool("tpm2_readpublic", "-c", in("ak.ctx"), "-o", in("ak.pub"))
			tool("tpm2_flushcontext", "-t")
			nonce := make([]byte, evidence.NonceSize)
			rand.Read(nonce)
			ekPublic, akPublic := readFile(t, in("ek.pub")), readFile(t, in("ak.pub"))
			challenge, want, err := evidence.NewChallenge(ekPublic, akPublic, nonce)
			if err != nil {
				t.Fatal(sentences(err))
			}
			// The file of tpm2_makecredential: magic, version, the two structures.
			blob := binary.BigEndian.AppendUint32(nil, 0xbadcc0de)
			blob = binary.BigEndian.AppendUint32(blob, 1)
			blob = append(append(blob, challenge.Object...), challenge.Secret...)
			if err := os.WriteFile(in("challenge"), blob, 0o600); err != nil {
				t.Fatal(err)
			}
			tool("tpm2_startauthsession", "--policy-session", "-S", in("session.ctx"))
			tool("tpm2_policysecret", "-S", in("session.ctx"), "-c", "e")
			tool("tpm2_activatecredential", "-c", in("ak.ctx"), "-C", in("ek.ctx"), "-i", in("challenge"), "-o", in("answer"), "-P", "session:"+in("session.ctx"))
			answer := readFile(t, in("answer"))
			if !bytes.Equal(answer, want) {
				t.Errorf("the tool found %x, not %x", answer, want)
			}
			if err := evidence.CheckActivation(ekPublic, akPublic, nonce, answer); err != nil {
				t.Error(sentences(err))
			}
			tool("tpm2_flushcontext", "-t")
			tool("tpm2_flushcontext", "-l")
			tool("tpm2_flushcontext", "-s")
		})
	}
}

// openssl makes key and request; its requests pass, and ours are read by it.
func TestOpenSSLRequest(t *testing.T) {
	needTool(t, "openssl")
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", args[0], err, out)
		}
	}
	run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
	run("req", "-new", "-sha256", "-key", "key.pem", "-subj", "/CN=sn-0001", "-outform", "der", "-out", "csr.der")
	run("pkey", "-in", "key.pem", "-pubout", "-outform", "der", "-out", "spki.der")
	challenge := bytes.Repeat([]byte{7}, 32)
	if err := os.WriteFile(filepath.Join(dir, "challenge"), challenge, 0o600); err != nil {
		t.Fatal(err)
	}
	run("dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "challenge")
	spki := readFile(t, filepath.Join(dir, "spki.der"))
	got, err := evidence.CheckRequest(evidence.Request{CSR: readFile(t, filepath.Join(dir, "csr.der")), CommonName: "sn-0001"})
	if err != nil || got != hex.EncodeToString(digest(spki)) {
		t.Errorf("%s, %v; want the digest of %x", got, err, spki)
	}
	if err := evidence.CheckPossession(challenge, spki, readFile(t, filepath.Join(dir, "signature"))); err != nil {
		t.Error(sentences(err))
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil {
		panic(err)
	}
	return b
}
