package bench

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

// prototype is the least that serves objects: for each request it decodes, looks
// the object up in memory, writes the new state by compare-and-set, and replies
// when that is acknowledged. It relies on callers that have an object each and
// wait for its reply.
type prototype struct {
	bucket  *rawBucket
	bus     *bus.Bus
	subject string // of requests, with a token for the object
	inbox   string // of acknowledgements, as well

	mu      sync.Mutex
	objects map[string]*rawObject
}

type rawObject struct {
	state  counter
	rev    uint64
	caller *nats.Msg // who waits
}

// prototype runs one and its callers.
func (cfg *ObjectConfig) prototype(ctx context.Context) (*workload, error) {
	return cfg.startPrototype(ctx, "bare prototype loop", strconv.Itoa, func(p *prototype) error {
		if err := listen(p.bus, p.inbox+"*", p.acknowledged); err != nil {
			return err
		}
		return listen(p.bus, p.subject+"*", p.take)
	})
}

func (p *prototype) take(msg *nats.Msg) {
	var params by
	if json.Unmarshal(msg.Data, &params) != nil {
		return
	}
	id := msg.Subject[len(p.subject):]
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.objects[id]
	if o == nil {
		o = new(rawObject)
		p.objects[id] = o
	}
	o.state.Value += params.By
	o.caller = msg
	record, err := p.bucket.record(id, o.rev, o.state)
	if err != nil {
		return
	}
	record.Reply = p.inbox + id
	_ = p.bus.Conn().PublishMsg(record) // what fails shows as a request without an answer
}

func (p *prototype) acknowledged(msg *nats.Msg) {
	seq, err := readAck(msg)
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.objects[msg.Subject[len(p.inbox):]]
	if err != nil || o == nil {
		return
	}
	o.rev = seq
	respond(o.caller, count(o.state))
}

// oneByOne runs a prototype with one object, whose every turn waits for the
// acknowledgement of the one before.
func (cfg *ObjectConfig) oneByOne(ctx context.Context) (*workload, error) {
	return cfg.startPrototype(ctx, "bare prototype, one commit a turn", func(int) string { return "hot" }, func(p *prototype) error {
		var o rawObject
		return listen(p.bus, p.subject+"hot", func(msg *nats.Msg) {
			var params by
			if json.Unmarshal(msg.Data, &params) != nil {
				return
			}
			o.state.Value += params.By
			record, err := p.bucket.record("hot", o.rev, o.state)
			if err != nil {
				return
			}
			if o.rev, err = p.bucket.write(p.bus.Conn(), record); err == nil {
				respond(msg, count(o.state))
			}
		})
	})
}

func (cfg *ObjectConfig) startPrototype(ctx context.Context, name string, id func(int) string, serve func(*prototype) error) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close()
		}
	}()
	serving, calling, err := open.apart(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	bucket, err := cfg.rawBucket(ctx, serving, false)
	if err != nil {
		return nil, err
	}
	p := &prototype{
		bucket: bucket, bus: serving, objects: map[string]*rawObject{},
		subject: "bench-" + nuid.Next() + ".", inbox: serving.InboxPrefix() + ".bench-" + nuid.Next() + ".",
	}
	if err := serve(p); err != nil {
		return nil, firstError(err, bucket.remove())
	}
	nc := calling.Conn()
	subjects := ids(cfg.Concurrency, func(caller int) string { return p.subject + id(caller) })
	return &workload{
		name: name,
		op: func(_ context.Context, caller int) error {
			_, err := requestRaw[by, count](nc, subjects[caller], by{1})
			return err
		},
		stop: func() error { return firstError(bucket.remove(), open.close()) },
	}, nil
}
