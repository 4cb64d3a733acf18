package durable_test

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"rpc.do"
	"rpc.do/durable"
)

// A handler knows its call and the turns that wait for it; interceptors of the
// class run within the turn.
func TestTurnKnowsItsCall(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var inside, overlaps atomic.Int32
	var order []string // guarded by the turn
	wrap := func(name string) rpc.Interceptor {
		return rpc.Interceptor{Name: name, Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				if call.Method == "look" {
					if name == "outer" && inside.Add(1) != 1 {
						overlaps.Add(1)
					}
					order = append(order, name+" of "+call.Object)
					if name == "outer" {
						inside.Add(-1)
					}
				}
				return next(ctx, call)
			}
		}}
	}
	about := func(ctx context.Context) string {
		info, ok := rpc.CallInfoFrom(ctx)
		return fmt.Sprintln(ok, info.Service, info.Method, info.Object, info.Chain, info.ID, info.Caller, info.Attempt, info.Header.Get("X-Tenant"))
	}
	l.serve(durable.Config{Interceptors: []rpc.Interceptor{wrap("outer"), wrap("inner")}}, turns{
		"look": func(_ *page, ctx durable.Context, _ string) (string, error) { return ctx.ID() + ": " + about(ctx), nil },
	}, views{
		"view": func(_ page, ctx durable.ReadContext, _ string) (string, error) {
			return ctx.ID() + ": " + about(ctx), nil
		},
	})
	opts := []rpc.CallOption{rpc.WithID("call-1"), rpc.WithHeader("X-Tenant", "acme")}
	l.want("a b: true page look a b [page/a=20b] call-1 test 1 acme\n", "a b", "look", "", opts...)
	l.want("a b: true page view a b [] call-1 test 1 acme\n", "a b", "view", "", opts...)
	if want := []string{"outer of a b", "inner of a b"}; !reflect.DeepEqual(order, want) {
		t.Errorf("interceptors ran as %q, want %q", order, want)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := l.call("x", "look", ""); err != nil {
				t.Errorf("look: %v", err)
			}
		})
	}
	wg.Wait()
	if overlaps.Load() != 0 {
		t.Error("interceptors of two turns overlapped")
	}
}

// When the turn has ended, an interceptor can't have another one: the object may
// be somebody else's by then.
func TestInterceptorCallsNextAgain(t *testing.T) {
	t.Parallel()
	again := rpc.Interceptor{Name: "again", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			_ = next(ctx, call)
			return next(ctx, call)
		}
	}}
	l := newLab(t)
	var inside, overlaps, ran atomic.Int32
	l.serve(durable.Config{Interceptors: []rpc.Interceptor{again}}, turns{
		"add": func(p *page, ctx durable.Context, by string) (string, error) {
			ran.Add(1)
			if inside.Add(1) != 1 {
				overlaps.Add(1)
			}
			defer inside.Add(-1)
			runtime.Gosched()
			return add(p, ctx, by)
		},
	}, views{"read": read})
	l.want("0", "alice", "read", "") // waits for the activation, and leaves its place once
	const callers = 32
	var wg sync.WaitGroup
	for i := range callers {
		by := "1"
		if i%2 == 0 {
			by = "nothing" // fails
		}
		wg.Go(func() {
			if _, err := l.call("alice", "add", by); rpc.CodeOf(err) != rpc.FailedPrecondition {
				t.Errorf("add: %v", err)
			}
		})
	}
	wg.Wait()
	l.want(fmt.Sprint(callers/2), "alice", "read", "")
	if ran.Load() != callers || overlaps.Load() != 0 {
		t.Errorf("the handler ran %d times, want %d; %d turns overlapped others", ran.Load(), callers, overlaps.Load())
	}
}
