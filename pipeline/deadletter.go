package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// DeadStream is the stream of the dead letters: $RPC.dead.<service>-<handler>.
const DeadStream = "EVENTS_DEAD"

const (
	deadVersion = 1
	deadPrefix  = "$RPC.dead."

	// deadWindow is for how long the same dead letter is stored once.
	deadWindow = time.Hour
)

// Headers of a dead letter, and of an event in a handler's lane, beside those of
// the event itself.
const (
	headerSubject  = "Rpc-Event-Subject"
	headerSequence = "Rpc-Event-Sequence"
	headerStored   = "Rpc-Event-Stored"

	headerService  = "Rpc-Dead-Service"
	headerHandler  = "Rpc-Dead-Handler"
	headerReason   = "Rpc-Dead-Reason"
	headerAttempts = "Rpc-Dead-Attempts"
	headerCode     = "Rpc-Dead-Code"
	headerError    = "Rpc-Dead-Error" // as JSON, which is one line
	headerVersion  = "Rpc-Dead-Version"
	headerTime     = "Rpc-Dead-Time"
	headerMissing  = "Rpc-Dead-Data-Missing"
)

// Reason says why an event became a dead letter.
type Reason string

// The reasons.
const (
	ReasonAttempts Reason = "attempts" // it failed as often as it may
	ReasonTerminal Reason = "terminal" // the handler's error was terminal
	ReasonCode     Reason = "code"     // the error's code says that trying again changes nothing
	ReasonDecode   Reason = "decode"   // it can't be read
	ReasonLoop     Reason = "loop"     // too many events have led to it
	ReasonDied     Reason = "died"     // the instance died during the last attempt
)

// verdict says that an event is to be a dead letter.
type verdict struct {
	reason Reason
	cause  error
}

// bury keeps an event as a dead letter. When that can't be, the event stays.
func (h *handler) bury(d *delivery, reason Reason, cause error) {
	err := h.keepDead(d, reason, cause)
	log := h.log.Error().AnErr("cause", cause).Str("event", d.meta.ID).Str("type", d.meta.Type).Str("reason", string(reason)).Int("attempts", d.attempt)
	if err != nil {
		log.Err(err).Msg("event can't be kept as a dead letter; it stays where it is")
		if d.attempt > 0 {
			h.workers.attempts.condemn(h, d, cause)
		}
		if d.out.kind = outBack; h.cfg.exclusive {
			d.dead, d.out = &verdict{reason, cause}, outcome{outLater, undecided}
		} else {
			d.giveBack(undecided)
		}
		return
	}
	log.Msg("event is a dead letter")
	d.answer(ackDone)
	d.out.kind = outDone
	if d.attempt > 1 || h.cfg.attempts == 1 {
		h.workers.attempts.forget(h, d)
	}
}

// keepDead stores a dead letter, without what is too large to be stored: what is
// missing is in EVENTS, as long as that keeps it.
func (h *handler) keepDead(d *delivery, reason Reason, cause error) error {
	m := h.deadLetter(d, reason, cause, carried(d))
	err := h.workers.storeDead(m)
	if !isTooLarge(err) {
		return err
	}
	m = h.deadLetter(d, reason, cause, carriedLeast(d))
	m.Header[headerMissing] = []string{"headers"}
	if err = h.workers.storeDead(m); !isTooLarge(err) {
		return err
	}
	m.Header[headerMissing] = []string{"data"}
	m.Data = nil
	return h.workers.storeDead(m)
}

