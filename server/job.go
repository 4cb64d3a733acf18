package server

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
)

// job is one call on its way through the service: admitted, run, answered.
type job struct {
	svc      *Service
	ep       *endpoint
	req      bus.Request
	codec    bus.Codec
	ctx      callContext
	call     rpc.Call
	prev     *job // in the list of running calls
	next     *job
	received time.Time
	answered atomic.Bool
	waited   bool // for a place to run
	gate     *gate
	waiting  *list.Element // in the gate's waiting list, which guards it
	place    Place         // of the object, nil for a method of a service
	left     bool          // the gate, before the call ended: see ObjectCall.EndTurn
	later    bool          // the handler has returned, and Finish ends the call
	payload  []byte        // of the result, when later

	// local is set for a call from this process: it gets one signal, when
	// outcome is there.
	local   chan struct{}
	outcome outcome
}

type outcome struct {
	result any
	err    *rpc.Error
}

// newJob prepares a call that came in now.
func (s *Service) newJob(ep *endpoint, req bus.Request, now time.Time) *job {
	j := &job{svc: s, ep: ep, req: req, received: now, gate: ep.gate}
	j.ctx = callContext{Context: s.base, job: j, deadline: now.Add(req.Timeout)}
	j.call = rpc.Call{
		Service: s.name, Method: ep.name, Object: req.Object, ID: req.ID, Caller: req.Caller, Attempt: req.Attempt, Age: req.Age,
		Header: req.Header, Timeout: req.Timeout, Idempotent: ep.spec.Idempotent, OneWay: req.Reply == "",
	}
	return j
}

// CallInfo tells the handler about its call. See rpc.CallInfoFrom.
func (j *job) CallInfo() rpc.CallInfo {
	info := rpc.CallInfo{
		Service: j.svc.name, Method: j.ep.name, Object: j.req.Object, Chain: j.req.Chain, Caller: j.req.Caller,
		ID: j.req.ID, Attempt: j.req.Attempt, Header: j.req.Header, Deadline: j.ctx.deadline,
	}
	if j.ep.turn && j.place != nil {
		info.Chain = append(info.Chain[:len(info.Chain):len(info.Chain)], bus.Link(j.svc.name, j.req.Object))
	}
	return info
}

// decode reads the params; the error goes to the caller.
func (j *job) decode() error {
	codec, ok := j.svc.bus.Codec(j.req.ContentType)
	if !ok {
		return rpc.InvalidArgument.Errorf("content type %.80q is not known here", j.req.ContentType)
	}
	j.codec = codec
	j.call.Params, j.call.Result = j.ep.newFrame()
	return bus.DecodeParams(codec, j.req.Payload, j.call.Params)
}

// run does the call and answers it.
func (j *job) run() {
	if j.answered.Load() { // its time ran out while it waited
		return
	}
	if (j.waited || j.req.Timeout <= 0) && !time.Now().Before(j.ctx.deadline) { // the next sweep would say so
		j.expire()
		return
	}
	payload, err := j.attempt()
	if j.later {
		return
	}
	if err != nil {
		j.fail(err)
		return
	}
	j.succeed(payload)
}

// attempt runs the handler and encodes what it returns. All code that is the
// user's runs in here, so that a panic of any of it becomes an error.
func (j *job) attempt() (payload []byte, err *rpc.Error) {
	defer func() {
		if cause := recover(); cause != nil {
			j.log(zerolog.ErrorLevel).Str("panic", fmt.Sprint(cause)).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = j.internal()
		}
	}()
	if err := j.invoke(); err != nil && !j.later {
		return nil, j.coded(err)
	}
	if j.later {
		return nil, nil
	}
	return j.encode()
}

// invoke reads and checks the params and runs the handler.
func (j *job) invoke() error {
	if j.call.Params == nil {
		if err := j.decode(); err != nil {
			return err
		}
	}
	return j.ep.run(&j.ctx, &j.call)
}

// encode writes the result, if it goes over the bus.
func (j *job) encode() ([]byte, *rpc.Error) {
	if j.local != nil || j.req.Reply == "" || j.answered.Load() {
		return nil, nil
	}
	return bus.EncodeResult(j.codec, &j.call, j.call.Result, j.svc.bus.MaxPayload())
}

func invalid(err error) error {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	return rpc.InvalidArgument.Errorf("%w", err)
}

