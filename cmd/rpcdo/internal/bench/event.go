package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
)

// EventAspect is something of events that Events measures.
type EventAspect string

// The aspects of events.
const (
	EventSend    EventAspect = "send"    // one event after the other, by each sender
	EventBatches EventAspect = "batch"   // batches of EventBatch events, one after the other
	EventHandle  EventAspect = "handle"  // handling events that are stored already
	EventLatency EventAspect = "latency" // from a send to its handler
	EventIdle    EventAspect = "idle"    // the memory of handlers that have nothing to do
)

// EventAspects returns all aspects of events, in the order in which they are
// measured.
func EventAspects() []EventAspect {
	return []EventAspect{EventSend, EventBatches, EventHandle, EventLatency, EventIdle}
}

// EventBatch is how many events a batch has.
const EventBatch = 1000

// EventConfig says what to measure of events. The bus must be nobody else's: its
// events and their handlers are removed.
type EventConfig struct {
	Config

	// Aspects are what to measure; empty for all.
	Aspects []EventAspect

	// Handlers is how many handlers there are for EventIdle.
	Handlers int
}

// user is the data of the events.
type user struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

var registered = rpc.NewEvent[user]("Bench.registered")

func newUser() user { return user{ID: "user-17", Name: "Ada Lovelace", Email: "ada@example.com"} }

// Events measures events. It ends early, with an error, when ctx ends or something
// fails.
func Events(ctx context.Context, cfg EventConfig) ([]Row, error) {
	rows := []Row{}
	for _, aspect := range EventAspects() {
		if len(cfg.Aspects) > 0 && !slices.Contains(cfg.Aspects, aspect) {
			continue
		}
		measured, err := cfg.aspect(ctx, aspect)
		err = firstError(err, removeStream(ctx, cfg.Config, bus.EventsStream))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.row(aspect), err)
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

func (cfg *EventConfig) aspect(ctx context.Context, aspect EventAspect) ([]Row, error) {
	switch aspect {
	case EventSend:
		return cfg.each(ctx, cfg.send, cfg.publish)
	case EventBatches:
		return cfg.batches(ctx)
	case EventHandle:
		return cfg.each(ctx, cfg.handling, cfg.consuming)
	case EventLatency:
		return compare(ctx, cfg.Config, 1, cfg.sendAndHandle, cfg.publishAndConsume)
	default:
		return cfg.idle(ctx)
	}
}

// row names the rows of an aspect.
func (cfg *EventConfig) row(aspect EventAspect) string {
	return fmt.Sprintf("event/%s/%s", cfg.Transport, aspect)
}

// each makes a row for each concurrency.
func (cfg *EventConfig) each(ctx context.Context, ours, raw start) (rows []Row, err error) {
	for _, n := range cfg.Concurrency {
		measured, err := compare(ctx, cfg.Config, n, ours, raw)
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// sender makes a workload that uses one connection, on which EVENTS is there.
func (cfg *EventConfig) sender(ctx context.Context, make func(*bus.Bus) (*workload, error)) (*workload, error) {
	var open buses
	b, err := open.connect(ctx, cfg.Config)
	if err == nil {
		_, err = b.EnsureEvents(ctx)
	}
	var w *workload
	if err == nil {
		w, err = make(b)
	}
	if err != nil {
		return nil, firstError(err, open.close())
	}
	stop := w.stop
	w.stop = func() error {
		if stop != nil {
			return firstError(stop(), open.close())
		}
		return open.close()
	}
	return w, nil
}

// send sends events.
func (cfg *EventConfig) send(ctx context.Context) (*workload, error) {
	return cfg.sender(ctx, func(b *bus.Bus) (*workload, error) {
		p, u := pipeline.New(b, pipeline.Config{}), newUser()
		return &workload{row: cfg.row(EventSend), op: func(ctx context.Context, _ int) error {
			_, err := pipeline.Send(ctx, p, registered, u)
			return err
		}}, nil
	})
}

// publish publishes the same messages with nats.go.
func (cfg *EventConfig) publish(ctx context.Context) (*workload, error) {
	return cfg.sender(ctx, func(b *bus.Bus) (*workload, error) {
		js, u := b.JetStream(), newUser()
		return &workload{name: "raw JetStream publish", op: func(ctx context.Context, _ int) error {
			return publishRaw(ctx, js, u)
		}}, nil
	})
}

func publishRaw(ctx context.Context, js jetstream.JetStream, u user) error {
	msg, err := rawEvent(u)
	if err == nil {
		_, err = js.PublishMsg(ctx, msg)
	}
	return err
}

// rawEvent is the message of an event, as somebody makes it who has its headers.
func rawEvent(u user) (*nats.Msg, error) {
	data, err := bus.JSON{}.Marshal(u)
	meta := bus.EventMeta{ID: bus.NewEventID(), Type: registered.Name(), Source: "/bench", Time: time.Now()}
	return &nats.Msg{Subject: bus.EventSubject(meta.Type), Header: meta.Header(), Data: data}, err
}

// batches counts events, but tells how long a whole batch takes.
func (cfg *EventConfig) batches(ctx context.Context) ([]Row, error) {
	rows, err := compare(ctx, cfg.Config, 1, cfg.sendBatches, cfg.publishAsync)
	for i := range rows {
		rows[i].Ops *= EventBatch
		rows[i].OpsPerS *= EventBatch
		if b := rows[i].Baseline; b != nil {
			b.OpsPerS *= EventBatch
		}
	}
	return rows, err
}

func (cfg *EventConfig) sendBatches(ctx context.Context) (*workload, error) {
	return cfg.sender(ctx, func(b *bus.Bus) (*workload, error) {
		p, users := pipeline.New(b, pipeline.Config{}), slices.Repeat([]user{newUser()}, EventBatch)
		return &workload{row: cfg.row(EventBatches), op: func(ctx context.Context, _ int) error {
			_, err := pipeline.SendBatch(ctx, p, registered, users)
			return err
		}}, nil
	})
}

// publishAsync publishes as many messages without waiting for each answer.
func (cfg *EventConfig) publishAsync(ctx context.Context) (*workload, error) {
	return cfg.sender(ctx, func(b *bus.Bus) (*workload, error) {
		js, err := jetstream.New(b.Conn())
		if err != nil {
			return nil, err
		}
		return &workload{
			name: "raw JetStream async publish",
			op:   func(ctx context.Context, _ int) error { return publishAll(ctx, js, EventBatch) },
			stop: func() error { js.CleanupPublisher(); return nil },
		}, nil
	})
}

// publishAll publishes n messages and waits for all their answers.
func publishAll(ctx context.Context, js jetstream.JetStream, n int) error {
	acks, u := make([]jetstream.PubAckFuture, n), newUser()
	for i := range acks {
		msg, err := rawEvent(u)
		if err == nil {
			acks[i], err = js.PublishMsgAsync(msg, jetstream.WithStallWait(patience))
		}
		if err != nil {
			return fmt.Errorf("raw nats.go: %w", err)
		}
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return fmt.Errorf("raw nats.go: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
