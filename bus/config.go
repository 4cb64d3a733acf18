package bus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Defaults of Config.
const (
	DefaultURL            = "nats://127.0.0.1:4222"
	DefaultInboxPrefix    = "_INBOX"
	DefaultConnectTimeout = 5 * time.Second
	DefaultDrainTimeout   = 30 * time.Second
)

// maxName keeps reply subjects, which hold the caller's name, short.
const maxName = 64

// Config says how to connect. Its zero value connects to a server on this
// machine.
type Config struct {
	// URLs are the servers to choose from, one each: nats://, tls://, ws:// or
	// wss://, or just host:port. Web sockets and the others do not mix. The
	// servers of the same cluster are learnt from the one that answers.
	// Defaults to nats://127.0.0.1:4222.
	URLs []string

	// InProcess connects to a server in this process without a socket, in
	// place of URLs. A *natsd.Server is one. Defaults to none.
	InProcess nats.InProcessConnProvider

	// Name is what the program calls itself in requests, logs and the server's
	// connection list. It is not authenticated. All but A-Z a-z 0-9 _ - is cut
	// out of it, and what is beyond 64 bytes. Defaults to the program's base
	// name.
	Name string

	// Credentials: one kind at most, and none when a URL has its own.
	// CredentialsFile holds a JWT and a seed, NKeySeedFile a seed; both are
	// read again whenever the connection is made again. Defaults to none.
	CredentialsFile string
	NKeySeedFile    string
	User            string
	Password        string
	Token           string

	// TLS is for servers that want a client certificate or have one of a
	// private authority. With it set, servers without TLS are refused. Defaults
	// to the system's authorities for tls:// and wss:// and for servers that
	// require TLS, and to no TLS for others.
	TLS *tls.Config

	// InboxPrefix is what reply subjects begin with: one or more tokens of
	// A-Z a-z 0-9 _ - joined by dots. Services answer only to prefixes they
	// know. Defaults to "_INBOX".
	InboxPrefix string

	// Replicas is how many servers keep each stream and bucket that is made
	// through this bus: 1 or 3. Defaults to 1.
	Replicas int

	// ConnectTimeout bounds one try to reach one server. Defaults to 5 seconds.
	ConnectTimeout time.Duration

	// DrainTimeout is how long Close waits for subscriptions to handle what
	// they have received. Defaults to 30 seconds.
	DrainTimeout time.Duration

	// Codecs are known to this process beside JSON and CBOR, by their content
	// types. Defaults to none.
	Codecs []Codec

	// Logger gets the events of the connection: lost, restored, errors that
	// nobody waits for. Defaults to none.
	Logger *zerolog.Logger
}

// withDefaults returns the config with every default filled in, or what is
// wrong with it.
func (c Config) withDefaults() (Config, error) {
	for _, check := range []func(*Config) error{
		(*Config).checkServers, (*Config).checkCredentials, (*Config).checkNames, (*Config).checkNumbers,
	} {
		if err := check(&c); err != nil {
			return Config{}, err
		}
	}
	if c.Logger == nil {
		nop := zerolog.Nop()
		c.Logger = &nop
	}
	return c, nil
}

func (c *Config) checkServers() error {
	if c.InProcess != nil {
		switch {
		case len(c.URLs) > 0:
			return errors.New("bus: Config.URLs and Config.InProcess are both set: give one of them")
		case c.TLS != nil:
			return errors.New("bus: Config.TLS and Config.InProcess are both set: there is no socket to encrypt")
		}
		return nil
	}
	if len(c.URLs) == 0 {
		c.URLs = []string{DefaultURL}
		return nil
	}
	var webSockets int
	urls := make([]string, len(c.URLs))
	for i, raw := range c.URLs {
		u, err := parseURL(raw)
		if err != nil {
			return fmt.Errorf("bus: Config.URLs[%d]: %w", i, err)
		}
		if strings.HasPrefix(u.Scheme, "ws") {
			webSockets++
		}
		urls[i] = u.String()
	}
	if webSockets != 0 && webSockets != len(urls) {
		return errors.New("bus: Config.URLs: ws:// and wss:// do not mix with nats:// and tls://")
	}
	c.URLs = urls
	return nil
}

// parseURL reads a server's URL. Its errors do not quote the URL, which may
// hold a password.
func parseURL(raw string) (*url.URL, error) {
	raw = strings.TrimSpace(raw)
	switch {
	case raw == "":
		return nil, errors.New("it is empty")
	case strings.Contains(raw, ","):
		return nil, errors.New("it has a comma: give each server an entry of its own")
	case !strings.Contains(raw, "://"):
		raw = "nats://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL: want nats://host:port")
	}
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
	default:
		return nil, fmt.Errorf("unknown scheme %q: want nats, tls, ws or wss", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("no host: want nats://host:port")
	}
	if u.Scheme == "nats" || u.Scheme == "tls" {
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, errors.New("a path or query means nothing here: want nats://host:port")
		}
		u.Path = ""
	}
	return u, nil
}

