package demo_test

import (
	"testing"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/cmd/rpcdo/internal/demo"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// caller runs the services and returns who calls them.
func caller(t *testing.T) rpc.Caller {
	t.Helper()
	b := bustest.New(t)
	serve(t, b, demo.Services(b)...)
	return client.New(b, client.Config{})
}

func TestResults(t *testing.T) {
	t.Parallel()
	c := caller(t)
	if got, err := demo.Add.Call(t.Context(), c, demo.Numbers{A: 1, B: 2}); err != nil || got.Sum != 3 {
		t.Errorf("add: %+v, %v", got, err)
	}
	if got, err := demo.Divide.Call(t.Context(), c, demo.Numbers{A: 1, B: 4}); err != nil || got.Quotient != 0.25 {
		t.Errorf("divide: %+v, %v", got, err)
	}
	if got, err := demo.Hello.Call(t.Context(), c, demo.Person{Name: " Ada "}); err != nil || got.Message != "Hello, Ada!" {
		t.Errorf("hello: %+v, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c := caller(t)
	_, add := demo.Add.Call(t.Context(), c, demo.Numbers{A: 1e308, B: 1e308})
	_, zero := demo.Divide.Call(t.Context(), c, demo.Numbers{A: 1})
	_, large := demo.Divide.Call(t.Context(), c, demo.Numbers{A: 1e308, B: 1e-308})
	_, hello := demo.Hello.Call(t.Context(), c, demo.Person{Name: "\t"})
	for _, e := range []struct {
		what  string
		err   error
		code  rpc.Code
		field string
	}{
		{"a sum that is too large", add, rpc.OutOfRange, ""},
		{"division by zero", zero, rpc.InvalidArgument, "b"},
		{"a quotient that is too large", large, rpc.OutOfRange, ""},
		{"nobody to greet", hello, rpc.InvalidArgument, "name"},
	} {
		if rpc.CodeOf(e.err) != e.code {
			t.Errorf("%s: %v, want %v", e.what, e.err, e.code)
		}
		if v, _ := rpc.DetailOf[rpc.FieldViolation](e.err); v.Field != e.field {
			t.Errorf("%s: field %q, want %q", e.what, v.Field, e.field)
		}
	}
}
