package cli

import (
	"context"
	"errors"
	"net"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus/natsd"
)

// maxMaxPayload is the most that a NATS server keeps for a client that reads
// slowly, so no message can be larger.
const maxMaxPayload = 64 << 20

type busFlags struct {
	logging
	host          string
	port          int
	store         string
	sync          string
	maxPayload    int32
	name          string
	allowInsecure bool

	user      string
	password  string
	authToken string
	tls       tlsFiles

	cluster         string
	clusterHost     string
	clusterPort     int
	clusterUser     string
	clusterPassword string
	routes          []string
}

func (a *app) bus() *cobra.Command {
	f := &busFlags{}
	cmd := &cobra.Command{
		Use:   "bus [flags]",
		Short: "Run a bus alone, or one member of a cluster",
		Long: `Runs a NATS server with JetStream as a process of its own. When it takes
connections and JetStream is ready, one line is printed: "ready" and its URL. On
Ctrl-C or SIGTERM it closes its connections, writes out its store and ends.

With --sync always, the default, stored data are on disk before they are
acknowledged. With --sync interval they are there within two minutes: faster,
and safe where other members of a cluster have them too.

A member of a cluster needs --name, --cluster-name and --routes, which lists all
members, itself included. It is ready when a majority has met.

A host that other machines can reach needs credentials for clients (--user and
--password, or --auth-token, or --tls-ca) and, in a cluster, for members
(--cluster-user and --cluster-password), unless --allow-insecure says that the
network is trusted. Passwords can come from the environment, where other users
can't see them: RPCDO_PASSWORD, RPCDO_AUTH_TOKEN and RPCDO_CLUSTER_PASSWORD.

With --tls-cert and --tls-key clients must speak TLS. With --tls-ca too, they
must show a certificate of one of those authorities. What members of a cluster
say to each other is not encrypted.`,
		Example: `  rpcdo bus
  rpcdo bus --port 14222 --store ./bus-store --sync interval
  RPCDO_PASSWORD=secret rpcdo bus --host 0.0.0.0 --user app

  # One of three members; the others are bus-2, 4302, 6302 and bus-3, 4303, 6303.
  rpcdo bus --name bus-1 --port 4301 --cluster-name dev --cluster-port 6301 \
    --routes 127.0.0.1:6301,127.0.0.1:6302,127.0.0.1:6303`,
		GroupID: groupRun,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runBus(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.host, "host", natsd.DefaultHost, "`ADDRESS` that clients connect to")
	flags.IntVar(&f.port, "port", natsd.DefaultPort, "`PORT` that clients connect to; 0 for a free one")
	flags.StringVar(&f.store, "store", "", "`DIR` that keeps what is stored (default .rpcdo/bus, .rpcdo/NAME with --name)")
	flags.StringVar(&f.sync, "sync", "always", "when stored data are on disk: always (before the acknowledgement) or interval")
	flags.Int32Var(&f.maxPayload, "max-payload", natsd.DefaultMaxPayload, "size of the largest message, in `BYTES`")
	flags.StringVar(&f.name, "name", "", "name of the server; in a cluster it stays the same across restarts")
	flags.BoolVar(&f.allowInsecure, "allow-insecure", false, "allow other machines to connect without credentials")
	flags.StringVar(&f.user, "user", "", "user that clients connect as")
	flags.StringVar(&f.password, "password", "", "password of --user, plain or as a bcrypt hash (RPCDO_PASSWORD)")
	flags.StringVar(&f.authToken, "auth-token", "", "token that clients show in place of a user (RPCDO_AUTH_TOKEN)")
	f.tls.register(cmd,
		"PEM `FILE` with the authorities that clients' certificates must be from; without it none are asked for",
		"PEM `FILE` with the certificate of the server, which clients must speak TLS with then")
	flags.StringVar(&f.cluster, "cluster-name", "", "name of the cluster to be a member of")
	flags.StringVar(&f.clusterHost, "cluster-host", "", "`ADDRESS` that members connect to (default --host)")
	flags.IntVar(&f.clusterPort, "cluster-port", natsd.DefaultClusterPort, "`PORT` that members connect to")
	flags.StringSliceVar(&f.routes, "routes", nil, "all members of the cluster: host:port,host:port,…")
	flags.StringVar(&f.clusterUser, "cluster-user", "", "user that members show each other")
	flags.StringVar(&f.clusterPassword, "cluster-password", "", "password of --cluster-user (RPCDO_CLUSTER_PASSWORD)")
	f.register(cmd)
	complete(cmd, "sync", "always", "interval")
	return cmd
}

func (a *app) runBus(ctx context.Context, f *busFlags) error {
	cfg, err := f.config(a)
	if err != nil {
		return err
	}
	srv, err := startServer(ctx, cfg)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer srv.Shutdown()
	a.note("rpcdo bus: listening on %s, store %s, sync %v", srv.Address(), cfg.StoreDir, cfg.Sync)
	if cfg.Cluster != nil {
		a.note("rpcdo bus: waiting for a majority of the cluster's %d members", len(cfg.Cluster.Routes))
	}
	if err := srv.WaitReady(ctx); err != nil {
		return interrupted(ctx, err)
	}
	if err := a.readyLine(ready{Ready: srv.URL(), Store: cfg.StoreDir, Sync: cfg.Sync.String()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// startServer starts a server. Its errors are in terms of flags.
func startServer(ctx context.Context, cfg natsd.Config) (*natsd.Server, error) {
	if err := checkHost(cfg); err != nil {
		return nil, err
	}
	srv, err := natsd.Start(ctx, cfg)
	switch {
	case err == nil:
		return srv, nil
	case isConfigError(err):
		text := strings.NewReplacer("natsd: ", "", "Config.Cluster.Routes", "--routes").Replace(err.Error())
		return nil, usagef("%s", text) // the commands check their other flags
	case strings.Contains(err.Error(), "Config.Cluster.Port"):
		return nil, failf(rpc.FailedPrecondition, "%s", strings.ReplaceAll(err.Error(), "Config.Cluster.Port", "--cluster-port"))
	case errors.Is(err, context.Canceled):
		return nil, err
	default:
		return nil, failure{rpc.FailedPrecondition, err}
	}
}

// checkHost finds out whether a host whose port is free to choose can be
// listened on. Of one with a port, natsd says what is wrong.
func checkHost(cfg natsd.Config) error {
	if cfg.Port != natsd.FreePort || cfg.Host == "" {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.Host, "0"))
	if err != nil {
		return failf(rpc.FailedPrecondition, "--host %s can't be listened on: %w", cfg.Host, cause(err))
	}
	return l.Close()
}

// config turns the flags into the server's config, or says which are wrong.
func (f *busFlags) config(a *app) (natsd.Config, error) {
	none := natsd.Config{}
	log, err := f.logger(a)
	if err != nil {
		return none, err
	}
	f.fromEnvironment(a)
	sync, err := natsd.ParseSync(f.sync)
	if err != nil || sync == natsd.SyncDefault {
		return none, usagef("--sync %q: want always or interval", f.sync)
	}
	port, err := portFlag("--port", f.port)
	if err != nil {
		return none, err
	}
	cfg := natsd.Config{
		Host: f.host, Port: port, Sync: sync, MaxPayload: f.maxPayload, ServerName: f.name,
		AllowInsecure: f.allowInsecure, Token: f.authToken, Logger: log,
	}
	if err := f.checkClients(); err != nil {
		return none, err
	}
	if f.user != "" {
		cfg.Users = []natsd.User{{Name: f.user, Password: f.password}}
	}
	if cfg.TLS, err = f.tls.server(); err != nil {
		return none, err
	}
	if cfg.Cluster, err = f.clusterConfig(); err != nil {
		return none, err
	}
	name := "bus"
	if f.name != "" {
		if strings.ContainsAny(f.name, `/\ `) || strings.Trim(f.name, ".") == "" || plain(f.name) != f.name {
			return none, usagef("--name %.80q: want a name without slashes and spaces", f.name)
		}
		name = f.name
	}
	// Last: it may make a directory.
	cfg.StoreDir, err = storeDir(f.store, name)
	return cfg, err
}

func (f *busFlags) fromEnvironment(a *app) {
	for _, v := range []struct {
		value *string
		name  string
	}{
		{&f.password, "RPCDO_PASSWORD"},
		{&f.authToken, "RPCDO_AUTH_TOKEN"},
		{&f.clusterPassword, "RPCDO_CLUSTER_PASSWORD"},
	} {
		if *v.value == "" {
			*v.value = a.env.Getenv(v.name)
		}
	}
}

func (f *busFlags) checkClients() error {
	switch {
	case (f.user == "") != (f.password == ""):
		return usagef("--user and --password (or RPCDO_PASSWORD) go together")
	case f.user != "" && f.authToken != "":
		return usagef("--user and --auth-token are both set: give one of them")
	case f.maxPayload < 1 || f.maxPayload > maxMaxPayload:
		return usagef("--max-payload %d: want 1 to %d bytes", f.maxPayload, maxMaxPayload)
	case f.user == "" && f.authToken == "" && f.tls.ca == "" && !f.allowInsecure && !thisMachine(f.host):
		return usagef("--host %s can be reached by other machines and anybody could connect: "+
			"give --user and --password, or --auth-token, or --tls-ca for client certificates, or --allow-insecure", f.host)
	}
	return nil
}

func (f *busFlags) clusterConfig() (*natsd.Cluster, error) {
	if f.cluster == "" {
		if len(f.routes) > 0 || f.clusterHost != "" || f.clusterUser != "" {
			return nil, usagef("a member of a cluster needs --cluster-name")
		}
		return nil, nil
	}
	host := f.clusterHost
	if host == "" {
		host = f.host
	}
	switch {
	case strings.ContainsFunc(f.cluster, unicode.IsSpace) || plain(f.cluster) != f.cluster:
		return nil, usagef("--cluster-name %.80q: want a name without spaces", f.cluster)
	case f.name == "":
		return nil, usagef("a member of a cluster needs --name, which stays the same across restarts")
	case len(f.routes) == 0:
		return nil, usagef("a member of a cluster needs --routes with the host:port of every member, itself included")
	case (f.clusterUser == "") != (f.clusterPassword == ""):
		return nil, usagef("--cluster-user and --cluster-password (or RPCDO_CLUSTER_PASSWORD) go together")
	case f.clusterPort < 1 || f.clusterPort > 65535:
		return nil, usagef("--cluster-port %d: want 1 to 65535", f.clusterPort)
	case f.clusterUser == "" && !f.allowInsecure && !thisMachine(host):
		return nil, usagef("the cluster's address %s can be reached by other machines and anybody could join: "+
			"give --cluster-user and --cluster-password, or --allow-insecure", host)
	}
	return &natsd.Cluster{
		Name: f.cluster, Host: host, Port: f.clusterPort, Routes: f.routes,
		User: f.clusterUser, Password: f.clusterPassword,
	}, nil
}

// thisMachine reports whether only this machine can reach host.
func thisMachine(host string) bool {
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}
