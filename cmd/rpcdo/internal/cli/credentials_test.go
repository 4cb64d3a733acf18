package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

// newSeed makes the key of a user.
func newSeed(t *testing.T) (public, seed string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return public, string(raw)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// credsFile writes a file like nsc's. No server would believe the JWT.
func credsFile(t *testing.T) string {
	t.Helper()
	_, seed := newSeed(t)
	return writeFile(t, "-----BEGIN NATS USER JWT-----\nh.p.s\n------END NATS USER JWT------\n\n"+
		"-----BEGIN USER NKEY SEED-----\n"+seed+"\n------END USER NKEY SEED------\n")
}

func securedBus(t *testing.T, secure func(*natsd.Config)) (address string) {
	t.Helper()
	return bustest.Server(t, bustest.WithServer(secure)).Address()
}

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	at := securedBus(t, func(c *natsd.Config) { c.Users = []natsd.User{{Name: "app", Password: "hunter2"}} })
	ls := []string{"services", "ls", "--server", at}
	noServices := texts("no services answered")
	rpcdo(t, with("NATS_PASSWORD", "hunter2"), append(ls, "--user", "app")...).want(t, exitDone, nil, noServices)
	rpcdo(t, with("NATS_PASSWORD", "hunter2", "NATS_USER", "app"), ls...).want(t, exitDone, nil, noServices)
	// What the command line says takes the place of what the environment says.
	env := with("NATS_PASSWORD", "hunter2", "NATS_USER", "nobody", "NATS_TOKEN", "x", "NATS_CREDS", "/none")
	rpcdo(t, env, append(ls, "--user", "app")...).want(t, exitDone, nil, noServices)
	rpcdo(t, env, "services", "ls", "--server", "nats://app:hunter2@"+at).want(t, exitDone, nil, noServices)
	// Several connections are made with what was found out once.
	rpcdo(t, with("NATS_PASSWORD", "hunter2", "NATS_USER", "app"), "bench", "call", "--server", at,
		"--baseline", "--duration", "20ms", "--concurrency", "2").want(t, exitDone, texts("call/tcp/small"), nil)

	for _, c := range []struct {
		env  Env
		args []string
		want string
	}{
		{Env{}, nil, "wants credentials: give --creds FILE, --nkey FILE, --user NAME with NATS_PASSWORD set, or set NATS_TOKEN"},
		{with("NATS_PASSWORD", "wrong2"), []string{"--user", "app"}, "refused --user app with the password in NATS_PASSWORD"},
		{with("NATS_PASSWORD", "wrong2", "NATS_USER", "app"), nil, "refused NATS_USER app with the password in NATS_PASSWORD"},
		{with("NATS_TOKEN", "wrong2"), nil, "refused the token in NATS_TOKEN"},
	} {
		wantError(t, c.env, append(ls, c.args...), exitFailed, "unauthenticated", at, c.want)
		if o := rpcdo(t, c.env, append(ls, c.args...)...); strings.Contains(o.err, "wrong2") {
			t.Errorf("the secret is shown: %s", o.err)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	at := securedBus(t, func(c *natsd.Config) { c.Token = "hunter2" })
	rpcdo(t, with("NATS_TOKEN", "hunter2"), "services", "ls", "--server", at).want(t, exitDone, nil, texts("no services"))

	// In a URL a token has the place of the user's name, which others may see.
	env := with("NATS_URL", "nats://hunter2@"+at)
	s := start(t, env, "serve", "--log-level", "trace", "--log-format", "json")
	if said := s.waitFor(t, "\n"); said != "ready nats://"+at+" greeter math objects\n" {
		t.Errorf("said %q", said)
	}
	rpcdo(t, env, "call", "math.add", "{}").want(t, exitDone, texts("0"), nil)
	if status := s.stop(t); status != exitDone || strings.Contains(s.err.String(), "hunter2") {
		t.Errorf("status %d, the log says %s", status, &s.err)
	}
	o := rpcdo(t, env, "services", "info", "nope")
	o.want(t, exitFailed, nil, texts("answered on nats://"+at))
	if strings.Contains(o.err, "hunter2") {
		t.Errorf("the token is shown: %s", o.err)
	}
	wantError(t, with("NATS_URL", "nats://wrong@"+at), []string{"services", "ls"}, exitFailed, "unauthenticated",
		"nats://"+at+" refused the credentials in NATS_URL")
}

func TestNKey(t *testing.T) {
	t.Parallel()
	public, seed := newSeed(t)
	at := securedBus(t, func(c *natsd.Config) { c.NKeys = []string{public} })
	ls := []string{"services", "ls", "--server", at, "--nkey"}
	rpcdo(t, Env{}, append(ls, writeFile(t, "# mine\n"+seed+"\n"))...).want(t, exitDone, nil, texts("no services"))
	_, other := newSeed(t)
	file := writeFile(t, other)
	wantError(t, Env{}, append(ls, file), exitFailed, "unauthenticated", at+" refused the key in --nkey "+file)
	for _, text := range []string{"", "nonsense", public, "SU" + strings.Repeat("A", 56), other[:40]} {
		file := writeFile(t, text)
		wantError(t, Env{}, append(ls, file), exitUsage, "invalid_argument", "--nkey "+file+": no seed of a user in it, which begins with SU (")
	}
	wantError(t, Env{}, append(ls, "/none"), exitUsage, "invalid_argument", "--nkey /none can't be read: no such file")
}

func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	file := credsFile(t)
	open := bustest.Server(t).Address() // asks nobody, so it takes anybody
	rpcdo(t, with("NATS_CREDS", file), "services", "ls", "--server", open).want(t, exitDone, nil, texts("no services"))
	rpcdo(t, with("NATS_CREDS", "/none"), "services", "ls", "--server", open, "--creds", file).want(t, exitDone, nil, texts("no services"))

	at := securedBus(t, func(c *natsd.Config) { c.Users = []natsd.User{{Name: "app", Password: "hunter2"}} })
	wantError(t, Env{}, []string{"services", "ls", "--server", at, "--creds", file}, exitFailed, "unauthenticated",
		"refused the credentials in --creds "+file)
	wantError(t, with("NATS_CREDS", file), []string{"services", "ls", "--server", at}, exitFailed, "unauthenticated",
		"refused the credentials in NATS_CREDS "+file)
	wantError(t, with("NATS_CREDS", "/none"), []string{"services", "ls"}, exitUsage, "invalid_argument",
		"NATS_CREDS /none can't be read: no such file")
	_, seed := newSeed(t)
	for _, text := range []string{"", "nonsense", seed, "-----BEGIN NATS USER JWT-----\nh.p.s\n------END NATS USER JWT------\n"} {
		file := writeFile(t, text)
		wantError(t, Env{}, []string{"services", "ls", "--creds", file}, exitUsage, "invalid_argument",
			"--creds "+file+": no JWT and seed of a user in it")
	}
}

func TestOneKindOfCredentials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  Env
		args []string
		want string
	}{
		{Env{}, []string{"--creds", "a", "--nkey", "b"}, "--creds and --nkey hold credentials: give one of them"},
		{Env{}, []string{"--creds", "a", "--user", "b"}, "--creds and --user hold credentials"},
		{Env{}, []string{"--server", "nats://t0ken@a", "--nkey", "b"}, "--server and --nkey hold credentials"},
		{with("NATS_URL", "nats://t0ken@a"), []string{"--creds", "b"}, "NATS_URL and --creds hold credentials"},
		{with("NATS_URL", "nats://t0ken@a", "NATS_TOKEN", "t0ken"), nil, "NATS_URL and NATS_TOKEN hold credentials"},
		{with("NATS_CREDS", "b", "NATS_USER", "u"), nil, "NATS_CREDS and NATS_USER hold credentials"},
		{Env{}, []string{"--user", "u"}, "--user u: the password is missing: set NATS_PASSWORD"},
		{with("NATS_USER", "u"), nil, "NATS_USER u: the password is missing: set NATS_PASSWORD"},
		{with("NATS_URL", "foo://x"), nil, "NATS_URL: unknown scheme"},
	} {
		wantError(t, c.env, append([]string{"services", "ls"}, c.args...), exitUsage, "invalid_argument", c.want)
		if o := rpcdo(t, c.env, append([]string{"services", "ls"}, c.args...)...); strings.Contains(o.err, "t0ken") {
			t.Errorf("the token is shown: %s", o.err)
		}
	}
}

func TestOneOfTwoServersIsDown(t *testing.T) {
	t.Parallel()
	at := bustest.Server(t).Address()
	for _, servers := range []string{"127.0.0.1:1," + at, at + ",127.0.0.1:1", " nats://127.0.0.1:1 , nats://" + at} {
		rpcdo(t, Env{}, "services", "ls", "--server", servers).want(t, exitDone, nil, texts("no services"))
	}
	wantError(t, Env{}, []string{"services", "ls", "--server", "127.0.0.1:1,127.0.0.1:2"}, exitFailed, "unavailable",
		"nothing listens at nats://127.0.0.1:1, nats://127.0.0.1:2")
}

func TestHostThatCanNotBeListenedOn(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"0", freePort(t)} {
		wantError(t, Env{}, []string{"bus", "--host", "192.0.2.1", "--allow-insecure", "--port", port, "--store", t.TempDir()},
			exitFailed, "failed_precondition", "192.0.2.1")
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
