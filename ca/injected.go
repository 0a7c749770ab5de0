package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
)

// InjectedKey makes the key of a device that cannot make its own: P-256, with a
// CSR (DER) for commonName and the private key as PKCS#8 PEM ("PRIVATE KEY").
// The PEM is the only copy that leaves this function: the caller keeps it in
// memory until it was verified on the device, then clears it.
func InjectedKey(commonName string) (csr, keyPEM []byte, err error) {
	if err := CheckCommonName(commonName); err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a device key: %w", err)
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:            pkix.Name{CommonName: commonName},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("requesting a certificate for a device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a device key: %w", err)
	}
	defer clear(der)
	return csr, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
