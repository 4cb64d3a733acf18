package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

// desk is a service that bad input is thrown at.
type desk struct {
	srv   *natsd.Server
	bus   *bus.Bus
	svc   *server.Service
	log   *logbook
	plain *plain
	ran   atomic.Int64 // calls of its handlers
}

var (
	deskNote = rpc.NewMethod[noteParams, noteResult]("desk.note")
	deskAny  = rpc.NewMethod[any, any]("desk.any")
	deskBomb = rpc.NewMethod[rpc.None, bombResult]("desk.bomb")
	deskEnd  = rpc.NewMethod[rpc.None, rpc.None]("desk.end")
	deskDeaf = rpc.NewMethod[rpc.None, string]("desk.deaf")
	deskPtr  = rpc.NewMethod[*checkedParams, int]("desk.pointer")
	deskSize = rpc.NewMethod[sizeParams, sizeResult]("desk.size")
	deskInfo = rpc.NewMethod[rpc.None, rpc.CallInfo]("desk.info")
)

// newDesk starts the service. Handlers of deaf wait for release and ignore
// their contexts.
func newDesk(t *testing.T, release <-chan struct{}, opts ...bustest.Option) *desk {
	d := &desk{log: newLogbook()}
	opts = append(opts, d.log.option(zerolog.DebugLevel))
	d.srv = bustest.Server(t, opts...)
	d.bus = bustest.Connect(t, d.srv, opts...)
	d.svc = server.New(d.bus, "desk", server.Config{})
	server.Handle(d.svc, deskNote, func(ctx context.Context, p noteParams) (noteResult, error) {
		d.ran.Add(1)
		return echo(ctx, p)
	})
	server.Handle(d.svc, deskAny, func(context.Context, any) (any, error) {
		d.ran.Add(1)
		return nil, nil
	})
	server.Handle(d.svc, deskBomb, func(context.Context, rpc.None) (bombResult, error) { return bombResult{}, nil })
	server.Handle(d.svc, deskEnd, func(context.Context, rpc.None) (rpc.None, error) {
		runtime.Goexit()
		return rpc.None{}, nil
	}, server.Concurrency(1))
	server.Handle(d.svc, deskDeaf, func(context.Context, rpc.None) (string, error) {
		d.ran.Add(1)
		<-release
		return "too late", nil
	}, server.Concurrency(1), server.Queue(1))
	server.Handle(d.svc, deskPtr, func(_ context.Context, p *checkedParams) (int, error) {
		d.ran.Add(1)
		return p.Quantity, nil
	})
	server.Handle(d.svc, deskSize, func(_ context.Context, p sizeParams) (sizeResult, error) {
		return sizeResult{strings.Repeat("x", p.Bytes)}, nil
	})
	server.Handle(d.svc, deskInfo, func(ctx context.Context, _ rpc.None) (rpc.CallInfo, error) {
		info, _ := rpc.CallInfoFrom(ctx)
		return info, nil
	})
	start(t, d.svc)
	d.plain = plainClient(t, d.srv)
	return d
}

// alive fails the test when the service does not answer as ever.
func (d *desk) alive(t testing.TB) {
	t.Helper()
	result, f := d.plain.request(t, "rpc.desk.note", []byte(`{"text":"still here"}`), nil)
	if f != nil {
		t.Fatalf("the service fails: %+v", f)
	}
	contains(t, string(result), "still here")
}

func requireFailure(t testing.TB, f *failure, code string, parts ...string) {
	t.Helper()
	if f == nil {
		t.Fatalf("no failure, want %s", code)
	}
	if f.Code != code {
		t.Fatalf("the failure is %+v, want %s", f, code)
	}
	contains(t, f.Message, parts...)
}

// Bad payloads are in the table of same_test.go; here are the ones that are
// large.
func TestNestedArrays(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	d := newDesk(t, nil, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 16 << 20 }))
	for name, c := range map[string]struct {
		payload string
		parts   []string
	}{
		"opened and closed":   {strings.Repeat("[", size/2) + strings.Repeat("]", size/2), []string{"malformed JSON", "depth"}},
		"opened only":         {strings.Repeat("[", size), []string{"malformed JSON", "depth"}},
		"objects in objects":  {strings.Repeat(`{"a":`, size/6) + "1" + strings.Repeat("}", size/6), []string{"malformed JSON", "depth"}},
		"one of many members": {"[" + strings.Repeat("[],", size/3) + "{]", []string{"malformed JSON"}},
	} {
		for _, method := range []string{"note", "any"} {
			_, f := d.plain.request(t, "rpc.desk."+method, []byte(c.payload), nil)
			if f == nil {
				t.Errorf("%s: no failure", name)
				continue
			}
			requireFailure(t, f, "invalid_argument", c.parts...)
			if len(f.Message) > 300 {
				t.Errorf("%s: the message has %d bytes", name, len(f.Message))
			}
		}
	}
	if n := d.ran.Load(); n != 0 {
		t.Errorf("%d handlers ran", n)
	}
	d.alive(t)
}

