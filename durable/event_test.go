package durable

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/durable/internal/journal"
)

// emitted is an event of the tests.
type emitted struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

var emittedEvent = rpc.NewEvent[emitted]("Box.moved")

// checkEnvelope checks an event's headers against CloudEvents 1.0 in binary mode
// and returns the id of the object it says it is from.
func checkEnvelope(m *jetstream.RawStreamMsg, name string) (id string, err error) {
	for header, values := range m.Header {
		if !strings.HasPrefix(header, "ce-") {
			continue
		}
		for _, c := range []byte(strings.Join(values, "")) {
			if c <= ' ' || c > '~' || c == '"' || c == '%' {
				return "", fmt.Errorf("%s: %q has what must be percent-encoded, and is decoded otherwise", header, values)
			}
		}
	}
	get := m.Header.Get
	if get("ce-specversion") != "1.0" || get("ce-type") != name || m.Subject != "$."+name || get("Content-Type") != "" {
		return "", fmt.Errorf("%s: %v", m.Subject, m.Header)
	}
	if get("ce-id") == "" || get("ce-id") != get("Nats-Msg-Id") {
		return "", fmt.Errorf("id %q, message id %q", get("ce-id"), get("Nats-Msg-Id"))
	}
	if at, err := time.Parse(time.RFC3339Nano, get("ce-time")); err != nil || time.Since(at).Abs() > time.Hour {
		return "", fmt.Errorf("time %q: %v", get("ce-time"), err)
	}
	source, err := url.Parse(get("ce-source"))
	if err != nil || !strings.HasPrefix(source.Path, "/box/") {
		return "", fmt.Errorf("source %q: %v", get("ce-source"), err)
	}
	return bus.Unescape(strings.TrimPrefix(source.Path, "/box/"))
}

// Events arrive once and in the order of their object's commits, and only those
// of turns that were stored.
func TestEvents(t *testing.T) {
	t.Parallel()
	x := newBoxes(t)
	x.serve(Config{})
	if _, err := x.bus.JetStream().Stream(t.Context(), bus.EventsStream); err == nil {
		t.Fatal("EVENTS is there before the first event")
	}
	ids := []string{"alice", "a.b", "日本語 ü", "*", strings.Repeat("€", 85)}
	const each = 30
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			number := x.prepare(func(s *box, ctx Context) (any, error) {
				s.N++
				if err := Emit(ctx, emittedEvent, emitted{ctx.ID(), 2*s.N - 1}); err != nil {
					return nil, err
				}
				return nil, ctx.Emit(emittedEvent.Name(), emitted{ctx.ID(), 2 * s.N})
			})
			failing := x.prepare(func(s *box, ctx Context) (any, error) {
				if err := ctx.Emit(emittedEvent.Name(), emitted{ctx.ID(), -1}); err != nil {
					return nil, err
				}
				if s.N%2 == 0 {
					panic("as planned")
				}
				return nil, rpc.NotFound.Errorf("as planned")
			})
			for range each {
				wg.Go(func() {
					if _, err := prepared[any](x, id, number); err != nil {
						t.Errorf("turn: %v", err)
					}
					_, err := prepared[any](x, id, failing)
					if code := rpc.CodeOf(err); code != rpc.NotFound && code != rpc.Internal {
						t.Errorf("failing turn: %v", err)
					}
				})
			}
		})
	}
	wg.Wait()
	next, seen := map[string]int{}, map[string]bool{}
	for _, m := range x.events() {
		id, err := checkEnvelope(m, "Box.moved")
		if err != nil {
			t.Fatal(err)
		}
		var e emitted
		if err := json.Unmarshal(m.Data, &e); err != nil || e.ID != id {
			t.Fatalf("data %s from %q: %v", m.Data, id, err)
		}
		if next[id]++; e.N != next[id] {
			t.Fatalf("%q: event %d comes as number %d", id, e.N, next[id])
		}
		if seen[m.Header.Get("ce-id")] {
			t.Errorf("the id %s comes twice", m.Header.Get("ce-id"))
		}
		seen[m.Header.Get("ce-id")] = true
	}
	for _, id := range ids {
		if next[id] != 2*each {
			t.Errorf("%q: %d events, want %d", id, next[id], 2*each)
		}
	}
}

