package client

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// Backoff between attempts: doubled each time, with jitter, up to a bound. A try
// that finds no connection burdens nobody, and the connection may be back soon.
const (
	firstBackoff   = 50 * time.Millisecond
	maxBackoff     = time.Second
	offlineBackoff = 200 * time.Millisecond

	// An object that changes hands is away for a few milliseconds.
	firstObjectBackoff = 4 * time.Millisecond
	maxObjectBackoff   = 100 * time.Millisecond

	// An owner that has died with a call is followed by another within seconds,
	// however much time the call has. Half as much again each time, up to a bound.
	firstObjectResend = time.Second
	maxObjectResend   = 2 * time.Second
)

// send makes the call over the bus within timeout from now.
func (c *Client) send(ctx context.Context, call *rpc.Call, chain []string, now time.Time, timeout time.Duration) error {
	t := transmissions.Get().(*transmission)
	defer func() {
		*t = transmission{}
		transmissions.Put(t)
	}()
	t.client, t.call, t.start = c, call, now
	t.unsure = call.Age > 0
	t.deadline = t.start.Add(timeout)
	if err := t.encode(chain); err != nil {
		return err
	}
	if call.OneWay {
		return t.sendOneWay(ctx)
	}
	var err error
	if t.waiter, err = c.pending.enter(call); err != nil {
		return err
	}
	defer t.end()
	t.waiter.subject = subject(call) // before others can see it
	return t.run(ctx)
}

// transmission is one call on its way: its attempts, and what came of them.
type transmission struct {
	client   *Client
	call     *rpc.Call
	start    time.Time
	since    time.Time // of the first attempt that may have run
	deadline time.Time
	payload  []byte
	header   nats.Header

	waiter      *waiter
	first       uint64 // number of the first attempt: the call's identity
	attempts    int
	counted     int                         // of them, by MaxAttempts
	tries       int                         // with those that found no connection
	outstanding [maxOutstanding]sentAttempt // attempts without an answer
	waiting     int
	paid        bool // the next attempt has been taken from the budget
	resends     int  // of an object call, because no answer came
	resending   bool // the next attempt is one
	resendPaid  bool // they have been taken from the budget
	unsure      bool // an attempt that has ended may have run
	last        *rpc.Error
}

var transmissions = sync.Pool{New: func() any { return new(transmission) }}

type sentAttempt struct {
	number uint64
	reply  string
}

// subject is where a call goes: to the service, or to the owner of the object.
func subject(call *rpc.Call) string {
	if call.Object != "" {
		return bus.ObjectSubject(call.Service, call.Object, call.Method)
	}
	return bus.CallSubject(call.Service, call.Method)
}

// callerName is whose name the call carries.
func (c *Client) callerName(call *rpc.Call) string {
	if call.Caller != "" {
		return call.Caller
	}
	return c.bus.Name()
}

func (t *transmission) encode(chain []string) error {
	call, codec := t.call, t.client.config.Codec
	var err error
	if t.payload, err = bus.EncodeParams(codec, call); err != nil {
		return err
	}
	if _, json := codec.(bus.JSON); !json {
		t.setHeader(bus.HeaderContentType, codec.ContentType())
	}
	if len(chain) > 0 {
		t.setHeader(bus.HeaderChain, bus.Chain(chain))
	}
	switch {
	case call.Age > 0:
		t.setHeader(bus.HeaderID, bus.RetryID(call.ID, call.Age))
	case call.ID != "":
		t.setHeader(bus.HeaderID, call.ID)
	}
	if call.Caller != "" && !call.OneWay {
		t.setHeader(bus.HeaderCaller, call.Caller)
	}
	for name, values := range call.Header {
		t.setHeader(name, values...)
	}
	if call.OneWay { // there is no reply subject that says it
		t.setHeader(bus.HeaderTimeout, strconv.FormatInt(t.deadline.Sub(t.start).Milliseconds(), 10))
		t.setHeader(bus.HeaderCaller, t.client.callerName(call))
	}
	return bus.CheckParams(call, t.header, t.payload, t.client.bus.MaxPayload())
}

func (t *transmission) setHeader(name string, values ...string) {
	if t.header == nil {
		t.header = nats.Header{}
	}
	t.header[name] = values
}

func (t *transmission) sendOneWay(ctx context.Context) error {
	subject := subject(t.call)
	for {
		t.tries++
		err := t.client.publish(&nats.Msg{Subject: subject, Data: t.payload, Header: t.header})
		if err == nil || !err.Retryable {
			return asError(err)
		}
		t.last = err
		select {
		case <-time.After(min(t.backoff(err, offlineBackoff), time.Until(t.deadline))):
			left := time.Until(t.deadline)
			if left < time.Millisecond {
				return t.timedOut()
			}
			t.setHeader(bus.HeaderTimeout, strconv.FormatInt(left.Milliseconds(), 10))
		case <-t.client.pending.done:
			return t.closed()
		case <-ctx.Done():
			return t.gaveUp(ctx.Err())
		}
	}
}

