package ek

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nameplate/ca"
)

// Roots are the TPM vendors whom an operator trusts: their roots, and the
// intermediate CAs between those and the TPMs. The nil Roots trusts nobody.
type Roots struct {
	byDigest      map[string]*x509.Certificate // the roots, by the SHA-256 of their DER
	anchors       *x509.CertPool               // the same
	intermediates *x509.CertPool
}

func newRoots() *Roots {
	return &Roots{byDigest: map[string]*x509.Certificate{}, anchors: x509.NewCertPool(), intermediates: x509.NewCertPool()}
}

func (r *Roots) options(at time.Time) x509.VerifyOptions {
	if r == nil {
		r = newRoots()
	}
	// An EK certificate's extended key usage is the TCG's own; checkUse looks at it.
	return x509.VerifyOptions{Roots: r.anchors, Intermediates: r.intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
}

// Fingerprints are the SHA-256 of the roots, lower-case hex, sorted.
func (r *Roots) Fingerprints() []string {
	if r == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(r.byDigest))
}

// Only is those of the roots that an order was opened with. A root that is no
// longer there is a Refusal.
func (r *Roots) Only(fingerprints []string) (*Roots, error) {
	only := newRoots()
	if r != nil {
		only.intermediates = r.intermediates
	}
	for _, f := range fingerprints {
		var c *x509.Certificate
		if r != nil {
			c = r.byDigest[f]
		}
		if c == nil {
			return nil, &ca.Refusal{Code: "ek-roots-changed", Sentence: fmt.Sprintf("The order trusts the EK root %.16s…, which is no longer in the folder of EK roots.", f),
				Next: "Put that root's file back, or close the order and open a new one.", Err: fmt.Errorf("SHA-256 %s", f)}
		}
		only.add(c)
	}
	return only, nil
}

func (r *Roots) add(root *x509.Certificate) {
	r.byDigest[ca.Digest(root.Raw)] = root
	r.anchors.AddCert(root)
}

// maxRootFile is many times what all vendors' certificates take.
const maxRootFile = 4 << 20

// LoadRoots reads a folder of PEM files. A self-signed certificate in them is a
// root that is trusted; the others are intermediates. Files whose names begin with
// a dot are left out. Anything else that is not a CA's certificate, and a root
// that has expired, is a Refusal that names the file.
func LoadRoots(dir string) (*Roots, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, &ca.Refusal{Code: "ek-roots-unreadable", Sentence: fmt.Sprintf("The folder of EK roots %s cannot be read.", dir),
			Next: "Correct its path in the station's settings, or who may read it.", Err: err}
	}
	roots := newRoots()
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := roots.load(path, time.Now()); err != nil {
			return nil, err
		}
	}
	if len(roots.byDigest) == 0 {
		return nil, &ca.Refusal{Code: "ek-roots-missing", Sentence: fmt.Sprintf("There is no root certificate in the folder of EK roots %s.", dir),
			Next: "Put the TPM vendors' root and intermediate certificates there, as PEM files."}
	}
	return roots, nil
}

func (r *Roots) load(path string, now time.Time) error {
	unreadable := func(err error) error {
		return &ca.Refusal{Code: "ek-roots-unreadable", Sentence: fmt.Sprintf("The file %s among the EK roots holds something else than certificates in PEM.", path),
			Next: "Remove it, or convert it with 'openssl x509 -inform der -in FILE -out FILE.pem'.", Err: err}
	}
	info, err := os.Stat(path)
	if err != nil {
		return unreadable(err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxRootFile {
		return unreadable(fmt.Errorf("mode %s, %d bytes", info.Mode(), info.Size()))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return unreadable(err)
	}
	// pem.Decode passes over what it cannot read.
	begun := bytes.Count(data, []byte("-----BEGIN "))
	if begun == 0 {
		return unreadable(errors.New("it has no PEM block"))
	}
	for n := range begun {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return unreadable(fmt.Errorf("block %d of %d is damaged", n+1, begun))
		}
		if block.Type != "CERTIFICATE" {
			return unreadable(fmt.Errorf("block %d is a %s", n+1, block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return unreadable(fmt.Errorf("block %d: %w", n+1, err))
		}
		if err := r.take(path, c, now); err != nil {
			return err
		}
	}
	return nil
}

// take sorts a certificate in, or refuses it.
func (r *Roots) take(path string, c *x509.Certificate, now time.Time) error {
	no := func(code, sentence, next string, err error) error {
		return &ca.Refusal{Code: code, Sentence: fmt.Sprintf("The file %s among the EK roots %s: %.80q.", path, sentence, c.Subject.String()), Next: next, Err: err}
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return no("ek-root-no-ca", "holds a certificate that is not a CA's", "Remove it: only roots and intermediates belong there.",
			errors.New("its basic constraints or key usage say so (RFC 5280 4.2.1.9)"))
	}
	if err := strong(c); err != nil {
		return no("ek-root-weak", "holds a CA whose key is too weak", "Remove it, and ask the vendor for its present certificates.", err)
	}
	own := bytes.Equal(c.RawIssuer, c.RawSubject)
	if own {
		err := c.CheckSignatureFrom(c)
		if insecure := x509.InsecureAlgorithmError(0); errors.As(err, &insecure) {
			return no("ek-root-weak", "holds a root that is signed with a broken digest", "Remove it, and ask the vendor for its present root.", err)
		}
		own = err == nil
	}
	if !own {
		r.intermediates.AddCert(c)
		return nil
	}
	if now.After(c.NotAfter) {
		return no("ek-root-expired", fmt.Sprintf("holds a root that expired on %s", c.NotAfter.Format(time.DateOnly)), "Remove it, and ask the vendor for its present root. If the date is wrong, check the station's clock.", nil)
	}
	r.add(c)
	return nil
}
