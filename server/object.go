package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// Objects knows the objects of a class: it is what package durable puts behind
// a service that serves them.
type Objects interface {
	// Place returns the place of the object that req is for. Turn says that the
	// call will have the object to itself. The error goes to the caller; with
	// ErrElsewhere the call is passed on to the owner, if it did not come on the
	// object's own subject.
	Place(req *bus.Request, turn bool) (Place, error)

	// Forward has the owner of the object run the call, whose params are JSON,
	// and returns its result as JSON.
	Forward(ctx context.Context, req *bus.Request, params []byte) ([]byte, error)
}

// ErrElsewhere says that an object is not owned here.
type ErrElsewhere struct {
	Err *rpc.Error
	// Silent says that a call that came on the object's own subject is not to be
	// answered: its owner has got it as well.
	Silent bool
}

func (e *ErrElsewhere) Error() string { return e.Err.Error() }
func (e *ErrElsewhere) Unwrap() error { return e.Err }

// errSilent says that a call is not to be answered.
var errSilent = errors.New("the object is owned elsewhere")

// Place is an object's place for one call.
type Place interface {
	// Queue is where the call waits; nil for the service's own.
	Queue() *TurnQueue
	// Leave is called once, when the call has ended.
	Leave()
}

// TurnQueue is where the turns of one object wait. It is closed when it is made:
// calls wait until Open.
type TurnQueue struct {
	gate gate
	svc  *Service
}

// NewTurnQueue makes a queue in which at most waiting calls wait.
func (s *Service) NewTurnQueue(waiting int) *TurnQueue {
	return &TurnQueue{svc: s, gate: gate{maxRunning: 1, running: 1, maxWaiting: waiting, maxBytes: s.config.QueueBytes}}
}

// Open lets the first call run; each one that ends lets the next.
func (q *TurnQueue) Open() { q.next() }

func (q *TurnQueue) next() {
	if j := q.gate.leave(); j != nil {
		q.svc.intake.call(j)
	}
}

// Fail answers the calls that wait with err. Those that come later wait.
func (q *TurnQueue) Fail(err *rpc.Error) {
	for _, j := range q.gate.clear() {
		j.fail(err)
		q.svc.release(j)
	}
}

// Waiting returns how many calls wait.
func (q *TurnQueue) Waiting() int {
	_, waiting := q.gate.load()
	return waiting
}

// ServeObjects makes s the service of a class: its methods are those given to
// HandleObject, and every call of them names an object.
func (s *Service) ServeObjects(o Objects) { s.objects = o }

// ObjectCall is a call of an object's method that has its place.
type ObjectCall struct{ job *job }

// Place returns what Objects.Place returned.
func (c ObjectCall) Place() Place { return c.job.place }

// Request returns the request. It is not to be changed.
func (c ObjectCall) Request() *bus.Request { return &c.job.req }

// Received returns when the request came in.
func (c ObjectCall) Received() time.Time { return c.job.received }

// EndTurn lets the object's next call run while this one goes on. It is called
// from the handler's goroutine.
func (c ObjectCall) EndTurn() {
	j := c.job
	if j.left || j.place.Queue() == nil {
		return
	}
	j.left = true
	if next := j.gate.leave(); next != nil {
		j.svc.intake.call(next)
	}
}

// Ended reports whether EndTurn has been called.
func (c ObjectCall) Ended() bool { return c.job.left }

// Later makes Finish end the call: the handler returns ErrLater at once, with
// the result in its place, which is encoded now. Encoded is the result as JSON
// that a message has room for, or nil. It reports false when the call can't be
// ended later: the handler has to wait.
func (c ObjectCall) Later(encoded []byte) bool {
	j := c.job
	if len(j.svc.config.Interceptors) > 0 || j.local != nil {
		return false
	}
	payload := encoded
	if payload == nil || j.codec != bus.Codec(bus.JSON{}) {
		var err *rpc.Error
		if payload, err = j.encode(); err != nil {
			return false
		}
	}
	j.payload, j.later = payload, true
	j.svc.workers.Add(1)
	return true
}

// ErrLater is what a handler returns after Later.
var ErrLater = errors.New("server: the call ends later")

// Finish ends a call for which Later reported true.
func (c ObjectCall) Finish(err error) {
	j := c.job
	defer j.svc.workers.Done()
	if err != nil {
		j.fail(j.coded(err))
	} else {
		j.succeed(j.payload)
	}
	j.svc.release(j)
	j.ep.stats.ended()
}

// Cancel ends the call with err and cancels its context. The handler goes on
// until it notices.
func (c ObjectCall) Cancel(err *rpc.Error) {
	j := c.job
	j.ctx.end(context.DeadlineExceeded)
	j.fail(err)
}

