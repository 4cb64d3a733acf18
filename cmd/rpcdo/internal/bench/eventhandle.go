package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// handlerOf is the name of the handlers that are measured.
const handlerOf = "handle"

// handles has fn called for each event, by so many workers at once, until stop.
type handles func(ctx context.Context, b *bus.Bus, from pipeline.Start, workers int, fn func(*user)) (stop func() error, err error)

// handleOurs is a service with a handler.
func handleOurs(ctx context.Context, b *bus.Bus, from pipeline.Start, workers int, fn func(*user)) (func() error, error) {
	name := "bench-" + nuid.Next()
	svc := server.New(b, name, server.Config{DrainTimeout: patience, Description: description})
	pipeline.On(svc, registered, handlerOf, func(_ context.Context, e pipeline.Event[user]) error {
		fn(&e.Data)
		return nil
	}, pipeline.From(from), pipeline.Concurrency(workers))
	stop, err := run(ctx, svc)
	if err != nil {
		return nil, err
	}
	return func() error { return firstError(stop(), removeConsumer(b, name+"-"+handlerOf)) }, nil
}

// handleRaw is nats.go's own Consume, with as many goroutines that decode the data
// and acknowledge each.
func handleRaw(ctx context.Context, b *bus.Bus, from pipeline.Start, workers int, fn func(*user)) (func() error, error) {
	name := "bench-" + nuid.Next()
	cfg := jetstream.ConsumerConfig{
		Durable: name, FilterSubject: bus.EventSubject(registered.Name()), AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000,
		DeliverPolicy: jetstream.DeliverNewPolicy,
	}
	if from == pipeline.StartAll() {
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	consumer, err := b.JetStream().CreateConsumer(ctx, bus.EventsStream, cfg)
	if err != nil {
		return nil, fmt.Errorf("raw nats.go: %w", err)
	}
	msgs := make(chan jetstream.Msg, 512)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for msg := range msgs {
				var u user
				if (bus.JSON{}).Unmarshal(msg.Data(), &u) == nil {
					fn(&u)
					_ = msg.Ack() // what is not acknowledged comes again
				}
			}
		})
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) { msgs <- msg })
	if err != nil {
		close(msgs)
		return nil, firstError(fmt.Errorf("raw nats.go: %w", err), removeConsumer(b, name))
	}
	return func() error {
		consuming.Stop()
		<-consuming.Closed()
		close(msgs)
		all.Wait()
		return removeConsumer(b, name)
	}, nil
}

func removeConsumer(b *bus.Bus, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return b.JetStream().DeleteConsumer(ctx, bus.EventsStream, name)
}

func (cfg *EventConfig) handling(ctx context.Context) (*workload, error) {
	return cfg.stored(ctx, &workload{row: cfg.row(EventHandle)}, handleOurs)
}

func (cfg *EventConfig) consuming(ctx context.Context) (*workload, error) {
	return cfg.stored(ctx, &workload{name: "raw JetStream Consume loop"}, handleRaw)
}

// fewEvents is how many events are handled in a round at least. A round has as
// many as are handled in its time, as far as is known.
const fewEvents = 500

// stored handles events that are in the stream already.
func (cfg *EventConfig) stored(ctx context.Context, w *workload, how handles) (*workload, error) {
	return cfg.sender(ctx, func(b *bus.Bus) (*workload, error) {
		js, err := jetstream.New(b.Conn())
		if err != nil {
			return nil, err
		}
		rate := 0.0
		w.own = func(ctx context.Context, workers int, d time.Duration) (round, error) {
			n := max(int(rate*d.Seconds()), fewEvents)
			r, err := handleStored(ctx, b, js, how, workers, n)
			rate = r.rate
			return r, err
		}
		w.stop = func() error { js.CleanupPublisher(); return nil }
		return w, nil
	})
}

