// Package authority signs device certificates with a customer's issuing CA, and
// makes those CAs.
//
// The signing itself is done by an implementation of smallstep's CAS interface;
// today that is its SoftCAS, over any crypto.Signer. Whatever the service returns
// is checked again, field by field, before a caller sees it.
package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"

	"nameplate/ca"
)

// Config names the CAs an Authority signs with.
type Config struct {
	Root    *x509.Certificate
	Issuers map[string]Pair // by customer
}

// Authority issues device certificates. It holds the unlocked keys, writes nothing
// and remembers nothing: the same request twice gives two certificates. It is safe
// for concurrent use.
type Authority struct {
	issuers map[string]issuer
}

type issuer struct {
	cert    *x509.Certificate
	chain   [][]byte
	service apiv1.CertificateAuthorityService
}

// Open checks that root and issuing CAs fit one another and their keys, and makes
// them ready to sign.
func Open(c Config) (*Authority, error) {
	if c.Root == nil {
		return nil, errors.New("opening the authority: there is no root certificate")
	}
	if err := ca.CheckRoot(c.Root); err != nil {
		return nil, unfit("root certificate", err)
	}
	a := &Authority{issuers: make(map[string]issuer, len(c.Issuers))}
	for customer, pair := range c.Issuers {
		if pair.Certificate == nil || pair.Signer == nil {
			return nil, fmt.Errorf("opening the authority: the issuing CA of %s has no certificate or no key", customer)
		}
		if err := ca.CheckIssuer(pair.Certificate, c.Root); err != nil {
			return nil, unfit("issuing CA of "+customer, err)
		}
		public, ok := pair.Signer.Public().(*ecdsa.PublicKey)
		if !ok || !public.Equal(pair.Certificate.PublicKey) {
			return nil, unfit("issuing CA of "+customer, errors.New("the key is not that of the certificate"))
		}
		service, err := softcas.New(context.Background(), apiv1.Options{
			CertificateChain: []*x509.Certificate{pair.Certificate, c.Root},
			Signer:           pair.Signer,
		})
		if err != nil {
			return nil, fmt.Errorf("opening the issuing CA of %s: %w", customer, err)
		}
		a.issuers[customer] = issuer{pair.Certificate, [][]byte{pair.Certificate.Raw, c.Root.Raw}, service}
	}
	return a, nil
}

func unfit(what string, err error) error {
	return &ca.Refusal{Code: "ca-unfit", Sentence: fmt.Sprintf("The %s cannot be used.", what),
		Next: "Restore the CA's certificates and keys from one backup.", Err: err}
}
