package batch

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// manifestType stands in the protected header, so that nothing else the station
// key signs can pass for a manifest (RFC 7515, section 4.1.9).
const manifestType = "nameplate-batch+jws"

// maxManifest bounds manifest.jws: some kilobytes, and more with many orders.
const maxManifest = 4 << 20

// signManifest returns the content of manifest.jws: JWS compact serialization,
// EdDSA with Ed25519 (RFC 7515, RFC 8037).
func signManifest(m Manifest, key ed25519.PrivateKey) ([]byte, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding manifest: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key},
		(&jose.SignerOptions{}).WithType(manifestType))
	if err != nil {
		return nil, fmt.Errorf("preparing to sign manifest: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return nil, fmt.Errorf("signing manifest: %w", err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		return nil, fmt.Errorf("writing manifest: %w", err)
	}
	return []byte(text), nil
}

// openManifest checks the signature first and reads what it covers second. The
// algorithm is fixed; a key or key name in the header has no say.
func openManifest(text []byte, key ed25519.PublicKey) (Manifest, error) {
	if len(text) > maxManifest {
		return Manifest{}, fmt.Errorf("manifest has more than %d bytes", maxManifest)
	}
	// Base64 readers forgive line ends and spare bits, which the signature does
	// not cover: without this, some changed bytes would go unnoticed.
	for part := range strings.SplitSeq(string(text), ".") {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
			return Manifest{}, fmt.Errorf("manifest is not a JWS in compact form")
		}
	}
	jws, err := jose.ParseSignedCompact(string(text), []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return Manifest{}, fmt.Errorf("reading manifest: %w", err)
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return Manifest{}, fmt.Errorf("checking signature of manifest: %w", err)
	}
	if jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != manifestType {
		return Manifest{}, fmt.Errorf("the station signed this, but not as a manifest")
	}
	return parseManifest(payload)
}

// parseManifest reads a payload and holds it to the format's own rules.
func parseManifest(payload []byte) (Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("reading manifest: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Manifest{}, fmt.Errorf("something follows the manifest")
	}
	if m.Format != Format {
		return Manifest{}, fmt.Errorf("format %q is not %q: use a verifier of that format", m.Format, Format)
	}
	if len(m.Files) != len(listed) {
		return Manifest{}, fmt.Errorf("manifest lists %d files, not %d", len(m.Files), len(listed))
	}
	for i, f := range m.Files {
		if f.Name != listed[i] {
			return Manifest{}, fmt.Errorf("manifest lists %q where %q belongs", f.Name, listed[i])
		}
		if f.Size < 0 || f.Rows < 0 || !isDigest(f.SHA256) {
			return Manifest{}, fmt.Errorf("manifest describes %s by a size, count or digest that cannot be", f.Name)
		}
	}
	sum := 0
	for i, o := range m.Orders {
		switch {
		case slices.ContainsFunc(m.Orders[:i], func(p Order) bool { return p.ID == o.ID }):
			return Manifest{}, fmt.Errorf("manifest lists order %s twice", o.ID)
		case o.Units < 0 || o.Units > o.Quota:
			return Manifest{}, fmt.Errorf("order %s was for %d units and the batch holds %d of it", o.ID, o.Quota, o.Units)
		}
		sum += o.Units
	}
	if m.Units < 0 || sum != m.Units {
		return Manifest{}, fmt.Errorf("manifest counts %d units and its orders have %d", m.Units, sum)
	}
	return m, nil
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}
