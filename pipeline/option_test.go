package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// idle waits until a handler has had all that there is. The server counts what is
// pending a moment after it has acknowledged it, so the count must stay at nothing.
func (l *lab) idle(service, handler string) {
	l.Helper()
	still := 0
	l.until("the handler has had everything", func() bool {
		h, err := l.p.Handler(l.Context(), service, handler)
		if err != nil {
			l.Fatal(err)
		}
		still++
		if h.Pending > 0 || h.Running > 0 || h.Again > 0 {
			still = 0
		}
		return still == 20
	})
}

func TestDebounce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	const wait = 300 * time.Millisecond
	var at sync.Map
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			at.Store(e.Data.Key, time.Now())
			return g.handle(ctx, e)
		}, pipeline.Debounce(wait, func(e pipeline.Event[order]) string { return e.Data.Key }))
	})
	for i := range 30 {
		l.sendOrder(order{N: i, Key: fmt.Sprint(i % 3)})
	}
	last := time.Now()
	l.idle("shop", "note")
	if got := sorted(g.all()); !slices.Equal(got, []int{27, 28, 29}) {
		t.Errorf("handled %v, want the last of each key", got)
	}
	at.Range(func(key, when any) bool {
		if when.(time.Time).Sub(last) < wait/2 {
			t.Errorf("key %v was handled %v after the last event", key, when.(time.Time).Sub(last))
		}
		return true
	})
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const n, per, events = 5, 400 * time.Millisecond, 17
	var mu sync.Mutex
	var begun []time.Time
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(context.Context, pipeline.Event[order]) error {
			mu.Lock()
			defer mu.Unlock()
			begun = append(begun, time.Now())
			return nil
		}, pipeline.Throttle(n, per))
	}
	l.serve("shop", register)
	l.serve("shop", register)
	l.send(upTo(events)...)
	l.idle("shop", "note")
	mu.Lock()
	defer mu.Unlock()
	if len(begun) != events {
		t.Fatalf("%d were handled", len(begun))
	}
	for i := n; i < events; i++ {
		// A goroutine may get to note its time late.
		if d := begun[i].Sub(begun[i-n]); d < per*3/4 {
			t.Errorf("%d began within %v, at most %d may within %v", n+1, d, n, per)
		}
	}
}

func TestSingleton(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	var running atomic.Int32
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if running.Add(1) > 1 {
				t.Error("two at once")
			}
			defer running.Add(-1)
			return g.handle(ctx, e)
		}, pipeline.Singleton())
	}
	l.serve("shop", register)
	l.serve("shop", register)
	l.send(upTo(100)...)
	l.want(g, upTo(100)...)
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var running, most atomic.Int32
	full := make(chan struct{})
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, _ pipeline.Event[order]) error {
			n := running.Add(1)
			defer running.Add(-1)
			if n > most.Load() {
				most.Store(n)
			}
			if n == 4 {
				close(full)
			}
			<-full // all four places are taken, or this never ends
			return nil
		}, pipeline.Concurrency(4))
		pipeline.On(svc, placed, "other", newLog().handle)
	})
	l.send(upTo(4)...)
	l.idle("shop", "note")
	if n := most.Load(); n != 4 {
		t.Errorf("%d at once, want 4", n)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	var mu sync.Mutex
	var sizes []int
	failed := map[int]int{}
	l.serve("shop", func(svc *server.Service) {
		pipeline.OnBatch(svc, placed, "note", func(_ context.Context, events []pipeline.Event[order]) error {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(events))
			wrong := pipeline.PartError{Errs: map[int]error{}}
			for i, e := range events {
				if i > 0 && e.Attempt == events[i-1].Attempt && e.Sequence < events[i-1].Sequence {
					t.Errorf("%d comes after %d", e.Sequence, events[i-1].Sequence)
				}
				if e.Data.N%10 == 3 && e.Attempt == 1 {
					failed[e.Data.N]++
					wrong.Errs[i] = errFailed
					continue
				}
				g.note(e.Data.N)
			}
			if len(wrong.Errs) > 0 {
				return &wrong
			}
			return nil
		}, pipeline.Batch(20, 200*time.Millisecond), pipeline.Concurrency(1), pipeline.Backoff(10*time.Millisecond))
	})
	l.send(upTo(50)...)
	l.want(g, upTo(50)...)
	mu.Lock()
	defer mu.Unlock()
	if slices.Max(sizes) > 20 || slices.Max(sizes) < 2 {
		t.Errorf("batches of %v", sizes)
	}
	for n, times := range failed {
		if times != 1 {
			t.Errorf("%d failed %d times", n, times)
		}
	}
	if len(failed) != 5 {
		t.Errorf("failed: %v", failed)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle, pipeline.Filter(func(e pipeline.Event[order]) bool {
			if e.Data.N == 13 {
				panic("thirteen")
			}
			return e.Data.N%2 == 1
		}), pipeline.Attempts(2), pipeline.Backoff(time.Millisecond))
	})
	l.send(upTo(20)...)
	l.idle("shop", "note")
	if got := sorted(g.all()); !slices.Equal(got, []int{1, 3, 5, 7, 9, 11, 15, 17, 19}) {
		t.Errorf("handled %v", got)
	}
	if d := l.deadLetters(1)[0]; d.Reason != "attempts" || d.Error != "panic: thirteen" {
		t.Errorf("%+v", d)
	}
}