// run sends attempts and waits for the first answer that decides the call.
func (t *transmission) run(ctx context.Context) error {
	now := t.start
	next := t.attempt(now)
	for ; ; now = time.Now() {
		if next.IsZero() && t.waiting == 0 {
			return t.verdict()
		}
		wake := t.deadline
		if !next.IsZero() && next.Before(wake) {
			wake = next
		}
		t.waiter.timer.Reset(wake.Sub(now))
		var closed <-chan struct{}
		if t.waiting == 0 { // no answer will say it
			closed = t.client.pending.done
		}
		select {
		case a := <-t.waiter.answers:
			if !t.answered(a.number) {
				continue // it was not sent after all
			}
			err, decided := t.outcome(a.msg)
			if decided {
				return err
			}
			if retry := t.retryAt(); !retry.IsZero() || t.waiting == 0 {
				next, t.resending = retry, false
			}
		case <-t.waiter.timer.C:
			now = time.Now()
			if !now.Before(t.deadline) {
				return t.timedOut()
			}
			if t.attempts > 0 && !t.ownerAway() && !t.pay() {
				if next = (time.Time{}); t.resendsFreely() {
					next = now.Add(t.resendPause(t.deadline.Sub(now)))
				}
				continue
			}
			next = t.attempt(now)
		case <-closed:
			return t.closed()
		case <-ctx.Done():
			return t.gaveUp(ctx.Err())
		}
	}
}

// attempt sends the call once more. It returns when to try again if no answer
// decides the call until then; zero for never.
func (t *transmission) attempt(now time.Time) time.Time {
	if t.waiting == maxOutstanding {
		if len(t.waiter.answers) > 0 {
			return now // there is one to look at first
		}
		t.forgetOldest()
	}
	t.tries++
	number := t.client.pending.add(t.waiter)
	left := t.deadline.Sub(now)
	msg := &nats.Msg{
		Subject: t.waiter.subject,
		Reply:   t.client.pending.inbox.ReplySubject(number, left, now),
		Data:    t.payload,
		Header:  t.header,
	}
	if !t.unsure && t.waiting == 0 {
		t.since = now
	}
	if t.attempts > 0 {
		msg.Header = t.retryHeader(now)
		if err := bus.CheckParams(t.call, msg.Header, msg.Data, t.client.bus.MaxPayload()); err != nil {
			t.client.pending.remove(number) // it has no room for the headers of a retry
			return time.Time{}
		}
	}
	if err := t.client.publish(msg); err != nil {
		t.client.pending.remove(number)
		t.last = err
		if !err.Retryable {
			return time.Time{}
		}
		return now.Add(t.backoff(err, offlineBackoff)) // nothing was sent: it does not count as an attempt
	}
	if t.attempts == 0 {
		t.first = number
	}
	t.attempts++
	if !t.ownerAway() && !t.resendsFreely() {
		t.counted++
	}
	t.tries = t.attempts // how long the connection was away is no reason to wait longer now
	t.paid, t.resending = false, false
	t.outstanding[t.waiting] = sentAttempt{number, msg.Reply}
	t.waiting++
	if !t.repeatable() || t.counted >= t.client.config.MaxAttempts || t.waiting == maxOutstanding && t.call.Object == "" {
		return time.Time{}
	}
	// Whoever has the call may have died, and sending it twice does no harm.
	switch after := t.client.config.ResendAfter; {
	case after < 0:
		return time.Time{}
	case after == 0 && t.call.Object != "":
		t.resending = true
		t.resends++
		return now.Add(t.resendPause(left))
	case after == 0:
		return now.Add(left / 3)
	default:
		return now.Add(after)
	}
}

// resendPause is how long a call of an object that has so much time left waits
// for an answer: 1 second, 1.5, then 2 each time; at most a third of that time,
// as long as this does not get too short.
func (t *transmission) resendPause(left time.Duration) time.Duration {
	pause := firstObjectResend
	for n := 1; n < t.resends && pause < maxObjectResend; n++ {
		pause += pause / 2
	}
	least := min(t.deadline.Sub(t.start)/3, firstObjectResend) / 2
	return min(pause, maxObjectResend, max(left/3, least))
}

// forgetOldest stops waiting for the answer to the attempt that has waited
// longest: after so many others there is none to come.
func (t *transmission) forgetOldest() {
	oldest := 0
	for i := range t.waiting {
		if t.outstanding[i].number < t.outstanding[oldest].number {
			oldest = i
		}
	}
	t.client.pending.remove(t.outstanding[oldest].number)
	t.waiting--
	t.outstanding[oldest] = t.outstanding[t.waiting]
	t.unsure = true
}

