package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// counter is the state of the objects that are measured.
type counter struct {
	Value int64 `json:"value"`
}

type by struct {
	By int64 `json:"by"`
}

// count is the result of all methods, and the data of the event.
type count struct {
	Value int64 `json:"value"`
}

// eventName is that of the event that turns emit.
const eventName = "Bench.counted"

// alarmIn is when alarms are due: after everything has been measured.
const alarmIn = 24 * time.Hour

// turnOf returns the handler of the turns that an aspect is about.
func turnOf(aspect Aspect) func(*counter, durable.Context, by) (count, error) {
	return func(c *counter, ctx durable.Context, p by) (count, error) {
		c.Value += p.By
		now := count{c.Value}
		if aspect == Alarm || aspect == Batch {
			ctx.SetAlarm(time.Now().Add(alarmIn))
		}
		var err error
		if aspect == Event || aspect == Batch {
			err = ctx.Emit(eventName, now)
		}
		if aspect == Storage || aspect == Batch {
			err = errors.Join(err, ctx.Storage().Put("last", now))
		}
		return now, err
	}
}

func ignoreAlarm(*counter, durable.Context, durable.Alarm) error { return nil }

func (c counter) current(durable.ReadContext, rpc.None) (count, error) { return count(c), nil }

// classConfig says how a class is measured.
type classConfig struct {
	aspect  Aspect        // of the turns
	objects int           // that it has to begin with
	idle    time.Duration // how long they stay in memory; zero for the usual time
}

// class is a class of objects that is served, and who calls it.
type class struct {
	name      string
	caller    *client.Client
	increment rpc.ObjectMethod[by, count]
	value     rpc.ObjectMethod[rpc.None, count]

	open    buses
	serving *bus.Bus
	run     func() error // serves it again, once unserve has been called
	unserve func() error
}

// serve serves a class. Its name is nobody else's on a bus that others use.
func (cfg *ObjectConfig) serve(ctx context.Context, cc classConfig) (k *class, err error) {
	name := "bench-" + nuid.Next()
	k = &class{
		name:      name,
		increment: rpc.NewObjectMethod[by, count](name + ".increment"),
		value:     rpc.NewObjectMethod[rpc.None, count](name + ".value"),
	}
	defer func() {
		if err != nil {
			_ = k.open.close() // the first error says more
		}
	}()
	var calling *bus.Bus
	if k.serving, calling, err = k.open.pair(ctx, cfg.Config); err != nil {
		return nil, err
	}
	k.run = func() error {
		svc := server.New(k.serving, name+"-service", server.Config{DrainTimeout: patience, Description: description})
		counters := durable.Serve[counter](svc, name, durable.Config{Idle: cc.idle})
		durable.Handle(counters, k.increment, turnOf(cc.aspect))
		durable.View(counters, k.value, counter.current)
		durable.OnAlarm(counters, ignoreAlarm)
		stop, err := run(ctx, svc)
		if err == nil {
			k.unserve = sync.OnceValue(stop)
		}
		return err
	}
	if err := k.run(); err != nil {
		return nil, err
	}
	if cc.objects > 0 {
		if err := cfg.fill(ctx, k.serving, name, cc.objects); err != nil {
			return nil, firstError(err, k.stop())
		}
	}
	k.caller = client.New(calling, client.Config{Timeout: patience})
	return k, nil
}

// stop ends the class and removes what it has stored.
func (k *class) stop() error {
	return firstError(k.unserve(), k.remove(), k.open.close())
}

func (k *class) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	js := k.serving.JetStream()
	if err := js.DeleteStream(ctx, "KV_"+durable.Bucket(k.name)); err != nil {
		return fmt.Errorf("remove the bucket of %s: %w", k.name, err)
	}
	owners, err := js.Stream(ctx, ownersStream)
	if err == nil {
		err = owners.Purge(ctx, jetstream.WithPurgeSubject(ownersSlots+k.name+".>"))
	}
	if err != nil {
		return fmt.Errorf("remove the slots of %s: %w", k.name, err)
	}
	return nil
}

// removeTimeout bounds how long a bucket takes to be removed.
const removeTimeout = time.Minute

// The bucket that says who owns what.
const (
	ownersStream = "KV_RPC_OWNERS"
	ownersSlots  = "$KV.RPC_OWNERS.slot."
)

// turns calls a method that changes the object that id names.
func (cfg *ObjectConfig) turns(ctx context.Context, aspect Aspect, id func(caller int) string) (*workload, error) {
	k, err := cfg.serve(ctx, classConfig{aspect: aspect})
	if err != nil {
		return nil, err
	}
	ids := ids(cfg.Concurrency, id)
	return &workload{
		row: cfg.row(aspect),
		op: func(ctx context.Context, caller int) error {
			_, err := k.increment.Call(ctx, k.caller, ids[caller], by{1})
			return err
		},
		stop: k.stop,
	}, nil
}

// viewing calls a method that reads the object that id names.
func (k *class) viewing(row string, id func(caller int) string) *workload {
	return &workload{
		row: row,
		op: func(ctx context.Context, caller int) error {
			_, err := k.value.Call(ctx, k.caller, id(caller), rpc.None{})
			return err
		},
		stop: k.stop,
	}
}

// ids are the names of the callers' objects.
func ids(concurrency []int, id func(caller int) string) []string {
	var all []string
	for _, n := range concurrency {
		for i := len(all); i < n; i++ {
			all = append(all, id(i))
		}
	}
	return all
}

func (cfg *ObjectConfig) removeStream(ctx context.Context, name string) error {
	return removeStream(ctx, cfg.Config, name)
}

// removeStream removes a stream if it is there.
func removeStream(ctx context.Context, cfg Config, name string) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	b, err := cfg.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, b.Close()) }()
	if err := b.JetStream().DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove the stream %s: %w", name, err)
	}
	return nil
}
