package natsd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
)

// Defaults of Config.
const (
	DefaultHost        = "127.0.0.1"
	DefaultPort        = 4222
	DefaultClusterPort = 6222
	DefaultMaxPayload  = 1 << 20
)

// FreePort as a port has the system choose a free one.
const FreePort = -1

// Config says how to run a server. Its zero value runs one alone, on this
// machine only, whose data are gone at Shutdown.
type Config struct {
	// Host and Port are where clients connect. A host that other machines can
	// reach needs credentials, see AllowInsecure. FreePort has the system
	// choose a port. Default to 127.0.0.1 and 4222.
	Host string
	Port int

	// AllowInsecure allows a host that other machines can reach without
	// credentials. Defaults to false: Start refuses.
	AllowInsecure bool

	// StoreDir is JetStream's directory. It is made when it does not exist, and
	// belongs to one server at a time. Defaults to a temporary directory that
	// is removed at Shutdown.
	StoreDir string

	// NoJetStream runs a server that stores nothing: no streams, no buckets.
	// Defaults to false.
	NoJetStream bool

	// Sync says when stored data reach the disk. Defaults to SyncDefault.
	Sync Sync

	// MaxPayload is the size in bytes of the largest message, headers
	// included. Defaults to 1 MiB.
	MaxPayload int32

	// ServerName is the server's name in logs and in the cluster. There it
	// must be set and stay the same across restarts: it is the identity of the
	// member. Defaults to a random one for a server that is alone.
	ServerName string

	// Cluster makes the server a member of a cluster. Defaults to none.
	Cluster *Cluster

	// TLS is required of clients when set; clients in this process do without.
	// With ClientAuth at RequireAndVerifyClientCert it is a credential too.
	// Defaults to none.
	TLS *tls.Config

	// Users, by name and password, and NKeys, public keys that begin with U,
	// are who may connect; or whoever knows Token. A password or token may be
	// a bcrypt hash. Default to nobody being asked.
	Users []User
	NKeys []string
	Token string

	// Logger gets what the server has to say: its notices at debug level, its
	// debug output at trace level. Defaults to none.
	Logger *zerolog.Logger
}

// User is one who may connect.
type User struct {
	Name     string
	Password string
}

// Cluster is what a server needs to know of its cluster.
type Cluster struct {
	// Name is the cluster's name, the same for all its members. Required.
	Name string

	// Host and Port are where the other members connect. Default to the
	// server's own host and 6222.
	Host string
	Port int

	// Routes are the members of the cluster, host:port or nats://host:port.
	// With JetStream at least one is needed and all should be listed, this one
	// included: their number is the quorum's base. Defaults to none.
	Routes []string

	// User and Password are what members show each other, TLS how they speak.
	// A host that other machines can reach needs either the password or TLS
	// with client certificates, see AllowInsecure. Default to none.
	User     string
	Password string
	TLS      *tls.Config
}

// Sync says when the data that JetStream has acknowledged are on disk.
type Sync int

const (
	// SyncDefault is SyncAlways for a server that is alone and SyncInterval
	// for a member of a cluster, where other machines have the data as well.
	SyncDefault Sync = iota

	// SyncAlways: before the acknowledgement. A power failure loses nothing.
	SyncAlways

	// SyncInterval: within two minutes of it. A crash of the process loses
	// nothing, a power failure up to two minutes.
	SyncInterval
)

// String returns "default", "always" or "interval".
func (s Sync) String() string {
	switch s {
	case SyncDefault:
		return "default"
	case SyncAlways:
		return "always"
	case SyncInterval:
		return "interval"
	default:
		return fmt.Sprintf("sync(%d)", int(s))
	}
}

// ParseSync reads what String writes.
func ParseSync(text string) (Sync, error) {
	for s := SyncDefault; s <= SyncInterval; s++ {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, fmt.Errorf("natsd: sync %q: want always, interval or default", text)
}

// withDefaults returns the config with its defaults filled in, except for
// StoreDir, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Host == "" {
		c.Host = DefaultHost
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	if c.Sync == SyncDefault {
		c.Sync = SyncAlways
		if c.Cluster != nil {
			c.Sync = SyncInterval
		}
	}
	if c.Logger == nil {
		nop := zerolog.Nop()
		c.Logger = &nop
	}
	if c.Cluster != nil {
		cluster := *c.Cluster
		if cluster.Host == "" {
			cluster.Host = c.Host
		}
		if cluster.Port == 0 {
			cluster.Port = DefaultClusterPort
		}
		c.Cluster = &cluster
	}
	return c, c.check()
}