// handleStored stores n events and then has them handled.
func handleStored(ctx context.Context, b *bus.Bus, js jetstream.JetStream, how handles, workers, n int) (round, error) {
	stream, err := js.Stream(ctx, bus.EventsStream)
	if err == nil {
		err = stream.Purge(ctx)
	}
	for left := n; err == nil && left > 0; left -= EventBatch {
		err = publishAll(ctx, js, min(left, EventBatch))
	}
	if err != nil {
		return round{}, err
	}
	w := newWatch(n)
	stop, err := how(ctx, b, pipeline.StartAll(), workers, w.handled)
	if err != nil {
		return round{}, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err := firstError(err, stop()); err != nil {
		return round{}, err
	}
	return w.round(), nil
}

// stretch is how many events are timed together: single ones take too short a
// time, and many are handled at once.
const stretch = 100

// watch notes when events are handled.
type watch struct {
	n      int64
	count  atomic.Int64
	stamps []time.Time // of the first event, and of the last of each stretch
	last   time.Time
	done   chan struct{}
}

func newWatch(n int) *watch {
	return &watch{n: int64(n), stamps: make([]time.Time, n/stretch+1), done: make(chan struct{})}
}

// handled is called for each event, from many goroutines at once.
func (w *watch) handled(*user) {
	i := w.count.Add(1)
	switch {
	case i > w.n: // one comes again
	case i == w.n:
		w.last = time.Now()
		if i%stretch == 0 {
			w.stamps[i/stretch] = w.last
		}
		close(w.done)
	case i == 1:
		w.stamps[0] = time.Now()
	case i%stretch == 0:
		w.stamps[i/stretch] = time.Now()
	}
}

// round is what the watch has seen. Its percentiles are those of an event's share
// of a stretch.
func (w *watch) round() round {
	var h histogram
	for i := range len(w.stamps) - 1 {
		h.record(w.stamps[i+1].Sub(w.stamps[i]))
	}
	return round{
		ops: uint64(w.n), p50: h.percentile(0.50) / stretch, p99: h.percentile(0.99) / stretch,
		rate: float64(w.n-1) / w.last.Sub(w.stamps[0]).Seconds(),
	}
}

func (cfg *EventConfig) sendAndHandle(ctx context.Context) (*workload, error) {
	return cfg.through(ctx, &workload{row: cfg.row(EventLatency)}, handleOurs, func(b *bus.Bus) func(context.Context) error {
		p, u := pipeline.New(b, pipeline.Config{}), newUser()
		return func(ctx context.Context) error {
			_, err := pipeline.Send(ctx, p, registered, u)
			return err
		}
	})
}

func (cfg *EventConfig) publishAndConsume(ctx context.Context) (*workload, error) {
	return cfg.through(ctx, &workload{name: "raw JetStream publish and Consume"}, handleRaw, func(b *bus.Bus) func(context.Context) error {
		js, u := b.JetStream(), newUser()
		return func(ctx context.Context) error { return publishRaw(ctx, js, u) }
	})
}

// latencyWorkers is how many events could be handled at once while one is.
const latencyWorkers = 16

// through sends an event and waits for its handler, on another connection.
func (cfg *EventConfig) through(ctx context.Context, w *workload, how handles, sending func(*bus.Bus) func(context.Context) error) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close() // the first error says more
		}
	}()
	handling, calling, err := open.apart(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	if _, err := handling.EnsureEvents(ctx); err != nil {
		return nil, err
	}
	got := make(chan struct{}, 1)
	stop, err := how(ctx, handling, pipeline.StartNew(), latencyWorkers, func(*user) {
		select {
		case got <- struct{}{}:
		default: // nobody waits: the benchmark has ended
		}
	})
	if err != nil {
		return nil, err
	}
	send := sending(calling)
	w.op = func(ctx context.Context, _ int) error {
		if err := send(ctx); err != nil {
			return err
		}
		select {
		case <-got:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.stop = func() error { return firstError(stop(), open.close()) }
	return w, nil
}
