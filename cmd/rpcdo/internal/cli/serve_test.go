package cli

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func TestBusAndServe(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	b := start(t, Env{}, "bus", "--port", "0", "--store", store)
	url := urlIn(t, b.waitFor(t, "\n"), "ready ")
	if b.out.String() != "ready "+url+"\n" {
		t.Errorf("stdout %q, want one line", &b.out)
	}
	if said := b.err.String(); !strings.Contains(said, store) || !strings.Contains(said, "sync always") {
		t.Errorf("stderr %q, want the store and its policy", said)
	}
	s := start(t, Env{}, "serve", "--server", url, "--json")
	if said := fromJSON[ready](t, s.waitFor(t, "}\n")); said.Ready != url || len(said.Services) != 3 || len(said.Classes) != 1 {
		t.Errorf("said %+v", said)
	}
	rpcdo(t, Env{}, "call", "math.add", `{"a":1}`, "--server", url).want(t, exitDone, texts(`{"sum":1}`), nil)
	if status := s.stop(t); status != exitDone || s.err.String() != "" {
		t.Errorf("serve: status %d, stderr %q", status, &s.err)
	}
	rpcdo(t, Env{}, "call", "math.add", `{"a":1}`, "--server", url).want(t, exitFailed, nil, texts("nobody listens"))
	if status := b.stop(t); status != exitDone {
		t.Errorf("bus: status %d, stderr %q", status, &b.err)
	}
}

func TestServeWaitsForTheBus(t *testing.T) {
	t.Parallel()
	// A server that restarts keeps its port: nobody takes it in between.
	srv := bustest.Server(t)
	srv.Shutdown()
	s := start(t, Env{}, "serve", "--server", srv.URL(), "--wait", "20s", "--log-level", "info", "--log-format", "json")
	select {
	case <-s.err.contains("waiting for the bus"):
	case <-s.done:
		t.Fatalf("it ended: %s", &s.err)
	}
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.waitFor(t, "ready "+srv.URL())
	for line := range strings.Lines(s.err.String()) {
		if entry := fromJSON[map[string]any](t, line); entry["level"] == nil || entry["time"] == nil {
			t.Errorf("log line %q", line)
		}
	}
	if status := s.stop(t); status != exitDone {
		t.Errorf("status %d: %s", status, &s.err)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	host, port, err := net.SplitHostPort(bustest.Server(t, bustest.WithServer(func(c *natsd.Config) {
		c.Users = []natsd.User{{Name: "app", Password: "secret"}}
	})).Address())
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(host, port)
	s := start(t, with("NATS_URL", "nats://app:secret@"+at), "serve")
	if said := s.waitFor(t, "\n"); !strings.HasPrefix(said, "ready nats://") || strings.Contains(said, "secret") {
		t.Errorf("said %q", said)
	}
	for _, c := range []struct{ url, want string }{
		{at, "wants credentials: give --creds"},
		{"nats://app:wrong@" + at, "refused the credentials in --server"},
	} {
		o := rpcdo(t, Env{}, "call", "math.add", "--server", c.url)
		o.want(t, exitFailed, nil, texts(at, c.want))
		o.wantLine(t)
		if strings.Contains(o.err, "wrong") {
			t.Errorf("the password is shown: %s", o.err)
		}
		if p := fromJSON[problem](t, rpcdo(t, Env{}, "services", "ls", "--json", "--server", c.url).err); p.Code != "unauthenticated" {
			t.Errorf("code %s", p.Code)
		}
	}
}

func TestBusFlagsBecomeTheConfig(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	f := &busFlags{
		logging: logging{level: "off", format: "json"},
		host:    "0.0.0.0", port: 4301, store: store, sync: "interval", maxPayload: 1 << 21, name: "bus-1",
		user: "app", cluster: "dev", clusterPort: 6301, clusterUser: "member", routes: []string{"bus-1:6301", "bus-2:6301"},
	}
	cfg, err := f.config(&app{env: with("RPCDO_PASSWORD", "p1", "RPCDO_CLUSTER_PASSWORD", "p2").withDefaults()})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "0.0.0.0" || cfg.Port != 4301 || cfg.StoreDir != store || cfg.Sync != natsd.SyncInterval ||
		cfg.MaxPayload != 1<<21 || cfg.ServerName != "bus-1" || cfg.Logger == nil || cfg.AllowInsecure {
		t.Errorf("got %+v", cfg)
	}
	if len(cfg.Users) != 1 || cfg.Users[0] != (natsd.User{Name: "app", Password: "p1"}) {
		t.Errorf("users %+v", cfg.Users)
	}
	if c := cfg.Cluster; c == nil || c.Name != "dev" || c.Host != "0.0.0.0" || c.Port != 6301 || len(c.Routes) != 2 ||
		c.User != "member" || c.Password != "p2" {
		t.Errorf("cluster %+v", c)
	}
}

func TestClusterMemberWithItsPortInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	o := rpcdo(t, Env{}, "bus", "--port", "0", "--store", t.TempDir(), "--name", "a", "--cluster-name", "c",
		"--cluster-port", port, "--routes", "127.0.0.1:"+port)
	o.want(t, exitFailed, nil, texts("127.0.0.1:"+port+" is in use", "--cluster-port"))
	o.wantLine(t)
}
