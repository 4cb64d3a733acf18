package cli

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	natsserver "github.com/nats-io/nats-server/v2/server"
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
	rpcdo(t, env, "call", "math.add", "{}").want(t, exitDone, texts("{\"sum\":0}\n"), nil)
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
		{"rpc.math.add", `{}`, "unavailable", `leave out "rpc.", which is put in front: rpcdo call math.add`, ""},
		{"rpc.math", `{}`, "unavailable", "nobody listens on rpc.rpc.math", ""},
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

// hostileDetail is what a service sends to take over the terminal of its caller.
type hostileDetail struct {
	Text string `json:"text"`
}

func (hostileDetail) RPCDetail() string { return "acme\x1b]0;mine\x07\u009b2J\nType" }

// What comes from elsewhere reaches the terminal without control characters,
// and programs unchanged.
func TestCallPrintsNoControlCharacters(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2J\u009b31m\u0085\x7fb"
	b := bustest.New(t)
	svc := server.New(b, "hostile", server.Config{})
	server.Handle(svc, rpc.NewMethod[rpc.None, string]("hostile.result"), func(context.Context, rpc.None) (string, error) {
		return hostile, nil
	})
	server.Handle(svc, rpc.NewMethod[rpc.None, string]("hostile.error"), func(context.Context, rpc.None) (string, error) {
		return "", rpc.Internal.Errorf("%s", hostile).WithDetail(hostileDetail{hostile})
	})
	serve(t, svc)
	env := with("NATS_URL", b.Conn().ConnectedUrl())
	terminal := env
	terminal.OutTerminal = true

	const escaped = `"a\u001b[2J\u009b31m\u0085\u007fb"`
	for _, o := range []outcome{
		rpcdo(t, env, "call", "hostile.result", "null"),
		rpcdo(t, terminal, "call", "hostile.result", "null"),
	} {
		o.want(t, exitDone, texts(escaped), nil)
		wantPlain(t, o.out)
		if got := fromJSON[string](t, o.out); got != hostile {
			t.Errorf("the result is %q, want %q", got, hostile)
		}
	}

	o := rpcdo(t, env, "call", "hostile.error", "null")
	o.want(t, exitFailed, nil, texts("rpcdo: internal: a [2J 31m", "\n  acme ]0;mine  2J Type {\"text\":"+escaped+"}\n"))
	wantPlain(t, o.err)
	o = rpcdo(t, env, "call", "hostile.error", "null", "--json")
	wantPlain(t, o.err)
	if p := fromJSON[problem](t, o.err); len(p.Details) != 1 || p.Details[0].Type != (hostileDetail{}).RPCDetail() ||
		fromJSON[hostileDetail](t, string(p.Details[0].Value)).Text != hostile {
		t.Errorf("got %+v", p)
	}
}

// wantPlain checks that a terminal takes nothing of text for a command.
func wantPlain(t *testing.T, text string) {
	t.Helper()
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }); i >= 0 {
		t.Errorf("%q has a control character at byte %d", text, i)
	}
}

