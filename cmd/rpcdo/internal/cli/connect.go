package cli

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
)

// connection is the flags that say which bus to use.
type connection struct {
	server string
	creds  string
}

func (c *connection) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.server, "server", "",
		"the bus: nats://[user:password@]host:port, several separated by commas (NATS_URL; default "+bus.DefaultURL+")")
	cmd.Flags().StringVar(&c.creds, "creds", "", "credentials file (NATS_CREDS)")
}

// fill takes from the environment what the flags do not say.
func (c *connection) fill(a *app) {
	if c.server == "" {
		c.server = a.env.Getenv("NATS_URL")
	}
	if c.server == "" {
		c.server = bus.DefaultURL
	}
	if c.creds == "" {
		c.creds = a.env.Getenv("NATS_CREDS")
	}
}

// open connects to the bus. A bus that is not there is an error at once, or
// when patience is over.
func (c *connection) open(ctx context.Context, a *app, log *zerolog.Logger, patience time.Duration) (*bus.Bus, error) {
	c.fill(a)
	cfg := bus.Config{Name: "rpcdo", CredentialsFile: c.creds, Logger: log}
	for server := range strings.SplitSeq(c.server, ",") {
		cfg.URLs = append(cfg.URLs, strings.TrimSpace(server))
	}
	deadline := time.Now().Add(patience)
	for {
		b, err := bus.Connect(ctx, cfg)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil || isConfigError(err) || isRefusal(err) || !time.Now().Before(deadline) {
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

// isConfigError reports whether err is about the config and not about the bus:
// the flags are wrong then.
func isConfigError(err error) bool {
	return strings.HasPrefix(err.Error(), "bus: Config.") || strings.HasPrefix(err.Error(), "natsd: Config.")
}

func isRefusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

// explain says what to do about an error of bus.Connect in terms of flags.
func (c *connection) explain(err error) error {
	switch {
	case isConfigError(err):
		text := strings.NewReplacer("Config.URLs[0]", "--server", "Config.URLs", "--server", "Config.CredentialsFile", "--creds").Replace(err.Error())
		return usagef("%s", strings.TrimPrefix(text, "bus: "))
	case isRefusal(err) && c.creds != "":
		return failf(rpc.Unauthenticated, "%s refused the credentials in %s: %w", c.where(), c.creds, err)
	case isRefusal(err) && strings.Contains(c.server, "@"):
		return failf(rpc.Unauthenticated, "%s refused the credentials in its URL: check user and password: %w", c.where(), err)
	case isRefusal(err):
		return failf(rpc.Unauthenticated, "%s wants credentials: give --creds FILE, or a user and password as in "+
			"--server nats://user:password@host:port (or NATS_CREDS, NATS_URL)", c.where())
	case errors.Is(err, context.Canceled):
		return failure{rpc.Canceled, err}
	default:
		return failure{rpc.Unavailable, err}
	}
}

// where names the servers without the credentials in their URLs.
func (c *connection) where() string {
	var names []string
	for raw := range strings.SplitSeq(c.server, ",") {
		raw = strings.TrimSpace(raw)
		if u, err := url.Parse(raw); err == nil && u.User != nil {
			u.User = nil
			raw = u.String()
		} else if i := strings.LastIndexByte(raw, '@'); i >= 0 {
			raw = raw[i+1:]
		}
		names = append(names, raw)
	}
	return strings.Join(names, ", ")
}
