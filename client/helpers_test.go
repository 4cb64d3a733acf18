package client_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// addParams and the methods below are the contract most tests use.
type addParams struct {
	A int `json:"a"`
	B int `json:"b"`
}

var (
	add     = rpc.NewMethod[addParams, int]("calc.add")
	addIdem = rpc.NewMethod[addParams, int]("calc.add", rpc.Idempotent())
	ping    = rpc.NewMethod[rpc.None, rpc.None]("calc.ping")
)

func adder(_ context.Context, p addParams) (int, error) { return p.A + p.B, nil }

// twoBuses returns a server with one connection for services and one for clients.
func twoBuses(t testing.TB) (srv *natsd.Server, serving, calling *bus.Bus) {
	t.Helper()
	srv = bustest.Server(t)
	named := func(name string) bustest.Option {
		return bustest.WithConfig(func(c *bus.Config) { c.Name = name })
	}
	return srv, bustest.Connect(t, srv, named("serving")), bustest.Connect(t, srv, named("calling"))
}

// run serves svc until stop is called or the test ends.
func run(t testing.TB, svc *server.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-done:
		t.Fatalf("the service did not start: %v", err)
	case <-time.After(patience):
		t.Fatal("the service did not start in time")
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service did not stop cleanly: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// overBoth runs a test twice: with the service behind the bus, and with it in
// the client's process.
func overBoth(t *testing.T, register func(*server.Service), test func(t *testing.T, c *client.Client)) {
	overBothWith(t, server.Config{}, client.Config{}, register, test)
}

func overBothWith(t *testing.T, scfg server.Config, ccfg client.Config, register func(*server.Service), test func(t *testing.T, c *client.Client)) {
	t.Run("wire", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		svc := server.New(serving, "calc", scfg)
		register(svc)
		run(t, svc)
		test(t, client.New(calling, ccfg))
	})
	t.Run("shortcut", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		svc := server.New(b, "calc", scfg)
		register(svc)
		run(t, svc)
		before := b.Conn().Stats().OutMsgs
		test(t, client.New(b, ccfg))
		if sent := b.Conn().Stats().OutMsgs - before; sent != 0 {
			t.Errorf("%d messages went over the bus; the shortcut needs none", sent)
		}
	})
}

// peer is a plain NATS subscriber that a test answers by hand.
type peer struct {
	t        testing.TB
	conn     *nats.Conn
	requests chan *nats.Msg
}

// listen subscribes to subject with nats.go alone.
func listen(t testing.TB, b *bus.Bus, subject string) *peer {
	t.Helper()
	p := &peer{t, b.Conn(), make(chan *nats.Msg, 4096)}
	sub, err := p.conn.ChanSubscribe(subject, p.requests)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return p
}

// next returns the next message.
func (p *peer) next() *nats.Msg {
	p.t.Helper()
	return await(p.t, p.requests, "a message")
}

// arrived returns how many messages lie unread, after everything that from has
// sent until now.
func (p *peer) arrived(from *bus.Bus) int {
	p.t.Helper()
	flush(p.t, from)
	if err := p.conn.FlushTimeout(patience); err != nil {
		p.t.Fatal(err)
	}
	return len(p.requests)
}

// each answers requests with fn until the test ends; n counts from 1.
func (p *peer) each(fn func(n int, m *nats.Msg)) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case m := <-p.requests:
				fn(n, m)
			case <-quit:
				return
			}
		}
	}()
	p.t.Cleanup(func() { close(quit); <-done })
}

// answer sends data as the answer to m.
func (p *peer) answer(m *nats.Msg, data string) {
	if err := p.conn.Publish(m.Reply, []byte(data)); err != nil {
		p.t.Error(err)
	}
}

// fail answers m with an error as PROTOCOL.md describes it.
func (p *peer) fail(m *nats.Msg, status, code, body string) {
	msg := nats.NewMsg(m.Reply)
	msg.Header.Set("Nats-Service-Error-Code", status)
	msg.Header.Set("Nats-Service-Error", "failed by hand")
	msg.Header.Set("Rpc-Code", code)
	msg.Data = []byte(body)
	if err := p.conn.PublishMsg(msg); err != nil {
		p.t.Error(err)
	}
}

const shedBody = `{"code":"resource_exhausted","message":"full","retryable":true,"retryAfterMs":%d}`

// nobody answers m as the server does when nobody listens.
func (p *peer) nobody(m *nats.Msg) {
	msg := nats.NewMsg(m.Reply)
	msg.Header.Set("Status", "503")
	if err := p.conn.PublishMsg(msg); err != nil {
		p.t.Error(err)
	}
}

func flush(t testing.TB, b *bus.Bus) {
	t.Helper()
	if err := b.Conn().FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

// await returns what comes through ch.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// until waits for a condition that nothing announces.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// outcome is what a call returned, and after how long.
type outcome[R any] struct {
	result R
	err    error
	took   time.Duration
}

// begin makes a call in a goroutine of its own.
func begin[R any](call func() (R, error)) <-chan outcome[R] {
	out := make(chan outcome[R], 1)
	go func() {
		start := time.Now()
		r, err := call()
		out <- outcome[R]{r, err, time.Since(start)}
	}()
	return out
}

// wantCode checks an error's code and that its text holds every one of texts.
func wantCode(t testing.TB, err error, code rpc.Code, texts ...string) {
	t.Helper()
	if rpc.CodeOf(err) != code {
		t.Fatalf("error %v: want the code %v", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// wantResult checks what a call returned.
func wantResult[R comparable](t testing.TB, got R, err error, want R) {
	t.Helper()
	if err != nil {
		t.Fatalf("call: %v", err)
	}
	if got != want {
		t.Fatalf("result %v, want %v", got, want)
	}
}

// within checks that something took no longer than limit.
func within(t testing.TB, took, limit time.Duration) {
	t.Helper()
	if took > limit {
		t.Errorf("took %v, at most %v is right", took, limit)
	}
}
