package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"rpc.do/bus/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// patience bounds every wait of a test.
const patience = 20 * time.Second

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
	cancel   context.CancelFunc
	done     chan struct{}
	status   int
}

// start runs a command line until stop, or the end of the test.
func start(t *testing.T, env Env, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel: cancel, done: make(chan struct{})}
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
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("the command did not stop within %v", patience)
	}
	return p.status
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
