package lock

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable/durabletest"
	"rpc.do/server"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func TestLease(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "import")
	var l lock
	first, err := l.acquire(ctx, Params{Holder: "a", Seconds: 30})
	if err != nil || first.Token != 1 {
		t.Fatal(first, err)
	}
	if again, err := l.acquire(ctx, Params{Holder: "a", Seconds: 30}); err != nil || again.Token != 1 {
		t.Errorf("renewed: %v, %v", again, err)
	}
	if _, err := l.acquire(ctx, Params{Holder: "b", Seconds: 30}); rpc.CodeOf(err) != rpc.FailedPrecondition {
		t.Errorf("taken twice: %v", err)
	}
	if _, err := l.release(ctx, Params{Holder: "b"}); err != nil || l.Holder != "a" {
		t.Errorf("released by another: holder %q, %v", l.Holder, err)
	}
	l.Until = time.Now().Add(-time.Second)
	if held, err := l.state(ctx.Read(), rpc.None{}); err != nil || held.Holder != "" {
		t.Errorf("after the lease: %v, %v", held, err)
	}
	if second, err := l.acquire(ctx, Params{Holder: "b", Seconds: 30}); err != nil || second.Token != 2 {
		t.Errorf("after the lease: %v, %v", second, err)
	}
	if _, err := l.acquire(ctx, Params{Holder: "b"}); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("no lease: %v", err)
	}
}

// Of many that want the lock at the same time one gets it.
func TestOneHolder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "locks", server.Config{})
	Serve(svc)
	durabletest.Run(t, svc)
	c := client.New(b, client.Config{})
	defer c.Close()
	var got, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := Acquire.Call(t.Context(), c, "one", Params{Holder: string(rune('a' + i)), Seconds: 60})
			switch rpc.CodeOf(err) {
			case rpc.FailedPrecondition:
				refused.Add(1)
			default:
				if err != nil {
					t.Error(err)
				}
				got.Add(1)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 || refused.Load() != 19 {
		t.Errorf("%d got it, %d were refused", got.Load(), refused.Load())
	}
	held, err := State.Call(t.Context(), c, "one", rpc.None{})
	if err != nil || held.Token != 1 {
		t.Fatal(held, err)
	}
	if _, err := Release.Call(t.Context(), c, "one", Params{Holder: held.Holder}); err != nil {
		t.Fatal(err)
	}
	if next, err := Acquire.Call(t.Context(), c, "one", Params{Holder: "next", Seconds: 1}); err != nil || next.Token != 2 {
		t.Errorf("after the release: %v, %v", next, err)
	}
}
