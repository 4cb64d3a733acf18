package server

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"rpc.do"
)

// endpoint is one method as the dispatch sees it, without types.
type endpoint struct {
	name   string // as in the subject, with the entrypoint
	spec   rpc.Spec
	params reflect.Type // for discovery
	result reflect.Type
	gate   *gate
	stats  stats
	object bool // a method of objects
	turn   bool // that has the object to itself

	// newFrame makes values for one call's params and result.
	newFrame func() (params, result any)
	// check validates params; nil when their type has nothing to check.
	check func(params any) error
	// run is the handler in its interceptors.
	run rpc.UnaryFunc
}

// Handle gives a method its handler. The handler gets the call's params and a
// context that ends with the call's deadline, when the caller gives up, or when
// a shutdown runs out of time. What it returns goes to the caller: a coded
// error as it is, any other error as Internal with the text kept in the log.
//
// Params with a method Validate() error are checked before the handler runs;
// what it returns is sent as InvalidArgument unless it has a code.
//
// Handle panics when the method is registered already or fn is nil.
func Handle[P, R any](to Registrar, m rpc.Method[P, R], fn func(context.Context, P) (R, error), opts ...MethodOption) {
	type frame struct {
		params P
		result R
	}
	register(to, &endpoint{
		spec:   *m.Spec(),
		params: reflect.TypeFor[P](),
		result: reflect.TypeFor[R](),
		newFrame: func() (any, any) {
			f := new(frame)
			return &f.params, &f.result
		},
		check: validator[P](),
		run: func(ctx context.Context, call *rpc.Call) error {
			result, err := fn(ctx, *call.Params.(*P))
			if err != nil {
				return err
			}
			*call.Result.(*R) = result
			return nil
		},
	}, opts)
	if fn == nil {
		panic(fmt.Sprintf("server: %s: the handler of %s is nil", to.entrypoint().service.name, m.Spec().Name()))
	}
}

// Validator is implemented by params that can check themselves.
type Validator interface {
	Validate() error
}

// validator returns the check for params of type P, nil when there is none.
func validator[P any]() func(any) error {
	if _, ok := any((*P)(nil)).(Validator); ok {
		return func(params any) error { return params.(Validator).Validate() }
	}
	if _, ok := any(*new(P)).(Validator); !ok {
		return nil
	}
	return func(params any) error { // P is a pointer
		p := *params.(*P)
		if reflect.ValueOf(p).IsNil() {
			return rpc.InvalidArgument.Errorf("params: they can't be null")
		}
		return any(p).(Validator).Validate()
	}
}

// MethodOption changes how one method is served.
type MethodOption func(*methodBounds)

type methodBounds struct{ concurrency, queue int }

// Concurrency gives a method bounds of its own: at most n of its calls run at
// once, apart from the service's own bound.
func Concurrency(n int) MethodOption {
	if n < 1 {
		panic("server: a method's concurrency must be at least 1")
	}
	return func(b *methodBounds) { b.concurrency = n }
}

// Queue bounds how many calls of a method with its own Concurrency wait.
// Defaults to four times the concurrency.
func Queue(n int) MethodOption {
	if n < 0 {
		panic("server: a method's queue can't be negative")
	}
	return func(b *methodBounds) { b.queue = n }
}

func register(to Registrar, ep *endpoint, opts []MethodOption) {
	entry := to.entrypoint()
	s := entry.service
	if rpc.ReservedMethod(ep.spec.Method) {
		panic(fmt.Sprintf("server: %s: the method name %s is reserved", s.name, ep.spec.Method))
	}
	ep.name = ep.spec.Method
	if entry.name != "" {
		ep.name = entry.name + "." + ep.name
	}
	if err := rpc.ValidateMethod(ep.name); err != nil {
		panic("server: " + s.name + ": " + err.Error())
	}

	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.mustRegister("method " + ep.name)
	if _, taken := s.endpoints[ep.name]; taken {
		panic(fmt.Sprintf("server: %s has the method %s already", s.name, ep.name))
	}
	if _, taken := s.entrypoints[firstToken(ep.name)]; taken && entry.name == "" {
		panic(fmt.Sprintf("server: %s: the method %s begins with the name of an entrypoint", s.name, ep.name))
	}
	bounds := methodBounds{queue: -1}
	for _, opt := range opts {
		opt(&bounds)
	}
	ep.gate = s.gate
	if bounds.concurrency > 0 {
		if bounds.queue < 0 {
			bounds.queue = 4 * bounds.concurrency
		}
		ep.gate = newGate(bounds.concurrency, bounds.queue, s.config.QueueBytes)
	} else if bounds.queue >= 0 {
		panic(fmt.Sprintf("server: %s: the method %s has a Queue without a Concurrency", s.name, ep.name))
	}
	ep.run = rpc.Chain(checked(ep), entry.interceptors...)
	s.endpoints[ep.name] = ep
}

// checked is the handler behind the check of its params: inside the
// interceptors, so that who may not call learns nothing about the params.
func checked(ep *endpoint) rpc.UnaryFunc {
	if ep.check == nil {
		return ep.run
	}
	check, run := ep.check, ep.run
	return func(ctx context.Context, call *rpc.Call) error {
		if err := check(call.Params); err != nil {
			return invalid(err)
		}
		return run(ctx, call)
	}
}

func firstToken(name string) string {
	first, _, _ := strings.Cut(name, ".")
	return first
}
