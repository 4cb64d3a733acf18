package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/schedule"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// patience bounds every wait of a test.
const patience = time.Minute

// outcome is what a command did.
type outcome struct {
	status   int
	out, err string
}

// rpcdo runs a command line to its end.
func rpcdo(t *testing.T, env Env, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs transcript
	env.Out, env.Err = &out, &errs
	status := Run(ctx, args, env)
	if ctx.Err() != nil {
		t.Fatalf("rpcdo %q did not end within %v", args, patience)
	}
	return outcome{status, out.String(), errs.String()}
}

// want checks a command's status and outputs. An output is wanted as it is, or
// to contain each of the given texts; nothing given wants an empty one.
func (o outcome) want(t *testing.T, status int, out, errs []string) {
	t.Helper()
	wrong := o.status != status
	if wrong {
		t.Errorf("status %d, want %d", o.status, status)
	}
	for _, stream := range []struct {
		name, got string
		want      []string
	}{{"stdout", o.out, out}, {"stderr", o.err, errs}} {
		if len(stream.want) == 0 && stream.got != "" {
			wrong = true
			t.Errorf("%s: %q, want nothing", stream.name, stream.got)
		}
		for _, text := range stream.want {
			if !strings.Contains(stream.got, text) {
				wrong = true
				t.Errorf("%s: %q, want it to contain %q", stream.name, stream.got, text)
			}
		}
	}
	if wrong {
		t.Logf("stdout: %s\nstderr: %s", o.out, o.err)
	}
}

func texts(s ...string) []string { return s }

// wantLine checks that an error is one line.
func (o outcome) wantLine(t *testing.T) {
	t.Helper()
	if strings.Count(o.err, "\n") != 1 || !strings.HasSuffix(o.err, "\n") {
		t.Errorf("stderr: %q, want one line", o.err)
	}
}

// process is a command that runs until it is stopped.
type process struct {
	out, err transcript
	env      Env
	args     []string
	cancel   context.CancelFunc
	done     chan struct{}
	status   int
}

// start runs a command line until stop, or the end of the test.
func start(t *testing.T, env Env, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{env: env, args: args, cancel: cancel, done: make(chan struct{})}
	env.Out, env.Err = &p.out, &p.err
	go func() {
		defer close(p.done)
		p.status = Run(ctx, args, env)
	}()
	t.Cleanup(func() { p.stop(t) })
	return p
}

// stop ends the command as a signal would and returns its status.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	p.settle(t)
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("the command did not stop within %v", patience)
	}
	return p.status
}

// settle waits until what the services of a command have begun is under way, see
// settle. It does nothing when the bus is gone, or there are none.
func (p *process) settle(t *testing.T) {
	t.Helper()
	out := p.out.String()
	if args := p.args; args[0] != "dev" && args[0] != "serve" || !strings.Contains(out, "ready") {
		return
	}
	select {
	case <-p.done:
		return
	default:
	}
	args := p.args[1:]
	if p.args[0] == "dev" {
		args = []string{"--server", urlOf(out)}
	}
	f, cmd := &connection{}, &cobra.Command{FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}}
	f.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if b, err := f.open(ctx, &app{env: p.env.withDefaults()}, nil, 0); err == nil {
		settle(ctx, t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// urlOf returns the URL of a bus in what a command has printed.
func urlOf(out string) string { return regexp.MustCompile(`nats://127[0-9.:]+`).FindString(out) }

// settle waits until the stream EVENTS takes in what it is to take in, and somebody
// follows the schedules. A server that ends before leaves a goroutine behind for
// half a minute, and an instance that does the consumer that it has asked for.
func settle(ctx context.Context, t *testing.T, b *bus.Bus) {
	t.Helper()
	for {
		events, err := b.JetStream().Stream(ctx, bus.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		waits := slices.ContainsFunc(events.CachedInfo().Sources, func(s *jetstream.StreamSourceInfo) bool { return s.Active < 0 })
		bucket, err := b.JetStream().Stream(ctx, "KV_"+schedule.Bucket)
		if err != nil {
			t.Fatal(err)
		}
		followed := false
		for info := range bucket.ListConsumers(ctx).Info() {
			followed = followed || info.Config.HeadersOnly
		}
		if !waits && followed {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the services do not settle")
		}
	}
}

// waitFor waits until stdout contains text, and returns stdout.
func (p *process) waitFor(t *testing.T, text string) string {
	t.Helper()
	select {
	case <-p.out.contains(text):
	case <-p.done:
		if !strings.Contains(p.out.String(), text) {
			t.Fatalf("the command ended with status %d before it printed %q\nstdout: %s\nstderr: %s", p.status, text, &p.out, &p.err)
		}
	case <-time.After(patience):
		t.Fatalf("no %q on stdout within %v\nstdout: %s\nstderr: %s", text, patience, &p.out, &p.err)
	}
	return p.out.String()
}

// transcript keeps what is written and tells when a text has been.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	waiting map[string]chan struct{}
}

func (w *transcript) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(data)
	for text, seen := range w.waiting {
		if strings.Contains(w.text.String(), text) {
			close(seen)
			delete(w.waiting, text)
		}
	}
	return len(data), nil
}

func (w *transcript) contains(text string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if seen, ok := w.waiting[text]; ok {
		return seen
	}
	seen := make(chan struct{})
	if strings.Contains(w.text.String(), text) {
		close(seen)
		return seen
	}
	if w.waiting == nil {
		w.waiting = map[string]chan struct{}{}
	}
	w.waiting[text] = seen
	return seen
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// with returns an environment with these variables: name, value, name, value.
func with(variables ...string) Env {
	return Env{Getenv: func(name string) string {
		for i := 0; i < len(variables); i += 2 {
			if variables[i] == name {
				return variables[i+1]
			}
		}
		return ""
	}}
}

// demoBus returns the URL of a bus with the demo services on it.
func demoBus(t *testing.T) string {
	t.Helper()
	url := bustest.Server(t).URL()
	start(t, Env{}, "serve", "--server", url).waitFor(t, "ready "+url+" greeter math objects\n")
	return url
}

func fromJSON[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q is not the JSON that was expected: %v", text, err)
	}
	return v
}
