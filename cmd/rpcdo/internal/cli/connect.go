package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
)

// connection is the flags that say which bus to use, and how.
type connection struct {
	credentials
	tls    tlsFiles
	server string
	named  string // where server is from, for messages: "--server" or "NATS_URL"

	made *bus.Config // once config has made it
}

const flagServer = "--server"

func (c *connection) register(cmd *cobra.Command) {
	c.registerAs(cmd, "`URL` of the bus, nats://[user:password@]host:port; several separated by commas (NATS_URL; default "+bus.DefaultURL+")")
}

func (c *connection) registerAs(cmd *cobra.Command, server string) {
	cmd.Flags().StringVar(&c.server, "server", "", server)
	c.credentials.register(cmd)
	c.tls.register(cmd,
		"PEM `FILE` with the authorities that the bus's certificate may be from (default the system's)",
		"PEM `FILE` with a certificate to show to the bus")
}

// config turns the flags, and what the environment says where they do not, into
// the config of a connection, or says what is wrong with them.
func (c *connection) config(a *app, log *zerolog.Logger) (bus.Config, error) {
	if c.made != nil {
		return *c.made, nil
	}
	c.named = flagServer
	if c.server == "" {
		if c.server = a.env.Getenv("NATS_URL"); c.server != "" {
			c.named = "NATS_URL"
		} else {
			c.server = bus.DefaultURL
		}
	}
	cfg := bus.Config{Name: "rpcdo", Logger: log}
	for server := range strings.SplitSeq(c.server, ",") {
		cfg.URLs = append(cfg.URLs, strings.TrimSpace(server))
	}
	if err := checkPorts(c.named, cfg.URLs); err != nil {
		return cfg, err
	}
	if err := c.fill(a.env.Getenv, c.server, c.named); err != nil {
		return cfg, err
	}
	if err := c.check(); err != nil {
		return cfg, err
	}
	c.apply(&cfg)
	var err error
	if cfg.TLS, err = c.tls.client(); err != nil {
		return cfg, err
	}
	c.made = &cfg
	return cfg, nil
}

// checkPorts refuses ports that can't be. What else is wrong with a URL the bus
// package says.
func checkPorts(named string, urls []string) error {
	for _, raw := range urls {
		if !strings.Contains(raw, "://") {
			raw = "nats://" + raw
		}
		u, err := url.Parse(raw)
		if err != nil || u.Port() == "" {
			continue
		}
		if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
			return usagef("%s: port %.20s: want 1 to 65535", named, u.Port())
		}
	}
	return nil
}

// open connects to the bus. A bus that is not there is an error at once, or
// when patience is over.
func (c *connection) open(ctx context.Context, a *app, log *zerolog.Logger, patience time.Duration) (*bus.Bus, error) {
	cfg, err := c.config(a, log)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		b, err := bus.Connect(ctx, cfg)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil || lasting(err) || !time.Now().Before(deadline) {
			return nil, c.explain(err)
		}
		if log != nil {
			log.Info().Err(err).Msg("waiting for the bus")
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(200*time.Millisecond, time.Until(deadline))):
		}
	}
}

// lasting reports whether waiting does not help. A connection that was closed
// may be that of a bus that stops and comes back.
func lasting(err error) bool {
	return isConfigError(err) || isRefusal(err) || isTLSError(err) && !isCutOff(err)
}

// isConfigError reports whether err is about the config and not about the bus:
// the flags are wrong then.
func isConfigError(err error) bool {
	return strings.HasPrefix(err.Error(), "bus: Config.") || strings.HasPrefix(err.Error(), "natsd: Config.")
}

// isRefusal reports whether the bus is there and does not know the credentials,
// or wants some.
func isRefusal(err error) bool {
	text := err.Error()
	return errors.Is(err, nats.ErrAuthorization) ||
		strings.HasPrefix(text, "bus: the credentials for ") || strings.Contains(text, " wants credentials and the config has none")
}

// isTLSError reports whether the bus is there and TLS with it failed.
func isTLSError(err error) bool {
	return strings.HasPrefix(err.Error(), "bus: TLS with ") || errors.Is(err, nats.ErrSecureConnWanted)
}

