package durable_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// benchBus is a bus as rpcdo dev has it: what is stored is written to disk now
// and then.
func benchBus(b *testing.B, transport string) (serving, calling *bus.Bus) {
	b.Helper()
	srv := bustest.Server(b, bustest.WithServer(func(cfg *natsd.Config) { cfg.Sync = natsd.SyncInterval }))
	var opts []bustest.Option
	if transport == "inprocess" {
		opts = append(opts, bustest.InProcess())
	}
	return bustest.Connect(b, srv, opts...), bustest.Connect(b, srv, opts...)
}

// overTransports runs a benchmark over both transports.
func overTransports(b *testing.B, run func(b *testing.B, serving, calling *bus.Bus)) {
	for _, transport := range []string{"tcp", "inprocess"} {
		b.Run(transport, func(b *testing.B) {
			serving, calling := benchBus(b, transport)
			run(b, serving, calling)
		})
	}
}

// each runs op b.N times, spread over the callers.
func each(b *testing.B, callers int, op func(caller int) error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var n atomic.Int64
	for i := range callers {
		wg.Go(func() {
			for n.Add(1) <= int64(b.N) {
				if err := op(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkTurn is one caller of one object, against a request and its reply
// and then a compare-and-set publish.
func BenchmarkTurn(b *testing.B) {
	b.Run("object", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			increment := servedIncrement(b, serving, calling)
			each(b, 1, func(int) error { return increment("alice") })
		})
	})
	b.Run("raw", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			p := newPrototype(b, serving)
			rawService(b, serving, func(msg *nats.Msg) { reply(msg, 1) })
			var rev uint64
			each(b, 1, func(int) error {
				if err := rawIncrement(calling, "alice"); err != nil {
					return err
				}
				ack, err := calling.Conn().RequestMsg(p.record("alice", rev, 1), benchPatience)
				if err == nil {
					rev, err = ackSequence(ack)
				}
				return err
			})
		})
	})
}

// BenchmarkManyObjects is 64 callers with an object each, against the bare loop
// of request, compare-and-set publish and reply.
func BenchmarkManyObjects(b *testing.B) {
	const callers = 64
	ids := make([]string, callers)
	for i := range ids {
		ids[i] = "object-" + strconv.Itoa(i)
	}
	b.Run("object", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			increment := servedIncrement(b, serving, calling)
			each(b, callers, func(caller int) error { return increment(ids[caller]) })
		})
	})
	b.Run("raw", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			newPrototype(b, serving).serve(b)
			each(b, callers, func(caller int) error { return rawIncrement(calling, ids[caller]) })
		})
	})
}

// BenchmarkHotObject is 64 callers of one object, which share commits.
func BenchmarkHotObject(b *testing.B) {
	overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
		increment := servedIncrement(b, serving, calling)
		each(b, 64, func(int) error { return increment("hot") })
	})
}

// BenchmarkView is one caller of a view, against a call of a service.
func BenchmarkView(b *testing.B) {
	b.Run("object", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			serveCounter(b, serving, durable.Config{})
			_, value := methods()
			c := benchClient(b, calling)
			each(b, 1, func(int) error {
				_, err := value.Call(context.Background(), c, "alice", rpc.None{})
				return err
			})
		})
	})
	b.Run("call", func(b *testing.B) {
		overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
			value := rpc.NewMethod[rpc.None, int]("plain.value")
			svc := server.New(serving, "plain", server.Config{})
			server.Handle(svc, value, func(context.Context, rpc.None) (int, error) { return 1, nil })
			run(b, svc)
			c := benchClient(b, calling)
			each(b, 1, func(int) error {
				_, err := value.Call(context.Background(), c, rpc.None{})
				return err
			})
		})
	})
}

// BenchmarkEmit, BenchmarkAlarm and BenchmarkStorage are turns that store more
// than the state: an atomic batch.
func BenchmarkEmit(b *testing.B) {
	benchmarkEffect(b, func(ctx durable.Context, value int) error { return ctx.Emit("Counter.counted", value) })
}

func BenchmarkAlarm(b *testing.B) {
	benchmarkEffect(b, func(ctx durable.Context, _ int) error {
		ctx.SetAlarm(time.Now().Add(time.Hour))
		return nil
	})
}

func BenchmarkStorage(b *testing.B) {
	benchmarkEffect(b, func(ctx durable.Context, value int) error { return ctx.Storage().Put("last", value) })
}

