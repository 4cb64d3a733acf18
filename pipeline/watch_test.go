package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
)

// watching is a watch that runs until the test ends.
type watching struct {
	t    testing.TB
	next func() (pipeline.RawEvent, error, bool)
}

func newWatching(t testing.TB, p *pipeline.Pipeline, opts pipeline.WatchOptions) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	events, err := p.Watch(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(events)
	t.Cleanup(func() { stop(); cancel() })
	return &watching{t, next}
}

// wants checks that the next event has that sequence.
func (w *watching) wants(seq uint64) pipeline.RawEvent {
	w.t.Helper()
	e, err, ok := w.next()
	if err != nil || !ok || e.Sequence != seq {
		w.t.Fatalf("got event %d, %v, %v, want event %d", e.Sequence, err, ok, seq)
	}
	return e
}

// wantsGap checks that next is a gap, and returns it.
func (w *watching) wantsGap() *pipeline.GapError {
	w.t.Helper()
	e, err, ok := w.next()
	gap, isGap := errors.AsType[*pipeline.GapError](err)
	if !isGap || !errors.Is(err, rpc.DataLoss) {
		w.t.Fatalf("got event %d, %v, %v, want a gap", e.Sequence, err, ok)
	}
	return gap
}

// wantsEnd checks that the last thing is an error with that code.
func (w *watching) wantsEnd(code rpc.Code) {
	w.t.Helper()
	if e, err, ok := w.next(); !errors.Is(err, code) {
		w.t.Fatalf("got event %d, %v, %v, want %v", e.Sequence, err, ok, code)
	}
	if e, err, ok := w.next(); ok {
		w.t.Fatalf("after the last error: %+v, %v", e, err)
	}
}

