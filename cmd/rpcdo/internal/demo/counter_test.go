package demo_test

import (
	"math"
	"sync"
	"testing"

	"rpc.do"
	"rpc.do/cmd/rpcdo/internal/demo"
)

func TestCounter(t *testing.T) {
	t.Parallel()
	c := caller(t)
	value := func(id string, want int64) {
		t.Helper()
		if got, err := demo.Value.Call(t.Context(), c, id, rpc.None{}); err != nil || got.Value != want {
			t.Errorf("%s has %+v, %v, want %d", id, got, err, want)
		}
	}
	value("alice", 0)
	for i, by := range []int64{1, 5, -2, 0} {
		want := []int64{1, 6, 4, 4}[i]
		if got, err := demo.Increment.Call(t.Context(), c, "alice", demo.IncrementParams{By: by}); err != nil || got.Value != want {
			t.Errorf("increment by %d: %+v, %v, want %d", by, got, err, want)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if _, err := demo.Increment.Call(t.Context(), c, "bob", demo.IncrementParams{By: 1}); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	value("alice", 4)
	value("bob", 200)
	for id, by := range map[string]int64{"large": math.MaxInt64, "small": math.MinInt64} {
		for _, code := range []rpc.Code{0, rpc.OutOfRange} {
			if _, err := demo.Increment.Call(t.Context(), c, id, demo.IncrementParams{By: by}); rpc.CodeOf(err) != code {
				t.Errorf("%s: %v, want the code %v", id, err, code)
			}
		}
		value(id, by)
	}
	if got, err := demo.Reset.Call(t.Context(), c, "bob", rpc.None{}); err != nil || got.Value != 0 {
		t.Errorf("reset: %+v, %v", got, err)
	}
	value("bob", 0)
	if _, err := demo.Value.Call(t.Context(), c, "", rpc.None{}); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("an empty id: %v", err)
	}
}
