package bus_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

var storedAt = bus.Stored{Stream: bus.EventsStream, Sequence: 17, Time: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)}

func TestEventHeader(t *testing.T) {
	t.Parallel()
	m := bus.EventMeta{
		ID: "a b", Type: "User.registered", Source: "/test", Subject: `Zoë "z" 100% ok`, ContentType: "application/cbor",
		Time:  time.Date(2024, 2, 29, 23, 0, 0, 1, time.FixedZone("", 3600)),
		Cause: bus.Cause{Correlation: "first", Causation: "second", Hops: 3},
	}
	want := map[string]string{
		"ce-specversion": "1.0", "ce-id": "a%20b", "ce-type": "User.registered", "ce-source": "/test",
		"ce-subject": "Zo%C3%AB%20%22z%22%20100%25%20ok", "ce-datacontenttype": "application/cbor",
		"ce-time": "2024-02-29T22:00:00.000000001Z", "ce-correlationid": "first", "ce-causationid": "second", "ce-hops": "3",
		"Nats-Msg-Id": "a b",
	}
	checkHeader(t, m.Header(), want)

	least := bus.EventMeta{ID: "1", Type: "User.registered", Source: "/test", Time: storedAt.Time}
	checkHeader(t, least.Header(), map[string]string{
		"ce-specversion": "1.0", "ce-id": "1", "ce-type": "User.registered", "ce-source": "/test",
		"ce-time": "2024-05-06T07:08:09Z", "ce-correlationid": "1", "Nats-Msg-Id": "1",
	})
}

func checkHeader(t *testing.T, h nats.Header, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for name, values := range h {
		got[name] = strings.Join(values, "|")
	}
	if !maps.Equal(got, want) {
		t.Errorf("headers %v, want %v", got, want)
	}
}

// A message that was not sent as a CloudEvent is one all the same.
func TestParsePlainEvent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		subject string
		header  nats.Header
		want    bus.EventMeta
	}{
		"no headers": {"$.User.registered", nil,
			bus.EventMeta{ID: "EVENTS/17", Type: "User.registered", Source: "/nats", Time: storedAt.Time}},
		"with an id": {"$.User.registered", nats.Header{"Nats-Msg-Id": {"one"}},
			bus.EventMeta{ID: "one", Type: "User.registered", Source: "/nats", Time: storedAt.Time}},
		"other headers": {"$.a.b.c", nats.Header{"Tenant": {"acme"}, "Content-Type": {"text/plain"}},
			bus.EventMeta{ID: "EVENTS/17", Type: "a.b.c", Source: "/nats", Time: storedAt.Time, ContentType: "text/plain"}},
		"another subject": {"orders.new", nil, // it is its own type
			bus.EventMeta{ID: "EVENTS/17", Type: "orders.new", Source: "/nats", Time: storedAt.Time}},
		"headers without values": {"$.User.registered", nats.Header{"ce-id": {}, "ce-hops": nil, "Nats-Msg-Id": {""}},
			bus.EventMeta{ID: "EVENTS/17", Type: "User.registered", Source: "/nats", Time: storedAt.Time}},
		"its attributes come first": {"$.User.registered",
			nats.Header{"Nats-Msg-Id": {"one"}, "ce-id": {"two"}, "ce-type": {"com.example.registered"}, "ce-source": {"//x"},
				"ce-time": {"2024-01-02T03:04:05+01:00"}, "ce-datacontenttype": {"application/cbor"}, "Content-Type": {"x"}, "ce-subject": {"s"},
				"ce-correlationid": {"c1"}, "ce-causationid": {"c2"}, "ce-hops": {"4"}},
			bus.EventMeta{ID: "two", Type: "com.example.registered", Source: "//x", Time: time.Date(2024, 1, 2, 2, 4, 5, 0, time.UTC),
				ContentType: "application/cbor", Subject: "s", Cause: bus.Cause{Correlation: "c1", Causation: "c2", Hops: 4}}},
	} {
		got, data, err := bus.ParseEvent(test.subject, test.header, []byte("x"), storedAt)
		got.Time = got.Time.UTC()
		if err != nil || got != test.want || string(data) != "x" {
			t.Errorf("%s: %+v, %q, %v; want %+v", name, got, data, err, test.want)
		}
	}
}

