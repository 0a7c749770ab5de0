package batch

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
)

// SignAgain makes the manifest of dir fit what its files hold by now: a station
// that signs what Write would not have written.
func SignAgain(dir string, key ed25519.PrivateKey) error {
	path := filepath.Join(dir, ManifestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m, err := openManifest(text, key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	for i, f := range m.Files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		m.Files[i].Size, m.Files[i].SHA256 = int64(len(b)), digest(b)
	}
	if text, err = signManifest(m, key); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