// Params that are a pointer are checked as well.
func TestValidatePointerParams(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	_, f := d.plain.request(t, "rpc.desk.pointer", []byte(`{"quantity":0}`), nil)
	requireFailure(t, f, "invalid_argument", "at least 1")
	_, f = d.plain.request(t, "rpc.desk.pointer", []byte(`null`), nil)
	requireFailure(t, f, "invalid_argument", "null")
	if result, f := d.plain.request(t, "rpc.desk.pointer", []byte(`{"quantity":2}`), nil); f != nil || string(result) != "2" {
		t.Errorf("got %s %+v", result, f)
	}
	if n := d.ran.Load(); n != 1 {
		t.Errorf("%d handlers ran, want 1", n)
	}
}

func TestClientRefusesHeaders(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	callers := map[string]*client.Client{
		"wire":     client.New(bustest.Connect(t, d.srv), client.Config{}),
		"shortcut": client.New(d.bus, client.Config{}),
	}
	for way, c := range callers {
		for _, h := range [][2]string{
			{"X-A: 1\r\nRpc-Caller", "root"}, {"X-A\r\n", "1"}, {"X A", "1"}, {"", "1"}, {"X-Ä", "1"}, {"X:Y", "1"},
			{"X-A", "1\r\nRpc-Caller: root"}, {"X-A", "1\n"}, {"X-A", "a\x00b"}, {"X-A", strings.Repeat("v", 9000)},
			{"Rpc-Caller", "root"}, {"rpc-id", "1"}, {"Nats-Msg-Id", "1"}, {"nats-expected-stream", "x"}, {"Content-Type", "text/plain"},
			{strings.Repeat("n", 200), "1"},
		} {
			_, err := deskNote.Call(t.Context(), c, noteParams{}, rpc.WithHeader(h[0], h[1]))
			if rpc.CodeOf(err) != rpc.InvalidArgument || rpc.IsRemote(err) {
				t.Errorf("%s: header %.40q=%.20q: %v", way, h[0], h[1], err)
			}
		}
		for _, name := range []string{"desk.note\r\nPUB x 1", "desk.>", "desk.*", "desk note", "desk..note", "$SRV.PING", "desk.note\x00"} {
			service, method, _ := strings.Cut(name, ".")
			call := &rpc.Call{Service: service, Method: method, Params: &noteParams{}, Result: &noteResult{}}
			if err := c.Call(t.Context(), call); rpc.CodeOf(err) != rpc.InvalidArgument {
				t.Errorf("%s: call of %q: %v", way, name, err)
			}
		}
		if _, err := deskNote.Call(t.Context(), c, noteParams{}, rpc.WithID("a\r\nb")); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("%s: id with a line end: %v", way, err)
		}
	}
	if n := d.ran.Load(); n != 0 {
		t.Errorf("%d handlers ran", n)
	}
	d.alive(t)
}

