package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// TestOutbox sends from many goroutines: everything arrives once, and what one
// goroutine put in order arrives in order.
func TestOutbox(t *testing.T) {
	t.Parallel()
	const senders, each = 16, 500
	b := bustest.New(t)
	got := make(chan *nats.Msg, senders*each)
	sub, err := b.Conn().ChanSubscribe("out.*", got)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	o := &outbox{conn: b.Conn(), failed: func(m *nats.Msg) { t.Errorf("%s was not sent", m.Subject) }}
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := range each {
				o.put(&nats.Msg{Subject: fmt.Sprintf("out.%d", s), Data: fmt.Append(nil, n)})
			}
		})
	}
	wg.Wait()
	o.close()
	if err := b.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	if len(got) != senders*each {
		t.Fatalf("%d messages arrived of %d", len(got), senders*each)
	}
	next := map[string]int{}
	for range senders * each {
		m := <-got
		if want := fmt.Sprint(next[m.Subject]); string(m.Data) != want {
			t.Fatalf("%s: message %s arrived when %s was due", m.Subject, m.Data, want)
		}
		next[m.Subject]++
	}
}

func TestOutboxFails(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var mu sync.Mutex
	var failed []string
	o := &outbox{conn: b.Conn(), failed: func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, m.Subject)
	}}
	o.put(&nats.Msg{Subject: "out.large", Data: make([]byte, b.MaxPayload()+1)})
	o.put(&nats.Msg{Subject: "out.fits"})
	o.close()
	o.put(&nats.Msg{Subject: "out.late"})
	o.close() // again
	if fmt.Sprint(failed) != "[out.large out.late]" {
		t.Errorf("failed: %v", failed)
	}
}

// TestCancelStaysBehind gives a call up while its request lies in the outbox:
// a cancellation that came first would do nothing.
func TestCancelStaysBehind(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := New(b, Config{})
	c.pending.count.Add(crowd) // so that requests go through the outbox
	o := &c.outbox
	o.mu.Lock()
	o.sending = true // says that somebody sends, who does not
	o.mu.Unlock()
	queued := func() (subjects []string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, m := range o.queue {
			subjects = append(subjects, m.Subject)
		}
		return subjects
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := rpc.NewMethod[int, int]("calc.m").Go(ctx, c, 1, rpc.WithTimeout(time.Minute))
	for len(queued()) == 0 {
		select {
		case <-ended.Done():
			_, err := ended.Wait(ctx)
			t.Fatalf("the call ended before its request was put: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	before := b.Conn().Stats().OutMsgs
	cancel()
	if _, err := ended.Wait(t.Context()); rpc.CodeOf(err) != rpc.Canceled {
		t.Fatal(err)
	}
	if sent := b.Conn().Stats().OutMsgs - before; sent != 0 {
		t.Errorf("%d messages overtook the request", sent)
	}
	if got, want := fmt.Sprint(queued()), fmt.Sprint([]string{"rpc.calc.m", bus.CancelSubject("calc")}); got != want {
		t.Errorf("the outbox holds %s, want %s", got, want)
	}
	o.senders.Go(o.send)
	c.pending.count.Add(-crowd)
}
