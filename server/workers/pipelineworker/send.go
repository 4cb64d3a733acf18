package pipelineworker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
)

// window is how long after the first attempt of a call its event may be stored:
// the stream knows ids for two minutes.
const window = 100 * time.Second

// withinWindow ends the attempts to send an event while the stream would still
// recognise it.
func withinWindow(next rpc.UnaryFunc) rpc.UnaryFunc {
	return func(ctx context.Context, call *rpc.Call) error {
		p, ok := call.Params.(*pipeline.EventSendParams)
		if !ok || call.Age <= 0 || !p.At.IsZero() {
			return next(ctx, call)
		}
		if call.Age >= window {
			return rpc.Aborted.Errorf("send %s: the call was made %v ago, for longer than the stream knows what was sent: it may have been stored, see event.history",
				p.EventType, call.Age.Round(time.Second))
		}
		ctx, cancel := context.WithTimeout(ctx, window-call.Age)
		defer cancel()
		return next(ctx, call)
	}
}

func (w *worker) send(ctx context.Context, p pipeline.EventSendParams) (pipeline.EventSendResult, error) {
	call, _ := rpc.CallInfoFrom(ctx)
	id := eventID(&p, &call)
	if call.Attempt > 1 && !p.At.IsZero() && id != "" {
		stored, err := w.hasWaited(ctx, id)
		if err != nil {
			return pipeline.EventSendResult{}, err
		}
		if stored {
			return pipeline.EventSendResult{
				EventID: id, Subject: bus.EventSubject(p.EventType), At: p.At, Duplicate: isNamed(&p),
			}, nil
		}
	}
	opts := []pipeline.SendOption{
		pipeline.WithSource("/" + url.PathEscape(cmp.Or(call.Caller, w.name))), pipeline.WithSubject(p.Subject),
		pipeline.WithCorrelation(p.CorrelationID), pipeline.At(p.At),
	}
	if id != "" {
		opts = append(opts, pipeline.WithID(id))
	}
	payload := p.Payload
	if payload == nil {
		payload = json.RawMessage("null")
	}
	r, err := w.events.Send(ctx, p.EventType, payload, opts...)
	if err != nil {
		return pipeline.EventSendResult{}, err
	}
	return pipeline.EventSendResult{
		EventID: r.ID, Subject: r.Subject, Sequence: r.Sequence, At: r.At, Duplicate: r.Duplicate && isNamed(&p),
	}, nil
}

// eventID returns the id that an event is to have: the caller's, or that of the
// call, which is the same when the call is sent again. It is empty for a call
// that has none: nobody sends that again.
func eventID(p *pipeline.EventSendParams, call *rpc.CallInfo) string {
	switch {
	case p.ID != "":
		return p.ID
	case p.Dedupe != "":
		return p.EventType + "/" + p.Dedupe
	}
	return call.ID
}

func isNamed(p *pipeline.EventSendParams) bool { return p.ID != "" || p.Dedupe != "" }

// hasWaited reports whether an event with that id waits for its time, or has in
// the last day: sent again after its time it would be another event.
func (w *worker) hasWaited(ctx context.Context, id string) (bool, error) {
	stream, err := w.bus.JetStream().Stream(ctx, pipeline.LaterStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	key := bus.Escape(id)
	// In this order: an event that waits moves to where it is due.
	for _, subject := range []string{"$RPC.event.*." + key, "$RPC.event.due." + key + ".>"} {
		if err == nil {
			_, err = stream.GetLastMsgForSubject(ctx, subject)
		}
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return false, rpc.Unavailable.Errorf("whether the event %.80q waits for its time could not be looked at: %w", id, err)
		}
		err = nil
	}
	return false, nil
}

func (w *worker) cancel(ctx context.Context, p pipeline.EventCancelParams) (pipeline.EventCancelResult, error) {
	cancelled, err := w.events.Cancel(ctx, p.EventID)
	return pipeline.EventCancelResult{Cancelled: cancelled}, err
}
