package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// DeadLetter is an event that a handler could not handle.
type DeadLetter struct {
	// ID is its place among the dead letters.
	ID      uint64 `json:"id"`
	Service string `json:"service"`
	Handler string `json:"handler"`
	// Reason says why: "attempts" (it failed as often as it may), "terminal" (the
	// error was), "code" (the error's code says that trying again changes
	// nothing), "decode" (it can't be read), "loop" (too many events have led to
	// it) or "died" (the instance did during the last attempt).
	Reason   Reason `json:"reason"`
	Attempts int    `json:"attempts"`
	// Code and Error are those of the last attempt.
	Code  string `json:"code"`
	Error string `json:"error"`
	// Version is that of the service that gave up.
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Event   RawEvent  `json:"event"`
	// Missing says what of the event was too large to be kept with all this, and is
	// in EVENTS alone, as long as that keeps it: "headers", or "data", which means
	// both.
	Missing string `json:"missing,omitempty"`
}

// DeadQuery says which dead letters are meant. The zero value means all.
type DeadQuery struct {
	// Service and Handler are whose they are; a handler goes with its service.
	Service string
	Handler string
	// After begins behind that ID.
	After uint64
	// Limit bounds how many are returned. Defaults to 100; at most 1,000. It does
	// not bound RetryAllDead and DiscardAllDead.
	Limit int
}

const (
	defaultDead = 100
	maxDead     = 1000
)

func (q *DeadQuery) check() error {
	switch {
	case q.Handler != "" && q.Service == "":
		return rpc.InvalidArgument.Errorf("dead letters of the handler %q: of which service?", q.Handler)
	case q.Limit < 0 || q.Limit > maxDead:
		return rpc.InvalidArgument.Errorf("limit %d: want 1 to %d, or 0 for %d", q.Limit, maxDead, defaultDead)
	case q.Limit == 0:
		q.Limit = defaultDead
	}
	for what, name := range map[string]string{"service": q.Service, "handler": q.Handler} {
		if err := rpc.ValidateService(name); name != "" && err != nil {
			return rpc.InvalidArgument.Errorf("the %s of dead letters: %w", what, err)
		}
	}
	return nil
}

func (q *DeadQuery) subject() string {
	if q.Handler != "" {
		return deadPrefix + q.Service + "-" + q.Handler
	}
	return deadPrefix + "*"
}

func (q *DeadQuery) wants(d *DeadLetter) bool {
	return (q.Service == "" || d.Service == q.Service) && (q.Handler == "" || d.Handler == q.Handler)
}

// DeadLetters returns dead letters, the oldest first.
func (p *Pipeline) DeadLetters(ctx context.Context, q DeadQuery) ([]DeadLetter, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	found := []DeadLetter{}
	err := p.eachDead(ctx, q, func(d DeadLetter, _ *jetstream.RawStreamMsg) (bool, error) {
		found = append(found, d)
		return len(found) < q.Limit, nil
	})
	return found, err
}

// eachDead calls fn for one dead letter after the other until it returns false.
func (p *Pipeline) eachDead(ctx context.Context, q DeadQuery, fn func(DeadLetter, *jetstream.RawStreamMsg) (bool, error)) error {
	stream, err := p.js.Stream(ctx, DeadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // there has been none yet
	}
	if err != nil {
		return coded(ctx, err)
	}
	last := stream.CachedInfo().State.LastSeq
	for after := q.After; after < last; {
		msg, err := stream.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(q.subject()))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return coded(ctx, err)
		}
		after = msg.Sequence
		d := readDead(msg)
		if !q.wants(&d) || msg.Sequence > last {
			continue
		}
		if more, err := fn(d, msg); err != nil || !more {
			return err
		}
	}
	return nil
}

// DeadLetter returns the one with that ID, or a NotFound.
func (p *Pipeline) DeadLetter(ctx context.Context, id uint64) (DeadLetter, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	_, msg, err := p.deadMessage(ctx, id)
	if err != nil {
		return DeadLetter{}, err
	}
	return readDead(msg), nil
}

func (p *Pipeline) deadMessage(ctx context.Context, id uint64) (jetstream.Stream, *jetstream.RawStreamMsg, error) {
	none := rpc.NotFound.Errorf("there is no dead letter %d: it may have been retried or discarded", id)
	stream, err := p.js.Stream(ctx, DeadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) || id == 0 {
		return nil, nil, none
	}
	if err != nil {
		return nil, nil, coded(ctx, err)
	}
	msg, err := stream.GetMsg(ctx, id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil, none
	}
	if err != nil {
		return nil, nil, coded(ctx, err)
	}
	return stream, msg, nil
}

func readDead(msg *jetstream.RawStreamMsg) DeadLetter {
	get := msg.Header.Get
	d := DeadLetter{
		ID: msg.Sequence, Service: get(headerService), Handler: get(headerHandler), Reason: Reason(get(headerReason)),
		Code: get(headerCode), Version: get(headerVersion), Time: msg.Time, Missing: get(headerMissing),
	}
	d.Attempts, _ = strconv.Atoi(get(headerAttempts)) // 0 when it does not say
	if json.Unmarshal([]byte(get(headerError)), &d.Error) != nil {
		d.Error = get(headerError)
	}
	if t, err := time.Parse(time.RFC3339Nano, get(headerTime)); err == nil {
		d.Time = t
	}
	subject, stored, header := original(&nats.Msg{Header: msg.Header}, bus.Stored{Time: msg.Time})
	d.Event, _ = parse(subject, header, msg.Data, stored) // what can't be read may be why it is here
	return d
}