func TestWatchFrom(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	put := func(name string) uint64 {
		return putEvent(t, b, bus.EventMeta{ID: bus.NewEventID(), Type: name}, `{"a":1}`)
	}
	put("A.b")
	put("C.d")
	put("A.b")
	third, err := p.Event(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		opts pipeline.WatchOptions
		want []uint64
	}{
		"new":              {pipeline.WatchOptions{}, []uint64{4, 5, 6}},
		"all":              {pipeline.WatchOptions{From: pipeline.StartAll()}, []uint64{1, 2, 3, 4, 5, 6}},
		"sequence":         {pipeline.WatchOptions{From: pipeline.StartSequence(2)}, []uint64{2, 3, 4, 5, 6}},
		"the next one":     {pipeline.WatchOptions{From: pipeline.StartSequence(4)}, []uint64{4, 5, 6}},
		"time":             {pipeline.WatchOptions{From: pipeline.StartTime(third.Stored)}, []uint64{3, 4, 5, 6}},
		"long ago":         {pipeline.WatchOptions{From: pipeline.StartTime(time.Unix(1, 0))}, []uint64{1, 2, 3, 4, 5, 6}},
		"pattern":          {pipeline.WatchOptions{From: pipeline.StartAll(), Patterns: []string{"A.*"}}, []uint64{1, 3, 5, 6}},
		"broader filter":   {pipeline.WatchOptions{From: pipeline.StartAll(), Patterns: []string{"A.*", "*.d"}}, []uint64{1, 2, 3, 4, 5, 6}},
		"new of a pattern": {pipeline.WatchOptions{Patterns: []string{"C.d"}}, []uint64{4}},
	}
	watches := map[string]*watching{}
	for name, tt := range tests {
		watches[name] = newWatching(t, p, tt.opts) // before what follows is sent
	}
	put("C.d")
	put("A.b")
	put("A.b")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := watches[name]
			w.t = t
			for _, seq := range tt.want {
				if e := w.wants(seq); string(e.Data) != `{"a":1}` || e.ID == "" || e.Stored.IsZero() {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

func TestWatchRefuses(t *testing.T) {
	t.Parallel()
	_, p := newEvents(t)
	if _, err := p.Watch(t.Context(), pipeline.WatchOptions{Patterns: []string{">"}}); !errors.Is(err, rpc.InvalidArgument) {
		t.Error(err)
	}
	if _, err := p.Watch(t.Context(), pipeline.WatchOptions{From: pipeline.StartSequence(2)}); !errors.Is(err, rpc.OutOfRange) {
		t.Error(err)
	}
}

// A watch that is not ranged over, one that is left, and one whose context ends
// leave nothing behind, which the helpers of the test check.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	if _, err := p.Watch(t.Context(), pipeline.WatchOptions{}); err != nil {
		t.Fatal(err)
	}
	putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := p.Watch(ctx, pipeline.WatchOptions{From: pipeline.StartAll()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // each range begins where the watch does
		n := 0
		for e, err := range events {
			if err != nil || e.Sequence != 1 {
				t.Fatalf("%+v, %v", e, err)
			}
			n++
			break
		}
		if n != 1 {
			t.Errorf("%d events", n)
		}
	}
	for _, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	for e, err := range events {
		t.Errorf("after the context: %+v, %v", e, err)
	}
}

// sendThrough sends events until ctx ends, each until it is stored, and returns
// how many.
func sendThrough(ctx context.Context, b *bus.Bus) (n int) {
	js := b.JetStream()
	for ctx.Err() == nil {
		msg := &nats.Msg{Subject: "$.A.b", Data: fmt.Appendf(nil, `{"n":%d}`, n), Header: nats.Header{"Nats-Msg-Id": {fmt.Sprint(n)}}}
		for {
			attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_, err := js.PublishMsg(attempt, msg)
			cancel()
			if err == nil {
				break
			}
		}
		n++
	}
	return n
}

// A watch misses nothing, and shows nothing twice, while the bus restarts again
// and again in the middle of what is sent.
func TestWatchOverRestarts(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b, sender := bustest.Connect(t, s), bustest.Connect(t, s)
	if _, err := b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := pipeline.New(b, pipeline.Config{})
	everything := newWatching(t, p, pipeline.WatchOptions{})
	pattern := newWatching(t, p, pipeline.WatchOptions{Patterns: []string{"A.*"}})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan int, 1)
	go func() { sent <- sendThrough(ctx, sender) }()
	next := 0
	show := func(until int) {
		t.Helper()
		for ; next < until; next++ {
			for _, w := range []*watching{everything, pattern} {
				if e := w.wants(uint64(next + 1)); string(e.Data) != fmt.Sprintf(`{"n":%d}`, next) {
					t.Fatalf("event %d has %s", next, e.Data)
				}
			}
		}
	}
	for range 3 {
		show(next + 50)
		stopServer(t, s, b)
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	show(next + 50)
	cancel()
	show(<-sent)
}

// It goes on when its consumer is taken away.
func TestWatchLosesItsConsumer(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	w := newWatching(t, p, pipeline.WatchOptions{})
	for seq := range uint64(5) {
		putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
		w.wants(seq + 1)
		stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// It goes on when servers of the cluster end, among them the leader of the stream
// and the one it is connected to.
func TestWatchInACluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	var urls []string
	for _, m := range members {
		urls = append(urls, m.URL())
	}
	replicated := bustest.WithConfig(func(c *bus.Config) { c.Replicas, c.URLs = 3, urls })
	b, sender := bustest.Connect(t, members[0], replicated), bustest.Connect(t, members[0], replicated)
	p := pipeline.New(b, pipeline.Config{Timeout: 20 * time.Second})
	w := newWatching(t, p, pipeline.WatchOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan int, 1)
	go func() { sent <- sendThrough(ctx, sender) }()
	var next uint64
	show := func(until uint64) {
		t.Helper()
		for ; next < until; next++ {
			w.wants(next + 1)
		}
	}
	for _, m := range members { // one after the other
		show(next + 50)
		m.Shutdown()
		if err := m.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	show(next + 50)
	cancel()
	show(uint64(<-sent))
	q := pipeline.Query{Limit: 1000}
	if got := len(allPages(t, p, q)); got != int(next) {
		t.Errorf("history has %d events, want %d", got, next)
	}
	q.Reverse, q.Patterns = true, []string{"A.b"}
	if got := len(allPages(t, p, q)); got != int(next) {
		t.Errorf("history backwards has %d events, want %d", got, next)
	}
}

// purge has the stream begin with a sequence.
func purge(t testing.TB, b *bus.Bus, first uint64) {
	t.Helper()
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(first)); err != nil {
		t.Fatal(err)
	}
}

// What was removed before the watch came to it is a gap, which is told before
// what follows it.
func TestWatchGap(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	for range 10 {
		putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	}
	purge(t, b, 6)
	for _, patterns := range [][]string{nil, {"A.b"}} {
		w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartSequence(3), Patterns: patterns})
		if gap := w.wantsGap(); gap.First != 3 || gap.Last != 5 || !strings.Contains(gap.Error(), "3 to 5") {
			t.Errorf("%v", gap)
		}
		w.wants(6)
		for _, from := range []pipeline.Start{pipeline.StartAll(), pipeline.StartSequence(6), pipeline.StartTime(time.Unix(1, 0))} {
			newWatching(t, p, pipeline.WatchOptions{From: from, Patterns: patterns}).wants(6)
		}
	}
}

// A loop that is so slow that retention overtakes it is told.
func TestWatchOvertaken(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	const n = 3000
	putMany(t, b, newRand(), []string{"A.b"}, n)
	w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartAll()})
	w.wants(1)
	purge(t, b, n)
	for last := uint64(1); ; last++ {
		e, err, _ := w.next()
		gap, ok := errors.AsType[*pipeline.GapError](err)
		if !ok {
			if err != nil || e.Sequence != last+1 {
				t.Fatalf("after %d: %d, %v", last, e.Sequence, err)
			}
			continue
		}
		if gap.First != last+1 || gap.Last != n-1 {
			t.Errorf("after %d: %v", last, gap)
		}
		break
	}
	w.wants(n)
}

