package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

func TestCall(t *testing.T) {
	t.Parallel()
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, add, func(_ context.Context, p addParams) (int, error) {
			if p.B < 0 {
				return 0, rpc.OutOfRange.Errorf("b is %d", p.B).WithDetail(rpc.FieldViolation{Field: "b"})
			}
			return p.A + p.B, nil
		})
	}, func(t *testing.T, c *client.Client) {
		got, err := add.Call(t.Context(), c, addParams{2, 3})
		wantResult(t, got, err, 5)

		_, err = add.Call(t.Context(), c, addParams{2, -3})
		wantCode(t, err, rpc.OutOfRange, "b is -3")
		if !rpc.IsRemote(err) {
			t.Error("the error is the callee's, and does not say so")
		}
		if d, ok := rpc.DetailOf[rpc.FieldViolation](err); !ok || d.Field != "b" {
			t.Errorf("detail %+v, %v", d, ok)
		}
	})
}

func TestUnknownMethod(t *testing.T) {
	t.Parallel()
	missing := rpc.NewMethod[addParams, int]("calc.missing")
	overBoth(t, func(*server.Service) {}, func(t *testing.T, c *client.Client) {
		_, err := missing.Call(t.Context(), c, addParams{})
		wantCode(t, err, rpc.Unimplemented, "Method not found")
	})
}

func TestFutures(t *testing.T) {
	t.Parallel()
	overBoth(t, func(svc *server.Service) { server.Handle(svc, add, adder) }, func(t *testing.T, c *client.Client) {
		futures := make([]*rpc.Future[int], 1000)
		for i := range futures {
			futures[i] = add.Go(t.Context(), c, addParams{i, i})
		}
		for i, f := range futures {
			got, err := f.Wait(t.Context())
			wantResult(t, got, err, 2*i)
		}
	})
}

func TestSend(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	infos := make(chan rpc.CallInfo, 1)
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, add, func(ctx context.Context, p addParams) (int, error) {
		info, _ := rpc.CallInfoFrom(ctx)
		infos <- info
		return p.A + p.B, nil
	})
	run(t, svc)
	replies := listen(t, serving, calling.InboxPrefix()+".>")

	c := client.New(calling, client.Config{})
	if err := add.Send(t.Context(), c, addParams{1, 2}, rpc.WithTimeout(time.Minute), rpc.WithHeader("X-Tenant", "acme")); err != nil {
		t.Fatal(err)
	}
	info := await(t, infos, "the handler")
	if left := time.Until(info.Deadline); left < 30*time.Second || left > time.Minute {
		t.Errorf("the handler has %v left of the call's minute", left)
	}
	if info.Caller != "calling" || info.Header.Get("X-Tenant") != "acme" {
		t.Errorf("call info %+v", info)
	}
	if n := replies.arrived(serving); n != 0 {
		t.Errorf("%d answers to a call that wants none", n)
	}
}

func TestSendWithoutListener(t *testing.T) {
	t.Parallel()
	c := client.New(bustest.New(t), client.Config{})
	if err := add.Send(t.Context(), c, addParams{}); err != nil {
		t.Errorf("Send: %v, want nil: it says only that the bus took it", err)
	}
}

func TestSendRefusesTooLarge(t *testing.T) {
	t.Parallel()
	shout := rpc.NewMethod[string, rpc.None]("calc.shout")
	c := client.New(bustest.New(t), client.Config{})
	err := shout.Send(t.Context(), c, strings.Repeat("x", 2<<20))
	wantCode(t, err, rpc.ResourceExhausted, "calc.shout", "20972", "1048576")
}

