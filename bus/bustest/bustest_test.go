package bustest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// fakeTB is a test that can fail and end without its outer test doing so.
type fakeTB struct {
	testing.TB
	cleanups []func()
	errors   []string
}

type fatal struct{}

func (f *fakeTB) Helper()           {}
func (f *fakeTB) Cleanup(fn func()) { f.cleanups = append(f.cleanups, fn) }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(fatal{})
}

// run runs a test to its end and returns what it was failed for.
func run(t *testing.T, test func(t testing.TB)) string {
	t.Helper()
	f := &fakeTB{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != (fatal{}) {
				panic(r)
			}
		}()
		test(f)
	}()
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		f.cleanups[i]()
	}
	return strings.Join(f.errors, "\n")
}

func request(t testing.TB, b *bus.Bus) {
	t.Helper()
	if _, err := b.Conn().RequestWithContext(t.Context(), "nobody", nil); err == nil {
		t.Errorf("somebody answered")
	}
}

func newConsumer(t testing.TB, b *bus.Bus, cfg jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatalf("%v", err)
	}
	stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	c, err := stream.CreateConsumer(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c
}

func TestNew(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bustest.Option{
		"TCP":        nil,
		"in process": {bustest.InProcess()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, opts...)
			if !b.Connected() {
				t.Fatal("not connected")
			}
			request(t, b)
			newConsumer(t, b, jetstream.ConsumerConfig{Durable: "kept"})
		})
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	b := bustest.New(t,
		bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 4096; c.Token = "secret" }),
		bustest.WithConfig(func(c *bus.Config) { c.Name = "alice"; c.Token = "secret" }),
	)
	if b.MaxPayload() != 4096 || b.Name() != "alice" {
		t.Errorf("payload %d, name %s", b.MaxPayload(), b.Name())
	}
}

func TestBusesShareAServer(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	alice, bob := bustest.Connect(t, s), bustest.Connect(t, s, bustest.InProcess())
	sub, err := bob.Conn().SubscribeSync("hello")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	})
	if err := bob.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	if err := alice.Conn().Publish("hello", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsgWithContext(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartFailure(t *testing.T) {
	t.Parallel()
	got := run(t, func(t testing.TB) {
		bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = -1 }))
	})
	if !strings.Contains(got, "MaxPayload") {
		t.Errorf("got %q", got)
	}
	got = run(t, func(t testing.TB) {
		bustest.New(t, bustest.WithConfig(func(c *bus.Config) { c.Replicas = 2 }))
	})
	if !strings.Contains(got, "Replicas") {
		t.Errorf("got %q", got)
	}
}

func TestSubscriptionLeak(t *testing.T) {
	t.Parallel()
	subscribe := func(t testing.TB, b *bus.Bus) {
		if _, err := b.Conn().QueueSubscribe("orders.>", "rpc", func(*nats.Msg) {}); err != nil {
			t.Fatalf("%v", err)
		}
	}
	for name, tt := range map[string]struct {
		test func(testing.TB)
		want string
	}{
		"left": {func(t testing.TB) {
			subscribe(t, bustest.New(t))
		}, `["orders.> queue rpc"]`},
		"left, in process, with requests": {func(t testing.TB) {
			b := bustest.New(t, bustest.InProcess())
			request(t, b)
			subscribe(t, b)
		}, `["orders.> queue rpc"]`},
		"left by one of two": {func(t testing.TB) {
			s := bustest.Server(t)
			bustest.Connect(t, s)
			subscribe(t, bustest.Connect(t, s))
		}, `["orders.> queue rpc"]`},
		"ended by OnClose": {func(t testing.TB) {
			b := bustest.New(t)
			sub, err := b.Conn().SubscribeSync("a")
			if err != nil {
				t.Fatalf("%v", err)
			}
			b.OnClose(func() { _ = sub.Unsubscribe() })
		}, ""},
		"bus closed by the test": {func(t testing.TB) {
			b := bustest.New(t)
			subscribe(t, b)
			if err := b.Close(); err != nil {
				t.Errorf("%v", err)
			}
		}, ""},
		"server shut down by the test": {func(t testing.TB) {
			s := bustest.Server(t)
			b := bustest.Connect(t, s)
			subscribe(t, b)
			lost := make(chan struct{}, 2)
			b.OnDisconnect(func() { lost <- struct{}{} })
			s.Shutdown()
			<-lost
		}, ""},
		"ignored": {func(t testing.TB) {
			subscribe(t, bustest.New(t, bustest.IgnoreLeaks()))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, run(t, tt.test), tt.want)
		})
	}
}

