package bus

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// Headers of an event: the attributes of CloudEvents 1.0 in binary mode, as its
// binding for NATS has them, and the three extensions that say what led to it.
const (
	HeaderEventSpec        = "ce-specversion"
	HeaderEventID          = "ce-id"
	HeaderEventType        = "ce-type"
	HeaderEventSource      = "ce-source"
	HeaderEventTime        = "ce-time"
	HeaderEventSubject     = "ce-subject"
	HeaderEventContentType = "ce-datacontenttype"
	HeaderCorrelation      = "ce-correlationid"
	HeaderCausation        = "ce-causationid"
	HeaderHops             = "ce-hops"

	headerMsgID    = "Nats-Msg-Id"
	structuredType = "application/cloudevents"
)

// EventMeta is what an event says of itself beside its data.
type EventMeta struct {
	// ID is the event's identity. The stream takes in an identity once within
	// two minutes.
	ID string
	// Type is the event's name, such as "User.registered".
	Type string
	// Source says who has sent it, as a URI reference.
	Source string
	// Subject names the entity that it is about, empty when that is not said.
	Subject string
	Time    time.Time
	// ContentType is that of the data; empty is JSON.
	ContentType string
	Cause
}

// Cause says what led to an event.
type Cause struct {
	// Correlation is the id of the event that everything began with.
	Correlation string
	// Causation is the id of the event whose handler sent this one, empty for one
	// that began something.
	Causation string
	// Hops counts the events that led to this one.
	Hops int
}

// maxCauseID bounds the ids of other events that an event names.
const maxCauseID = 512

// CauseOf returns what a call, or the handler of an event, is due to: what is
// sent from it has this cause. What is malformed, or too long to be an id, is
// left out.
func CauseOf(h rpc.Header) Cause {
	if len(h) == 0 {
		return Cause{}
	}
	id := func(name string) string {
		if id := unescapeAttribute(h.Get(name)); len(id) <= maxCauseID && utf8.ValidString(id) {
			return id
		}
		return ""
	}
	c := Cause{Correlation: id(HeaderCorrelation), Causation: id(HeaderCausation)}
	c.Hops, _ = parseHops(h.Get(HeaderHops)) // what is malformed counts from zero
	return c
}

// parseHops reads how many events led to one.
func parseHops(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// Effects returns the headers that a call made by the handler of the event
// carries, so that what is sent further on says what it is due to.
func (m *EventMeta) Effects() rpc.Header {
	return rpc.Header{
		HeaderCorrelation: {escapeAttribute(m.CorrelationID())},
		HeaderCausation:   {escapeAttribute(m.ID)},
		HeaderHops:        {strconv.Itoa(m.Hops + 1)},
	}
}

// CorrelationID returns the id of the event that everything began with: this one
// when it does not name another.
func (m *EventMeta) CorrelationID() string {
	if m.Correlation != "" {
		return m.Correlation
	}
	return m.ID
}

// EventSubject returns the subject of an event of that type.
func EventSubject(name string) string { return "$." + name }

// EventName returns the type of an event on that subject, false when it is not
// one of events.
func EventName(subject string) (string, bool) { return strings.CutPrefix(subject, "$.") }

// Header returns the headers of the event's message.
func (m *EventMeta) Header() nats.Header {
	h := make(nats.Header, 12)
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{escapeAttribute(value)}
		}
	}
	h[HeaderEventSpec] = []string{"1.0"}
	set(HeaderEventID, m.ID)
	set(HeaderEventType, m.Type)
	set(HeaderEventSource, m.Source)
	set(HeaderEventSubject, m.Subject)
	set(HeaderEventContentType, m.ContentType)
	set(HeaderEventTime, m.Time.UTC().Format(time.RFC3339Nano))
	set(HeaderCorrelation, m.CorrelationID())
	set(HeaderCausation, m.Causation)
	if m.Hops > 0 {
		h[HeaderHops] = []string{strconv.Itoa(m.Hops)}
	}
	h[headerMsgID] = []string{m.ID}
	return h
}

// Stored is what the stream says of an event.
type Stored struct {
	Stream   string
	Sequence uint64
	Time     time.Time
}

// ParseEvent reads an event's message, see EventMeta.Read.
func ParseEvent(subject string, h nats.Header, data []byte, stored Stored) (m EventMeta, _ []byte, err error) {
	data, err = m.Read(subject, h, data, &stored)
	return m, data, err
}

// Read reads an event's message and returns its data. What a message lacks that was
// not sent as a CloudEvent gets a value of its own: the id is the Nats-Msg-Id or
// else "<stream>/<sequence>", the type that of the subject, the source "/nats", the
// time that of storing. An event in structured mode comes with its data taken out
// of the envelope.
//
// The error says why the message is no event that can be read; m then has what
// could be.
func (m *EventMeta) Read(subject string, h nats.Header, data []byte, stored *Stored) ([]byte, error) {
	*m = EventMeta{Time: stored.Time, Source: "/nats"}
	m.Type, _ = EventName(subject)
	if id := first(h, headerMsgID); id != "" {
		m.ID = id
	} else {
		m.ID = stored.Stream + "/" + strconv.FormatUint(stored.Sequence, 10)
	}
	if len(h) == 0 {
		return data, nil
	}
	if kind := first(h, HeaderContentType); len(kind) >= len(structuredType) && strings.EqualFold(kind[:len(structuredType)], structuredType) {
		return m.readStructured(kind, data)
	}
	err := m.set(h, nil)
	if m.ContentType == "" {
		m.ContentType = first(h, HeaderContentType)
	}
	return data, err
}

