package rpc_test

import (
	"testing"

	"rpc.do"
)

func TestEvent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Order.placed", "User.purchased.Product", "a.b.c.d.e.f"} {
		if got := rpc.NewEvent[order](name).Name(); got != name {
			t.Errorf("Name = %q, want %q", got, name)
		}
	}
	for _, name := range []string{"", "Order", "Order.", "Order.>", "Order.*", "$.Order.placed", "Order._x", "a.b.c.d.e.f.g"} {
		mustPanic(t, name, "rpc: NewEvent: ", func() { rpc.NewEvent[order](name) })
	}
}
