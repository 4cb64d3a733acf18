package durable_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// counter is the class that most tests use.
type counter struct {
	Value int `json:"value"`
}

type incrementParams struct {
	By int `json:"by"`
}

func methods() (increment rpc.ObjectMethod[incrementParams, int], value rpc.ObjectMethod[rpc.None, int]) {
	return rpc.NewObjectMethod[incrementParams, int]("counter.increment"), rpc.NewObjectMethod[rpc.None, int]("counter.value")
}

func (c *counter) increment(_ durable.Context, p incrementParams) (int, error) {
	if p.By == 0 {
		return 0, rpc.InvalidArgument.Errorf("by: it is zero")
	}
	c.Value += p.By
	return c.Value, nil
}

func (c counter) current(durable.ReadContext, rpc.None) (int, error) { return c.Value, nil }

// serveCounter runs an instance that serves the class counter, until the test
// ends or stop is called.
func serveCounter(t testing.TB, b *bus.Bus, cfg durable.Config) (stop func()) {
	t.Helper()
	increment, value := methods()
	svc := server.New(b, "counting", server.Config{})
	counters := durable.Serve[counter](svc, "counter", cfg)
	durable.Handle(counters, increment, (*counter).increment)
	durable.View(counters, value, counter.current)
	return run(t, svc)
}

// run runs a service until the test ends or stop is called.
func run(t testing.TB, svc *server.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-svc.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("run: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("the service does not get ready")
	}
	return stop
}

func TestCounter(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	for _, noShortcut := range []bool{false, true} {
		t.Run(fmt.Sprint("shortcut ", !noShortcut), func(t *testing.T) {
			increment, value := methods()
			c := client.New(b, client.Config{NoShortcut: noShortcut})
			defer c.Close()
			id := fmt.Sprint("alice ", noShortcut)
			for i := 1; i <= 10; i++ {
				got, err := increment.Call(t.Context(), c, id, incrementParams{By: 2})
				if err != nil || got != 2*i {
					t.Fatalf("increment %d: %d, %v", i, got, err)
				}
				got, err = value.Call(t.Context(), c, id, rpc.None{})
				if err != nil || got != 2*i {
					t.Fatalf("value %d: %d, %v", i, got, err)
				}
			}
			if _, err := increment.Call(t.Context(), c, id, incrementParams{}); rpc.CodeOf(err) != rpc.InvalidArgument {
				t.Fatal(err)
			}
			if got, err := value.Call(t.Context(), c, id, rpc.None{}); err != nil || got != 20 {
				t.Fatalf("value after a failed turn: %d, %v", got, err)
			}
		})
	}
}

// Callers of one object share commits; none is lost.
func TestConcurrentIncrements(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	increment, value := methods()
	c := client.New(b, client.Config{NoShortcut: true})
	defer c.Close()
	var wg sync.WaitGroup
	const callers, each = 64, 100
	for range callers {
		wg.Go(func() {
			for range each {
				if _, err := increment.Call(t.Context(), c, "hot", incrementParams{By: 1}); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, err := value.Call(t.Context(), c, "hot", rpc.None{}); err != nil || got != callers*each {
		t.Fatalf("value %d, %v, want %d", got, err, callers*each)
	}
}

func BenchmarkIncrement(b *testing.B) {
	bs := bustest.New(b)
	serveCounter(b, bs, durable.Config{})
	increment, _ := methods()
	c := client.New(bs, client.Config{NoShortcut: true})
	defer c.Close()
	for b.Loop() {
		if _, err := increment.Call(b.Context(), c, "alice", incrementParams{By: 1}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHot(b *testing.B) {
	bs := bustest.New(b)
	serveCounter(b, bs, durable.Config{})
	increment, _ := methods()
	c := client.New(bs, client.Config{NoShortcut: true})
	defer c.Close()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := increment.Call(context.Background(), c, "hot", incrementParams{By: 1}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
