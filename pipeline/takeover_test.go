package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// referee holds events of one key to their order: when one begins, all before it
// must have been handled, and no other may be running.
type referee struct {
	mu      sync.Mutex
	done    map[string][]int // by key, in the order in which they were first handled
	running map[string]int
	starts  int
	wrong   []string
}

func newReferee() *referee {
	return &referee{done: map[string][]int{}, running: map[string]int{}}
}

func (r *referee) begin(e pipeline.Event[order]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := e.Data.Key
	r.starts++
	r.running[key]++
	if r.running[key] > 1 {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %d of them at once", key, r.running[key]))
	}
	for i := range e.Data.N {
		if !slices.Contains(r.done[key], i) {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: %d begins before %d is done; done are %v", key, e.Data.N, i, r.done[key]))
			return
		}
	}
}

func (r *referee) end(e pipeline.Event[order], ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[e.Data.Key]--
	if ok && !slices.Contains(r.done[e.Data.Key], e.Data.N) {
		r.done[e.Data.Key] = append(r.done[e.Data.Key], e.Data.N)
	}
}

func (r *referee) handled() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.done {
		n += len(of)
	}
	return n
}

func (r *referee) check(t *testing.T, keys, each int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wrong[:min(len(r.wrong), 10)] {
		t.Error(w)
	}
	for k := range keys {
		key := fmt.Sprint("key", k)
		if got := r.done[key]; !slices.Equal(got, upTo(each)) {
			t.Errorf("%s: handled %v, want all %d in order", key, got, each)
		}
	}
	t.Logf("%d events handled with %d attempts", keys*each, r.starts)
}

// TestTakeOver has one instance follow the other, however it ends, and holds
// every key to its order all the time.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(stop func(), b *bus.Bus){
		"stopped": func(stop func(), _ *bus.Bus) { stop() },
		"cut off": func(_ func(), b *bus.Bus) { b.Conn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			ref := newReferee()
			register := func(svc *server.Service) {
				pipeline.On(svc, placed, "ledger", func(ctx context.Context, e pipeline.Event[order]) error {
					ref.begin(e)
					time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
					ok := rand.IntN(10) > 0
					ref.end(e, ok)
					if !ok {
						return errFailed
					}
					return nil
				}, pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }),
					pipeline.Backoff(5*time.Millisecond), pipeline.Attempts(1000))
			}
			first := bustest.Connect(t, l.srv, bustest.IgnoreLeaks())
			svc := server.New(first, "shop", server.Config{DrainTimeout: 2 * time.Second})
			register(svc)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = svc.Run(ctx) }()
			<-svc.Ready()
			stop := func() { cancel(); <-ended }
			t.Cleanup(stop)

			const keys, each = 7, 60
			for n := range each {
				for k := range keys {
					l.sendOrder(order{N: n, Key: fmt.Sprint("key", k)})
				}
				if n == each/4 {
					l.until("the first instance has begun", func() bool { return ref.handled() > keys })
					l.serve("shop", register)
				}
				if n == each/2 {
					end(stop, first)
				}
			}
			begun := time.Now()
			l.until("all are handled", func() bool { return ref.handled() == keys*each })
			t.Logf("all are handled %v after the first instance ended", time.Since(begun).Round(time.Millisecond))
			ref.check(t, keys, each)
		})
	}
}

// What is in the lane of a handler of which one instance has all events goes to
// that instance, or to any while none has them, and never beside its events.
func TestLaneOfOne(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ref := newReferee()
	failing := true
	var mu sync.Mutex
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "ledger", func(ctx context.Context, e pipeline.Event[order]) error {
			mu.Lock()
			fail := failing && e.Data.N == 0
			mu.Unlock()
			if fail {
				return rpc.Terminal(errFailed)
			}
			ref.begin(e)
			time.Sleep(2 * time.Millisecond) // for another to begin beside it
			ref.end(e, true)
			return nil
		}, pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }))
	}
	stop := l.serve("shop", register)
	const keys, each = 3, 40
	for k := range keys {
		l.sendOrder(order{N: 0, Key: fmt.Sprint("key", k)})
	}
	l.deadLetters(keys)
	stop()
	mu.Lock()
	failing = false
	mu.Unlock()

	// Nobody has the events, since there are none: the lane does not wait for one.
	for range 5 {
		l.serve("shop", register)
	}
	if n, err := l.p.RetryAllDead(t.Context(), pipeline.DeadQuery{}, nil); err != nil || n != keys {
		t.Fatal(n, err)
	}
	l.until("the lane is empty", func() bool { return ref.handled() == keys })

	for n := 1; n < each; n++ {
		for k := range keys {
			l.sendOrder(order{N: n, Key: fmt.Sprint("key", k)})
		}
		if n%10 == 5 {
			if _, err := l.p.Replay(t.Context(), "shop", "ledger", pipeline.Replay{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.until("all are handled", func() bool { return ref.handled() == keys*each })
	l.idle("shop", "ledger")
	ref.check(t, keys, each)
}
