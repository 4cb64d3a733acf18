package pipeline_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
)

// putCaused stores an event that another one led to, and returns what it says of
// itself. Nothing led to one that is due to none.
func putCaused(t testing.TB, b *bus.Bus, name string, by *bus.EventMeta) *bus.EventMeta {
	t.Helper()
	m := bus.EventMeta{ID: bus.NewEventID(), Type: "Test." + name, Source: "/test", Time: time.Now()}
	if by != nil {
		m.Cause = bus.CauseOf(by.Effects())
	}
	putEvent(t, b, m, `{"large":"`+strings.Repeat("x", 100)+`"}`)
	return &m
}

// outline writes a tree as a(b c(d)); what is absent has a question mark.
func outline(n *pipeline.Node) string {
	name := strings.TrimPrefix(n.Type, "Test.")
	if n.Absent {
		name = "?"
	}
	var children []string
	for _, c := range n.Children {
		children = append(children, outline(c))
	}
	if children == nil {
		return name
	}
	return name + "(" + strings.Join(children, " ") + ")"
}

// wantTrace checks the tree of an event.
func wantTrace(t *testing.T, p *pipeline.Pipeline, id, want string) *pipeline.Trace {
	t.Helper()
	trace, err := p.Trace(t.Context(), id, pipeline.TraceOptions{})
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	if got := outline(trace.Root); got != want || trace.ID != id {
		t.Errorf("%s: %s, want %s", id, got, want)
	}
	return trace
}

func TestTrace(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putCaused(t, b, "other", nil)
	root := putCaused(t, b, "root", nil)
	one := putCaused(t, b, "one", root)
	two := putCaused(t, b, "two", root)
	putMessage(t, b, &nats.Msg{Subject: "$.Foreign.event"})
	deep := putCaused(t, b, "deep", one)
	putCaused(t, b, "late", root)
	deeper := putCaused(t, b, "deeper", deep)
	putCaused(t, b, "twin", deep)
	for _, e := range []*bus.EventMeta{root, one, two, deeper} {
		trace := wantTrace(t, p, e.ID, "root(one(deep(deeper twin)) two late)")
		if trace.Events != 7 || trace.Truncated {
			t.Errorf("%+v", trace)
		}
	}
	n := wantTrace(t, p, deep.ID, "root(one(deep(deeper twin)) two late)").Root.Children[0]
	if n.ID != one.ID || n.Sequence != 3 || n.Type != "Test.one" || n.Source != "/test" || n.Hops != 1 || n.CausationID != root.ID ||
		!n.Time.Equal(one.Time) || n.Stored.IsZero() {
		t.Errorf("%+v", n)
	}
	wantTrace(t, p, "EVENTS/5", "Foreign.event")

	purge(t, b, 4) // the root and the first of its children
	wantTrace(t, p, deep.ID, "?(two ?(deep(deeper twin)) late)")
	wantTrace(t, p, root.ID, "?(two ?(deep(deeper twin)) late)")
	wantTrace(t, p, one.ID, "?(two ?(deep(deeper twin)) late)")
	text, err := json.Marshal(wantTrace(t, p, root.ID, "?(two ?(deep(deeper twin)) late)"))
	if err != nil || !strings.Contains(string(text), fmt.Sprintf(`"root":{"id":%q,"absent":true,"children":[{"id":%q,"sequence":4,`, root.ID, two.ID)) {
		t.Errorf("%s, %v", text, err)
	}
}

// Events that say what can't be are in the tree once each, and it ends.
func TestTraceMalformed(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	put := func(name, id, correlation, causation string) {
		t.Helper()
		putEvent(t, b, bus.EventMeta{ID: id, Type: "Test." + name, Cause: bus.Cause{Correlation: correlation, Causation: causation}}, "")
	}
	put("a", "a", "r", "b")
	put("b", "b", "r", "c")
	put("c", "c", "r", "a")
	put("d", "d", "r", "c")
	put("self", "self", "r", "self")
	put("none", "none", "r", "")
	put("r", "r", "r", "d")
	put("x", "x", "y", "y")
	put("y", "y", "x", "x")
	for _, id := range []string{"a", "b", "c", "d", "r"} {
		if trace := wantTrace(t, p, id, "r(a(c(b d)) self none)"); trace.Events != 7 {
			t.Errorf("%+v", trace)
		}
	}
	wantTrace(t, p, "x", "y(x)")
	wantTrace(t, p, "y", "x(y)")
}

