package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// tlsFiles is the flags that say how TLS is spoken.
type tlsFiles struct {
	ca, cert, key string
}

func (f *tlsFiles) register(cmd *cobra.Command, ca, cert string) {
	cmd.Flags().StringVar(&f.ca, "tls-ca", "", ca)
	cmd.Flags().StringVar(&f.cert, "tls-cert", "", cert)
	cmd.Flags().StringVar(&f.key, "tls-key", "", "PEM `FILE` with the private key of --tls-cert, without a passphrase")
}

// given reports whether TLS is asked for.
func (f *tlsFiles) given() bool { return f.ca != "" || f.cert != "" || f.key != "" }

// client returns the config of a client; nil when no flag is given.
func (f *tlsFiles) client() (*tls.Config, error) {
	if !f.given() {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.RootCAs, err = f.authorities(); err != nil {
		return nil, err
	}
	cfg.Certificates, err = f.certificates()
	return cfg, err
}

// server returns the config of a server, which asks clients for certificates
// when it is given authorities; nil when no flag is given.
func (f *tlsFiles) server() (*tls.Config, error) {
	if !f.given() {
		return nil, nil
	}
	if f.cert == "" && f.key == "" {
		return nil, usagef("--tls-ca is for the certificates of clients: the server needs its own too, --tls-cert and --tls-key")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.ClientCAs, err = f.authorities(); err != nil {
		return nil, err
	}
	if cfg.ClientCAs != nil {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	cfg.Certificates, err = f.certificates()
	return cfg, err
}

// authorities reads --tls-ca; nil without it.
func (f *tlsFiles) authorities() (*x509.CertPool, error) {
	if f.ca == "" {
		return nil, nil
	}
	data, err := readFlagFile("--tls-ca", f.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, usagef("--tls-ca %s: no certificate in it, which begins with -----BEGIN CERTIFICATE-----", f.ca)
	}
	return pool, nil
}

// certificates reads --tls-cert and --tls-key; none without them.
func (f *tlsFiles) certificates() ([]tls.Certificate, error) {
	switch {
	case f.cert == "" && f.key == "":
		return nil, nil
	case f.cert == "" || f.key == "":
		return nil, usagef("--tls-cert and --tls-key go together: give both")
	}
	cert, err := readFlagFile("--tls-cert", f.cert)
	if err != nil {
		return nil, err
	}
	key, err := readFlagFile("--tls-key", f.key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err == nil:
		return []tls.Certificate{pair}, nil
	case !hasBlock(cert, "CERTIFICATE"):
		return nil, usagef("--tls-cert %s: no certificate in it, which begins with -----BEGIN CERTIFICATE-----", f.cert)
	case hasBlock(key, "ENCRYPTED PRIVATE KEY"):
		return nil, usagef("--tls-key %s: the key has a passphrase: want one without", f.key)
	case !hasBlock(key, "PRIVATE KEY"):
		return nil, usagef("--tls-key %s: no private key in it, which begins with -----BEGIN PRIVATE KEY-----", f.key)
	default:
		return nil, usagef("--tls-cert %s and --tls-key %s do not make a pair: %s", f.cert, f.key, strings.TrimPrefix(err.Error(), "tls: "))
	}
}

// hasBlock reports whether there is a PEM block whose type ends so.
func hasBlock(data []byte, ending string) bool {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, ending) {
			return true
		}
	}
	return false
}

// readFlagFile reads the file that a flag names.
func readFlagFile(flag, name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err // the path is in the message already
	}
	if err != nil {
		return nil, usagef("%s %s can't be read: %w", flag, name, err)
	}
	return data, nil
}