func TestOddHeaders(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	for _, c := range []struct {
		name, value string
		parts       []string // of the message; none when the call is fine
	}{
		{"Rpc-Timeout", "soon", []string{"Rpc-Timeout", "milliseconds", "soon"}},
		{"Rpc-Timeout", "-1", []string{"Rpc-Timeout"}},
		{"Rpc-Timeout", "1e3", []string{"Rpc-Timeout"}},
		{"Rpc-Timeout", "99999999999999999999999", []string{"Rpc-Timeout"}},
		{"Rpc-Timeout", "9223372036854775807", nil},
		{"Rpc-Attempt", "0", []string{"Rpc-Attempt"}},
		{"Rpc-Attempt", "-3", []string{"Rpc-Attempt"}},
		{"Rpc-Attempt", "70000", []string{"Rpc-Attempt"}},
		{"Rpc-Id", strings.Repeat("i", 300), []string{"call id"}},
		{"Rpc-Id", "a;b=1", []string{"Rpc-Id"}},
		{"Rpc-Id", "a;age=x", []string{"Rpc-Id"}},
		{"Rpc-Id", "\xff\xfe", []string{"call id"}},
		{"Rpc-Caller", strings.Repeat("c", 200), []string{"Rpc-Caller"}},
		{"Rpc-Caller", "\xff", []string{"Rpc-Caller"}},
		{"Rpc-Object", strings.Repeat("o", 300), []string{"Rpc-Object"}},
		{"Content-Type", "text/html", []string{"content type", "text/html"}},
		{"Content-Type", "application/json; charset=utf-8", nil},
		{"Status", "503", nil},
		{"Nats-Service-Error-Code", "500", nil},
		{"Rpc-Code", "not_found", nil},
		{"X-Odd", "\xff\x7f", nil},
		{"x-odd", "", nil},
		{"X-Large", strings.Repeat("v", 100_000), nil},
	} {
		_, f := d.plain.request(t, "rpc.desk.note", []byte(`{}`), header(c.name, c.value))
		if len(c.parts) == 0 {
			if f != nil {
				t.Errorf("%s=%.20q: %+v", c.name, c.value, f)
			}
			continue
		}
		if f == nil {
			t.Errorf("%s=%.20q: no failure", c.name, c.value)
			continue
		}
		requireFailure(t, f, "invalid_argument", c.parts...)
	}
	_, f := d.plain.request(t, "rpc.desk.note", []byte(`{}`), header("Rpc-Object", "alice"))
	requireFailure(t, f, "unimplemented", "desk.note", "not of an object")
	d.alive(t)
}

// A peer that writes to the socket itself may send headers that no client
// would. The server passes them on.
func TestMalformedHeaders(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	conn, err := net.Dial("tcp", d.srv.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(text string) {
		t.Helper()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send("CONNECT {\"headers\":true,\"no_responders\":true,\"verbose\":false}\r\n")
	for i, head := range []string{
		"NATS/1.0\r\nno colon\r\n\r\n",
		"NATS/1.0\r\n: no name\r\n\r\n",
		"NATS/1.0\r\nX-A: 1",
		"NATS/1.0\r\nX-A: 1\r\n folded\r\n\r\n",
		"NATS/1.0\r\nRpc-Timeout: \x00\r\n\r\n",
		"NATS/1.0\r\nÄ Ö\xff: 1\r\n\r\n",
		"NATS/1.0 503\r\n\r\n",
		"NATS/1.0 503 No Responders\r\nRpc-Code: x\r\n\r\n",
		"HTTP/1.1\r\n\r\n",
		strings.Repeat("\xff", 1000),
		"\r\n",
	} {
		send(fmt.Sprintf("HPUB rpc.desk.note _INBOX.socket.%d %d %d\r\n%s{}\r\n", i, len(head), len(head)+2, head))
	}
	send("PING\r\n")
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(conn); ; {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if strings.HasPrefix(lines.Text(), "-ERR") {
			t.Fatal(lines.Text())
		}
		if lines.Text() == "PONG" {
			break
		}
	}
	d.alive(t)
	if !d.bus.Connected() {
		t.Error("the bus has lost its connection")
	}
}

// What a caller may not set does not get through to the handler.
func TestSystemHeadersAreNotMetadata(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	h := header("X-User", "alice", "X-User", "bob", "Rpc-Caller", "raw", "Rpc-Id", "id-1;age=5", "Rpc-Attempt", "2",
		"Rpc-Code", "internal", "Nats-Msg-Id", "m", "Authorization", "Bearer t")
	result, f := d.plain.request(t, "rpc.desk.info", nil, h)
	if f != nil {
		t.Fatalf("%+v", f)
	}
	contains(t, string(result), `"Header":{"Authorization":["Bearer t"],"X-User":["alice","bob"]}`, `"Caller":"raw"`, `"ID":"id-1"`, `"Attempt":2`)
	if text := d.log.text(); strings.Contains(text, "Bearer") || strings.Contains(text, "alice") {
		t.Errorf("the log has metadata: %s", text)
	}
}

func TestRequestTooLarge(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 4096 }))
	for way, c := range map[string]*client.Client{
		"wire":     client.New(bustest.Connect(t, d.srv), client.Config{}),
		"shortcut": client.New(d.bus, client.Config{}),
	} {
		fits := strings.Repeat("x", 4096-len(`{"text":"","count":0}`))
		if _, err := deskNote.Call(t.Context(), c, noteParams{Text: fits[:len(fits)-20]}); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		begin := time.Now()
		_, err := deskNote.Call(t.Context(), c, noteParams{Text: fits + "y"})
		e := requireCode(t, err, rpc.ResourceExhausted)
		contains(t, e.Message, "the params of desk.note", "4097", "4096")
		if e.Retryable {
			t.Errorf("%s: %v is retryable", way, e)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%s: it took %v to say so", way, took)
		}
	}
	d.alive(t)
}

