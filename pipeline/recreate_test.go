package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// wantAtLeast waits until the handlers got all of these, once or more.
func (l *lab) wantAtLeast(g *log, numbers ...int) {
	l.Helper()
	slices.Sort(numbers)
	var got []int
	defer func() {
		if l.Failed() {
			l.Logf("handled %v", got)
		}
	}()
	l.until(fmt.Sprintf("%d orders are handled", len(numbers)), func() bool {
		got = slices.Compact(sorted(g.all()))
		return len(got) >= len(numbers)
	})
	if !slices.Equal(got, numbers) {
		l.Fatalf("they are not %v", numbers)
	}
}

// sendMany sends orders at once.
func (l *lab) sendMany(orders ...order) {
	l.Helper()
	if _, err := pipeline.SendBatch(l.Context(), l.p, placed, orders); err != nil {
		l.Fatal(err)
	}
}

func between(from, to int) []order {
	var orders []order
	for n := from; n < to; n++ {
		orders = append(orders, order{N: n})
	}
	return orders
}

// An EVENTS that is made anew, while handlers are at work with events of the one
// before, is handled from its beginning, and its events are not taken for those
// that had their places before.
func TestStreamMadeAnew(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	plain, ordered := newLog(), newLog()
	held, free := make(chan struct{}, 2), make(chan struct{})
	handle := func(g *log) func(context.Context, pipeline.Event[order]) error {
		return func(ctx context.Context, e pipeline.Event[order]) error {
			switch {
			case e.Data.Bad == "hold":
				held <- struct{}{}
				<-free
			case e.Data.Bad != "":
				return rpc.Terminal(errFailed)
			}
			return g.handle(ctx, e)
		}
	}
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "plain", handle(plain))
		pipeline.On(svc, placed, "ordered", handle(ordered), pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }))
	})
	l.sendOrder(order{Bad: "yes"})
	l.sendMany(between(0, 20)...)
	l.sendOrder(order{N: 20, Key: "other", Bad: "hold"})
	<-held
	<-held
	l.want(plain, upTo(20)...)
	l.want(ordered, upTo(20)...)
	l.deadLetters(2)
	if err := l.b.JetStream().DeleteStream(t.Context(), bus.EventsStream); err != nil {
		t.Fatal(err)
	}
	l.sendOrder(order{Bad: "yes"})
	l.sendMany(between(100, 130)...)
	close(free)
	all := append(upTo(21), upTo(130)[100:]...)
	l.wantAtLeast(plain, all...)
	l.wantAtLeast(ordered, all...)
	l.deadLetters(4)
	if got := slices.DeleteFunc(ordered.all(), func(n int) bool { return n == 20 }); !slices.IsSorted(got) {
		t.Errorf("handled in the order %v", got)
	}
}

// A consumer that somebody deletes while several instances have its events loses
// none, also when they all notice at once.
func TestConsumerDeletedAmongMany(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]pipeline.HandlerOption{
		"shared": nil, "singleton": {pipeline.Singleton()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			g := newLog()
			var began atomic.Bool
			free := make(chan struct{})
			register := func(svc *server.Service) {
				pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
					if e.Data.N == 0 {
						began.Store(true)
						<-free
					}
					return g.handle(ctx, e)
				}, options...)
			}
			l.serve("shop", register)
			l.send(0)
			l.until("the first is at work", began.Load)
			for range 3 {
				l.serve("shop", register)
			}
			const n = 1500
			l.sendMany(between(1, n)...)
			was, err := l.p.Handler(t.Context(), "shop", "note")
			if err == nil {
				err = l.b.JetStream().DeleteConsumer(t.Context(), bus.EventsStream, "shop-note")
			}
			if err != nil {
				t.Fatal(err)
			}
			l.until("it is made again", func() bool {
				h, err := l.p.Handler(t.Context(), "shop", "note")
				return err == nil && h.Created.After(was.Created)
			})
			close(free)
			l.wantAtLeast(g, upTo(n)...)
		})
	}
}

// A handler that was removed and is there again is another one: its dead letters
// are not taken for those that it had before.
func TestHandlerRemovedAndAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(context.Context, pipeline.Event[order]) error { return rpc.Terminal(errFailed) },
			pipeline.From(pipeline.StartAll()))
	}
	l.send(upTo(3)...)
	stop := l.serve("shop", register)
	for _, d := range l.deadLetters(3) {
		if err := l.p.DiscardDead(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
	}
	l.idle("shop", "note")
	stop()
	if err := l.p.RemoveHandler(t.Context(), "shop", "note"); err != nil {
		t.Fatal(err)
	}
	l.serve("shop", register)
	l.deadLetters(3)
}

// A handler is not removed while all of its places are taken, so that it asks for
// nothing.
func TestRemoveBusyHandler(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	free := make(chan struct{})
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error { <-free; return g.handle(ctx, e) },
			pipeline.Concurrency(1))
	})
	l.send(upTo(10)...)
	l.until("it asks for nothing", func() bool {
		h, err := l.p.Handler(t.Context(), "shop", "note")
		if err != nil {
			t.Fatal(err)
		}
		return h.Running > 0 && !h.Waiting
	})
	l.coded(l.p.RemoveHandler(t.Context(), "shop", "note"), rpc.FailedPrecondition, "runs")
	close(free)
	l.want(g, upTo(10)...)
}
