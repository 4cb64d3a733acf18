package client_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/server"
)

// readSpec is a method whose calls may be made one.
var (
	read      = rpc.NewMethod[cartParams, cartParams]("calc.read", rpc.Idempotent())
	readOther = rpc.NewMethod[cartParams, cartParams]("calc.readOther", rpc.Idempotent())
	write     = rpc.NewMethod[cartParams, cartParams]("calc.write")
	readObj   = rpc.NewObjectMethod[cartParams, cartParams]("calc.read", rpc.Idempotent())
)

// coalesced puts Coalesce in front of a service that a test releases. Its
// calls block until release is closed, their context ends or their time is over.
type coalesced struct {
	rpc.UnaryFunc
	runs    atomic.Int64
	release chan struct{}
	err     error

	mu    sync.Mutex
	ended []error // of calls that were not released
}

func newCoalesced() *coalesced {
	c := &coalesced{release: make(chan struct{})}
	c.UnaryFunc = rpc.Chain(func(ctx context.Context, call *rpc.Call) error {
		c.runs.Add(1)
		if call.Timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, call.Timeout)
			defer cancel()
		}
		select {
		case <-c.release:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			c.ended = append(c.ended, ctx.Err())
			return rpc.CodeOf(ctx.Err()).Errorf("not released: %w", ctx.Err())
		}
		if c.err != nil {
			return c.err
		}
		if result, ok := call.Result.(*cartParams); ok {
			*result = *call.Params.(*cartParams)
		}
		return nil
	}, client.Coalesce())
	return c
}

func TestCoalesce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoalesced()
		futures := make([]*rpc.Future[cartParams], 100)
		for i := range futures {
			futures[i] = read.Go(t.Context(), c, newCart(), rpc.WithHeader("X-A", "v"))
		}
		synctest.Wait()
		if n := c.runs.Load(); n != 1 {
			t.Errorf("%d executions of 100 identical calls", n)
		}
		close(c.release)
		for _, f := range futures {
			got, err := f.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, newCart()) {
				t.Fatalf("result %+v: another caller has changed it", got)
			}
			got.scribble()
		}
		// What is over is not shared any more.
		if _, err := read.Call(t.Context(), c, newCart()); err != nil || c.runs.Load() != 2 {
			t.Errorf("a later call: %v, %d executions in all", err, c.runs.Load())
		}
	})
}

func TestCoalesceOnlyIdentical(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoalesced()
		other := newCart()
		other.At.X++
		header := func(h rpc.Header) rpc.CallOption { return func(call *rpc.Call) { call.Header = h } }
		start := []func(){
			func() { read.Go(t.Context(), c, newCart()) },
			func() { read.Go(t.Context(), c, other) },
			func() { readOther.Go(t.Context(), c, newCart()) },
			func() { readObj.Go(t.Context(), c, "alice", newCart()) },
			func() { readObj.Go(t.Context(), c, "bob", newCart()) },
			func() { readObj.Go(t.Context(), c, "alice\x00bob", newCart()) },
			func() { read.Go(t.Context(), c, newCart(), rpc.WithID("1")) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"x"}})) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"y"}})) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"x"}, "B": {"y"}})) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"x", "", "B", "y"}})) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"x", "B", "y"}})) },
			func() { read.Go(t.Context(), c, newCart(), header(rpc.Header{"A": {"x\x00\x00B\x00y"}})) },
			func() { write.Go(t.Context(), c, newCart()) },
			func() { write.Go(t.Context(), c, newCart()) },
			func() { go read.Send(t.Context(), c, newCart()) },
			func() { go read.Send(t.Context(), c, newCart()) },
		}
		for _, fn := range start {
			fn()
		}
		synctest.Wait()
		if n := c.runs.Load(); n != int64(len(start)) {
			t.Errorf("%d executions of %d calls that differ", n, len(start))
		}
		start[0]()
		start[9]()
		synctest.Wait()
		if n := c.runs.Load(); n != int64(len(start)) {
			t.Errorf("%d executions: identical calls were not made one", n)
		}
		close(c.release)
		synctest.Wait()
	})
}

