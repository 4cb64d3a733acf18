package demo_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/schedule"
	"rpc.do/server"
)

// serve runs services until the test ends.
func serve(t *testing.T, b *bus.Bus, services ...*server.Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(services))
	for _, svc := range services {
		go func() { ended <- svc.Run(ctx) }()
		<-svc.Ready()
	}
	t.Cleanup(func() {
		settle(t, b)
		cancel()
		for range services {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// settle waits until the stream EVENTS takes in what it is to take in, and the
// greeter follows the schedules. A server that ends before leaves a goroutine
// behind for half a minute, and a service that does a consumer.
func settle(t *testing.T, b *bus.Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		events, err := b.JetStream().Stream(ctx, bus.EventsStream)
		bucket, err2 := b.JetStream().Stream(ctx, "KV_"+schedule.Bucket)
		if err := errors.Join(err, err2); err != nil {
			t.Error(err)
			return
		}
		followed := false
		for info := range bucket.ListConsumers(ctx).Info() {
			followed = followed || info.Config.HeadersOnly
		}
		waits := func(s *jetstream.StreamSourceInfo) bool { return s.Active < 0 }
		if followed && !slices.ContainsFunc(events.CachedInfo().Sources, waits) {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Error("the services do not settle")
			return
		}
	}
}
