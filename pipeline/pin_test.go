package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// pins tells who holds the pin of a handler's consumer, by the pulls that it sees.
type pins struct {
	l       *lab
	durable string

	mu sync.Mutex
	of map[string]string // the inbox of who has pulled with an id
}

func (l *lab) watchPins(durable string) *pins {
	l.Helper()
	p := &pins{l: l, durable: durable, of: map[string]string{}}
	sub, err := l.b.Conn().Subscribe("$JS.API.CONSUMER.MSG.NEXT."+bus.EventsStream+"."+durable, func(m *nats.Msg) {
		var pull struct{ ID string }
		if json.Unmarshal(m.Data, &pull) == nil && pull.ID != "" {
			p.mu.Lock()
			p.of[pull.ID] = m.Reply
			p.mu.Unlock()
		}
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = sub.Unsubscribe() })
	return p
}

// now returns the id of the pin, empty for none.
func (p *pins) now() string {
	p.l.Helper()
	c, err := p.l.b.JetStream().Consumer(p.l.Context(), bus.EventsStream, p.durable)
	if err != nil {
		p.l.Fatal(err)
	}
	for _, group := range c.CachedInfo().PriorityGroups {
		return group.PinnedClientID
	}
	return ""
}

// holds reports whether the pin is with an instance on that bus.
func (p *pins) holds(b *bus.Bus) bool {
	p.l.Helper()
	id := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	return id != "" && strings.HasPrefix(p.of[id], b.InboxPrefix()+".")
}

// drop takes the pin from whoever holds it.
func (p *pins) drop() {
	p.l.Helper()
	stream, err := p.l.b.JetStream().Stream(p.l.Context(), bus.EventsStream)
	if err == nil {
		err = stream.UnpinConsumer(p.l.Context(), p.durable, "owner")
	}
	if err != nil {
		p.l.Fatal(err)
	}
}

// serveApart is serve on a bus whose pulls can be told from those of others.
func (l *lab) serveApart(name, inbox string, register func(*server.Service)) *bus.Bus {
	l.Helper()
	b := bustest.Connect(l.T, l.srv, bustest.WithConfig(func(c *bus.Config) { c.InboxPrefix = inbox }))
	l.serveOn(b, name, register)
	return b
}

// When the pin moves while an attempt goes on, and that fails, the new owner does
// not wait for the pause after it.
func TestPinMovesWhileAttemptFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	held, free := make(chan struct{}), make(chan struct{})
	var tries atomic.Int32
	register := func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Data.N == 0 && tries.Add(1) == 1 {
				close(held)
				<-free
				return errFailed
			}
			return g.handle(ctx, e)
		}, pipeline.OrderBy(func(e pipeline.Event[order]) string { return fmt.Sprint(e.Data.N) }), pipeline.Backoff(time.Hour))
	}
	l.serveApart("shop", "_INBOX_first", register)
	l.send(0)
	<-held
	second := l.serveApart("shop", "_INBOX_second", register)
	pins := l.watchPins("shop-note")
	n := 1
	for !pins.holds(second) {
		pins.drop()
		l.send(n) // who gets it gets the pin
		n++
		l.until("somebody has the pin", func() bool { return pins.now() != "" })
		id := pins.now()
		l.until("it has pulled with it", func() bool {
			pins.mu.Lock()
			defer pins.mu.Unlock()
			return pins.of[id] != "" || pins.now() != id
		})
	}
	l.sendMany(between(n, n+10)...)
	close(free)
	l.wantAtLeast(g, upTo(n+10)...)
}

// What waits when the pin moves, and comes again, keeps its order: also what a
// filter is looking at.
func TestPinMovesWhileFilterLooks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	looks, free := make(chan struct{}), make(chan struct{})
	var looked sync.Once
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if e.Data.N == 0 && e.Attempt == 1 {
				return errFailed
			}
			return g.handle(ctx, e)
		}, pipeline.OrderBy(func(pipeline.Event[order]) string { return "" }), pipeline.Backoff(500*time.Millisecond),
			pipeline.Filter(func(e pipeline.Event[order]) bool {
				if e.Data.N == 2 {
					looked.Do(func() { close(looks); <-free })
				}
				return true
			}))
	})
	l.send(0, 1, 2)
	<-looks
	pins := l.watchPins("shop-note")
	before := pins.now()
	pins.drop()
	l.send(3)
	l.until("the pin is another", func() bool { id := pins.now(); return id != "" && id != before })
	close(free)
	l.wantAtLeast(g, upTo(4)...)
	if got := g.all(); !slices.IsSorted(got) {
		t.Errorf("handled in the order %v", got)
	}
}