// coded turns what a handler returned into what the caller may see.
func (j *job) coded(err error) *rpc.Error {
	e, ok := errors.AsType[*rpc.Error](err)
	switch {
	case ok && e == nil:
		j.log(zerolog.WarnLevel).Msg("handler returned a nil *rpc.Error as its error")
		return j.internal()
	case ok:
		code := rpc.CodeOf(e)
		if code != e.Code || e.Outcome() {
			passed := *e
			passed.Code = code
			// That of a call this one made says that the other did not run: this one did.
			passed.Retryable = e.Retryable && !e.Outcome()
			return &passed
		}
		return e
	}
	if c, ok := errors.AsType[rpc.Code](err); ok {
		return c.Errorf("%w", err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return rpc.DeadlineExceeded.Errorf("%s.%s ran out of time", j.svc.name, j.ep.name)
	case errors.Is(err, context.Canceled):
		return rpc.Canceled.Errorf("%s.%s was cancelled", j.svc.name, j.ep.name)
	}
	j.log(zerolog.WarnLevel).Err(err).Msg("handler returned an error without a code; its text is not sent")
	return j.internal()
}

// internal is what the caller sees of a defect; the log has the rest.
func (j *job) internal() *rpc.Error {
	return rpc.Internal.Errorf("internal error in %s.%s; the service's log tells more about call %s", j.svc.name, j.ep.name, j.id())
}

func (j *job) id() string {
	if j.req.ID == "" {
		return "(without id)"
	}
	return j.req.ID
}

// expire answers in the handler's place when the deadline has passed.
func (j *job) expire() {
	j.ctx.end(context.DeadlineExceeded)
	j.fail(rpc.DeadlineExceeded.Errorf("%s.%s did not end within %v", j.svc.name, j.ep.name, j.req.Timeout))
	j.stopWaiting()
}

// cancel ends the call because the caller gave up or the service stops.
func (j *job) cancel(err *rpc.Error) {
	j.ctx.end(context.Canceled)
	j.fail(err)
	j.stopWaiting()
}

func (j *job) cancelByCaller() { j.cancel(rpc.Canceled.Errorf("the caller gave up")) }

// stopWaiting gives up the place in the queue of a call that has been answered
// while it waited.
func (j *job) stopWaiting() {
	if j.gate.forget(j) {
		j.svc.release(j)
	}
}

// succeed answers with the result, unless the call has been answered.
func (j *job) succeed(payload []byte) {
	if !j.claim(nil) { // too late, or cancelled
		return
	}
	switch {
	case j.local != nil:
		j.outcome.result = j.call.Result
		j.local <- struct{}{}
	case j.req.Reply != "":
		msg := nats.Msg{Subject: j.req.Reply, Data: payload}
		if _, json := j.codec.(bus.JSON); !json { // EncodeResult has left room for it
			msg.Header = nats.Header{bus.HeaderContentType: []string{j.codec.ContentType()}}
		}
		j.svc.publish(&msg)
	}
}

// fail answers with err, unless the call has been answered.
func (j *job) fail(err *rpc.Error) {
	if !j.claim(err) {
		return
	}
	level := zerolog.WarnLevel
	if j.place != nil && err.Code == rpc.Unavailable && err.Retryable {
		level = zerolog.DebugLevel // it changes hands: the caller asks again
	}
	event := j.log(level).Str("code", err.Code.String()).Str("error", err.Message)
	for cause := err.Unwrap(); cause != nil; cause = errors.Unwrap(cause) {
		if text := cause.Error(); text != "" {
			event = event.Str("cause", bus.Bounded(text))
			break
		}
	}
	event.Dur("took", time.Since(j.received)).Msg("call failed")
	if j.local != nil {
		j.outcome.err = err
		j.local <- struct{}{}
		return
	}
	j.svc.answer(j.req.Reply, err)
}

// takeAnswer takes the right to answer, which one goroutine gets once.
func (j *job) takeAnswer() bool { return j.answered.CompareAndSwap(false, true) }

// claim takes the right to answer a call that has been run, or tried to.
func (j *job) claim(err *rpc.Error) bool {
	if !j.takeAnswer() {
		return false
	}
	j.ep.stats.answered(time.Since(j.received), err)
	if err == nil {
		j.log(zerolog.DebugLevel).Msg("call")
	}
	return true
}

// claimShed is claim for a call that is over the bounds.
func (j *job) claimShed(err *rpc.Error) bool {
	if !j.takeAnswer() {
		return false
	}
	j.ep.stats.refused(err)
	return true
}

func (j *job) log(level zerolog.Level) *zerolog.Event {
	return j.svc.log.WithLevel(level).Str("method", j.ep.name).Str("id", j.req.ID).Str("from", j.req.Caller)
}
