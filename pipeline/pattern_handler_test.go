package pipeline_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// kinds notes the types of events.
type kinds struct {
	mu  sync.Mutex
	got []string
}

func (k *kinds) handle(_ context.Context, e pipeline.RawEvent) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.got = append(k.got, e.Type)
	return nil
}

func (k *kinds) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(slices.Values(k.got))
}

func (l *lab) sendKinds(names ...string) {
	l.Helper()
	for _, name := range names {
		if _, err := l.p.Send(l.Context(), name, map[string]int{"n": 1}); err != nil {
			l.Fatal(err)
		}
	}
}

func (l *lab) wantKinds(k *kinds, names ...string) {
	l.Helper()
	slices.Sort(names)
	l.until("the events are handled", func() bool { return len(k.all()) >= len(names) })
	if got := k.all(); !slices.Equal(got, names) {
		l.Fatalf("handled %v, want %v", got, names)
	}
}

func TestHandlerPatterns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	handlers := map[string]struct {
		patterns []string
		want     []string
	}{
		"exact":    {[]string{"User.registered"}, []string{"User.registered"}},
		"subject":  {[]string{"User.*"}, []string{"User.registered", "User.purchased", "User.created"}},
		"verb":     {[]string{"*.created"}, []string{"Order.created", "User.created"}},
		"object":   {[]string{"User.purchased.Product"}, []string{"User.purchased.Product"}},
		"rest":     {[]string{"$.User.>"}, []string{"User.registered", "User.purchased", "User.purchased.Product", "User.created"}},
		"several":  {[]string{"Order.paid", "User.registered"}, []string{"Order.paid", "User.registered"}},
		"overlap":  {[]string{"User.*", "*.created"}, []string{"User.registered", "User.purchased", "User.created", "Order.created"}},
		"included": {[]string{"User.>", "User.created"}, []string{"User.registered", "User.purchased", "User.purchased.Product", "User.created"}},
		"all":      {[]string{"$.>"}, []string{"User.registered", "User.purchased", "User.purchased.Product", "User.created", "Order.created", "Order.paid"}},
	}
	got := map[string]*kinds{}
	l.serve("shop", func(svc *server.Service) {
		for name, h := range handlers {
			got[name] = &kinds{}
			pipeline.OnPattern(svc, h.patterns[0], name, got[name].handle, pipeline.Also(h.patterns[1:]...))
		}
	})
	l.sendKinds("User.registered", "User.purchased", "User.purchased.Product", "User.created", "Order.created", "Order.paid")
	for name, h := range handlers {
		l.idle("shop", name)
		if want := slices.Sorted(slices.Values(h.want)); !slices.Equal(got[name].all(), want) {
			t.Errorf("%v: handled %v, want %v", h.patterns, got[name].all(), want)
		}
	}
}

// A handler whose pattern changes keeps its place, and an instance that does not
// know the new pattern leaves those events to one that does.
func TestPatternChanges(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var old, now kinds
	stop := l.serve("shop", func(svc *server.Service) { pipeline.OnPattern(svc, "User.*", "note", old.handle) })
	l.sendKinds("User.created")
	l.wantKinds(&old, "User.created")
	stop()
	l.sendKinds("User.changed", "Order.created") // of which it is to have the first
	stop = l.serve("shop", func(svc *server.Service) { pipeline.OnPattern(svc, "User.*", "note", old.handle) })
	l.wantKinds(&old, "User.created", "User.changed")

	l.serve("shop", func(svc *server.Service) {
		pipeline.OnPattern(svc, "User.*", "note", now.handle, pipeline.Also("Order.*"))
	})
	for range 40 {
		l.sendKinds("Order.paid", "User.paid")
	}
	l.until("all are handled", func() bool { return len(old.all())-2+len(now.all()) == 80 })
	if slices.Contains(old.all(), "Order.paid") {
		t.Error("an instance got what it does not want")
	}
	h, err := l.p.Handler(t.Context(), "shop", "note")
	if err != nil || !slices.Equal(h.Patterns, []string{"Order.*", "User.*"}) || h.Version != "1.2.3" {
		t.Errorf("%+v, %v", h, err)
	}
	stop()
}

// What a plain client publishes is an event as well.
func TestPlainEvent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	events := make(chan pipeline.Event[order], 10)
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(_ context.Context, e pipeline.Event[order]) error {
			events <- e
			return nil
		})
	})
	begun := time.Now().Add(-time.Second)
	l.plain("$.Order.placed", []byte(`{"n":1}`), nil)
	e := <-events
	if e.ID != "EVENTS/1" || e.Type != "Order.placed" || e.Source != "/nats" || e.Data.N != 1 || e.Time.Before(begun) || e.CorrelationID != e.ID || e.Attempt != 1 {
		t.Errorf("%+v", e)
	}
	l.plain("$.Order.placed", []byte(`{"n":2}`), nats.Header{"Nats-Msg-Id": {"my own"}})
	if e := <-events; e.ID != "my own" || e.Data.N != 2 {
		t.Errorf("%+v", e)
	}
	l.plain("$.Order.placed", nil, nil)
	if e := <-events; e.Data.N != 0 {
		t.Errorf("%+v", e)
	}
	l.plain("$.Order.placed", []byte(`{"specversion":"1.0","id":"s-1","type":"Order.placed","source":"/elsewhere","time":"2026-01-02T03:04:05Z","data":{"n":3}}`),
		nats.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}})
	if e := <-events; e.ID != "s-1" || e.Source != "/elsewhere" || e.Data.N != 3 || e.Time.Year() != 2026 {
		t.Errorf("%+v", e)
	}
}

// What is sent, and called, from a handler says what it is due to.
func TestCause(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	paid, shipped := rpc.NewEvent[order]("Order.paid"), rpc.NewEvent[order]("Order.shipped")
	infos := make(chan rpc.CallInfo, 1)
	last := make(chan pipeline.Event[order], 1)
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "pay", func(ctx context.Context, e pipeline.Event[order]) error {
			info, _ := rpc.CallInfoFrom(ctx)
			infos <- info
			_, err := pipeline.Send(ctx, l.p, paid, e.Data)
			return err
		})
		pipeline.On(svc, paid, "ship", func(ctx context.Context, e pipeline.Event[order]) error {
			_, err := pipeline.Send(ctx, l.p, shipped, e.Data)
			return err
		})
		pipeline.On(svc, shipped, "end", func(_ context.Context, e pipeline.Event[order]) error {
			last <- e
			return nil
		})
	})
	sent := l.sendOrder(order{N: 1})
	if info := <-infos; info.ID != sent.ID || info.Attempt != 1 || info.Service != "shop" || info.Header.Get("ce-causationid") != sent.ID || info.Header.Get("ce-hops") != "1" {
		t.Errorf("%+v", info)
	}
	e := <-last
	if e.CorrelationID != sent.ID || e.Hops != 2 || e.CausationID == sent.ID || e.CausationID == "" {
		t.Errorf("%+v", e)
	}
}
