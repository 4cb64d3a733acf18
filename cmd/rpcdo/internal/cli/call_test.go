package cli

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/server"
)

func TestCallPrintsTheResult(t *testing.T) {
	t.Parallel()
	url := demoBus(t)
	env := with("NATS_URL", url)

	rpcdo(t, env, "call", "math.add", `{"a":1,"b":2}`).want(t, exitDone, texts("{\"sum\":3}\n"), nil)
	rpcdo(t, env, "call", "math.add", " {\n\"a\" : 1 } ", "--json").want(t, exitDone, texts("{\"sum\":1}\n"), nil)
	rpcdo(t, env, "call", "math.add").want(t, exitDone, texts("{\"sum\":0}\n"), nil)
	rpcdo(t, env, "call", "greeter.hello", `{"name":"Åda"}`).want(t, exitDone, texts(`{"message":"Hello, Åda!"}`), nil)

	stdin := env
	stdin.In = strings.NewReader("{\"a\":40,\n\"b\":2}\n")
	rpcdo(t, stdin, "call", "math.add", "-").want(t, exitDone, texts("{\"sum\":42}\n"), nil)

	terminal := env
	terminal.OutTerminal = true
	rpcdo(t, terminal, "call", "math.add", `{"a":1}`).want(t, exitDone, texts("{\n  \"sum\": 1\n}\n"), nil)
	rpcdo(t, terminal, "call", "math.add", `{"a":1}`, "--json").want(t, exitDone, texts("{\"sum\":1}\n"), nil)

	elsewhere := with("NATS_URL", "nats://127.0.0.1:1")
	rpcdo(t, elsewhere, "call", "math.add", `{"a":1}`, "--server", url).want(t, exitDone, texts("{\"sum\":1}\n"), nil)
	rpcdo(t, elsewhere, "call", "math.add", `{"a":1}`, "--server", "127.0.0.1:1, "+url).want(t, exitDone, texts("{\"sum\":1}\n"), nil)
}