func (t *transmission) retryHeader(now time.Time) nats.Header {
	h := make(nats.Header, len(t.header)+2)
	for name, values := range t.header {
		h[name] = values
	}
	id := t.call.ID
	if id == "" {
		id = t.client.pending.inbox.Identity(t.client.bus.InboxPrefix(), t.first)
	}
	since := t.start
	if t.call.Object != "" && t.call.Age == 0 {
		since = t.since
		if since.Equal(now) { // none before has run: to the owner this one is no retry
			h[bus.HeaderID] = []string{id}
			return h
		}
	}
	h[bus.HeaderID] = []string{bus.RetryID(id, now.Sub(since)+t.call.Age)}
	h[bus.HeaderAttempt] = []string{strconv.Itoa(min(t.attempts+1, 1<<16-1))}
	return h
}

// repeatable reports whether the call may be sent again while it is not known
// what came of the last attempt: running it twice does no harm, or its object
// recognises it.
func (t *transmission) repeatable() bool { return t.call.Idempotent || t.call.Object != "" }

// ownerAway reports whether the last attempt found the object without an owner
// that could take it. That burdens nobody and passes by itself, so asking again
// costs nothing of the budget.
func (t *transmission) ownerAway() bool {
	return t.last != nil && t.last.Code == rpc.Unavailable && t.last.Retryable && t.call.Object != ""
}

// answered takes an attempt off the list of those without an answer. It reports
// false when it is not on it.
func (t *transmission) answered(number uint64) bool {
	for i := range t.waiting {
		if t.outstanding[i].number == number {
			t.waiting--
			t.outstanding[i] = t.outstanding[t.waiting]
			return true
		}
	}
	return false
}

// outcome reads an answer. It reports false when the call may be sent again;
// the error is in t.last then.
func (t *transmission) outcome(msg *nats.Msg) (err error, decided bool) {
	switch {
	case msg == lostAnswer && t.client.pending.ended():
		return rpc.Unavailable.Errorf("%s: the client was closed before the answer came; the call may have run", t.call.Name()), true
	case msg == lostAnswer:
		t.last, t.unsure = rpc.Unavailable.Errorf("%s: the connection to the bus was lost before the answer came; the call may have run", t.call.Name()), true
		return t.last, !t.repeatable()
	case msg == deniedAnswer:
		return rpc.PermissionDenied.Errorf("%s: the bus does not permit this user to publish on %s", t.call.Name(), t.waiter.subject), true
	case msg == noInboxAnswer:
		return rpc.PermissionDenied.Errorf("%s: the bus does not permit this user to subscribe to its inbox %s, so no answer can come; the call may have run",
			t.call.Name(), t.client.pending.inbox.Wildcard()), true
	case msg == unsentAnswer:
		t.last = rpc.Unavailable.Errorf("%s: not sent: the connection failed", t.call.Name()).NotExecuted()
		return t.last, false
	case bus.NoResponders(msg) && t.call.Object != "":
		t.last = rpc.Unavailable.Errorf("%s: nobody owns the object %.80q now: is the class %q served? `rpcdo services ls` shows what is",
			t.call.Name(), t.call.Object, t.call.Service).NotExecuted()
		return t.last, false
	case bus.NoResponders(msg):
		t.last = rpc.Unavailable.Errorf("%s: nobody listens on %s: is the service %q running? `rpcdo services ls` shows what is",
			t.call.Name(), t.waiter.subject, t.call.Service).NotExecuted()
		return t.last, false
	}
	if e := bus.DecodeError(msg); e != nil {
		t.last = e
		if t.call.Object != "" && e.Code == rpc.Unavailable && e.RetryAfter > 0 && !e.Retryable {
			t.unsure = true // the owner does not know what came of it; a later one will
			return e, false
		}
		return t.verdict(), !e.Retryable
	}
	t.client.budget(t.call.Service).credit()
	return t.client.readResult(t.call, msg), true
}

func (c *Client) readResult(call *rpc.Call, msg *nats.Msg) error {
	var contentType string
	if msg.Header != nil {
		contentType = msg.Header.Get(bus.HeaderContentType)
	}
	codec, ok := c.config.Codec, true
	if contentType != codec.ContentType() {
		codec, ok = c.bus.Codec(contentType)
	}
	if !ok {
		return rpc.Internal.Errorf("%s: the result has the content type %.80q, which is not known here", call.Name(), contentType)
	}
	if len(msg.Data) == 0 { // what a plain service that has nothing to say may send
		switch result := call.Result.(type) {
		case *rpc.None:
			return nil
		case *json.RawMessage:
			*result = json.RawMessage("null")
			return nil
		}
	}
	return decodeResult(codec, call, msg.Data)
}