// What can't be read is said, and the rest is there.
func TestParseMalformedEvent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<16)
	for _, test := range []struct{ name, value, says string }{
		{"ce-time", "yesterday", "RFC 3339"},
		{"ce-time", "2024-13-01T00:00:00Z", "RFC 3339"},
		{"ce-time", long, "RFC 3339"},
		{"ce-hops", "many", "hops"},
		{"ce-hops", "-1", "hops"},
		{"ce-hops", "99999999999", "hops"},
		{"ce-hops", long, "hops"},
	} {
		m, data, err := bus.ParseEvent("$.a.b", nats.Header{test.name: {test.value}, "ce-id": {"one"}}, []byte("x"), storedAt)
		if err == nil || !strings.Contains(err.Error(), test.says) || len(err.Error()) > 200 {
			t.Errorf("%s %.20q: %v", test.name, test.value, err)
		}
		if m.ID != "one" || m.Type != "a.b" || !m.Time.Equal(storedAt.Time) || m.Hops < 0 || string(data) != "x" {
			t.Errorf("%s %.20q: %+v", test.name, test.value, m)
		}
	}
}

func TestParseStructuredEvent(t *testing.T) {
	t.Parallel()
	kind := "application/cloudevents+json; charset=utf-8"
	for name, test := range map[string]struct {
		kind, text, data, says string
		want                   bus.EventMeta
	}{
		"all": {
			text: `{"specversion":"1.0","id":"a%20b","type":"User.registered","source":"/x","subject":"Zoë","time":"2024-01-02T03:04:05Z",
				"datacontenttype":"application/json","correlationid":"c1","causationid":"c2","hops":3,"data":{"a": 1}}`,
			data: `{"a": 1}`,
			want: bus.EventMeta{ID: "a%20b", Type: "User.registered", Source: "/x", Subject: "Zoë", Time: time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC),
				ContentType: "application/json", Cause: bus.Cause{Correlation: "c1", Causation: "c2", Hops: 3}},
		},
		"base64": {
			text: `{"id":"1","datacontenttype":"application/octet-stream","data_base64":"AAH/"}`, data: "\x00\x01\xff",
			want: bus.EventMeta{ID: "1", Type: "a.b", Source: "/nats", Time: storedAt.Time, ContentType: "application/octet-stream"},
		},
		"nothing in it": {
			text: `{}`, want: bus.EventMeta{ID: "EVENTS/17", Type: "a.b", Source: "/nats", Time: storedAt.Time},
		},
		"no parameters, other letters": {
			kind: "Application/CloudEvents", text: `{"id":"1","data":null}`, data: "null",
			want: bus.EventMeta{ID: "1", Type: "a.b", Source: "/nats", Time: storedAt.Time},
		},
		"not JSON":       {text: `id=1`, says: "is not"},
		"an array":       {text: `[1]`, says: "is not"},
		"not base64":     {text: `{"data_base64":"*"}`, says: "data_base64"},
		"malformed time": {text: `{"time":12}`, says: "RFC 3339"},
		"another format": {kind: "application/cloudevents+avro", text: "x", says: "+avro"},
		"several":        {kind: "application/cloudevents-batch+json", text: "[]", says: "JSON alone"},
	} {
		if test.kind == "" {
			test.kind = kind
		}
		got, data, err := bus.ParseEvent("$.a.b", nats.Header{"Content-Type": {test.kind}}, []byte(test.text), storedAt)
		if test.says != "" {
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v, want %q", name, err, test.says)
			}
			continue
		}
		if err != nil || got != test.want || string(data) != test.data {
			t.Errorf("%s: %+v, %q, %v; want %+v, %q", name, got, data, err, test.want, test.data)
		}
	}
}

func TestCauseOf(t *testing.T) {
	t.Parallel()
	first := bus.EventMeta{ID: "one"}
	second := bus.EventMeta{ID: "two", Cause: bus.CauseOf(first.Effects())}
	if want := (bus.Cause{Correlation: "one", Causation: "one", Hops: 1}); second.Cause != want {
		t.Errorf("the second: %+v", second.Cause)
	}
	if got, want := bus.CauseOf(second.Effects()), (bus.Cause{Correlation: "one", Causation: "two", Hops: 2}); got != want {
		t.Errorf("the third: %+v", got)
	}
	for _, hops := range []string{"", "x", "-3", "4294967296"} {
		if got := bus.CauseOf(rpc.Header{"Ce-Hops": {hops}, "Ce-CorrelationId": {"c"}}); got.Hops < 0 || got.Hops > 1<<31 || got.Correlation != "c" {
			t.Errorf("hops %q: %+v", hops, got)
		}
	}
	if bus.CauseOf(nil) != (bus.Cause{}) {
		t.Error("nothing has a cause")
	}
}

