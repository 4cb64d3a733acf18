package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	"rpc.do/pipeline"
)

// putEvent stores an event and returns its sequence.
func putEvent(t testing.TB, b *bus.Bus, m bus.EventMeta, data string) uint64 {
	t.Helper()
	msg := nats.NewMsg(bus.EventSubject(m.Type))
	if m.ID != "" {
		if m.Time.IsZero() {
			m.Time = time.Now()
		}
		msg.Header = m.Header()
	}
	msg.Data = []byte(data)
	return putMessage(t, b, msg)
}

// putMessage stores a message and returns its sequence.
func putMessage(t testing.TB, b *bus.Bus, msg *nats.Msg) uint64 {
	t.Helper()
	ack, err := b.JetStream().PublishMsg(t.Context(), msg)
	if err != nil {
		t.Fatalf("%s: %v", msg.Subject, err)
	}
	return ack.Sequence
}

// newEvents returns a bus with the stream EVENTS, and a pipeline on it.
func newEvents(t testing.TB, opts ...bustest.Option) (*bus.Bus, *pipeline.Pipeline) {
	t.Helper()
	b := bustest.New(t, opts...)
	if _, err := b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, pipeline.New(b, pipeline.Config{})
}

// storedEvent is an event of the model that pages are compared with.
type storedEvent struct {
	name string
	seq  uint64
	at   time.Time
}