// Names of all lengths reach EVENTS.
func TestEventNames(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	names := []string{"A.b", "Order.placed.Cart", "A.b.c.d", "A.b.c.d.e", "A.b.c.d.e.f", "User_1.has-left", "Box." + strings.Repeat("x", 250)}
	x.do("a", func(_ *box, ctx Context) error {
		for i, name := range names {
			if err := ctx.Emit(name, i); err != nil {
				return err
			}
		}
		return ctx.Emit("A.null", nil)
	})
	all := x.events()
	if len(all) != len(names)+1 {
		t.Fatalf("%d events, want %d", len(all), len(names)+1)
	}
	for i, name := range names {
		if _, err := checkEnvelope(all[i], name); err != nil || string(all[i].Data) != fmt.Sprint(i) {
			t.Errorf("%s: %s, %v", name, all[i].Data, err)
		}
	}
	if data := string(all[len(names)].Data); data != "null" {
		t.Errorf("no data is %s", data)
	}
}

// What can't be emitted is said at once. The handler decides what follows.
func TestEmitErrors(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	many := func(n int, data any) func(Context) error {
		return func(ctx Context) error {
			for range n {
				if err := ctx.Emit("Box.filled", data); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		emit func(Context) error
		code rpc.Code
		text string
		kept int // events, when the turn goes on
	}{
		"empty name":     {func(ctx Context) error { return ctx.Emit("", 1) }, rpc.InvalidArgument, "empty", 0},
		"one token":      {func(ctx Context) error { return ctx.Emit("Order", 1) }, rpc.InvalidArgument, "2 to 6", 0},
		"seven tokens":   {func(ctx Context) error { return ctx.Emit("a.b.c.d.e.f.g", 1) }, rpc.InvalidArgument, "2 to 6", 0},
		"wildcard":       {func(ctx Context) error { return ctx.Emit("Order.*", 1) }, rpc.InvalidArgument, "'*'", 0},
		"the system's":   {func(ctx Context) error { return ctx.Emit("Order._x", 1) }, rpc.InvalidArgument, "system", 0},
		"not ASCII":      {func(ctx Context) error { return ctx.Emit("Ordnung.überall", 1) }, rpc.InvalidArgument, "'ü'", 0},
		"too long":       {func(ctx Context) error { return ctx.Emit("Order."+strings.Repeat("x", 256), 1) }, rpc.InvalidArgument, "262 bytes", 0},
		"not JSON":       {func(ctx Context) error { return ctx.Emit("Order.placed", func() {}) }, rpc.InvalidArgument, "Order.placed", 0},
		"too large":      {many(1, strings.Repeat("x", 1<<20)), rpc.ResourceExhausted, "1048578 bytes", 0},
		"too many":       {many(maxTurnEvents+1, 1), rpc.ResourceExhausted, "256 events", maxTurnEvents},
		"too many bytes": {many(40, strings.Repeat("x", 1<<19)), rpc.ResourceExhausted, "stored at once", 31},
	} {
		t.Run(name, func(t *testing.T) {
			x.want(x.try(name, func(s *box, ctx Context) error { s.N = 1; return tt.emit(ctx) }), tt.code, tt.text)
			before := len(x.count(outPrefix + ".>"))
			x.do(name, func(s *box, ctx Context) error {
				if s.N != 0 {
					return fmt.Errorf("the state of the failed turn is %d", s.N)
				}
				s.N = 2
				if err := tt.emit(ctx); rpc.CodeOf(err) != tt.code {
					return err
				}
				return nil
			})
			if got := len(x.count(outPrefix+".>")) - before; got != tt.kept {
				t.Errorf("%d events, want %d", got, tt.kept)
			}
		})
	}
	x.events()
}

// An event carries on the trace of the call, unless that is too much for it.
func TestEventTrace(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	number := x.prepare(func(_ *box, ctx Context) (any, error) {
		return true, ctx.Emit("Box.moved", strings.Repeat("x", int(x.bus.MaxPayload())-room-2))
	})
	for _, baggage := range [][]string{
		{strings.Repeat("v", 5000)}, slices.Repeat([]string{strings.Repeat("v", 5000)}, 20), slices.Repeat([]string{"v"}, 6000),
	} {
		msg := nats.NewMsg(bus.ObjectSubject("box", "a", "turn"))
		msg.Data = fmt.Append(nil, number)
		msg.Header["traceparent"] = []string{parent}
		msg.Header["baggage"] = baggage
		reply, err := x.bus.Conn().RequestMsgWithContext(t.Context(), msg)
		if err != nil || string(reply.Data) != "true" {
			t.Fatalf("%d values: %v, %v", len(baggage), reply, err)
		}
	}
	all := x.events()
	if len(all) != 3 {
		t.Fatalf("%d events", len(all))
	}
	for i, m := range all {
		if m.Header.Get("traceparent") != parent || len(m.Header["baggage"]) != max(0, 1-i) {
			t.Errorf("event %d: %d of baggage, traceparent %s", i, len(m.Header["baggage"]), m.Header.Get("traceparent"))
		}
	}
}

// The bus is restarted again and again under turns that emit: events and state
// agree afterwards. The connections are cut first and what has arrived is done: a
// server that shuts down within a batch, or while EVENTS looks for its source,
// leaves a goroutine behind for a while.
func TestEventsWhileTheBusRestarts(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	v := newValve(t, s)
	x := boxesOn(t, s, v.behind())
	x.serve(Config{}, v.behind())
	direct := boxesOn(t, s)
	calm := quiet(direct, s)
	number := x.prepare(func(s *box, ctx Context) (any, error) {
		s.N++
		return s.N, ctx.Emit("Box.moved", emitted{ctx.ID(), s.N})
	})
	const objects, each, restarts = 4, 40, 3
	done := make(chan struct{}, objects*each)
	var wg sync.WaitGroup
	for i := range objects {
		wg.Go(func() {
			for n := range each {
				if got, err := prepared[int](x, fmt.Sprint("o", i), number); err != nil || got != n+1 {
					t.Errorf("turn %d of object %d: %d, %v", n, i, got, err)
					return
				}
				done <- struct{}{}
			}
		})
	}
	for range restarts {
		for range objects * each / (restarts + 1) {
			x.reached("turns", done)
		}
		v.shut()
		x.until("the server to have dealt with all that has arrived", calm)
		direct.events()
		if err := s.Restart(t.Context()); err != nil {
			t.Error(err)
		}
		v.reopen()
	}
	wg.Wait()
	next := map[string]int{}
	for _, m := range x.events() {
		var e emitted
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if next[e.ID]++; e.N != next[e.ID] {
			t.Fatalf("%s: event %d comes as number %d", e.ID, e.N, next[e.ID])
		}
	}
	for i := range objects {
		if n := next[fmt.Sprint("o", i)]; n != each {
			t.Errorf("object %d: %d events, want %d", i, n, each)
		}
	}
}

// quiet reports whether nothing but its own messages has come to a server since it
// was called the last few times. Each of them waits for the commit under way.
func quiet(x *boxes, s *natsd.Server) func() bool {
	j := x.open()
	own, others, same := int64(0), int64(-1), 0
	return func() bool {
		if _, err := j.Write(x.Context(), journal.Message{Key: "_quiet"}); err != nil {
			return false
		}
		own++
		varz, err := s.NATS().Varz(nil)
		if err != nil || varz.InMsgs-own != others {
			same = 0
		}
		if err == nil {
			others = varz.InMsgs - own
			same++
		}
		return same > 5
	}
}
