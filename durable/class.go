package durable

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"rpc.do"
	"rpc.do/durable/internal/ownership"
	"rpc.do/server"
)

// Class is a class of objects whose state is an S.
type Class[S any] struct{ *class }

// Serve makes svc serve a class of objects: when svc runs, this instance takes
// its share of them. Their methods are given by Handle and View. The state of an
// object that has never been is the zero S.
//
// It panics when the name or cfg are malformed or svc has the class already.
func Serve[S any](svc *server.Service, name string, cfg Config) *Class[S] {
	k := kind{
		fresh: func() any { return new(S) },
		decode: func(data []byte) (any, error) {
			s := new(S)
			return s, json.Unmarshal(data, s)
		},
	}
	if flat(reflect.TypeFor[S]()) {
		k.copy = func(state any) any {
			s := *state.(*S)
			return &s
		}
	}
	return &Class[S]{newClass(svc, name, cfg, k)}
}

// Handle gives a method of the class its handler. It has the object to itself:
// no other turn of the object runs at the same time, in this process or any
// other. When it returns nil its changes are stored, then the caller gets the
// result; when it returns an error or panics nothing has changed.
//
// A handler must not keep s, or what it points to, beyond its return, and must
// not touch it from another goroutine then.
func Handle[S, P, R any](c *Class[S], m rpc.ObjectMethod[P, R], fn func(*S, Context, P) (R, error)) {
	c.mustHaveHandler(m.Spec(), fn == nil)
	server.HandleObject(c.service, m, true, func(ctx context.Context, call server.ObjectCall, params P, result *R) error {
		return c.turn(ctx, call, result, detacher(result), func(t *turn, state any) (err error) {
			*result, err = fn(state.(*S), t, params)
			return err
		})
	})
}

// detacher returns the function that makes a result share no memory with the
// object, nil for a type whose copies share none.
func detacher[R any](result *R) func() error {
	if flat(reflect.TypeFor[R]()) {
		return nil
	}
	return func() error {
		data, err := json.Marshal(result)
		if err != nil {
			return rpc.Internal.Errorf("the result can't be written as JSON: %w", err)
		}
		var detached R
		if err := json.Unmarshal(data, &detached); err != nil {
			return rpc.Internal.Errorf("the result can't be read back from JSON: %w", err)
		}
		*result = detached
		return nil
	}
}

// View gives a method of the class a handler that only reads. It gets a copy of
// the state as the last commit left it, and runs beside turns and other views.
func View[S, P, R any](c *Class[S], m rpc.ObjectMethod[P, R], fn func(S, ReadContext, P) (R, error)) {
	c.mustHaveHandler(m.Spec(), fn == nil)
	server.HandleObject(c.service, m, false, func(ctx context.Context, call server.ObjectCall, params P, result *R) error {
		return c.view(ctx, call, func(v *view, state any) (err error) {
			*result, err = fn(*state.(*S), v, params)
			return err
		})
	})
}

// OnInit has fn run before anything else whenever an object comes into memory:
// to set up fields that are not stored, or what a new object begins with. It is
// a turn of its own: what it changes of the state is stored. While it fails the
// object's calls fail with Unavailable, and each one has it tried again.
//
// It runs again after a turn that failed, since the state is read anew then.
func OnInit[S any](c *Class[S], fn func(*S, Context) error) {
	c.mustHaveHandler(&rpc.Spec{Service: c.name, Method: "$init"}, fn == nil)
	c.init = func(t *turn, state any) error { return fn(state.(*S), t) }
}

// OnAlarm has fn run when the alarm of an object is due. It is a turn; the alarm
// is not set any more while it runs, so that it can set the next one. When it
// fails, by an error, a panic or taking too long, nothing has changed and the
// alarm stays set: fn runs once more, after 2 seconds, then after twice as long
// each time, 6 times at most. Then the alarm is taken off and kept as a dead
// letter, see DeadAlarm. Setting or deleting the alarm meanwhile ends that.
//
// An alarm fires at least once. What fn changes of the object happens exactly
// once, as with any turn; for effects elsewhere, rpc.CallInfo.ID is the same in
// all attempts of an alarm, and no other alarm has it. An attempt that its
// process does not survive counts too, but for the first.
//
// The server's timer makes an alarm up to a quarter of a second late, when it is
// set for less ahead than that or others are due just before. While the object
// is paused its alarm waits, and then runs within 10 seconds.
//
// Interceptors see the call as the method "$alarm", which comes without the
// headers of whoever set the alarm. Those that refuse it hold the alarm up; that
// is no attempt.
func OnAlarm[S any](c *Class[S], fn func(*S, Context, Alarm) error) {
	c.mustHaveHandler(&rpc.Spec{Service: c.name, Method: "$alarm"}, fn == nil)
	c.alarm = func(t *turn, state any, a Alarm) error { return fn(state.(*S), t, a) }
}

