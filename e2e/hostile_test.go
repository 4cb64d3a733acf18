//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

const mib = 1 << 20

// target is a service that gets what nobody should send.
type target struct {
	worker *process
	conn   *nats.Conn
	client *client.Client
	url    string
}

// TestHostile sends a running process all that is malformed, too large or
// foreign. Each gets the right answer, or none when none is allowed, and the
// process goes on.
func TestHostile(t *testing.T) {
	t.Parallel()
	const maxPayload = 11 * mib
	b := startBus(t, "--max-payload", fmt.Sprint(maxPayload))
	w := startWorker(t, b.url, "worker-1")
	tg := &target{w, plainClient(t, b.url), newClient(t, b.url, client.Config{}), b.url}
	for _, tc := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"payloads", tg.payloads},
		{"headers", tg.headers},
		{"replies elsewhere", tg.repliesElsewhere},
		{"subjects", tg.subjects},
		{"system subjects", tg.systemSubjects},
		{"too large", func(t *testing.T) { tg.tooLarge(t, maxPayload) }},
		{"panic", tg.panics},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.test(t)
			tg.goesOn(t)
		})
	}
	w.stop(t, syscall.SIGTERM)
	b.stop(t, syscall.SIGTERM)
}

// goesOn checks that the process is the same and serves.
func (tg *target) goesOn(t *testing.T) {
	t.Helper()
	if !tg.worker.running() {
		t.Fatal("the service has ended")
	}
	begin := time.Now()
	if got, err := work.Echo.Call(t.Context(), tg.client, "still there?"); got != "still there?" || err != nil {
		t.Fatalf("a good call afterwards: %q, %v", got, err)
	}
	if took := time.Since(begin); took > slack {
		t.Errorf("a good call afterwards took %v", took)
	}
}

func (tg *target) request(t *testing.T, msg *nats.Msg) *nats.Msg {
	t.Helper()
	reply, err := tg.conn.RequestMsg(msg, patience)
	if err != nil {
		t.Fatalf("%s %.80q: %v", msg.Subject, msg.Data, err)
	}
	return reply
}

func (tg *target) payloads(t *testing.T) {
	const nested = 5 * mib
	for _, tc := range []struct{ name, payload, says string }{
		{"nothing", ``, ""},
		{"malformed", `{"n":1,`, "JSON"},
		{"two values", `{"n":1}{"n":2}`, ""},
		{"wrong type", `{"n":"one"}`, "n"},
		{"wrong kind", `[1,2,3]`, ""},
		{"number too large", `{"n":1e400}`, ""},
		{"invalid UTF-8", "{\"n\":1,\"pad\":\"\xff\xfe\"}", "UTF-8"},
		{"zero bytes", strings.Repeat("\x00", 1000), ""},
		{"unclosed arrays", strings.Repeat("[", 10*mib), ""},
		{"nested arrays", strings.Repeat("[", nested) + strings.Repeat("]", nested), ""},
		{"nested objects", strings.Repeat(`{"n":`, mib) + "1" + strings.Repeat("}", mib), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			begin := time.Now()
			reply := tg.request(t, &nats.Msg{Subject: "rpc.work.do", Data: []byte(tc.payload)})
			wantFailure(t, tc.name, reply, rpc.InvalidArgument, tc.says)
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("the answer took %v", took)
			}
			if len(reply.Data) > 4096 {
				t.Errorf("the answer has %d bytes: %.200q…", len(reply.Data), reply.Data)
			}
		})
	}
}