// userKey is the key of a context's user.
type userKey struct{}

// The calls of two users are told apart by what an interceptor before Coalesce
// adds to them.
func TestCoalesceBehindAuthorization(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var runs atomic.Int64
		authorize := rpc.Interceptor{Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				rpc.WithHeader("Authorization", "Bearer "+ctx.Value(userKey{}).(string))(call)
				return next(ctx, call)
			}
		}}
		whoami := rpc.NewMethod[rpc.None, string]("calc.whoami", rpc.Idempotent())
		c := rpc.Chain(func(_ context.Context, call *rpc.Call) error {
			runs.Add(1)
			<-release
			*call.Result.(*string) = call.Header.Get("Authorization")
			return nil
		}, authorize, client.Coalesce())

		users := []string{"ann", "bob", "ann", "bob"}
		futures := make([]*rpc.Future[string], len(users))
		for i, user := range users {
			futures[i] = whoami.Go(context.WithValue(t.Context(), userKey{}, user), c, rpc.None{})
		}
		synctest.Wait()
		close(release)
		for i, f := range futures {
			if got, err := f.Wait(t.Context()); err != nil || got != "Bearer "+users[i] {
				t.Errorf("%s got the result of %q, %v", users[i], got, err)
			}
		}
		if n := runs.Load(); n != 2 {
			t.Errorf("%d executions for 2 users", n)
		}
	})
}

// What ends the goroutine of a shared call ends neither the process nor the
// calls that come later.
func TestCoalesceOfWhatPanics(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){
		"panic":  func() { panic("out of coffee") },
		"error":  func() { panic(errors.New("out of coffee")) },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				var runs atomic.Int64
				c := rpc.Chain(func(context.Context, *rpc.Call) error {
					if runs.Add(1) == 1 {
						<-release
						end()
					}
					return nil
				}, client.Coalesce())
				var futures []*rpc.Future[cartParams]
				for range 3 {
					futures = append(futures, read.Go(t.Context(), c, newCart()))
				}
				synctest.Wait()
				close(release)
				for _, f := range futures {
					_, err := f.Wait(t.Context())
					wantCode(t, err, rpc.Internal)
					if want := "internal: calc.read: a coalesced call panicked"; err.Error() != want {
						t.Errorf("error %q, want %q", err, want)
					}
					if cause := errors.Unwrap(errors.Unwrap(err)); name != "Goexit" &&
						(cause == nil || !strings.Contains(cause.Error(), "out of coffee") || !strings.Contains(cause.Error(), "coalesce_test.go")) {
						t.Errorf("the cause does not say what panicked, and where: %v", cause)
					}
				}
				if _, err := read.Call(t.Context(), c, newCart()); err != nil || runs.Load() != 2 {
					t.Errorf("a later call: %v, %d executions in all", err, runs.Load())
				}
			})
		})
	}
}

func TestCoalesceSharesErrors(t *testing.T) {
	t.Parallel()
	for _, code := range rpc.Codes() {
		synctest.Test(t, func(t *testing.T) {
			c := newCoalesced()
			c.err = code.Errorf("no").WithDetail(rpc.FieldViolation{Field: "f"}).AsRemote()
			var futures []*rpc.Future[cartParams]
			for i := range 10 {
				futures = append(futures, read.Go(t.Context(), c, newCart(), rpc.WithTimeout(time.Minute+time.Duration(i))))
			}
			synctest.Wait()
			close(c.release)
			for _, f := range futures {
				_, err := f.Wait(t.Context())
				wantCode(t, err, code, "no")
				if d, ok := rpc.DetailOf[rpc.FieldViolation](err); !ok || d.Field != "f" {
					t.Errorf("detail %+v, %v", d, ok)
				}
			}
			if n := c.runs.Load(); n != 1 {
				t.Errorf("%v: %d executions", code, n)
			}
		})
	}
}

