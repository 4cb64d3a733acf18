package pipeline_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g, other := newLog(), newLog()
	var again atomic.Int32
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Again {
				again.Add(1)
			}
			return g.handle(ctx, e)
		}, pipeline.OrderBy(func(pipeline.Event[order]) string { return "" }))
		pipeline.On(svc, placed, "other", other.handle)
	})
	l.sendKinds("Order.paid") // at 1, of no handler
	l.send(upTo(20)...)       // at 2 to 21
	l.want(g, upTo(20)...)
	var told []pipeline.Replayed
	done, err := l.p.Replay(t.Context(), "shop", "note", pipeline.Replay{
		After: 6, Before: 18, Filter: func(e pipeline.RawEvent) bool { return e.Sequence%2 == 0 },
		Progress: func(r pipeline.Replayed) { told = append(told, r) },
	})
	if err != nil || done.Events != 5 || done.Last != 17 || done.Sequence != 17 || len(told) == 0 || told[len(told)-1] != done {
		t.Fatalf("%+v, %v, told %+v", done, err, told)
	}
	l.until("they are handled again", func() bool { return again.Load() == 5 })
	if got := g.all()[20:]; !slices.Equal(got, []int{6, 8, 10, 12, 14}) {
		t.Errorf("handled again %v", got)
	}
	l.send(20)
	l.until("it goes on", func() bool { return len(g.all()) == 26 })
	l.want(other, upTo(21)...)

	_, err = l.p.Replay(t.Context(), "shop", "nobody", pipeline.Replay{})
	l.coded(err, rpc.NotFound, "nobody")
	_, err = l.p.Replay(t.Context(), "shop", "note", pipeline.Replay{Patterns: []string{"Order"}})
	l.coded(err, rpc.InvalidArgument, "Order")
	if done, err := l.p.Replay(t.Context(), "shop", "note", pipeline.Replay{Patterns: []string{"Order.paid"}}); err != nil || done.Events != 0 {
		t.Errorf("what the handler does not want: %+v, %v", done, err)
	}
}

// What is retried or replayed while the handler is not there comes when it is.
func TestLaneWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	stop := l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(context.Context, pipeline.Event[order]) error { return rpc.Terminal(errFailed) })
	})
	l.send(1)
	dead := l.deadLetters(1)[0]
	stop()
	if n, err := l.p.RetryAllDead(t.Context(), pipeline.DeadQuery{Service: "shop", Handler: "note"}, nil); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if _, err := l.p.DeadLetter(t.Context(), dead.ID); rpc.CodeOf(err) != rpc.NotFound {
		t.Errorf("the dead letter that was retried: %v", err)
	}
	if h, err := l.p.Handler(t.Context(), "shop", "note"); err != nil || h.Again != 1 || h.Waiting {
		t.Errorf("%+v, %v", h, err)
	}
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) })
	l.want(g, 1)
}

func TestLag(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	free := make(chan struct{})
	stop := l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "slow", func(context.Context, pipeline.Event[order]) error { <-free; return nil }, pipeline.Concurrency(1))
		pipeline.On(svc, placed, "quick", newLog().handle)
	})
	sent := time.Now()
	l.send(upTo(10)...)
	l.idle("shop", "quick") // is not held up
	var h pipeline.HandlerInfo
	l.until("the slow one has begun", func() bool {
		var err error
		if h, err = l.p.Handler(t.Context(), "shop", "slow"); err != nil {
			t.Fatal(err)
		}
		return h.Running > 0
	})
	if h.Pending+uint64(h.Running) != 10 || h.Running > 2 || h.Oldest.Before(sent.Add(-time.Second)) || h.Age() <= 0 || h.Dead != 0 {
		t.Errorf("%+v, age %v", h, h.Age())
	}
	all, err := l.p.Handlers(t.Context())
	if err != nil || len(all) != 2 || all[0].Handler != "quick" || all[0].Age() != 0 || !all[0].Waiting || all[1].Handler != "slow" {
		t.Errorf("%+v, %v", all, err)
	}
	l.coded(l.p.RemoveHandler(t.Context(), "shop", "quick"), rpc.FailedPrecondition, "runs")
	close(free)
	l.idle("shop", "slow")
	stop()
	if err := l.p.RemoveHandler(t.Context(), "shop", "slow"); err != nil {
		t.Fatal(err)
	}
	_, err = l.p.Handler(t.Context(), "shop", "slow")
	l.coded(err, rpc.NotFound, "slow")
	l.coded(l.p.RemoveHandler(t.Context(), "shop", "never was"), rpc.InvalidArgument, "never was")
}

// An instance that stops gives back what waits in it, which costs no attempt.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	free := make(chan struct{})
	var begun atomic.Int32
	stop := l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			begun.Add(1)
			<-free
			return g.handle(ctx, e)
		}, pipeline.Concurrency(2), pipeline.Attempts(1))
	})
	l.send(upTo(20)...)
	l.until("two have begun", func() bool { return begun.Load() == 2 })
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle, pipeline.Attempts(1)) })
	l.until("the other instance has the rest", func() bool { return len(g.all()) == 18 })
	close(free) // a stop waits for what runs
	<-stopped
	l.want(g, upTo(20)...)
	l.deadLetters(0)
}

// A consumer that somebody deletes is made again where it was.
func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) })
	l.send(upTo(5)...)
	l.want(g, upTo(5)...)
	l.idle("shop", "note")
	if err := l.b.JetStream().DeleteConsumer(t.Context(), bus.EventsStream, "shop-note"); err != nil {
		t.Fatal(err)
	}
	l.send(5, 6)
	l.want(g, upTo(7)...)
}

// A restart of the bus loses nothing, and what was done is not done again.
func TestBusRestart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g, ordered := newLog(), newLog()
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", g.handle)
		pipeline.On(svc, placed, "ordered", ordered.handle, pipeline.OrderBy(func(pipeline.Event[order]) string { return "" }))
	})
	n := 0
	for range 3 {
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := pipeline.Send(ctx, l.p, placed, order{N: n}); err != nil {
				t.Fatal(err)
			}
			cancel()
			n++
		}
		shutDown(t, l.srv, l.b)
		if err := l.srv.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.want(g, upTo(n)...)
	l.want(ordered, upTo(n)...)
	if !slices.IsSorted(ordered.all()) {
		t.Errorf("not in order: %v", ordered.all())
	}
}
