package pipeline

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"rpc.do"
	"rpc.do/server"
)

// On has a service handle an event. The handler's name is for good: it is how the
// bus knows, together with that of the service, which events the handler has had.
// All instances share the events; each goes to one of them.
//
// When fn returns nil the event is done. When it returns an error, or panics, the
// event is tried again later, until its attempts are used up: then, or at once
// when the error is terminal (rpc.Terminal) or has one of the codes
// InvalidArgument, NotFound, PermissionDenied, Unauthenticated and Unimplemented,
// it is kept as a dead letter. So are events that can't be decoded, and those
// that more than 64 others have led to. An event may come more than once: when an
// instance dies, or is cut off, while it handles it.
//
// The context ends with the attempt's time, or when a shutdown runs out of time.
// What is called and sent with it says that it is due to the event, and
// rpc.CallInfoFrom tells the attempt.
//
// On panics when the name is malformed or taken, fn is nil, or the service has
// been run.
func On[T any](svc *server.Service, event rpc.Event[T], name string, fn func(context.Context, Event[T]) error, opts ...HandlerOption) {
	register(svc, event.Name(), name, fn == nil, one(fn), opts)
}

// OnPattern is On for all events that match a pattern, see Pattern. Their data
// are decoded as T; with RawEvent they are left as they are.
func OnPattern[T any](svc *server.Service, pattern, name string, fn func(context.Context, Event[T]) error, opts ...HandlerOption) {
	register(svc, pattern, name, fn == nil, one(fn), opts)
}

// OnBatch is On for a handler that gets several events at a time, in the order of
// the stream, see Batch. An error of fn is that of all of them; with a *PartError
// those that it does not name are done. What is sent from it does not say which
// event it is due to, but counts as led to by one more than any of them.
func OnBatch[T any](svc *server.Service, event rpc.Event[T], name string, fn func(context.Context, []Event[T]) error, opts ...HandlerOption) {
	register(svc, event.Name(), name, fn == nil, typed{
		event: reflect.TypeFor[T](), batch: true, decode: decodeDelivery[T],
		call: func(ctx context.Context, ds []*delivery) error {
			events := make([]Event[T], len(ds))
			for i, d := range ds {
				e, err := eventOf[T](d)
				if err != nil {
					return err
				}
				events[i] = e
			}
			return fn(ctx, events)
		},
	}, opts)
}

// typed is what is left of a handler's types.
type typed struct {
	event  reflect.Type
	batch  bool
	decode func(*delivery) error
	call   func(context.Context, []*delivery) error
}

func one[T any](fn func(context.Context, Event[T]) error) typed {
	return typed{
		event: reflect.TypeFor[T](), decode: decodeDelivery[T],
		call: func(ctx context.Context, ds []*delivery) error {
			e, err := eventOf[T](ds[0])
			if err != nil {
				return err
			}
			return fn(ctx, e)
		},
	}
}

// eventOf returns the event for an attempt, whose data no other attempt has had.
func eventOf[T any](d *delivery) (Event[T], error) {
	if d.used {
		if err := decodeDelivery[T](d); err != nil {
			return Event[T]{}, err
		}
	}
	d.used = true
	e := *d.event.(*Event[T])
	e.Attempt = d.attempt
	return e, nil
}

// PartError is the error of a handler of batches of which only some events have
// failed: Errs has what they have failed with, by their place in the batch. One
// that names an event that is not in the batch, or no error, or nothing, is the
// error of all.
type PartError struct{ Errs map[int]error }

// Error says how many have failed, and with what one of them has.
func (e *PartError) Error() string {
	for _, i := range slices.Sorted(maps.Keys(e.Errs)) {
		return fmt.Sprintf("%d of the batch failed, the one at %d with: %v", len(e.Errs), i, e.Errs[i])
	}
	return "none of the batch is said to have failed"
}

func decodeDelivery[T any](d *delivery) error {
	e := newEvent[T](&d.meta, d.subject, d.header, d.data, d.stored)
	e.Again = d.again
	d.event = &e
	return decode(d.src.h.workers.bus, &e)
}

// register adds a handler to the service's component for events.
func register(svc *server.Service, pattern, name string, nothing bool, t typed, opts []HandlerOption) {
	fail := func(format string, args ...any) {
		panic(fmt.Sprintf("pipeline: the handler %q of %s: ", name, svc.Name()) + fmt.Sprintf(format, args...))
	}
	if err := rpc.ValidateService(name); err != nil {
		fail("its name must be like that of a service: %v", err)
	}
	if nothing {
		fail("its function is nil")
	}
	cfg := newHandlerConfig(opts)
	if cfg.event != nil && cfg.event != t.event {
		fail("Filter, OrderBy or Debounce is for events with %v, the handler's have %v", cfg.event, t.event)
	}
	if !t.batch && cfg.batch > 0 {
		fail("Batch is for OnBatch")
	}
	if t.batch && cfg.batch == 0 {
		cfg.batch, cfg.wait = defaultBatch, defaultWait
	}
	if t.batch && cfg.key != nil {
		fail("a batch can't be ordered or debounced by a key: use On")
	}
	h := &handler{service: svc.Name(), name: name, durable: svc.Name() + "-" + name, cfg: cfg, typed: t, version: svc.Version()}
	for _, text := range append([]string{pattern}, cfg.also...) {
		p, err := ParsePattern(text)
		if err != nil {
			fail("%v", err)
		}
		h.patterns = append(h.patterns, p)
	}
	w := svc.Attach(attachedWorkers{}, func() server.Component { return newWorkers(svc) }).(*workers)
	for _, other := range w.handlers {
		if other.name == name {
			fail("the service has one of that name already")
		}
	}
	if !w.add(h) {
		fail("it is registered after Run")
	}
}

// attachedWorkers is the key of the component that a service has for its
// handlers.
type attachedWorkers struct{}
