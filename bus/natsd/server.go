package natsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// pollInterval is how often a state of nats-server is looked at that it does
// not announce.
const pollInterval = 5 * time.Millisecond

// Server is a server that Start has started. Its methods may be called by many
// goroutines at once.
type Server struct {
	cfg  Config
	log  *logger
	nats atomic.Pointer[server.Server] // the one that runs, or ran last

	mu    sync.Mutex // held while starting and shutting down
	up    bool
	store *store // nil without JetStream
}

// Start runs a server and returns when it takes connections. JetStream is
// ready then too if the server is alone; a member of a cluster waits for the
// others with WaitReady.
//
// Nothing is left behind when Start fails. It stops waiting when ctx ends, but
// does not interrupt the reading of a large store.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart shuts the server down, if it still runs, and starts it again at the
// same addresses and on the same store. The Server stays what clients in this
// process connect through. When Restart fails the server is down.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("natsd: not started: %w", err)
	}
	if err := s.start(ctx); err != nil {
		s.shutdown()
		return err
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	cfg := s.cfg
	// An address that is taken is found before the store is opened.
	if err := checkAddress(cfg.Host, cfg.Port, "rpcdo dev --nats-port, rpcdo bus --port"); err != nil {
		return err
	}
	if cfg.Cluster != nil {
		if err := checkAddress(cfg.Cluster.Host, cfg.Cluster.Port, "Config.Cluster.Port"); err != nil {
			return err
		}
	}
	s.up = true
	if !cfg.NoJetStream {
		store, err := openStore(cfg.StoreDir)
		if err != nil {
			return err
		}
		s.store, cfg.StoreDir = store, store.dir
	}
	opts, err := cfg.options()
	if err != nil {
		return err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("natsd: %w", err)
	}
	s.nats.Store(ns)
	s.log = &logger{log: *cfg.Logger}
	ns.SetLoggerV2(s.log, s.log.wantsDebug(), false, false)
	ns.Start()
	if err := s.waitListening(ctx); err != nil {
		return err
	}
	// A port that was chosen is the server's from now on.
	if cfg.Port == FreePort {
		s.cfg.Port = ns.Addr().(*net.TCPAddr).Port
	}
	if cfg.Cluster != nil && cfg.Cluster.Port == FreePort {
		s.cfg.Cluster.Port = ns.ClusterAddr().Port
	}
	return nil
}

func (s *Server) waitListening(ctx context.Context) error {
	for {
		if err := s.log.failure(); err != nil {
			return fmt.Errorf("natsd: %w", err)
		}
		if ns := s.nats.Load(); ns.Addr() != nil && (s.cfg.Cluster == nil || ns.ClusterAddr() != nil) {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("natsd: not listening yet: %w", err)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollInterval):
		return nil
	}
}

// checkAddress reports why the address can't be listened on. Whoever takes it
// between this check and the server makes Start fail too, later and in
// nats-server's words.
func checkAddress(host string, port int, setting string) error {
	if port == FreePort {
		return nil
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("natsd: %s is in use, perhaps by another NATS server: choose another port (%s): %w", address, setting, err)
	}
	if err != nil {
		return fmt.Errorf("natsd: can't listen on %s: choose another address (%s): %w", address, setting, err)
	}
	return l.Close()
}

// WaitReady waits until JetStream takes requests: in a cluster, until a
// majority of the members has met and chosen a leader.
func (s *Server) WaitReady(ctx context.Context) error {
	for !s.ready() {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("natsd: %s: the cluster has no JetStream leader yet: %w", s.Address(), err)
		}
	}
	return nil
}

func (s *Server) ready() bool {
	if s.cfg.NoJetStream {
		return true
	}
	ns := s.nats.Load()
	if !ns.JetStreamEnabled() || !ns.JetStreamIsCurrent() {
		return false
	}
	if s.cfg.Cluster == nil {
		return true
	}
	info, err := ns.Jsz(nil)
	return err == nil && info.Meta != nil && info.Meta.Leader != ""
}

// URL returns what clients on this machine connect to, such as
// nats://127.0.0.1:4222. It holds no credentials.
func (s *Server) URL() string {
	u := url.URL{Scheme: "nats", Host: s.Address()}
	if s.cfg.TLS != nil {
		u.Scheme = "tls"
	}
	return u.String()
}

// Address returns the host and port of URL.
func (s *Server) Address() string { return dialable(s.cfg.Host, s.cfg.Port) }

// ClusterAddress returns the host and port for a Cluster.Routes entry of the
// other members; empty for a server that is alone.
func (s *Server) ClusterAddress() string {
	if s.cfg.Cluster == nil {
		return ""
	}
	return dialable(s.cfg.Cluster.Host, s.cfg.Cluster.Port)
}

// dialable puts this machine in the place of "all addresses".
func dialable(host string, port int) string {
	switch ip := net.ParseIP(host); {
	case ip == nil || !ip.IsUnspecified():
	case ip.To4() != nil:
		host = "127.0.0.1"
	default:
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// Config returns the config with the defaults and the chosen ports filled in:
// after Shutdown, a server started with it takes this one's place. StoreDir is
// still empty when the store is a temporary directory.
func (s *Server) Config() Config {
	cfg := s.cfg
	if cfg.Cluster != nil {
		cluster := *cfg.Cluster
		cfg.Cluster = &cluster
	}
	return cfg
}

// InProcessConn connects to the server without a socket. With it a Server can
// be a bus.Config's InProcess.
func (s *Server) InProcessConn() (net.Conn, error) { return s.nats.Load().InProcessConn() }

// NATS returns the server itself, for what this package has no method for.
// After a Restart it is another one.
func (s *Server) NATS() *server.Server { return s.nats.Load() }

// Shutdown closes the connections, writes out the store and waits until
// everything has ended. It may be called again, also at the same time.
func (s *Server) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown()
}

func (s *Server) shutdown() {
	if !s.up {
		return
	}
	s.up = false
	if ns := s.nats.Load(); ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
	if s.store != nil {
		if err := s.store.close(); err != nil {
			s.cfg.Logger.Warn().Err(err).Msg("store not closed cleanly")
		}
		s.store = nil
	}
}
