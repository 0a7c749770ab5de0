package linux

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"nameplate/flasher"
)

// fileKey is a key in a file of the board, made by its own openssl. It never
// crosses the console: what does is its public half, and what it signs.
type fileKey struct{ *device }

// makeKey makes the key where there is none: as a temporary file, on the storage
// before it gets its name, and the name on the storage before anybody hears of the
// key. That an earlier attempt did all this cannot be seen, so a key that is found
// is brought to the storage, too. What is said on the way counts only if it led to
// nothing: openssl complains of a configuration that it can do without.
const makeKey = `
f=%[1]s;d=${f%%/*};d=${d:-/};t=${d%%/}/.${f##*/}.nameplate;p "$d"
x(){ rm -f "$t";echo "$o";exit $1;}
[ ! -d "$f" ]||exit %[4]d
if [ ! -e "$f" ];then
[ -d "$d" ]||(umask 022;mkdir -p "$d" 2>&1)||exit %[5]d
rm -f "$t"
o=$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve -out "$t" 2>&1)||x %[6]d
[ -z %[3]s ]||o=$(chown %[3]s "$t" 2>&1)||x %[7]d
o=$(chmod %[2]o "$t" 2>&1)||x %[8]d
S "$t"||x %[9]d
o=$(mv -f "$t" "$f" 2>&1)||x %[8]d
fi
S "$f"&&D "$d"||exit %[9]d
openssl pkey -in "$f" -passin pass: -pubout -outform DER 2>/dev/null|base64`

// showKey prints the public half of a key that is there.
const showKey = `openssl pkey -in %s -passin pass: -pubout -outform DER 2>/dev/null|base64`

// signDigest signs a digest (openssl pkeyutl: what comes in is not hashed again).
const signDigest = `printf %%s %s|base64 -d|openssl pkeyutl -sign -inkey %s -passin pass: 2>/dev/null|base64`

// Request implements flasher.KeyHolder. The request is put together here and
// signed on the board, so its name is what it shall be, whatever openssl.cnf the
// board has.
func (k fileKey) Request(ctx context.Context, commonName string) (flasher.KeyRequest, error) {
	csr, err := k.request(ctx, commonName)
	if err != nil {
		return flasher.KeyRequest{}, fmt.Errorf("requesting a certificate: %w", err)
	}
	return flasher.KeyRequest{CSR: csr}, nil
}

func (k fileKey) request(ctx context.Context, commonName string) ([]byte, error) {
	f := k.options.Key.File
	if f.Mode == 0 {
		f.Mode = 0o600
	}
	a, err := k.shell.run(ctx, syncLimit, fmt.Sprintf(makeKey, quoted(f.Path), f.Mode, quoted(f.Owner),
		statusFolder, statusNoFolder, statusNoKey, statusOwner, statusRename, statusSync))
	if err != nil {
		return nil, err
	}
	if a.status != 0 {
		return nil, storageRefused(a.status, a.out)
	}
	public, err := publicKey(a.out)
	if err != nil {
		return nil, keyUnusable(f.Path, err)
	}
	signer := &boardSigner{fileKey: k, ctx: ctx, public: public}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: commonName}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, signer)
}

// prove lets the key sign a challenge.
func (k fileKey) prove(ctx context.Context) (flasher.Proof, error) {
	f := k.options.Key.File
	a, err := k.shell.run(ctx, runLimit, fmt.Sprintf(showKey, quoted(f.Path)))
	if err != nil {
		return flasher.Proof{}, err
	}
	public, err := publicKey(a.out)
	if err != nil {
		return flasher.Proof{}, keyUnusable(f.Path, err)
	}
	p := flasher.Proof{Challenge: make([]byte, 32)}
	_, _ = rand.Read(p.Challenge) // never fails
	if p.Public, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return flasher.Proof{}, keyUnusable(f.Path, err)
	}
	digest := sha256.Sum256(p.Challenge)
	if p.Signature, err = k.sign(ctx, public, digest[:]); err != nil {
		return flasher.Proof{}, err
	}
	return p, nil
}

// sign lets the key sign a digest, and makes sure that it was the key that it shows.
func (k fileKey) sign(ctx context.Context, public *ecdsa.PublicKey, digest []byte) ([]byte, error) {
	a, err := k.shell.run(ctx, runLimit, fmt.Sprintf(signDigest, base64.StdEncoding.EncodeToString(digest), quoted(k.options.Key.File.Path)))
	if err != nil {
		return nil, err
	}
	signature, err := unbase64(bytes.TrimSpace(a.out))
	switch {
	case err != nil:
	case len(signature) == 0:
		err = errors.New("it does not sign")
	case !ecdsa.VerifyASN1(public, digest, signature):
		err = errors.New("its signature is not its own")
	}
	if err != nil {
		return nil, keyUnusable(k.options.Key.File.Path, err)
	}
	return signature, nil
}

// publicKey reads what showKey prints.
func publicKey(out []byte) (*ecdsa.PublicKey, error) {
	der, err := unbase64(bytes.TrimSpace(out))
	if err != nil {
		return nil, err
	}
	if len(der) == 0 {
		return nil, errors.New("openssl cannot read it, or it asks for a password")
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading its public half: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("it is not on the curve P-256")
	}
	return ec, nil
}

// boardSigner signs on the board for one request.
type boardSigner struct {
	fileKey
	ctx    context.Context
	public *ecdsa.PublicKey
}

func (s *boardSigner) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer; the randomness is the board's.
func (s *boardSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(s.ctx, s.public, digest)
}

// tpmKey is a key in the board's TPM.
type tpmKey struct{ *device }

// Request implements flasher.KeyHolder.
func (k tpmKey) Request(ctx context.Context, commonName string) (flasher.KeyRequest, error) {
	return k.tpm.Request(ctx, k.options.Key.Handle, commonName)
}

func (k tpmKey) prove(ctx context.Context) (flasher.Proof, error) {
	return k.tpm.Prove(ctx, k.options.Key.Handle)
}
