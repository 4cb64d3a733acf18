package rpc

import (
	"context"
	"time"
)

// CallInfo tells a handler about the call it serves.
type CallInfo struct {
	Service string
	Method  string
	// Object is the id of the object, empty for a method of a service.
	Object string
	// Chain has the object turns that run while this call does, the outermost
	// first: a turn waits for the calls it makes. It is not to be changed.
	Chain []string
	// Caller is the name the caller gives itself; it is not authenticated.
	Caller string
	// ID identifies the call; its retries have the same. Use it as the key that
	// makes effects outside idempotent.
	ID string
	// Attempt counts from 1.
	Attempt int
	// Header is the caller's metadata. It is not to be changed.
	Header Header
	// Deadline is when the caller stops waiting.
	Deadline time.Time
}

// CallInfoKey is the key under which the context of a call has a
// CallInfoSource. It is for transports; others use CallInfoFrom.
type CallInfoKey struct{}

// CallInfoSource tells about a call. A transport's own record of the call is
// one, so that a call nobody asks about costs nothing.
type CallInfoSource interface {
	CallInfo() CallInfo
}

// CallInfo returns i: what is known already is a source.
func (i CallInfo) CallInfo() CallInfo { return i }

// WithCallInfo returns a context that carries info, for tests of handlers that
// look at it.
func WithCallInfo(ctx context.Context, info CallInfo) context.Context {
	return context.WithValue(ctx, CallInfoKey{}, info)
}

// CallInfoFrom returns what is known of the call that ctx belongs to; false
// outside a call.
func CallInfoFrom(ctx context.Context) (CallInfo, bool) {
	source, ok := ctx.Value(CallInfoKey{}).(CallInfoSource)
	if !ok {
		return CallInfo{}, false
	}
	return source.CallInfo(), true
}
