package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// connectError says why Connect failed and what to do. The causes that nats.go
// reports quote addresses, never credentials.
func connectError(ctx context.Context, cfg *Config, err error) error {
	where := cfg.where()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("bus: connecting to %s: %w", where, context.Cause(ctx))
	case isAuthError(err) && cfg.hasCredentials():
		return fmt.Errorf("bus: the credentials for %s are no good: check %s: %w", where, cfg.credentialFields(), err)
	case isAuthError(err):
		return fmt.Errorf("bus: %s wants credentials and the config has none: "+
			"set CredentialsFile, NKeySeedFile, User and Password, or Token: %w", where, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("bus: %s does not offer TLS: use nats:// without Config.TLS, or have the server offer it: %w", where, err)
	case isTLSError(err):
		return fmt.Errorf("bus: TLS with %s failed: check the authorities, the client certificate and the server's name in Config.TLS: %w", where, err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("bus: nothing listens at %s: is the server running? Start one with: rpcdo dev: %w", where, err)
	case errors.Is(err, nats.ErrNoInfoReceived):
		return fmt.Errorf("bus: what listens at %s is not a NATS server: check the address: %w", where, err)
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("bus: connecting to %s: check the host's name: %w", where, err)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("bus: no answer from %s within %v: check the address, the port and firewalls: %w",
			where, cfg.ConnectTimeout, err)
	}
	return fmt.Errorf("bus: connecting to %s: %w", where, err)
}

// isAuthError looks at the text, since nats.go has values for some of the
// server's refusals only.
func isAuthError(err error) bool {
	text := strings.ToLower(err.Error())
	return slices.ContainsFunc([]string{
		"authorization violation", "authentication expired", "authentication revoked",
		"authentication timeout", "account not found", "nonce", "nkeys not supported",
	}, func(s string) bool { return strings.Contains(text, s) })
}

// isTLSError looks at the text too: the alert of a server that refuses the
// client's certificate has no type.
func isTLSError(err error) bool {
	return errors.Is(err, nats.ErrTLS) || errors.Is(err, nats.ErrSecureConnRequired) ||
		strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "x509: ")
}
