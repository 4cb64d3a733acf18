package ratelimiter

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

func TestBucket(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "user-42")
	l := Limit{PerSecond: 2, Burst: 4}
	var b bucket
	now := time.UnixMilli(1_000_000)
	for _, step := range []struct {
		after   time.Duration
		tokens  float64
		allowed bool
		left    float64
		retry   int64
	}{
		{0, 3, true, 1, 0},
		{0, 2, false, 1, 501},
		{500 * time.Millisecond, 2, true, 0, 0},
		{0, 1, false, 0, 501},
		{time.Hour, 4, true, 0, 0},
	} {
		now = now.Add(step.after)
		got, err := b.take(ctx, l, Params{step.tokens}, now)
		if want := (Answer{step.allowed, step.left, step.retry}); err != nil || got != want {
			t.Errorf("take %v: %v, %v, want %v", step.tokens, got, err, want)
		}
	}
	for _, tokens := range []float64{0, -1, 5} {
		if _, err := b.take(ctx, l, Params{tokens}, now); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("take %v: %v", tokens, err)
		}
	}
	b.retire(ctx, l, now)
	if ctx.Destroyed() {
		t.Error("a bucket with tokens missing was deleted")
	}
	b.retire(ctx, l, now.Add(2*time.Second))
	if !ctx.Destroyed() {
		t.Error("a full bucket was not deleted")
	}
}

// However many ask at once, no more get through than the bucket holds.
func TestBurst(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "limits", server.Config{})
	Serve(svc, Limit{PerSecond: 0.001, Burst: 10})
	durabletest.Run(t, svc)
	c := client.New(b, client.Config{})
	defer c.Close()
	var allowed atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			got, err := Take.Call(t.Context(), c, "key", Params{1})
			if err != nil {
				t.Error(err)
			}
			if got.Allowed {
				allowed.Add(1)
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 10 {
		t.Errorf("%d got through, want 10", allowed.Load())
	}
}