func TestTimeoutOverTheWire(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	deaf := listen(t, serving, "rpc.calc.>")
	slow := rpc.NewMethod[addParams, int]("calc.add", rpc.Timeout(150*time.Millisecond))
	c := client.New(calling, client.Config{Timeout: 120 * time.Millisecond})
	soon := func(d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}
	for name, tc := range map[string]struct {
		call func() (int, error)
		want time.Duration
	}{
		"the client's": {func() (int, error) { return add.Call(t.Context(), c, addParams{}) }, 120 * time.Millisecond},
		"the method's": {func() (int, error) { return slow.Call(t.Context(), c, addParams{}) }, 150 * time.Millisecond},
		"the call's": {func() (int, error) {
			return slow.Call(t.Context(), c, addParams{}, rpc.WithTimeout(200*time.Millisecond))
		}, 200 * time.Millisecond},
		"the context's": {func() (int, error) {
			return add.Call(soon(100*time.Millisecond), c, addParams{}, rpc.WithTimeout(time.Minute))
		}, 100 * time.Millisecond},
		"the context's, over the client's": {func() (int, error) {
			return add.Call(soon(300*time.Millisecond), c, addParams{})
		}, 300 * time.Millisecond},
		"the call's, under the context's": {func() (int, error) {
			return add.Call(soon(time.Minute), c, addParams{}, rpc.WithTimeout(90*time.Millisecond))
		}, 90 * time.Millisecond},
	} {
		start := time.Now()
		_, err := tc.call()
		took := time.Since(start)
		wantCode(t, err, rpc.DeadlineExceeded, "calc.add: no answer within", "may have run")
		if !errors.Is(err, context.DeadlineExceeded) || rpc.IsRemote(err) {
			t.Errorf("%s: error %v is not the caller's own deadline", name, err)
		}
		if took < tc.want-time.Millisecond || took > tc.want+5*time.Second {
			t.Errorf("%s: took %v, want %v", name, took, tc.want)
		}
		var millis int
		tokens := strings.Split(deaf.next().Reply, ".")
		if _, err := fmt.Sscanf(tokens[len(tokens)-1], "t%d-", &millis); err != nil {
			t.Fatal(err)
		}
		if sent := time.Duration(millis) * time.Millisecond; sent > tc.want || sent < tc.want-50*time.Millisecond {
			t.Errorf("%s: the request says %v, want %v", name, sent, tc.want)
		}
	}
}

func TestDefaultTimeout(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.calc.>")
	call := begin(func() (int, error) { return add.Call(t.Context(), client.New(calling, client.Config{}), addParams{}) })
	m := p.next()
	if !strings.Contains(m.Reply, ".t5000-") {
		t.Errorf("reply subject %s does not say 5,000 ms", m.Reply)
	}
	if len(m.Header) != 0 {
		t.Errorf("a common call carries headers: %v", m.Header)
	}
	p.answer(m, "1")
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 1)
}

func TestTimeoutReachesHandler(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 2)
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, add, func(ctx context.Context, _ addParams) (int, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return 0, ctx.Err()
		})
	}, func(t *testing.T, c *client.Client) {
		_, err := add.Call(t.Context(), c, addParams{}, rpc.WithTimeout(100*time.Millisecond))
		wantCode(t, err, rpc.DeadlineExceeded, "calc.add")
		if err := await(t, ended, "the handler's end"); err == nil {
			t.Error("the handler's context has no error")
		}
	})
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := client.New(calling, client.Config{})
		_, err := add.Call(ctx, c, addParams{})
		wantCode(t, err, rpc.Canceled, "not sent")
		if err := add.Send(ctx, c, addParams{}); rpc.CodeOf(err) != rpc.Canceled {
			t.Errorf("Send: %v", err)
		}
		if n := p.arrived(calling); n != 0 {
			t.Errorf("%d requests were sent all the same", n)
		}
	})
	t.Run("during, raw", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p, cancels := listen(t, serving, "rpc.calc.>"), listen(t, serving, "$RPC.cancel.calc")
		ctx, cancel := context.WithCancel(t.Context())
		c := client.New(calling, client.Config{})
		call := begin(func() (int, error) { return add.Call(ctx, c, addParams{}, rpc.WithTimeout(time.Minute)) })
		m := p.next()
		cancel()
		got := await(t, call, "the call")
		wantCode(t, got.err, rpc.Canceled, "gave up")
		if !errors.Is(got.err, context.Canceled) || rpc.IsRemote(got.err) {
			t.Errorf("error %v is not the caller's own", got.err)
		}
		if got := string(cancels.next().Data); got != m.Reply {
			t.Errorf("cancelled %q, want %q", got, m.Reply)
		}
	})
	t.Run("during", func(t *testing.T) {
		t.Parallel()
		started, ended := make(chan struct{}, 2), make(chan error, 2)
		overBoth(t, func(svc *server.Service) {
			server.Handle(svc, add, func(ctx context.Context, _ addParams) (int, error) {
				started <- struct{}{}
				<-ctx.Done()
				ended <- ctx.Err()
				return 0, ctx.Err()
			})
		}, func(t *testing.T, c *client.Client) {
			ctx, cancel := context.WithCancel(t.Context())
			call := begin(func() (int, error) { return add.Call(ctx, c, addParams{}, rpc.WithTimeout(time.Minute)) })
			await(t, started, "the handler")
			cancel()
			got := await(t, call, "the call")
			wantCode(t, got.err, rpc.Canceled, "calc.add", "gave up")
			if !errors.Is(got.err, context.Canceled) || rpc.IsRemote(got.err) {
				t.Errorf("error %v is not the caller's own", got.err)
			}
			await(t, ended, "the handler's end")
		})
	})
}

