package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/server"
)

// patience is how long a test waits for what must happen before it gives up.
const patience = 20 * time.Second

// start runs svc until the test ends and requires that it stops cleanly.
func start(t testing.TB, svc *server.Service) {
	t.Helper()
	stop := run(t, svc)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("service %s: Run returned %v", svc.Name(), err)
		}
	})
}

// run runs svc. The function it returns stops it, once, and returns what Run
// returned.
func run(t testing.TB, svc *server.Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("service %s: Run returned %v", svc.Name(), err)
	}
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

// receive waits for something on c.
func receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// await waits until a condition holds that nothing signals.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// logbook collects what a bus and its services log.
type logbook struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	lines   []logLine
	changed chan struct{} // closed when there is a new line
}

type logLine map[string]any

func (l logLine) has(field, text string) bool {
	v, ok := l[field]
	return ok && strings.Contains(fmt.Sprint(v), text)
}

func newLogbook() *logbook { return &logbook{changed: make(chan struct{})} }

// Write takes one line, as zerolog writes it.
func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var line logLine
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.buf.Write(p)
	l.lines = append(l.lines, line)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// option gives a bus this logbook, at level and above.
func (l *logbook) option(level zerolog.Level) bustest.Option {
	logger := zerolog.New(l).Level(level)
	return bustest.WithConfig(func(c *bus.Config) { c.Logger = &logger })
}

func (l *logbook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) count(match func(logLine) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if match(line) {
			n++
		}
	}
	return n
}

// await waits for a line that matches and returns it.
func (l *logbook) await(t testing.TB, what string, match func(logLine) bool) logLine {
	t.Helper()
	end := time.After(patience)
	for {
		l.mu.Lock()
		changed := l.changed
		for _, line := range l.lines {
			if match(line) {
				l.mu.Unlock()
				return line
			}
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-end:
			t.Fatalf("no line about %s in the log:\n%s", what, l.text())
		}
	}
}

// plain is a NATS client that knows nothing of this library.
type plain struct {
	conn *nats.Conn
}

func plainClient(t testing.TB, srv *natsd.Server) *plain {
	t.Helper()
	conn, err := nats.Connect(srv.URL(), nats.Name("plain"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return &plain{conn}
}

// failure is the body of an error reply, written down once more here so that a
// change of the wire format shows.
type failure struct {
	Code         string          `json:"code"`
	Message      string          `json:"message"`
	Details      json.RawMessage `json:"details"`
	Retryable    bool            `json:"retryable"`
	RetryAfterMs int64           `json:"retryAfterMs"`
}

// statuses are the HTTP statuses of the codes, from docs/protocol.md.
var statuses = map[string]int{
	"canceled": 499, "unknown": 500, "invalid_argument": 400, "deadline_exceeded": 504,
	"not_found": 404, "already_exists": 409, "permission_denied": 403, "resource_exhausted": 429,
	"failed_precondition": 412, "aborted": 409, "out_of_range": 400, "unimplemented": 404,
	"internal": 500, "unavailable": 503, "data_loss": 500, "unauthenticated": 401,
}

// request sends one request with a plain NATS inbox and returns the result or
// the failure, nil for success.
func (p *plain) request(t testing.TB, subject string, body []byte, header nats.Header) ([]byte, *failure) {
	t.Helper()
	msg := &nats.Msg{Subject: subject, Data: body, Header: header}
	reply, err := p.conn.RequestMsg(msg, patience)
	if err != nil {
		t.Fatalf("request %s: %v", subject, err)
	}
	return readReply(t, reply)
}

// readReply reads an answer by hand and checks that its parts agree.
func readReply(t testing.TB, reply *nats.Msg) ([]byte, *failure) {
	t.Helper()
	code := reply.Header.Get("Rpc-Code")
	if code == "" {
		if status := reply.Header.Get("Nats-Service-Error-Code"); status != "" {
			t.Errorf("an error with status %s has no Rpc-Code", status)
		}
		return reply.Data, nil
	}
	f := new(failure)
	if err := json.Unmarshal(reply.Data, f); err != nil {
		t.Fatalf("the body of an error reply is not JSON: %v: %q", err, reply.Data)
	}
	if f.Code != code {
		t.Errorf("Rpc-Code says %q, the body %q", code, f.Code)
	}
	if got, want := reply.Header.Get("Nats-Service-Error-Code"), strconv.Itoa(statuses[code]); got != want {
		t.Errorf("%s has the status %s, want %s", code, got, want)
	}
	if reply.Header.Get("Nats-Service-Error") == "" && f.Message != "" {
		t.Errorf("the header Nats-Service-Error is empty, the message is %q", f.Message)
	}
	return nil, f
}

// header makes headers of pairs of name and value.
func header(pairs ...string) nats.Header {
	h := nats.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// errorOf returns err as an *rpc.Error, which it must be.
func errorOf(t testing.TB, err error) *rpc.Error {
	t.Helper()
	e, ok := err.(*rpc.Error)
	if !ok {
		t.Fatalf("got %T %v, want an *rpc.Error", err, err)
	}
	return e
}

// requireCode fails the test at once when err has another code.
func requireCode(t testing.TB, err error, want rpc.Code) *rpc.Error {
	t.Helper()
	if rpc.CodeOf(err) != want {
		t.Fatalf("got %v, want %v", err, want)
	}
	return errorOf(t, err)
}

// contains fails the test when text lacks one of the parts.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in %q", p, text)
		}
	}
}