// HandleObject gives a method of the objects of a class its handler. Turn says
// that it has the object to itself.
func HandleObject[P, R any](s *Service, m rpc.ObjectMethod[P, R], turn bool, fn func(context.Context, ObjectCall, P, *R) error) {
	spec := *m.Spec()
	handleObject(s, spec, turn, fn, false)
}

// HandleSystem gives the objects of a class a method of the system's own, whose
// name begins with "$".
func HandleSystem[P, R any](s *Service, name string, fn func(context.Context, ObjectCall, P, *R) error) {
	handleObject(s, rpc.Spec{Service: s.name, Method: name}, true, fn, true)
}

func handleObject[P, R any](s *Service, spec rpc.Spec, turn bool, fn func(context.Context, ObjectCall, P, *R) error, system bool) {
	type frame struct {
		params P
		result R
	}
	ep := &endpoint{
		spec: spec, object: true, turn: turn,
		params: reflect.TypeFor[P](),
		result: reflect.TypeFor[R](),
		newFrame: func() (any, any) {
			f := new(frame)
			return &f.params, &f.result
		},
		check: validator[P](),
		run: func(ctx context.Context, call *rpc.Call) error {
			j, ok := ctx.Value(jobKey{}).(*job)
			if !ok {
				return fmt.Errorf("server: an interceptor replaced the context of %s by one that is not derived from it", call.Name())
			}
			return fn(ctx, ObjectCall{j}, *call.Params.(*P), call.Result.(*R))
		},
	}
	if system {
		s.lifecycle.Lock()
		defer s.lifecycle.Unlock()
		ep.name, ep.gate = spec.Method, s.gate
		ep.run = rpc.Chain(checked(ep), s.config.Interceptors...)
		s.endpoints[ep.name] = ep
		return
	}
	register(s, ep, nil)
}

// lateGrace is the room for clocks that differ: an object call that comes later
// than its deadline by the caller's clock and this is not run, so that it can't
// come after its own retry has been forgotten.
const lateGrace = 30 * time.Second

// checkObject checks what a call of an object must have.
func (s *Service) checkObject(req *bus.Request, now time.Time) error {
	if req.Object == "" {
		return rpc.InvalidArgument.Errorf("%s is a class of objects: name one in the header %s", s.name, bus.HeaderObject)
	}
	if late := now.Sub(req.Sent); !req.Sent.IsZero() && late > req.Timeout+lateGrace {
		return rpc.DeadlineExceeded.Errorf("%s.%s came %v after it was sent, with a timeout of %v: do the clocks of caller and service differ?",
			s.name, req.Method, late.Round(time.Millisecond), req.Timeout)
	}
	return nil
}

// place finds the job's object. A foreign client's call of an object that is
// owned elsewhere becomes a call that is passed on.
func (s *Service) place(j *job, forward bool) error {
	place, err := s.objects.Place(&j.req, j.ep.turn)
	if err != nil {
		elsewhere, ok := err.(*ErrElsewhere)
		if !ok {
			return err
		}
		switch {
		case forward && j.req.Direct && elsewhere.Silent:
			return errSilent
		case !forward || j.req.Direct:
			return elsewhere.Err
		}
		j.ep = s.forwarding(j.ep, &j.req)
		j.gate = s.gate
		return nil
	}
	j.place = place
	if q := place.Queue(); q != nil {
		j.gate = &q.gate
	} else {
		j.gate = s.gate
	}
	return nil
}

// leavePlace gives the place back before the job was admitted.
func (j *job) leavePlace() {
	if j.place != nil {
		j.place.Leave()
		j.place = nil
	}
}

// forwarding is an endpoint that has the object's owner run the call. Params in
// JSON go on as they are: the owner may know more fields.
func (s *Service) forwarding(to *endpoint, req *bus.Request) *endpoint {
	newFrame := to.newFrame
	if codec, known := s.bus.Codec(req.ContentType); known && codec == bus.Codec(bus.JSON{}) && len(req.Payload) > 0 {
		newFrame = func() (any, any) { return new(json.RawMessage), new(json.RawMessage) }
	}
	return &endpoint{
		name: to.name, spec: to.spec, gate: s.gate, newFrame: newFrame,
		run: func(ctx context.Context, call *rpc.Call) error {
			params, err := json.Marshal(call.Params)
			if err != nil {
				return err
			}
			j := ctx.Value(jobKey{}).(*job)
			result, err := s.objects.Forward(ctx, &j.req, params)
			if err != nil {
				return err
			}
			return json.Unmarshal(result, call.Result)
		},
	}
}
