package pipelineworker_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
	"rpc.do/server/workers/pipelineworker"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// lab is a bus with the pipeline service on it, and a client.
type lab struct {
	*testing.T
	srv *natsd.Server
	b   *bus.Bus
	c   *client.Client
	p   *pipeline.Pipeline

	workers int // instances of the service
}

func newLab(t *testing.T, cfg pipelineworker.Config, opts ...bustest.Option) *lab {
	t.Helper()
	srv := bustest.Server(t, opts...)
	b := bustest.Connect(t, srv, bustest.WithConfig(func(c *bus.Config) { c.Name = "tester" }))
	l := &lab{T: t, srv: srv, b: b, c: client.New(b, client.Config{}), p: pipeline.New(b, pipeline.Config{})}
	t.Cleanup(func() {
		if err := settled(b); err != nil {
			t.Error(err)
		}
	})
	l.serveWorker(bustest.Connect(t, srv), cfg)
	return l
}

// serveWorker runs an instance of the pipeline service until the test ends. It
// returns when the instance follows the schedules, which it begins with when it is
// ready: one that is stopped before leaves the consumer behind that it asked for.
func (l *lab) serveWorker(b *bus.Bus, cfg pipelineworker.Config) {
	l.Helper()
	l.workers++
	l.serve(pipelineworker.New(b, cfg))
	l.until("the service follows the schedules", func() bool {
		bucket, err := l.b.JetStream().Stream(l.Context(), "KV_"+schedule.Bucket)
		if err != nil {
			l.Fatal(err)
		}
		following := 0
		for info := range bucket.ListConsumers(l.Context()).Info() {
			if info.Config.HeadersOnly {
				following++
			}
		}
		return following >= l.workers
	})
}

// settled waits until the stream EVENTS takes in what it is to take in. A server
// that ends before leaves a goroutine behind for half a minute.
func settled(b *bus.Bus) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		events, err := b.JetStream().Stream(ctx, bus.EventsStream)
		if err != nil {
			return err
		}
		waits := func(s *jetstream.StreamSourceInfo) bool { return s.Active < 0 }
		if !slices.ContainsFunc(events.CachedInfo().Sources, waits) {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve runs a service until the test ends.
func (l *lab) serve(svc *server.Service) {
	l.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	l.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.Errorf("%s: %v", svc.Name(), err)
			}
		case <-time.After(patience):
			l.Errorf("%s does not end", svc.Name())
		}
	})
	select {
	case <-svc.Ready():
	case err := <-ended:
		ended <- nil
		l.Fatalf("%s: %v", svc.Name(), err)
	case <-time.After(patience):
		l.Fatalf("%s does not get ready", svc.Name())
	}
}

// call calls a method, which has to work.
func call[P, R any](l *lab, m rpc.Method[P, R], params P, opts ...rpc.CallOption) R {
	l.Helper()
	r, err := m.Call(l.Context(), l.c, params, opts...)
	if err != nil {
		l.Fatalf("%s: %v", m.Spec().Name(), err)
	}
	return r
}

// refused calls a method, which has to fail with that code and these words.
func refused[P, R any](l *lab, m rpc.Method[P, R], params P, code rpc.Code, words ...string) {
	l.Helper()
	_, err := m.Call(l.Context(), l.c, params)
	l.coded(err, code, words...)
}

func (l *lab) coded(err error, code rpc.Code, words ...string) {
	l.Helper()
	if rpc.CodeOf(err) != code {
		l.Fatalf("error %v (%v), want %v", err, rpc.CodeOf(err), code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			l.Fatalf("error %v, want one with %q", err, w)
		}
	}
}

// raw calls a method as a client does that knows nothing but NATS. The code of the
// answer is empty when it is a result.
func (l *lab) raw(method, params string, header nats.Header) (result map[string]any, code string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	msg, err := l.b.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: "rpc.pipeline." + method, Data: []byte(params), Header: header})
	if err != nil {
		l.Fatalf("%s: %v", method, err)
	}
	if err := json.Unmarshal(msg.Data, &result); err != nil {
		l.Fatalf("%s has answered %q: %v", method, msg.Data, err)
	}
	return result, msg.Header.Get("Rpc-Code")
}

// stored returns all events of a type.
func (l *lab) stored(eventType string) []pipeline.RawEvent {
	l.Helper()
	page, err := l.p.History(l.Context(), pipeline.Query{Patterns: []string{eventType}})
	if err != nil {
		l.Fatal(err)
	}
	return page.Events
}

// until waits for a condition that nothing announces.
func (l *lab) until(what string, met func() bool) {
	l.Helper()
	limit := time.After(patience)
	for !met() {
		select {
		case <-limit:
			l.Fatalf("waited %v in vain until %s", patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// firstAnswers lets go of the answers to first attempts of a method when the test
// ends: to the client they are lost.
func firstAnswers(t *testing.T, method string) server.Config {
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	return server.Config{Interceptors: []rpc.Interceptor{{Name: "lose", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			err := next(ctx, call)
			if call.Method == method && call.Attempt == 1 {
				select {
				case <-ended:
				case <-ctx.Done():
				}
			}
			return err
		}
	}}}}
}
