package rpc

import "context"

// ObjectMethod describes a method of a class of durable objects: its name and
// the types of its params and result. A call of it needs the object's id.
type ObjectMethod[P, R any] struct{ spec *Spec }

// NewObjectMethod describes the method with the name "<class>.<method>", such
// as "cart.add". It panics when the name is malformed or reserved.
func NewObjectMethod[P, R any](name string, opts ...MethodOption) ObjectMethod[P, R] {
	return ObjectMethod[P, R]{newSpec("NewObjectMethod", name, opts)}
}

// Spec returns the description without its types. It panics, as calls do, when
// the method was not made by NewObjectMethod.
func (m ObjectMethod[P, R]) Spec() *Spec {
	if m.spec == nil {
		panic("rpc: an ObjectMethod made without NewObjectMethod")
	}
	return m.spec
}

// Call calls the method on the object with the given id and waits for its
// result, as Method.Call does.
func (m ObjectMethod[P, R]) Call(ctx context.Context, c Caller, id string, params P, opts ...CallOption) (R, error) {
	spec := m.Spec()
	if err := ValidateObjectID(id); err != nil {
		var zero R
		return zero, InvalidArgument.Errorf("%s: %w", spec.Name(), err)
	}
	return invoke[P, R](ctx, c, spec, id, params, opts)
}

// Go starts the call and returns at once, as Method.Go does.
func (m ObjectMethod[P, R]) Go(ctx context.Context, c Caller, id string, params P, opts ...CallOption) *Future[R] {
	m.Spec() // a panic is the caller's, not the future's
	return start(func() (R, error) { return m.Call(ctx, c, id, params, opts...) })
}
