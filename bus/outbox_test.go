package bus_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

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
	o := bus.NewOutbox(b, func(m *nats.Msg, err error) { t.Errorf("%s was not sent: %v", m.Subject, err) })
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := range each {
				o.Put(&nats.Msg{Subject: fmt.Sprintf("out.%d", s), Data: fmt.Append(nil, n)})
			}
		})
	}
	wg.Wait()
	o.Close()
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
	o := bus.NewOutbox(b, func(m *nats.Msg, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, m.Subject)
		if tooLarge := errors.Is(err, nats.ErrMaxPayload); tooLarge != (m.Subject == "out.large") {
			t.Errorf("%s failed with %v", m.Subject, err)
		}
	})
	o.Put(&nats.Msg{Subject: "out.large", Data: make([]byte, b.MaxPayload()+1)})
	o.Put(&nats.Msg{Subject: "out.fits"})
	o.Close()
	o.Put(&nats.Msg{Subject: "out.late"})
	o.Close() // again
	if fmt.Sprint(failed) != "[out.large out.late]" {
		t.Errorf("failed: %v", failed)
	}
}