// A result that does not fit is an error that says so, in whatever codec, with
// whatever the answer's headers take.
func TestReplyTooLarge(t *testing.T) {
	t.Parallel()
	const limit = 4096
	d := newDesk(t, nil, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = limit }))
	room := limit - len(`{"data":""}`)
	for _, contentType := range []string{"", "application/json", "application/json; charset=utf-8"} {
		for bytes := room - 100; bytes <= room+100; bytes++ {
			var h nats.Header
			if contentType != "" {
				h = header("Content-Type", contentType)
			}
			result, f := d.plain.request(t, "rpc.desk.size", fmt.Appendf(nil, `{"bytes":%d}`, bytes), h)
			if bytes <= room {
				if f != nil || len(result) != bytes+limit-room {
					t.Fatalf("%q: %d bytes: got %d bytes and %+v", contentType, bytes, len(result), f)
				}
				continue
			}
			requireFailure(t, f, "resource_exhausted", "the result of desk.size", strconv.Itoa(bytes+limit-room), strconv.Itoa(limit))
		}
	}
	c := client.New(bustest.Connect(t, d.srv), client.Config{Codec: bus.CBOR{}, MaxAttempts: 1})
	for bytes := room - 150; bytes <= room+50; bytes++ {
		r, err := deskSize.Call(t.Context(), c, sizeParams{bytes})
		switch rpc.CodeOf(err) {
		case 0:
			if len(r.Data) != bytes {
				t.Fatalf("%d bytes of %d", len(r.Data), bytes)
			}
		case rpc.ResourceExhausted:
			contains(t, err.Error(), "the result of desk.size", strconv.Itoa(limit))
		default:
			t.Fatalf("CBOR: %d bytes: %v", bytes, err)
		}
	}
	d.alive(t)
}

