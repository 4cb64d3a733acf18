package client_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := client.New(b, client.Config{MaxAttempts: 4})
	before := b.Conn().Stats().OutMsgs
	call := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{}) })
	got := await(t, call, "the call")
	wantCode(t, got.err, rpc.Unavailable, "calc.add", "rpc.calc.add", "rpcdo services ls")
	if rpc.IsRemote(got.err) {
		t.Error("the error says that a callee decided it")
	}
	if n := b.Conn().Stats().OutMsgs - before; n != 4 {
		t.Errorf("%d messages were sent, want 4 attempts", n)
	}
	// 50, 100 and 200 ms, each between half of it and half more.
	if got.took < 175*time.Millisecond {
		t.Errorf("gave up after %v: the attempts were not spread", got.took)
	}
}

func TestNobodyListensUntilTheDeadline(t *testing.T) {
	t.Parallel()
	c := client.New(bustest.New(t), client.Config{MaxAttempts: 1000})
	start := time.Now()
	_, err := add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(300*time.Millisecond))
	wantCode(t, err, rpc.Unavailable, "rpc.calc.add")
	within(t, time.Since(start), 300*time.Millisecond+5*time.Second)
}

func TestNoRetries(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	before := b.Conn().Stats().OutMsgs
	_, err := add.Call(t.Context(), client.New(b, client.Config{MaxAttempts: 1}), addParams{})
	wantCode(t, err, rpc.Unavailable, "rpc.calc.add")
	if n := b.Conn().Stats().OutMsgs - before; n != 1 {
		t.Errorf("%d messages were sent, want 1", n)
	}
}

// TestRetryHeaders looks at the attempts of a call that surely did not run.
func TestRetryHeaders(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "own-id"} {
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		c := client.New(calling, client.Config{MaxAttempts: 3})
		call := begin(func() (int, error) {
			opts := []rpc.CallOption{rpc.WithHeader("X-Tenant", "acme")}
			if id != "" {
				opts = append(opts, rpc.WithID(id))
			}
			return add.Call(t.Context(), c, addParams{1, 2}, opts...)
		})
		first := p.next()
		if got := first.Header.Get("Rpc-Attempt"); got != "" {
			t.Errorf("the first attempt says Rpc-Attempt: %s", got)
		}
		if got := first.Header.Get("Rpc-Id"); got != id {
			t.Errorf("the first attempt says Rpc-Id: %q, want %q", got, id)
		}
		p.nobody(first)
		second := p.next()
		wantRetry(t, first, second, 2, id)
		p.nobody(second)
		third := p.next()
		wantRetry(t, first, third, 3, id)
		if third.Header.Get("X-Tenant") != "acme" || string(third.Data) != string(first.Data) {
			t.Errorf("the retry is another call: %v %s", third.Header, third.Data)
		}
		p.answer(third, "3")
		got := await(t, call, "the call")
		wantResult(t, got.result, got.err, 3)
	}
}

// wantRetry checks the headers of the n-th attempt, and that it has a reply
// subject of its own and less time left.
func wantRetry(t *testing.T, first, m *nats.Msg, n int, id string) {
	t.Helper()
	if got := m.Header.Get("Rpc-Attempt"); got != strconv.Itoa(n) {
		t.Errorf("Rpc-Attempt: %s, want %d", got, n)
	}
	tokens := strings.Split(first.Reply, ".")
	if id == "" {
		id = strings.Join(tokens[len(tokens)-3:len(tokens)-1], ".")
	}
	identity, age, _ := strings.Cut(m.Header.Get("Rpc-Id"), ";age=")
	if identity != id {
		t.Errorf("Rpc-Id: %s, want the identity %s", m.Header.Get("Rpc-Id"), id)
	}
	if ms, err := strconv.Atoi(age); err != nil || ms < 1 || ms > 10_000 {
		t.Errorf("Rpc-Id: %s: the age is odd", m.Header.Get("Rpc-Id"))
	}
	if m.Reply == first.Reply {
		t.Error("two attempts have the same reply subject")
	}
	if a, b := sentTimeout(t, first), sentTimeout(t, m); b >= a {
		t.Errorf("the first attempt has %d ms, a later one %d", a, b)
	}
}

