package bus

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestConnectErrorText(t *testing.T) {
	t.Parallel()
	plain := Config{URLs: []string{"nats://s3cr3t@a:1", "nats://u:s3cr3t@b:2"}, ConnectTimeout: time.Second}
	bare := Config{URLs: []string{"nats://a:1"}}
	for name, tt := range map[string]struct {
		cfg  Config
		err  error
		want string
	}{
		"nobody":         {plain, nats.ErrNoServers, "nats://a:1, nats://b:2: is the server running? Start one with: rpcdo dev"},
		"refused":        {plain, nats.ErrAuthorization, "are no good: check Config.URLs"},
		"no credentials": {bare, nats.ErrAuthorization, "the config has none"},
		"expired":        {plain, nats.ErrAuthExpired, "are no good"},
		"revoked":        {plain, nats.ErrAuthRevoked, "are no good"},
		"no nkeys":       {plain, nats.ErrNkeysNotSupported, "are no good"},
		"certificate":    {bare, errors.Join(nats.ErrTLS, errors.New("x509: unknown")), "TLS with nats://a:1 failed"},
		"alert":          {bare, errors.New("remote error: tls: certificate required"), "TLS with nats://a:1 failed"},
		"no TLS":         {bare, nats.ErrSecureConnWanted, "does not offer TLS"},
		"not NATS":       {bare, nats.ErrNoInfoReceived, "not a NATS server"},
		"name":           {bare, &net.DNSError{Err: "no such host", Name: "a"}, "check the host's name"},
		"silence":        {plain, os.ErrDeadlineExceeded, "within 1s"},
		"other":          {bare, errors.New("oops"), "connecting to nats://a:1: oops"},
		"in process":     {Config{InProcess: noServer{}}, net.ErrClosed, "the server in this process"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := connectError(t.Context(), &tt.cfg, tt.err)
			if !strings.HasPrefix(err.Error(), "bus: ") || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, tt.err) {
				t.Errorf("got %v, want … %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}

func TestConnectErrorOfContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("shutting down")
	cancel(why)
	if err := connectError(ctx, &Config{}, net.ErrClosed); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