func TestCallFindsMalformedParamsBeforeSending(t *testing.T) {
	t.Parallel()
	// There is no bus: what is sent fails with another status.
	env := with("NATS_URL", "nats://127.0.0.1:1")
	for _, c := range []struct{ params, want string }{
		{`{a:1}`, "line 1, column 2: invalid character 'a'"},
		{`{"a":1`, "line 1, column 7: it ends too early: want a comma or }"},
		{"{\"a\":1\n", "line 1, column 7: it ends too early"},
		{`{'a':1}`, "line 1, column 2: invalid character '\\'' looking for beginning of object key string: want a name in double quotes"},
		{`{`, "column 2: it ends too early: want a name in double quotes"},
		{`{"a":1,`, "column 8: it ends too early: want a name in double quotes"},
		{`{"a"`, "column 5: it ends too early: want a colon"},
		{`{"a":`, "column 6: it ends too early: want a value"},
		{`[1`, "column 3: it ends too early: want a comma or ]"},
		{`["é`, "column 4: it ends too early: want a closing \""},
		{`"\`, `column 3: it ends too early: want one of \" \\`},
		{`"\u00`, "column 6: it ends too early: want four hexadecimal digits"},
		{`[-`, "column 3: it ends too early: want a digit"},
		{`1.`, "column 3: it ends too early: want a digit"},
		{`1e`, "column 3: it ends too early: want a digit"},
		{`tru`, "column 4: it ends too early: want the rest of true"},
		{`trux`, "column 4: invalid character 'x' in literal true (expecting 'e')"},
		{`{"a" 1}`, "column 6: invalid character '1' after object key: want a colon"},
		{`[1 2]`, "column 4: invalid character '2' after array element: want a comma or ]"},
		{"\"a\nb\"", `column 3: invalid character '\n' in string literal: want line ends`},

		{"{\n  \"é\": x\n}", "line 2, column 8: invalid character 'x'"},
		{`{"a":1} {"b":2}`, "line 1, column 9: invalid character '{' after top-level value: want nothing more"},
		{strings.Repeat("[", 20_000), "line 1, column 10001: invalid character '[' exceeded max depth"},
		{" \n", "empty"},
		{"\"\xff\"", "not valid UTF-8 at line 1, column 2"},
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
	subject := bus.ObjectSubject("cart", "alice", "add") // its owner's
	sub, err := b.Conn().Subscribe(subject, func(m *nats.Msg) {
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
	var req *nats.Msg
	select {
	case req = <-requests:
	default:
		t.Fatal("the call did not come")
	}
	if string(req.Data) != `{"sku":"abc"}` || req.Subject != subject || req.Header.Get("tenant") != "acme" {
		t.Errorf("got %s with %v", req.Data, req.Header)
	}
	if tags := req.Header.Values("tag"); len(tags) != 2 || tags[0] != "a=1" || tags[1] != "b" {
		t.Errorf("tags %q", tags)
	}
	if !strings.HasPrefix(req.Reply, "_INBOX.rpcdo-") || !strings.Contains(req.Reply, ".t3000-") && !strings.Contains(req.Reply, ".t2999-") {
		t.Errorf("reply subject %s does not tell the caller and the time", req.Reply)
	}
}

func TestCallWithoutParamsSaysSo(t *testing.T) {
	t.Parallel()
	env := with("NATS_URL", demoBus(t))
	rpcdo(t, env, "call", "math.add").want(t, exitFailed, nil, texts("want an object, got null; no params were given: rpcdo call math.add '{…}'\n"))
	o := rpcdo(t, env, "call", "math.add", "null")
	o.want(t, exitFailed, nil, texts("want an object, got null\n"))
}

// A service may be called rpc, and then nothing is left out.
func TestCallOfAServiceCalledRPC(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "rpc", server.Config{})
	server.Handle(svc, rpc.NewMethod[rpc.None, string]("rpc.v2.name"), func(context.Context, rpc.None) (string, error) { return "mine", nil })
	serve(t, svc)
	rpcdo(t, with("NATS_URL", b.Conn().ConnectedUrl()), "call", "rpc.v2.name").want(t, exitDone, texts("\"mine\"\n"), nil)
}

func TestCallWithoutReply(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	env := with("NATS_URL", b.Conn().ConnectedUrl())
	requests := make(chan *nats.Msg, 2)
	sub, err := b.Conn().ChanSubscribe("rpc.mail.send", requests)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := b.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"--json"}} {
		args = append([]string{"call", "mail.send", `{"to":"Ada"}`, "--no-reply", "--timeout", "3s", "-H", "tenant=acme"}, args...)
		rpcdo(t, env, args...).want(t, exitDone, nil, nil)
		req := <-requests
		if req.Reply != "" || string(req.Data) != `{"to":"Ada"}` || req.Header.Get("tenant") != "acme" || req.Header.Get(bus.HeaderTimeout) != "3000" {
			t.Errorf("got %s with %v, reply to %q", req.Data, req.Header, req.Reply)
		}
	}
	// Nobody listening is not to be seen; a bus that is not there, and a message
	// that is too large, are.
	rpcdo(t, env, "call", "nobody.here", "--no-reply").want(t, exitDone, nil, nil)
	rpcdo(t, with("NATS_URL", "nats://127.0.0.1:1"), "call", "mail.send", "--no-reply").want(t, exitFailed, nil, texts("nothing listens"))
	env.In = strings.NewReader(`"` + strings.Repeat("x", 5_000_000) + `"`)
	rpcdo(t, env, "call", "mail.send", "-", "--no-reply").want(t, exitFailed, nil, texts("resource_exhausted: ", "max_payload"))
}

func TestCallWithoutReplyThatIsNotPermitted(t *testing.T) {
	t.Parallel()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true,
		Users: []*natsserver.User{{Username: "app", Password: "secret", Permissions: &natsserver.Permissions{
			Publish: &natsserver.SubjectPermission{Deny: []string{"rpc.mail.>"}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	o := rpcdo(t, with("NATS_URL", s.ClientURL(), "NATS_USER", "app", "NATS_PASSWORD", "secret"), "call", "mail.send", "--no-reply")
	o.want(t, exitFailed, nil, texts("permission_denied: mail.send: the bus does not permit this user to publish on rpc.mail.send\n"))
	o.wantLine(t)
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
