package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/client"
)

// breakerBench is a breaker in front of a service whose outcomes a test sets.
type breakerBench struct {
	outcome func(ctx context.Context) error
	asked   int
	caller  rpc.UnaryFunc
}

func newBreaker(cfg client.BreakerConfig) *breakerBench {
	b := new(breakerBench)
	b.caller = rpc.Chain(func(ctx context.Context, _ *rpc.Call) error {
		b.asked++
		return b.outcome(ctx)
	}, client.Breaker(cfg))
	return b
}

func (b *breakerBench) call(service string, err error) error {
	b.outcome = func(context.Context) error { return err }
	return b.caller(context.Background(), &rpc.Call{Service: service, Method: "m"})
}

// The errors of a service that does not answer.
var (
	gone = rpc.Unavailable.Errorf("nobody listens")
	slow = rpc.DeadlineExceeded.Errorf("no answer")
)

func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(client.BreakerConfig{Failures: 3, OpenFor: time.Minute})
		for _, err := range []error{gone, slow, nil, slow, gone, nil, gone, slow} { // never three in a row
			if got := b.call("a", err); !errors.Is(got, err) {
				t.Fatalf("error %v, want %v", got, err)
			}
		}
		if err := b.call("a", gone); !errors.Is(err, gone) {
			t.Fatal(err)
		}
		asked := b.asked
		err := b.call("a", nil)
		wantCode(t, err, rpc.Unavailable, "a.m", "not sent", "circuit breaker of a is open")
		if e, _ := errors.AsType[*rpc.Error](err); !e.Retryable || e.RetryAfter <= 0 || e.RetryAfter > time.Minute {
			t.Errorf("error %+v", e)
		}
		if b.asked != asked {
			t.Error("a call went through an open breaker")
		}
		if err := b.call("b", nil); err != nil {
			t.Errorf("the breaker of another service is open: %v", err)
		}
	})
}

func TestBreakerHalfOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(client.BreakerConfig{Failures: 1, OpenFor: time.Minute})
		b.call("a", gone)
		time.Sleep(time.Minute + 1) // of the bubble's own clock
		if err := b.call("a", slow); !errors.Is(err, slow) {
			t.Fatalf("the one call that looks: %v", err)
		}
		wantCode(t, b.call("a", nil), rpc.Unavailable, "is open")

		time.Sleep(time.Minute + 1)
		release, done := make(chan struct{}), make(chan error, 1)
		b.outcome = func(context.Context) error { <-release; return nil }
		go func() { done <- b.caller(context.Background(), &rpc.Call{Service: "a", Method: "m"}) }()
		synctest.Wait()
		wantCode(t, b.call("a", nil), rpc.Unavailable, "is open") // one looks already
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := b.call("a", nil); err != nil {
				t.Fatalf("closed again, yet: %v", err)
			}
		}
	})
}

// TestBreakerHalfOpenGivesUp: a caller who gives up while looking has not found
// out anything.
func TestBreakerHalfOpenGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(client.BreakerConfig{Failures: 2, OpenFor: time.Minute})
		b.call("a", gone)
		b.call("a", gone)
		time.Sleep(time.Minute + 1)
		b.call("a", rpc.Canceled.Errorf("the caller gave up"))
		if err := b.call("a", gone); !errors.Is(err, gone) { // the next one looks
			t.Fatal(err)
		}
		wantCode(t, b.call("a", nil), rpc.Unavailable, "is open")
	})
}

// TestBreakerCounts: only what shows that nobody answers counts.
func TestBreakerCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(client.BreakerConfig{Failures: 3})
		for _, code := range rpc.Codes() {
			for range 5 {
				err := code.Errorf("the handler says so").AsRemote()
				if got := b.call("remote", err); !errors.Is(got, err) {
					t.Fatalf("%v of a handler opened the breaker: %v", code, got)
				}
			}
		}
		// Two failures, then what tells nothing: the third failure still opens.
		b.call("mixed", gone)
		b.call("mixed", slow)
		b.call("mixed", rpc.Canceled.Errorf("the caller gave up"))
		b.call("mixed", rpc.InvalidArgument.Errorf("header name"))
		b.call("mixed", rpc.ResourceExhausted.Errorf("too large"))
		b.call("mixed", gone)
		wantCode(t, b.call("mixed", nil), rpc.Unavailable, "is open")

		// Calls that had no time to begin with tell nothing either.
		ended, cancel := context.WithTimeout(context.Background(), 0)
		defer cancel()
		b.outcome = func(ctx context.Context) error { return rpc.CodeOf(ctx.Err()).Errorf("not sent: %w", ctx.Err()) }
		for range 5 {
			err := b.caller(ended, &rpc.Call{Service: "hasty", Method: "m"})
			wantCode(t, err, rpc.DeadlineExceeded, "not sent")
		}
		if err := b.call("hasty", nil); err != nil {
			t.Errorf("calls without time opened the breaker: %v", err)
		}
	})
}

func TestBreakerDefaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(client.BreakerConfig{})
		for range 10 {
			if err := b.call("a", gone); !errors.Is(err, gone) {
				t.Fatal(err)
			}
		}
		wantCode(t, b.call("a", nil), rpc.Unavailable, "is open")
		time.Sleep(5*time.Second + 1)
		if err := b.call("a", nil); err != nil {
			t.Errorf("not tried again after 5s: %v", err)
		}
	})
}

// TestBreakerOnTheBus has a service not answer, and come back.
func TestBreakerOnTheBus(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	c := client.New(calling, client.Config{Interceptors: []rpc.Interceptor{
		client.Breaker(client.BreakerConfig{Failures: 2, OpenFor: 300 * time.Millisecond}),
	}})
	for range 2 {
		_, err := add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(50*time.Millisecond))
		wantCode(t, err, rpc.DeadlineExceeded)
		p.next()
	}
	start := time.Now()
	_, err := add.Call(t.Context(), c, addParams{})
	if time.Since(start) < 300*time.Millisecond {
		wantCode(t, err, rpc.Unavailable, "is open")
		if n := p.arrived(calling); n != 0 {
			t.Error("a call went through an open breaker")
		}
	}
	p.each(func(_ int, m *nats.Msg) { p.answer(m, "3") })
	until(t, "the breaker closes", func() bool {
		got, err := add.Call(t.Context(), c, addParams{})
		return got == 3 && err == nil
	})
}
