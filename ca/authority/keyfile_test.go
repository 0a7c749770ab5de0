package authority_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"testing"

	"go.step.sm/crypto/pemutil"

	"nameplate/ca"
	"nameplate/ca/authority"
)

func passphrase(t testing.TB, s string) ca.Passphrase {
	t.Helper()
	p, err := ca.NewPassphrase([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeyFileRoundTrip(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t, elliptic.P256()), ed} {
		file, err := authority.EncodeKey(key, passphrase(t, "correct"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := authority.DecodeKey(file, passphrase(t, "correct"))
		if err != nil {
			t.Fatal(err)
		}
		if !got.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
			t.Errorf("another %T came back", got)
		}
		_, err = authority.DecodeKey(file, passphrase(t, "guess"))
		refused(t, err, "passphrase-wrong", "The passphrase does not open the key file.")
		if errors.Unwrap(err) != nil {
			t.Errorf("the refusal tells more: %v", errors.Unwrap(err))
		}
	}
}

func TestEncodeKeyRefuses(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{rsaKey, newKey(t, elliptic.P384())} {
		if _, err := authority.EncodeKey(key, passphrase(t, "correct")); err == nil {
			t.Errorf("a %T was taken", key)
		}
	}
	if _, err := authority.EncodeKey(newKey(t, elliptic.P256()), ca.Passphrase{}); err == nil {
		t.Error("a key was written without a passphrase")
	}
}

func TestDecodeKeyRefusesOtherFiles(t *testing.T) {
	key := newKey(t, elliptic.P256())
	good, err := authority.EncodeKey(key, passphrase(t, "correct"))
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := pemutil.Serialize(key, pemutil.WithPassword([]byte("correct")))
	if err != nil {
		t.Fatal(err)
	}
	clearKey, err := pemutil.Serialize(key, pemutil.WithPKCS8(true))
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{
		"empty":             nil,
		"noise":             []byte("hello"),
		"in the clear":      pem.EncodeToMemory(clearKey),
		"legacy encryption": pem.EncodeToMemory(legacy),
		"two keys":          append(bytes.Clone(good), good...),
		"huge":              append(bytes.Clone(good), make([]byte, 5000)...),
		"not ASN.1":         pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("hello")}),
		"short IV":          edit(t, good, func(f *keyFile) { f.Scheme.Parameters.Cipher.IV = []byte{1, 2, 3} }),
		"part of a block":   edit(t, good, func(f *keyFile) { f.Data = f.Data[1:] }),
		"no data":           edit(t, good, func(f *keyFile) { f.Data = nil }),
		"endless":           edit(t, good, func(f *keyFile) { f.Scheme.Parameters.KDF.Parameters.Iterations = 1 << 31 }),
		"weak":              edit(t, good, func(f *keyFile) { f.Scheme.Parameters.KDF.Parameters.Iterations = 2048 }),
		"negative":          edit(t, good, func(f *keyFile) { f.Scheme.Parameters.KDF.Parameters.Iterations = -1 }),
		"another cipher": edit(t, good, func(f *keyFile) {
			f.Scheme.Parameters.Cipher.Algorithm = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := authority.DecodeKey(file, passphrase(t, "correct"))
			refused(t, err, "key-file", "The key file is not an encrypted private key of the station.")
		})
	}
}

func TestDecodeKeyOpensButFindsSomethingElse(t *testing.T) {
	// A wrong passphrase leaves good padding once in 256 times: noise is not a key.
	noise, err := pemutil.EncryptPKCS8PrivateKey(rand.Reader, []byte("not a key"), []byte("correct"), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	_, err = authority.DecodeKey(pem.EncodeToMemory(noise), passphrase(t, "correct"))
	refused(t, err, "passphrase-wrong", "The passphrase does not open the key file.")

	other, err := pemutil.Serialize(newKey(t, elliptic.P384()), pemutil.WithPKCS8(true), pemutil.WithPassword([]byte("correct")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = authority.DecodeKey(pem.EncodeToMemory(other), passphrase(t, "correct"))
	refused(t, err, "key-file", "The key file holds a key of another kind.")
}

func TestCertificateFile(t *testing.T) {
	root, _ := cas(t)
	file := authority.EncodeCertificate(root.Certificate)
	got, err := authority.DecodeCertificate(file)
	if err != nil || !got.Equal(root.Certificate) {
		t.Errorf("DecodeCertificate: %v, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"empty":       nil,
		"two":         append(bytes.Clone(file), file...),
		"another":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: root.Certificate.Raw}),
		"not a cert":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hello")}),
		"cut in half": file[:len(file)/2],
	} {
		if _, err := authority.DecodeCertificate(bad); err == nil {
			t.Errorf("%s: taken for a certificate", name)
		}
	}
}

func FuzzDecodeKey(f *testing.F) {
	good, err := authority.EncodeKey(newKey(f, elliptic.P256()), passphrase(f, "correct"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(edit(f, good, func(k *keyFile) { k.Data = nil }))
	f.Fuzz(func(t *testing.T, file []byte) {
		key, err := authority.DecodeKey(file, passphrase(t, "guess"))
		var no *ca.Refusal
		if err != nil && !errors.As(err, &no) {
			t.Errorf("not a refusal: %v", err)
		}
		if _, ok := key.(*ecdsa.PrivateKey); err == nil && !ok {
			t.Errorf("a %T came out", key)
		}
	})
}

// keyFile is RFC 5958 EncryptedPrivateKeyInfo with RFC 8018 parameters.
type keyFile struct {
	Scheme struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters struct {
			KDF struct {
				Algorithm  asn1.ObjectIdentifier
				Parameters struct {
					Salt       []byte
					Iterations int
					PRF        asn1.RawValue
				}
			}
			Cipher struct {
				Algorithm asn1.ObjectIdentifier
				IV        []byte
			}
		}
	}
	Data []byte
}

func edit(t testing.TB, file []byte, alter func(*keyFile)) []byte {
	t.Helper()
	block, _ := pem.Decode(file)
	var f keyFile
	if _, err := asn1.Unmarshal(block.Bytes, &f); err != nil {
		t.Fatal(err)
	}
	alter(&f)
	der, err := asn1.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
}
