package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// Receipt says where an event was stored.
type Receipt struct {
	ID string `json:"id"`
	// Subject is that of the message, such as "$.User.registered".
	Subject string `json:"subject"`
	// Sequence is its place in the stream EVENTS, from 1.
	Sequence uint64 `json:"sequence"`
	// Duplicate says that the stream had an event with this id and type already,
	// whose place Sequence is: this one was not stored again.
	Duplicate bool `json:"duplicate,omitempty"`
	// At is when the event is sent, zero for one that was sent at once: until then
	// it has no Sequence.
	At time.Time `json:"at,omitzero"`
}

// Send sends an event. It is stored when the error is nil.
//
// What is sent in the context of a call, or of an event that is being handled,
// says so: see WithCorrelation. Send waits for the connection and sends again
// what may not have arrived, with the same id, so that the event is stored once,
// until ctx ends or, when that has no deadline, for Config.Timeout; it does not
// send again later than 90 seconds after the first time, since the stream knows
// ids for two minutes.
//
// The errors are *rpc.Error. InvalidArgument, ResourceExhausted (it is too large,
// or the stream is full), PermissionDenied, Aborted (see WithExpectedSequence),
// AlreadyExists (its id is that of an event of another type) and FailedPrecondition
// (the stream takes nothing) say that it was not stored. Unavailable,
// DeadlineExceeded and Canceled say so when they are Retryable; else it may have
// been stored, and sending it again, with its id and within two minutes, stores
// it once.
func Send[T any](ctx context.Context, p *Pipeline, event rpc.Event[T], data T, opts ...SendOption) (Receipt, error) {
	return p.Send(ctx, event.Name(), data, opts...)
}

// Send sends an event of which only the type's name is known, as the function
// Send does. Data that are a json.RawMessage are sent as they are.
func (p *Pipeline) Send(ctx context.Context, event string, data any, opts ...SendOption) (Receipt, error) {
	o, err := p.outgoing(originOf(ctx), event, data, opts)
	if err != nil {
		return Receipt{}, err
	}
	if !o.at.IsZero() {
		return p.sendLater(ctx, o)
	}
	return p.deliver(ctx, o)
}

