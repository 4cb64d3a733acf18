package pipeline

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// Event is one event with its data.
type Event[T any] struct {
	// ID is the event's identity: that with which it was sent, or, when it was
	// sent without, "EVENTS/<sequence>". Use it as the key that makes effects
	// elsewhere idempotent.
	ID string `json:"id"`
	// Type is the event's name, such as "User.registered".
	Type string `json:"type"`
	// Source says who has sent it, as a URI reference.
	Source string `json:"source"`
	// Subject names the entity that it is about, empty when that was not said.
	Subject string `json:"subject,omitempty"`
	// Time is when it happened, as its sender says.
	Time time.Time `json:"time"`
	// CorrelationID is the id of the event that everything began with, this one's
	// own when it did.
	CorrelationID string `json:"correlationId"`
	// CausationID is the id of the event whose handler has sent this one, empty
	// when none has.
	CausationID string `json:"causationId,omitempty"`
	// Hops counts the events that led to this one.
	Hops int `json:"hops,omitempty"`

	Data T `json:"data"`
	// Attempt counts the tries of the handler from 1. It is 0 outside handlers. An
	// event that was with an instance that died begins with 2, tried or not.
	Attempt int `json:"attempt,omitempty"`
	// Sequence is the event's place in the stream EVENTS, from 1.
	Sequence uint64 `json:"sequence,omitempty"`
	// Stored is when the stream has taken it in.
	Stored time.Time `json:"stored"`
	// Again says that the event comes to this handler because somebody asked for
	// it: by a replay, or by the retry of a dead letter.
	Again bool `json:"again,omitempty"`

	// Header has all headers of the message, and Raw its data as they came. They
	// are not to be changed.
	Header rpc.Header `json:"-"`
	Raw    []byte     `json:"-"`
	// ContentType is that of Raw; empty is JSON.
	ContentType string `json:"contentType,omitempty"`

	subject string // of the message
}

// RawEvent is an event whose data were not decoded. Data holds them when they are
// JSON, Raw in any case.
type RawEvent = Event[json.RawMessage]

// newEvent makes an event of a message that was read, without its data.
func newEvent[T any](m *bus.EventMeta, subject string, header nats.Header, raw []byte, stored bus.Stored) Event[T] {
	return Event[T]{
		ID: m.ID, Type: m.Type, Source: m.Source, Subject: m.Subject, Time: m.Time, ContentType: m.ContentType,
		CorrelationID: m.CorrelationID(), CausationID: m.Causation, Hops: m.Hops,
		Sequence: stored.Sequence, Stored: stored.Time, Header: rpc.Header(header), Raw: raw,
		subject: subject,
	}
}

// decode reads the data of an event into it. No data are the zero value.
func decode[T any](b *bus.Bus, e *Event[T]) error {
	if raw, ok := any(&e.Data).(*json.RawMessage); ok {
		if json.Valid(e.Raw) {
			*raw = e.Raw
		}
		return nil
	}
	if len(e.Raw) == 0 {
		return nil
	}
	codec := codecOf(b, e.ContentType)
	if codec == nil {
		return fmt.Errorf("its content type %.80q is not known here", e.ContentType)
	}
	if err := codec.Unmarshal(e.Raw, &e.Data); err != nil {
		return fmt.Errorf("its data can't be read as %v: %w", reflect.TypeFor[T](), err)
	}
	if v, ok := any(&e.Data).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("its data are not valid: %w", err)
		}
	}
	return nil
}

func codecOf(b *bus.Bus, contentType string) bus.Codec {
	codec, _ := b.Codec(contentType)
	return codec
}

// parse reads a message of the stream EVENTS. The error says why it is no event
// that can be read.
func parse(subject string, header nats.Header, data []byte, stored bus.Stored) (RawEvent, error) {
	m, raw, err := bus.ParseEvent(subject, header, data, stored)
	e := newEvent[json.RawMessage](&m, subject, header, raw, stored)
	if json.Valid(raw) {
		e.Data = raw
	}
	return e, err
}
