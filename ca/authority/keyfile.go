package authority

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"go.step.sm/crypto/pemutil"

	"nameplate/ca"
)

const (
	keyBlock  = "ENCRYPTED PRIVATE KEY" // RFC 7468 section 11
	certBlock = "CERTIFICATE"           // RFC 7468 section 5

	// maxKeyFile is ten times an encrypted P-256 key; a larger file is something else.
	maxKeyFile = 4 << 10

	// The iterations of PBKDF2 we accept. pemutil writes 600 000, about 0.1 s. Far
	// fewer would not slow a guesser down; far more would hold up the start.
	minIterations, maxIterations = 100_000, 10_000_000
)

// EncodeKey encrypts a P-256 or Ed25519 private key under the passphrase: PKCS#8,
// PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018), as PEM. It takes about
// 0.1 s, on purpose. openssl opens the result.
func EncodeKey(key crypto.Signer, passphrase ca.Passphrase) ([]byte, error) {
	if len(passphrase.Bytes()) == 0 {
		return nil, errors.New("encrypting a key: the passphrase is empty") // pemutil would write the key in the clear
	}
	if err := supported(key); err != nil {
		return nil, fmt.Errorf("encrypting a key: %w", err)
	}
	// Without WithPKCS8 pemutil writes the legacy form, whose key is one MD5.
	block, err := pemutil.Serialize(key, pemutil.WithPKCS8(true), pemutil.WithPassword(passphrase.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("encrypting a key: %w", err)
	}
	if block.Type != keyBlock {
		return nil, fmt.Errorf("encrypting a key: the library wrote %q", block.Type)
	}
	return pem.EncodeToMemory(block), nil
}

// DecodeKey opens what EncodeKey wrote, or openssl with the same scheme. A key in
// the clear or with weak stretching is refused (code key-file), and so is one that
// the passphrase does not open (code passphrase-wrong; the format has no checksum,
// so damaged contents look the same).
func DecodeKey(keyPEM []byte, passphrase ca.Passphrase) (crypto.Signer, error) {
	der, err := encryptedKey(keyPEM)
	if err != nil {
		return nil, &ca.Refusal{Code: "key-file", Sentence: "The key file is not an encrypted private key of the station.",
			Next: "Restore the file from the backup.", Err: err}
	}
	plain, err := pemutil.DecryptPKCS8PrivateKey(der, passphrase.Bytes())
	defer clear(plain)
	var key any
	if err == nil {
		key, err = x509.ParsePKCS8PrivateKey(plain)
	}
	if err != nil {
		// The cause would tell how far a guess came, and it may quote what a
		// wrong key made of the file: leave it out.
		return nil, &ca.Refusal{Code: "passphrase-wrong", Sentence: "The passphrase does not open the key file.",
			Next: "Enter it again. If you are sure of it, the file is damaged: restore it from the backup."}
	}
	if err := supported(key); err != nil {
		return nil, &ca.Refusal{Code: "key-file", Sentence: "The key file holds a key of another kind.",
			Next: "Restore the file from the backup.", Err: err}
	}
	return key.(crypto.Signer), nil
}

// EncodeCertificate is the certificate as PEM.
func EncodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert.Raw})
}

// DecodeCertificate reads a file that holds exactly one certificate as PEM.
func DecodeCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(certPEM)
	if block == nil || block.Type != certBlock || len(rest) > 0 {
		return nil, errors.New("reading a certificate: the file is not one PEM block of a certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	return cert, nil
}

func supported(key any) error {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("a %T that is neither P-256 nor Ed25519", key)
}

var (
	oidPBES2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMAC256   = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// encryptedKey returns the DER of an EncryptedPrivateKeyInfo (RFC 5958 section 3)
// after looking at its parameters, because pemutil looks at none of them: it
// panics on an IV or a ciphertext of the wrong length and counts to any number.
func encryptedKey(keyPEM []byte) ([]byte, error) {
	if len(keyPEM) > maxKeyFile {
		return nil, fmt.Errorf("%d bytes are too many", len(keyPEM))
	}
	block, rest := pem.Decode(keyPEM)
	switch {
	case block == nil:
		return nil, errors.New("there is no PEM block")
	case block.Type != keyBlock:
		return nil, fmt.Errorf("the PEM block is %q, not %q", block.Type, keyBlock)
	case len(rest) > 0:
		return nil, errors.New("something follows the PEM block")
	}
	var info struct {
		Scheme struct {
			Algorithm  asn1.ObjectIdentifier
			Parameters struct {
				KDF struct {
					Algorithm  asn1.ObjectIdentifier
					Parameters struct {
						Salt       []byte
						Iterations int
						PRF        struct {
							Algorithm asn1.ObjectIdentifier
							Null      asn1.RawValue
						} `asn1:"optional"`
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
	if rest, err := asn1.Unmarshal(block.Bytes, &info); err != nil {
		return nil, fmt.Errorf("decoding PBES2 parameters: %w", err)
	} else if len(rest) > 0 {
		return nil, errors.New("something follows the key")
	}
	kdf, cipher := info.Scheme.Parameters.KDF, info.Scheme.Parameters.Cipher
	n := kdf.Parameters.Iterations
	switch {
	case !info.Scheme.Algorithm.Equal(oidPBES2), !kdf.Algorithm.Equal(oidPBKDF2),
		!kdf.Parameters.PRF.Algorithm.Equal(oidHMAC256), !cipher.Algorithm.Equal(oidAES256CBC):
		return nil, errors.New("the encryption is not PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC")
	case n < minIterations || n > maxIterations:
		return nil, fmt.Errorf("%d iterations of PBKDF2 are not within %d and %d", n, minIterations, maxIterations)
	case len(cipher.IV) != aes.BlockSize, len(info.Data) == 0, len(info.Data)%aes.BlockSize != 0:
		return nil, errors.New("the IV or the encrypted key has an impossible length")
	}
	return block.Bytes, nil
}