// putMany stores events of random types, and returns them as they are stored.
func putMany(t testing.TB, b *bus.Bus, r *rand.Rand, types []string, n int) []storedEvent {
	t.Helper()
	js := b.JetStream()
	defer js.CleanupPublisher()
	acks := make([]jetstream.PubAckFuture, n)
	all := make([]storedEvent, n)
	for i := range acks {
		all[i].name = types[r.IntN(len(types))]
		var err error
		if acks[i], err = js.PublishMsgAsync(&nats.Msg{Subject: bus.EventSubject(all[i].name), Data: []byte(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, ack := range acks {
		select {
		case ok := <-ack.Ok():
			all[i].seq = ok.Sequence
		case err := <-ack.Err():
			t.Fatal(err)
		}
	}
	return all
}

// allPages lists all pages of a query, each with at most the limit.
func allPages(t testing.TB, p *pipeline.Pipeline, q pipeline.Query) []pipeline.RawEvent {
	t.Helper()
	var all []pipeline.RawEvent
	for range 10_000 {
		page, err := p.History(t.Context(), q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if q.Limit > 0 && len(page.Events) > q.Limit {
			t.Fatalf("%+v: %d events on a page", q, len(page.Events))
		}
		all = append(all, page.Events...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return all
		}
	}
	t.Fatalf("%+v: the pages do not end", q)
	return nil
}

// checkSequences compares events with those that should be there.
func checkSequences(t testing.TB, what string, got []pipeline.RawEvent, want []uint64) {
	t.Helper()
	have := make([]uint64, len(got))
	for i, e := range got {
		have[i] = e.Sequence
	}
	if !slices.Equal(have, want) {
		t.Fatalf("%s: %d events, want %d:\n%v, want\n%v", what, len(have), len(want), have, want)
	}
}

// All pages of a query together are what a simple model says, for random events,
// patterns, limits and bounds, in both directions.
func TestHistoryPages(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	b, p := newEvents(t)
	frequent := []string{"User.registered", "User.deleted", "Order.placed", "Order.placed.Book", "Order.line.added.twice"}
	model := putMany(t, b, r, frequent, 700)
	model = append(model, putMany(t, b, r, append(frequent, "Rare.seen"), 20)...)
	model = append(model, putMany(t, b, r, []string{"Order.placed"}, 900)...)
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 { // somebody removes events from the middle
		i := r.IntN(len(model))
		if err := stream.DeleteMsg(t.Context(), model[i].seq); err != nil {
			t.Fatal(err)
		}
		model = slices.Delete(model, i, i+1)
	}
	for i, e := range allPages(t, p, pipeline.Query{Limit: pipeline.MaxPage}) {
		model[i].at = e.Stored
	}

	patterns := []string{"User.*", "*.placed", "Order.>", "Order.placed", "$.>", "Rare.seen", "*.*.*", "Nothing.there", "User.registered", "*.placed.Book"}
	for range 60 {
		q := pipeline.Query{Reverse: r.IntN(2) == 0}
		for range r.IntN(4) {
			q.Patterns = append(q.Patterns, patterns[r.IntN(len(patterns))])
		}
		some := func() storedEvent { return model[r.IntN(len(model))] }
		if a, b := some(), some(); a.at.Before(b.at) {
			switch r.IntN(4) {
			case 0:
				q.Since = a.at
			case 1:
				q.Until = b.at
			case 2:
				q.Since, q.Until = a.at, b.at
			}
			switch r.IntN(6) {
			case 0:
				q.After = a.seq
			case 1:
				q.Before = b.seq
			case 2:
				q.After, q.Before = a.seq, b.seq
			}
		}
		var want []uint64
		for _, e := range model {
			ok := len(q.Patterns) == 0
			for _, text := range q.Patterns {
				pattern, err := pipeline.ParsePattern(text)
				if err != nil {
					t.Fatal(err)
				}
				ok = ok || pattern.Match(e.name)
			}
			if ok && e.seq > q.After && (q.Before == 0 || e.seq < q.Before) &&
				!e.at.Before(q.Since) && (q.Until.IsZero() || e.at.Before(q.Until)) {
				want = append(want, e.seq)
			}
		}
		if q.Reverse {
			slices.Reverse(want)
		}
		if pages := r.IntN(8); pages > 0 {
			q.Limit = max(len(want)/pages, 1) // full pages only, sometimes
		}
		checkSequences(t, fmt.Sprintf("seed %d: %+v", seed, q), allPages(t, p, q), want)
	}
}

// What is sent meanwhile is at the end of pages forwards, and in none backwards.
func TestHistoryWhileSending(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	r := rand.New(rand.NewPCG(1, 2))
	before := putMany(t, b, r, []string{"A.b", "C.d"}, 300)
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sent := make(chan struct{})
	sending.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := b.JetStream().Publish(ctx, "$.A.b", nil); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			if i == 0 {
				close(sent)
			}
		}
	})
	defer sending.Wait()
	defer cancel()
	<-sent

	q := pipeline.Query{Patterns: []string{"A.b"}, Limit: 7, Reverse: true}
	first, err := p.History(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	newest := first.Events[0].Sequence
	q.Cursor = first.Next
	got := append(first.Events, allPages(t, p, q)...)
	want := allPages(t, p, pipeline.Query{Patterns: []string{"A.b"}, Before: newest + 1, Limit: 1000})
	sequences := make([]uint64, len(want))
	for i, e := range want {
		sequences[len(want)-1-i] = e.Sequence
	}
	checkSequences(t, "backwards", got, sequences)

	q = pipeline.Query{Limit: 50}
	var seen uint64
	for n := 0; n < 20 || int(seen) < len(before); n++ {
		page, err := p.History(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if e.Sequence != seen+1 {
				t.Fatalf("after %d came %d", seen, e.Sequence)
			}
			seen = e.Sequence
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if int(seen) < len(before) {
		t.Errorf("the pages end at %d", seen)
	}
}

// A page ends before the limit when its events are large.
func TestHistoryLargeEvents(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	data := strings.Repeat("x", 900_000)
	const n = 45
	want := make([]uint64, n)
	for i := range want {
		want[i] = putEvent(t, b, bus.EventMeta{Type: "A.b"}, data)
	}
	for _, reverse := range []bool{false, true} {
		page, err := p.History(t.Context(), pipeline.Query{Reverse: reverse})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) < 10 || len(page.Events) > 25 || page.Next == "" {
			t.Errorf("%d events of 900 kB on a page, next %q", len(page.Events), page.Next)
		}
		checkSequences(t, "large", allPages(t, p, pipeline.Query{Reverse: reverse}), want)
		slices.Reverse(want)
	}
}

// Events that are not as they should be are listed with what is known of them.
func TestHistoryOddEvents(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	putMessage(t, b, &nats.Msg{Subject: "$.Foreign.event", Data: []byte("text")})
	status := &nats.Msg{Subject: "$.Page.missing", Header: nats.Header{"Status": {"404"}, "Description": {"No Messages"}}}
	putMessage(t, b, status)
	broken := nats.NewMsg("$.Bad.hops")
	broken.Header.Set("ce-id", "7")
	broken.Header.Set("ce-hops", "many")
	broken.Data = []byte(`{"a":1}`)
	putMessage(t, b, broken)
	putMessage(t, b, &nats.Msg{Subject: "$.deep.1.2.3.4.5.6.7"})
	for _, q := range []pipeline.Query{{}, {Reverse: true}} {
		events := allPages(t, p, q)
		if q.Reverse {
			slices.Reverse(events)
		}
		if len(events) != 4 {
			t.Fatalf("%d events", len(events))
		}
		if e := events[0]; e.ID != "EVENTS/1" || e.Type != "Foreign.event" || string(e.Raw) != "text" || e.Data != nil {
			t.Errorf("%+v", e)
		}
		if e := events[1]; e.Type != "Page.missing" || e.Header.Get("Status") != "404" {
			t.Errorf("%+v", e)
		}
		if e := events[2]; e.ID != "7" || string(e.Data) != `{"a":1}` || e.Sequence != 3 || e.Stored.IsZero() {
			t.Errorf("%+v", e)
		}
		if e := events[3]; e.Type != "deep.1.2.3.4.5.6.7" {
			t.Errorf("%+v", e)
		}
	}
}

func TestHistoryEmpty(t *testing.T) {
	t.Parallel()
	p := pipeline.New(bustest.New(t), pipeline.Config{})
	for _, q := range []pipeline.Query{
		{}, {Reverse: true}, {After: 100}, {Since: time.Now().Add(time.Hour)}, {Until: time.Now(), Reverse: true}, {Before: 1}, {Cursor: "f7"},
	} {
		page, err := p.History(t.Context(), q)
		if err != nil || len(page.Events) != 0 || page.Next != "" {
			t.Errorf("%+v: %+v, %v", q, page, err)
		}
	}
}

func TestHistoryRefuses(t *testing.T) {
	t.Parallel()
	_, p := newEvents(t)
	now := time.Now()
	for _, test := range []struct {
		q    pipeline.Query
		says string
	}{
		{pipeline.Query{Limit: -1}, "limit -1"},
		{pipeline.Query{Limit: 10_001}, "10000"},
		{pipeline.Query{Patterns: []string{"A.b", "user registered"}}, "space"},
		{pipeline.Query{Since: now, Until: now}, "before until"},
		{pipeline.Query{After: 7, Before: 7}, "after 7"},
		{pipeline.Query{Cursor: "x"}, "cursor"},
		{pipeline.Query{Cursor: "f"}, "cursor"},
		{pipeline.Query{Cursor: "f0"}, "cursor"},
		{pipeline.Query{Cursor: "f-1"}, "cursor"},
		{pipeline.Query{Cursor: "f1-"}, "cursor"},
		{pipeline.Query{Cursor: "f01"}, "cursor"},
		{pipeline.Query{Cursor: "f2-1"}, "cursor"},
		{pipeline.Query{Cursor: "f1 "}, "cursor"},
		{pipeline.Query{Cursor: "f99999999999999999999"}, "cursor"},
		{pipeline.Query{Cursor: "f1-2-3"}, "cursor"},
		{pipeline.Query{Cursor: "r1", Reverse: true}, "cursor"},
		{pipeline.Query{Cursor: strings.Repeat("f", 1<<16)}, "cursor"},
		{pipeline.Query{Cursor: "r1-2"}, "direction"},
		{pipeline.Query{Cursor: "f1", Reverse: true}, "direction"},
	} {
		_, err := p.History(t.Context(), test.q)
		if !errors.Is(err, rpc.InvalidArgument) || !strings.Contains(fmt.Sprint(err), test.says) || len(fmt.Sprint(err)) > 300 {
			t.Errorf("%.100v: %v", test.q, err)
		}
	}
}

func TestEventBySequence(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	seq := putEvent(t, b, bus.EventMeta{ID: "one", Type: "A.b", Source: "/s", Subject: "ü x"}, `{"a":1}`)
	e, err := p.Event(t.Context(), seq)
	if err != nil || e.ID != "one" || e.Subject != "ü x" || string(e.Data) != `{"a":1}` || e.Sequence != seq || e.Stored.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := p.Event(t.Context(), seq+1); !errors.Is(err, rpc.NotFound) {
		t.Error(err)
	}
	if _, err := p.Event(t.Context(), 0); !errors.Is(err, rpc.InvalidArgument) {
		t.Error(err)
	}
}

// A look at the past waits for a bus that is away, and no longer than its time.
func TestHistoryWhileTheBusIsAway(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	p := pipeline.New(b, pipeline.Config{Timeout: 200 * time.Millisecond})
	if _, err := p.History(t.Context(), pipeline.Query{}); err != nil {
		t.Fatal(err)
	}
	putEvent(t, b, bus.EventMeta{Type: "A.b"}, "")
	stopServer(t, s, b)
	_, err := p.History(t.Context(), pipeline.Query{})
	if code := rpc.CodeOf(err); code != rpc.Unavailable && code != rpc.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	listed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		page, err := p.History(ctx, pipeline.Query{Reverse: true})
		if err == nil && len(page.Events) != 1 {
			err = fmt.Errorf("%d events", len(page.Events))
		}
		listed <- err
	}()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-listed; err != nil {
		t.Error(err)
	}
}

// stopServer shuts a server down and waits until the bus knows.
func stopServer(t testing.TB, s *natsd.Server, b *bus.Bus) {
	t.Helper()
	if err := b.WaitConnected(t.Context()); err != nil { // else it does not lose the connection
		t.Fatal(err)
	}
	lost := make(chan struct{}, 2)
	defer b.OnDisconnect(func() { lost <- struct{}{} })()
	s.Shutdown()
	<-lost
}

// A page of 100 events of a stream, and a page of 10,000, per event.
func BenchmarkHistory(b *testing.B) {
	conn, p := newEvents(b)
	putMany(b, conn, rand.New(rand.NewPCG(1, 2)), []string{"A.b", "C.d", "E.f", "G.h"}, 50_000)
	for _, test := range []struct {
		name string
		q    pipeline.Query
	}{
		{"first100", pipeline.Query{}},
		{"last100", pipeline.Query{Reverse: true}},
		{"last100pattern", pipeline.Query{Reverse: true, Patterns: []string{"A.*"}}},
		{"10000", pipeline.Query{Limit: 10_000}},
		{"10000reverse", pipeline.Query{Limit: 10_000, Reverse: true}},
	} {
		b.Run(test.name, func(b *testing.B) {
			var events int
			for b.Loop() {
				page, err := p.History(b.Context(), test.q)
				if err != nil {
					b.Fatal(err)
				}
				events += len(page.Events)
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
