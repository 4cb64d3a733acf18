package pipeline

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// LaterStream is the stream of the events that are to be sent later. Each waits
// as one scheduled message (ADR-51) on $RPC.event.later.<id>. When its time comes
// the server moves it to $RPC.event.due.<id>.<type>, from where EVENTS takes it
// in: no process of ours has to be awake.
const LaterStream = "EVENTS_LATER"

const (
	laterVersion = 1

	laterPrefix     = "$RPC.event.later."
	duePrefix       = "$RPC.event.due"
	cancelledPrefix = "$RPC.event.cancelled."

	// keptTTL is how long the stream knows that an event has fired, or was
	// cancelled.
	keptTTL = "24h"
)

// latest is how far ahead an event may be sent.
func latest() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }

// At sends the event at that time, or at once when it has passed. It is stored
// when Send returns nil, and comes from a few milliseconds to a quarter of a second
// after its time, with that as its Time unless WithTime says another. While it waits,
// and for a day after it was sent, one with the same id is not sent again. Cancel
// takes it back.
//
// It is not for batches, and not with WithExpectedSequence.
func At(t time.Time) SendOption {
	return func(c *sendConfig) { c.at = t }
}

// After is At for a time from now on.
func After(d time.Duration) SendOption {
	return func(c *sendConfig) { c.at = time.Now().Add(d) }
}

func (p *Pipeline) laterStream(ctx context.Context) (jetstream.Stream, error) {
	return p.ensure(ctx, LaterStream, func(ctx context.Context) (jetstream.Stream, error) {
		stream, err := p.bus.EnsureStream(ctx, jetstream.StreamConfig{
			Name: LaterStream, Subjects: []string{laterPrefix + "*", duePrefix + ".>", cancelledPrefix + "*"}, Description: "events that are to be sent later",
			Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1, AllowRollup: true, AllowMsgTTL: true, AllowMsgSchedules: true,
		}, laterVersion)
		if err != nil {
			return nil, err
		}
		return stream, p.bus.SourceEvents(ctx, LaterStream, duePrefix)
	})
}

// sendLater has an event wait until its time.
func (p *Pipeline) sendLater(ctx context.Context, o *outgoing) (Receipt, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	header := maps.Clone(o.msg.Header)
	delete(header, headerMsgID) // the subject is the event's own
	key := bus.Escape(o.id)
	header["Nats-Schedule"] = []string{"@at " + o.at.UTC().Format(time.RFC3339Nano)}
	header["Nats-Schedule-Target"] = []string{duePrefix + "." + key + "." + o.name}
	header["Nats-Schedule-TTL"] = []string{keptTTL}
	header[headerExpected] = []string{"0"}
	receipt := Receipt{ID: o.id, Subject: o.msg.Subject, At: o.at}
	m := &nats.Msg{Subject: laterPrefix + key, Header: header, Data: o.msg.Data}
	for tried := o.named; ; tried = true {
		if tried { // it may wait, or have been sent
			if there, err := p.isLater(ctx, o); there || err != nil {
				receipt.Duplicate = there && o.named
				return receipt, err
			}
		}
		if _, err := p.laterStream(ctx); err != nil {
			return Receipt{}, err
		}
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err := p.js.PublishMsg(attempt, m, jetstream.WithRetryAttempts(0))
		cancel()
		switch {
		case err == nil:
			return receipt, nil
		case bus.IsWrongLast(err):
			continue
		case !passing(err) || ctx.Err() != nil:
			return Receipt{}, coded(ctx, err)
		}
		p.lost(ctx, LaterStream)
		if err := p.bus.WaitConnected(ctx); err != nil {
			return Receipt{}, coded(ctx, err)
		}
	}
}

