package client

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"rpc.do"
)

// Coalesce returns an interceptor that makes one call of identical ones: while
// a call of an idempotent method waits for its answer, others with the same
// service, method, object, params and metadata share its outcome. Each caller
// still has a deadline of its own, and the shared call is cancelled when the
// last of them has gone.
//
// Calls are compared as they are when they reach it: put it behind every
// interceptor that adds metadata, such as Authorization, or changes the call in
// another way, best as the last one. The interceptors behind it run once for
// all callers, with the values of the first caller's context: one that took the
// user from there would give that user's result to the others.
//
// A panic of what is behind it is an Internal error for all of them.
//
// Params and results must be values that encoding/json can write and read back.
// Calls that are not idempotent, or one-way, are not touched.
func Coalesce() rpc.Interceptor {
	c := &coalescer{flights: map[string]*flight{}}
	return rpc.Interceptor{Name: "coalesce", Unary: c.wrap}
}

type coalescer struct {
	mu      sync.Mutex
	flights map[string]*flight
}

// flight is one call that is under way for one or more callers.
type flight struct {
	callers  int // guarded by the coalescer
	deadline time.Time
	cancel   context.CancelFunc
	done     chan struct{}
	result   []byte // JSON
	err      error
}

// timedOut reports whether the flight failed because the time of the caller who
// started it was over.
func (f *flight) timedOut() bool {
	const slack = 10 * time.Millisecond // the service may notice first
	return !f.deadline.IsZero() && rpc.CodeOf(f.err) == rpc.DeadlineExceeded && (!rpc.IsRemote(f.err) || time.Until(f.deadline) < slack)
}

func (c *coalescer) wrap(next rpc.UnaryFunc) rpc.UnaryFunc {
	return func(ctx context.Context, call *rpc.Call) error {
		if !call.Idempotent || call.OneWay || ctx.Err() != nil {
			return next(ctx, call)
		}
		key, params, err := flightKey(call)
		if err != nil {
			return rpc.InvalidArgument.Errorf("%s: the params can't be compared with those of other calls: %w", call.Name(), err)
		}
		ctx, cancel := withTimeout(ctx, call)
		defer cancel()
		for {
			f, mine := c.join(ctx, key, params, call, next)
			err := c.await(ctx, f, call)
			c.leave(key, f)
			// A flight has the time of the caller who started it; who has more
			// of it left starts another.
			if err == nil || mine || ctx.Err() != nil || !f.timedOut() || !later(ctx, f.deadline) {
				return err
			}
		}
	}
}

// await waits for the flight's outcome on behalf of one caller.
func (c *coalescer) await(ctx context.Context, f *flight, call *rpc.Call) error {
	select {
	case <-f.done:
	case <-ctx.Done():
		return rpc.CodeOf(ctx.Err()).Errorf("%s: gave up waiting for the answer that is shared with other calls: %w", call.Name(), ctx.Err())
	}
	if f.err != nil {
		return f.err
	}
	if err := json.Unmarshal(f.result, call.Result); err != nil {
		return rpc.Internal.Errorf("%s: the shared result can't be read: %w", call.Name(), err)
	}
	return nil
}

func withTimeout(ctx context.Context, call *rpc.Call) (context.Context, context.CancelFunc) {
	if call.Timeout > 0 {
		return context.WithTimeout(ctx, call.Timeout)
	}
	return ctx, func() {}
}

// later reports whether ctx has time beyond t.
func later(ctx context.Context, t time.Time) bool {
	deadline, bounded := ctx.Deadline()
	return !bounded || deadline.After(t)
}

// join finds the flight for key, or starts it; mine reports the latter.
func (c *coalescer) join(ctx context.Context, key string, params []byte, call *rpc.Call, next rpc.UnaryFunc) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil {
		f.callers++
		return f, false
	}
	// The call and its values are the caller's, who may be gone before it ends.
	shared := *call
	shared.Header = maps.Clone(call.Header)
	shared.Params = reflect.New(reflect.TypeOf(call.Params).Elem()).Interface()
	shared.Result = reflect.New(reflect.TypeOf(call.Result).Elem()).Interface()
	f = &flight{callers: 1, done: make(chan struct{})}
	f.deadline, _ = ctx.Deadline()
	ctx, f.cancel = detached(ctx)
	c.flights[key] = f
	go c.fly(ctx, key, f, params, &shared, next)
	return f, true
}

// detached keeps the values and the deadline of ctx, not its end: other callers
// may want the answer still. Every flight ends by its call's deadline.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if bounded {
		return context.WithDeadline(ctx, deadline)
	}
	return context.WithCancel(ctx)
}

func (c *coalescer) fly(ctx context.Context, key string, f *flight, params []byte, call *rpc.Call, next rpc.UnaryFunc) {
	defer close(f.done)
	defer f.cancel()
	defer c.land(key, f)
	// It stays when the goroutine does not come to the end: nobody above it
	// would recover a panic, or notice runtime.Goexit.
	f.err = rpc.Internal.Errorf("%s: a coalesced call panicked", call.Name())
	defer func() {
		if value := recover(); value != nil {
			cause := fmt.Errorf("panic: %v\n\n%s", value, debug.Stack())
			f.err = rpc.Internal.Errorf("%s: a coalesced call panicked%w", call.Name(), unsaid{cause})
		}
	}()
	f.result, f.err = share(ctx, params, call, next)
}

// unsaid is a cause that stays out of the message, which may be passed on.
type unsaid struct{ error }

func (unsaid) Error() string   { return "" }
func (u unsaid) Unwrap() error { return u.error }

// share makes the call, whose params come as JSON and whose result goes so.
func share(ctx context.Context, params []byte, call *rpc.Call, next rpc.UnaryFunc) ([]byte, error) {
	if err := json.Unmarshal(params, call.Params); err != nil {
		return nil, rpc.InvalidArgument.Errorf("%s: the params can't be read back from JSON: %w", call.Name(), err)
	}
	if err := next(ctx, call); err != nil {
		return nil, err
	}
	result, err := json.Marshal(call.Result)
	if err != nil {
		return nil, rpc.Internal.Errorf("%s: the result can't be shared as JSON: %w", call.Name(), err)
	}
	return result, nil
}

// land says that the flight is over: the next call starts another.
func (c *coalescer) land(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
}

// leave ends the flight when nobody waits for it any more.
func (c *coalescer) leave(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.callers--
	if f.callers == 0 {
		f.cancel()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
	}
}

// flightKey returns what identical calls have in common, and their params.
func flightKey(call *rpc.Call) (key string, params []byte, err error) {
	if params, err = json.Marshal(call.Params); err != nil {
		return "", nil, err
	}
	var b strings.Builder
	part := func(s string) { // with its length: nobody has checked yet what is in it
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	part(call.Service)
	part(call.Method)
	part(call.Object)
	part(call.ID)
	names := make([]string, 0, len(call.Header))
	for name := range call.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		part(name)
		part(strconv.Itoa(len(call.Header[name])))
		for _, v := range call.Header[name] {
			part(v)
		}
	}
	b.WriteByte('\n')
	b.Write(params)
	return b.String(), params, nil
}