// sentTimeout returns the milliseconds in the reply subject.
func sentTimeout(t *testing.T, m *nats.Msg) (ms int) {
	t.Helper()
	tokens := strings.Split(m.Reply, ".")
	if _, err := fmt.Sscanf(tokens[len(tokens)-1], "t%d-", &ms); err != nil {
		t.Fatalf("reply subject %s: %v", m.Reply, err)
	}
	return ms
}

func TestServiceComesUp(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	var runs atomic.Int64
	attempts := make(chan int, 8)
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, add, func(ctx context.Context, p addParams) (int, error) {
		runs.Add(1)
		info, _ := rpc.CallInfoFrom(ctx)
		attempts <- info.Attempt
		return p.A + p.B, nil
	})
	c := client.New(calling, client.Config{MaxAttempts: 100})
	before := calling.Conn().Stats().OutMsgs
	call := begin(func() (int, error) {
		return add.Call(t.Context(), c, addParams{2, 3}, rpc.WithTimeout(patience))
	})
	until(t, "the first attempt is sent", func() bool { return calling.Conn().Stats().OutMsgs > before })
	run(t, svc)
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 5)
	if n := runs.Load(); n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
	if n := await(t, attempts, "the attempt"); n < 2 {
		t.Errorf("the handler saw attempt %d", n)
	}
}

func TestShedIsRetriedAfterTheTimeAskedFor(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	c := client.New(calling, client.Config{})
	const asked = 200 * time.Millisecond
	for range 4 { // the jitter is random
		call := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{1, 2}) })
		first := p.next()
		shed := time.Now()
		p.fail(first, "429", "resource_exhausted", fmt.Sprintf(shedBody, asked.Milliseconds()))
		second := p.next()
		if waited := time.Since(shed); waited < asked {
			t.Errorf("sent again after %v, asked for %v", waited, asked)
		}
		wantRetry(t, first, second, 2, "")
		p.answer(second, "3")
		got := await(t, call, "the call")
		wantResult(t, got.result, got.err, 3)
	}
}

func TestShedForLongerThanTheCallHas(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	p.each(func(_ int, m *nats.Msg) { p.fail(m, "429", "resource_exhausted", fmt.Sprintf(shedBody, 3_600_000)) })
	start := time.Now()
	_, err := add.Call(t.Context(), client.New(calling, client.Config{}), addParams{}, rpc.WithTimeout(time.Minute))
	wantCode(t, err, rpc.ResourceExhausted, "full")
	within(t, time.Since(start), 10*time.Second)
}

func TestOverloadedServiceIsAskedAgain(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	var runs atomic.Int64
	running, release := make(chan struct{}, 1), make(chan struct{})
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, add, func(ctx context.Context, p addParams) (int, error) {
		if runs.Add(1) == 1 {
			running <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return p.A + p.B, nil
	}, server.Concurrency(1), server.Queue(0))
	run(t, svc)
	c := client.New(calling, client.Config{MaxAttempts: 1000, RetryBudget: 1000})
	holds := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{1, 1}, rpc.WithTimeout(patience)) })
	await(t, running, "the call that holds the place")
	before := calling.Conn().Stats().InMsgs
	waits := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{2, 2}, rpc.WithTimeout(patience)) })
	until(t, "the second call is shed", func() bool { return calling.Conn().Stats().InMsgs > before })
	close(release)
	first, second := await(t, holds, "the first call"), await(t, waits, "the second call")
	wantResult(t, first.result, first.err, 2)
	wantResult(t, second.result, second.err, 4)
	if n := runs.Load(); n != 2 {
		t.Errorf("the handler ran %d times for 2 calls", n)
	}
}

// TestHandlersErrorsAreNotRetried: whatever the code, a handler that ran is not
// run again.
func TestHandlersErrorsAreNotRetried(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	var fails atomic.Value
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, add, func(context.Context, addParams) (int, error) {
			runs.Add(1)
			return 0, fails.Load().(rpc.Code).Errorf("no").WithRetryAfter(time.Millisecond)
		})
	}, func(t *testing.T, c *client.Client) {
		if strings.HasSuffix(t.Name(), "shortcut") {
			return // the two would count each other's runs
		}
		for _, code := range rpc.Codes() {
			for _, m := range []rpc.Method[addParams, int]{add, addIdem} {
				fails.Store(code)
				runs.Store(0)
				_, err := m.Call(t.Context(), c, addParams{})
				wantCode(t, err, code, "no")
				if n := runs.Load(); n != 1 {
					t.Errorf("%v: the handler ran %d times", code, n)
				}
			}
		}
	})
}

