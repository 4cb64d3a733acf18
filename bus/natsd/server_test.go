package natsd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"rpc.do/bus/natsd"
)

func start(t *testing.T, cfg natsd.Config) *natsd.Server {
	t.Helper()
	if cfg.Port == 0 {
		cfg.Port = natsd.FreePort
	}
	s, err := natsd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t *testing.T, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func newStream(t *testing.T, nc *nats.Conn) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}

func TestStart(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{StoreDir: t.TempDir()})
	if !strings.HasPrefix(s.URL(), "nats://127.0.0.1:") || s.Config().Port <= 0 {
		t.Errorf("URL %s, port %d", s.URL(), s.Config().Port)
	}
	if s.ClusterAddress() != "" {
		t.Errorf("alone, but with a cluster address %s", s.ClusterAddress())
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	nc := connect(t, s.URL())
	js, _ := newStream(t, nc)
	if _, err := js.Publish(t.Context(), "s.1", nil); err != nil {
		t.Error(err)
	}
	if nc.MaxPayload() != 1<<20 {
		t.Errorf("largest payload %d", nc.MaxPayload())
	}
}

func TestSyncIsAlwaysByDefault(t *testing.T) {
	t.Parallel()
	if s := start(t, natsd.Config{}); !s.NATS().JetStreamConfig().SyncAlways || s.Config().Sync != natsd.SyncAlways {
		t.Error("a server alone must sync always")
	}
	s := start(t, natsd.Config{Sync: natsd.SyncInterval})
	if js := s.NATS().JetStreamConfig(); js.SyncAlways || js.SyncInterval != 2*time.Minute {
		t.Errorf("asked for an interval, got %+v", js)
	}
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{})
	nc := connect(t, "", nats.InProcessServer(s))
	if err := nc.Flush(); err != nil {
		t.Error(err)
	}
	s.Shutdown()
	if _, err := s.InProcessConn(); err == nil {
		t.Error("connected to a server that is down")
	}
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{StoreDir: t.TempDir()})
	nc := connect(t, s.URL())
	js, _ := newStream(t, nc)
	if _, err := js.Publish(t.Context(), "s.1", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	url, before := s.URL(), s.NATS()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url || s.NATS() == before {
		t.Errorf("restarted at %s, was at %s", s.URL(), url)
	}
	js, err := jetstream.New(connect(t, s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), "s.1")
	if err != nil || string(msg.Data) != "kept" {
		t.Errorf("got %v, %v", msg, err)
	}
}

func TestRestartAfterShutdown(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{})
	s.Shutdown()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, s.URL())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Restart(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if s.NATS().Running() {
		t.Error("a restart that failed left the server up")
	}
}

func TestConfigStartsTheSameAgain(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{StoreDir: t.TempDir()})
	s.Shutdown()
	if again := start(t, s.Config()); again.URL() != s.URL() {
		t.Errorf("at %s, was at %s", again.URL(), s.URL())
	}
}

func TestTemporaryStoreIsRemoved(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{})
	dir := s.NATS().StoreDir()
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	if s.Config().StoreDir != "" {
		t.Error("a temporary directory is not part of the config")
	}
	s.Shutdown()
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{NoJetStream: true})
	if s.NATS().JetStreamEnabled() {
		t.Error("JetStream runs")
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	if names, err := s.EphemeralConsumers(); names != nil || err != nil {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	first := start(t, natsd.Config{})
	dir := filepath.Join(t.TempDir(), "store")
	_, err := natsd.Start(t.Context(), natsd.Config{Port: first.Config().Port, StoreDir: dir})
	if err == nil {
		t.Fatal("two servers on one port")
	}
	for _, want := range []string{first.Address(), "in use", "--nats-port", "--port"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v does not wrap EADDRINUSE", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the store was touched")
	}
}

func TestClusterPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = natsd.Start(t.Context(), natsd.Config{Port: natsd.FreePort, ServerName: "a", Cluster: &natsd.Cluster{
		Name: "c", Port: l.Addr().(*net.TCPAddr).Port, Routes: []string{l.Addr().String()}}})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "Cluster.Port") {
		t.Errorf("got %v", err)
	}
}

func TestForeignAddress(t *testing.T) {
	t.Parallel()
	// 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
	_, err := natsd.Start(t.Context(), natsd.Config{Host: "192.0.2.1", Port: 4222, Token: "t"})
	if err == nil || !strings.Contains(err.Error(), "can't listen on 192.0.2.1:4222") {
		t.Errorf("got %v", err)
	}
}

func TestStoreUnwritable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(file, "store") // also root can't make it
	_, err := natsd.Start(t.Context(), natsd.Config{Port: natsd.FreePort, StoreDir: dir})
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want an error that names %s", err, dir)
	}
}