func TestResultOfAnotherType(t *testing.T) {
	t.Parallel()
	t.Run("raw", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		p.each(func(_ int, m *nats.Msg) { p.answer(m, `"five"`) })
		_, err := add.Call(t.Context(), client.New(calling, client.Config{}), addParams{})
		wantCode(t, err, rpc.Internal, "calc.add", "int")
	})
	text := rpc.NewMethod[addParams, string]("calc.add")
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, text, func(context.Context, addParams) (string, error) { return "five", nil })
	}, func(t *testing.T, c *client.Client) {
		got, err := add.Call(t.Context(), c, addParams{})
		wantCode(t, err, rpc.Internal, "calc.add", "int")
		if got != 0 {
			t.Errorf("result %d beside an error", got)
		}
	})
}

func TestParamsOfAnotherType(t *testing.T) {
	t.Parallel()
	type textParams struct {
		A string `json:"a"`
	}
	other := rpc.NewMethod[textParams, int]("calc.add")
	overBoth(t, func(svc *server.Service) { server.Handle(svc, add, adder) }, func(t *testing.T, c *client.Client) {
		_, err := other.Call(t.Context(), c, textParams{"one"})
		wantCode(t, err, rpc.InvalidArgument, "params.a", "a whole number", "got string")
		if d, ok := rpc.DetailOf[rpc.FieldViolation](err); !ok || d.Field != "a" {
			t.Errorf("detail %+v, %v", d, ok)
		}
	})
}