// TestPassedOnErrorsAreNotRetried: a handler's own call surely did not run, and
// the handler passes that error on. The handler itself did run.
func TestPassedOnErrorsAreNotRetried(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	down := listen(t, serving, "rpc.full.>")
	down.each(func(_ int, m *nats.Msg) {
		down.fail(m, "429", "resource_exhausted", fmt.Sprintf(shedBody, 1))
	})
	inner := client.New(serving, client.Config{MaxAttempts: 1})
	var runs atomic.Int64
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, rpc.NewMethod[string, int]("calc.via"), func(ctx context.Context, service string) (int, error) {
		runs.Add(1)
		_, err := add.Call(ctx, inner.Service(service), addParams{})
		return 0, err
	})
	server.Handle(svc, rpc.NewMethod[string, int]("calc.wrapped"), func(ctx context.Context, service string) (int, error) {
		runs.Add(1)
		_, err := add.Call(ctx, inner.Service(service), addParams{})
		return 0, fmt.Errorf("calling %s: %w", service, err)
	})
	server.Handle(svc, rpc.NewMethod[string, int]("calc.detached"), func(_ context.Context, service string) (int, error) {
		runs.Add(1)
		_, err := add.Call(context.Background(), inner.Service(service), addParams{})
		return 0, err
	})
	explaining := client.New(serving, client.Config{MaxAttempts: 1, Interceptors: []rpc.Interceptor{{
		Name: "explain",
		Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				if err := next(ctx, call); err != nil {
					return fmt.Errorf("explained: %w", err)
				}
				return nil
			}
		},
	}, {
		Name: "refuse",
		Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				if call.Service == "full" {
					return rpc.ResourceExhausted.Errorf("refused here").NotExecuted()
				}
				return next(ctx, call)
			}
		},
	}}})
	server.Handle(svc, rpc.NewMethod[string, int]("calc.explained"), func(_ context.Context, service string) (int, error) {
		runs.Add(1)
		_, err := add.Call(context.Background(), explaining.Service(service), addParams{})
		return 0, err
	})
	run(t, svc)
	for _, c := range []*client.Client{client.New(calling, client.Config{}), client.New(serving, client.Config{})} {
		for _, method := range []string{"calc.via", "calc.wrapped", "calc.detached", "calc.explained"} {
			via := rpc.NewMethod[string, int](method)
			for service, code := range map[string]rpc.Code{"full": rpc.ResourceExhausted, "nobody": rpc.Unavailable} {
				runs.Store(0)
				_, err := via.Call(t.Context(), c, service)
				wantCode(t, err, code)
				if n := runs.Load(); n != 1 {
					t.Errorf("%s of %s: the handler ran %d times", method, service, n)
				}
			}
		}
	}
}

// TestRetryThatDoesNotFit: a retry has headers that the first attempt has not.
// When they don't fit, the call ends with what the first attempt came to.
func TestRetryThatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 4096 }))
	m := rpc.NewMethod[string, string]("nobody.m")
	_, err := m.Call(t.Context(), client.New(b, client.Config{}), strings.Repeat("x", 4094), rpc.WithTimeout(10*time.Second))
	wantCode(t, err, rpc.Unavailable, "nobody listens on rpc.nobody.m")
}

// TestCallIsLeftAsItWas: a Call may be used again, with another context.
func TestCallIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	c := client.New(bustest.New(t), client.Config{MaxAttempts: 1})
	call := &rpc.Call{Service: "a", Method: "m", Params: new(rpc.None), Result: new(rpc.None)}
	if err := c.Service("nobody").Entrypoint("Admin").Call(t.Context(), call); err == nil {
		t.Error("a call that nobody answers succeeded")
	}
	if call.Timeout != 0 || call.Service != "a" || call.Method != "m" {
		t.Errorf("the call is now %+v", call)
	}
}

