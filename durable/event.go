package durable

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// event is one that a turn emits.
type event struct {
	name   string
	header nats.Header
	data   []byte
}

// maxTurnEvents bounds the events of one turn.
const maxTurnEvents = 256

// maxTrace bounds the trace headers that an event gets from its call, in bytes:
// who sends too much of them must not make a commit fail.
const maxTrace = 16 << 10

// addTrace adds the trace headers that there is room for, baggage last.
func addTrace(h nats.Header, trace rpc.Header) {
	left := maxTrace
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(trace))) {
		size := 0
		for _, v := range trace[name] {
			size += len(name) + len(v) + len(": \r\n")
		}
		if !strings.HasPrefix(name, "ce-") && size <= left { // those are the event's own
			left -= size
			h[name] = trace[name]
		}
	}
}

// eventTTL is how long the object's own stream keeps an event. EVENTS has taken
// it in long before.
const eventTTL = "24h"

func (t *turn) Emit(name string, data any) error {
	if err := rpc.ValidateEvent(name); err != nil {
		return rpc.InvalidArgument.Errorf("emit: %w", err)
	}
	if len(t.events) == maxTurnEvents {
		return rpc.ResourceExhausted.Errorf("emit %s: a turn emits at most %d events", name, maxTurnEvents)
	}
	payload, err := json.Marshal(data)
	if err != nil {
		return rpc.InvalidArgument.Errorf("emit %s: the data can't be written as JSON: %w", name, err)
	}
	o := t.object
	if limit := o.class.bus.MaxPayload() - room; int64(len(payload)) > limit {
		return rpc.ResourceExhausted.Errorf("emit %s: the data has %d bytes, at most %d fit into a message", name, len(payload), limit)
	}
	if err := t.grow(len(payload)); err != nil {
		return rpc.ResourceExhausted.Errorf("emit %s: %w", name, err)
	}
	meta := bus.EventMeta{ID: bus.NewEventID(), Type: name, Source: "/" + o.class.name + "/" + bus.Escape(o.id), Time: time.Now()}
	info, _ := rpc.CallInfoFrom(t)
	trace := bus.CopyTrace(nil, info.Header)
	meta.Cause = bus.CauseOf(trace)
	header := meta.Header()
	header[journal.HeaderTTL] = []string{eventTTL}
	addTrace(header, trace)
	t.events = append(t.events, event{name: name, header: header, data: payload})
	return nil
}

// message is the event in the object's own stream. Its key has a number that no
// other has, since the stream keeps little of each subject.
func (e *event) message(commit string, n int) journal.Message {
	return journal.Message{Key: outPrefix + "." + commit + "-" + strconv.Itoa(n) + "." + e.name, Header: e.header, Data: e.data}
}

// Keys of the system's own in a class's bucket.
const (
	outPrefix   = "_out"
	alarmPrefix = "_alarm."
	duePrefix   = "_due."
	fencePrefix = "_fence."
)

// sourceTimeout bounds how long the first event of a class waits for EVENTS.
const sourceTimeout = 10 * time.Second

// sourceAgain is how often it is looked whether EVENTS still takes in what the
// class emits: somebody may have edited it.
const sourceAgain = 10 * time.Minute

// sourceEvents sees to it that EVENTS takes in what the class emits.
func (c *class) sourceEvents() error {
	now := time.Now().Unix()
	last := c.sourced.Load()
	if now-last < int64(sourceAgain/time.Second) {
		return nil
	}
	if last != 0 {
		if c.sourced.CompareAndSwap(last, now) {
			c.work.Go(func() { _ = c.source() }) // which logs what is wrong
		}
		return nil
	}
	return c.source()
}

// source makes EVENTS take in what the class emits.
func (c *class) source() error {
	ctx, cancel := context.WithTimeout(c.life, sourceTimeout)
	defer cancel()
	if err := c.bus.SourceEvents(ctx, "KV_"+Bucket(c.stored), c.journal.Subject(outPrefix)); err != nil {
		c.log.Error().Err(err).Msg("events can't be sent")
		return rpc.Unavailable.Errorf("the events of the class %s can't be sent: %w", c.name, err).NotExecuted()
	}
	c.sourced.Store(time.Now().Unix())
	return nil
}
