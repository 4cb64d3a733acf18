package durable_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
	"rpc.do/server"
)

// foreigners returns a lab of a client that serves nothing, beside two members
// that share the class. Which of them gets a call of rpc.page.> is chance.
func foreigners(t *testing.T, cfg durable.Config, register func(l *lab, pages *durable.Class[page])) *lab {
	t.Helper()
	srv := bustest.Server(t)
	for range 2 {
		m := labOn(t, bustest.Connect(t, srv))
		svc := server.New(m.bus, "pages", server.Config{})
		register(m, durable.Serve[page](svc, "page", cfg))
		run(t, svc)
	}
	l := labOn(t, bustest.Connect(t, srv))
	l.until("the slots are shared", func() bool {
		for i := range 16 { // while one moves it has no owner
			if _, err := l.call(fmt.Sprint("object ", i), "add", "0"); err != nil {
				return false
			}
		}
		return true
	})
	return l
}

// A client that knows nothing of slots and owners names the object in a header.
func TestForeignClient(t *testing.T) {
	t.Parallel()
	var intercepted atomic.Int32
	count := rpc.Interceptor{Name: "count", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if call.Method == "about" {
				intercepted.Add(1)
			}
			return next(ctx, call)
		}
	}}
	l := foreigners(t, durable.Config{Interceptors: []rpc.Interceptor{count}}, func(l *lab, pages *durable.Class[page]) {
		l.methods(pages, turns{
			"add": add,
			"fail": func(*page, durable.Context, string) (string, error) {
				return "", rpc.OutOfRange.Errorf("too far").WithDetail(rpc.FieldViolation{Field: "x"})
			},
			"about": func(_ *page, ctx durable.Context, _ string) (string, error) {
				info, _ := rpc.CallInfoFrom(ctx)
				return fmt.Sprint(info.Object, " ", info.Caller, " ", info.ID, " ", info.Header.Get("X-Tenant"), " ", info.Chain), nil
			},
		}, views{"read": read})
		durable.Handle(pages, rpc.NewObjectMethod[rpc.None, int]("page.touch"), func(p *page, _ durable.Context, _ rpc.None) (int, error) {
			p.Value++
			return p.Value, nil
		})
		durable.Handle(pages, rpc.NewObjectMethod[amount, int]("page.pay"), func(p *page, _ durable.Context, a amount) (int, error) {
			p.Value += a.Cents
			return p.Value, nil
		})
	})
	const objects = 16
	binary, err := cbor.Marshal(amount{Cents: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		id := fmt.Sprint("object ", i)
		want := func(want, method, payload string, headers ...string) {
			t.Helper()
			got, err := l.request("rpc.page."+method, payload, append(headers, "Rpc-Object", id)...)
			if err != nil || got != want {
				t.Errorf("%s of %s: %s, %v; want %s", method, id, got, err, want)
			}
		}
		for range 4 { // sooner or later to the owner, and to the other
			want(`"1"`, "add", `"1"`, "Rpc-Id", "one call")
			want(`"1"`, "read", ` "" `)
			_, err := l.request("rpc.page.fail", `""`, "Rpc-Object", id)
			e := l.coded(err, rpc.OutOfRange, "too far")
			if v, ok := rpc.DetailOf[rpc.FieldViolation](e); !ok || v.Field != "x" || e.Retryable {
				t.Errorf("the error lost something: %+v", e)
			}
			intercepted.Store(0)
			want(fmt.Sprintf(`"%s curl an id acme [other/x page/%s]"`, id, bus.Escape(id)), "about", `""`,
				"Rpc-Caller", "curl", "Rpc-Id", "an id", "X-Tenant", "acme", "Rpc-Chain", "other/x")
			if n := intercepted.Load(); n != 1 {
				t.Errorf("the interceptors ran %d times for a call", n)
			}
			_, err = l.request("rpc.page.add", `"1"`, "Rpc-Object", id, "Rpc-Chain", bus.Link("page", id))
			l.coded(err, rpc.FailedPrecondition, "cycle")
			_, err = l.request("rpc.page.pay", `{"cents":-1}`, "Rpc-Object", id)
			l.coded(err, rpc.InvalidArgument, "less than nothing")
			_, err = l.request("rpc.page.pay", `{"cents":"x"}`, "Rpc-Object", id)
			l.coded(err, rpc.InvalidArgument, "cents")
			_, err = l.request("rpc.page.pay", `{`, "Rpc-Object", id)
			l.coded(err, rpc.InvalidArgument, "malformed")
			_, err = l.request("rpc.page.pay", ``, "Rpc-Object", id)
			l.coded(err, rpc.InvalidArgument, "no params")
			_, err = l.request("rpc.page.nothing", `{}`, "Rpc-Object", id)
			l.coded(err, rpc.Unimplemented, "Method not found")
			_, err = l.request("rpc.page.add", `"1"`)
			l.coded(err, rpc.InvalidArgument, "page", "class of objects", "Rpc-Object")
			_, err = l.request("rpc.page.pay", "x", "Rpc-Object", id, "Content-Type", "text/odd")
			l.coded(err, rpc.InvalidArgument, "text/odd")
		}
		for n := range 4 {
			want(fmt.Sprint(n+2), "touch", "")
		}
		for n := range 4 {
			want(fmt.Sprint(n+6), "touch", "{}")
		}
		for n := range 4 {
			got, err := l.request("rpc.page.pay", string(binary), "Rpc-Object", id, "Content-Type", "application/cbor")
			var sum int
			if err != nil || cbor.Unmarshal([]byte(got), &sum) != nil || sum != 9+3*(n+1) {
				t.Errorf("CBOR: %q, %v; want %d", got, err, 9+3*(n+1))
			}
		}
		want(`"21"`, "read", `""`)
	}
}

// The same identity by way of both members, at the same time, is one call.
func TestForeignClientCallsTwice(t *testing.T) {
	t.Parallel()
	l := foreigners(t, durable.Config{}, func(l *lab, pages *durable.Class[page]) {
		l.methods(pages, turns{"add": add}, views{"read": read})
	})
	var wg sync.WaitGroup
	const calls, each = 20, 6
	for i := range calls * each {
		wg.Go(func() {
			msg := nats.NewMsg("rpc.page.add")
			msg.Data = []byte(`"1"`)
			msg.Header.Set("Rpc-Object", fmt.Sprint("object ", i%4))
			msg.Header.Set("Rpc-Id", fmt.Sprint("call ", i%calls))
			reply, err := l.bus.Conn().RequestMsg(msg, labPatience)
			if err != nil {
				t.Error(err)
			} else if err := bus.DecodeError(reply); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		l.want(fmt.Sprint(calls/4), fmt.Sprint("object ", i), "read", "")
	}
}
