package bustest

import (
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/natsd"
)

// Option changes what a test gets.
type Option func(*settings)

type settings struct {
	inProcess   bool
	ignoreLeaks bool
	bus         []func(*bus.Config)
	server      []func(*natsd.Config)
}

func newSettings(opts []Option) *settings {
	s := new(settings)
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// InProcess connects the bus without a socket.
func InProcess() Option { return func(s *settings) { s.inProcess = true } }

// WithConfig changes the bus's config. It does nothing for a server.
func WithConfig(change func(*bus.Config)) Option {
	return func(s *settings) { s.bus = append(s.bus, change) }
}

// WithServer changes the server's config. It does nothing for a bus.
func WithServer(change func(*natsd.Config)) Option {
	return func(s *settings) { s.server = append(s.server, change) }
}

// IgnoreLeaks does not look at what is left behind, for tests that kill what
// they test.
func IgnoreLeaks() Option { return func(s *settings) { s.ignoreLeaks = true } }

// New returns a bus that is connected to a server of its own. Both are closed
// when the test ends.
func New(t testing.TB, opts ...Option) *bus.Bus {
	t.Helper()
	return Connect(t, Server(t, opts...), opts...)
}

// Server starts a server on a free port, with its store in the test's
// temporary directory and fsync left to the system. It is shut down when the
// test ends.
func Server(t testing.TB, opts ...Option) *natsd.Server {
	t.Helper()
	set := newSettings(opts)
	cfg := natsd.Config{Port: natsd.FreePort, StoreDir: t.TempDir(), Sync: natsd.SyncInterval}
	for _, change := range set.server {
		change(&cfg)
	}
	s, err := natsd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	cleanUpServer(t, s, set)
	return s
}

func cleanUpServer(t testing.TB, s *natsd.Server, set *settings) {
	t.Cleanup(func() {
		if !set.ignoreLeaks {
			checkConsumers(t, s)
		}
		s.Shutdown()
	})
}

// Connect returns a bus that is connected to s. It is closed when the test
// ends.
func Connect(t testing.TB, s *natsd.Server, opts ...Option) *bus.Bus {
	t.Helper()
	set := newSettings(opts)
	cfg := bus.Config{Name: "test", DrainTimeout: 5 * time.Second}
	if set.inProcess {
		cfg.InProcess = s
	} else {
		cfg.URLs = []string{s.URL()}
	}
	for _, change := range set.bus {
		change(&cfg)
	}
	b, err := bus.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	check := &subscriptionCheck{bus: b, server: s}
	b.OnClose(check.run) // the first registered is the last to run
	t.Cleanup(func() {
		if set.ignoreLeaks {
			b.Close()
			return
		}
		check.wanted.Store(true)
		if err := b.Close(); err != nil && check.wasConnected {
			t.Errorf("bustest: closing the bus: %v", err)
		}
		if len(check.left) > 0 {
			t.Errorf("bustest: left on the bus when the test ended: %q", check.left)
		}
	})
	return b
}
