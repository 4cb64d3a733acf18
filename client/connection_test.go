package client_test

import (
	"context"
	"sync"
	"sync/atomic"
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

// disconnected stops the server and waits until all buses have noticed.
func disconnected(t testing.TB, srv *natsd.Server, buses ...*bus.Bus) {
	t.Helper()
	srv.Shutdown()
	for _, b := range buses {
		until(t, "the connection is lost", func() bool { return !b.Connected() })
	}
}

// restarted starts the server again, where it was, and waits for all buses.
func restarted(t testing.TB, srv *natsd.Server, buses ...*bus.Bus) {
	t.Helper()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range buses {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := b.WaitConnected(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// stuckOnce serves calc.add so that every call blocks until the bus has been
// lost; later ones return.
type stuckOnce struct {
	runs    atomic.Int64
	running chan struct{}
	lost    chan struct{}
}

func serveStuck(t testing.TB, b *bus.Bus, calls int) *stuckOnce {
	t.Helper()
	s := &stuckOnce{running: make(chan struct{}, 1000), lost: make(chan struct{})}
	stop := b.OnDisconnect(sync.OnceFunc(func() { close(s.lost) }))
	t.Cleanup(stop)
	svc := server.New(b, "calc", server.Config{})
	server.Handle(svc, add, func(ctx context.Context, p addParams) (int, error) {
		s.runs.Add(1)
		s.running <- struct{}{}
		select {
		case <-s.lost:
		case <-ctx.Done():
		}
		return p.A + p.B, nil
	})
	run(t, svc)
	return s
}

func TestConnectionLostDuringCalls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		method rpc.Method[addParams, int]
	}{{"not idempotent", add}, {"idempotent", addIdem}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const calls = 50
			srv, serving, calling := twoBuses(t)
			s := serveStuck(t, serving, calls)
			c := client.New(calling, client.Config{MaxAttempts: 50, RetryBudget: 10_000})
			var results [calls]<-chan outcome[int]
			for i := range results {
				results[i] = begin(func() (int, error) {
					return tc.method.Call(t.Context(), c, addParams{i, 1}, rpc.WithTimeout(time.Minute))
				})
			}
			for range results {
				await(t, s.running, "a handler")
			}
			disconnected(t, srv, calling)
			if !tc.method.Spec().Idempotent {
				for _, r := range results {
					got := await(t, r, "a call")
					wantCode(t, got.err, rpc.Unavailable, "calc.add", "connection to the bus was lost", "may have run")
					within(t, got.took, 20*time.Second)
				}
			}
			restarted(t, srv, serving, calling)
			if !tc.method.Spec().Idempotent {
				if n := s.runs.Load(); n != calls {
					t.Errorf("%d runs of %d calls", n, calls)
				}
				return
			}
			for i, r := range results {
				got := await(t, r, "a call")
				wantResult(t, got.result, got.err, i+1)
			}
		})
	}
}