func (c *Config) check() error {
	if err := checkPort("Port", c.Port); err != nil {
		return err
	}
	switch {
	case c.MaxPayload < 0:
		return fmt.Errorf("natsd: Config.MaxPayload: %d is negative", c.MaxPayload)
	case c.Sync != SyncAlways && c.Sync != SyncInterval:
		return fmt.Errorf("natsd: Config.Sync: %v is not a policy", c.Sync)
	case c.NoJetStream && c.StoreDir != "":
		return errors.New("natsd: Config.StoreDir and Config.NoJetStream are both set: give one of them")
	case c.Token != "" && (len(c.Users) > 0 || len(c.NKeys) > 0):
		return errors.New("natsd: Config.Token does not go with Config.Users or Config.NKeys")
	}
	for i, u := range c.Users {
		if u.Name == "" || u.Password == "" {
			return fmt.Errorf("natsd: Config.Users[%d]: needs a name and a password", i)
		}
	}
	for i, key := range c.NKeys {
		if !nkeys.IsValidPublicUserKey(key) {
			return fmt.Errorf("natsd: Config.NKeys[%d]: not the public key of a user, which begins with U", i)
		}
	}
	authenticated := len(c.Users) > 0 || len(c.NKeys) > 0 || c.Token != "" || verifiesClients(c.TLS)
	if !authenticated && !c.AllowInsecure && !loopback(c.Host) {
		return fmt.Errorf("natsd: Config.Host: %s can be reached by other machines and anybody could connect: "+
			"set Users, NKeys, Token or TLS with client certificates, or AllowInsecure", c.Host)
	}
	if c.Cluster != nil {
		return c.checkCluster()
	}
	return nil
}

func (c *Config) checkCluster() error {
	if err := checkPort("Cluster.Port", c.Cluster.Port); err != nil {
		return err
	}
	switch {
	case c.ServerName == "":
		return errors.New("natsd: Config.ServerName is empty: a member of a cluster needs a name that stays the same across restarts")
	case c.Cluster.Name == "":
		return errors.New("natsd: Config.Cluster.Name is empty")
	case !c.NoJetStream && len(c.Cluster.Routes) == 0:
		return errors.New("natsd: Config.Cluster.Routes is empty: with JetStream all members must be listed")
	case (c.Cluster.User == "") != (c.Cluster.Password == ""):
		return errors.New("natsd: Config.Cluster: User and Password go together")
	}
	if _, err := c.Cluster.routes(); err != nil {
		return err
	}
	if c.Cluster.Password == "" && !verifiesClients(c.Cluster.TLS) && !c.AllowInsecure && !loopback(c.Cluster.Host) {
		return fmt.Errorf("natsd: Config.Cluster.Host: %s can be reached by other machines and anybody could join: "+
			"set User and Password or TLS with client certificates, or AllowInsecure", c.Cluster.Host)
	}
	return nil
}

func checkPort(field string, port int) error {
	if port < FreePort || port > 65535 {
		return fmt.Errorf("natsd: Config.%s: %d is not a port", field, port)
	}
	return nil
}

func verifiesClients(c *tls.Config) bool {
	return c != nil && c.ClientAuth == tls.RequireAndVerifyClientCert
}

// loopback reports whether only this machine can reach host.
func loopback(host string) bool {
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

// routes reads the members' addresses and adds the password that they want.
// Its errors do not quote an address, which may hold a password.
func (c *Cluster) routes() ([]*url.URL, error) {
	var urls []*url.URL
	for i, raw := range c.Routes {
		if !strings.Contains(raw, "://") {
			raw = "nats://" + raw
		}
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() == "" || u.Port() == "" {
			return nil, fmt.Errorf("natsd: Config.Cluster.Routes[%d]: want host:port", i)
		}
		if u.User == nil && c.Password != "" {
			u.User = url.UserPassword(c.User, c.Password)
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// options returns the config as nats-server wants it.
func (c *Config) options() (*server.Options, error) {
	opts := &server.Options{
		ServerName:    c.ServerName,
		Host:          c.Host,
		Port:          c.Port,
		MaxPayload:    c.MaxPayload,
		TLSConfig:     c.TLS,
		Authorization: c.Token,
		JetStream:     !c.NoJetStream,
		StoreDir:      c.StoreDir,
		SyncAlways:    c.Sync == SyncAlways,
		NoSigs:        true,
	}
	for _, u := range c.Users {
		opts.Users = append(opts.Users, &server.User{Username: u.Name, Password: u.Password})
	}
	for _, key := range c.NKeys {
		opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: key})
	}
	if c.Cluster != nil {
		routes, err := c.Cluster.routes()
		if err != nil {
			return nil, err
		}
		opts.Routes = routes
		opts.Cluster = server.ClusterOpts{
			Name:      c.Cluster.Name,
			Host:      c.Cluster.Host,
			Port:      c.Cluster.Port,
			Username:  c.Cluster.User,
			Password:  c.Cluster.Password,
			TLSConfig: c.Cluster.TLS,
		}
	}
	return opts, nil
}
