package pipeline_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

const benchConcurrency = 16

// rawHandle handles events as nats.go's own Consume does, with as many goroutines,
// decoding the data and acknowledging each.
func rawHandle(b *testing.B, bs *bus.Bus, name string, fn func(*benchUser)) (stop func()) {
	b.Helper()
	consumer, err := bs.JetStream().CreateOrUpdateConsumer(b.Context(), bus.EventsStream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: "$.User.registered", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000,
	})
	if err != nil {
		b.Fatal(err)
	}
	msgs := make(chan jetstream.Msg, 512)
	var all sync.WaitGroup
	for range benchConcurrency {
		all.Go(func() {
			for msg := range msgs {
				var u benchUser
				if err := (bus.JSON{}).Unmarshal(msg.Data(), &u); err != nil {
					b.Error(err)
				}
				fn(&u)
				_ = msg.Ack()
			}
		})
	}
	c, err := consumer.Consume(func(msg jetstream.Msg) { msgs <- msg })
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		c.Stop()
		<-c.Closed()
		close(msgs)
		all.Wait()
	}
}

func rpcHandle(b *testing.B, bs *bus.Bus, name string, fn func(*benchUser)) (stop func()) {
	b.Helper()
	svc := server.New(bs, name, server.Config{})
	pipeline.On(svc, benchRegistered, "bench", func(_ context.Context, e pipeline.Event[benchUser]) error {
		fn(&e.Data)
		return nil
	}, pipeline.From(pipeline.StartAll()))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		b.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

var benchHandlers = []struct {
	name   string
	handle func(*testing.B, *bus.Bus, string, func(*benchUser)) func()
}{{"raw", rawHandle}, {"rpc", rpcHandle}}

// BenchmarkHandle is events that are in the stream already.
func BenchmarkHandle(b *testing.B) {
	for _, transport := range []string{"tcp", "inprocess"} {
		for _, how := range benchHandlers {
			b.Run(transport+"/"+how.name, func(b *testing.B) {
				bs := benchBus(b, transport)
				p := pipeline.New(bs, pipeline.Config{})
				users := make([]benchUser, 1000)
				for i := range users {
					users[i] = newBenchUser()
				}
				for sent := 0; sent < b.N; sent += len(users) {
					if _, err := pipeline.SendBatch(b.Context(), p, benchRegistered, users[:min(len(users), b.N-sent)]); err != nil {
						b.Fatal(err)
					}
				}
				var n atomic.Int64
				done := make(chan struct{})
				b.ReportAllocs()
				b.ResetTimer()
				stop := how.handle(b, bs, "bench", func(*benchUser) {
					if n.Add(1) == int64(b.N) {
						close(done)
					}
				})
				<-done
				b.StopTimer()
				stop()
			})
		}
	}
}

// BenchmarkSendToHandler is the time from before a send until the handler has
// begun, one event at a time.
func BenchmarkSendToHandler(b *testing.B) {
	for _, transport := range []string{"tcp", "inprocess"} {
		for _, how := range benchHandlers {
			b.Run(transport+"/"+how.name, func(b *testing.B) {
				bs := benchBus(b, transport)
				p := pipeline.New(bs, pipeline.Config{})
				got := make(chan struct{}, 1)
				stop := how.handle(b, bs, "bench", func(*benchUser) { got <- struct{}{} })
				defer stop()
				payload, _ := (bus.JSON{}).Marshal(newBenchUser())
				send := func(i int) error {
					_, err := pipeline.Send(b.Context(), p, benchRegistered, newBenchUser())
					return err
				}
				if how.name == "raw" {
					js := bs.JetStream()
					send = func(i int) error {
						_, err := js.PublishMsg(b.Context(), benchMessage("00000000-0000-7000-8000-"+strconv.FormatInt(1e11+int64(i), 10), payload))
						return err
					}
				}
				b.ResetTimer()
				for i := range b.N {
					if err := send(i); err != nil {
						b.Fatal(err)
					}
					<-got
				}
			})
		}
	}
}