// A handler that does not end in time is cancelled, and what ignores that is
// given up.
func TestTimeout(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	free := make(chan struct{})
	t.Cleanup(func() { close(free) })
	causes := make(chan error, 1)
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "polite", func(ctx context.Context, e pipeline.Event[order]) error {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 200*time.Millisecond {
				t.Errorf("deadline %v %v", deadline, ok)
			}
			<-ctx.Done()
			causes <- ctx.Err()
			return ctx.Err()
		}, pipeline.Timeout(200*time.Millisecond), pipeline.Attempts(1))
		pipeline.On(svc, placed, "stubborn", func(context.Context, pipeline.Event[order]) error {
			<-free
			return nil
		}, pipeline.Timeout(200*time.Millisecond), pipeline.Attempts(1), pipeline.Concurrency(1))
	})
	l.send(1)
	if err := <-causes; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context ended with %v", err)
	}
	for _, d := range l.deadLetters(2) {
		if d.Code != "deadline_exceeded" || d.Attempts != 1 {
			t.Errorf("%+v", d)
		}
	}
	free <- struct{}{}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.send(0, 1)
	third := l.sendOrder(order{N: 2})
	l.send(3)
	var stored time.Time
	e, err := l.p.Event(t.Context(), third.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	stored = e.Stored
	starts := map[string]pipeline.Start{
		"new": pipeline.StartNew(), "all": pipeline.StartAll(),
		"time": pipeline.StartTime(stored), "sequence": pipeline.StartSequence(third.Sequence),
	}
	logs := map[string]*log{"default": newLog()}
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "default", logs["default"].handle)
		for name, s := range starts {
			logs[name] = newLog()
			pipeline.On(svc, placed, name, logs[name].handle, pipeline.From(s))
		}
	})
	l.send(4)
	l.want(logs["default"], 4)
	l.want(logs["new"], 4)
	l.want(logs["all"], 0, 1, 2, 3, 4)
	l.want(logs["time"], 2, 3, 4)
	l.want(logs["sequence"], 2, 3, 4)
}