func TestConsumerLeak(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		test func(testing.TB)
		want string
	}{
		"left": {func(t testing.TB) {
			newConsumer(t, bustest.New(t), jetstream.ConsumerConfig{Name: "watcher"})
		}, `["S/watcher"]`},
		"durable": {func(t testing.TB) {
			newConsumer(t, bustest.New(t), jetstream.ConsumerConfig{Durable: "worker"})
		}, ""},
		"ended": {func(t testing.TB) {
			b := bustest.New(t)
			newConsumer(t, b, jetstream.ConsumerConfig{Name: "watcher"})
			js, err := jetstream.New(b.Conn())
			if err != nil {
				t.Fatalf("%v", err)
			}
			if err := js.DeleteConsumer(t.Context(), "S", "watcher"); err != nil {
				t.Errorf("%v", err)
			}
		}, ""},
		"watch stopped": {func(t testing.TB) {
			watch(t, bustest.New(t), true)
		}, ""},
		"watch left": {func(t testing.TB) {
			watch(t, bustest.New(t), false)
		}, "left on the bus"},
		"ignored": {func(t testing.TB) {
			newConsumer(t, bustest.New(t, bustest.IgnoreLeaks()), jetstream.ConsumerConfig{Name: "watcher"})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, run(t, tt.test), tt.want)
		})
	}
}

// watch watches a bucket, which takes a subscription and a consumer.
func watch(t testing.TB, b *bus.Bus, stop bool) {
	t.Helper()
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatalf("%v", err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "B"})
	if err != nil {
		t.Fatalf("%v", err)
	}
	w, err := kv.WatchAll(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	if stop {
		if err := w.Stop(); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestStuckSubscriptionFails(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	got := run(t, func(t testing.TB) {
		b := bustest.New(t, bustest.WithConfig(func(c *bus.Config) { c.DrainTimeout = 1 }))
		entered := make(chan struct{})
		_, err := b.Conn().Subscribe("a", func(*nats.Msg) { close(entered); <-release })
		if err != nil {
			t.Fatalf("%v", err)
		}
		if err := b.Conn().Publish("a", nil); err != nil {
			t.Fatalf("%v", err)
		}
		<-entered
	})
	check(t, got, "still busy")
}

func TestCluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	b := bustest.Connect(t, members[0], bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 }))
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: b.Replicas()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Error(err)
	}
	for _, m := range members {
		if m.ClusterAddress() == "" || m.Config().Sync != natsd.SyncInterval {
			t.Errorf("%s: %+v", m.Address(), m.Config())
		}
	}
}

// A bus that has moved to another member is looked at from its own side.
func TestLeakOnAnotherMember(t *testing.T) {
	t.Parallel()
	got := run(t, func(t testing.TB) {
		members := bustest.Cluster(t, 2, bustest.WithServer(func(c *natsd.Config) { c.NoJetStream = true; c.StoreDir = "" }))
		b := bustest.Connect(t, members[0], bustest.WithConfig(func(c *bus.Config) {
			c.URLs = []string{members[1].URL()}
		}))
		request(t, b)
		if _, err := b.Conn().SubscribeSync("a"); err != nil {
			t.Fatalf("%v", err)
		}
	})
	check(t, got, "2 subscriptions")
}

func check(t *testing.T, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("the test was failed for %q, want %q", got, want)
	}
}
