package rpc_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"rpc.do"
)

func TestCallInfo(t *testing.T) {
	t.Parallel()
	if info, ok := rpc.CallInfoFrom(t.Context()); ok || !reflect.DeepEqual(info, rpc.CallInfo{}) {
		t.Errorf("outside a call there is %+v", info)
	}
	want := rpc.CallInfo{
		Service: "orders", Method: "place", Object: "alice", Caller: "shop", ID: "shop-1.2", Attempt: 2,
		Header: rpc.Header{"X-Tenant": {"acme"}}, Deadline: time.Unix(1_700_000_000, 0),
	}
	ctx := rpc.WithCallInfo(t.Context(), want)
	got, ok := rpc.CallInfoFrom(context.WithoutCancel(ctx))
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %t", got, ok)
	}
	got.Service = "changed"
	if again, _ := rpc.CallInfoFrom(ctx); again.Service != "orders" {
		t.Errorf("who asked could change the call's own record: %+v", again)
	}

	inner := rpc.WithCallInfo(ctx, rpc.CallInfo{Service: "stock"})
	if got, _ := rpc.CallInfoFrom(inner); got.Service != "stock" || got.Object != "" {
		t.Errorf("the inner call is %+v", got)
	}
	if got, _ := rpc.CallInfoFrom(ctx); got.Service != "orders" {
		t.Errorf("the outer call became %+v", got)
	}
}

// record is a transport's own record of a call, which tells when it is asked.
type record struct{ asked int }

func (r *record) CallInfo() rpc.CallInfo {
	r.asked++
	return rpc.CallInfo{ID: "from the record"}
}

func TestCallInfoSource(t *testing.T) {
	t.Parallel()
	r := new(record)
	ctx := context.WithValue(t.Context(), rpc.CallInfoKey{}, r)
	if r.asked != 0 {
		t.Error("the record was asked before anybody wanted to know")
	}
	if info, ok := rpc.CallInfoFrom(ctx); !ok || info.ID != "from the record" || r.asked != 1 {
		t.Errorf("got %+v, %t after %d questions", info, ok, r.asked)
	}
	other := context.WithValue(t.Context(), rpc.CallInfoKey{}, "no source")
	if _, ok := rpc.CallInfoFrom(other); ok {
		t.Error("something that is no source told about a call")
	}
}