func isTooLarge(err error) bool {
	if _, large := errors.AsType[*tooLarge](err); large {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.ErrorCode == codeHeaderTooLarge
}

// carriedLeast is carried without what an event may have too much of.
func carriedLeast(d *delivery) nats.Header {
	const least = 512
	m := d.meta
	for _, text := range []*string{&m.ID, &m.Type, &m.Source, &m.Subject, &m.ContentType, &m.Correlation, &m.Causation} {
		*text = bus.Cut(*text, least)
	}
	return where(d, m.Header())
}

func (h *handler) deadLetter(d *delivery, reason Reason, cause error, header nats.Header) *nats.Msg {
	text := cause.Error()
	if e, ok := errors.AsType[*rpc.Error](cause); ok && e != nil {
		text = e.Message
	}
	quoted, err := json.Marshal(bus.Cut(text, maxErrorText))
	if err != nil {
		quoted = []byte(`""`)
	}
	run := ""
	if d.again {
		run = "/" + d.msg.Header.Get(headerMsgID)
	}
	for name, value := range map[string]string{
		headerService: h.service, headerHandler: h.name, headerReason: string(reason), headerAttempts: strconv.Itoa(d.attempt),
		headerCode: rpc.CodeOf(cause).String(), headerError: string(quoted), headerVersion: h.version,
		headerTime:  time.Now().UTC().Format(time.RFC3339Nano),
		headerMsgID: bus.Cut(h.durable+"/"+h.made()+"/"+d.place.String()+run, 500),
	} {
		header[name] = []string{value}
	}
	return &nats.Msg{Subject: deadPrefix + h.durable, Header: header, Data: d.msg.Data}
}

// carried returns the headers that go with an event out of EVENTS: its own, who
// it is, and where it comes from.
func carried(d *delivery) nats.Header {
	header := make(nats.Header, len(d.header)+12)
	for name, values := range d.header {
		if !serversOwn(name) {
			header[name] = values
		}
	}
	if len(header[bus.HeaderEventID]) == 0 { // elsewhere nobody could tell it
		own := d.meta.Header()
		header[bus.HeaderEventID], header[bus.HeaderEventTime] = own[bus.HeaderEventID], own[bus.HeaderEventTime]
	}
	return where(d, header)
}

// where adds where an event comes from.
func where(d *delivery, header nats.Header) nats.Header {
	header[headerSubject] = []string{d.subject}
	header[headerSequence] = []string{strconv.FormatUint(d.stored.Sequence, 10)}
	header[headerStored] = []string{d.stored.Time.UTC().Format(time.RFC3339Nano)}
	return header
}

// serversOwn reports whether a header is one for a message in its stream.
func serversOwn(name string) bool {
	return strings.HasPrefix(name, "Nats-") || strings.HasPrefix(name, "Rpc-Dead-") || strings.HasPrefix(name, "Rpc-Event-")
}

// original returns what an event that is carried in another stream was in EVENTS.
func original(msg *nats.Msg, stored bus.Stored) (subject string, from bus.Stored, header nats.Header) {
	from = bus.Stored{Stream: bus.EventsStream, Time: stored.Time}
	from.Sequence, _ = strconv.ParseUint(msg.Header.Get(headerSequence), 10, 64) // 0 for one that is in no stream
	if t, err := time.Parse(time.RFC3339Nano, msg.Header.Get(headerStored)); err == nil {
		from.Time = t
	}
	header = maps.Clone(msg.Header)
	maps.DeleteFunc(header, func(name string, _ []string) bool { return serversOwn(name) })
	return msg.Header.Get(headerSubject), from, header
}

// tooLarge says that a message does not fit into what the server takes.
type tooLarge struct{ size, limit int64 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("it has %d bytes with its headers, at most %d fit into a message", e.size, e.limit)
}

// fits checks the size of a message.
func fits(b *bus.Bus, m *nats.Msg) error {
	if size, limit := int64(m.Size()), b.MaxPayload(); size > limit {
		return &tooLarge{size, limit}
	}
	return nil
}

func (p *Pipeline) deadStream(ctx context.Context) (jetstream.Stream, error) {
	return p.ensure(ctx, DeadStream, func(ctx context.Context) (jetstream.Stream, error) {
		return p.bus.EnsureStream(ctx, jetstream.StreamConfig{
			Name: DeadStream, Subjects: []string{deadPrefix + "*"}, Description: "events that their handlers could not handle",
			Storage: jetstream.FileStorage, AllowDirect: true, Duplicates: deadWindow,
		}, deadVersion)
	})
}

// storeDead stores a dead letter, also when the stream is not there yet.
func (w *workers) storeDead(m *nats.Msg) error {
	if err := fits(w.bus, m); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.life, 2*requestTimeout)
	defer cancel()
	return w.pipeline.store(ctx, m, DeadStream, w.pipeline.deadStream)
}

// store publishes a message that has an id, until it is stored or ctx ends. The
// stream is made when it is not there.
func (p *Pipeline) store(ctx context.Context, m *nats.Msg, stream string, ensure func(context.Context) (jetstream.Stream, error)) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if err := p.bus.WaitConnected(ctx); err != nil {
			return err
		}
		if _, err := ensure(ctx); err != nil { // somebody may listen on its subjects without storing anything
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err := p.js.PublishMsg(attempt, m, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil || !passing(err) {
			return err
		}
		p.lost(ctx, stream)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