func TestNone(t *testing.T) {
	t.Parallel()
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, ping, func(context.Context, rpc.None) (rpc.None, error) { return rpc.None{}, nil })
	}, func(t *testing.T, c *client.Client) {
		if _, err := ping.Call(t.Context(), c, rpc.None{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("raw", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		c := client.New(calling, client.Config{})
		for _, answer := range []string{"", "null", "{}"} {
			call := begin(func() (rpc.None, error) { return ping.Call(t.Context(), c, rpc.None{}) })
			m := p.next()
			if string(m.Data) != "null" {
				t.Errorf("params %q, want null", m.Data)
			}
			p.answer(m, answer)
			if got := await(t, call, "the call"); got.err != nil {
				t.Errorf("answer %q: %v", answer, got.err)
			}
		}
	})
}

func TestCBOR(t *testing.T) {
	t.Parallel()
	overBothWith(t, server.Config{}, client.Config{Codec: bus.CBOR{}}, func(svc *server.Service) {
		server.Handle(svc, add, adder)
		server.Handle(svc, ping, func(context.Context, rpc.None) (rpc.None, error) {
			return rpc.None{}, rpc.NotFound.Errorf("nothing")
		})
	}, func(t *testing.T, c *client.Client) {
		got, err := add.Call(t.Context(), c, addParams{2, 3})
		wantResult(t, got, err, 5)
		_, err = ping.Call(t.Context(), c, rpc.None{})
		wantCode(t, err, rpc.NotFound, "nothing")
	})
	t.Run("content type", func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		p := listen(t, serving, "rpc.calc.>")
		c := client.New(calling, client.Config{Codec: bus.CBOR{}})
		answerAs := func(contentType string, data []byte) (int, error) {
			call := begin(func() (int, error) { return add.Call(t.Context(), c, addParams{2, 3}) })
			m := p.next()
			if got := m.Header.Get("Content-Type"); got != "application/cbor" {
				t.Errorf("content type %q", got)
			}
			if want := []byte{0xa2, 0x61, 'a', 0x02, 0x61, 'b', 0x03}; !bytes.Equal(m.Data, want) {
				t.Errorf("params % x, want % x", m.Data, want)
			}
			reply := nats.NewMsg(m.Reply)
			reply.Data = data
			if contentType != "" {
				reply.Header.Set("Content-Type", contentType)
			}
			if err := p.conn.PublishMsg(reply); err != nil {
				t.Fatal(err)
			}
			got := await(t, call, "the call")
			return got.result, got.err
		}
		got, err := answerAs("application/cbor", []byte{0x05})
		wantResult(t, got, err, 5)
		got, err = answerAs("", []byte("5")) // a peer that knows JSON only
		wantResult(t, got, err, 5)
		_, err = answerAs("application/x-unheard", []byte("5"))
		wantCode(t, err, rpc.Internal, "application/x-unheard")
		_, err = answerAs("application/cbor", []byte{0xff})
		wantCode(t, err, rpc.Internal, "can't be read")
	})
}

// ownCodec is JSON under another name.
type ownCodec struct{ bus.JSON }

func (ownCodec) ContentType() string { return "application/x-own" }

func TestOwnCodec(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	calling := bustest.Connect(t, srv)
	c := client.New(calling, client.Config{Codec: ownCodec{}})
	knows := bustest.WithConfig(func(cfg *bus.Config) { cfg.Codecs = []bus.Codec{ownCodec{}} })
	svc := server.New(bustest.Connect(t, srv, knows), "calc", server.Config{})
	server.Handle(svc, add, adder)
	stop := run(t, svc)
	got, err := add.Call(t.Context(), c, addParams{2, 3})
	wantResult(t, got, err, 5)
	stop()

	svc = server.New(bustest.Connect(t, srv), "calc", server.Config{})
	server.Handle(svc, add, adder)
	run(t, svc)
	_, err = add.Call(t.Context(), c, addParams{2, 3})
	wantCode(t, err, rpc.InvalidArgument, "application/x-own")
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, rpc.NewMethod[string, []string]("calc.header"), func(ctx context.Context, name string) ([]string, error) {
			info, _ := rpc.CallInfoFrom(ctx)
			return info.Header.Values(name), nil
		})
	}, func(t *testing.T, c *client.Client) {
		header := rpc.NewMethod[string, []string]("calc.header")
		got, err := header.Call(t.Context(), c, "x-tenant", rpc.WithHeader("X-Tenant", "acme, inc"), rpc.WithHeader("X-Tenant", "b"))
		if err != nil || fmt.Sprint(got) != "[acme, inc b]" {
			t.Errorf("values %q, %v", got, err)
		}
		for name, value := range map[string]string{
			"Rpc-Id":       "mine",
			"rpc-timeout":  "1",
			"NATS-Msg-Id":  "1",
			"Content-Type": "text/plain",
			"X-A":          "a\r\nRpc-Object: other",
			"X-B":          "a\nb",
			"X-C\r\nRpc-X": "a",
			"X D":          "a",
			"X:E":          "a",
			"":             "a",
			"X-F":          strings.Repeat("v", 8<<10+1),
			"X-G":          "a\x00b",
		} {
			_, err := header.Call(t.Context(), c, "x", rpc.WithHeader(name, value))
			wantCode(t, err, rpc.InvalidArgument, "header")
		}
	})
}