func TestNotIdempotentIsSentOnce(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	deaf, cancels := listen(t, serving, "rpc.calc.>"), listen(t, serving, "$RPC.cancel.calc")
	_, err := add.Call(t.Context(), client.New(calling, client.Config{}), addParams{}, rpc.WithTimeout(400*time.Millisecond))
	wantCode(t, err, rpc.DeadlineExceeded, "may have run")
	if n := deaf.arrived(calling); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	if got, want := string(cancels.next().Data), deaf.next().Reply; got != want {
		t.Errorf("cancelled %s, want %s", got, want)
	}
}

// TestCancelFollowsItsRequest gives up many calls at once: each request is on
// the bus before its cancellation, which would do nothing otherwise.
func TestCancelFollowsItsRequest(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	cancels, err := serving.Conn().ChanSubscribe("$RPC.cancel.calc", p.requests) // in one channel, in order
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cancels.Unsubscribe() }()
	flush(t, serving)
	c := client.New(calling, client.Config{})
	const calls = 1000
	var ended []<-chan outcome[int]
	for range calls / 100 {
		ctx, cancel := context.WithCancel(t.Context())
		for range 100 {
			ended = append(ended, begin(func() (int, error) {
				return add.Call(ctx, c, addParams{}, rpc.WithTimeout(time.Minute))
			}))
		}
		cancel()
	}
	for _, call := range ended {
		wantCode(t, await(t, call, "a call").err, rpc.Canceled)
	}
	c.Close() // what is in the outbox goes out
	requests := map[string]bool{}
	for range p.arrived(calling) {
		m := p.next()
		if m.Subject == "rpc.calc.add" {
			requests[m.Reply] = true
			continue
		}
		if !requests[string(m.Data)] {
			t.Fatalf("%s was cancelled before it was sent", m.Data)
		}
		delete(requests, string(m.Data))
	}
	if len(requests) > 0 {
		t.Errorf("%d requests were not cancelled", len(requests))
	}
}

func TestIdempotentIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		answered int // the attempt that is answered, from 0
	}{{"second answers", 1}, {"first answers late", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, serving, calling := twoBuses(t)
			p, cancels := listen(t, serving, "rpc.calc.>"), listen(t, serving, "$RPC.cancel.calc")
			c := client.New(calling, client.Config{MaxAttempts: 2})
			call := begin(func() (int, error) {
				return addIdem.Call(t.Context(), c, addParams{2, 3}, rpc.WithTimeout(time.Second))
			})
			first := p.next()
			second := p.next()
			wantRetry(t, first, second, 2, "")
			attempts := []*nats.Msg{first, second}
			p.answer(attempts[tc.answered], "5")
			got := await(t, call, "the call")
			wantResult(t, got.result, got.err, 5)
			if other := attempts[1-tc.answered].Reply; string(cancels.next().Data) != other {
				t.Errorf("the attempt without an answer, %s, was not cancelled", other)
			}
			p.answer(attempts[1-tc.answered], "6") // disturbs nobody
			next := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{3, 4}) })
			p.answer(p.next(), "7")
			got = await(t, next, "the next call")
			wantResult(t, got.result, got.err, 7)
			if n := cancels.arrived(calling); n != 0 {
				t.Errorf("%d more cancellations", n)
			}
		})
	}
}

// TestIdempotentGivesUp: nobody answers any of the attempts.
// TestResendAfter: how long an answer is waited for before the call is sent
// again can be set, and that it is sent again can be turned off.
func TestResendAfter(t *testing.T) {
	t.Parallel()
	t.Run("set", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		c := client.New(calling, client.Config{MaxAttempts: 2, ResendAfter: 20 * time.Millisecond})
		start := time.Now()
		call := begin(func() (int, error) { return addIdem.Call(t.Context(), c, addParams{}, rpc.WithTimeout(time.Minute)) })
		p.next()
		p.answer(p.next(), "3")
		got := await(t, call, "the call")
		wantResult(t, got.result, got.err, 3)
		within(t, time.Since(start), 10*time.Second)
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		c := client.New(calling, client.Config{ResendAfter: -1})
		_, err := addIdem.Call(t.Context(), c, addParams{}, rpc.WithTimeout(300*time.Millisecond))
		wantCode(t, err, rpc.DeadlineExceeded)
		if n := p.arrived(calling); n != 1 {
			t.Errorf("the call was sent %d times, want once", n)
		}
	})
}