func TestRegisterPanics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	note := newLog().handle
	byKey := func(e pipeline.Event[order]) string { return e.Data.Key }
	for name, register := range map[string]func(*server.Service){
		"bad name":    func(svc *server.Service) { pipeline.On(svc, placed, "send welcome", note) },
		"dot in name": func(svc *server.Service) { pipeline.On(svc, placed, "send.welcome", note) },
		"no name":     func(svc *server.Service) { pipeline.On(svc, placed, "", note) },
		"nil":         func(svc *server.Service) { pipeline.On[order](svc, placed, "note", nil) },
		"twice": func(svc *server.Service) {
			pipeline.On(svc, placed, "note", note)
			pipeline.On(svc, placed, "note", note)
		},
		"bad pattern": func(svc *server.Service) { pipeline.OnPattern(svc, "User registered", "note", note) },
		"everything":  func(svc *server.Service) { pipeline.OnPattern(svc, ">", "note", note) },
		"bad also":    func(svc *server.Service) { pipeline.On(svc, placed, "note", note, pipeline.Also("Order")) },
		"other type": func(svc *server.Service) {
			pipeline.On(svc, placed, "note", note, pipeline.Filter(func(pipeline.Event[string]) bool { return true }))
		},
		"ordered batch": func(svc *server.Service) {
			pipeline.OnBatch(svc, placed, "note", func(context.Context, []pipeline.Event[order]) error { return nil }, pipeline.OrderBy(byKey))
		},
		"two keys": func(svc *server.Service) {
			pipeline.On(svc, placed, "note", note, pipeline.OrderBy(byKey), pipeline.Debounce(time.Second, byKey))
		},
		"no attempts":    func(svc *server.Service) { pipeline.On(svc, placed, "note", note, pipeline.Attempts(0)) },
		"no concurrency": func(svc *server.Service) { pipeline.On(svc, placed, "note", note, pipeline.Concurrency(-1)) },
		"no backoff":     func(svc *server.Service) { pipeline.On(svc, placed, "note", note, pipeline.Backoff()) },
		"batch for one":  func(svc *server.Service) { pipeline.On(svc, placed, "note", note, pipeline.Batch(2, time.Second)) },
		"large batch":    func(svc *server.Service) { pipeline.Batch(10_000, time.Second) },
	} {
		if !panics(func() { register(server.New(l.b, "shop", server.Config{})) }) {
			t.Errorf("%s: no panic", name)
		}
	}
	svc := server.New(l.b, "shop", server.Config{})
	pipeline.On(svc, placed, "note", note)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	<-svc.Ready()
	if !panics(func() { pipeline.On(svc, placed, "late", note) }) {
		t.Error("after Run: no panic")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Two handlers must not have one consumer.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve("a-b", func(svc *server.Service) { pipeline.On(svc, placed, "c", newLog().handle) })
	svc := server.New(l.b, "a", server.Config{})
	pipeline.On(svc, placed, "b-c", newLog().handle)
	err := svc.Run(t.Context())
	l.coded(err, rpc.AlreadyExists, "a-b-c", `"c"`, `"a-b"`, "another name")
}

// A handler that ends its goroutine has failed, and loses no place over it.
func TestGoexit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Data.N == 0 && e.Attempt == 1 {
				runtime.Goexit()
			}
			return g.handle(ctx, e)
		}, pipeline.Concurrency(1), pipeline.Backoff(time.Millisecond))
		pipeline.On(svc, placed, "one", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Attempt == 1 {
				runtime.Goexit()
			}
			return g.handle(ctx, e)
		}, pipeline.Singleton(), pipeline.Backoff(time.Millisecond))
	})
	l.send(0, 1, 2)
	l.want(g, 0, 0, 1, 1, 2, 2)
}

// A filter that panics is asked again, also where events have an order.
func TestFilterPanicsInOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g, last := newLog(), newLog()
	var asked atomic.Int32
	byKey := func(e pipeline.Event[order]) string { return e.Data.Key }
	keep := func(e pipeline.Event[order]) bool {
		if e.Data.N == 1 && asked.Add(1) <= 2 {
			panic("not now")
		}
		return e.Data.N%2 == 1
	}
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "order", g.handle, pipeline.OrderBy(byKey), pipeline.Filter(keep), pipeline.Backoff(time.Millisecond))
		pipeline.On(svc, placed, "last", last.handle, pipeline.Debounce(100*time.Millisecond, byKey), pipeline.Filter(keep), pipeline.Backoff(time.Millisecond))
	})
	l.send(upTo(10)...)
	l.idle("shop", "order")
	l.idle("shop", "last")
	if got := g.all(); !slices.Equal(got, []int{1, 3, 5, 7, 9}) {
		t.Errorf("handled %v", got)
	}
	if got := last.all(); len(got) == 0 || got[len(got)-1]%2 == 0 {
		t.Errorf("handled %v", got)
	}
}

// What a filter leaves out does not count for the throttle.
func TestThrottleCountsWhatIsWanted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle, pipeline.Throttle(1, time.Hour),
			pipeline.Filter(func(e pipeline.Event[order]) bool { return e.Data.N == 19 }))
	})
	l.send(upTo(20)...)
	l.want(g, 19)
}