// TestCoalesceGivingUp has callers leave one by one, the first one first: the
// others still get the answer.
func TestCoalesceGivingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoalesced()
		ctx, cancel := context.WithCancel(t.Context())
		leader := read.Go(ctx, c, newCart())
		synctest.Wait()
		stays := read.Go(t.Context(), c, newCart())
		hasty := read.Go(t.Context(), c, newCart(), rpc.WithTimeout(time.Second))
		synctest.Wait()
		cancel()
		_, err := leader.Wait(t.Context())
		wantCode(t, err, rpc.Canceled, "calc.read")
		_, err = hasty.Wait(t.Context())
		wantCode(t, err, rpc.DeadlineExceeded, "calc.read")
		late := read.Go(t.Context(), c, newCart())
		synctest.Wait()
		close(c.release)
		for _, f := range []*rpc.Future[cartParams]{stays, late} {
			if _, err := f.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if n := c.runs.Load(); n != 1 || len(c.ended) != 0 {
			t.Errorf("%d executions, ended: %v", n, c.ended)
		}
	})
}

func TestCoalesceLastOneCancels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoalesced()
		ctx, cancel := context.WithCancel(t.Context())
		for range 10 {
			read.Go(ctx, c, newCart())
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		if len(c.ended) != 1 || !errors.Is(c.ended[0], context.Canceled) {
			t.Errorf("the shared call ended with %v, want one cancellation", c.ended)
		}
		again := read.Go(t.Context(), c, newCart()) // does not join what was cancelled
		synctest.Wait()
		close(c.release)
		if _, err := again.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCoalesceDeadlines: a caller has its own time, not that of whom it joined.
func TestCoalesceDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoalesced()
		start := time.Now()
		hasty := read.Go(t.Context(), c, newCart(), rpc.WithTimeout(time.Second))
		synctest.Wait()
		patient := read.Go(t.Context(), c, newCart(), rpc.WithTimeout(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		between := read.Go(ctx, c, newCart())
		_, err := hasty.Wait(t.Context())
		wantCode(t, err, rpc.DeadlineExceeded)
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v, want 1s", took)
		}
		_, err = between.Wait(t.Context())
		wantCode(t, err, rpc.DeadlineExceeded)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v, want 2s", took)
		}
		close(c.release)
		if _, err := patient.Wait(t.Context()); err != nil {
			t.Errorf("who had a minute failed after %v: %v", time.Since(start), err)
		}
	})
}

// TestCoalesceWithDefaultTimeout: nobody waits longer than the client's own
// time, however many others gave up before.
func TestCoalesceWithDefaultTimeout(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	deaf := listen(t, serving, "rpc.calc.>")
	const limit = 300 * time.Millisecond
	c := client.New(calling, client.Config{Timeout: limit, MaxAttempts: 1, Interceptors: []rpc.Interceptor{client.Coalesce()}})
	calls := make([]<-chan outcome[cartParams], 10)
	for i := range calls {
		calls[i] = begin(func() (cartParams, error) { return read.Call(t.Context(), c, newCart()) })
	}
	for _, call := range calls {
		got := await(t, call, "a call")
		wantCode(t, got.err, rpc.DeadlineExceeded)
		within(t, got.took, 2*limit)
	}
	deaf.next()

	// Who joins late has the whole of it.
	first := begin(func() (cartParams, error) { return read.Call(t.Context(), c, newCart()) })
	deaf.next()
	select {
	case got := <-first:
		t.Fatalf("ended already: %v", got.err)
	case <-time.After(limit / 2):
	}
	got := await(t, begin(func() (cartParams, error) { return read.Call(t.Context(), c, newCart()) }), "the late caller")
	wantCode(t, got.err, rpc.DeadlineExceeded)
	if got.took < limit-time.Millisecond {
		t.Errorf("the late caller had %v of %v", got.took, limit)
	}
}

