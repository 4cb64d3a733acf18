package client

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// Client calls services. It is used by many goroutines at once.
type Client struct {
	bus    *bus.Bus
	config Config
	chain  rpc.UnaryFunc

	pending      pending
	outbox       outbox
	budgets      perService[*budget]
	sharedBudget *budget // of the services beyond those
	stop         []func()
	closing      sync.Once
}

// outbox sends messages in order, soon: a bus.Outbox.
type outbox interface {
	Put(msg *nats.Msg)
	Close()
}

// New makes a client on b. It uses the bus when the first call is made, and
// ends with the bus or with Close.
func New(b *bus.Bus, cfg Config) *Client {
	c := &Client{bus: b, config: cfg.withDefaults()}
	c.initBudgets(c.config.RetryBudget)
	c.chain = rpc.Chain(c.call, c.config.Interceptors...)
	c.pending.init(b, c.config.MaxPending)
	c.outbox = bus.NewOutbox(b, c.pending.notSent)
	c.stop = append(c.stop, b.OnDisconnect(c.pending.lost), b.OnDenied(c.pending.denied), b.OnClose(c.Close))
	return c
}

// Close ends the client: calls that wait for an answer fail with Unavailable,
// as do later ones. Closing the bus closes its clients.
func (c *Client) Close() {
	c.closing.Do(func() {
		c.pending.close()
		c.outbox.Close()
		for _, stop := range c.stop {
			stop()
		}
	})
}

// Call makes one call. See rpc.Caller. Its error is an *rpc.Error, or wraps one
// when an interceptor does that.
func (c *Client) Call(ctx context.Context, call *rpc.Call) error {
	timeout := call.Timeout
	if _, bounded := ctx.Deadline(); !bounded && timeout <= 0 {
		call.Timeout = c.config.Timeout // interceptors go by it too
	}
	err := c.chain(ctx, call)
	call.Timeout = timeout
	return asOutcome(err)
}

// asOutcome marks an error, the one of an interceptor too, as what this call
// came to: were a handler to pass it on as it is, its Retryable would say of the
// handler's own call that it did not run.
func asOutcome(err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *rpc.Error:
		if e == nil || e.Outcome() {
			return err
		}
		return e.AsOutcome()
	}
	if e, ok := errors.AsType[*rpc.Error](err); ok && e.Retryable && !e.Outcome() {
		return &wrapped{error: err, outcome: e.AsOutcome()}
	}
	return err
}

// wrapped is an interceptor's error around one that is not marked as an outcome.
type wrapped struct {
	error
	outcome *rpc.Error
}

func (w *wrapped) Unwrap() []error { return []error{w.outcome, w.error} }

// call is what the interceptors wrap: it addresses, sends and retries.
func (c *Client) call(ctx context.Context, call *rpc.Call) error {
	return asOutcome(c.transmit(ctx, call))
}

func (c *Client) transmit(ctx context.Context, call *rpc.Call) error {
	if err := ctx.Err(); err != nil {
		return rpc.CodeOf(err).Errorf("%s: not sent: %w", call.Name(), err)
	}
	if err := checkCall(call); err != nil {
		return err
	}
	var chain []string
	if info, ok := rpc.CallInfoFrom(ctx); ok {
		call.Header = bus.CopyTrace(maps.Clone(call.Header), info.Header)
		if !call.OneWay { // a turn does not wait for that
			chain = info.Chain
		}
	}
	now := time.Now()
	timeout := c.timeout(ctx, call, now)
	if timeout < time.Millisecond {
		return rpc.DeadlineExceeded.Errorf("%s: not sent: no time is left", call.Name())
	}
	if !call.OneWay && !c.config.NoShortcut {
		if svc := c.bus.Local().Find(call.Service); svc != nil {
			defer func(id string, age time.Duration) { call.ID, call.Age = id, age }(call.ID, call.Age)
			done, err := c.callLocal(ctx, svc, call, chain, now, timeout)
			if done {
				return err
			}
			since := now
			now = time.Now()
			if timeout -= now.Sub(since); timeout < time.Millisecond {
				return err
			}
		}
	}
	return c.send(ctx, call, chain, now, timeout)
}

// timeout is the call's own time, or the client's default when neither the call
// nor ctx has one; never more than ctx has left.
func (c *Client) timeout(ctx context.Context, call *rpc.Call, now time.Time) time.Duration {
	deadline, bounded := ctx.Deadline()
	timeout := call.Timeout
	if timeout <= 0 && !bounded {
		timeout = c.config.Timeout
	}
	if bounded && (timeout <= 0 || deadline.Sub(now) < timeout) {
		timeout = deadline.Sub(now)
	}
	return min(timeout, bus.MaxTimeout)
}

func checkCall(call *rpc.Call) error {
	if err := rpc.ValidateService(call.Service); err != nil {
		return rpc.InvalidArgument.Errorf("%w", err)
	}
	if err := rpc.ValidateMethod(call.Method); err != nil && (call.Object == "" || !bus.SystemMethod(call.Method)) {
		return rpc.InvalidArgument.Errorf("%w", err)
	}
	if call.Object != "" {
		if err := rpc.ValidateObjectID(call.Object); err != nil {
			return rpc.InvalidArgument.Errorf("%w", err)
		}
	}
	if call.ID != "" {
		if err := bus.ValidateID(call.ID); err != nil {
			return err
		}
	}
	for name, values := range call.Header {
		for _, v := range values {
			if err := rpc.ValidateHeader(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// Service returns a caller that sends every call to the service deployed under
// name, whatever service the descriptor names: c.Service("orders-staging").
func (c *Client) Service(name string) *Binding { return &Binding{next: c, service: name} }

// Binding is a caller that is bound to one deployed service, or to one of its
// entrypoints.
type Binding struct {
	next       rpc.Caller
	service    string
	entrypoint string
}

// Entrypoint returns a caller for the methods of a named entrypoint.
func (b *Binding) Entrypoint(name string) *Binding {
	bound := *b
	bound.entrypoint = name
	return &bound
}

// Call makes one call. See rpc.Caller.
func (b *Binding) Call(ctx context.Context, call *rpc.Call) error {
	service, method := call.Service, call.Method
	call.Service = b.service
	if b.entrypoint != "" {
		call.Method = b.entrypoint + "." + method
	}
	err := b.next.Call(ctx, call)
	call.Service, call.Method = service, method
	return err
}
