package bus

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

type noServer struct{}

func (noServer) InProcessConn() (net.Conn, error) { return nil, net.ErrClosed }

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.URLs) != 1 || cfg.URLs[0] != "nats://127.0.0.1:4222" {
		t.Errorf("URLs %q", cfg.URLs)
	}
	if cfg.Name != cutName(filepath.Base(os.Args[0])) || cfg.Name == "" {
		t.Errorf("name %q", cfg.Name)
	}
	if cfg.InboxPrefix != "_INBOX" || cfg.Replicas != 1 || cfg.ConnectTimeout != 5*time.Second || cfg.DrainTimeout != 30*time.Second || cfg.Logger == nil {
		t.Errorf("%+v", cfg)
	}
}

func TestConfigURLs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"localhost":                 "nats://localhost",
		"localhost:4222":            "nats://localhost:4222",
		" nats://a:1/ ":             "nats://a:1",
		"tls://a":                   "tls://a",
		"wss://u:p@a/path":          "wss://u:p@a/path",
		"nats://user:pass@[::1]:42": "nats://user:pass@[::1]:42",
	} {
		cfg, err := Config{URLs: []string{in}}.withDefaults()
		if err != nil || cfg.URLs[0] != want {
			t.Errorf("%q: got %q, %v, want %q", in, cfg.URLs, err, want)
		}
	}
}

func TestConfigNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"orders":                "orders",
		"Orders_v2-a":           "Orders_v2-a",
		"my.service *>é":        "myservice",
		strings.Repeat("x", 99): strings.Repeat("x", 64),
	} {
		cfg, err := Config{Name: in}.withDefaults()
		if err != nil || cfg.Name != want {
			t.Errorf("%q: got %q, %v", in, cfg.Name, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cfg  Config
		want string
	}{
		"empty URL":           {Config{URLs: []string{"nats://a", " "}}, "Config.URLs[1]"},
		"several in one":      {Config{URLs: []string{"nats://u:secret@a,nats://b"}}, "Config.URLs[0]"},
		"not a URL":           {Config{URLs: []string{"nats://u:secret@a b:%zz"}}, "Config.URLs[0]"},
		"bad port":            {Config{URLs: []string{"nats://u:secret@a:b"}}, "Config.URLs[0]"},
		"scheme":              {Config{URLs: []string{"https://u:secret@a"}}, "https"},
		"no host":             {Config{URLs: []string{"nats://u:secret@:4222"}}, "no host"},
		"path":                {Config{URLs: []string{"nats://u:secret@a/orders"}}, "path"},
		"mixed schemes":       {Config{URLs: []string{"nats://a", "ws://b"}}, "Config.URLs"},
		"two ways to connect": {Config{URLs: []string{"nats://a"}, InProcess: noServer{}}, "Config.InProcess"},
		"TLS in process":      {Config{TLS: &tls.Config{}, InProcess: noServer{}}, "Config.TLS"},
		"two credentials":     {Config{User: "u", Password: "secret", Token: "secret"}, "Config.User and Config.Token"},
		"URL and credentials": {Config{URLs: []string{"nats://u:secret@a"}, Token: "secret"}, "Config.URLs and Config.Token"},
		"password alone":      {Config{Password: "secret"}, "Config.Password"},
		"no credentials file": {Config{CredentialsFile: "/does/not/exist"}, "Config.CredentialsFile: open /does/not/exist"},
		"no seed file":        {Config{NKeySeedFile: "/does/not/exist"}, "Config.NKeySeedFile"},
		"name":                {Config{Name: "é*"}, "Config.Name"},
		"prefix, wildcard":    {Config{InboxPrefix: "a.*"}, "Config.InboxPrefix"},
		"prefix, dot":         {Config{InboxPrefix: "a."}, "Config.InboxPrefix"},
		"prefix, only dots":   {Config{InboxPrefix: "."}, "Config.InboxPrefix"},
		"prefix, space":       {Config{InboxPrefix: "a b"}, "Config.InboxPrefix"},
		"replicas":            {Config{Replicas: 2}, "Config.Replicas: 2"},
		"connect timeout":     {Config{ConnectTimeout: -1}, "Config.ConnectTimeout"},
		"drain timeout":       {Config{DrainTimeout: -1}, "Config.DrainTimeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tt.cfg.withDefaults()
			if err == nil || !strings.HasPrefix(err.Error(), "bus: ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want bus: … %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}

func TestConfigAllowsOneCredential(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{User: "u", Password: "p"}, {User: "u"}, {Token: "t"}, {URLs: []string{"nats://t@a"}},
		{CredentialsFile: os.Args[0]}, {InboxPrefix: "_INBOX.team-1"}, {Replicas: 3},
	} {
		if _, err := cfg.withDefaults(); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestSeedFile(t *testing.T) {
	t.Parallel()
	server, err := nkeys.CreateServer()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := server.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"garbage": "secret", "not a user's": string(seed)} {
		file := filepath.Join(t.TempDir(), "seed")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Connect(t.Context(), Config{NKeySeedFile: file})
		if err == nil || !strings.Contains(err.Error(), "Config.NKeySeedFile") || strings.Contains(err.Error(), content) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzURL looks for URLs whose errors give the password away, and for addresses
// that do.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"nats://u:s3cr3t@a", "s3cr3t@a b", "ws://:s3cr3t@%", "nats://s3cr3t@a:99999999/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		cfg, err := Config{URLs: []string{"nats://u:s3cr3t@" + rest}}.withDefaults()
		if strings.Contains(rest, "s3cr3t") {
			return
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("error: %v", err)
		}
		if err == nil && strings.Contains(cfg.where(), "s3cr3t") {
			t.Errorf("address: %s", cfg.where())
		}
	})
}

func TestReconnectDelay(t *testing.T) {
	t.Parallel()
	last := 100 * time.Millisecond
	for n := range 100 {
		for range 20 {
			d := reconnectDelay(n)
			if d < last/2 || d >= last {
				t.Fatalf("try %d: %v is not between %v and %v", n, d, last/2, last)
			}
		}
		if n > 0 {
			last = min(2*last, 2*time.Second)
		}
	}
}
