package pipeline_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// A handler goes on when an operator bounds what may be asked of its consumer,
// also while it runs, and does not ask again and again for more.
func TestOperatorsBounds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bounds := map[string]func(*jetstream.ConsumerConfig){
		"messages": func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 7 },
		"bytes":    func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 64 << 10 },
		"time":     func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 200 * time.Millisecond },
	}
	options := map[string][]pipeline.HandlerOption{"shared": nil, "one": {pipeline.Singleton()}}
	logs := map[string]*log{}
	register := func(svc *server.Service) {
		for bound := range bounds {
			for option, with := range options {
				name := bound + "-" + option
				if logs[name] == nil {
					logs[name] = newLog()
				}
				pipeline.On(svc, placed, name, logs[name].handle, with...)
			}
		}
	}
	stop := l.serve("shop", register)
	var pulls atomic.Int32
	sub, err := l.b.Conn().Subscribe(fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.*", bus.EventsStream), func(*nats.Msg) { pulls.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	l.sendMany(between(0, 10)...)
	for _, g := range logs {
		l.want(g, upTo(10)...)
	}
	for bound, set := range bounds {
		for option := range options {
			c, err := l.b.JetStream().Consumer(t.Context(), bus.EventsStream, "shop-"+bound+"-"+option)
			if err != nil {
				t.Fatal(err)
			}
			cfg := c.CachedInfo().Config
			set(&cfg)
			if _, err := l.b.JetStream().UpdateConsumer(t.Context(), bus.EventsStream, cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.sendMany(between(10, 200)...)
	for _, g := range logs {
		l.want(g, upTo(200)...)
	}
	before := pulls.Load()
	stop()
	l.serve("shop", register) // it may be started again
	l.sendMany(between(200, 300)...)
	for _, g := range logs {
		l.want(g, upTo(300)...)
	}
	if n := pulls.Load(); n > 2000 {
		t.Errorf("%d pulls, and then %d", before, n-before)
	}
}

// An event whose headers leave no room for what a dead letter says is one all the
// same.
func TestDeadLetterOfLargeHeaders(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "shared", newLog().handle)
		pipeline.On(svc, placed, "ordered", newLog().handle, pipeline.OrderBy(func(e pipeline.Event[order]) string { return e.Data.Key }))
	})
	data := "no JSON"
	l.plain("$.Order.placed", []byte(data), nats.Header{"X": {strings.Repeat("h", 64<<10-300)}})
	for _, d := range l.deadLetters(2) {
		if d.Missing != "headers" || d.Reason != pipeline.ReasonDecode || string(d.Event.Raw) != data || d.Event.Sequence != 1 {
			t.Errorf("%s: %s is missing, reason %s, data %q, sequence %d", d.Handler, d.Missing, d.Reason, d.Event.Raw, d.Event.Sequence)
		}
	}
	l.idle("shop", "shared")
	l.idle("shop", "ordered")
}