const (
	// An event is not sent again later than this after it may have been stored.
	// The stream knows its id for two minutes.
	resendWindow = 90 * time.Second

	// firstPatience is how long to wait for the stream's answer before the event is
	// sent again. Doubled each time.
	firstPatience = time.Second
	maxPatience   = 10 * time.Second

	// Pauses between attempts: doubled each time, with jitter.
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// Why an attempt ended.
var (
	errLost    = errors.New("the connection to the bus was lost")
	errNoReply = errors.New("the bus did not answer in time")
	errDenied  = errors.New("the bus does not permit it")
)

// deliver has the event stored.
func (p *Pipeline) deliver(ctx context.Context, o *outgoing) (Receipt, error) {
	deadline := p.deadline(ctx)
	for {
		receipt, err, again := p.attempt(ctx, o, o.until(deadline))
		if !again {
			return receipt, err
		}
		if !rest(ctx, o.attempts, o.until(deadline)) {
			return Receipt{}, o.gaveUp(ctx)
		}
	}
}

func (p *Pipeline) deadline(ctx context.Context) time.Time {
	if deadline, ok := ctx.Deadline(); ok {
		return deadline
	}
	return time.Now().Add(p.cfg.Timeout)
}

// until is when to stop sending the event again.
func (o *outgoing) until(deadline time.Time) time.Time {
	if last := o.since.Add(resendWindow); o.unsure && last.Before(deadline) {
		return last
	}
	return deadline
}

// rest pauses before the next attempt. It reports false when there is no time for
// one.
func rest(ctx context.Context, attempts int, until time.Time) bool {
	d := min(firstPause<<min(max(attempts-1, 0), 10), maxPause)
	d = d/2 + rand.N(d/2)
	if time.Until(until) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt sends the event once. It reports whether to try again.
func (p *Pipeline) attempt(ctx context.Context, o *outgoing, until time.Time) (receipt Receipt, err error, again bool) {
	attempt, end := context.WithCancelCause(ctx)
	defer end(nil)
	timer := time.AfterFunc(time.Until(until), func() { end(errNoReply) })
	defer timer.Stop()
	defer p.bus.OnDisconnect(func() { end(errLost) })()
	defer p.bus.OnDenied(func(d bus.Denial) {
		if !d.Subscribe && (d.Subject == o.msg.Subject || isEventsAPI(d.Subject)) {
			end(errDenied)
		}
	})()

	o.attempts++
	stream, err := p.events(attempt)
	if err == nil {
		err = p.bus.WaitConnected(attempt)
	}
	if err != nil {
		err, again = o.ended(ctx, attempt, err)
		return Receipt{}, err, again
	}
	if !o.unsure {
		o.since = time.Now()
	}
	if patience := patience(o.attempts); time.Until(until) > patience {
		timer.Reset(patience)
	}
	reply, err := p.bus.Conn().RequestMsgWithContext(attempt, &o.msg)
	switch {
	case err == nil:
		return o.answered(attempt, stream, reply.Data)
	case errors.Is(err, nats.ErrNoResponders):
		p.lost(attempt, bus.EventsStream)
		o.last = noStream()
		return Receipt{}, o.last, true
	case errors.Is(err, nats.ErrMaxPayload):
		return Receipt{}, o.checkSize(p.bus.MaxPayload() - headRoom), false
	case !errors.Is(context.Cause(attempt), errDenied):
		o.unsure = true
	}
	err, again = o.ended(ctx, attempt, err)
	return Receipt{}, err, again
}

// patience is how long to wait for an answer to the n-th attempt.
func patience(n int) time.Duration { return min(firstPatience<<min(n-1, 10), maxPatience) }

func noStream() *rpc.Error {
	return rpc.Unavailable.Errorf("nothing stores events now: the stream %s has no leader, or is not there", bus.EventsStream)
}

// isEventsAPI reports whether a subject is that of a request about EVENTS.
func isEventsAPI(subject string) bool {
	return strings.HasPrefix(subject, jetstream.DefaultAPIPrefix) && strings.HasSuffix(subject, "."+bus.EventsStream)
}

// ended says what an attempt without an answer came to, and whether to try again.
func (o *outgoing) ended(ctx, attempt context.Context, err error) (_ error, again bool) {
	cause := context.Cause(attempt)
	switch {
	case errors.Is(err, nats.ErrConnectionClosed):
		o.last = rpc.Unavailable.Errorf("the bus is closed")
		return o.gaveUp(ctx), false
	case ctx.Err() != nil:
		o.last = rpc.CodeOf(ctx.Err()).Errorf("%w", context.Cause(ctx))
		return o.gaveUp(ctx), false
	case errors.Is(cause, errDenied):
		return rpc.PermissionDenied.Errorf("send %s: the bus does not permit this user to publish on %s, or to use the stream %s",
			o.name, o.msg.Subject, bus.EventsStream).AsOutcome(), false
	case cause != nil:
		o.last = rpc.Unavailable.Errorf("%w", err)
		if errors.Is(err, context.Canceled) { // by the attempt, for a reason
			o.last = rpc.Unavailable.Errorf("%w", cause)
		}
		return o.last, true
	case o.unsure: // something is wrong with the connection
		o.last = rpc.Unavailable.Errorf("%w", err)
		return o.last, true
	}
	o.last = coded(ctx, err)
	return o.gaveUp(ctx), false
}

// gaveUp is the error for an event that no answer tells about.
func (o *outgoing) gaveUp(ctx context.Context) error {
	code := rpc.Unavailable
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		code = rpc.Canceled
	case o.last.Code == rpc.PermissionDenied && !o.unsure:
		code = rpc.PermissionDenied
	}
	if !o.unsure {
		return code.Errorf("send %s: not stored: %s", o.name, o.last.Message).NotExecuted().AsOutcome()
	}
	if errors.Is(o.last, errNoReply) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = rpc.DeadlineExceeded
	}
	return code.Errorf("send %s: it may have been stored: %s. Sent again within two minutes, with the id %q, it is stored once",
		o.name, o.last.Message, o.id).AsOutcome()
}