// A pin that is taken before its owner is sure of it, and that nobody else gets, is
// not waited for.
func TestPinTakenEarly(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle, pipeline.Singleton()) })
	pins := l.watchPins("shop-note")
	l.send(0)
	l.until("somebody has the pin", func() bool { return pins.now() != "" })
	pins.drop()
	l.wantAtLeast(g, 0)
}

// When another instance makes an ordered handler one without order, nothing stays
// with those that want it ordered.
func TestOrderedTurnedPlain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	byKey := pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key })
	for range 2 {
		l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle, byKey) })
	}
	l.send(0)
	l.want(g, 0)
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) })
	l.sendMany(between(1, 6)...)
	l.wantAtLeast(g, upTo(6)...)
}

// A singleton is one, whatever else the options say, in any order.
func TestSingletonWithConcurrency(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) {
		for name, options := range map[string][]pipeline.HandlerOption{
			"before": {pipeline.Singleton(), pipeline.Concurrency(4)}, "after": {pipeline.Concurrency(4), pipeline.Singleton()},
		} {
			var running atomic.Int32
			pipeline.On(svc, placed, name, func(ctx context.Context, e pipeline.Event[order]) error {
				if running.Add(1) > 1 {
					t.Error("two at once")
				}
				defer running.Add(-1)
				time.Sleep(2 * time.Millisecond) // for another to begin beside it
				return g.handle(ctx, e)
			}, options...)
		}
	})
	l.sendMany(between(0, 40)...)
	l.want(g, append(upTo(40), upTo(40)...)...)
}

// An instance takes over when far more bytes wait than one asks for at a time.
func TestTakeOverOfLargeEvents(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	var begun atomic.Int32
	free := make(chan struct{})
	register := func(most int32) func(*server.Service) {
		return func(svc *server.Service) {
			pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
				if begun.Add(1) > most {
					<-free
				}
				return g.handle(ctx, e)
			}, pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }), pipeline.Concurrency(4))
		}
	}
	const n, some = 1500, 80
	orders := between(0, n)
	for i := range orders {
		orders[i].Key, orders[i].Bad = fmt.Sprint(i%50), strings.Repeat("x", 20_000)
	}
	stop := l.serve("shop", register(some))
	l.sendMany(orders...)
	l.until("all places are taken", func() bool { return begun.Load() == some+4 })
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	l.serve("shop", register(n+some))
	close(free)
	<-stopped
	l.wantAtLeast(g, upTo(n)...)
	l.idle("shop", "note")
}

// What is retried of a handler of which one instance has all events comes to it,
// whoever has the events, again and again.
func TestLaneAgainAndAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		option    pipeline.HandlerOption
		instances int
	}{
		"singleton": {pipeline.Singleton(), 1},
		"ordered":   {pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }), 1},
		"several":   {pipeline.Singleton(), 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 2 {
				l := newLab(t)
				var stops []func()
				for range test.instances {
					stops = append(stops, l.serve("shop", func(svc *server.Service) {
						pipeline.On(svc, placed, "note", func(context.Context, pipeline.Event[order]) error { return rpc.Terminal(errFailed) }, test.option)
					}))
				}
				l.sendMany(between(0, 4)...)
				l.deadLetters(4)
				for id := range uint64(4) { // the last time it is dead, it has the next id
					if err := l.p.RetryDead(t.Context(), id+1, nil); err != nil {
						t.Fatal(err)
					}
					l.until("it is a dead letter again", func() bool {
						_, err := l.p.DeadLetter(t.Context(), id+5)
						return err == nil
					})
				}
				for _, stop := range stops {
					stop()
				}
			}
		})
	}
}