func TestEventSubject(t *testing.T) {
	t.Parallel()
	if got := bus.EventSubject("User.registered"); got != "$.User.registered" {
		t.Error(got)
	}
	if name, ok := bus.EventName("$.User.registered"); !ok || name != "User.registered" {
		t.Error(name, ok)
	}
	if _, ok := bus.EventName("$JS.API"); ok {
		t.Error("that is no event")
	}
}

func TestNewEventID(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	var last time.Time
	for range 10000 {
		before := time.Now().Truncate(time.Millisecond)
		id := bus.NewEventID()
		at, ok := bus.EventIDTime(id)
		if !form.MatchString(id) || !ok || seen[id] || at.Before(before) || at.After(time.Now()) || at.Before(last) {
			t.Fatalf("%s: %v, %v", id, at, ok)
		}
		seen[id], last = true, at
	}
	if !slices.IsSortedFunc([]string{"018f0000-0000-7000-8000-000000000000", bus.NewEventID()}, strings.Compare) {
		t.Error("later ids come before earlier ones")
	}
	at, ok := bus.EventIDTime("018cc251-f400-7abc-8def-0123456789ab")
	if !ok || !at.Equal(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Error(at, ok)
	}
	for _, id := range []string{"", "one", "EVENTS/17", "018cc251-f400-4abc-8def-0123456789ab", "018cc251xf400-7abc-8def-0123456789ab", "zzzzzzzz-f400-7abc-8def-0123456789ab"} {
		if at, ok := bus.EventIDTime(id); ok {
			t.Errorf("%q is of %v", id, at)
		}
	}
}

// What goes through a header comes out as it was.
func FuzzEventHeader(f *testing.F) {
	f.Add("id", "Zoë", "/a b", 3)
	f.Add("%41", `"quoted"`, "100%", 0)
	f.Add(" %%2 ", "a\r\nb", "\x00\xff", -1)
	f.Fuzz(func(t *testing.T, id, subject, source string, hops int) {
		m := bus.EventMeta{ID: id, Type: "User.registered", Source: source, Subject: subject, Time: storedAt.Time,
			Cause: bus.Cause{Correlation: subject, Causation: id, Hops: max(hops&0xffff, 0)}}
		h := m.Header()
		for name, values := range h {
			if v := values[0]; name != "Nats-Msg-Id" && (v != textproto.TrimString(v) || strings.IndexFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0) {
				t.Errorf("%s: %q is not fit for a header", name, v)
			}
		}
		got, _, err := bus.ParseEvent("$.User.registered", h, nil, storedAt)
		want := m
		if id == "" {
			want.ID = "EVENTS/17"
		}
		if source == "" {
			want.Source = "/nats"
		}
		want.Correlation = m.CorrelationID()
		got.Time = got.Time.UTC()
		if err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	})
}

// Whatever a message is, reading it says something of it or why not.
func FuzzParseEvent(f *testing.F) {
	f.Add("$.User.registered", "application/cloudevents+json", []byte(`{"id":"1","hops":1,"data":{}}`), "%", "1")
	f.Add("x", "application/cloudevents", []byte(`{"data_base64":"AA=="}`), "2024-01-02T03:04:05Z", "-1")
	f.Add("$.", "", []byte(nil), "%zz%4", "9")
	f.Fuzz(func(t *testing.T, subject, kind string, payload []byte, at, hops string) {
		h := nats.Header{"Content-Type": {kind}, "ce-time": {at}, "ce-hops": {hops}, "ce-subject": {at}}
		before := bytes.Clone(payload)
		m, data, err := bus.ParseEvent(subject, h, payload, storedAt)
		if m.ID == "" || m.Source == "" || m.Hops < 0 {
			t.Errorf("%+v, %v", m, err)
		}
		if !bytes.Equal(before, payload) {
			t.Error("the payload was changed")
		}
		if structured := strings.HasPrefix(strings.ToLower(kind), "application/cloudevents"); !structured && !bytes.Equal(data, payload) {
			t.Errorf("data %q of %q", data, payload)
		} else if structured && err == nil && len(data) > 0 && !bytes.Contains(payload, []byte("data_base64")) && !json.Valid(data) {
			t.Errorf("data %q of %q", data, payload)
		}
		if err != nil && (len(err.Error()) > 1000 || !utf8.ValidString(err.Error())) {
			t.Errorf("the error has %d bytes: %.200q", len(err.Error()), err)
		}
	})
}
