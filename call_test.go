package rpc_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"rpc.do"
)

func TestCallName(t *testing.T) {
	t.Parallel()
	if got := (&rpc.Call{Service: "orders", Method: "v2.place"}).Name(); got != "orders.v2.place" {
		t.Errorf("Name = %q", got)
	}
}

func TestChainOrder(t *testing.T) {
	t.Parallel()
	var trace []string
	note := func(name string) rpc.Interceptor {
		return rpc.Interceptor{Name: name, Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			trace = append(trace, "wrap "+name)
			return func(ctx context.Context, call *rpc.Call) error {
				trace = append(trace, name+" before")
				defer func() { trace = append(trace, name+" after") }()
				return next(ctx, call)
			}
		}}
	}
	final := func(context.Context, *rpc.Call) error {
		trace = append(trace, "final")
		return nil
	}
	chain := rpc.Chain(final, note("a"), rpc.Interceptor{Name: "empty"}, note("b"))
	for range 2 {
		if err := chain(t.Context(), new(rpc.Call)); err != nil {
			t.Fatal(err)
		}
	}
	round := []string{"a before", "b before", "final", "b after", "a after"}
	want := append([]string{"wrap b", "wrap a"}, append(round, round...)...)
	if !slices.Equal(trace, want) {
		t.Errorf("order %q, want %q", trace, want)
	}
}

func TestChainOfNothing(t *testing.T) {
	t.Parallel()
	want := errors.New("final")
	for _, chain := range []rpc.UnaryFunc{
		rpc.Chain(func(context.Context, *rpc.Call) error { return want }),
		rpc.Chain(func(context.Context, *rpc.Call) error { return want }, rpc.Interceptor{}, rpc.Interceptor{Name: "x"}),
	} {
		if err := chain.Call(t.Context(), nil); err != want {
			t.Errorf("err = %v", err)
		}
	}
}

// What an interceptor may do: change params and result, answer by itself, call
// next more than once.
func TestInterceptorPowers(t *testing.T) {
	t.Parallel()
	calls := 0
	final := func(_ context.Context, call *rpc.Call) error {
		calls++
		if calls == 1 {
			return rpc.Unavailable.Errorf("not yet").NotExecuted()
		}
		*call.Result.(*int) = *call.Params.(*int)
		return nil
	}
	retry := rpc.Interceptor{Name: "retry", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if err := next(ctx, call); !errors.Is(err, rpc.Unavailable) {
				return err
			}
			return next(ctx, call)
		}
	}}
	change := rpc.Interceptor{Name: "change", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			*call.Params.(*int) *= 10
			err := next(ctx, call)
			*call.Result.(*int)++
			return err
		}
	}}
	cache := rpc.Interceptor{Name: "cache", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if *call.Params.(*int) == 0 {
				*call.Result.(*int) = -1
				return nil
			}
			return next(ctx, call)
		}
	}}
	chain := rpc.Chain(final, cache, change, retry)
	method := rpc.NewMethod[int, int]("math.same")

	params := 4
	if got, err := method.Call(t.Context(), chain, params); err != nil || got != 41 || calls != 2 {
		t.Errorf("Call = %d, %v after %d calls; want 41 after 2", got, err, calls)
	}
	if params != 4 {
		t.Errorf("an interceptor reached the caller's own params: %d", params)
	}
	if got, err := method.Call(t.Context(), chain, 0); err != nil || got != -1 || calls != 2 {
		t.Errorf("Call = %d, %v after %d calls; want -1 after 2", got, err, calls)
	}
}