// explain says what to do about an error of bus.Connect in terms of flags.
func (c *connection) explain(err error) error {
	switch {
	case isConfigError(err):
		text := c.inFlags(err.Error())
		if strings.Contains(c.server, "@") && strings.Contains(text, "not a URL") {
			text += "; a password in it has %2C for a comma, %2F for a slash, %40 for an @"
		}
		return usagef("%s", text)
	case isRefusal(err):
		if refused := c.refused(c.server, c.named); refused != "" {
			return failf(rpc.Unauthenticated, "%s refused %s: %w", c.where(), refused, cause(err))
		}
		return failf(rpc.Unauthenticated, "%s wants credentials: give --creds FILE, --nkey FILE, --user NAME with NATS_PASSWORD set, "+
			"or set NATS_TOKEN", c.where())
	case isTLSError(err):
		return c.explainTLS(err)
	case errors.Is(err, context.Canceled):
		return failure{rpc.Canceled, err}
	default:
		return failure{rpc.Unavailable, err}
	}
}

// explainTLS says what to do when TLS failed.
func (c *connection) explainTLS(err error) error {
	var advice string
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case errors.Is(err, nats.ErrSecureConnWanted):
		return failf(rpc.Unavailable, "%s does not offer TLS: leave out --tls-ca, --tls-cert and --tls-key, or use nats:// in place of tls://", c.where())
	case unknown && c.tls.ca == "":
		advice = "give the authority of its certificate with --tls-ca FILE"
	case unknown:
		advice = "the authority of its certificate is not in --tls-ca " + c.tls.ca
	case refusesCertificate(err) && c.tls.cert == "":
		return failf(rpc.Unauthenticated, "%s seems to want a certificate of its clients: give --tls-cert FILE and --tls-key FILE: %w", c.where(), cause(err))
	case refusesCertificate(err):
		return failf(rpc.Unauthenticated, "%s seems to refuse the certificate in --tls-cert %s: %w", c.where(), c.tls.cert, cause(err))
	default:
		advice = "check the host's name, --tls-ca, --tls-cert and --tls-key"
	}
	text := cause(err).Error()
	if i := strings.LastIndex(text, "x509: "); i >= 0 {
		text = text[i:]
	}
	return failf(rpc.Unavailable, "TLS with %s failed: %s: %s", c.where(), advice, text)
}

// isCutOff reports whether the bus closed the connection after the handshake.
// It says why, mostly that it wants another certificate, but that is lost when
// the connection is closed first.
func isCutOff(err error) bool {
	return strings.Contains(err.Error(), "closed by remote after TLS handshake")
}

// refusesCertificate reports whether the bus does not go on with TLS because of
// the client's certificate, or for want of one.
func refusesCertificate(err error) bool {
	text := err.Error()
	return isCutOff(err) || strings.Contains(text, "remote error: tls: ") && strings.Contains(text, "certificate")
}

// cause returns the innermost error that has a text of its own: what others
// say around it is said in other words here.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// inFlags writes a message about the servers' URLs, the one field of the config
// that was not checked before, with the name of the flag.
func (c *connection) inFlags(text string) string {
	text = strings.TrimPrefix(text, "bus: ")
	if rest, ok := strings.CutPrefix(text, "Config.URLs["); ok {
		index, rest, _ := strings.Cut(rest, "]")
		if i, err := strconv.Atoi(index); err == nil && strings.Contains(c.server, ",") {
			return fmt.Sprintf("%s, server %d%s", c.named, i+1, rest)
		}
		return c.named + rest
	}
	return strings.ReplaceAll(text, "Config.URLs", c.named)
}

// where names the servers without the credentials in their URLs.
func (c *connection) where() string {
	var names []string
	for raw := range strings.SplitSeq(c.server, ",") {
		names = append(names, withoutUser(strings.TrimSpace(raw)))
	}
	return strings.Join(names, ", ")
}

// withoutUser returns a URL without the credentials in it. A token has the
// place of a user's name, so that goes too.
func withoutUser(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.User != nil {
		u.User = nil
		return u.String()
	}
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		return raw[i+1:]
	}
	return raw
}