func (tg *target) headers(t *testing.T) {
	const good = `"hello"`
	for _, tc := range []struct {
		name, value string
		code        rpc.Code
	}{
		{"Rpc-Timeout", "soon", rpc.InvalidArgument},
		{"Rpc-Timeout", "-1", rpc.InvalidArgument},
		{"Rpc-Timeout", "99999999999999999999999", rpc.InvalidArgument},
		{"Rpc-Timeout", "9223372036854775807", 0},
		{"Rpc-Timeout", "0", rpc.DeadlineExceeded},
		{"Rpc-Attempt", "0", rpc.InvalidArgument},
		{"Rpc-Attempt", "many", rpc.InvalidArgument},
		{"Rpc-Id", "a;age=b", rpc.InvalidArgument},
		{"Rpc-Id", strings.Repeat("x", 10_000), rpc.InvalidArgument},
		{"Rpc-Caller", strings.Repeat("x", 10_000), rpc.InvalidArgument},
		{"Rpc-Object", "alice", rpc.Unimplemented},
		{"Rpc-Object", strings.Repeat("x", 1000), rpc.InvalidArgument},
		{"Content-Type", "text/html", rpc.InvalidArgument},
		{"Content-Type", "application/cbor", rpc.InvalidArgument},
		{"Rpc-Nothing", "known", 0},
		{"tenant", strings.Repeat("x", mib), 0},
		{"traceparent", "rubbish", 0},
	} {
		t.Run(fmt.Sprintf("%s %.20s", tc.name, tc.value), func(t *testing.T) {
			reply := tg.request(t, &nats.Msg{
				Subject: "rpc.work.echo", Data: []byte(good), Header: nats.Header{tc.name: {tc.value}},
			})
			if tc.code != 0 {
				wantFailure(t, tc.name, reply, tc.code, "")
			} else if string(reply.Data) != good {
				t.Errorf("answer %.200q with headers %v, want %s", reply.Data, reply.Header, good)
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		h := nats.Header{}
		for i := range 10_000 {
			h[fmt.Sprintf("x-%d", i)] = []string{"1", "2"}
		}
		if reply := tg.request(t, &nats.Msg{Subject: "rpc.work.echo", Data: []byte(good), Header: h}); string(reply.Data) != good {
			t.Errorf("answer %.200q", reply.Data)
		}
	})
}

// repliesElsewhere asks for answers at places where a service may not publish.
func (tg *target) repliesElsewhere(t *testing.T) {
	everything, err := tg.conn.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = everything.Unsubscribe() }()
	replies := []string{
		"orders.placed", "rpc.work.echo", "$JS.API.STREAM.DELETE.EVENTS", "$RPC.cancel.work",
		"_INBOXES.x", "_INBOX", "inbox.x", "$SYS.REQ.SERVER.PING",
	}
	for _, reply := range replies {
		if err := tg.conn.PublishMsg(&nats.Msg{Subject: "rpc.work.echo", Reply: reply, Data: []byte(`"steered"`)}); err != nil {
			t.Fatal(err)
		}
	}
	// Answers to requests that came later arrive later: what was to come is there.
	tg.request(t, &nats.Msg{Subject: "rpc.work.echo", Data: []byte(`"last"`)})
	for range len(replies) + 2 {
		msg, err := everything.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if msg.Reply == "" && strings.HasPrefix(msg.Subject, "_INBOX.") {
			if string(msg.Data) != `"last"` {
				t.Errorf("an answer %q on %s", msg.Data, msg.Subject)
			}
			return
		}
		if !strings.HasPrefix(msg.Subject, "rpc.work.") {
			t.Errorf("the service published %q on %s", msg.Data, msg.Subject)
		}
	}
	t.Error("no answer to the last request was seen")
}

// subjects sends what no client library would, on a socket.
func (tg *target) subjects(t *testing.T) {
	raw := dialRaw(t, tg.url)
	for _, line := range []string{
		"PUB rpc.work. 2\r\n{}", "PUB rpc.work..echo 2\r\n{}", "PUB rpc..echo 2\r\n{}",
		"PUB rpc.work.echo. _INBOX.x 2\r\n{}", "PUB rpc.work.>  _INBOX.x 2\r\n{}", "PUB rpc.work.* _INBOX.x 2\r\n{}",
		"PUB rpc.work.echo _INBOX. 2\r\n{}", "PUB rpc.work.echo _INBOX..x 2\r\n{}", "PUB rpc.work.echo _INBOX.* 2\r\n{}",
		"PUB rpc.work.echo _INBOX.> 2\r\n{}", "PUB rpc.work.echo _INBOX.x\x01y 2\r\n{}",
		"PUB rpc.work.\xff\xfe _INBOX.x 2\r\n{}",
		"PUB rpc.work." + strings.Repeat("a.", 1000) + "b _INBOX.x 2\r\n{}",
		"PUB rpc.work.echo _INBOX." + strings.Repeat("a", 2000) + " 2\r\n{}",
	} {
		raw.send(t, line+"\r\n")
	}
	raw.send(t, "PING\r\n")
	raw.expect(t, "PONG", "-ERR")

	for _, method := range []string{"nothing", "ECHO", "echo.more", "alarm", "constructor", "$system", "_hidden", strings.Repeat("x", 1000)} {
		wantFailure(t, method, tg.request(t, nats.NewMsg("rpc.work."+method)), rpc.Unimplemented, "Method not found")
	}
}

// systemSubjects sends rubbish where callers and tools send their own.
func (tg *target) systemSubjects(t *testing.T) {
	for _, subject := range []string{"$RPC.cancel.work", "$SRV.PING", "$SRV.INFO.work", "$SRV.STATS.work", "$SRV.PING.work"} {
		for _, data := range []string{"", "rubbish", strings.Repeat("x", mib), "\xff\x00", "_INBOX.>"} {
			if err := tg.conn.PublishMsg(&nats.Msg{Subject: subject, Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
			if err := tg.conn.PublishMsg(&nats.Msg{Subject: subject, Reply: "orders.placed", Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (tg *target) tooLarge(t *testing.T, maxPayload int) {
	t.Run("request", func(t *testing.T) {
		begin := time.Now()
		_, err := work.Echo.Call(t.Context(), tg.client, strings.Repeat("x", maxPayload), rpc.WithTimeout(patience))
		wantTooLarge(t, err, begin, maxPayload, false)
	})
	t.Run("request of a client that does not look", func(t *testing.T) {
		raw := dialRaw(t, tg.url)
		raw.send(t, fmt.Sprintf("PUB rpc.work.echo _INBOX.x %d\r\n", 2*maxPayload))
		raw.expect(t, "-ERR", "PONG")
	})
	t.Run("reply", func(t *testing.T) {
		begin := time.Now()
		_, err := work.Large.Call(t.Context(), tg.client, maxPayload, rpc.WithTimeout(patience))
		wantTooLarge(t, err, begin, maxPayload, true)
	})
	t.Run("just fits", func(t *testing.T) {
		size := maxPayload - len(`""`)
		if got, err := work.Large.Call(t.Context(), tg.client, size, rpc.WithTimeout(patience)); err != nil || len(got) != size {
			t.Errorf("%d bytes, error %v: want %d bytes", len(got), err, size)
		}
	})
}

func wantTooLarge(t *testing.T, err error, begin time.Time, maxPayload int, remote bool) {
	t.Helper()
	took := time.Since(begin)
	var e *rpc.Error
	if !errors.As(err, &e) || e.Code != rpc.ResourceExhausted || e.Remote() != remote {
		t.Fatalf("error %v (remote %t), want resource_exhausted (remote %t)", err, rpc.IsRemote(err), remote)
	}
	for _, size := range []int{maxPayload, maxPayload + len(`""`)} {
		if !strings.Contains(e.Message, fmt.Sprint(size)) {
			t.Errorf("%q does not name the size %d", e.Message, size)
		}
	}
	if took > slack {
		t.Errorf("the error came after %v", took)
	}
}

func (tg *target) panics(t *testing.T) {
	for range 100 {
		_, err := work.Panic.Call(t.Context(), tg.client, rpc.None{})
		if rpc.CodeOf(err) != rpc.Internal || strings.Contains(err.Error(), "on order") {
			t.Fatalf("error %v, want internal without the panic's text", err)
		}
	}
	logged := func(log string) bool {
		return strings.Count(log, "on order") >= 100 && strings.Contains(log, "main.go")
	}
	if tg.worker.stderr.until(logged); !logged(tg.worker.stderr.text()) {
		t.Error("the log does not have the panics and their stacks")
	}
}

// rawConn speaks to a bus line by line.
type rawConn struct {
	net.Conn
	lines *bufio.Scanner
}

func dialRaw(t *testing.T, url string) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	raw := &rawConn{conn, bufio.NewScanner(conn)}
	raw.expect(t, "INFO", "-ERR")
	raw.send(t, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"raw\"}\r\nPING\r\n")
	raw.expect(t, "PONG", "-ERR")
	return raw
}

func (raw *rawConn) send(t *testing.T, data string) {
	t.Helper()
	if _, err := raw.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

// expect reads until a line that begins with want; one that begins with
// unwanted fails the test.
func (raw *rawConn) expect(t *testing.T, want, unwanted string) {
	t.Helper()
	for raw.lines.Scan() {
		line := raw.lines.Bytes()
		if bytes.HasPrefix(line, []byte(want)) {
			return
		}
		if bytes.HasPrefix(line, []byte(unwanted)) {
			break
		}
	}
	t.Fatalf("%s does not come: %q, %v", want, raw.lines.Text(), raw.lines.Err())
}
