package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpc.do/bus/bustest"
)

// authority makes certificates, as files.
type authority struct {
	dir, file string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = a.write(t, "authority.pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// issue makes a certificate for this machine, good for servers and clients.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+"-key.pem", "PRIVATE KEY", keyDER)
}

// wantError checks that a command fails in one line with these texts, also
// with --json, where it has the code.
func wantError(t *testing.T, env Env, args []string, status int, code string, want ...string) {
	t.Helper()
	o := rpcdo(t, env, args...)
	o.want(t, status, nil, want)
	o.wantLine(t)
	if p := fromJSON[problem](t, rpcdo(t, env, append(args, "--json")...).err); p.Code != code {
		t.Errorf("%q: code %s, want %s", args, p.Code, code)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	cert, key := ours.issue(t, "server")
	b := start(t, Env{}, "bus", "--port", "0", "--store", t.TempDir(), "--tls-cert", cert, "--tls-key", key)
	url := urlIn(t, b.waitFor(t, "\n"), "ready ")
	if !strings.HasPrefix(url, "tls://127.0.0.1:") {
		t.Fatalf("the bus is ready at %s", url)
	}
	address := strings.TrimPrefix(url, "tls://")
	s := start(t, Env{}, "serve", "--server", url, "--tls-ca", ours.file)
	s.waitFor(t, "ready tls://"+address+" greeter math objects\n")

	for _, server := range []string{url, "nats://" + address, address} {
		env := with("NATS_URL", server)
		rpcdo(t, env, "call", "math.add", `{"a":1}`, "--tls-ca", ours.file).want(t, exitDone, texts(`{"sum":1}`), nil)
		wantError(t, env, []string{"call", "math.add", "{}"}, exitFailed, "unavailable",
			"TLS with "+server, "give the authority of its certificate with --tls-ca FILE: x509: certificate signed by")
		wantError(t, env, []string{"services", "ls", "--tls-ca", theirs.file}, exitFailed, "unavailable",
			"TLS with "+server, "the authority of its certificate is not in --tls-ca "+theirs.file)
	}
	env := with("NATS_URL", url)
	rpcdo(t, env, "services", "info", "math", "--tls-ca", ours.file).want(t, exitDone, texts("math.add"), nil)
	rpcdo(t, env, "services", "stats", "--tls-ca", ours.file).want(t, exitDone, texts("math.add"), nil)
	rpcdo(t, env, "bench", "call", "--server", url, "--tls-ca", ours.file, "--duration", "20ms", "--concurrency", "2").
		want(t, exitDone, texts("call/tcp/small"), nil)

	// The certificate is for an address, not for a name.
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, Env{}, []string{"services", "ls", "--server", "tls://localhost:" + port, "--tls-ca", ours.file},
		exitFailed, "unavailable", "check the host's name", "localhost")

	// Waiting is for a bus that is not there.
	wantError(t, env, []string{"serve", "--wait", "10s", "--tls-ca", theirs.file}, exitFailed, "unavailable", "--tls-ca "+theirs.file)
}

func TestTLSClientCertificates(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	cert, key := ours.issue(t, "server")
	// A host that others can reach is allowed then.
	b := start(t, Env{}, "bus", "--port", "0", "--host", "0.0.0.0", "--store", t.TempDir(),
		"--tls-cert", cert, "--tls-key", key, "--tls-ca", ours.file)
	env := with("NATS_URL", urlIn(t, b.waitFor(t, "\n"), "ready "))

	clientCert, clientKey := ours.issue(t, "client")
	trusted := []string{"services", "ls", "--tls-ca", ours.file}
	rpcdo(t, env, append(trusted, "--tls-cert", clientCert, "--tls-key", clientKey)...).want(t, exitDone, nil, texts("no services answered"))

	wantError(t, env, trusted, exitFailed, "unauthenticated", "seems to want a certificate of its clients: give --tls-cert FILE and --tls-key FILE")
	strangerCert, strangerKey := theirs.issue(t, "stranger")
	wantError(t, env, append(trusted, "--tls-cert", strangerCert, "--tls-key", strangerKey), exitFailed, "unauthenticated",
		"seems to refuse the certificate in --tls-cert "+strangerCert)
}

func TestTLSOfABusWithoutIt(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	ours := newAuthority(t)
	wantError(t, Env{}, []string{"services", "ls", "--server", url, "--tls-ca", ours.file}, exitFailed, "unavailable",
		url+" does not offer TLS: leave out --tls-ca")
	secure := "tls://" + strings.TrimPrefix(url, "nats://")
	wantError(t, Env{}, []string{"services", "ls", "--server", secure}, exitFailed, "unavailable", "use nats:// in place of tls://")
}

func TestTLSFiles(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	cert, key := ours.issue(t, "one")
	_, otherKey := ours.issue(t, "other")
	none := filepath.Join(ours.dir, "none.pem")
	locked := ours.write(t, "locked.pem", "ENCRYPTED PRIVATE KEY", []byte("secret"))
	broken := ours.write(t, "broken.pem", "PRIVATE KEY", []byte("secret"))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--tls-cert", none, "--tls-key", key}, "--tls-cert " + none + " can't be read: no such file"},
		{[]string{"--tls-cert", cert, "--tls-key", none}, "--tls-key " + none + " can't be read: no such file"},
		{[]string{"--tls-cert", cert, "--tls-key", ours.dir}, "--tls-key " + ours.dir + " can't be read: is a directory"},
		{[]string{"--tls-cert", cert, "--tls-key", key, "--tls-ca", none}, "--tls-ca " + none + " can't be read: no such file"},
		{[]string{"--tls-cert", cert, "--tls-key", key, "--tls-ca", key}, "--tls-ca " + key + ": no certificate in it"},
		{[]string{"--tls-cert", key, "--tls-key", key}, "--tls-cert " + key + ": no certificate in it"},
		{[]string{"--tls-cert", cert, "--tls-key", cert}, "--tls-key " + cert + ": no private key in it"},
		{[]string{"--tls-cert", cert, "--tls-key", locked}, "--tls-key " + locked + ": the key has a passphrase"},
		{[]string{"--tls-cert", cert, "--tls-key", broken}, "--tls-cert " + cert + " and --tls-key " + broken + " do not make a pair"},
		{[]string{"--tls-cert", cert, "--tls-key", otherKey}, "do not make a pair: private key does not match public key"},
		{[]string{"--tls-cert", cert}, "--tls-cert and --tls-key go together"},
		{[]string{"--tls-key", key}, "--tls-cert and --tls-key go together"},
	} {
		for _, command := range [][]string{
			{"services", "ls", "--server", "127.0.0.1:1"}, {"bench", "call", "--server", "127.0.0.1:1"}, {"bus", "--port", "0", "--store", os.DevNull},
		} {
			wantError(t, Env{}, append(command, c.args...), exitUsage, "invalid_argument", c.want)
		}
	}
}