// What nats-server calls fatal, and would end its own process for, is an error.
func TestFatalIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := natsd.Start(t.Context(), natsd.Config{Port: natsd.FreePort, StoreDir: dir})
	if err == nil || !strings.Contains(err.Error(), "JetStream") {
		t.Fatalf("got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	start(t, natsd.Config{StoreDir: dir}) // the directory was given up
}

func TestStoreInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, natsd.Config{StoreDir: dir})
	_, err := natsd.Start(t.Context(), natsd.Config{Port: natsd.FreePort, StoreDir: dir})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another server") {
		t.Fatalf("got %v", err)
	}
	first.Shutdown()
	start(t, natsd.Config{StoreDir: dir})
}

func TestInvalidOption(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := natsd.Start(t.Context(), natsd.Config{Port: natsd.FreePort, StoreDir: dir, ServerName: "a",
		Cluster: &natsd.Cluster{Name: "two words", Port: natsd.FreePort, Routes: []string{"127.0.0.1:1"}}})
	if err == nil || !strings.HasPrefix(err.Error(), "natsd: ") {
		t.Fatalf("got %v", err)
	}
	start(t, natsd.Config{StoreDir: dir}) // the directory was given up
}

func TestStartAfterContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestShutdownIsIdempotent(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(s.Shutdown)
	}
	wg.Wait()
	s.Shutdown()
	if s.NATS().Running() {
		t.Error("still running")
	}
	if names, err := s.EphemeralConsumers(); names != nil || err != nil {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestMaxPayload(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{NoJetStream: true, MaxPayload: 2048})
	nc := connect(t, s.URL())
	if err := nc.Publish("x", make([]byte, 2049)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("got %v", err)
	}
}

func TestUserOverTLS(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := certificate(t)
	s := start(t, natsd.Config{TLS: serverTLS, Users: []natsd.User{{Name: "alice", Password: "secret"}}})
	if !strings.HasPrefix(s.URL(), "tls://") {
		t.Errorf("URL %s", s.URL())
	}
	nc := connect(t, s.URL(), nats.Secure(clientTLS), nats.UserInfo("alice", "secret"))
	if _, err := nc.TLSConnectionState(); err != nil {
		t.Error(err)
	}
	for name, opts := range map[string][]nats.Option{
		"wrong password":    {nats.Secure(clientTLS), nats.UserInfo("alice", "guess")},
		"no credentials":    {nats.Secure(clientTLS)},
		"unknown authority": {nats.UserInfo("alice", "secret")},
	} {
		if nc, err := nats.Connect(s.URL(), opts...); err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
		}
	}
	// In this process there is no socket to encrypt.
	connect(t, "", nats.InProcessServer(s), nats.UserInfo("alice", "secret"))
}

func TestToken(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{NoJetStream: true, Token: "secret"})
	connect(t, s.URL(), nats.Token("secret"))
	if nc, err := nats.Connect(s.URL(), nats.Token("guess")); err == nil {
		nc.Close()
		t.Error("connected with a wrong token")
	}
}

func TestNKey(t *testing.T) {
	t.Parallel()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, natsd.Config{NoJetStream: true, NKeys: []string{pub}})
	connect(t, s.URL(), nats.Nkey(pub, kp.Sign))
	if nc, err := nats.Connect(s.URL()); err == nil {
		nc.Close()
		t.Error("connected without the key")
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	s := start(t, natsd.Config{})
	nc := connect(t, s.URL())
	if _, err := nc.SubscribeSync("a.b"); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.QueueSubscribeSync("c", "q"); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	id, err := nc.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	subjects, err := s.Subscriptions(id)
	if err != nil || len(subjects) != 2 || !strings.Contains(strings.Join(subjects, ","), "c queue q") {
		t.Errorf("got %q, %v", subjects, err)
	}
	if subjects, err := s.Subscriptions(id + 1000); err != nil || len(subjects) != 0 {
		t.Errorf("nobody's subscriptions: %q, %v", subjects, err)
	}

	_, stream := newStream(t, nc)
	for _, c := range []jetstream.ConsumerConfig{{Durable: "kept"}, {Name: "left"}} {
		if _, err := stream.CreateConsumer(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.EphemeralConsumers()
	if err != nil || len(names) != 1 || names[0] != "S/left" {
		t.Errorf("got %q, %v", names, err)
	}
}

// lockedBuffer is written by the server's goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestLog(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		level zerolog.Level
		want  string
		not   string
	}{
		{zerolog.TraceLevel, `"level":"trace"`, ""},
		{zerolog.DebugLevel, `"level":"debug","message":"Server is ready"`, `"level":"trace"`},
		{zerolog.InfoLevel, "", "Server is ready"},
	} {
		var out lockedBuffer
		log := zerolog.New(&out).Level(tt.level)
		start(t, natsd.Config{Logger: &log}).Shutdown()
		if got := out.String(); !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
			t.Errorf("%v: %s", tt.level, got)
		}
	}
}

// certificate makes a certificate for 127.0.0.1 and returns a config for the
// server and one for clients that trust it.
func certificate(t *testing.T) (serverTLS, clientTLS *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
