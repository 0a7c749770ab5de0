package batch

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// checker holds rows to the manifest and to one another. It keeps 16 bytes of a
// digest for each name that must be unique.
type checker struct {
	v      *verifier
	seen   map[[16]byte]struct{}
	orders map[string]*Order // by ID; Units counts the rows met so far
}

func newChecker(v *verifier) *checker {
	c := &checker{v: v, seen: make(map[[16]byte]struct{}), orders: make(map[string]*Order)}
	for _, o := range v.report.Manifest.Orders {
		c.orders[o.ID] = &Order{ID: o.ID, Product: o.Product}
	}
	return c
}

// row checks a row by itself and against those before it.
func (c *checker) row(r Row) {
	if o := c.orders[r.Order]; o != nil {
		o.Units++
		c.unique(r, "serial", o.Product+"\x00"+r.Serial)
	} else {
		c.v.find(BadRow, JSONLFile, r.RegistrationID, "order %q is not in the manifest", r.Order)
	}
	// The service compares registration IDs without case.
	c.unique(r, "registration ID", strings.ToLower(r.RegistrationID))
	c.unique(r, "unit", r.Unit)
	for _, h := range r.Hardware {
		c.unique(r, "hardware ID "+h.Kind, h.Value)
	}
	if r.TPM != nil {
		c.unique(r, "endorsement key", string(r.TPM.EndorsementKey))
		if err := r.checkEK(); err != nil {
			c.v.find(BadRow, JSONLFile, r.RegistrationID, "%s", sentence(err))
		}
	}
}

// chain checks a unit's leaf and the CA that stands behind it.
func (c *checker) chain(r Row, leaf, issuing *x509.Certificate) {
	if err := c.v.cas.checkLeaf(leaf, r); err != nil {
		c.v.find(BadChain, ChainsFile, r.RegistrationID, "%s", sentence(err))
		return
	}
	if known := c.v.cas.issuerOf(leaf); known == nil || !bytes.Equal(known.Raw, issuing.Raw) {
		c.v.find(BadChain, ChainsFile, r.RegistrationID, "the certificate after the leaf is not its issuing CA in %s", CAFile)
	}
	c.unique(r, "certificate serial", string(leaf.RawIssuer)+"\x00"+r.Certificate.Serial)
	c.unique(r, "public key", string(leaf.RawSubjectPublicKeyInfo))
}

// ekCertificate checks the certificate of a unit's endorsement key.
func (c *checker) ekCertificate(r Row, cert *x509.Certificate) {
	switch {
	case digest(cert.Raw) != r.TPM.Certificate:
		c.v.find(BadChain, EKFile, r.RegistrationID, "the row names certificate %s, but the file holds %s", r.TPM.Certificate, digest(cert.Raw))
	case !isFor(cert, r.TPM.EndorsementKey):
		c.v.find(BadChain, EKFile, r.RegistrationID, "the certificate is for another key than the unit's endorsement key")
	}
}

func (c *checker) unique(r Row, what, name string) {
	sum := sha256.Sum256([]byte(what + "\x00" + name))
	key := [16]byte(sum[:])
	if _, twice := c.seen[key]; twice {
		c.v.find(BadRow, JSONLFile, r.RegistrationID, "its %s belongs to another unit of the batch too", what)
	}
	c.seen[key] = struct{}{}
}

// finish compares the counts.
func (c *checker) finish() {
	m := c.v.report.Manifest
	if c.v.report.Units != m.Units {
		c.v.find(BadRow, JSONLFile, "", "there are %d units, the manifest counts %d", c.v.report.Units, m.Units)
	}
	for _, o := range m.Orders {
		if met := c.orders[o.ID].Units; met != o.Units {
			c.v.find(BadRow, JSONLFile, "", "there are %d units of order %s, the manifest counts %d", met, o.ID, o.Units)
		}
	}
}

// Checkpoint is the ledger's statement: so many events, this root.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   []byte // SHA-256 Merkle root, RFC 6962 §2.1
}

// maxCheckpoint bounds checkpoint.txt: three lines and a few signatures.
const maxCheckpoint = 64 << 10

// parseCheckpoint reads the signed text of a C2SP tlog-checkpoint: origin, size,
// base64 root; extension lines are allowed.
func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" || lines[len(lines)-1] != "" {
		return Checkpoint{}, fmt.Errorf("the checkpoint is not three lines: origin, size, root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("the checkpoint's size %q is not a number", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return Checkpoint{}, fmt.Errorf("the checkpoint's root %q is not a SHA-256", lines[2])
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}