// An event that has another id again is in the tree of both, and what is in
// structured mode is too, though only its payload says so.
func TestTraceForeign(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putEvent(t, b, bus.EventMeta{ID: "order 1", Type: "Test.root"}, "")
	msg := nats.NewMsg("$.Test.structured")
	msg.Header.Set("Content-Type", "application/cloudevents+json")
	msg.Data = []byte(`{"specversion":"1.0","id":"s","type":"Test.structured","source":"/x","correlationid":"order 1","causationid":"order 1","data":{}}`)
	putMessage(t, b, msg)
	status := nats.NewMsg("$.Test.status")
	for name, value := range map[string]string{"Status": "404", "ce-id": "st", "ce-correlationid": "order%201", "ce-causationid": "s"} {
		status.Header[name] = []string{value}
	}
	putMessage(t, b, status)
	again := nats.NewMsg("$.Test.again")
	again.Header = nats.Header{"ce-id": {"s"}, "ce-correlationid": {"order%201"}, "ce-causationid": {"s"}}
	putMessage(t, b, again)
	wantTrace(t, p, "order 1", "root(structured(status) again)")
	wantTrace(t, p, "s", "root(structured(status) again)")
	wantTrace(t, p, "st", "root(structured(status) again)")
}

func TestTraceLimit(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	root := putCaused(t, b, "root", nil)
	var last *bus.EventMeta
	for range 20 {
		last = putCaused(t, b, "child", root)
	}
	trace, err := p.Trace(t.Context(), last.ID, pipeline.TraceOptions{Limit: 3})
	if err != nil || !trace.Truncated || trace.Events != 4 || len(trace.Root.Children) != 3 || trace.Root.Children[2].ID != last.ID {
		t.Errorf("%+v, %v", trace, err)
	}
	trace, err = p.Trace(t.Context(), last.ID, pipeline.TraceOptions{Limit: 21})
	if err != nil || trace.Truncated || trace.Events != 21 {
		t.Errorf("%+v, %v", trace, err)
	}
}

func TestTraceNotFound(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putCaused(t, b, "one", nil)
	for _, id := range []string{bus.NewEventID(), "unknown", "EVENTS/7", "EVENTS/x", "EVENTS/1"} {
		if _, err := p.Trace(t.Context(), id, pipeline.TraceOptions{}); !errors.Is(err, rpc.NotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for id, opts := range map[string]pipeline.TraceOptions{"": {}, "x": {Limit: -1}} {
		if _, err := p.Trace(t.Context(), id, opts); !errors.Is(err, rpc.InvalidArgument) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// What was stored long before the event's id was made is not looked at, and
// Since says so for ids that have no time.
func TestTraceProgress(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putMany(t, b, newRand(), []string{"Noise.made"}, 2500)
	first := putEvent(t, b, bus.EventMeta{ID: "here", Type: "Test.here"}, "")
	e, err := p.Event(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	var calls int
	var last [2]uint64
	progress := func(scanned, total uint64) {
		if scanned < last[0] || scanned > total {
			t.Errorf("%d of %d after %v", scanned, total, last)
		}
		calls, last = calls+1, [2]uint64{scanned, total}
	}
	if _, err := p.Trace(t.Context(), "here", pipeline.TraceOptions{Progress: progress}); err != nil {
		t.Fatal(err)
	}
	if calls < 5 || last != [2]uint64{5002, 5002} { // to find it, and for the tree
		t.Errorf("%d calls, the last with %v", calls, last)
	}
	last = [2]uint64{}
	if _, err := p.Trace(t.Context(), "here", pipeline.TraceOptions{Progress: progress, Since: e.Stored}); err != nil {
		t.Fatal(err)
	}
	if last != [2]uint64{2, 2} {
		t.Errorf("with Since: %v", last)
	}
}

// Events looked at per second.
func BenchmarkTrace(b *testing.B) {
	conn, p := newEvents(b)
	root := putCaused(b, conn, "root", nil)
	js := conn.JetStream()
	const n = 50_000
	for range n {
		m := bus.EventMeta{ID: bus.NewEventID(), Type: "Test.noise", Source: "/bench", Time: time.Now()}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "$.Test.noise", Header: m.Header(), Data: []byte(`{"a":1}`)}); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	js.CleanupPublisher()
	putCaused(b, conn, "child", root)
	b.ResetTimer()
	for b.Loop() {
		trace, err := p.Trace(b.Context(), root.ID, pipeline.TraceOptions{})
		if err != nil || trace.Events != 2 {
			b.Fatal(trace, err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "events/s")
}
