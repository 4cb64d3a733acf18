package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable/internal/journal"
)

const followedStream = "KV_FOLLOWED"

// followed makes a bucket and a journal of it.
func followed(t *testing.T, b *bus.Bus) *journal.Journal {
	t.Helper()
	_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{
		Name: followedStream, Subjects: []string{"$KV.FOLLOWED.>"}, MaxMsgsPerSubject: 5, AllowDirect: true, AllowRollup: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(b, "FOLLOWED")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func writeKeys(t *testing.T, j *journal.Journal, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := j.Write(t.Context(), journal.Message{Key: key, Data: []byte("of " + key), Header: nats.Header{"X": {key}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func follow(t *testing.T, j *journal.Journal, what journal.Follow) *journal.Follower {
	t.Helper()
	what.Name = "test"
	f, err := j.Follow(t.Context(), what)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// readKeys reads n messages, which is all that there are.
func readKeys(t *testing.T, f *journal.Follower, n int) string {
	t.Helper()
	var got []string
	for len(got) < n {
		m, err := f.Next()
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		if m == nil {
			continue
		}
		got = append(got, fmt.Sprint(m.Sequence, " ", m.Key))
		if m.Header.Get("X") != m.Key || len(m.Data) > 0 && string(m.Data) != "of "+m.Key || time.Since(m.Time).Abs() > time.Minute {
			t.Errorf("message %+v", m)
		}
	}
	return strings.Join(got, ", ")
}

func TestFollow(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	j := followed(t, b)
	writeKeys(t, j, "a", "b", "a", "c.x", "a", "b")
	tests := []struct {
		what        journal.Follow
		first, then string
	}{
		{journal.Follow{Match: ">"}, "4 c.x, 5 a, 6 b", "7 a, 8 c.x, 9 c.y"},
		{journal.Follow{Match: "*", From: 1}, "1 a, 2 b, 3 a, 5 a, 6 b", "7 a"},
		{journal.Follow{Match: "*", From: 3, HeadersOnly: true}, "3 a, 5 a, 6 b", "7 a"},
		{journal.Follow{Match: "c.*", Acknowledged: true}, "4 c.x", "8 c.x, 9 c.y"},
		{journal.Follow{Match: "a"}, "5 a", "7 a"},
		{journal.Follow{Match: "none"}, "", ""},
		{journal.Follow{Match: ">", From: 7}, "", "7 a, 8 c.x, 9 c.y"},
		{journal.Follow{Match: ">", From: 8}, "", "8 c.x, 9 c.y"},
	}
	count := func(list string) int { return len(strings.Fields(list)) / 2 }
	followers := make([]*journal.Follower, len(tests))
	for i, test := range tests {
		followers[i] = follow(t, j, test.what)
		if n := followers[i].Pending(); n != uint64(count(test.first)) {
			t.Errorf("%+v: %d are pending, want %d", test.what, n, count(test.first))
		}
		if got := readKeys(t, followers[i], count(test.first)); got != test.first {
			t.Errorf("%+v: %s, want %s", test.what, got, test.first)
		}
		if n := followers[i].Pending(); n != 0 {
			t.Errorf("%+v: %d are pending", test.what, n)
		}
		followers[i].Done()
	}
	writeKeys(t, j, "a", "c.x", "c.y")
	for i, test := range tests {
		if got := readKeys(t, followers[i], count(test.then)); got != test.then {
			t.Errorf("%+v: later: %s, want %s", test.what, got, test.then)
		}
	}
	if last := followers[0].Last(); last != 9 {
		t.Errorf("the last one was %d", last)
	}
	stream, err := b.JetStream().Stream(t.Context(), followedStream)
	if err != nil {
		t.Fatal(err)
	}
	followers[3].Done()
	end := time.Now().Add(10 * time.Second)
	for done := uint64(0); done != 9; time.Sleep(time.Millisecond) {
		for info := range stream.ListConsumers(t.Context()).Info() {
			if info.Config.AckPolicy == jetstream.AckAllPolicy {
				done = info.AckFloor.Stream
			}
		}
		if time.Now().After(end) {
			t.Fatalf("what was done is not known: %d", done)
		}
	}
}

// What is more than the server sends at once comes all the same, in order.
func TestFollowALot(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	j := followed(t, b)
	f := follow(t, j, journal.Follow{Match: "*", From: 1})
	js := b.JetStream()
	const n, size = 3000, 40 << 10
	for i := range n {
		if _, err := js.PublishAsync("$KV.FOLLOWED."+fmt.Sprint(i), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	js.CleanupPublisher()
	for i := 0; i < n; {
		m, err := f.Next()
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if m != nil {
			if m.Key != fmt.Sprint(i) || len(m.Data) != size {
				t.Fatalf("message %d: %s with %d bytes", i, m.Key, len(m.Data))
			}
			i++
		}
	}
}

// A follower that may miss something ends.
func TestFollowerEnds(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	j := followed(t, b)
	wait := func(what string, f *journal.Follower, want error) {
		t.Helper()
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := f.Next(); err != nil {
					ended <- err
					return
				}
			}
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: Next does not return", what)
		}
		if _, err := f.Next(); !errors.Is(err, want) {
			t.Errorf("%s: Next again: %v, want %v", what, err, want)
		}
		f.Close()
		f.Close()
	}
	f := follow(t, j, journal.Follow{Match: "*"})
	f.Close()
	wait("closed", f, journal.ErrLost)

	ctx, cancel := context.WithCancel(t.Context())
	f, err := j.Follow(ctx, journal.Follow{Match: "*", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, cancel)
	wait("cancelled", f, context.Canceled)

	// The consumer goes without a word: only the silence tells.
	f = follow(t, j, journal.Follow{Match: "*"})
	stream, err := b.JetStream().Stream(t.Context(), followedStream)
	if err != nil {
		t.Fatal(err)
	}
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	wait("forgotten", f, journal.ErrLost)

	f = follow(t, j, journal.Follow{Match: "*"})
	begun := time.Now()
	s.Shutdown()
	wait("disconnected", f, journal.ErrLost)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v to notice", took)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := journal.Open(b, "NONE")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Follow(t.Context(), journal.Follow{Match: "*", Name: "test"}); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("of a bucket that is not there: %v", err)
	}
	if _, err := other.LeaderSize(t.Context()); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("size of a bucket that is not there: %v", err)
	}
}

// A message that is lost on the way is noticed, the last one too.
func TestFollowerMissesAMessage(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	j := followed(t, b)
	for _, more := range []bool{false, true} {
		f := follow(t, j, journal.Follow{Match: "*"})
		if err := f.Drop(func() { writeKeys(t, j, "a") }); err != nil {
			t.Fatal(err)
		}
		if more {
			writeKeys(t, j, "b")
		}
		for {
			m, err := f.Next()
			if errors.Is(err, journal.ErrLost) {
				break
			}
			if err != nil || m != nil {
				t.Fatalf("more %v: %+v, %v", more, m, err)
			}
		}
	}
}

func TestLeaderLast(t *testing.T) {
	t.Parallel()
	j := followed(t, bustest.New(t))
	if m, err := j.LeaderLast(t.Context(), "a"); m != nil || err != nil {
		t.Errorf("of nothing: %+v, %v", m, err)
	}
	writeKeys(t, j, "a", "b", "a.x", "a")
	m, err := j.LeaderLast(t.Context(), "a")
	if err != nil || m.Key != "a" || m.Sequence != 4 || string(m.Data) != "of a" || m.Header.Get("X") != "a" || time.Since(m.Time).Abs() > time.Minute {
		t.Errorf("%+v, %v", m, err)
	}
	if size, err := j.LeaderSize(t.Context()); err != nil || size != (journal.Size{LastSequence: 4, Subjects: 3}) {
		t.Errorf("%+v, %v", size, err)
	}
}
