package pipeline_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

type bag struct {
	N map[string]int `json:"n"`
}

var filled = rpc.NewEvent[bag]("Bag.filled")

// What an attempt does to the data of an event, no other attempt sees, nor another
// handler.
func TestAttemptsShareNoData(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var mu sync.Mutex
	seen := map[string][]int{}
	spoil := func(handler string, m map[string]int) error {
		mu.Lock()
		defer mu.Unlock()
		seen[handler] = append(seen[handler], m["a"])
		m["a"]++
		return errFailed
	}
	l.serve("shop", func(svc *server.Service) {
		again := []pipeline.HandlerOption{pipeline.Attempts(3), pipeline.Backoff(time.Millisecond)}
		one := func(name string) func(context.Context, pipeline.Event[bag]) error {
			return func(_ context.Context, e pipeline.Event[bag]) error { return spoil(name, e.Data.N) }
		}
		pipeline.On(svc, filled, "shared", one("shared"), again...)
		pipeline.On(svc, filled, "one", one("one"), append(again, pipeline.Singleton())...)
		pipeline.OnBatch(svc, filled, "batch", func(_ context.Context, events []pipeline.Event[bag]) error {
			return spoil("batch", events[0].Data.N)
		}, append(again, pipeline.Batch(1, time.Millisecond))...)
	})
	if _, err := pipeline.Send(t.Context(), l.p, filled, bag{N: map[string]int{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	l.deadLetters(3)
	mu.Lock()
	defer mu.Unlock()
	for _, name := range []string{"shared", "one", "batch"} {
		if !slices.Equal(seen[name], []int{1, 1, 1}) {
			t.Errorf("%s: the attempts saw %v", name, seen[name])
		}
	}
}

// Conditions look at data in any format that the handler can read.
func TestWhereOfCBOR(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle, pipeline.Where("n", pipeline.Is(1, 3)), pipeline.Where("key", pipeline.HasPrefix("k")))
	})
	binary := pipeline.New(l.b, pipeline.Config{Codec: bus.CBOR{}})
	for n := range 4 {
		for _, p := range []*pipeline.Pipeline{binary, l.p} {
			if _, err := pipeline.Send(t.Context(), p, placed, order{N: n, Key: "key"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.idle("shop", "note")
	l.want(g, 1, 1, 3, 3)
}

// An older event that comes again does not take the place of a newer one of its
// key.
func TestDebounceOfOlder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle,
			pipeline.Debounce(time.Second, func(e pipeline.Event[order]) string { return e.Data.Key }))
	})
	l.send(1)
	l.want(g, 1)
	l.send(2)
	if done, err := l.p.Replay(t.Context(), "shop", "note", pipeline.Replay{Before: 2}); err != nil || done.Events != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	l.idle("shop", "note")
	if got := g.all(); !slices.Contains(got, 2) || got[len(got)-1] != 2 {
		t.Errorf("handled %v", got)
	}
}

// Events that lead to each other without end come to one when batches of them are
// handled, too.
func TestLoopOfBatches(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var rounds atomic.Int32
	l.serve("shop", func(svc *server.Service) {
		pipeline.OnBatch(svc, placed, "note", func(ctx context.Context, events []pipeline.Event[order]) error {
			rounds.Add(1)
			_, err := pipeline.Send(ctx, l.p, placed, order{})
			return err
		}, pipeline.Batch(1, time.Millisecond))
	})
	l.send(0)
	d := l.deadLetters(1)[0]
	if l.idle("shop", "note"); d.Reason != pipeline.ReasonLoop || rounds.Load() > 100 {
		t.Errorf("%s after %d rounds", d.Reason, rounds.Load())
	}
}