func TestCallIsChecked(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "rpc.>")
	c := client.New(calling, client.Config{})
	for _, call := range []rpc.Call{
		{Service: "a.b", Method: "m"},
		{Service: "", Method: "m"},
		{Service: "*", Method: "m"},
		{Service: "a", Method: "m.>"},
		{Service: "a", Method: "m m"},
		{Service: "a", Method: ""},
		{Service: "a", Method: "m\r\nPUB x 0"},
		{Service: "a", Method: "fetch"},
		{Service: "a", Method: "m", ID: "a;age=1"},
		{Service: "a", Method: "m", ID: "a\nb"},
		{Service: "a", Method: "m", Object: strings.Repeat("o", 257)},
	} {
		for _, oneWay := range []bool{false, true} {
			call.Params, call.Result, call.OneWay = new(int), new(int), oneWay
			wantCode(t, c.Call(t.Context(), &call), rpc.InvalidArgument)
		}
	}
	if n := p.arrived(calling); n != 0 {
		t.Errorf("%d malformed calls were sent", n)
	}
}

// TestMetadataOfHandlersCalls shows what a handler's own calls carry along.
func TestMetadataOfHandlersCalls(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	back := rpc.NewMethod[rpc.None, map[string]string]("back.headers")
	front := rpc.NewMethod[bool, map[string]string]("front.headers")

	backSvc := server.New(serving, "back", server.Config{})
	server.Handle(backSvc, back, func(ctx context.Context, _ rpc.None) (map[string]string, error) {
		info, _ := rpc.CallInfoFrom(ctx)
		got := map[string]string{"caller": info.Caller}
		for name := range info.Header {
			got[strings.ToLower(name)] = info.Header.Get(name)
		}
		return got, nil
	})
	run(t, backSvc)

	const parent, own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-1111651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, shortcut := range []bool{true, false} {
		name := fmt.Sprintf("front-%t", shortcut)
		frontSvc := server.New(serving, name, server.Config{})
		inner := client.New(serving, client.Config{NoShortcut: !shortcut})
		server.Handle(frontSvc, front, func(ctx context.Context, forward bool) (map[string]string, error) {
			if forward {
				return back.Call(ctx, inner, rpc.None{}, rpc.ForwardAuthorization(ctx), rpc.WithHeader("Traceparent", own))
			}
			return back.Call(ctx, inner, rpc.None{})
		})
		run(t, frontSvc)

		c := client.New(calling, client.Config{}).Service(name)
		metadata := func(call *rpc.Call) {
			call.Header = rpc.Header{
				"Authorization": {"Bearer secret"}, "traceparent": {parent}, "tracestate": {"a=1"},
				"Baggage": {"k=v"}, "X-Tenant": {"acme"},
			}
		}
		got, err := front.Call(t.Context(), c, false, metadata)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"caller": "serving", "traceparent": parent, "tracestate": "a=1", "baggage": "k=v"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("headers %v, want %v", got, want)
		}
		got, err = front.Call(t.Context(), c, true, metadata)
		if err != nil {
			t.Fatal(err)
		}
		want["authorization"], want["traceparent"] = "Bearer secret", own
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("headers %v, want %v", got, want)
		}
	}
}

// TestCallersHeaderIsNotChanged makes calls that share one header map.
func TestCallersHeaderIsNotChanged(t *testing.T) {
	t.Parallel()
	overBoth(t, func(svc *server.Service) { server.Handle(svc, add, adder) }, func(t *testing.T, c *client.Client) {
		shared := rpc.Header{"X-Tenant": {"acme"}}
		ctx := rpc.WithCallInfo(t.Context(), rpc.CallInfo{Header: rpc.Header{"traceparent": {"00-1"}}})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := add.Call(ctx, c, addParams{1, 1}, func(call *rpc.Call) { call.Header = shared })
				if got != 2 || err != nil {
					t.Errorf("result %d, %v", got, err)
				}
			})
		}
		wg.Wait()
		if len(shared) != 1 {
			t.Errorf("the caller's header is now %v", shared)
		}
	})
}