func (c *Config) checkCredentials() error {
	switch fields := c.credentialFields(); {
	case strings.Contains(fields, " and "):
		return fmt.Errorf("bus: %s hold credentials: give one kind", fields)
	case c.User == "" && c.Password != "":
		return errors.New("bus: Config.Password is set without Config.User")
	}
	if err := readable(c.CredentialsFile); err != nil {
		return fmt.Errorf("bus: Config.CredentialsFile: %w", err)
	}
	if err := readable(c.NKeySeedFile); err != nil {
		return fmt.Errorf("bus: Config.NKeySeedFile: %w", err)
	}
	return nil
}

// credentialFields names the fields that hold credentials.
func (c *Config) credentialFields() string {
	var fields []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Config.URLs", slices.ContainsFunc(c.URLs, hasUserinfo)},
		{"Config.CredentialsFile", c.CredentialsFile != ""},
		{"Config.NKeySeedFile", c.NKeySeedFile != ""},
		{"Config.User", c.User != "" || c.Password != ""},
		{"Config.Token", c.Token != ""},
	} {
		if f.set {
			fields = append(fields, f.name)
		}
	}
	return strings.Join(fields, " and ")
}

func (c *Config) hasCredentials() bool { return c.credentialFields() != "" }

func readable(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return f.Close()
}

func hasUserinfo(rawURL string) bool {
	u, err := url.Parse(rawURL)
	return err == nil && u.User != nil
}

func (c *Config) checkNames() error {
	if c.Name == "" {
		c.Name = strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
		if cutName(c.Name) == "" {
			c.Name = "unnamed"
		}
	}
	name := cutName(c.Name)
	if name == "" {
		return fmt.Errorf("bus: Config.Name: nothing of %.80q is left: only A-Z a-z 0-9 _ - are kept", c.Name)
	}
	c.Name = name

	if c.InboxPrefix == "" {
		c.InboxPrefix = DefaultInboxPrefix
	}
	for token := range strings.SplitSeq(c.InboxPrefix, ".") {
		if token == "" || strings.IndexFunc(token, notNameRune) >= 0 {
			return fmt.Errorf("bus: Config.InboxPrefix: %.80q: want tokens of A-Z a-z 0-9 _ - joined by dots", c.InboxPrefix)
		}
	}
	return nil
}

func cutName(name string) string {
	name = strings.Map(func(r rune) rune {
		if notNameRune(r) {
			return -1
		}
		return r
	}, name)
	return name[:min(len(name), maxName)]
}

func notNameRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '-':
		return false
	}
	return true
}

func (c *Config) checkNumbers() error {
	switch c.Replicas {
	case 0:
		c.Replicas = 1
	case 1, 3:
	default:
		return fmt.Errorf("bus: Config.Replicas: %d: want 1 or 3", c.Replicas)
	}
	if c.ConnectTimeout < 0 {
		return fmt.Errorf("bus: Config.ConnectTimeout: %v is negative", c.ConnectTimeout)
	}
	if c.DrainTimeout < 0 {
		return fmt.Errorf("bus: Config.DrainTimeout: %v is negative", c.DrainTimeout)
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = DefaultConnectTimeout
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	return nil
}

// where names the servers for people, without the credentials that their URLs
// may hold.
func (c *Config) where() string {
	if c.InProcess != nil {
		return "the server in this process"
	}
	names := make([]string, len(c.URLs))
	for i, raw := range c.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			continue // not reached: the URLs were checked
		}
		names[i] = u.Scheme + "://" + u.Host
	}
	return strings.Join(names, ", ")
}

// credentials returns the option for the kind of credentials that is set.
func (c *Config) credentials() (nats.Option, error) {
	switch {
	case c.CredentialsFile != "":
		return nats.UserCredentials(c.CredentialsFile), nil
	case c.NKeySeedFile != "":
		opt, err := nats.NkeyOptionFromSeed(c.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("bus: Config.NKeySeedFile: %s: no user seed in it: %w", c.NKeySeedFile, err)
		}
		return opt, nil
	case c.User != "":
		return nats.UserInfo(c.User, c.Password), nil
	case c.Token != "":
		return nats.Token(c.Token), nil
	default:
		return func(*nats.Options) error { return nil }, nil
	}
}
