package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/textproto"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

const (
	// headRoom is what the largest event leaves free for the headers that it gets
	// when it is sent again later, as a dead letter or by a replay.
	headRoom = 8 << 10

	// maxTrace bounds the trace headers that an event gets from its call, in bytes:
	// who sends too much of them must not make a send fail.
	maxTrace = 4 << 10
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
	at       time.Time // zero for now
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
	if cfg.at.After(time.Now()) {
		o.at = cfg.at
	}
	if meta.Time.IsZero() && !o.at.IsZero() {
		meta.Time = o.at
	} else if meta.Time.IsZero() {
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