// benchmarkEffect measures a turn that counts and has an effect.
func benchmarkEffect(b *testing.B, effect func(durable.Context, int) error) {
	overTransports(b, func(b *testing.B, serving, calling *bus.Bus) {
		increment, _ := methods()
		svc := server.New(serving, "counting", server.Config{})
		counters := durable.Serve[counter](svc, "counter", durable.Config{})
		durable.Handle(counters, increment, func(c *counter, ctx durable.Context, p incrementParams) (int, error) {
			c.Value += p.By
			return c.Value, effect(ctx, c.Value)
		})
		durable.OnAlarm(counters, func(*counter, durable.Context, durable.Alarm) error { return nil })
		run(b, svc)
		c := benchClient(b, calling)
		each(b, 1, func(int) error {
			_, err := increment.Call(context.Background(), c, "alice", incrementParams{By: 1})
			return err
		})
	})
}

// servedIncrement serves the counters and returns what increments one.
func servedIncrement(b *testing.B, serving, calling *bus.Bus) func(id string) error {
	b.Helper()
	serveCounter(b, serving, durable.Config{})
	increment, _ := methods()
	c := benchClient(b, calling)
	return func(id string) error {
		_, err := increment.Call(context.Background(), c, id, incrementParams{By: 1})
		return err
	}
}

func benchClient(b *testing.B, calling *bus.Bus) *client.Client {
	c := client.New(calling, client.Config{NoShortcut: true})
	b.Cleanup(c.Close)
	return c
}

const (
	benchPatience = 5 * time.Second
	rawSubject    = "raw.increment."
)

// prototype is the least that serves objects. See BenchmarkManyObjects.
type prototype struct {
	bus    *bus.Bus
	prefix string
	inbox  string

	mu      sync.Mutex
	objects map[string]*rawObject
}

type rawObject struct {
	value  int
	rev    uint64
	caller *nats.Msg
}

// newPrototype makes a bucket that is configured as that of a class.
func newPrototype(b *testing.B, serving *bus.Bus) *prototype {
	b.Helper()
	_, err := serving.JetStream().CreateStream(b.Context(), jetstream.StreamConfig{
		Name: "KV_RAW", Subjects: []string{"$KV.RAW.>"}, MaxMsgsPerSubject: 5, Discard: jetstream.DiscardOld,
		Storage: jetstream.FileStorage, AllowRollup: true, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true,
		AllowMsgSchedules: true, DenyDelete: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	return &prototype{bus: serving, prefix: "$KV.RAW.", inbox: serving.InboxPrefix() + ".raw.", objects: map[string]*rawObject{}}
}

func (p *prototype) record(id string, rev uint64, value int) *nats.Msg {
	return &nats.Msg{
		Subject: p.prefix + id, Data: fmt.Appendf(nil, `{"value":%d}`, value),
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(rev, 10)}},
	}
}

// serve answers requests. The callers have an object each.
func (p *prototype) serve(b *testing.B) {
	b.Helper()
	sub, err := p.bus.Conn().Subscribe(p.inbox+"*", func(msg *nats.Msg) {
		seq, err := ackSequence(msg)
		p.mu.Lock()
		defer p.mu.Unlock()
		if o := p.objects[msg.Subject[len(p.inbox):]]; err == nil && o != nil {
			o.rev = seq
			reply(o.caller, o.value)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sub.Unsubscribe() })
	rawService(b, p.bus, func(msg *nats.Msg) {
		var params incrementParams
		if json.Unmarshal(msg.Data, &params) != nil {
			return
		}
		id := msg.Subject[len(rawSubject):]
		p.mu.Lock()
		defer p.mu.Unlock()
		o := p.objects[id]
		if o == nil {
			o = new(rawObject)
			p.objects[id] = o
		}
		o.value += params.By
		o.caller = msg
		record := p.record(id, o.rev, o.value)
		record.Reply = p.inbox + id
		_ = p.bus.Conn().PublishMsg(record)
	})
}

func rawService(b *testing.B, serving *bus.Bus, handle nats.MsgHandler) {
	b.Helper()
	sub, err := serving.Conn().QueueSubscribe(rawSubject+"*", "raw", handle)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := serving.Conn().Flush(); err != nil {
		b.Fatal(err)
	}
}

func rawIncrement(calling *bus.Bus, id string) error {
	params, err := json.Marshal(incrementParams{By: 1})
	if err != nil {
		return err
	}
	msg, err := calling.Conn().Request(rawSubject+id, params, benchPatience)
	if err != nil {
		return err
	}
	var value int
	return json.Unmarshal(msg.Data, &value)
}

func reply(msg *nats.Msg, value int) {
	if data, err := json.Marshal(value); err == nil {
		_ = msg.Respond(data)
	}
}

func ackSequence(msg *nats.Msg) (uint64, error) {
	var ack jetstream.PubAck
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Sequence == 0 {
		return 0, fmt.Errorf("not stored: %s", msg.Data)
	}
	return ack.Sequence, nil
}
