package rpc

import (
	"context"
	"time"
)

// None is the params of a method that takes none, or the result of one that
// returns none. On the wire it is null; as params an empty payload and {} are
// taken too.
type None struct{}

// MarshalJSON writes null.
func (None) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// Spec is what a descriptor says of its method. It does not change.
type Spec struct {
	// Service is the first token of the name, Method the rest.
	Service string
	Method  string
	// Idempotent says that running a call twice does no harm.
	Idempotent bool
	// Timeout is the method's default time for a call; zero when unsaid.
	Timeout time.Duration
	// Description is one line for people.
	Description string
}

// Name returns "<service>.<method>".
func (s *Spec) Name() string { return s.Service + "." + s.Method }

// MethodOption says something about a method when it is defined.
type MethodOption func(*Spec)

// Idempotent declares that running a call of the method twice does no harm, so
// that a call whose fate is unknown is sent again.
func Idempotent() MethodOption { return func(s *Spec) { s.Idempotent = true } }

// Timeout sets how long a call of the method may take when the caller does not
// say. It defaults to the client's own default, 5 seconds.
func Timeout(d time.Duration) MethodOption {
	return func(s *Spec) {
		if d <= 0 {
			panic("rpc: a method's timeout must be positive")
		}
		s.Timeout = d
	}
}

// Description is shown by discovery tools.
func Description(text string) MethodOption { return func(s *Spec) { s.Description = text } }

func newSpec(kind, name string, opts []MethodOption) *Spec {
	service, method, err := SplitName(name)
	if err != nil {
		panic("rpc: " + kind + ": " + err.Error())
	}
	s := &Spec{Service: service, Method: method}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Method describes a method of a service: its name and the types of its params
// and result. It is made once, as a package variable, and used by any number of
// goroutines.
type Method[P, R any] struct{ spec *Spec }

// NewMethod describes the method with the name "<service>.<method>", such as
// "orders.place". It panics when the name is malformed or reserved.
func NewMethod[P, R any](name string, opts ...MethodOption) Method[P, R] {
	return Method[P, R]{newSpec("NewMethod", name, opts)}
}

// Spec returns the description without its types. It panics, as calls do, when
// the method was not made by NewMethod.
func (m Method[P, R]) Spec() *Spec {
	if m.spec == nil {
		panic("rpc: a Method made without NewMethod")
	}
	return m.spec
}

// Call calls the method and waits for its result. The call ends at the earliest
// of ctx's deadline, the method's own timeout and, when neither is set, the
// caller's default.
//
// The error, if any, is an *Error when c is a client.Client.
func (m Method[P, R]) Call(ctx context.Context, c Caller, params P, opts ...CallOption) (R, error) {
	return invoke[P, R](ctx, c, m.Spec(), "", params, opts)
}

// Go starts the call and returns at once. The call ends as one made by Call
// does, whether or not anybody waits for the future.
func (m Method[P, R]) Go(ctx context.Context, c Caller, params P, opts ...CallOption) *Future[R] {
	spec := m.Spec()
	return start(func() (R, error) { return invoke[P, R](ctx, c, spec, "", params, opts) })
}

// Send sends the call and wants no answer: a nil error says that it was handed
// to the bus, not that anybody received it.
func (m Method[P, R]) Send(ctx context.Context, c Caller, params P, opts ...CallOption) error {
	call := newCall(m.Spec(), "", opts)
	call.Params, call.OneWay = &params, true
	return c.Call(ctx, call)
}

// frame keeps a call and its values in one allocation.
type frame[P, R any] struct {
	call   Call
	params P
	result R
}

func invoke[P, R any](ctx context.Context, c Caller, spec *Spec, object string, params P, opts []CallOption) (R, error) {
	f := &frame[P, R]{params: params}
	fillCall(&f.call, spec, object, opts)
	f.call.Params, f.call.Result = &f.params, &f.result
	if err := c.Call(ctx, &f.call); err != nil {
		var zero R
		return zero, err
	}
	return f.result, nil
}

func newCall(spec *Spec, object string, opts []CallOption) *Call {
	call := new(Call)
	fillCall(call, spec, object, opts)
	return call
}

func fillCall(call *Call, spec *Spec, object string, opts []CallOption) {
	call.Service, call.Method, call.Object = spec.Service, spec.Method, object
	call.Timeout, call.Idempotent = spec.Timeout, spec.Idempotent
	for _, opt := range opts {
		opt(call)
	}
}

// CallOption changes one call.
type CallOption func(*Call)

// WithTimeout sets how long the call may take, in place of the method's own
// timeout. A deadline of the context that is earlier still holds.
func WithTimeout(d time.Duration) CallOption { return func(c *Call) { c.Timeout = d } }

// WithHeader adds metadata to the call. See ValidateHeader for what is allowed;
// anything else makes the call fail with InvalidArgument.
func WithHeader(name, value string) CallOption {
	return func(c *Call) {
		if c.Header == nil {
			c.Header = Header{}
		}
		c.Header[name] = append(c.Header[name], value)
	}
}

// WithID gives the call an identity of the caller's own: one that the receiver
// of an object call or a durable call recognises when the same is sent again.
func WithID(id string) CallOption { return func(c *Call) { c.ID = id } }

// ForwardAuthorization sends the Authorization header of the call being served
// along with this one. Nothing is forwarded unless asked.
func ForwardAuthorization(ctx context.Context) CallOption {
	return func(c *Call) {
		info, ok := CallInfoFrom(ctx)
		if !ok {
			return
		}
		if v := info.Header.Get("Authorization"); v != "" {
			WithHeader("Authorization", v)(c)
		}
	}
}
