package server_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// Turns wait until the queue is opened, then run one by one; views don't wait.
func TestTurnQueue(t *testing.T) {
	t.Parallel()
	inHall(t, func(_ context.Context, call server.ObjectCall, s string) (string, error) {
		if s == "view" {
			return s, nil
		}
		defer enter(t, call)()
		switch s {
		case "panic":
			panic(s)
		case "goexit":
			runtime.Goexit()
		case "error":
			return "", rpc.NotFound.Errorf("no")
		}
		return s, nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		done := make(chan error, 3)
		for range cap(done) {
			go func() {
				_, err := hallTurn.Call(t.Context(), c, "a", "x")
				done <- err
			}()
		}
		queue := h.seat("a").queue
		await(t, "three turns wait", func() bool { return queue.Waiting() == 3 })
		if _, err := hallView.Call(t.Context(), c, "a", "view"); err != nil {
			t.Errorf("view: %v", err)
		}
		_, err := hallTurn.Call(t.Context(), c, "a", "x")
		e := requireCode(t, err, rpc.ResourceExhausted)
		contains(t, e.Message, "hall.turn", `object "a"`, "3 wait")
		if !e.Retryable || e.RetryAfter <= 0 {
			t.Errorf("%+v", e)
		}
		queue.Open()
		for range cap(done) {
			if err := receive(t, "a turn", done); err != nil {
				t.Error(err)
			}
		}
		for _, how := range []string{"panic", "goexit", "error", "x"} {
			_, err := hallTurn.Call(t.Context(), c, "a", how)
			want := map[string]rpc.Code{"panic": rpc.Internal, "goexit": rpc.Internal, "error": rpc.NotFound}[how]
			if want == 0 && err != nil || want != 0 && rpc.CodeOf(err) != want {
				t.Errorf("%s: %v", how, err)
			}
		}
	})
}

// A call that ends its turn goes on beside the next one, however often it says
// so.
func TestEndTurn(t *testing.T) {
	t.Parallel()
	inHall(t, func(_ context.Context, call server.ObjectCall, s string) (string, error) {
		if s != "first" {
			defer enter(t, call)()
			return s, nil
		}
		call.EndTurn()
		call.EndTurn()
		if !call.Ended() {
			t.Error("the turn has not ended")
		}
		<-call.Place().(*visit).hall.release
		return s, nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		first := make(chan error, 1)
		go func() {
			_, err := hallTurn.Call(t.Context(), c, "a", "first")
			first <- err
		}()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 50 {
					if _, err := hallTurn.Call(t.Context(), c, "a", "other"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if len(first) != 0 {
			t.Error("the first call has ended")
		}
		close(h.release)
		if err := receive(t, "the first call", first); err != nil {
			t.Error(err)
		}
	})
}

// What waits leaves its place when it is answered: because the queue fails, its
// time is over, the caller gives up or the service stops.
func TestTurnThatWaitsIsAnswered(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	inHall(t, func(context.Context, server.ObjectCall, string) (string, error) {
		ran.Add(1)
		return "", nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		queue := h.seat("a").queue
		call := func(ctx context.Context, opts ...rpc.CallOption) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := hallTurn.Call(ctx, c, "a", "x", opts...)
				done <- err
			}()
			await(t, "the turn waits", func() bool { return queue.Waiting() == 1 })
			return done
		}
		done := call(t.Context())
		queue.Fail(rpc.DataLoss.Errorf("broken"))
		requireCode(t, receive(t, "the failed call", done), rpc.DataLoss)

		done = call(t.Context(), rpc.WithTimeout(50*time.Millisecond))
		requireCode(t, receive(t, "the late call", done), rpc.DeadlineExceeded)

		ctx, cancel := context.WithCancel(t.Context())
		done = call(ctx)
		cancel()
		requireCode(t, receive(t, "the cancelled call", done), rpc.Canceled)
		await(t, "nothing waits", func() bool { return queue.Waiting() == 0 })
		if ran.Load() != 0 {
			t.Error("a turn ran")
		}
		queue.Open()
		if _, err := hallTurn.Call(t.Context(), c, "a", "x"); err != nil {
			t.Error(err)
		}
		ran.Add(-1)
	})
}

