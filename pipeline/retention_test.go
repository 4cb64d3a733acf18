package pipeline_test

import (
	"errors"
	"math"
	"strconv"
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

// wantRetention checks the limits, and returns what the stream has.
func wantRetention(t *testing.T, p *pipeline.Pipeline, want pipeline.Retention) pipeline.Usage {
	t.Helper()
	got, usage, err := p.Retention(t.Context())
	if err != nil || got != want {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
	return usage
}

func TestRetention(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	p := pipeline.New(b, pipeline.Config{})
	if usage := wantRetention(t, p, pipeline.Retention{}); usage != (pipeline.Usage{FirstSequence: 1}) {
		t.Errorf("%+v", usage)
	}
	for range 10 {
		putEvent(t, b, bus.EventMeta{Type: "A.b"}, "x")
	}
	for _, r := range []pipeline.Retention{
		{MaxAge: 2 * time.Minute},
		{MaxBytes: 1 << 20},
		{MaxEvents: 10},
		{MaxAge: 90 * 24 * time.Hour, MaxBytes: 1 << 24, MaxEvents: math.MaxInt64},
		{MaxEvents: 4},
	} {
		for range 2 {
			if err := p.SetRetention(t.Context(), r); err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			wantRetention(t, p, r)
		}
	}
	usage := wantRetention(t, p, pipeline.Retention{MaxEvents: 4})
	first, err := p.Event(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if usage.Events != 4 || usage.FirstSequence != 7 || usage.LastSequence != 10 || usage.Bytes == 0 ||
		!usage.FirstTime.Equal(first.Stored) || usage.LastTime.Before(usage.FirstTime) {
		t.Errorf("%+v", usage)
	}
	if _, err := p.Event(t.Context(), 6); !errors.Is(err, rpc.NotFound) {
		t.Errorf("an event that was removed: %v", err)
	}
	purge(t, b, 11)
	if usage := wantRetention(t, p, pipeline.Retention{MaxEvents: 4}); usage != (pipeline.Usage{FirstSequence: 11, LastSequence: 10}) {
		t.Errorf("%+v", usage)
	}
	if err := p.SetRetention(t.Context(), pipeline.Retention{}); err != nil {
		t.Fatal(err)
	}
	wantRetention(t, p, pipeline.Retention{})
}

func TestRetentionRefuses(t *testing.T) {
	t.Parallel()
	_, p := newEvents(t)
	kept := pipeline.Retention{MaxEvents: 7}
	if err := p.SetRetention(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	for says, r := range map[string]pipeline.Retention{
		"the age -1s":    {MaxAge: -time.Second},
		"-1 bytes":       {MaxBytes: -1},
		"-2 events":      {MaxEvents: -2},
		"less than":      {MaxAge: 2*time.Minute - 1},
		"want 0 for no ": {MaxAge: math.MinInt64},
	} {
		if err := p.SetRetention(t.Context(), r); !errors.Is(err, rpc.InvalidArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := p.SetRetention(t.Context(), pipeline.Retention{MaxBytes: math.MaxInt64}); !errors.Is(err, rpc.ResourceExhausted) {
		t.Errorf("more bytes than the server may store: %v", err)
	}
	wantRetention(t, p, kept)
}

// The sources of EVENTS, which bring the events of objects, stay when the limits
// change, and what they bring goes on arriving.
func TestRetentionKeepsSources(t *testing.T) {
	t.Parallel()
	b, p := newEvents(t)
	const class = "KV_OBJECTS_cart"
	_, err := b.EnsureStream(t.Context(), jetstream.StreamConfig{Name: class, Subjects: []string{"$KV.OBJECTS_cart.>"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SourceEvents(t.Context(), class, "$KV.OBJECTS_cart._out"); err != nil {
		t.Fatal(err)
	}
	w := newWatching(t, p, pipeline.WatchOptions{From: pipeline.StartAll()})
	for i := range 3 {
		putMessage(t, b, &nats.Msg{Subject: "$KV.OBJECTS_cart._out." + strconv.Itoa(i) + ".Order.placed"})
		if e := w.wants(uint64(i + 1)); e.Type != "Order.placed" {
			t.Errorf("%+v", e)
		}
		if err := p.SetRetention(t.Context(), pipeline.Retention{MaxEvents: int64(10 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.Sources; len(got) != 1 || got[0].Name != class || len(got[0].SubjectTransforms) == 0 {
		t.Errorf("sources: %+v", got)
	}
}
