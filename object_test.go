package rpc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"rpc.do"
)

type item struct{ SKU string }

var addItem = rpc.NewObjectMethod[item, int]("cart.add", rpc.Timeout(time.Second))

func TestObjectMethodSpec(t *testing.T) {
	t.Parallel()
	want := rpc.Spec{Service: "cart", Method: "add", Timeout: time.Second}
	if got := addItem.Spec(); *got != want {
		t.Errorf("Spec = %+v", got)
	}
	for _, name := range []string{"", "cart", "cart.alarm", "cart.a b"} {
		mustPanic(t, name, "rpc: NewObjectMethod: ", func() { rpc.NewObjectMethod[int, int](name) })
	}
}

func TestObjectCall(t *testing.T) {
	t.Parallel()
	fake := rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
		if call.Name() != "cart.add" || call.Object != "alice" || call.Timeout != time.Second || call.ID != "mine" {
			t.Errorf("call %+v", call)
		}
		if call.Params.(*item).SKU != "abc" {
			t.Errorf("params %+v", call.Params)
		}
		*call.Result.(*int) = 3
		return nil
	})
	if got, err := addItem.Call(t.Context(), fake, "alice", item{"abc"}, rpc.WithID("mine")); err != nil || got != 3 {
		t.Errorf("Call = %d, %v", got, err)
	}
	if got, err := addItem.Go(t.Context(), fake, "alice", item{"abc"}, rpc.WithID("mine")).Wait(t.Context()); err != nil || got != 3 {
		t.Errorf("Go = %d, %v", got, err)
	}
}

func TestObjectCallRefusesIDs(t *testing.T) {
	t.Parallel()
	fake := rpc.UnaryFunc(func(context.Context, *rpc.Call) error {
		t.Error("the call was sent")
		return nil
	})
	for _, id := range []string{"", strings.Repeat("x", 257), "\xff"} {
		_, err := addItem.Call(t.Context(), fake, id, item{})
		if rpc.CodeOf(err) != rpc.InvalidArgument || !strings.Contains(err.Error(), "cart.add") {
			t.Errorf("Call with the id %.20q: %v", id, err)
		}
		if _, err := addItem.Go(t.Context(), fake, id, item{}).Wait(t.Context()); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("Go with the id %.20q: %v", id, err)
		}
	}
}
