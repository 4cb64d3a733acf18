//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"rpc.do"
	"rpc.do/client"
)

// startDemo runs a bus and the demo services, in a process each.
func startDemo(t testing.TB) (url string, serve *process) {
	t.Helper()
	b := startBus(t)
	serve = start(t, "serve", []string{"NATS_URL=" + b.url}, programs.rpcdo, "serve")
	if got, want := serve.line(t, "ready "), "ready "+b.url+" greeter math objects"; got != want {
		t.Errorf("serve says %q, want %q", got, want)
	}
	return b.url, serve
}

// TestPlainClient calls the demo services with nats.go alone, as any NATS
// client in any language would.
func TestPlainClient(t *testing.T) {
	t.Parallel()
	url, _ := startDemo(t)
	nc := plainClient(t, url)
	for _, tc := range []struct {
		subject, params string
		header          nats.Header
		result          string
		code            rpc.Code
		message         string
	}{
		{subject: "rpc.math.add", params: `{"a":1,"b":2}`, result: `{"sum":3}`},
		{subject: "rpc.math.add", params: `{"a":1,"b":2}`, header: nats.Header{"Rpc-Timeout": {"1000"}, "tenant": {"acme"}}, result: `{"sum":3}`},
		{subject: "rpc.greeter.hello", params: `{"name":"Ada"}`, result: `{"message":"Hello, Ada!"}`},
		{subject: "rpc.math.divide", params: `{"a":1,"b":0}`, code: rpc.InvalidArgument, message: "division by zero"},
		{subject: "rpc.math.nothing", params: `{}`, code: rpc.Unimplemented, message: "Method not found"},
		{subject: "rpc.math.add", params: `{"a":"one"}`, code: rpc.InvalidArgument, message: "a"},
		{subject: "rpc.math.add", params: `{"a":`, code: rpc.InvalidArgument, message: "JSON"},
	} {
		msg := nats.NewMsg(tc.subject)
		msg.Header, msg.Data = tc.header, []byte(tc.params)
		reply, err := nc.RequestMsg(msg, patience)
		if err != nil {
			t.Errorf("%s %s: %v", tc.subject, tc.params, err)
			continue
		}
		if tc.code == 0 {
			if string(reply.Data) != tc.result || len(reply.Header) != 0 {
				t.Errorf("%s %s: %s with headers %v, want %s without any", tc.subject, tc.params, reply.Data, reply.Header, tc.result)
			}
			continue
		}
		wantFailure(t, tc.subject+" "+tc.params, reply, tc.code, tc.message)
	}
	if _, err := nc.Request("rpc.nobody.there", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a service that does not run: error %v, want %v", err, nats.ErrNoResponders)
	}
}

// wantFailure checks an answer as a client sees it that knows ADR-32 or reads
// the body.
func wantFailure(t testing.TB, what string, reply *nats.Msg, code rpc.Code, message string) {
	t.Helper()
	var body struct{ Code, Message string }
	if err := json.Unmarshal(reply.Data, &body); err != nil {
		t.Errorf("%s: body %.200q: %v", what, reply.Data, err)
	}
	h := reply.Header
	status := strconv.Itoa(code.HTTPStatus())
	if h.Get(micro.ErrorCodeHeader) != status || h.Get("Rpc-Code") != code.String() || body.Code != code.String() {
		t.Errorf("%s: headers %v, body %.200q, want %v (%s %s)", what, h, reply.Data, code, status, http.StatusText(code.HTTPStatus()))
	}
	if !strings.Contains(h.Get(micro.ErrorHeader), message) || !strings.Contains(body.Message, message) {
		t.Errorf("%s: headers %v, body %.200q: do not say %q", what, h, reply.Data, message)
	}
}