// Migrate makes states that were stored with the schema version from fit for
// version from+1: fn gets the stored JSON and returns the new. A class with the
// Schema n needs one for each version before n that objects may have. What it
// returns is stored with the object's next change.
func Migrate[S any](c *Class[S], from int, fn func(state json.RawMessage) (json.RawMessage, error)) {
	if from < 0 || from >= c.cfg.Schema || c.migrations[from] != nil || fn == nil {
		panic(fmt.Sprintf("durable: %s: Migrate from version %d: want each of 0 to %d once, and a function", c.name, from, c.cfg.Schema-1))
	}
	c.migrations[from] = fn
}

func (c *class) mustHaveHandler(spec *rpc.Spec, missing bool) {
	if missing {
		panic("durable: " + spec.Name() + ": the handler is nil")
	}
}

// kind is what the class knows of its state's type.
type kind struct {
	fresh  func() any
	decode func([]byte) (any, error)
	copy   func(any) any // nil when a copy of the struct shares memory with it
}

// flat reports whether copies of a value of type t share nothing, and have
// nothing that is not stored.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return true
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !f.IsExported() || f.Tag.Get("json") == "-" || !flat(f.Type) {
				return false
			}
		}
		return true
	}
	return false
}

// attachedMember is the key of the component that a service has for its classes.
type attachedMember struct{}

func newClass(svc *server.Service, name string, cfg Config, k kind) *class {
	if err := rpc.ValidateService(name); err != nil {
		panic("durable: class: " + err.Error())
	}
	cfg = cfg.withDefaults()
	switch {
	case name == svc.Name() || cfg.Formerly == svc.Name():
		panic(fmt.Sprintf("durable: the class %s has the name of its service: their calls would have the same subjects", svc.Name()))
	case cfg.Lease < minLease:
		panic(fmt.Sprintf("durable: %s: a lease of %v is too short, want at least %v", name, cfg.Lease, minLease))
	case cfg.ClockMargin > cfg.Lease/3:
		panic(fmt.Sprintf("durable: %s: a clock margin of %v is too much for a lease of %v, want at most a third", name, cfg.ClockMargin, cfg.Lease))
	case cfg.History > 64:
		panic(fmt.Sprintf("durable: %s: a history of %d is too long, want at most 64", name, cfg.History))
	case cfg.Schema < 0:
		panic(fmt.Sprintf("durable: %s: a schema version can't be negative", name))
	}
	c := &class{
		name: name, stored: name, cfg: cfg, kind: k, bus: svc.Bus(),
		migrations: make([]func(json.RawMessage) (json.RawMessage, error), cfg.Schema),
	}
	if cfg.Formerly != "" {
		if err := rpc.ValidateService(cfg.Formerly); err != nil || cfg.Formerly == name {
			panic(fmt.Sprintf("durable: %s: Formerly %q is not another class's name", name, cfg.Formerly))
		}
		c.stored = cfg.Formerly
	}
	c.log = c.bus.Logger().With().Str("class", name).Logger()
	if cfg.Logger != nil {
		c.log = cfg.Logger.With().Str("class", name).Logger()
	}
	c.service = server.New(c.bus, name, server.Config{
		Version:     svc.Version(),
		Description: "A class of durable objects, served by " + svc.Name() + ".", Logger: cfg.Logger, Interceptors: cfg.Interceptors,
		DrainTimeout: time.Second, // its calls have ended by then
	})
	c.service.ServeObjects(c)
	registerSystem(c)
	g := svc.Attach(attachedMember{}, func() server.Component {
		return &group{bus: c.bus, member: ownership.New(c.bus, ownership.Config{
			Name: svc.Name() + "/" + svc.ID(), Lease: cfg.Lease, Margin: cfg.ClockMargin, Logger: *c.bus.Logger(),
		})}
	}).(*group)
	for _, other := range g.classes {
		if other.name == name || other.stored == c.stored {
			panic(fmt.Sprintf("durable: %s serves the class %s already", svc.Name(), name))
		}
	}
	c.member = g.member
	c.member.Add(c.stored, c)
	g.classes = append(g.classes, c)
	return c
}
