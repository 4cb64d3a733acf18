package natsd

import (
	"crypto/tls"
	"strings"
	"testing"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "127.0.0.1" || cfg.Port != 4222 || cfg.MaxPayload != 1<<20 || cfg.Logger == nil {
		t.Errorf("defaults: %+v", cfg)
	}
	if cfg.Sync != SyncAlways {
		t.Errorf("alone: sync is %v, want always", cfg.Sync)
	}
}

func TestDefaultsInCluster(t *testing.T) {
	t.Parallel()
	given := &Cluster{Name: "c", Routes: []string{"127.0.0.1:6222"}}
	cfg, err := Config{ServerName: "a", Cluster: given}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Sync != SyncInterval {
		t.Errorf("in a cluster: sync is %v, want interval", cfg.Sync)
	}
	if cfg.Cluster.Host != "127.0.0.1" || cfg.Cluster.Port != 6222 {
		t.Errorf("cluster defaults: %+v", cfg.Cluster)
	}
	if given.Port != 0 {
		t.Error("the caller's Cluster was changed")
	}
	cfg, err = Config{ServerName: "a", Cluster: given, Sync: SyncAlways}.withDefaults()
	if err != nil || cfg.Sync != SyncAlways {
		t.Errorf("asked for always, got %v, %v", cfg.Sync, err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	routes := []string{"127.0.0.1:6222"}
	for name, tt := range map[string]struct {
		cfg  Config
		want string
	}{
		"port":              {Config{Port: 70000}, "Config.Port"},
		"negative port":     {Config{Port: -2}, "Config.Port"},
		"payload":           {Config{MaxPayload: -1}, "Config.MaxPayload"},
		"sync":              {Config{Sync: 9}, "Config.Sync: sync(9)"},
		"store without js":  {Config{StoreDir: "x", NoJetStream: true}, "Config.NoJetStream"},
		"token and users":   {Config{Token: "t", Users: []User{{"u", "p"}}}, "Config.Token"},
		"token and nkeys":   {Config{Token: "t", NKeys: []string{publicKey}}, "Config.Token"},
		"no nkey":           {Config{NKeys: []string{"SUASECRET"}}, "Config.NKeys[0]"},
		"user no password":  {Config{Users: []User{{"u", ""}}}, "Config.Users[0]"},
		"open to all":       {Config{Host: "0.0.0.0"}, "AllowInsecure"},
		"open to all, v6":   {Config{Host: "::"}, "AllowInsecure"},
		"open by name":      {Config{Host: "db.example.com"}, "AllowInsecure"},
		"TLS is no auth":    {Config{Host: "0.0.0.0", TLS: &tls.Config{}}, "AllowInsecure"},
		"member's name":     {Config{Cluster: &Cluster{Name: "c", Routes: routes}}, "Config.ServerName"},
		"cluster's name":    {Config{ServerName: "a", Cluster: &Cluster{Routes: routes}}, "Config.Cluster.Name"},
		"cluster's port":    {Config{ServerName: "a", Cluster: &Cluster{Name: "c", Port: -7, Routes: routes}}, "Config.Cluster.Port"},
		"no routes":         {Config{ServerName: "a", Cluster: &Cluster{Name: "c"}}, "Config.Cluster.Routes"},
		"cluster password":  {Config{ServerName: "a", Cluster: &Cluster{Name: "c", Routes: routes, User: "u"}}, "User and Password"},
		"anybody can join":  {Config{ServerName: "a", Cluster: &Cluster{Name: "c", Routes: routes, Host: "0.0.0.0"}}, "Config.Cluster.Host"},
		"route, not quoted": {Config{ServerName: "a", Cluster: &Cluster{Name: "c", Routes: []string{"nats://u:secret@host"}}}, "Config.Cluster.Routes[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tt.cfg.withDefaults()
			if err == nil || !strings.HasPrefix(err.Error(), "natsd: ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want natsd: … %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}

// publicKey is a user's public key; nobody has its seed.
const publicKey = "UDRKICW2PA2KNCAK3YP6LJUQTZIKS5S7IR3ZLTMBD6H2NLBGFCP24VPT"

func TestConfigAllowed(t *testing.T) {
	t.Parallel()
	mutual := &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
	for name, cfg := range map[string]Config{
		"localhost":           {Host: "localhost"},
		"v6 loopback":         {Host: "::1"},
		"open, users":         {Host: "0.0.0.0", Users: []User{{"u", "p"}}},
		"open, nkeys":         {Host: "0.0.0.0", NKeys: []string{publicKey}},
		"open, token":         {Host: "0.0.0.0", Token: "t"},
		"open, certificates":  {Host: "0.0.0.0", TLS: mutual},
		"open, on purpose":    {Host: "0.0.0.0", AllowInsecure: true},
		"cluster, password":   {ServerName: "a", Cluster: &Cluster{Name: "c", Host: "0.0.0.0", Routes: []string{"b:6222"}, User: "u", Password: "p"}},
		"cluster, TLS":        {ServerName: "a", Cluster: &Cluster{Name: "c", Host: "0.0.0.0", Routes: []string{"b:6222"}, TLS: mutual}},
		"cluster, no streams": {ServerName: "a", NoJetStream: true, Cluster: &Cluster{Name: "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := cfg.withDefaults(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRoutesCarryThePassword(t *testing.T) {
	t.Parallel()
	c := Cluster{Routes: []string{"a:1", "nats://x:y@b:2"}, User: "u", Password: "p"}
	urls, err := c.routes()
	if err != nil {
		t.Fatal(err)
	}
	if got := urls[0].String() + " " + urls[1].String(); got != "nats://u:p@a:1 nats://x:y@b:2" {
		t.Errorf("got %s", got)
	}
}

func TestSyncText(t *testing.T) {
	t.Parallel()
	for _, s := range []Sync{SyncDefault, SyncAlways, SyncInterval} {
		if got, err := ParseSync(s.String()); err != nil || got != s {
			t.Errorf("%v: got %v, %v", s, got, err)
		}
	}
	if _, err := ParseSync("sometimes"); err == nil {
		t.Error("sometimes is not a policy")
	}
}

func TestSyncOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sync Sync
		want bool
	}{{SyncDefault, true}, {SyncAlways, true}, {SyncInterval, false}} {
		cfg, err := Config{Sync: tt.sync}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		opts, err := cfg.options()
		if err != nil {
			t.Fatal(err)
		}
		if opts.SyncAlways != tt.want {
			t.Errorf("%v: SyncAlways is %v", tt.sync, opts.SyncAlways)
		}
		if !opts.NoSigs {
			t.Error("nats-server would handle the program's signals")
		}
	}
}

func TestDialable(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"0.0.0.0": "127.0.0.1:1", "::": "[::1]:1", "::1": "[::1]:1", "example.com": "example.com:1",
	} {
		if got := dialable(host, 1); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}