// A request must not make the service publish wherever it likes.
func TestForeignReplySubject(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	spying := bustest.Connect(t, d.srv).Conn()
	foreign := []string{
		"orders.paid", "rpc.orders.place", "$JS.API.STREAM.DELETE.EVENTS", "_INBOXX.a", "_INBOX", "_inbox.a", "$SRV.PING", "x._INBOX.a",
	}
	for _, reply := range foreign {
		spy, err := spying.SubscribeSync(reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := spying.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"note", "nope"} {
			if err := d.plain.conn.PublishRequest("rpc.desk."+method, reply, []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			d.log.await(t, "the refused reply subject "+reply, func(l logLine) bool {
				return l.has("message", "reply subject") && l["reply"] == reply && l["method"] == method && l["level"] == "warn"
			})
		}
		// The fence: what the service published before it has arrived when it has.
		d.alive(t)
		if err := d.bus.Conn().Publish(reply, []byte("fence")); err != nil {
			t.Fatal(err)
		}
		msg, err := spy.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if string(msg.Data) != "fence" {
			t.Errorf("%s: the service published %q there", reply, msg.Data)
		}
		if err := spy.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.ran.Load(); n != int64(len(foreign)) { // those of alive
		t.Errorf("handlers ran %d times, want %d", n, len(foreign))
	}
}

// The prefixes that a service answers to can be chosen.
func TestReplyPrefixes(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "desk", server.Config{ReplyPrefixes: []string{"_INBOX", "team.a"}})
	server.Handle(svc, deskNote, echo)
	start(t, svc)
	p := plainClient(t, srv)
	sub, err := p.conn.SubscribeSync("team.a.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.conn.PublishRequest("rpc.desk.note", "team.a.1", []byte(`{"text":"x"}`)); err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(msg.Data), `"text":"x"`)
	if _, f := p.request(t, "rpc.desk.note", []byte(`{}`), nil); f != nil {
		t.Errorf("%+v", f)
	}
}

func TestMethodNobodyHas(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	for _, method := range []string{"nope", "note.more", "Note", "notE", "fetch", "_note", "$note", strings.Repeat("n", 1000)} {
		_, f := d.plain.request(t, "rpc.desk."+method, []byte(`{}`), nil)
		requireFailure(t, f, "unimplemented")
		if f.Message != "Method not found" {
			t.Errorf("%.20s: the message is %q", method, f.Message)
		}
	}
	d.log.await(t, "the unknown method", func(l logLine) bool { return l["method"] == "nope" && l["code"] == "unimplemented" })
	for _, line := range strings.Split(d.log.text(), "\n") {
		if len(line) > 1000 {
			t.Errorf("a log line has %d bytes", len(line))
		}
	}
	if n := d.ran.Load(); n != 0 {
		t.Errorf("%d handlers ran", n)
	}
	d.alive(t)
}

// A panic is one caller's trouble, also outside the handler itself.
func TestPanic(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	_, f := d.plain.request(t, "rpc.desk.bomb", nil, header("Rpc-Id", "id-9"))
	requireFailure(t, f, "internal", "internal error in desk.bomb", "id-9")
	if f.Retryable || strings.Contains(f.Message, "boom") {
		t.Errorf("%+v", f)
	}
	line := d.log.await(t, "the panic", func(l logLine) bool { return l["level"] == "error" })
	if !line.has("panic", "boom on the way out") || !line.has("stack", "MarshalJSON") || line["id"] != "id-9" || line["method"] != "bomb" {
		t.Errorf("the log line is %v", line)
	}
	d.alive(t)
}

// What the log says of a panic names its cause, of whatever type it is.
func TestPanicInTheLog(t *testing.T) {
	t.Parallel()
	log := newLogbook()
	b := bustest.New(t, log.option(zerolog.DebugLevel))
	svc := server.New(b, "same", server.Config{})
	server.Handle(svc, sameFail, fail)
	start(t, svc)
	c := client.New(b, client.Config{})
	for how, cause := range map[string]string{"panic": secret, "runtime panic": "index out of range [13] with length 1"} {
		_, err := sameFail.Call(t.Context(), c, failParams{how})
		requireCode(t, err, rpc.Internal)
		line := log.await(t, how, func(l logLine) bool { return l.has("panic", cause) })
		if line["level"] != "error" || line["from"] != "test" || !line.has("stack", "server_test.fail") {
			t.Errorf("the log line is %v", line)
		}
	}
}

// The others' calls go on while one panics.
func TestPanicLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	d := newDesk(t, release)
	answer := make(chan *nats.Msg, 1)
	go func() {
		msg, err := d.plain.conn.Request("rpc.desk.deaf", nil, patience)
		if err != nil {
			t.Error(err)
		}
		answer <- msg
	}()
	await(t, "the handler", func() bool { return d.ran.Load() == 1 })
	for range 20 {
		_, f := d.plain.request(t, "rpc.desk.bomb", nil, nil)
		requireFailure(t, f, "internal")
	}
	close(release)
	if msg := receive(t, "the answer", answer); msg == nil || string(msg.Data) != `"too late"` {
		t.Errorf("got %v", msg)
	}
}

// A handler that ends its goroutine, as t.FailNow does, neither hangs its
// caller nor keeps its place.
func TestGoexit(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	local := client.New(d.bus, client.Config{})
	for i := range 5 { // the method has one place
		_, f := d.plain.request(t, "rpc.desk.end", nil, header("Rpc-Id", fmt.Sprint("call-", i)))
		requireFailure(t, f, "internal", "internal error in desk.end", fmt.Sprint("call-", i))
		_, err := deskEnd.Call(t.Context(), local, rpc.None{})
		requireCode(t, err, rpc.Internal)
	}
	d.log.await(t, "the end of the goroutine", func(l logLine) bool { return l["level"] == "error" && l["id"] == "call-3" })
	d.alive(t)
}

// Those that wait behind a handler that ends its goroutine get their turn.
func TestGoexitHandsItsPlaceOn(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "desk", server.Config{Concurrency: 1})
	ends := make(chan struct{})
	entered := make(chan struct{})
	server.Handle(svc, deskEnd, func(context.Context, rpc.None) (rpc.None, error) {
		close(entered)
		<-ends
		runtime.Goexit()
		return rpc.None{}, nil
	})
	server.Handle(svc, deskNote, echo)
	start(t, svc)
	c := client.New(b, client.Config{NoShortcut: true})
	first := deskEnd.Go(t.Context(), c, rpc.None{})
	receive(t, "the handler", entered)
	var waiting []*rpc.Future[noteResult]
	for range 10 {
		waiting = append(waiting, deskNote.Go(t.Context(), c, noteParams{}))
	}
	close(ends)
	_, err := first.Wait(t.Context())
	requireCode(t, err, rpc.Internal)
	for _, f := range waiting {
		if _, err := f.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A handler may ignore its context; its caller is answered at the deadline all
// the same, and its place is taken until it ends.
func TestHandlerIgnoresItsContext(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	d := newDesk(t, release)
	begin := time.Now()
	_, f := d.plain.request(t, "rpc.desk.deaf", nil, header("Rpc-Timeout", "80"))
	took := time.Since(begin)
	requireFailure(t, f, "deadline_exceeded", "desk.deaf", "80ms")
	if took < 80*time.Millisecond || took > 80*time.Millisecond+time.Second*slowdown {
		t.Errorf("it took %v", took)
	}
	// The place is taken: this call waits and runs out of time without having run.
	_, f = d.plain.request(t, "rpc.desk.deaf", nil, header("Rpc-Timeout", "30"))
	requireFailure(t, f, "deadline_exceeded")
	if n := d.ran.Load(); n != 1 {
		t.Errorf("%d handlers ran", n)
	}
	// It has given up its place in the queue, the only one.
	_, f = d.plain.request(t, "rpc.desk.deaf", nil, header("Rpc-Timeout", "30"))
	requireFailure(t, f, "deadline_exceeded")
	d.alive(t)
	close(release)
	c := client.New(bustest.Connect(t, d.srv), client.Config{})
	if got, err := deskDeaf.Call(t.Context(), c, rpc.None{}); err != nil || got != "too late" {
		t.Errorf("after the handler has ended: %q, %v", got, err)
	}
	if n := d.ran.Load(); n != 3 { // first, this one, and that of alive; not the one that waited too long
		t.Errorf("%d handlers ran", n)
	}
}

// A call without time does not run.
func TestNoTimeLeft(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	for range 200 {
		_, f := d.plain.request(t, "rpc.desk.note", []byte(`{}`), header("Rpc-Timeout", "0"))
		requireFailure(t, f, "deadline_exceeded")
	}
	if n := d.ran.Load(); n != 0 {
		t.Errorf("%d handlers ran", n)
	}
	d.alive(t)
}

// The reply subject says when a request was sent, by a clock that is not ours.
func TestSentAtAnyTime(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	inbox := d.plain.conn.NewInbox() + "-late"
	sub, err := d.plain.conn.SubscribeSync(inbox + ".>")
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 2 * time.Second
	send := func(sent time.Time) *failure {
		t.Helper()
		reply := fmt.Sprintf("%s.1.t%d-%s", inbox, timeout.Milliseconds(), strconv.FormatInt(sent.UnixMilli(), 36))
		if err := d.plain.conn.PublishRequest("rpc.desk.note", reply, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		_, f := readReply(t, msg)
		return f
	}
	// The clocks of caller and service need not agree.
	for _, sent := range []time.Duration{0, -timeout - time.Minute, time.Hour} {
		if f := send(time.Now().Add(sent)); f != nil {
			t.Errorf("sent %v from now: %+v", sent, f)
		}
	}
	// A retry has what is left of its time, however long ago the first attempt was.
	msg := &nats.Msg{Subject: "rpc.desk.note", Data: []byte(`{}`), Header: header("Rpc-Id", "first;age=40000", "Rpc-Attempt", "2"),
		Reply: fmt.Sprintf("%s.2.t2000-%s", inbox, strconv.FormatInt(time.Now().UnixMilli(), 36))}
	if err := d.plain.conn.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
	answer, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, f := readReply(t, answer); f != nil {
		t.Errorf("the late retry: %+v", f)
	}
}

// A cancel that is not for a call of this service does nothing.
func TestOddCancels(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	d := newDesk(t, release)
	answer := make(chan *nats.Msg, 1)
	go func() {
		msg, err := d.plain.conn.Request("rpc.desk.deaf", nil, patience)
		if err != nil {
			t.Error(err)
		}
		answer <- msg
	}()
	await(t, "the handler", func() bool { return d.ran.Load() == 1 })
	for _, payload := range []string{"", "x", "_INBOX.", "_INBOX.>", strings.Repeat("y", 100_000), "\x00\xff"} {
		if err := d.plain.conn.Publish("$RPC.cancel.desk", []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	d.alive(t)
	close(release)
	if msg := receive(t, "the answer", answer); msg == nil || string(msg.Data) != `"too late"` {
		t.Errorf("got %v", msg)
	}
}