// A handler's call can be ended from outside; what it returns is dropped.
func TestObjectCallCancel(t *testing.T) {
	t.Parallel()
	inHall(t, func(ctx context.Context, call server.ObjectCall, s string) (string, error) {
		if s != "cancel" {
			return s, nil
		}
		if call.Place() == nil || call.Request().Object != "a" || time.Since(call.Received()) > patience {
			t.Errorf("the call does not know itself: %+v", call.Request())
		}
		call.Cancel(rpc.Aborted.Errorf("over"))
		<-ctx.Done()
		return "dropped", nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		_, err := hallTurn.Call(t.Context(), c, "a", "cancel")
		requireCode(t, err, rpc.Aborted)
		if got, err := hallTurn.Call(t.Context(), c, "a", "x"); err != nil || got != "x" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A call may end after its handler has returned; its place is its own until then.
func TestCallEndsLater(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	later := map[string]server.ObjectCall{}
	wrap := rpc.Interceptor{Name: "wrap", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc { return next }}
	for name, cfg := range map[string]server.Config{"plain": {}, "intercepted": {Interceptors: []rpc.Interceptor{wrap}}} {
		b := bustest.New(t)
		h := &hall{svc: server.New(b, "hall", cfg), seats: map[string]*seat{}}
		h.svc.ServeObjects(h)
		server.HandleObject(h.svc, hallTurn, true, func(_ context.Context, call server.ObjectCall, s string, result *string) error {
			if *result = s; s == "now" || !call.Later(nil) {
				return nil
			}
			mu.Lock()
			later[s] = call
			mu.Unlock()
			*result = "changed afterwards"
			call.EndTurn()
			return server.ErrLater
		})
		start(t, h.svc)
		h.feed(t)
		h.seat("a").queue.Open()
		near, far := client.New(b, client.Config{}), client.New(b, client.Config{NoShortcut: true, Timeout: patience, ResendAfter: -1})
		t.Cleanup(near.Close)
		t.Cleanup(far.Close)
		if got, err := hallTurn.Call(t.Context(), near, "a", "x"); err != nil || got != "x" { // has to wait
			t.Errorf("%s: shortcut: %q, %v", name, got, err)
		}
		if name == "intercepted" {
			if got, err := hallTurn.Call(t.Context(), far, "a", "x"); err != nil || got != "x" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			continue
		}
		type answer struct {
			result string
			err    error
		}
		call := func(s string, opts ...rpc.CallOption) <-chan answer {
			done := make(chan answer, 1)
			go func() {
				result, err := hallTurn.Call(t.Context(), far, "a", s, opts...)
				done <- answer{result, err}
			}()
			return done
		}
		finish := func(s string, err error) {
			var c server.ObjectCall
			await(t, "the handler of "+s, func() bool {
				mu.Lock()
				defer mu.Unlock()
				c = later[s]
				return later[s] != server.ObjectCall{}
			})
			if h.placed.Load() == h.left.Load() {
				t.Errorf("%s has left its place before its end", s)
			}
			c.Finish(err)
		}
		good, bad, odd := call("good"), call("bad"), call("odd")
		if got, err := hallTurn.Call(t.Context(), far, "a", "now"); err != nil || got != "now" { // they hold no turn
			t.Errorf("%q, %v", got, err)
		}
		late := call("late", rpc.WithTimeout(50*time.Millisecond))
		requireCode(t, receive(t, "the late call", late).err, rpc.DeadlineExceeded)
		finish("good", nil)
		finish("bad", rpc.OutOfRange.Errorf("too far"))
		finish("odd", errors.New("secret"))
		finish("late", nil) // nobody hears of it
		if a := receive(t, "the call", good); a.err != nil || a.result != "good" {
			t.Errorf("%+v", a)
		}
		requireCode(t, receive(t, "the failed call", bad).err, rpc.OutOfRange)
		requireCode(t, receive(t, "the odd call", odd).err, rpc.Internal)
		await(t, "all calls have left their places", func() bool { return h.placed.Load() == h.left.Load() })
	}
}

// A feed that ends loses none of the calls that were on their way.
func TestEndFeed(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	var ran atomic.Int32
	h := newHall(t, bustest.Connect(t, srv), func(_ context.Context, _ server.ObjectCall, s string) (string, error) {
		ran.Add(1)
		return s, nil
	})
	h.seat("a").queue.Open()
	p := plainClient(t, srv)
	for round := range 20 {
		sub, err := h.svc.Feed(bus.SlotSubject("hall", bus.Slot("a")))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.svc.Bus().Conn().Flush(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var answered, refused atomic.Int32
		go func() {
			for range 200 {
				_, err := p.conn.Request(bus.ObjectSubject("hall", "a", "view"), []byte(`"x"`), patience)
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, nats.ErrNoResponders):
					refused.Add(1)
				default:
					done <- err
					return
				}
			}
			done <- nil
		}()
		await(t, "some calls", func() bool { return answered.Load() > int32(round) })
		h.svc.EndFeed([]*nats.Subscription{sub}, time.Now().Add(patience))
		if err := receive(t, "all calls", done); err != nil { // neither run nor refused: lost
			t.Fatal(err)
		}
		if ran.Swap(0) != answered.Load() {
			t.Errorf("%d calls ran, %d were answered", ran.Load(), answered.Load())
		}
	}
}
