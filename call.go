package rpc

import (
	"context"
	"time"
)

// Caller sends calls: the one seam between typed descriptors and a transport.
// Package client has the one for the bus; a test writes its own:
//
//	fake := rpc.UnaryFunc(func(ctx context.Context, call *rpc.Call) error {
//		*call.Result.(*Order) = Order{ID: "1"}
//		return nil
//	})
//
// A Caller is used by many goroutines at once. Call returns when the result is
// in call.Result, or an error whose code CodeOf tells, at the latest when ctx
// or the call's own time ends.
type Caller interface {
	Call(ctx context.Context, call *Call) error
}

// Call is one call without its types, as transports and interceptors see it.
// Who makes the Call owns it until the Caller returns; a Caller does not keep it.
type Call struct {
	// Service and Method address the call, as "orders" and "place".
	Service string
	Method  string

	// Object is the id of the object an object method is called on; empty for
	// a method of a service.
	Object string

	// ID identifies the call: all its attempts carry the same one. A caller
	// leaves it empty to have one made.
	ID string

	// Caller is the name the caller gives itself. It is not authenticated. A
	// caller sets it only to pass on a call in somebody else's name.
	Caller string

	// Attempt counts from 1. Set on the serving side only.
	Attempt int

	// Age is how long ago the first attempt was made. A caller that passes on a
	// call which was made before sets it along with ID; zero means now.
	Age time.Duration

	// Header is the user's metadata. Names that begin with "Rpc-" or "Nats-"
	// are the system's and are refused.
	Header Header

	// Timeout is the call's own time, if it has one beside ctx.
	Timeout time.Duration

	// Idempotent says that running the call twice does no harm.
	Idempotent bool

	// OneWay says that no answer is wanted. Result is nil then.
	OneWay bool

	// Params and Result point to the values: a *P and a *R. Methods registered
	// in the class style have params of a type of package server's own.
	Params any
	Result any
}

// Name returns the call's "<service>.<method>".
func (c *Call) Name() string { return c.Service + "." + c.Method }

// UnaryFunc does one call: it sends it or, on the serving side, runs it. It is
// a Caller.
type UnaryFunc func(ctx context.Context, call *Call) error

// Call calls f.
func (f UnaryFunc) Call(ctx context.Context, call *Call) error { return f(ctx, call) }

// Interceptor wraps whole calls, on either side. It sees the params before and
// the result after, may change both, may answer in next's place, and may call
// next more than once.
type Interceptor struct {
	// Name says which one it is. A service logs the names of its interceptors,
	// in their order, when it starts.
	Name string

	// Unary wraps a call that has one request and one reply. It is called
	// once, at set-up; the function it returns is called by many goroutines.
	// Nil wraps nothing.
	Unary func(next UnaryFunc) UnaryFunc
}

// Chain wraps final in the interceptors; the first is the outermost.
func Chain(final UnaryFunc, interceptors ...Interceptor) UnaryFunc {
	for i := len(interceptors) - 1; i >= 0; i-- {
		if wrap := interceptors[i].Unary; wrap != nil {
			final = wrap(final)
		}
	}
	return final
}