func TestCallWhileDisconnected(t *testing.T) {
	t.Parallel()
	t.Run("comes back", func(t *testing.T) {
		t.Parallel()
		srv, serving, calling := twoBuses(t)
		var runs atomic.Int64
		svc := server.New(serving, "calc", server.Config{})
		server.Handle(svc, add, func(_ context.Context, p addParams) (int, error) {
			runs.Add(1)
			return p.A + p.B, nil
		})
		run(t, svc)
		c := client.New(calling, client.Config{MaxAttempts: 100})
		disconnected(t, srv, calling)
		const calls = 50
		var results [calls]<-chan outcome[int]
		for i := range results {
			results[i] = begin(func() (int, error) {
				return add.Call(t.Context(), c, addParams{i, 1}, rpc.WithTimeout(time.Minute))
			})
		}
		restarted(t, srv, serving, calling)
		for i, r := range results {
			got := await(t, r, "a call")
			wantResult(t, got.result, got.err, i+1)
		}
		if n := runs.Load(); n != calls {
			t.Errorf("%d runs of %d calls", n, calls)
		}
	})
	t.Run("stays away", func(t *testing.T) {
		t.Parallel()
		srv, _, calling := twoBuses(t)
		c := client.New(calling, client.Config{})
		disconnected(t, srv, calling)
		for _, m := range []rpc.Method[addParams, int]{add, addIdem} {
			start := time.Now()
			_, err := m.Call(t.Context(), c, addParams{}, rpc.WithTimeout(300*time.Millisecond))
			took := time.Since(start)
			wantCode(t, err, rpc.Unavailable, "calc.add", "not sent", "not connected")
			if took < 290*time.Millisecond {
				t.Errorf("gave up after %v of 300ms", took)
			}
			within(t, took, 5*time.Second)
		}
	})
	t.Run("comes back late", func(t *testing.T) {
		// However long the connection was away, a call notices soon that it is back.
		t.Parallel()
		srv, serving, calling := twoBuses(t)
		svc := server.New(serving, "calc", server.Config{})
		server.Handle(svc, add, adder)
		run(t, svc)
		c := client.New(calling, client.Config{MaxAttempts: 100})
		disconnected(t, srv, calling)
		call := begin(func() (int, error) {
			return add.Call(t.Context(), c, addParams{2, 3}, rpc.WithTimeout(time.Minute))
		})
		select {
		case got := <-call:
			t.Fatalf("the call ended with %v while there was no connection", got.err)
		case <-time.After(2 * time.Second):
		}
		restarted(t, srv, serving, calling)
		back := time.Now()
		got := await(t, call, "the call")
		wantResult(t, got.result, got.err, 5)
		within(t, time.Since(back), 800*time.Millisecond)
	})
	t.Run("caller gives up", func(t *testing.T) {
		t.Parallel()
		srv, _, calling := twoBuses(t)
		c := client.New(calling, client.Config{})
		disconnected(t, srv, calling)
		ctx, cancel := context.WithCancel(t.Context())
		call := begin(func() (int, error) { return add.Call(ctx, c, addParams{}, rpc.WithTimeout(time.Minute)) })
		send := begin(func() (int, error) { return 0, add.Send(ctx, c, addParams{}, rpc.WithTimeout(time.Minute)) })
		cancel()
		wantCode(t, await(t, call, "the call").err, rpc.Canceled)
		wantCode(t, await(t, send, "the sending").err, rpc.Canceled)
	})
}

func TestSendWhileDisconnected(t *testing.T) {
	t.Parallel()
	t.Run("comes back", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Server(t)
		b := bustest.Connect(t, srv)
		p := listen(t, b, "rpc.calc.>") // on the sender's connection: it is back as soon
		c := client.New(b, client.Config{})
		disconnected(t, srv, b)
		const calls = 20
		var results [calls]<-chan outcome[int]
		for i := range results {
			results[i] = begin(func() (int, error) {
				return 0, add.Send(t.Context(), c, addParams{i, 0}, rpc.WithTimeout(30*time.Second))
			})
		}
		restarted(t, srv, b)
		for _, r := range results {
			if got := await(t, r, "a sending"); got.err != nil {
				t.Error(got.err)
			}
		}
		if n := p.arrived(b); n != calls {
			t.Errorf("%d messages of %d sent", n, calls)
		}
		seen := map[string]bool{}
		for range len(p.requests) {
			m := p.next()
			if seen[string(m.Data)] {
				t.Errorf("%s came twice", m.Data)
			}
			seen[string(m.Data)] = true
		}
	})
	t.Run("stays away", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Server(t)
		b := bustest.Connect(t, srv)
		c := client.New(b, client.Config{})
		disconnected(t, srv, b)
		start := time.Now()
		err := add.Send(t.Context(), c, addParams{}, rpc.WithTimeout(200*time.Millisecond))
		wantCode(t, err, rpc.Unavailable, "not sent", "not connected")
		within(t, time.Since(start), 5*time.Second)
	})
}

// TestRestartsUnderLoad: whatever happens to the bus, every call ends in time,
// with a result or Unavailable.
func TestRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	srv, serving, calling := twoBuses(t)
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, add, adder)
	run(t, svc)
	c := client.New(calling, client.Config{MaxAttempts: 50})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var ok, failed atomic.Int64
	for i := range 32 {
		m := add
		if i%2 == 1 {
			m = addIdem
		}
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				got, err := m.Call(t.Context(), c, addParams{i, n})
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("a call of at most 5s took %v", took)
				}
				switch {
				case err == nil && got == i+n:
					ok.Add(1)
				case err == nil:
					t.Errorf("result %d, want %d: another call's", got, i+n)
				case rpc.CodeOf(err) == rpc.Unavailable && !m.Spec().Idempotent:
					failed.Add(1)
				default:
					t.Errorf("idempotent %t: %v", m.Spec().Idempotent, err)
				}
			}
		})
	}
	for range 3 {
		before := ok.Load()
		until(t, "calls go through", func() bool { return ok.Load() > before+1000 })
		restarted(t, srv, serving, calling)
	}
	before := ok.Load()
	until(t, "calls go through again", func() bool { return ok.Load() > before+1000 })
	close(stop)
	wg.Wait()
	t.Logf("%d calls succeeded, %d failed", ok.Load(), failed.Load())
}

