package pipeline

import (
	"context"
	"strconv"
	"sync"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// handling is the context of an attempt. Its timer and its channel are made when
// somebody asks for them, which few handlers do.
type handling struct {
	h        *handler
	unit     unit
	deadline time.Time

	mu     sync.Mutex
	inner  context.Context // nil until it is asked for
	cancel context.CancelFunc
	ended  bool
}

// Deadline returns when the attempt's time is over.
func (c *handling) Deadline() (time.Time, bool) { return c.deadline, true }

// Done returns a channel that is closed when the attempt's time is over, when it
// has ended, or when a shutdown runs out of time.
func (c *handling) Done() <-chan struct{} { return c.context().Done() }

// Err says why Done is closed.
func (c *handling) Err() error { return c.context().Err() }

func (c *handling) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithDeadline(c.h.workers.base, c.deadline)
		if c.ended {
			c.cancel()
		}
	}
	return c.inner
}

// end ends what the attempt has begun.
func (c *handling) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Value finds the attempt as the call that the context belongs to.
func (c *handling) Value(key any) any {
	if _, ok := key.(rpc.CallInfoKey); ok {
		return c
	}
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner == nil {
		inner = c.h.workers.base
	}
	return inner.Value(key)
}

// CallInfo tells the handler, and what it calls, about the event. See
// rpc.CallInfoFrom. A batch has no one event that is its cause.
func (c *handling) CallInfo() rpc.CallInfo {
	d := c.unit[0]
	info := rpc.CallInfo{Service: c.h.service, Method: "$event." + c.h.name, Attempt: d.attempt, Deadline: c.deadline}
	if !c.h.typed.batch {
		info.ID, info.Caller = d.meta.ID, d.meta.Source
		info.Header = bus.CopyTrace(d.meta.Effects(), rpc.Header(d.header))
		return info
	}
	hops := 0
	for _, d := range c.unit {
		hops = max(hops, d.meta.Hops)
	}
	info.Header = rpc.Header{bus.HeaderHops: {strconv.Itoa(hops + 1)}}
	return info
}
