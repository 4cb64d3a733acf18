package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

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
