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

type infoKey struct{}

// WithCallInfo returns a context that carries info. Transports use it, and
// tests of handlers that look at it.
func WithCallInfo(ctx context.Context, info *CallInfo) context.Context {
	return context.WithValue(ctx, infoKey{}, info)
}

// CallInfoFrom returns what is known of the call that ctx belongs to; false
// outside a call.
func CallInfoFrom(ctx context.Context) (CallInfo, bool) {
	info, ok := ctx.Value(infoKey{}).(*CallInfo)
	if !ok {
		return CallInfo{}, false
	}
	return *info, true
}
