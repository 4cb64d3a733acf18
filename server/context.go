package server

import (
	"context"
	"sync"
	"time"

	"rpc.do"
)

// callContext is the context of one call. It makes its channel only when asked
// for it, and needs no timer: the service ends it at the deadline.
type callContext struct {
	context.Context // carries the values; never ends by itself
	job             *job
	deadline        time.Time

	mu    sync.Mutex
	done  chan struct{}
	err   error
	after map[*afterFunc]struct{}
}

type afterFunc struct{ run func() }

type jobKey struct{}

func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *callContext) Value(key any) any {
	switch key.(type) {
	case jobKey, rpc.CallInfoKey:
		return c.job
	}
	return c.Context.Value(key)
}

// AfterFunc lets the contexts that package context derives from this one be
// ended without a goroutine each.
func (c *callContext) AfterFunc(run func()) (stop func() bool) {
	f := &afterFunc{run}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		go run()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = map[*afterFunc]struct{}{}
	}
	c.after[f] = struct{}{}
	c.mu.Unlock()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, pending := c.after[f]
		delete(c.after, f)
		return pending
	}
}

// end ends the context with err, unless it has ended.
func (c *callContext) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for f := range after {
		go f.run()
	}
}