func TestCallPrintsTheError(t *testing.T) {
	t.Parallel()
	env := with("NATS_URL", demoBus(t))

	for _, c := range []struct {
		method, params, code, message, detail string
	}{
		{"math.divide", `{"a":1,"b":0}`, "invalid_argument", "division by zero", `{"field":"b","expected":"a number other than 0","got":"0"}`},
		{"math.add", `{"a":1e308,"b":1e308}`, "out_of_range", "too large for a number", ""},
		{"math.add", `{"a":"x"}`, "invalid_argument", "params.a: want a number, got string", `"field":"a"`},
		{"greeter.hello", `{"name":" "}`, "invalid_argument", "the name is empty", `"field":"name"`},
		{"greeter.bye", `{}`, "unimplemented", "greeter.bye: Method not found; `rpcdo services info greeter` lists", ""},
	} {
		t.Run(c.method+c.params, func(t *testing.T) {
			t.Parallel()
			o := rpcdo(t, env, "call", c.method, c.params)
			o.want(t, exitFailed, nil, texts("rpcdo: "+c.code+": ", c.message, c.detail))
			if lines := strings.Count(o.err, "\n"); lines > 2 || lines == 2 && c.detail == "" {
				t.Errorf("stderr has %d lines: %q", lines, o.err)
			}

			o = rpcdo(t, env, "call", c.method, c.params, "--json")
			o.want(t, exitFailed, nil, texts(c.detail))
			p := fromJSON[problem](t, o.err)
			if p.Code != c.code || !strings.Contains(p.Message, c.message) || p.Details == nil || (len(p.Details) > 0) != (c.detail != "") {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestCallFindsMalformedParamsBeforeSending(t *testing.T) {
	t.Parallel()
	// There is no bus: what is sent fails with another status.
	env := with("NATS_URL", "nats://127.0.0.1:1")
	for _, c := range []struct{ params, want string }{
		{`{a:1}`, "line 1, column 2: invalid character 'a'"},
		{`{"a":1`, "line 1, column 6: unexpected end"},
		{"{\n  \"é\": x\n}", "line 2, column 8: invalid character 'x'"},
		{`{"a":1} {"b":2}`, "line 1, column 9: invalid character '{'"},
		{strings.Repeat("[", 20_000), "line 1, column 10001: invalid character '[' exceeded max depth"},
		{" \n", "empty"},
		{"\"\xff\"", "not valid UTF-8"},
	} {
		o := rpcdo(t, env, "call", "math.add", c.params)
		o.want(t, exitUsage, nil, texts("params: ", c.want))
		o.wantLine(t)

		env := env
		env.In = strings.NewReader(c.params)
		rpcdo(t, env, "call", "math.add", "-").want(t, exitUsage, nil, texts("params on stdin: ", c.want))
	}
}

func TestCallSendsMetadataAndObject(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	requests := make(chan *nats.Msg, 1)
	sub, err := b.Conn().Subscribe("rpc.cart.add", func(m *nats.Msg) {
		requests <- m
		if err := m.Respond([]byte(`{"n": 18446744073709551616}`)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := b.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	rpcdo(t, with("NATS_URL", b.Conn().ConnectedUrl()), "call", "cart.add", `{"sku":"abc"}`,
		"--object", "alice", "-H", "tenant=acme", "-H", "tag=a=1", "--header", "tag=b", "--timeout", "3s",
	).want(t, exitDone, texts("{\"n\":18446744073709551616}\n"), nil)
	req := <-requests
	if string(req.Data) != `{"sku":"abc"}` || req.Header.Get(bus.HeaderObject) != "alice" || req.Header.Get("tenant") != "acme" {
		t.Errorf("got %s with %v", req.Data, req.Header)
	}
	if tags := req.Header.Values("tag"); len(tags) != 2 || tags[0] != "a=1" || tags[1] != "b" {
		t.Errorf("tags %q", tags)
	}
	if !strings.HasPrefix(req.Reply, "_INBOX.rpcdo-") || !strings.Contains(req.Reply, ".t3000-") && !strings.Contains(req.Reply, ".t2999-") {
		t.Errorf("reply subject %s does not tell the caller and the time", req.Reply)
	}
}

func TestCallOfAServiceThatIsNotThere(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	began := time.Now()
	o := rpcdo(t, Env{}, "call", "nobody.here", "--server", url)
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	o.want(t, exitFailed, nil, texts("unavailable: ", "nobody listens on rpc.nobody.here", "rpcdo services ls"))
	o.wantLine(t)
}

func TestCallTimesOut(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	gone := make(chan struct{})
	slow := rpc.NewMethod[rpc.None, rpc.None]("slow.wait")
	svc := server.New(b, "slow", server.Config{})
	server.Handle(svc, slow, func(ctx context.Context, n rpc.None) (rpc.None, error) {
		<-ctx.Done()
		close(gone)
		return n, ctx.Err()
	})
	serve(t, svc)
	rpcdo(t, Env{}, "call", "slow.wait", "--timeout", "50ms", "--server", b.Conn().ConnectedUrl()).
		want(t, exitFailed, nil, texts("deadline_exceeded: ", "50ms"))
	<-gone
}

// serve runs a service until the test ends.
func serve(t *testing.T, svc *server.Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-svc.Ready()
}

func TestCallIsInterrupted(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	called := make(chan struct{})
	svc := server.New(b, "slow", server.Config{})
	server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None]("slow.wait"), func(ctx context.Context, n rpc.None) (rpc.None, error) {
		close(called)
		<-ctx.Done()
		return n, ctx.Err()
	})
	serve(t, svc)
	p := start(t, Env{}, "call", "slow.wait", "--server", b.Conn().ConnectedUrl())
	<-called
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "canceled: ") {
		t.Errorf("status %d, stderr %q", status, &p.err)
	}

	in, typing := io.Pipe()
	p = start(t, Env{In: in}, "call", "slow.wait", "-")
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted while reading stdin") {
		t.Errorf("status %d, stderr %q", status, &p.err)
	}
	if err := typing.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoBus(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"call", "math.add"}, {"serve"}, {"services", "ls"}, {"services", "info", "math"}, {"services", "stats"},
		{"bench", "call", "--server", "nats://me:secret@127.0.0.1:1"},
	} {
		env := with("NATS_URL", "nats://me:secret@127.0.0.1:1")
		o := rpcdo(t, env, args...)
		o.want(t, exitFailed, nil, texts("nothing listens at nats://127.0.0.1:1", "rpcdo dev"))
		o.wantLine(t)
		if p := fromJSON[problem](t, rpcdo(t, env, append(args, "--json")...).err); p.Code != "unavailable" {
			t.Errorf("%q: code %s", args, p.Code)
		}
		if strings.Contains(o.err, "secret") {
			t.Errorf("%q: the password is shown: %s", args, o.err)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{a`, "[\n1,,", "\xff", "", `"é`, "{}x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := checkJSON("params", data)
		if err != nil && json.Valid(data) && len(data) > 0 && strings.ToValidUTF8(string(data), "") == string(data) {
			t.Errorf("%q is JSON: %v", data, err)
		}
		if err == nil && !json.Valid(data) {
			t.Errorf("%q is not JSON", data)
		}
	})
}
