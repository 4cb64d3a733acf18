package read

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func newBus(t *testing.T) *bus.Bus {
	t.Helper()
	b := bustest.New(t)
	if _, err := b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, b *bus.Bus, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		if _, err := b.JetStream().Publish(t.Context(), subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

func info(t *testing.T, b *bus.Bus) *jetstream.StreamInfo {
	t.Helper()
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo()
}

// A message that does not arrive is found missing, and read by another consumer.
func TestReaderLosesMessage(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	put(t, b, "$.A.b", "$.A.b", "$.A.b", "$.A.b")
	r := New(b, 0, Config{Batch: 10})
	defer r.Close()
	if m, err := r.Next(t.Context()); err != nil || m.Stored.Sequence != 1 {
		t.Fatalf("%+v, %v", m.Stored, err)
	}
	<-r.msgs
	name := r.name
	for _, want := range []uint64{2, 3, 4} {
		if m, err := r.Next(t.Context()); err != nil || m.Stored.Sequence != want || m.After != want-1 {
			t.Fatalf("%+v, %v, want %d", m.Stored, err, want)
		}
	}
	if r.name == name {
		t.Error("it is the same consumer")
	}
	if m, err := r.Next(t.Context()); !errors.Is(err, ErrNoMore) {
		t.Errorf("%+v, %v", m.Stored, err)
	}
}

// A reader that waits knows how far it has come when nothing is for it.
func TestReaderPassesOver(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	put(t, b, "$.A.b", "$.C.d", "$.C.d")
	r := New(b, 0, Config{Filters: []string{"$.A.*"}, Batch: 10, Wait: true, Heartbeat: 50 * time.Millisecond})
	defer r.Close()
	if m, err := r.Next(t.Context()); err != nil || m.Stored.Sequence != 1 {
		t.Fatalf("%+v, %v", m.Stored, err)
	}
	put(t, b, "$.C.d", "$.C.d")
	for deadline := time.Now().Add(20 * time.Second); r.Position < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("it has come to %d", r.Position)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if m, err := r.Next(ctx); err == nil {
			t.Fatalf("%+v", m.Stored)
		}
		cancel()
	}
	put(t, b, "$.A.b")
	if m, err := r.Next(t.Context()); err != nil || m.Stored.Sequence != 6 || m.After != 5 {
		t.Errorf("%+v after %d, %v", m.Stored, m.After, err)
	}
}

// It notices that nobody answers.
func TestReaderSilence(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	r := New(b, 0, Config{Batch: 10, Wait: true, Heartbeat: 50 * time.Millisecond})
	defer r.Close()
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pull = "nobody.answers"
	sub, err := b.Conn().SubscribeSync(r.pull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if _, err := r.Receive(t.Context()); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	put(t, b, "$.A.b")
	r.Close()
	if m, err := r.Next(t.Context()); err != nil || m.Stored.Sequence != 1 {
		t.Errorf("%+v, %v", m.Stored, err)
	}
}

// A scan takes in what the leader has, when its own server does not yet.
func TestScanComplete(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	put(t, b, "$.A.b", "$.C.d", "$.A.b", "$.C.d")
	for _, test := range []struct {
		filters []string
		after   uint64
		end     uint64
		want    bool
	}{
		{nil, 4, Open, true},
		{nil, 3, Open, false},
		{nil, 3, 4, true},
		{[]string{"$.A.*"}, 3, Open, true},
		{[]string{"$.A.*"}, 2, Open, false},
		{[]string{"$.X.*", "$.A.*"}, 2, Open, false},
		{[]string{"$.A.*"}, 2, 3, true},
		{[]string{"$.X.*"}, 0, Open, true},
	} {
		s := NewScan(b, test.after+1, test.end, info(t, b), Config{Filters: test.filters, Batch: 10})
		if got, err := s.complete(t.Context()); err != nil || got != test.want {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

func TestSequenceAt(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	at := func(when time.Time) uint64 {
		t.Helper()
		seq, err := SequenceAt(t.Context(), b, when, info(t, b))
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	if got := at(time.Now()); got != 1 {
		t.Errorf("in an empty stream: %d", got)
	}
	put(t, b, "$.A.b", "$.C.d", "$.A.b")
	for seq := range uint64(3) {
		m, err := FromLeader(t.Context(), b, seq+1, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := at(m.Time); got != seq+1 {
			t.Errorf("at the time of %d: %d", seq+1, got)
		}
		if got := at(m.Time.Add(1)); got != seq+2 {
			t.Errorf("after the time of %d: %d", seq+1, got)
		}
	}
	if got := at(time.Unix(1, 0)); got != 1 {
		t.Errorf("long ago: %d", got)
	}
}