func TestClose(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, b *bus.Bus, c *client.Client){
		"client": func(_ *testing.T, _ *bus.Bus, c *client.Client) { c.Close() },
		"bus": func(t *testing.T, b *bus.Bus, _ *client.Client) {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, serving, calling := twoBuses(t)
			deaf := listen(t, serving, "rpc.calc.>")
			full := listen(t, serving, "rpc.full.>")
			full.each(func(_ int, m *nats.Msg) {
				full.fail(m, "429", "resource_exhausted", `{"code":"resource_exhausted","message":"full","retryable":true,"retryAfterMs":30000}`)
			})
			c := client.New(calling, client.Config{})
			var calls []<-chan outcome[int]
			for _, m := range []rpc.Method[addParams, int]{add, addIdem} {
				calls = append(calls, begin(func() (int, error) {
					return m.Call(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute))
				}))
				deaf.next()
			}
			before := calling.Conn().Stats().InMsgs
			calls = append(calls, begin(func() (int, error) { // waits to be sent again
				return add.Call(t.Context(), c.Service("full"), addParams{}, rpc.WithTimeout(time.Minute))
			}))
			until(t, "the call is shed", func() bool { return calling.Conn().Stats().InMsgs > before })
			end(t, calling, c)
			for _, call := range calls {
				got := await(t, call, "a call")
				wantCode(t, got.err, rpc.Unavailable)
			}
			for range 2 {
				_, err := add.Call(t.Context(), c, addParams{})
				wantCode(t, err, rpc.Unavailable, "closed")
				wantCode(t, add.Send(t.Context(), c, addParams{}), rpc.Unavailable, "closed")
			}
			c.Close() // again
		})
	}
}

func TestCloseWhileDisconnected(t *testing.T) {
	t.Parallel()
	srv, _, calling := twoBuses(t)
	c := client.New(calling, client.Config{})
	disconnected(t, srv, calling)
	call := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute)) })
	send := begin(func() (int, error) { return 0, add.Send(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute)) })
	c.Close()
	for _, out := range []<-chan outcome[int]{call, send} {
		got := await(t, out, "a call")
		wantCode(t, got.err, rpc.Unavailable)
	}
}

func TestNewOnClosedBus(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := add.Call(t.Context(), client.New(b, client.Config{}), addParams{})
	wantCode(t, err, rpc.Unavailable, "closed")
}

// TestCloseAmongCalls closes clients while calls begin and end.
func TestCloseAmongCalls(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, add, adder)
	run(t, svc)
	for range 20 {
		c := client.New(calling, client.Config{})
		var wg sync.WaitGroup
		var done atomic.Int64
		for range 16 {
			wg.Go(func() {
				for {
					start := time.Now()
					got, err := add.Call(t.Context(), c, addParams{1, 2})
					if err != nil {
						if rpc.CodeOf(err) != rpc.Unavailable {
							t.Error(err)
						}
						within(t, time.Since(start), 4*time.Second)
						return
					}
					if got != 3 {
						t.Errorf("result %d", got)
					}
					done.Add(1)
				}
			})
		}
		until(t, "calls go through", func() bool { return done.Load() > 50 })
		c.Close()
		wg.Wait()
	}
}

func TestMaxPending(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	c := client.New(calling, client.Config{MaxPending: 2})
	calls := []<-chan outcome[int]{}
	for range 2 {
		calls = append(calls, begin(func() (int, error) {
			return add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute))
		}))
	}
	first, second := p.next(), p.next()
	start := time.Now()
	_, err := add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute))
	wantCode(t, err, rpc.ResourceExhausted, "not sent", "2 calls")
	within(t, time.Since(start), 5*time.Second)
	if n := p.arrived(calling); n != 0 {
		t.Errorf("%d requests over the bound", n)
	}
	p.answer(first, "1")
	p.answer(second, "1")
	for _, call := range calls {
		got := await(t, call, "a call")
		wantResult(t, got.result, got.err, 1)
	}
	third := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{}) })
	p.answer(p.next(), "2")
	got := await(t, third, "the third call")
	wantResult(t, got.result, got.err, 2)
}