func TestBinding(t *testing.T) {
	t.Parallel()
	where := rpc.NewMethod[rpc.None, string]("calc.where")
	_, serving, calling := twoBuses(t)
	handler := func(at string) func(context.Context, rpc.None) (string, error) {
		return func(context.Context, rpc.None) (string, error) { return at, nil }
	}
	for _, name := range []string{"calc", "calc-staging"} {
		svc := server.New(serving, name, server.Config{})
		server.Handle(svc, where, handler(name))
		server.Handle(svc.Entrypoint("Admin"), where, handler(name+" Admin"))
		run(t, svc)
	}
	for _, c := range []*client.Client{client.New(calling, client.Config{}), client.New(serving, client.Config{})} {
		staging := c.Service("calc-staging")
		for want, caller := range map[string]rpc.Caller{
			"calc":               c,
			"calc-staging":       staging,
			"calc-staging Admin": staging.Entrypoint("Admin"),
			"calc Admin":         c.Service("calc").Entrypoint("Other").Entrypoint("Admin"),
		} {
			got, err := where.Call(t.Context(), caller, rpc.None{})
			wantResult(t, got, err, want)
		}
		_, err := where.Call(t.Context(), staging.Entrypoint("Nobody"), rpc.None{})
		wantCode(t, err, rpc.Unimplemented, "Method not found")
		_, err = where.Call(t.Context(), c.Service("a.b"), rpc.None{})
		wantCode(t, err, rpc.InvalidArgument, "a.b")
	}
}

// TestBindingLeavesTheCall makes one call twice, as a caller in front of a
// binding may.
func TestBindingLeavesTheCall(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	svc := server.New(serving, "calc-staging", server.Config{})
	server.Handle(svc.Entrypoint("Admin"), add, adder)
	run(t, svc)
	bound := client.New(calling, client.Config{}).Service("calc-staging").Entrypoint("Admin")
	twice := rpc.UnaryFunc(func(ctx context.Context, call *rpc.Call) error {
		if err := bound.Call(ctx, call); err != nil {
			return err
		}
		if call.Name() != "calc.add" {
			t.Errorf("the call is now %s", call.Name())
		}
		return bound.Call(ctx, call)
	})
	got, err := add.Call(t.Context(), twice, addParams{2, 3})
	wantResult(t, got, err, 5)
}

func TestInterceptorsOrder(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var order []string
	note := func(name string) rpc.Interceptor {
		return rpc.Interceptor{Name: name, Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				return next(ctx, call)
			}
		}}
	}
	for _, shortcut := range []bool{false, true} {
		_, serving, calling := twoBuses(t)
		if shortcut {
			calling = serving
		}
		svc := server.New(serving, "calc", server.Config{Interceptors: []rpc.Interceptor{note("s1"), note("s2")}})
		server.Handle(svc, add, adder)
		run(t, svc)
		order = nil
		c := client.New(calling, client.Config{Interceptors: []rpc.Interceptor{note("c1"), note("c2")}})
		got, err := add.Call(t.Context(), c, addParams{1, 2})
		wantResult(t, got, err, 3)
		if fmt.Sprint(order) != "[c1 c2 s1 s2]" {
			t.Errorf("shortcut %t: interceptors ran as %v", shortcut, order)
		}
	}
}

// TestInterceptorCallsTwice has an interceptor in front of the client make one
// call several times: each is a call of its own.
func TestInterceptorCallsTwice(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	overBothWith(t, server.Config{}, client.Config{Interceptors: []rpc.Interceptor{{
		Name: "twice",
		Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				if err := next(ctx, call); err != nil {
					return err
				}
				return next(ctx, call)
			}
		},
	}}}, func(svc *server.Service) {
		server.Handle(svc, add, func(_ context.Context, p addParams) (int, error) {
			runs.Add(1)
			return p.A + p.B, nil
		})
	}, func(t *testing.T, c *client.Client) {
		before := runs.Load()
		got, err := add.Call(t.Context(), c, addParams{1, 2})
		wantResult(t, got, err, 3)
		if n := runs.Load() - before; n < 2 {
			t.Errorf("%d runs", n)
		}
	})
}