func first(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// set takes over the attributes that are there: from headers, or from an envelope,
// whose names are without the "ce-".
func (m *EventMeta) set(h nats.Header, envelope map[string]json.RawMessage) error {
	for _, a := range [...]struct {
		to     *string
		header string
	}{
		{&m.ID, HeaderEventID}, {&m.Type, HeaderEventType}, {&m.Source, HeaderEventSource}, {&m.Subject, HeaderEventSubject},
		{&m.ContentType, HeaderEventContentType}, {&m.Correlation, HeaderCorrelation}, {&m.Causation, HeaderCausation},
	} {
		if v := attribute(h, envelope, a.header); v != "" {
			*a.to = v
		}
	}
	var errs []error
	if at := attribute(h, envelope, HeaderEventTime); at != "" {
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			errs = append(errs, fmt.Errorf("the event's time %.60q is not as RFC 3339 has it", at))
		} else {
			m.Time = t
		}
	}
	if hops := attribute(h, envelope, HeaderHops); hops != "" {
		n, err := parseHops(hops)
		if err != nil {
			errs = append(errs, fmt.Errorf("the event's hops %.60q are not a number", hops))
		}
		m.Hops = n
	}
	return errors.Join(errs...)
}

func attribute(h nats.Header, envelope map[string]json.RawMessage, header string) string {
	if envelope == nil {
		return unescapeAttribute(first(h, header))
	}
	raw := envelope[strings.TrimPrefix(header, "ce-")]
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw) // a number, as hops are
	}
	return text
}

// readStructured reads an event that is as a whole in the payload, as JSON.
func (m *EventMeta) readStructured(kind string, data []byte) ([]byte, error) {
	if format, _, _ := strings.Cut(kind[len(structuredType):], ";"); format != "" && !strings.EqualFold(strings.TrimSpace(format), "+json") {
		return nil, fmt.Errorf("the event is in the format %.80q: of CloudEvents in structured mode JSON alone is known here", kind)
	}
	envelope := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &envelope); err != nil || envelope == nil {
		return nil, fmt.Errorf("the event says that it is a CloudEvent in structured mode, and is not: %w", cmp.Or(err, errNoObject))
	}
	err := m.set(nil, envelope)
	if base64, ok := envelope["data_base64"]; ok {
		var bytes []byte
		if e := json.Unmarshal(base64, &bytes); e != nil {
			err = errors.Join(err, fmt.Errorf("the event's data_base64: %w", e))
		}
		return bytes, err
	}
	return envelope["data"], err
}

var errNoObject = errors.New("it is no JSON object")

// escapeAttribute writes an attribute as a header has it: spaces, ", % and all
// that is not printable ASCII are percent-encoded.
func escapeAttribute(text string) string {
	for i := range len(text) {
		if !plainInAttribute(text[i]) {
			return escapeRest(text, i)
		}
	}
	return text
}

func plainInAttribute(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

func escapeRest(text string, from int) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, from, len(text)+16)
	copy(b, text)
	for i := from; i < len(text); i++ {
		if c := text[i]; plainInAttribute(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

// unescapeAttribute reads what escapeAttribute wrote. A percent sign that does
// not begin a byte stays.
func unescapeAttribute(text string) string {
	at := strings.IndexByte(text, '%')
	if at < 0 {
		return text
	}
	b := append(make([]byte, 0, len(text)), text[:at]...)
	for i := at; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			var c [1]byte
			if _, err := hex.Decode(c[:], []byte(text[i+1:i+3])); err == nil {
				b = append(b, c[0])
				i += 2
				continue
			}
		}
		b = append(b, text[i])
	}
	return string(b)
}

// NewEventID returns an id for an event of now: a UUID of version 7 (RFC 9562),
// which begins with the time in milliseconds.
func NewEventID() string {
	var id [16]byte
	_, _ = rand.Read(id[6:]) // it does not fail
	ms := uint64(time.Now().UnixMilli())
	binary.BigEndian.PutUint32(id[:4], uint32(ms>>16))
	binary.BigEndian.PutUint16(id[4:6], uint16(ms))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// EventIDTime returns the time that an id of NewEventID begins with, false for
// any other.
func EventIDTime(id string) (time.Time, bool) {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[14] != '7' {
		return time.Time{}, false
	}
	ms, err := strconv.ParseUint(id[:8]+id[9:13], 16, 64)
	return time.UnixMilli(int64(ms)), err == nil
}
