package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/textproto"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
	return p.deliver(ctx, o)
}

const (
	// headRoom is what the largest event leaves free for the headers that it gets
	// when it is sent again later, as a dead letter or by a replay.
	headRoom = 8 << 10

	// maxTrace bounds the trace headers that an event gets from its call, in bytes:
	// who sends too much of them must not make a send fail.
	maxTrace = 4 << 10

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

// Headers of the server.
const (
	headerMsgID    = "Nats-Msg-Id"
	headerExpected = "Nats-Expected-Last-Subject-Sequence"
)

// origin is what an event is due to.
type origin struct {
	cause bus.Cause
	trace rpc.Header // headers to copy
}

func originOf(ctx context.Context) origin {
	info, ok := rpc.CallInfoFrom(ctx)
	if !ok || len(info.Header) == 0 {
		return origin{}
	}
	trace := bus.CopyTrace(nil, info.Header)
	cause := bus.CauseOf(trace)
	if !validID(cause.Correlation) {
		cause.Correlation = ""
	}
	if !validID(cause.Causation) {
		cause.Causation = ""
	}
	maps.DeleteFunc(trace, func(name string, _ []string) bool { return strings.HasPrefix(name, "ce-") }) // it is in cause
	return origin{cause, trace}
}

// outgoing is one event on its way.
type outgoing struct {
	name     string
	id       string
	named    bool // the id is the caller's, so another event may have it
	expected uint64
	msg      nats.Msg

	attempts int
	flying   bool      // in a batch: an attempt may be answered
	unsure   bool      // an attempt may have stored it
	since    time.Time // of the first attempt that may have
	last     *rpc.Error
}

// outgoing makes the message of an event. Its errors say that nothing was sent.
func (p *Pipeline) outgoing(from origin, event string, data any, opts []SendOption) (*outgoing, error) {
	if err := rpc.ValidateEvent(event); err != nil {
		if bare, ok := bus.EventName(event); ok && rpc.ValidateEvent(bare) == nil {
			return nil, rpc.InvalidArgument.Errorf("send %s: write the event's name without $. before it", event)
		}
		return nil, rpc.InvalidArgument.Errorf("send: %w", err)
	}
	o := &outgoing{name: event}
	var cfg sendConfig
	for _, opt := range opts {
		opt(&cfg)
	}
	if err := cfg.check(event); err != nil {
		return nil, rpc.CodeOf(err).Errorf("send %s: %s", event, messageOf(err))
	}
	meta := bus.EventMeta{ID: cfg.id, Type: event, Source: cfg.source, Subject: cfg.subject, Time: cfg.time, Cause: from.cause}
	o.named = cfg.hasID
	if !o.named {
		meta.ID = bus.NewEventID()
	}
	if meta.Source == "" {
		meta.Source = p.cfg.Source
	}
	if meta.Time.IsZero() {
		meta.Time = time.Now()
	}
	if cfg.correlation != "" {
		meta.Correlation = cfg.correlation
	}
	if cfg.causation != "" {
		meta.Causation = cfg.causation
	}
	payload, contentType, err := p.encode(event, data)
	if err != nil {
		return nil, err
	}
	meta.ContentType = contentType
	o.id = meta.ID
	o.msg = nats.Msg{Subject: bus.EventSubject(event), Header: meta.Header(), Data: payload}
	if cfg.expects {
		o.expected = cfg.expected
		o.msg.Header[headerExpected] = []string{strconv.FormatUint(cfg.expected, 10)}
	}
	for name, values := range cfg.header {
		o.msg.Header[name] = values
	}
	addTrace(o.msg.Header, from.trace)
	return o, o.checkSize(p.bus.MaxPayload() - headRoom)
}

// messageOf returns what an error says, without the name of its code.
func messageOf(err error) string {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// encode writes the data of an event.
func (p *Pipeline) encode(event string, data any) (payload []byte, contentType string, err error) {
	if raw, ok := data.(json.RawMessage); ok {
		if !json.Valid(raw) || !utf8.Valid(raw) {
			return nil, "", rpc.InvalidArgument.Errorf("send %s: the data are not valid JSON", event)
		}
		return raw, "", nil
	}
	codec := p.cfg.Codec
	if payload, err = codec.Marshal(data); err != nil {
		return nil, "", rpc.InvalidArgument.Errorf("send %s: the data can't be written as %s: %w", event, codec.ContentType(), err)
	}
	if _, json := codec.(bus.JSON); json {
		return payload, "", nil
	}
	return payload, codec.ContentType(), nil
}

// addTrace adds the trace headers that there is room for, baggage last.
func addTrace(h nats.Header, trace rpc.Header) {
	left := maxTrace
	for _, name := range []string{"traceparent", "tracestate", "baggage"} {
		values := trace.Values(name)
		if len(values) == 0 || len(rpc.Header(h).Values(name)) > 0 {
			continue
		}
		size := 0
		for _, v := range values {
			size += len(name) + len(v)
		}
		if size <= left {
			left -= size
			h[name] = values
		}
	}
}

// checkSize reports an event that is too large.
func (o *outgoing) checkSize(limit int64) error {
	size := len("NATS/1.0\r\n\r\n") + len(o.msg.Data)
	for name, values := range o.msg.Header {
		for _, v := range values {
			size += len(name) + len(": \r\n") + len(textproto.TrimString(v))
		}
	}
	if int64(size) <= limit {
		return nil
	}
	return rpc.ResourceExhausted.Errorf("send %s: the event has %d bytes, at most %d are allowed (max_payload, less %d for the headers that a dead letter or a replay adds)",
		o.name, size, limit, headRoom)
}

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

// answer is what the stream says of a message.
type answer struct {
	Stream    string              `json:"stream"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

// What the answer for an event that was stored begins with.
const storedAnswer = `{"stream":"` + bus.EventsStream + `","seq":`

func parseAnswer(data []byte) (answer, error) {
	if number, ok := strings.CutPrefix(string(data), storedAnswer); ok { // what encoding/json takes a microsecond for
		if number, ok := strings.CutSuffix(number, "}"); ok {
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				return answer{Stream: bus.EventsStream, Sequence: n}, nil
			}
		}
	}
	var a answer
	err := json.Unmarshal(data, &a)
	return a, err
}

// answered says what the stream's answer comes to, and whether to try again.
func (o *outgoing) answered(ctx context.Context, stream jetstream.Stream, data []byte) (receipt Receipt, err error, again bool) {
	a, err := parseAnswer(data)
	switch {
	case err != nil || a.Error == nil && a.Stream == "":
		o.unsure = true
		o.last = rpc.Unavailable.Errorf("the bus has answered %q", bus.Bounded(string(data)))
		return Receipt{}, o.last, true
	case a.Error != nil:
		return o.refused(ctx, stream, a.Error)
	case a.Stream != bus.EventsStream:
		return Receipt{}, rpc.FailedPrecondition.Errorf("send %s: the stream %s takes in %s in place of %s", o.name, a.Stream, o.msg.Subject, bus.EventsStream).AsOutcome(), false
	case a.Duplicate && o.named:
		if err, again := o.compare(ctx, stream, a.Sequence); err != nil {
			return Receipt{}, err, again
		}
	}
	// What is there after an attempt that was not answered is this event.
	return Receipt{ID: o.id, Subject: o.msg.Subject, Sequence: a.Sequence, Duplicate: a.Duplicate && !o.unsure}, nil, false
}

// compare returns an error when the event that the stream has under the id is of
// another type: this one would be lost.
func (o *outgoing) compare(ctx context.Context, stream jetstream.Stream, sequence uint64) (_ error, again bool) {
	have, err := stream.GetMsg(ctx, sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // removed since
		return nil, false
	case err != nil:
		o.unsure = true
		o.last = rpc.Unavailable.Errorf("the stream has an event with the id %q, which could not be looked at: %w", o.id, err)
		return o.last, true
	case have.Subject == o.msg.Subject:
		return nil, false
	}
	other, _ := bus.EventName(have.Subject)
	return rpc.AlreadyExists.Errorf("send %s: not stored: the id %q is that of an event %s, with the sequence %d: an id is for one event",
		o.name, o.id, other, sequence).AsOutcome(), false
}

// Codes of the server's errors that say why a message was not stored.
const (
	codeAccountLimit    jetstream.ErrorCode = 10002
	codeNoResources     jetstream.ErrorCode = 10023
	codeNoMemory        jetstream.ErrorCode = 10028
	codeNoStorage       jetstream.ErrorCode = 10047
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeWrongSequence   jetstream.ErrorCode = 10071
	codeStoreFailed     jetstream.ErrorCode = 10077
	codeHeaderTooLarge  jetstream.ErrorCode = 10097
	codeIDInProcess     jetstream.ErrorCode = 10158
	codeWrongSequence2  jetstream.ErrorCode = 10164 // without the number
)

// refused says what the server's error comes to, and whether to try again.
func (o *outgoing) refused(ctx context.Context, stream jetstream.Stream, e *jetstream.APIError) (receipt Receipt, err error, again bool) {
	fail := func(code rpc.Code, text string) (Receipt, error, bool) {
		return Receipt{}, code.Errorf("send %s: not stored: %s", o.name, text).AsOutcome(), false
	}
	switch e.ErrorCode {
	case codeWrongSequence, codeWrongSequence2:
		return o.outrun(ctx, stream, e)
	case codeMessageTooLarge, codeHeaderTooLarge, codeAccountLimit, codeNoResources, codeNoMemory, codeNoStorage:
		return fail(rpc.ResourceExhausted, e.Description)
	case codeStoreFailed:
		if strings.Contains(e.Description, "maximum") { // a limit of the stream
			return fail(rpc.ResourceExhausted, e.Description)
		}
	case codeIDInProcess:
	default:
		if e.Code < 500 && e.Code != 429 {
			return fail(rpc.FailedPrecondition, "the stream "+bus.EventsStream+" has refused it: "+e.Description)
		}
	}
	o.last = rpc.Unavailable.Errorf("the stream %s can't store it now: %s", bus.EventsStream, e.Description)
	return Receipt{}, o.last, true
}

// outrun is what an event comes to that does not follow the one it should. The
// server looks at that before it looks at the id, so this very event may be what
// follows.
func (o *outgoing) outrun(ctx context.Context, stream jetstream.Stream, e *jetstream.APIError) (receipt Receipt, err error, again bool) {
	next, err := stream.GetMsg(ctx, o.expected+1, jetstream.WithGetMsgSubject(o.msg.Subject))
	switch {
	case err == nil && next.Header.Get(headerMsgID) == o.id:
		return Receipt{ID: o.id, Subject: o.msg.Subject, Sequence: next.Sequence, Duplicate: !o.unsure}, nil, false
	case err != nil && o.unsure:
		o.last = rpc.Unavailable.Errorf("there is no looking at what follows the sequence %d: %w", o.expected, err)
		return Receipt{}, o.last, true
	}
	return Receipt{}, rpc.Aborted.Errorf("send %s: not stored: the last event of its type has the sequence %s, expected was %d",
		o.name, lastSequence(ctx, stream, o.msg.Subject, e), o.expected).AsOutcome(), false
}

// lastSequence returns the sequence of the last event on a subject, as the error
// has it or else the stream.
func lastSequence(ctx context.Context, stream jetstream.Stream, subject string, e *jetstream.APIError) string {
	if _, number, ok := strings.Cut(e.Description, ": "); ok {
		return number
	}
	last, err := stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return "0"
	case err != nil:
		return "that could not be looked at (" + err.Error() + ")"
	}
	return strconv.FormatUint(last.Sequence, 10)
}
