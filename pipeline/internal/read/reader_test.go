package read

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// What the server says of a pull whose messages have all come, when the next one
// was sent already, does not end that one.
func TestReaderLateStatus(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	put(t, b, slices.Repeat([]string{"$.A.b"}, 20)...)
	r := New(b, 0, Config{Batch: 5})
	defer r.Close()
	pulls := 0
	for want := uint64(1); want <= 20; want++ {
		m, err := r.Next(t.Context())
		if err != nil || m.Stored.Sequence != want {
			t.Fatalf("%+v, %v, want %d", m.Stored, err, want)
		}
		if r.pulls == pulls || want%5 != 2 {
			continue
		}
		pulls = r.pulls
		asked, most := r.asked, r.maxBytes
		for _, header := range []nats.Header{
			{"Status": {"409"}, "Description": {"Batch Completed"}, "Nats-Pending-Messages": {"0"}},
			{"Status": {"408"}, "Description": {"Request Timeout"}, "Nats-Pending-Messages": {"1"}},
			{"Status": {"404"}, "Description": {"No Messages"}},
		} {
			if err := r.status(&nats.Msg{Subject: r.inbox + strconv.Itoa(pulls-1), Header: header}); err != nil {
				t.Errorf("%v: %v", header, err)
			}
		}
		if r.asked != asked || r.maxBytes != most {
			t.Errorf("%d are still to come, want %d; at most %d bytes, want %d", r.asked, asked, r.maxBytes, most)
		}
	}
	if m, err := r.Next(t.Context()); !errors.Is(err, ErrNoMore) {
		t.Errorf("%+v, %v", m.Stored, err)
	}
	if pulls != 4 || r.pulls != 5 {
		t.Errorf("%d pulls", r.pulls)
	}
}

// A scan does not end because the server says so while there is more.
func TestScanSaidToEnd(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	put(t, b, slices.Repeat([]string{"$.A.b", "$.C.d"}, 10)...)
	for _, filters := range [][]string{nil, {"$.A.*"}} {
		s := NewScan(b, 1, Open, info(t, b), Config{Filters: filters, Batch: 4})
		defer s.Close()
		n, end := 0, 20
		if filters != nil {
			end = 10
		}
		for {
			if n == 5 && s.consumer != nil {
				for range anewAfter {
					s.msgs <- &nats.Msg{Subject: s.inbox + strconv.Itoa(s.pulls), Header: nats.Header{"Status": {"404"}, "Description": {"No Messages"}}}
				}
			}
			m, err := s.Next(t.Context())
			if errors.Is(err, ErrNoMore) {
				break
			}
			if n++; err != nil || m.Subject == "$.C.d" && filters != nil {
				t.Fatalf("%s, %v", m.Subject, err)
			}
		}
		if n != end {
			t.Errorf("%v: %d messages, want %d", filters, n, end)
		}
	}
}