func decodeResult(codec bus.Codec, call *rpc.Call, payload []byte) error {
	if err := codec.Unmarshal(payload, call.Result); err != nil {
		return rpc.Internal.Errorf("%s: the result can't be read as %s: %w", call.Name(), reflect.TypeOf(call.Result).Elem(), err)
	}
	return nil
}

// retryAt returns when to send the call again after t.last; zero for never.
func (t *transmission) retryAt() time.Time {
	if away := t.ownerAway(); away || t.counted < t.client.config.MaxAttempts {
		at := time.Now().Add(t.backoff(t.last, maxBackoff))
		if at.Before(t.deadline) && (away || t.pay()) {
			return at
		}
	}
	return time.Time{}
}

// resendsFreely reports whether the next attempt is one that MaxAttempts does
// not bound: a pause that grows and the call's time do.
func (t *transmission) resendsFreely() bool { return t.resending && t.client.config.resendFreely }

// pay takes the next attempt from the budget, once; it reports false when the
// budget is used up.
func (t *transmission) pay() bool {
	if t.resendsFreely() {
		t.resendPaid = t.resendPaid || t.client.budget(t.call.Service).take()
		return t.resendPaid
	}
	t.paid = t.paid || t.client.budget(t.call.Service).take()
	return t.paid
}

// backoff is how long to wait before the next try: what the service asked for
// and up to half as much again, or a time that grows with the tries up to limit,
// give or take half. The jitter spreads the callers.
func (t *transmission) backoff(err *rpc.Error, limit time.Duration) time.Duration {
	if wait := err.RetryAfter; wait > 0 {
		return wait + rand.N(wait/2+1)
	}
	wait := min(firstBackoff<<min(t.tries-1, 10), limit)
	if t.ownerAway() { // doubled every other time only: it is a matter of milliseconds
		wait = min(firstObjectBackoff<<min((t.tries-1)/2, 10), maxObjectBackoff)
	}
	return wait/2 + rand.N(wait)
}

func (t *transmission) timedOut() error {
	if t.waiting == 0 && t.last != nil {
		return t.verdict()
	}
	return rpc.DeadlineExceeded.Errorf("%s: no answer within %v; the call may have run",
		t.call.Name(), t.deadline.Sub(t.start).Round(time.Millisecond))
}

// verdict is the last attempt's error as the call's: that this attempt surely
// did not run says nothing of the call when another may have.
func (t *transmission) verdict() error {
	if t.last == nil || !t.last.Retryable || !t.unsure && t.waiting == 0 {
		return asError(t.last)
	}
	e := *t.last
	e.Retryable = false
	e.Message += "; an earlier attempt may have run"
	return &e
}

func (t *transmission) gaveUp(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return t.timedOut()
	}
	return rpc.Canceled.Errorf("%s: the caller gave up: %w", t.call.Name(), cause)
}

func (t *transmission) closed() error {
	return rpc.Unavailable.Errorf("%s: not sent: %w", t.call.Name(), errClosed)
}

// end forgets the attempts that have no answer yet and cancels them.
func (t *transmission) end() {
	p := &t.client.pending
	for _, a := range t.outstanding[:t.waiting] {
		p.remove(a.number)
		// Best effort: the handler's own deadline ends it otherwise. It must not
		// overtake the request, which may lie in the outbox yet.
		t.client.outbox.Put(&nats.Msg{Subject: bus.CancelSubject(t.call.Service), Data: []byte(a.reply)})
	}
	p.leave(t.waiter)
}

// publish hands a message to the bus, or says why it surely did not go out.
func (c *Client) publish(msg *nats.Msg) *rpc.Error {
	if err := c.pending.open(); err != nil {
		return rpc.Unavailable.Errorf("%s: not sent: %w", msg.Subject, err)
	}
	if !c.bus.Connected() {
		return rpc.Unavailable.Errorf("%s: not sent: the bus is not connected", msg.Subject).NotExecuted()
	}
	if msg.Reply != "" && c.pending.count.Load() >= bus.Crowd {
		c.outbox.Put(msg)
		return nil
	}
	switch err := c.bus.Conn().PublishMsg(msg); {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return rpc.ResourceExhausted.Errorf("%s: not sent: %w", msg.Subject, err)
	default:
		return rpc.Unavailable.Errorf("%s: not sent: %w", msg.Subject, err).NotExecuted()
	}
}

// asError keeps a nil *rpc.Error from becoming an error that is not nil.
func asError(err *rpc.Error) error {
	if err == nil {
		return nil
	}
	return err
}
