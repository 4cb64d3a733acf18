//go:build unix

package e2e

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/client"
	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/work"
	"rpc.do/pipeline"
)

// cloudEvent reads a message as the NATS binding of CloudEvents 1.0 says, and
// knows nothing else: in binary mode each attribute is a header that begins with
// "ce-", percent-encoded, and the payload is the data.
func cloudEvent(t testing.TB, h nats.Header) map[string]string {
	t.Helper()
	attributes := map[string]string{}
	for name, values := range h {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		switch {
		case strings.EqualFold(name, "Content-Type"):
			if strings.HasPrefix(strings.ToLower(values[0]), "application/cloudevents") {
				t.Errorf("Content-Type %q is that of structured mode", values[0])
			}
			continue
		case !ok:
			continue
		case name != strings.ToLower(name) || len(values) != 1:
			t.Errorf("header %q: %q: want a name in lower case, and one value", name, values)
		}
		for _, c := range attribute {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
				t.Errorf("header %q: attributes have letters and digits alone", name)
			}
		}
		for _, c := range []byte(values[0]) {
			if c <= ' ' || c > '~' || c == '"' {
				t.Errorf("header %q: %q: the byte %#x is to be percent-encoded", name, values[0], c)
			}
		}
		value, err := url.PathUnescape(values[0])
		if err != nil {
			t.Errorf("header %q: %v", name, err)
		}
		attributes[attribute] = value
	}
	for _, required := range []string{"id", "source", "specversion", "type"} {
		if attributes[required] == "" {
			t.Errorf("the attribute %s is missing: %v", required, attributes)
		}
	}
	if attributes["specversion"] != "1.0" {
		t.Errorf("specversion %q", attributes["specversion"])
	}
	if _, err := url.Parse(attributes["source"]); err != nil {
		t.Errorf("source: %v", err)
	}
	if text, ok := attributes["time"]; ok {
		if at, err := time.Parse(time.RFC3339, text); err != nil || time.Since(at) > time.Minute || time.Until(at) > time.Minute {
			t.Errorf("time %q, %v", text, err)
		}
	}
	return attributes
}

// TestOutsideConsumer reads events with nothing but a NATS client and the binding
// of CloudEvents: some that were sent, and some that a durable object has emitted.
func TestOutsideConsumer(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	p, _ := newPipeline(t, b.url)
	startWorker(t, b.url, "worker-1", "-objects", objectLease.String())
	const odd = "Zürich, 100 % \"fair\" 東京"
	sent, err := pipeline.Send(t.Context(), p, eventwork.Added, eventwork.Item{N: 7}, pipeline.WithSubject(odd), pipeline.WithSource("/shop?a=b"),
		pipeline.WithHeader("Tenant", "acme"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := work.Add.Call(t.Context(), newClient(t, b.url, client.Config{}), "one", work.Change{ID: "change", Object: "one", By: 3, Event: true}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(plainClient(t, b.url))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.OrderedConsumer(t.Context(), "EVENTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]string{}
	for range 2 {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		attributes := cloudEvent(t, msg.Headers())
		if msg.Subject() != "$."+attributes["type"] {
			t.Errorf("an event %s on the subject %s", attributes["type"], msg.Subject())
		}
		if !json.Valid(msg.Data()) {
			t.Errorf("%s: the data %q are not JSON, and no datacontenttype says otherwise", attributes["type"], msg.Data())
		}
		found[attributes["type"]] = attributes
		t.Logf("%s %v: %s", msg.Subject(), attributes, msg.Data())
	}
	if got := found["Item.added"]; got["id"] != sent.ID || got["subject"] != odd || got["source"] != "/shop?a=b" {
		t.Errorf("got %q, want what was sent with %+v", got, sent)
	}
	if got := found["Register.added"]; got["id"] == "" || got["id"] == sent.ID {
		t.Errorf("got %q, want what the object has emitted", got)
	}
}

// TestOutsideSender has events handled that a plain client has published: without
// any header, as a CloudEvent in binary mode, and as one in structured mode.
func TestOutsideSender(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	w := startEventWorker(t, b.url, "shop", "shop-1", eventwork.Handler{Name: "seen", Pattern: "Item.*", Show: true})
	nc := plainClient(t, b.url)
	happened := time.Date(2026, 3, 1, 12, 30, 0, 5e8, time.UTC)
	began := time.Now()
	for _, msg := range []*nats.Msg{
		{Subject: "$.Item.added", Data: []byte(`{"n":1}`)},
		{Subject: "$.Item.added", Data: []byte(`{"n":2}`), Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {"a%20b"}, "ce-type": {"com.example.item"}, "ce-source": {"https://example.com/%E2%82%AC"},
			"ce-subject": {"%22x%22"}, "ce-time": {happened.Format(time.RFC3339Nano)}, "Content-Type": {"application/json"},
		}},
		{Subject: "$.Item.added", Header: nats.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}},
			Data: []byte(`{"specversion":"1.0","id":"c","type":"com.example.item","source":"/x","time":"` + happened.Format(time.RFC3339Nano) +
				`","datacontenttype":"application/json","data":{"n":3}}`)},
		{Subject: "$.Item.added", Data: []byte("not JSON at all")},
	} {
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	until(t, "all are handled", func() bool { return w.read(t).Done("seen") == 4 })
	events := map[uint64]pipeline.RawEvent{}
	for _, line := range w.lines() {
		if text, ok := strings.CutPrefix(line, "event seen "); ok {
			var e pipeline.RawEvent
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				t.Fatal(err)
			}
			events[e.Sequence] = e
		}
	}
	if e := events[1]; e.ID != "EVENTS/1" || e.Type != "Item.added" || e.Source != "/nats" || e.Time.Before(began.Add(-time.Minute)) || e.Hops != 0 || string(e.Data) != `{"n":1}` {
		t.Errorf("without headers: %+v", e)
	}
	if e := events[2]; e.ID != "a b" || e.Type != "com.example.item" || e.Source != "https://example.com/€" || e.Subject != `"x"` || !e.Time.Equal(happened) || string(e.Data) != `{"n":2}` {
		t.Errorf("in binary mode: %+v", e)
	}
	if e := events[3]; e.ID != "c" || e.Type != "com.example.item" || e.Source != "/x" || !e.Time.Equal(happened) || string(e.Data) != `{"n":3}` {
		t.Errorf("in structured mode: %+v", e)
	}
	if e := events[4]; e.ID != "EVENTS/4" || string(e.Data) != "null" {
		t.Errorf("data that are not JSON: %+v", e)
	}
}
