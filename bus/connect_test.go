package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func Example() {
	ctx := context.Background()
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Shutdown()

	b, err := bus.Connect(ctx, bus.Config{URLs: []string{srv.URL()}, Name: "orders"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	fmt.Println(b.Name(), b.Connected())
	// Output: orders true
}

func fails(t *testing.T, cfg bus.Config, want ...string) {
	t.Helper()
	b, err := bus.Connect(t.Context(), cfg)
	if err == nil {
		b.Close()
		t.Fatal("connected")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error holds a password: %v", err)
	}
}

func TestAccessors(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithConfig(func(c *bus.Config) {
		c.Name, c.InboxPrefix, c.Replicas = "my service", "_INBOX.team", 3
	}))
	if b.Name() != "myservice" || b.InboxPrefix() != "_INBOX.team" || b.Replicas() != 3 {
		t.Errorf("%s %s %d", b.Name(), b.InboxPrefix(), b.Replicas())
	}
	if b.MaxPayload() != 1<<20 || b.Logger() == nil || b.Local() == nil || b.Conn().Opts.Name != "myservice" {
		t.Errorf("%d %v %v %s", b.MaxPayload(), b.Logger(), b.Local(), b.Conn().Opts.Name)
	}
	if inbox := b.Conn().NewInbox(); !strings.HasPrefix(inbox, "_INBOX.team.") {
		t.Errorf("inbox %s", inbox)
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	fails(t, bus.Config{URLs: []string{"nats://u:s3cr3t@" + l.Addr().String()}}, l.Addr().String(), "rpcdo dev")
}

func TestSecondServerAnswers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	bustest.New(t, bustest.WithConfig(func(c *bus.Config) { c.URLs = append(c.URLs, l.Addr().String()) }))
}

func TestNotNATS(t *testing.T) {
	t.Parallel()
	l, accepted := listen(t)
	go func() {
		if conn := <-accepted; conn != nil {
			fmt.Fprintf(conn, "220 mail.example.com\r\n")
		}
	}()
	fails(t, bus.Config{URLs: []string{l}}, l, "not a NATS server")
}

func TestSilence(t *testing.T) {
	t.Parallel()
	l, _ := listen(t)
	fails(t, bus.Config{URLs: []string{l}, ConnectTimeout: 50 * time.Millisecond}, l, "within 50ms")
}

// Connect gives up with its context, also while the server is silent.
func TestConnectWithinContext(t *testing.T) {
	t.Parallel()
	l, accepted := listen(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	go func() { <-accepted; cancel(why) }()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{l}, ConnectTimeout: time.Hour})
	if err == nil {
		b.Close()
	}
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if _, err := bus.Connect(ctx, bus.Config{URLs: []string{l}}); !errors.Is(err, why) {
		t.Errorf("ended before: got %v", err)
	}
}

// A context that ends after Connect has returned ends nothing.
func TestContextIsForConnecting(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	ctx, cancel := context.WithCancel(t.Context())
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{s.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := b.Conn().Flush(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// listen accepts connections and says nothing.
func listen(t *testing.T) (address string, accepted <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns, ended := make(chan net.Conn, 10), make(chan struct{})
	var open []net.Conn
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				close(conns)
				return
			}
			open = append(open, conn)
			conns <- conn
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
		for _, conn := range open {
			conn.Close()
		}
	})
	return l.Addr().String(), conns
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) {
		c.Users = []natsd.User{{Name: "alice", Password: "s3cr3t"}}
	}))
	bustest.Connect(t, s, bustest.WithConfig(func(c *bus.Config) { c.User, c.Password = "alice", "s3cr3t" }))
	bustest.Connect(t, s, bustest.WithConfig(func(c *bus.Config) { c.URLs = []string{"alice:s3cr3t@" + s.Address()} }))
	bustest.Connect(t, s, bustest.InProcess(), bustest.WithConfig(func(c *bus.Config) { c.User, c.Password = "alice", "s3cr3t" }))

	url := []string{s.URL()}
	fails(t, bus.Config{URLs: url}, s.Address(), "wants credentials")
	fails(t, bus.Config{URLs: url, User: "alice", Password: "s3cr3t!"}, s.Address(), "check Config.User")
	fails(t, bus.Config{URLs: []string{"nats://alice:s3cr3t!@" + s.Address()}}, s.Address(), "check Config.URLs")
	fails(t, bus.Config{URLs: []string{"nats://s3cr3t@" + s.Address()}}, s.Address(), "check Config.URLs")
	fails(t, bus.Config{URLs: url, Token: "s3cr3t"}, "check Config.Token")
	// In process neither side waits for the other to read.
	fails(t, bus.Config{InProcess: s}, "the server in this process wants credentials")
	fails(t, bus.Config{InProcess: s, User: strings.Repeat("mallory", 300)}, "check Config.User")
}

func TestNKeySeedFile(t *testing.T) {
	t.Parallel()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	bustest.New(t, bustest.WithServer(func(c *natsd.Config) { c.NKeys = []string{pub} }),
		bustest.WithConfig(func(c *bus.Config) { c.NKeySeedFile = file }))
	// A server without keys is told apart too.
	fails(t, bus.Config{URLs: []string{bustest.Server(t).URL()}, NKeySeedFile: file}, "check Config.NKeySeedFile")
}

func TestCredentialsFileWithoutContent(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(file, []byte("s3cr3t"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, bus.Config{URLs: []string{bustest.Server(t).URL()}, CredentialsFile: file}, "check Config.CredentialsFile")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := certificate(t)
	s := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.TLS = serverTLS }))
	bustest.Connect(t, s, bustest.WithConfig(func(c *bus.Config) { c.TLS = clientTLS }))
	bustest.Connect(t, s, bustest.InProcess())
	fails(t, bus.Config{URLs: []string{s.URL()}}, "TLS with "+s.URL()+" failed", "Config.TLS")
	fails(t, bus.Config{URLs: []string{bustest.Server(t).URL()}, TLS: clientTLS}, "does not offer TLS")
}

func TestTLSClientCertificate(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := certificate(t)
	serverTLS.ClientAuth, serverTLS.ClientCAs = tls.RequireAndVerifyClientCert, clientTLS.RootCAs
	s := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.TLS = serverTLS }))
	fails(t, bus.Config{URLs: []string{s.URL()}, TLS: clientTLS}, "TLS with "+s.URL()+" failed")
	bustest.Connect(t, s, bustest.WithConfig(func(c *bus.Config) {
		c.TLS = clientTLS.Clone()
		c.TLS.Certificates = serverTLS.Certificates
	}))
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true,
		Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{ns.WebsocketURL()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Conn().RequestWithContext(t.Context(), "nobody", nil)
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
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