func TestCoalesceSendsNothingForWhoHasGone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := rpc.Chain(func(ctx context.Context, _ *rpc.Call) error {
		if ctx.Err() == nil {
			t.Error("the call lives though its caller had gone before")
		}
		return rpc.Canceled.Errorf("not sent")
	}, client.Coalesce())
	_, err := read.Call(ctx, c, newCart())
	wantCode(t, err, rpc.Canceled, "not sent")
}

func TestCoalesceRefusesWhatIsNotJSON(t *testing.T) {
	t.Parallel()
	c := rpc.Chain(func(context.Context, *rpc.Call) error { return nil }, client.Coalesce())
	_, err := rpc.NewMethod[chan int, int]("calc.m", rpc.Idempotent()).Call(t.Context(), c, nil)
	wantCode(t, err, rpc.InvalidArgument, "calc.m")
	_, err = rpc.NewMethod[reluctant, int]("calc.m", rpc.Idempotent()).Call(t.Context(), c, reluctant{1})
	wantCode(t, err, rpc.InvalidArgument, "calc.m")
	_, err = rpc.NewMethod[int, chan int]("calc.m", rpc.Idempotent()).Call(t.Context(), c, 1)
	wantCode(t, err, rpc.Internal, "calc.m")
	_, err = rpc.NewMethod[int, reluctant]("calc.m", rpc.Idempotent()).Call(t.Context(), c, 1)
	wantCode(t, err, rpc.Internal, "calc.m")
}

// TestCoalesceOnTheBus joins callers of a real service, near and far; the last
// to leave cancels the handler.
func TestCoalesceOnTheBus(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 100)
	counter := rpc.Interceptor{Name: "counter", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			entered <- struct{}{}
			return next(ctx, call)
		}
	}}
	for _, shortcut := range []bool{false, true} {
		_, serving, calling := twoBuses(t)
		if shortcut {
			calling = serving
		}
		var runs atomic.Int64
		running, ended := make(chan struct{}, 100), make(chan error, 100)
		svc := server.New(serving, "calc", server.Config{})
		server.Handle(svc, read, func(ctx context.Context, p cartParams) (cartParams, error) {
			runs.Add(1)
			running <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return p, ctx.Err()
		})
		run(t, svc)
		c := client.New(calling, client.Config{Interceptors: []rpc.Interceptor{counter, client.Coalesce()}})
		ctx, cancel := context.WithCancel(t.Context())
		var calls []<-chan outcome[cartParams]
		for range 20 {
			calls = append(calls, begin(func() (cartParams, error) {
				return read.Call(ctx, c, newCart(), rpc.WithTimeout(time.Minute))
			}))
		}
		for range calls {
			await(t, entered, "a caller")
		}
		await(t, running, "the handler")
		if n := runs.Load(); n != 1 {
			t.Errorf("%d executions", n)
		}
		cancel()
		for _, call := range calls {
			wantCode(t, await(t, call, "a call").err, rpc.Canceled)
		}
		if err := await(t, ended, "the handler's end"); !errors.Is(err, context.Canceled) {
			t.Errorf("the handler ended with %v", err)
		}
	}
}

func TestCoalesceKeepsTheCallersHeader(t *testing.T) {
	t.Parallel()
	changes := rpc.Chain(func(_ context.Context, call *rpc.Call) error {
		call.Header.Set("X-Added", "v")
		return nil
	}, client.Coalesce())
	header := rpc.Header{"X-A": {"v"}}
	_, err := read.Call(t.Context(), changes, newCart(), func(call *rpc.Call) { call.Header = header })
	if err != nil || fmt.Sprint(header) != "map[X-A:[v]]" {
		t.Errorf("error %v, header %v", err, header)
	}
}
