package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// Params that can't be handed over leave no place taken.
func TestObjectParamsThatCannotBeSent(t *testing.T) {
	t.Parallel()
	inHall(t, repeat, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		for _, params := range []any{func() {}, 5} { // can't be written; can't be read
			var result string
			err := c.Call(t.Context(), &rpc.Call{Service: "hall", Method: "turn", Object: "a", Params: &params, Result: &result})
			requireCode(t, err, rpc.InvalidArgument)
		}
	})
}

func TestObjectRequests(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	h := newHall(t, b, repeat)
	h.feed(t)
	h.seat("a").queue.Open()
	p := plainClient(t, srv)
	ok := func(want, subject, body string, h nats.Header) {
		t.Helper()
		if got, f := p.request(t, subject, []byte(body), h); f != nil || string(got) != want {
			t.Errorf("%s: %s, %+v; want %s", subject, got, f, want)
		}
	}
	fails := func(code, text, subject, body string, h nats.Header) *failure {
		t.Helper()
		_, f := p.request(t, subject, []byte(body), h)
		if f == nil || f.Code != code {
			t.Fatalf("%s: %+v, want %s", subject, f, code)
		}
		contains(t, f.Message, text)
		return f
	}
	on := func(id string) nats.Header { return header("Rpc-Object", id) }
	ok(`"x"`, "rpc.hall.turn", `"x"`, on("a"))
	ok(`"x"`, bus.ObjectSubject("hall", "a", "turn"), `"x"`, nil)
	ok(`"none"`, "rpc.hall.none", ``, on("a"))
	fails("invalid_argument", "header Rpc-Object", "rpc.hall.turn", `"x"`, nil)
	fails("invalid_argument", "257 bytes", "rpc.hall.turn", `"x"`, on(strings.Repeat("x", 257)))
	fails("unimplemented", "Method not found", "rpc.hall.nothing", `"x"`, on("a"))
	fails("unimplemented", "Method not found", bus.ObjectSubject("hall", "a", "nothing"), `"x"`, nil)
	fails("failed_precondition", "nowhere", "rpc.hall.turn", `"x"`, on("nowhere"))
	fails("invalid_argument", "a string", "rpc.hall.turn", `5`, on("a"))

	// Elsewhere: passed on, unless it came on the object's own subject.
	if f := fails("unavailable", "elsewhere", bus.ObjectSubject("hall", "elsewhere", "turn"), `"x"`, nil); !f.Retryable {
		t.Errorf("%+v", f)
	}
	ok(`"from elsewhere"`, "rpc.hall.turn", `"x"`, on("elsewhere"))
	ok(`"from elsewhere"`, "rpc.hall.turn", ` {"more" : "<"} `, on("elsewhere")) // the owner may know it
	ok(`"from elsewhere"`, "rpc.hall.none", ``, on("elsewhere"))
	fails("out_of_range", "too far", "rpc.hall.turn", `"refused"`, on("elsewhere"))
	fails("internal", "log", "rpc.hall.turn", `"rubbish"`, on("elsewhere"))
	fails("internal", "log", "rpc.hall.turn", `"panic"`, on("elsewhere"))
	fails("invalid_argument", "no params", "rpc.hall.turn", ``, on("elsewhere"))
	fails("invalid_argument", "malformed", "rpc.hall.turn", `{`, on("elsewhere"))
	fails("invalid_argument", "text/odd", "rpc.hall.turn", `x`, header("Rpc-Object", "elsewhere", "Content-Type", "text/odd"))
	binary, err := cbor.Marshal("x")
	if err != nil {
		t.Fatal(err)
	}
	got, f := p.request(t, "rpc.hall.turn", binary, header("Rpc-Object", "elsewhere", "Content-Type", "application/cbor"))
	var text string
	if err := cbor.Unmarshal(got, &text); f != nil || err != nil || text != "from elsewhere" {
		t.Errorf("CBOR: %q, %+v, %v", text, f, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	want := []string{"turn \"x\"", "turn {\"more\":\"\\u003c\"}", "none null", "turn \"refused\"", "turn \"rubbish\"", "turn \"panic\"", "turn \"x\""}
	for i := range want {
		if i >= len(h.forwards) || h.forwards[i] != "elsewhere "+want[i] {
			t.Errorf("passed on: %q, want %q", h.forwards, want)
			break
		}
	}
}

// A method of a service is none of an object.
func TestObjectHeaderAtAService(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "plain", server.Config{})
	server.Handle(svc, rpc.NewMethod[string, string]("plain.echo"), func(_ context.Context, s string) (string, error) { return s, nil })
	start(t, svc)
	_, f := plainClient(t, srv).request(t, "rpc.plain.echo", []byte(`"x"`), header("Rpc-Object", "a"))
	if f == nil || f.Code != "unimplemented" {
		t.Fatalf("%+v", f)
	}
	contains(t, f.Message, "plain.echo", "not of an object")
}

// A call that is later than its deadline and the room for clocks is not run.
func TestLateObjectCall(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h := newHall(t, b, repeat)
	h.feed(t)
	h.seat("a").queue.Open()
	for late, code := range map[time.Duration]rpc.Code{
		-time.Hour: 0, 0: 0, 30 * time.Second: 0, 32 * time.Second: rpc.DeadlineExceeded, 1000 * time.Hour: rpc.DeadlineExceeded,
	} {
		in := bus.NewInbox(b.InboxPrefix(), "late")
		sub, err := b.Conn().SubscribeSync(in.Wildcard())
		if err != nil {
			t.Fatal(err)
		}
		reply := in.ReplySubject(1, time.Second, time.Now().Add(-late))
		if err := b.Conn().PublishMsg(&nats.Msg{Subject: bus.ObjectSubject("hall", "a", "turn"), Reply: reply, Data: []byte(`"x"`)}); err != nil {
			t.Fatal(err)
		}
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.DecodeError(msg); code == 0 && err != nil || code != 0 && (err == nil || err.Code != code) {
			t.Errorf("%v late: %v, want %v", late, err, code)
		} else if code != 0 {
			contains(t, err.Message, "hall.turn", "clocks", "1s")
		}
		_ = sub.Unsubscribe()
	}
}
