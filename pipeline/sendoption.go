package pipeline

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rpc.do"
)

// SendOption changes what an event says of itself, or under which condition it
// is stored.
type SendOption func(*sendConfig)

type sendConfig struct {
	id, dedupe  string
	hasID       bool
	hasDedupe   bool
	source      string
	subject     string
	time        time.Time
	at          time.Time
	correlation string
	causation   string
	expects     bool
	expected    uint64
	header      rpc.Header
	bad         error // of what is checked when it is given
}

// Limits on what an event says of itself, in bytes.
const (
	maxEventID   = 256
	maxAttribute = 1024
)

// WithID gives the event an identity, of 1 to 256 bytes of printable text.
// Within two minutes, an event whose id the stream has is not stored again.
// Defaults to a UUID that begins with the time.
func WithID(id string) SendOption {
	return func(c *sendConfig) { c.id, c.hasID = id, true }
}

// WithDedupe gives the event the identity "<type>/<key>": of the events of a type
// that are sent with the same key within two minutes, the first is stored.
func WithDedupe(key string) SendOption {
	return func(c *sendConfig) { c.dedupe, c.hasDedupe = key, true }
}

// WithSubject names the entity that the event is about, such as the id of a
// user, in at most 1024 bytes.
func WithSubject(entity string) SendOption {
	return func(c *sendConfig) { c.subject = entity }
}

// WithSource says where the event comes from, as a URI reference of at most 1024
// bytes. Defaults to Config.Source.
func WithSource(source string) SendOption {
	return func(c *sendConfig) { c.source = source }
}

// WithTime says when it happened. Defaults to now.
func WithTime(t time.Time) SendOption {
	return func(c *sendConfig) { c.time = t }
}

// WithCorrelation names the event that everything began with. Defaults to that of
// the call or the event that is being handled in the context of the send, and
// else to the event itself.
func WithCorrelation(id string) SendOption {
	return func(c *sendConfig) { c.correlation = id }
}

// WithCausation names the event that led to this one. Defaults to the one that is
// being handled in the context of the send, if any.
func WithCausation(id string) SendOption {
	return func(c *sendConfig) { c.causation = id }
}

// WithExpectedSequence has the event stored only when the last one of its type
// has the sequence n in the stream; 0 is that there is none. Else the send fails
// with rpc.Aborted.
func WithExpectedSequence(n uint64) SendOption {
	return func(c *sendConfig) { c.expects, c.expected = true, n }
}

// WithHeader adds metadata to the event, under the rules of rpc.ValidateHeader.
// Names that begin with "ce-" are the event's own, and Status is the bus's.
func WithHeader(name, value string) SendOption {
	return func(c *sendConfig) {
		if err := checkHeader(name, value); err != nil {
			c.bad = err
			return
		}
		if c.header == nil {
			c.header = rpc.Header{}
		}
		c.header.Set(name, value)
	}
}

func checkHeader(name, value string) error {
	switch {
	case len(name) >= 3 && strings.EqualFold(name[:3], "ce-"):
		return rpc.InvalidArgument.Errorf("header name %.80q: names that begin with ce- are attributes of the event: set them with their options", name)
	case strings.EqualFold(name, "Status"), strings.EqualFold(name, "Description"):
		return rpc.InvalidArgument.Errorf("header name %q: it is the bus's own", name)
	}
	return rpc.ValidateHeader(name, value)
}

// check returns what is wrong with the options of an event of that type.
func (c *sendConfig) check(event string) error {
	wrong := rpc.InvalidArgument.Errorf
	switch {
	case c.bad != nil:
		return c.bad
	case c.hasID && c.hasDedupe:
		return wrong("WithID and WithDedupe both name its id: give it one of them")
	case c.hasDedupe && c.dedupe == "":
		return wrong("the key of WithDedupe is empty")
	case c.hasDedupe:
		c.id, c.hasID = event+"/"+c.dedupe, true
	}
	if c.hasID && !validID(c.id) {
		return wrong("the id %.80q: want 1 to %d bytes of printable text, without space at its ends; it has %d", c.id, maxEventID, len(c.id))
	}
	for _, id := range []struct{ what, value string }{{"correlation", c.correlation}, {"causation", c.causation}} {
		if id.value != "" && !validID(id.value) {
			return wrong("the %s id %.80q: want at most %d bytes of printable text, without space at its ends; it has %d",
				id.what, id.value, maxEventID, len(id.value))
		}
	}
	for _, attribute := range []struct{ what, value string }{{"subject", c.subject}, {"source", c.source}} {
		if !printable(attribute.value) || len(attribute.value) > maxAttribute {
			return wrong("the %s %.80q: want at most %d bytes of printable text; it has %d", attribute.what, attribute.value, maxAttribute, len(attribute.value))
		}
	}
	switch {
	case !c.at.Before(latest()):
		return wrong("it is to be sent at %v: want a time before %d", c.at, latest().Year())
	case !c.at.IsZero() && c.expects:
		return wrong("At and WithExpectedSequence: nobody can tell what the sequence is by then")
	}
	if year := c.time.UTC().Year(); year < 0 || year > 9999 {
		return wrong("the time %v: want a year from 0 to 9999", c.time)
	}
	return nil
}

// validID reports whether an event can have the id.
func validID(id string) bool {
	return id != "" && len(id) <= maxEventID && id[0] != ' ' && id[len(id)-1] != ' ' && printable(id)
}

func printable(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return utf8.ValidString(text) && strings.IndexFunc(text, unprintable) < 0
		}
	}
	return true
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
