package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"unicode"

	"rpc.do"
)

// Register makes the exported methods of a type the methods of a service, in
// the style of a class:
//
//	type Math struct{ log *slog.Logger }
//
//	func (m *Math) Add(a, b float64) float64 { return a + b }
//	func (m *Math) Lookup(ctx context.Context, q Query) (Answer, error) { … }
//
//	server.Register(svc, func() *Math { return &Math{log: log} })
//
// Add is called as "math.add" with the payload [1,2]. Each call gets an
// instance of its own from newInstance, so nothing that a method keeps in its
// receiver reaches another call; newInstance may be called from many goroutines
// at once. The options hold for each method by itself.
//
// A method's name begins in lower case on the bus: Add is add, HTTPGet httpGet,
// ID id, URLs urls. Served are the methods declared on T itself, with a value
// or a pointer receiver. Never served are
//
//   - methods promoted from embedded types;
//   - methods whose names are reserved, see rpc.ReservedMethod;
//   - methods that Go calls by itself: those whose names begin with Marshal or
//     Unmarshal, and those of fmt (String, GoString, Format, Scan), of errors
//     (Error, Unwrap, Is, As), of encoding (AppendText, AppendBinary, GobEncode,
//     GobDecode), of database/sql (Scan, Value) and of log/slog (LogValue), when
//     they have the signature that is meant there.
//
// A method takes a context.Context first, if it wants one, and then its params;
// it returns (), (R), (error) or (R, error). Params and R must be such that
// encoding/json can read and write them. The payload is
//
//   - without params: null, {} or nothing;
//   - with one: the value, or an array with nothing but the value when the
//     param is not itself a slice or array;
//   - with more: an array with exactly as many elements.
//
// Every param that has a method Validate() error is checked before the call.
// Payloads may be JSON or CBOR. Interceptors see Call.Params as *Arguments, or
// as *rpc.None when there are no params, and Call.Result as a *R or *rpc.None.
// The methods have no description and are not idempotent; one that needs to be
// is registered with Handle.
//
// Each call goes through reflection, and params that a client of the same
// process sends are encoded and decoded. Handle needs neither.
//
// Register panics when T has no method to serve, when an exported method of T
// is none that can be served, and when a name is registered already.
func Register[T any](to Registrar, newInstance func() *T, opts ...MethodOption) {
	if newInstance == nil {
		panic("server: Register: newInstance is nil")
	}
	c := class{
		service:  to.entrypoint().service.name,
		instance: reflect.TypeFor[*T](),
		make: func() (reflect.Value, bool) {
			instance := newInstance()
			return reflect.ValueOf(instance), instance != nil
		},
	}
	for _, ep := range c.endpoints() {
		register(to, ep, opts)
	}
}

// class is a type whose methods are to be served.
type class struct {
	service  string
	instance reflect.Type // a pointer
	make     func() (instance reflect.Value, ok bool)
}

// endpoints returns the class's methods. It panics when one can't be served.
func (c *class) endpoints() []*endpoint {
	var eps []*endpoint
	goNames := map[string]string{}
	for m := range ownMethods(c.instance) {
		name := lowerCamel(m.Name)
		if rpc.ReservedMethod(name) || calledByGo(m) {
			continue
		}
		if err := rpc.ValidateMethod(name); err != nil {
			panic(fmt.Sprintf("server: Register: %s.%s: %v", c.instance.Elem(), m.Name, err))
		}
		if other, taken := goNames[name]; taken {
			panic(fmt.Sprintf("server: Register: %s: %s and %s would both be the method %s", c.instance.Elem(), other, m.Name, name))
		}
		goNames[name] = m.Name
		sig, problem := parseSignature(m.Func.Type())
		if problem != "" {
			panic(fmt.Sprintf("server: Register: %s.%s %s; allowed are func([context.Context,] params…) with the results (), (R), (error) or (R, error)",
				c.instance.Elem(), m.Name, problem))
		}
		sig.name = c.service + "." + name
		eps = append(eps, c.endpoint(name, m.Func, sig))
	}
	if len(eps) == 0 {
		panic(fmt.Sprintf("server: Register: %s has no method to serve: it needs an exported method of its own, with a name that is not reserved",
			c.instance.Elem()))
	}
	return eps
}

func (c *class) endpoint(name string, fn reflect.Value, sig *signature) *endpoint {
	ep := &endpoint{
		spec:   rpc.Spec{Service: c.service, Method: name},
		params: reflect.TypeFor[rpc.None](),
		result: sig.result,
	}
	newResult := func() any { return reflect.New(sig.result).Interface() }
	ep.newFrame = func() (any, any) { return new(rpc.None), newResult() }
	if len(sig.params) > 0 {
		ep.params = reflect.TypeFor[Arguments]()
		ep.newFrame = func() (any, any) { return newArguments(sig), newResult() }
		ep.check = func(params any) error { return params.(*Arguments).check() }
	}
	ep.run = func(ctx context.Context, call *rpc.Call) error {
		instance, ok := c.make()
		if !ok {
			return errNoInstance
		}
		in := make([]reflect.Value, 0, 2+len(sig.params))
		in = append(in, instance)
		if sig.takesContext {
			in = append(in, reflect.ValueOf(ctx))
		}
		if len(sig.params) > 0 {
			for _, pointer := range call.Params.(*Arguments).pointers {
				in = append(in, pointer.Elem())
			}
		}
		return sig.deliver(fn.Call(in), call.Result)
	}
	return ep
}

var errNoInstance = errors.New("server: Register: newInstance returned nil")

// lowerCamel turns an exported Go name into a method's: a run of capitals that
// begins it becomes small, but for the last when that begins the next word. A
// small s after such a run, and before a new word, makes a plural.
func lowerCamel(name string) string {
	letters := []rune(name)
	run := 0
	for run < len(letters) && unicode.IsUpper(letters[run]) {
		run++
	}
	smallNext := run < len(letters) && unicode.IsLower(letters[run])
	plural := smallNext && letters[run] == 's' && (run+1 == len(letters) || !unicode.IsLower(letters[run+1]))
	if run > 1 && smallNext && !plural {
		run--
	}
	for i := range run {
		letters[i] = unicode.ToLower(letters[i])
	}
	return string(letters)
}
