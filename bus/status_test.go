package bus_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// lockedBuffer is written by the bus's goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bustest.Option{
		"TCP":        nil,
		"in process": {bustest.InProcess()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out lockedBuffer
			log := zerolog.New(&out)
			s := bustest.Server(t)
			b := bustest.Connect(t, s, append(opts, bustest.WithConfig(func(c *bus.Config) { c.Logger = &log }))...)
			lost := make(chan struct{}, 1)
			stop := b.OnDisconnect(func() { lost <- struct{}{} })
			stopped := b.OnDisconnect(func() { t.Error("called after it was stopped") })
			stopped()
			sub, err := b.Conn().SubscribeSync("a")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sub.Unsubscribe() })

			for range 2 {
				s.Shutdown()
				<-lost
				if b.Connected() {
					t.Error("connected to a server that is down")
				}
				if err := b.Conn().Publish("a", []byte("kept")); err != nil {
					t.Errorf("publishing while disconnected: %v", err)
				}
				if err := s.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.WaitConnected(t.Context()); err != nil {
					t.Fatal(err)
				}
				msg, err := sub.NextMsgWithContext(t.Context())
				if err != nil || string(msg.Data) != "kept" {
					t.Fatalf("got %v, %v", msg, err)
				}
			}
			stop()
			got := out.String()
			for _, want := range []string{
				`"level":"warn"`, `"message":"bus disconnected"`, `"level":"info"`, `"message":"bus reconnected"`, `"level":"debug"`,
			} {
				if !strings.Contains(got, want) {
					t.Errorf("the log lacks %s:\n%s", want, got)
				}
			}
		})
	}
}

func TestWaitConnected(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Error(err)
	}
	lost := make(chan struct{}, 2)
	b.OnDisconnect(func() { lost <- struct{}{} })
	s.Shutdown()
	<-lost

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("waited enough")
	cancel(why)
	if err := b.WaitConnected(ctx); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	waited := make(chan error)
	go func() { waited <- b.WaitConnected(t.Context()) }()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waited; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed meanwhile: %v", err)
	}
	if err := b.WaitConnected(t.Context()); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed before: %v", err)
	}
}

func TestOnDisconnectAtClose(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var calls int
	b.OnDisconnect(func() { calls++ })
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if calls != 1 {
		t.Errorf("called %d times", calls)
	}
	b.OnDisconnect(func() { t.Error("called after the bus was closed") })()
}

func TestOnDisconnectLostThenClosed(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	calls := make(chan struct{}, 10)
	b.OnDisconnect(func() { calls <- struct{}{} })
	s.Shutdown()
	<-calls
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if len(calls) != 1 {
		t.Errorf("called %d times by Close", len(calls))
	}
}

func TestErrorsAreLogged(t *testing.T) {
	t.Parallel()
	var out lockedBuffer
	logged := make(chan struct{}, 10)
	log := zerolog.New(&out).Hook(zerolog.HookFunc(func(_ *zerolog.Event, level zerolog.Level, _ string) {
		if level == zerolog.ErrorLevel {
			logged <- struct{}{}
		}
	}))
	b := bustest.New(t, bustest.WithConfig(func(c *bus.Config) { c.Logger = &log }))
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	sub, err := b.Conn().QueueSubscribe("a", "workers", func(*nats.Msg) {
		once.Do(func() { close(entered); <-release })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(1, -1); err != nil {
		t.Fatal(err)
	}
	publish := func() {
		if err := b.Conn().Publish("a", nil); err != nil {
			t.Error(err)
		}
	}
	publish()
	<-entered
	for range 4 {
		publish()
	}
	<-logged
	close(release)
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil { // the closing line is the last
		t.Error(err)
	}
	for _, want := range []string{`"level":"error"`, "slow consumer", `"subject":"a"`, `"queue":"workers"`, `"dropped":`} {
		if got := out.String(); !strings.Contains(got, want) {
			t.Errorf("the log lacks %s:\n%s", want, got)
		}
	}
}
