package pipelineworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
	"rpc.do/server/workers/pipelineworker"
)

// mill handles orders, unless it is broken.
type mill struct {
	broken atomic.Bool
	got    chan string
}

// serveMill has a service mill with the handlers grind and sift.
func serveMill(l *lab) *mill {
	m := &mill{got: make(chan string, 100)}
	m.broken.Store(true)
	svc := server.New(bustest.Connect(l.T, l.srv), "mill", server.Config{Version: "1.2.3"})
	for _, name := range []string{"grind", "sift"} {
		pipeline.OnPattern(svc, "Order.placed", name, func(_ context.Context, e pipeline.RawEvent) error {
			if m.broken.Load() {
				return rpc.Terminal(errors.New("it is broken"))
			}
			m.got <- name + string(e.Data)
			return nil
		})
	}
	l.serve(svc)
	return m
}

// bury has n events become dead letters of both handlers, and returns these.
func (l *lab) bury(n int) []pipeline.DeadItem {
	l.Helper()
	for i := range n {
		call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "Order.placed", Payload: fmt.Appendf(nil, "%d", i)})
	}
	var all []pipeline.DeadItem
	l.until("they are dead letters", func() bool {
		all = call(l, pipeline.EventDeadList, pipeline.EventDeadListParams{}).DeadLetters
		return len(all) == 2*n
	})
	return all
}

func (m *mill) next(l *lab) string {
	l.Helper()
	select {
	case got := <-m.got:
		return got
	case <-time.After(patience):
		l.Fatal("nothing comes")
		return ""
	}
}

func TestDeadList(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	if r, code := l.raw("event.dead.list", `{}`, nil); code != "" || fmt.Sprint(r["deadLetters"]) != "[]" || r["next"] != nil {
		t.Errorf("none: %v, %s", r, code)
	}
	serveMill(l)
	all := l.bury(3)
	first := all[0]
	if first.Service != "mill" || first.Reason != pipeline.ReasonTerminal || first.Error != "it is broken" || first.Attempts != 1 ||
		first.Event.Type != "Order.placed" || string(first.Event.Data) == "null" || first.Omitted {
		t.Errorf("%+v", first)
	}
	p := pipeline.EventDeadListParams{Service: "mill", Handler: "sift", Limit: 2}
	seen := 0
	for pages := 1; pages == 1 || p.After > 0 && pages < 5; pages++ {
		page := call(l, pipeline.EventDeadList, p)
		for _, d := range page.DeadLetters {
			if seen++; d.Handler != "sift" || d.ID <= p.After {
				t.Errorf("after %d: %+v", p.After, d)
			}
		}
		if len(page.DeadLetters) > 2 {
			t.Errorf("a page of %d", len(page.DeadLetters))
		}
		p.After = page.Next
	}
	if seen != 3 {
		t.Errorf("%d dead letters of one handler", seen)
	}
	if d := call(l, pipeline.EventDeadGet, pipeline.EventDeadGetParams{ID: first.ID}); d.Event.ID != first.Event.ID || string(d.Event.Data) != string(first.Event.Data) {
		t.Errorf("%+v, want %+v", d, first)
	}
	handlers := call(l, pipeline.EventHandlers, pipeline.EventHandlersParams{}).Handlers
	if len(handlers) != 2 || handlers[0].Handler != "grind" || handlers[0].Dead != 3 || handlers[0].Version != "1.2.3" || !handlers[0].Waiting {
		t.Errorf("%+v", handlers)
	}
	for _, test := range []struct {
		p    pipeline.EventHandlersParams
		want int
	}{
		{pipeline.EventHandlersParams{Service: "mill"}, 2},
		{pipeline.EventHandlersParams{Service: "mill", Handler: "sift"}, 1},
		{pipeline.EventHandlersParams{Service: "mill", Handler: "bake"}, 0},
		{pipeline.EventHandlersParams{Service: "oven"}, 0},
	} {
		if got := call(l, pipeline.EventHandlers, test.p).Handlers; len(got) != test.want {
			t.Errorf("%+v: %+v", test.p, got)
		}
	}
}