func TestIdempotentGivesUp(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	deaf, cancels := listen(t, serving, "rpc.calc.>"), listen(t, serving, "$RPC.cancel.calc")
	c := client.New(calling, client.Config{MaxAttempts: 10})
	_, err := addIdem.Call(t.Context(), c, addParams{}, rpc.WithTimeout(600*time.Millisecond))
	wantCode(t, err, rpc.DeadlineExceeded, "may have run")
	sent := deaf.arrived(calling)
	if sent < 2 || sent > 4 {
		t.Errorf("%d attempts, want 2 to 4 at once", sent)
	}
	want := map[string]bool{}
	for range sent {
		want[deaf.next().Reply] = true
	}
	for range sent {
		delete(want, string(cancels.next().Data))
	}
	if len(want) > 0 {
		t.Errorf("not cancelled: %v", want)
	}
}

// TestIdempotentAnswersMix: one attempt is shed, the other answers.
func TestIdempotentAnswersMix(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	c := client.New(calling, client.Config{MaxAttempts: 2})
	call := begin(func() (int, error) {
		return addIdem.Call(t.Context(), c, addParams{2, 3}, rpc.WithTimeout(time.Second))
	})
	first, second := p.next(), p.next()
	p.nobody(second) // no attempts are left, but the first may answer yet
	p.answer(first, "5")
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 5)
}

func TestRetryBudget(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	var shedding atomic.Bool
	var requests atomic.Int64
	p.each(func(_ int, m *nats.Msg) {
		requests.Add(1)
		if shedding.Load() {
			p.fail(m, "429", "resource_exhausted", fmt.Sprintf(shedBody, 1))
			return
		}
		p.answer(m, "3")
	})
	c := client.New(calling, client.Config{RetryBudget: 2, MaxAttempts: 10})
	sentFor := func() int64 {
		requests.Store(0)
		_, err := add.Call(t.Context(), c, addParams{})
		wantCode(t, err, rpc.ResourceExhausted, "full")
		return requests.Load()
	}
	shedding.Store(true)
	if n := sentFor(); n != 3 {
		t.Errorf("%d attempts with a budget of 2 retries", n)
	}
	if n := sentFor(); n != 1 {
		t.Errorf("%d attempts with the budget used up", n)
	}
	// Another service has a budget of its own.
	other := listen(t, serving, "rpc.other.>")
	var others atomic.Int64
	other.each(func(_ int, m *nats.Msg) {
		others.Add(1)
		other.fail(m, "429", "resource_exhausted", fmt.Sprintf(shedBody, 1))
	})
	_, err := add.Call(t.Context(), c.Service("other"), addParams{})
	wantCode(t, err, rpc.ResourceExhausted)
	if n := others.Load(); n != 3 {
		t.Errorf("%d attempts at another service", n)
	}
	shedding.Store(false)
	for range 10 {
		got, err := add.Call(t.Context(), c, addParams{})
		wantResult(t, got, err, 3)
	}
	shedding.Store(true)
	if n := sentFor(); n != 2 {
		t.Errorf("%d attempts after 10 successes, want 2", n)
	}
}

// TestRetryBudgetBoundsResending: sending again what may be lost is a retry too.
func TestRetryBudgetBoundsResending(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	deaf := listen(t, serving, "rpc.calc.>")
	c := client.New(calling, client.Config{RetryBudget: 2})
	const calls = 10
	futures := make([]*rpc.Future[int], calls)
	for i := range futures {
		futures[i] = addIdem.Go(t.Context(), c, addParams{i, 0}, rpc.WithTimeout(300*time.Millisecond))
	}
	for _, f := range futures {
		_, err := f.Wait(t.Context())
		wantCode(t, err, rpc.DeadlineExceeded)
	}
	if n := deaf.arrived(calling); n != calls+2 {
		t.Errorf("%d requests for %d calls with a budget of 2 retries", n, calls)
	}
}
