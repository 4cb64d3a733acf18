package bus_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// Close lets subscriptions finish and sends what was published.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b, observer := bustest.Connect(t, s), bustest.Connect(t, s)
	done, err := observer.Conn().SubscribeSync("done")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = done.Unsubscribe() })
	if err := observer.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	const n = 100
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	_, err = b.Conn().Subscribe("work", func(m *nats.Msg) {
		once.Do(func() { close(entered); <-release })
		if err := b.Conn().Publish("done", m.Data); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := b.Conn().Publish("work", nil); err != nil {
			t.Fatal(err)
		}
	}
	<-entered
	b.OnClose(func() { close(release) })
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for i := range n {
		if _, err := done.NextMsgWithContext(t.Context()); err != nil {
			t.Fatalf("after %d of %d: %v", i, n, err)
		}
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if b.Connected() || !b.Conn().IsClosed() {
				t.Error("not closed when Close returned")
			}
		})
	}
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseWithinDrainTimeout(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithConfig(func(c *bus.Config) { c.DrainTimeout = time.Millisecond }))
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	_, err := b.Conn().Subscribe("a", func(*nats.Msg) { close(entered); <-release })
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Conn().Publish("a", nil); err != nil {
		t.Fatal(err)
	}
	<-entered
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "still busy after 1ms") {
		t.Errorf("got %v", err)
	}
}

func TestCloseTellsWhatWasNotSent(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	lost := make(chan struct{}, 2)
	b.OnDisconnect(func() { lost <- struct{}{} })
	s.Shutdown()
	<-lost
	if err := b.Conn().Publish("a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	first := b.Close()
	if first == nil || !strings.Contains(first.Error(), "were not sent") {
		t.Errorf("got %v", first)
	}
	if again := b.Close(); again != first {
		t.Errorf("again: got %v", again)
	}
}

// A connection that its user has closed, against the rules, is closed.
func TestCloseAfterConnClosed(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	b.Conn().Close()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestOnClose(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var order string
	b.OnClose(func() {
		order += "first"
		if err := b.Conn().Flush(); err != nil {
			t.Errorf("the connection does not work any more: %v", err)
		}
	})
	stop := b.OnClose(func() { order += "never " })
	b.OnClose(func() { order += "last " })
	stop()
	stop()
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if order != "last first" {
		t.Errorf("called in the order %q", order)
	}
	var late bool
	b.OnClose(func() { late = true })()
	if !late {
		t.Error("not called although the bus was closed")
	}
}