// isLater reports whether an event waits for its time, or has been sent after it in
// the last day.
func (p *Pipeline) isLater(ctx context.Context, o *outgoing) (bool, error) {
	waits, stream, err := p.waits(ctx, o.id)
	if err != nil {
		return false, err
	}
	if waits != nil {
		if waits.Header.Get("Nats-Schedule-Target") != duePrefix+"."+bus.Escape(o.id)+"."+o.name {
			return false, rpc.AlreadyExists.Errorf("send %s: the id %.80q is that of an event of another type, which waits for its time", o.name, o.id)
		}
		return true, nil
	}
	_, err = stream.GetLastMsgForSubject(ctx, duePrefix+"."+bus.Escape(o.id)+"."+o.name)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, coded(ctx, err)
	}
	return true, nil
}

// waits returns the message of an event that waits for its time, nil when there is
// none.
func (p *Pipeline) waits(ctx context.Context, id string) (*jetstream.RawStreamMsg, jetstream.Stream, error) {
	stream, err := p.laterStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, laterPrefix+bus.Escape(id)) // of the leader: the stream has no direct gets
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, stream, nil
	}
	if err != nil {
		return nil, nil, coded(ctx, err)
	}
	return msg, stream, nil
}

// Cancel takes back an event that was sent with At or After. True says that it is
// not sent, false that it was already. Around the event's time that takes a quarter
// of a second. It fails with NotFound when no event with that id has waited in the
// last day.
func (p *Pipeline) Cancel(ctx context.Context, id string) (cancelled bool, err error) {
	if !validID(id) {
		return false, rpc.InvalidArgument.Errorf("cancel: the id %.80q is none of an event", id)
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	key := bus.Escape(id)
	for {
		msg, stream, err := p.waits(ctx, id)
		if err != nil {
			return false, err
		}
		if msg == nil {
			return p.whatBecame(ctx, stream, id)
		}
		// Deletes the scheduled message if it is still the last of its subject, which
		// it is not when it has fired.
		err = p.store(ctx, &nats.Msg{Subject: cancelledPrefix + key, Header: nats.Header{
			"Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {laterPrefix + key}, "Nats-TTL": {keptTTL},
			headerExpected: {strconv.FormatUint(msg.Sequence, 10)}, headerExpected + "-Subject": {laterPrefix + key},
		}}, LaterStream, p.laterStream)
		switch {
		case err == nil && time.Until(dueAt(msg)) > clocksDiffer:
			return true, nil // it was not due yet
		case err == nil: // the server may have been about to move it
			return p.movedAllTheSame(ctx, stream, id)
		case !bus.IsWrongLast(err):
			return false, coded(ctx, err)
		}
	}
}

const (
	// clocksDiffer is by how much the server's clock may be ahead.
	clocksDiffer = time.Second

	// movesWithin is how long the server takes at most from where it decides to move
	// an event until it has.
	movesWithin = 250 * time.Millisecond
)

// dueAt returns the time of an event that waits.
func dueAt(msg *jetstream.RawStreamMsg) time.Time {
	at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(msg.Header.Get("Nats-Schedule"), "@at "))
	if err != nil {
		return time.Time{}
	}
	return at
}

// movedAllTheSame finds out whether the server was about to send an event when that
// was taken back. It reports true when it was not.
func (p *Pipeline) movedAllTheSame(ctx context.Context, stream jetstream.Stream, id string) (cancelled bool, err error) {
	timer := time.NewTimer(movesWithin)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false, coded(ctx, context.Cause(ctx))
	}
	return p.whatBecame(ctx, stream, id)
}

// whatBecame says what became of an event that does not wait.
func (p *Pipeline) whatBecame(ctx context.Context, stream jetstream.Stream, id string) (cancelled bool, err error) {
	key := bus.Escape(id)
	_, err = stream.GetLastMsgForSubject(ctx, duePrefix+"."+key+".>")
	if err == nil {
		return false, nil
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		_, err = stream.GetLastMsgForSubject(ctx, cancelledPrefix+key)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return false, rpc.NotFound.Errorf("cancel: no event with the id %.80q waits for its time, or has in the last day", id)
	}
	return false, coded(ctx, err)
}