// TestDiscovery finds the services as any NATS tool does.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	url, _ := startDemo(t)
	second := start(t, "second", []string{"NATS_URL=" + url}, programs.rpcdo, "serve")
	second.line(t, "ready ")
	nc := plainClient(t, url)

	pings := ask[micro.Ping](t, nc, "$SRV.PING", 8) // greeter, math, objects, and the class counter
	count := map[string]int{}
	for _, p := range pings {
		if p.Type != micro.PingResponseType || p.Version != "1.0.0" || p.ID == "" {
			t.Errorf("ping %+v", p)
		}
		count[p.Name]++
	}
	if count["math"] != 2 || count["greeter"] != 2 || count["objects"] != 2 || count["counter"] != 2 {
		t.Errorf("instances %v, want two of math, greeter, objects and counter", count)
	}
	for _, info := range ask[micro.Info](t, nc, "$SRV.INFO.math", 2) {
		var subjects []string
		for _, ep := range info.Endpoints {
			subjects = append(subjects, ep.Subject)
		}
		if text := strings.Join(subjects, " "); info.Type != micro.InfoResponseType || text != "rpc.math.add rpc.math.divide" {
			t.Errorf("info %+v: want the subjects of add and divide", info)
		}
	}
	for range 10 {
		if _, err := nc.Request("rpc.math.add", []byte(`{"a":1,"b":2}`), patience); err != nil {
			t.Fatal(err)
		}
	}
	calls := 0
	for _, stats := range ask[micro.Stats](t, nc, "$SRV.STATS.math", 2) {
		for _, ep := range stats.Endpoints {
			calls += ep.NumRequests
		}
	}
	if calls != 10 {
		t.Errorf("the instances count %d calls, want 10", calls)
	}
}

// ask gathers as many answers to a discovery request as there should be, and
// one more if there is one.
func ask[T any](t *testing.T, nc *nats.Conn, subject string, want int) []T {
	t.Helper()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		t.Fatal(err)
	}
	var answers []T
	for wait := patience; ; {
		msg, err := sub.NextMsg(wait)
		if err != nil {
			break
		}
		var answer T
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			t.Fatalf("%s: %s: %v", subject, msg.Data, err)
		}
		if answers = append(answers, answer); len(answers) >= want {
			wait = 100 * time.Millisecond
		}
	}
	if len(answers) != want {
		t.Errorf("%s: %d answers, want %d", subject, len(answers), want)
	}
	return answers
}

// TestSameFromEverywhere calls one service from the typed client, from a plain
// one and from the command line: same results, same errors.
func TestSameFromEverywhere(t *testing.T) {
	t.Parallel()
	url, _ := startDemo(t)
	c, nc := newClient(t, url, client.Config{}), plainClient(t, url)
	divide := rpc.NewMethod[json.RawMessage, json.RawMessage]("math.divide")
	for _, params := range []string{`{"a":6,"b":3}`, `{"a":1,"b":0}`, `{"a":"x"}`, `[1,2]`, `{"a":1e308,"b":1e-308}`} {
		typed, err := divide.Call(t.Context(), c, json.RawMessage(params))
		raw, rawErr := nc.Request("rpc.math.divide", []byte(params), patience)
		if rawErr != nil {
			t.Fatal(rawErr)
		}
		command := rpcdo(t, "call", "math.divide", params, "--server", url, "--json")
		if err == nil {
			if string(raw.Data) != string(typed) {
				t.Errorf("%s: %s by the typed client, %s by the plain one", params, typed, raw.Data)
			}
			command.want(t, 0, string(typed)+"\n")
			continue
		}
		var fromRaw, fromCommand struct {
			Code, Message string
			Details       []rpc.Detail
		}
		if err := json.Unmarshal(raw.Data, &fromRaw); err != nil {
			t.Fatalf("%s: %s: %v", params, raw.Data, err)
		}
		if err := json.Unmarshal([]byte(command.stderr), &fromCommand); err != nil || command.status != 1 {
			t.Fatalf("%s: %+v: %v", params, command, err)
		}
		e := new(rpc.Error)
		if !errors.As(err, &e) || fromRaw.Code != e.Code.String() || fromRaw.Message != e.Message || len(fromRaw.Details) != len(e.Details) {
			t.Errorf("%s: %v by the typed client, %s by the plain one", params, err, raw.Data)
		}
		if fromCommand.Code != fromRaw.Code || fromCommand.Message != fromRaw.Message || len(fromCommand.Details) != len(fromRaw.Details) {
			t.Errorf("%s: %s by the plain client, %s by the command", params, raw.Data, command.stderr)
		}
	}
}