// RetryDead has the handler have the event again, with all its attempts, and
// takes it out of the dead letters. With data that are not nil these take the
// place of the event's; they are JSON. Several that are retried come in that
// order, and those of one key one at a time (OrderBy). It does not wait until the
// event is handled.
func (p *Pipeline) RetryDead(ctx context.Context, id uint64, data json.RawMessage) error {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	if data != nil && !json.Valid(data) {
		return rpc.InvalidArgument.Errorf("the data for the dead letter %d are not JSON", id)
	}
	stream, msg, err := p.deadMessage(ctx, id)
	if err != nil {
		return err
	}
	return p.retryDead(ctx, stream, msg, data)
}

func (p *Pipeline) retryDead(ctx context.Context, stream jetstream.Stream, msg *jetstream.RawStreamMsg, data json.RawMessage) error {
	d := readDead(msg)
	fail := func(err error) error { return fmt.Errorf("dead letter %d: %w", d.ID, err) }
	if rpc.ValidateService(d.Service) != nil || rpc.ValidateService(d.Handler) != nil {
		return fail(rpc.DataLoss.Errorf("it does not say whose it is"))
	}
	if _, _, err := p.consumer(ctx, d.Service, d.Handler); rpc.CodeOf(err) == rpc.NotFound {
		return fail(rpc.FailedPrecondition.Errorf("its handler %s of %s is gone: discard it, or send the event anew", d.Handler, d.Service))
	} else if err != nil {
		return fail(err)
	}
	out := &nats.Msg{Subject: laneSubject(d.Service, d.Handler), Header: nats.Header{}, Data: msg.Data}
	for name, values := range msg.Header {
		if !serversOwn(name) || name == headerSubject || name == headerSequence || name == headerStored {
			out.Header[name] = values
		}
	}
	switch {
	case data != nil:
		out.Data = data
		replaceData(out, &d.Event)
	case d.Missing == "data":
		events, err := p.events(ctx)
		if err != nil {
			return fail(err)
		}
		original, err := events.GetMsg(ctx, d.Event.Sequence)
		if err != nil {
			return fail(coded(ctx, fmt.Errorf("its data were to be in EVENTS at %d: %w", d.Event.Sequence, err)))
		}
		out.Data = original.Data
	}
	edit := ""
	if data != nil {
		edit = fmt.Sprintf("-%x", sha256.Sum256(data))
	}
	out.Header[headerMsgID] = []string{bus.Cut("dead-"+strconv.FormatUint(d.ID, 10)+edit+"-"+d.Event.ID, 500)}
	if err := p.toLane(ctx, out); err != nil {
		return fail(err)
	}
	if err := stream.DeleteMsg(ctx, d.ID); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fail(coded(ctx, fmt.Errorf("the handler has it, but it is still a dead letter: %w", err)))
	}
	return nil
}

// replaceData makes the message say that its data are JSON, all of them.
func replaceData(out *nats.Msg, e *RawEvent) {
	m := bus.EventMeta{
		ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Time: e.Time,
		Cause: bus.Cause{Correlation: e.CorrelationID, Causation: e.CausationID, Hops: e.Hops},
	}
	delete(out.Header, bus.HeaderContentType)
	delete(out.Header, bus.HeaderEventContentType)
	for name, values := range m.Header() {
		out.Header[name] = values
	}
}

// toLane stores a message for a handler to have again.
func (p *Pipeline) toLane(ctx context.Context, m *nats.Msg) error {
	if err := fits(p.bus, m); err != nil {
		return rpc.ResourceExhausted.Errorf("%w", err)
	}
	if err := p.store(ctx, m, LaneStream, p.laneStream); err != nil {
		return coded(ctx, err)
	}
	return nil
}

// DiscardDead deletes a dead letter for good.
func (p *Pipeline) DiscardDead(ctx context.Context, id uint64) error {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	stream, _, err := p.deadMessage(ctx, id)
	if err != nil {
		return err
	}
	if err := stream.DeleteMsg(ctx, id); err != nil {
		return coded(ctx, err)
	}
	return nil
}

// RetryAllDead retries the dead letters that q means and that are there now, the
// oldest first, and returns how many it has. Progress, which may be nil, is told
// after each. One that can't be retried ends it. It takes as long as it takes:
// only ctx bounds it.
func (p *Pipeline) RetryAllDead(ctx context.Context, q DeadQuery, progress func(done int)) (int, error) {
	return p.allDead(ctx, q, progress, func(stream jetstream.Stream, msg *jetstream.RawStreamMsg) error {
		return p.retryDead(ctx, stream, msg, nil)
	})
}

// DiscardAllDead deletes the dead letters that q means and that are there now, as
// RetryAllDead retries them.
func (p *Pipeline) DiscardAllDead(ctx context.Context, q DeadQuery, progress func(done int)) (int, error) {
	return p.allDead(ctx, q, progress, func(stream jetstream.Stream, msg *jetstream.RawStreamMsg) error {
		if err := stream.DeleteMsg(ctx, msg.Sequence); err != nil {
			return coded(ctx, err)
		}
		return nil
	})
}

func (p *Pipeline) allDead(
	ctx context.Context, q DeadQuery, progress func(int), do func(jetstream.Stream, *jetstream.RawStreamMsg) error,
) (n int, err error) {
	if err := q.check(); err != nil {
		return 0, err
	}
	stream, err := p.js.Stream(ctx, DeadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, coded(ctx, err)
	}
	err = p.eachDead(ctx, q, func(_ DeadLetter, msg *jetstream.RawStreamMsg) (bool, error) {
		if err := do(stream, msg); err != nil {
			return false, err
		}
		n++
		if progress != nil {
			progress(n)
		}
		return true, nil
	})
	return n, err
}