// Events that somebody has deleted one by one are no gap.
func TestWatchDeletedEvent(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	for range 4 {
		putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	}
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartAll()})
	w.wants(1)
	w.wants(3)
	w.wants(4)
}

// A stream that is deleted under a watch ends it, since its sequences mean
// nothing any more.
func TestWatchOfAnotherStream(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartAll()})
	w.wants(1)
	if err := b.JetStream().DeleteStream(t.Context(), bus.EventsStream); err != nil {
		t.Fatal(err)
	}
	w.wantsEnd(rpc.DataLoss)
}

func TestWatchClosedBus(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.IgnoreLeaks())
	p := pipeline.New(b, pipeline.Config{})
	w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartAll()})
	putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	w.wants(1)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	w.wantsEnd(rpc.Unavailable)
}

// Watching, per event, beside an ordered consumer of nats.go.
func BenchmarkWatch(b *testing.B) {
	conn, p := newEvents(b)
	const n = 50_000
	putMany(b, conn, newRand(), []string{"A.b"}, n)
	b.Run("watch", func(b *testing.B) {
		for b.Loop() {
			events, err := p.Watch(b.Context(), pipeline.WatchOptions{From: pipeline.StartAll()})
			if err != nil {
				b.Fatal(err)
			}
			for e, err := range events {
				if err != nil {
					b.Fatal(err)
				}
				if e.Sequence == n {
					break
				}
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			c, err := conn.JetStream().OrderedConsumer(b.Context(), bus.EventsStream, jetstream.OrderedConsumerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			messages, err := c.Messages()
			if err != nil {
				b.Fatal(err)
			}
			for range n {
				if _, err := messages.Next(); err != nil {
					b.Fatal(err)
				}
			}
			messages.Stop()
			if err := conn.JetStream().DeleteConsumer(b.Context(), bus.EventsStream, c.CachedInfo().Name); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "events/s")
	})
}
