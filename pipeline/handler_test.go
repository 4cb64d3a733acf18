package pipeline_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do/pipeline"
	"rpc.do/server"
)

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Fatalf("error %v, want one with %q", err, w)
		}
	}
}

func TestHandle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g, other = newLog(), newLog()
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle)
		pipeline.On(svc, placed, "other", other.handle)
	}
	l.serve("shop", register)
	l.serve("shop", register)
	l.send(upTo(200)...)
	l.want(g, upTo(200)...)
	l.want(other, upTo(200)...)
}

// A handler goes on where it was, whoever runs it.
func TestHandlerGoesOn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.sendOrder(order{N: 1000}) // before the handler is there for the first time
	g := newLog()
	register := func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) }
	stop := l.serve("shop", register)
	l.send(0)
	l.want(g, 0)
	stop()
	l.send(1, 2)
	l.serve("shop", register)
	l.send(3)
	l.want(g, 0, 1, 2, 3)
}

func TestRetry(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	var tries atomic.Int32
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if n := tries.Add(1); int(n) != e.Attempt {
				t.Errorf("attempt %d, want %d", e.Attempt, n)
			}
			if e.Attempt < 3 {
				return errFailed
			}
			return g.handle(ctx, e)
		}, pipeline.Backoff(20*time.Millisecond))
	})
	l.send(7)
	l.want(g, 7)
	if n := tries.Load(); n != 3 {
		t.Errorf("%d attempts", n)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	var failed atomic.Int32
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Data.N%7 == 3 && e.Attempt == 1 {
				failed.Add(1)
				return errFailed
			}
			return g.handle(ctx, e)
		}, pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }), pipeline.Backoff(10*time.Millisecond))
	})
	const n = 100
	for i := range n {
		l.sendOrder(order{N: i, Key: string(rune('a' + i%3))})
	}
	l.want(g, upTo(n)...)
	last := [3]int{-1, -1, -1}
	for _, i := range g.all() {
		if i < last[i%3] {
			t.Fatalf("%d came after %d: %v", i, last[i%3], g.all())
		}
		last[i%3] = i
	}
	if failed.Load() == 0 {
		t.Error("nothing has failed")
	}
}
