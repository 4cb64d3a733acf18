package cli

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
)

// urlIn returns the URL in a line that begins with prefix.
func urlIn(t *testing.T, text, prefix string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			url, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			return url
		}
	}
	t.Fatalf("no line begins with %q in %q", prefix, text)
	return ""
}

func TestDevSaysWhatToTryAndItWorks(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "new", "store")
	p := start(t, Env{Program: "./my rpcdo"}, "dev", "--nats-port", "0", "--store", store)
	banner := p.waitFor(t, "Ctrl-C stops.\n")
	url := urlIn(t, banner, "rpcdo dev: ready ")
	for _, want := range []string{url, "JetStream", "127.0.0.1", store, "sync: interval", "power failure", "pipeline 1.0.0", "math 1.0.0", "greeter 1.0.0", "objects   counter", "events    User.registered", "schedules ticks for greet"} {
		if !strings.Contains(banner, want) {
			t.Errorf("the banner lacks %q:\n%s", want, banner)
		}
	}
	var tried int
	for line := range strings.Lines(banner) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "./my rpcdo ")
		if !ok {
			continue
		}
		tried++
		o := rpcdo(t, Env{}, words(command)...)
		o.want(t, exitDone, texts([]string{"stored $.User.registered", "created hello", `{"sum":3}`, `{"message":"Hello, Ada!"}`, `{"value":1}`, "greeter"}[tried-1]), nil)
	}
	if tried != 6 {
		t.Errorf("%d lines to try in the banner, want 6:\n%s", tried, banner)
	}
	if status := p.stop(t); status != exitDone || p.err.String() != "" {
		t.Errorf("stopped with status %d, stderr %q", status, &p.err)
	}
	rpcdo(t, Env{}, "call", "math.add", "--server", url).want(t, exitFailed, nil, texts("nothing listens"))
}

// words splits a command line as a shell does; single quotes are all it knows.
func words(line string) []string {
	var words []string
	var word strings.Builder
	quoted := false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted = !quoted
		case r == ' ' && !quoted:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	return words
}

func TestTryLinesNameTheBusWhenNeeded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env, url string
		named    bool
	}{
		{"", bus.DefaultURL, false},
		{"", "nats://127.0.0.1:5000", true},
		{"nats://127.0.0.1:5000", "nats://127.0.0.1:5000", false},
		{"nats://elsewhere:4222", bus.DefaultURL, true},
	} {
		a := &app{env: with("NATS_URL", c.env).withDefaults()}
		for _, line := range a.tryLines(c.url, true) {
			if strings.Contains(line, " --server "+c.url) != c.named || !strings.HasPrefix(line, "rpcdo ") {
				t.Errorf("NATS_URL %q, bus %s: %s", c.env, c.url, line)
			}
		}
	}
}

// A banner that can't be printed ends the command, with the reason.
func TestBannerThatCanNotBePrinted(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"dev", "--nats-port", "0", "--store", t.TempDir()}, {"dev", "--nats-port", "0", "--store", t.TempDir(), "--json"},
	} {
		var errs transcript
		status := Run(t.Context(), args, Env{Out: full{t}, Err: &errs})
		if status != exitFailed || !strings.Contains(errs.String(), errFull.Error()) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: status %d, stderr %q", args, status, &errs)
		}
	}
}

var errFull = errors.New("no space left")

// full is a writer that takes nothing. It says so when the bus has settled that it
// is told of.
type full struct{ *testing.T }

func (f full) Write(text []byte) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{urlOf(string(text))}})
	if err != nil {
		return 0, err
	}
	settle(ctx, f.T, b)
	return 0, errors.Join(errFull, b.Close())
}

// With --json what a program reads on stderr is JSON too.
func TestLogsAreJSONWhenErrorsAre(t *testing.T) {
	t.Parallel()
	p := start(t, Env{}, "dev", "--nats-port", "0", "--store", t.TempDir(), "--json")
	url := fromJSON[ready](t, p.waitFor(t, "}\n")).Ready
	rpcdo(t, Env{}, "call", "math.divide", `{"a":1}`, "--server", url).want(t, exitFailed, nil, texts("zero"))
	<-p.err.contains("\n")
	if entry := fromJSON[map[string]any](t, p.err.String()); entry["level"] != "warn" || entry["code"] != "invalid_argument" {
		t.Errorf("log %s", &p.err)
	}
}

func TestDevKeepsWhatIsStored(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	withStream := func(do func(context.Context, jetstream.JetStream) error) {
		t.Helper()
		p := start(t, Env{}, "dev", "--nats-port", "0", "--store", store, "--demo=false", "--json")
		said := fromJSON[ready](t, p.waitFor(t, "}\n"))
		if said.Store != store || said.Sync != "interval" || !slices.Equal(said.Services, texts("pipeline")) {
			t.Errorf("said %+v", said)
		}
		b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{said.Ready}})
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(b.Conn())
		if err == nil {
			err = do(t.Context(), js)
		}
		if err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if status := p.stop(t); status != exitDone {
			t.Errorf("status %d: %s", status, &p.err)
		}
	}
	withStream(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}})
		return err
	})
	withStream(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, "KEPT")
		return err
	})
}

func TestDevTakesNothingThatIsInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	for _, args := range [][]string{
		{"dev", "--nats-port", port, "--store", t.TempDir()},
		{"bus", "--port", port, "--store", t.TempDir()},
	} {
		o := rpcdo(t, Env{}, args...)
		o.want(t, exitFailed, nil, texts("127.0.0.1:"+port+" is in use", "choose another port", "--nats-port", "--port"))
		o.wantLine(t)
		if p := fromJSON[problem](t, rpcdo(t, Env{}, append(args, "--json")...).err); p.Code != "failed_precondition" {
			t.Errorf("code %s", p.Code)
		}
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := rpcdo(t, Env{}, "dev", "--nats-port", "0", "--store", filepath.Join(file, "store"))
	o.want(t, exitFailed, nil, texts("store directory "+file, "can't be used", "choose another"))
	o.wantLine(t)

	store := t.TempDir()
	start(t, Env{}, "dev", "--nats-port", "0", "--store", store).waitFor(t, "Ctrl-C")
	o = rpcdo(t, Env{}, "dev", "--nats-port", "0", "--store", store)
	o.want(t, exitFailed, nil, texts(store, "another server is using it"))
	o.wantLine(t)
}

func TestDevThatIsStoppedEarlyEndsCleanly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs transcript
	status := Run(ctx, []string{"dev", "--nats-port", "0", "--store", t.TempDir()}, Env{Out: &out, Err: &errs})
	if status != exitDone || errs.String() != "" {
		t.Errorf("status %d, stderr %q", status, &errs)
	}
}

func TestDefaultStore(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"dev", "bus", "bus"} {
		dir, err := storeDir("", name)
		if err != nil {
			t.Fatal(err)
		}
		if !filepath.IsAbs(dir) || !strings.HasSuffix(dir, filepath.Join(".rpcdo", name)) {
			t.Errorf("the default store is %s", dir)
		}
	}
	if ignored, err := os.ReadFile(".rpcdo/.gitignore"); err != nil || string(ignored) != "*\n" {
		t.Errorf(".gitignore: %q, %v", ignored, err)
	}
	if err := os.RemoveAll(".rpcdo"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(".rpcdo", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := rpcdo(t, Env{}, "dev", "--nats-port", "0")
	o.want(t, exitFailed, nil, texts("the store .rpcdo can't be used", "--store"))
	o.wantLine(t)
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"/usr/bin/rpcdo": "/usr/bin/rpcdo", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'",
	} {
		if got := shellQuote(word); got != want {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
}