func TestDeadRetry(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	m := serveMill(l)
	all := l.bury(2)
	m.broken.Store(false)
	one := pipeline.EventDeadRetryParams{EventDeadDiscardParams: pipeline.EventDeadDiscardParams{ID: all[0].ID}, Data: json.RawMessage(`"mended"`)}
	if r := call(l, pipeline.EventDeadRetry, one); r.Count != 1 || r.More {
		t.Errorf("%+v", r)
	}
	if got := m.next(l); got != all[0].Handler+`"mended"` {
		t.Errorf("handled %s", got)
	}
	refused(l, pipeline.EventDeadRetry, one, rpc.NotFound)
	if r, code := l.raw("event.dead.retry", fmt.Sprintf(`{"id":%d,"data":null}`, all[1].ID), nil); code != "" || r["count"] != 1.0 {
		t.Errorf("%v, %s", r, code)
	}
	if got := m.next(l); got != all[1].Handler+string(all[1].Event.Data) {
		t.Errorf("handled %s, want it as it was", got)
	}
	left := pipeline.EventDeadDiscardParams{All: true, Service: "mill"}
	if r := call(l, pipeline.EventDeadRetry, pipeline.EventDeadRetryParams{EventDeadDiscardParams: left}); r.Count != 2 || r.More {
		t.Errorf("%+v", r)
	}
	m.next(l)
	m.next(l)
	if r := call(l, pipeline.EventDeadRetry, pipeline.EventDeadRetryParams{EventDeadDiscardParams: left}); r.Count != 0 {
		t.Errorf("once more: %+v", r)
	}
}

func TestDeadDiscard(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	serveMill(l)
	all := l.bury(3)
	one := pipeline.EventDeadDiscardParams{ID: all[0].ID}
	if r := call(l, pipeline.EventDeadDiscard, one); r.Count != 1 {
		t.Errorf("%+v", r)
	}
	refused(l, pipeline.EventDeadDiscard, one, rpc.NotFound)
	refused(l, pipeline.EventDeadGet, pipeline.EventDeadGetParams{ID: all[0].ID}, rpc.NotFound)
	other := all[0].Handler
	if r := call(l, pipeline.EventDeadDiscard, pipeline.EventDeadDiscardParams{All: true, Service: "mill", Handler: other}); r.Count != 2 {
		t.Errorf("%+v", r)
	}
	left := call(l, pipeline.EventDeadList, pipeline.EventDeadListParams{}).DeadLetters
	if len(left) != 3 || left[0].Handler == other {
		t.Errorf("%+v", left)
	}
}

// What the time of a call does not do for is left for the next.
func TestDeadInParts(t *testing.T) {
	t.Parallel()
	slow := rpc.Interceptor{Name: "short", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if strings.HasPrefix(call.Method, "event.dead.discard") {
				// A fifth of the time that is left is less than nothing: it stops behind
				// the first.
				d, _ := ctx.Deadline()
				short, cancel := context.WithDeadline(ctx, d)
				defer cancel()
				ctx = past{short}
			}
			return next(ctx, call)
		}
	}}
	l := newLab(t, pipelineworker.Config{Server: server.Config{Interceptors: []rpc.Interceptor{slow}}})
	serveMill(l)
	l.bury(1)
	p := pipeline.EventDeadDiscardParams{All: true}
	if r := call(l, pipeline.EventDeadDiscard, p); r.Count != 1 || !r.More {
		t.Errorf("%+v", r)
	}
	if r := call(l, pipeline.EventDeadDiscard, p); r.Count != 1 || r.More {
		t.Errorf("the last: %+v", r)
	}
}

// past is a context that says its time is over, and goes on.
type past struct{ context.Context }

func (past) Deadline() (time.Time, bool) { return time.Now(), true }

func TestDeadRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	refused(l, pipeline.EventDeadList, pipeline.EventDeadListParams{Handler: "grind"}, rpc.InvalidArgument, "service")
	refused(l, pipeline.EventDeadList, pipeline.EventDeadListParams{Service: "a.b"}, rpc.InvalidArgument, "service")
	refused(l, pipeline.EventDeadList, pipeline.EventDeadListParams{Limit: 1001}, rpc.InvalidArgument, "limit", "1000")
	refused(l, pipeline.EventDeadGet, pipeline.EventDeadGetParams{}, rpc.InvalidArgument, "id")
	refused(l, pipeline.EventDeadGet, pipeline.EventDeadGetParams{ID: 7}, rpc.NotFound, "7")
	refused(l, pipeline.EventHandlers, pipeline.EventHandlersParams{Handler: "grind"}, rpc.InvalidArgument, "service")
	for _, p := range []pipeline.EventDeadDiscardParams{
		{}, {ID: 1, All: true}, {Service: "mill"}, {ID: 1, Service: "mill"}, {All: true, Handler: "grind"}, {All: true, Service: "a b"},
	} {
		refused(l, pipeline.EventDeadDiscard, p, rpc.InvalidArgument)
		refused(l, pipeline.EventDeadRetry, pipeline.EventDeadRetryParams{EventDeadDiscardParams: p}, rpc.InvalidArgument)
	}
	all := pipeline.EventDeadDiscardParams{All: true}
	refused(l, pipeline.EventDeadRetry, pipeline.EventDeadRetryParams{EventDeadDiscardParams: all, Data: json.RawMessage("1")}, rpc.InvalidArgument, "data")
	if r, code := l.raw("event.dead.retry", `{"id":-1}`, nil); code != "invalid_argument" {
		t.Errorf("%v, %s", r, code)
	}
}
