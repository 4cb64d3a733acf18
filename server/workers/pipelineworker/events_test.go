package pipelineworker_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/pipeline"
	"rpc.do/server/workers/pipelineworker"
)

func TestSend(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	r := call(l, pipeline.EventSend, pipeline.EventSendParams{
		EventType: "user.created", Payload: json.RawMessage(`{"userId":"123"}`), ID: "e-1", Subject: "123", CorrelationID: "e-0",
	})
	if r.EventID != "e-1" || r.Subject != "$.user.created" || r.Sequence != 1 || r.Duplicate || !r.At.IsZero() {
		t.Errorf("%+v", r)
	}
	e := call(l, pipeline.EventGet, pipeline.EventGetParams{Sequence: r.Sequence})
	if e.ID != "e-1" || e.Type != "user.created" || e.Subject != "123" || e.CorrelationID != "e-0" || e.Source != "/tester" ||
		string(e.Data) != `{"userId":"123"}` || e.Omitted {
		t.Errorf("%+v", e)
	}
	again := call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "user.created", ID: "e-1"})
	if !again.Duplicate || again.Sequence != 1 {
		t.Errorf("with the same id: %+v", again)
	}
	refused(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "user.gone", ID: "e-1"}, rpc.AlreadyExists, "user.created")
	first := call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "user.created", Dedupe: "x"})
	second := call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "user.created", Dedupe: "x"})
	if first.EventID != "user.created/x" || first.Duplicate || !second.Duplicate || second.Sequence != first.Sequence {
		t.Errorf("with the same key: %+v, %+v", first, second)
	}
	if e := call(l, pipeline.EventGet, pipeline.EventGetParams{Sequence: first.Sequence}); string(e.Data) != "null" {
		t.Errorf("without a payload: %+v", e)
	}
	if len(l.stored("user.*")) != 2 {
		t.Errorf("%+v", l.stored("user.*"))
	}
}

func TestSendRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	for _, test := range []struct {
		p    pipeline.EventSendParams
		code rpc.Code
		want string
	}{
		{pipeline.EventSendParams{}, rpc.InvalidArgument, "eventType"},
		{pipeline.EventSendParams{EventType: "created"}, rpc.InvalidArgument, "eventType"},
		{pipeline.EventSendParams{EventType: "User.>"}, rpc.InvalidArgument, "eventType"},
		{pipeline.EventSendParams{EventType: "User.registered", ID: "a", Dedupe: "b"}, rpc.InvalidArgument, "id and dedupe"},
		{pipeline.EventSendParams{EventType: "User.registered", ID: "a\n"}, rpc.InvalidArgument, "id"},
		{pipeline.EventSendParams{EventType: "User.registered", CorrelationID: " "}, rpc.InvalidArgument, "correlation"},
		{pipeline.EventSendParams{EventType: "User.registered", Subject: strings.Repeat("x", 1025)}, rpc.InvalidArgument, "1024"},
		{pipeline.EventSendParams{EventType: "User.registered", At: time.Date(2100, 1, 2, 0, 0, 0, 0, time.UTC)}, rpc.InvalidArgument, "2100"},
		{
			pipeline.EventSendParams{EventType: "User.registered", Payload: fmt.Appendf(nil, "%q", strings.Repeat("x", 1<<20-4<<10))},
			rpc.ResourceExhausted, "bytes",
		},
	} {
		refused(l, pipeline.EventSend, test.p, test.code, test.want)
	}
	for _, params := range []string{"", "null", "[]", `{"eventType":1}`, `{"eventType":"User.registered","at":"tomorrow"}`} {
		if r, code := l.raw("event.send", params, nil); code != "invalid_argument" {
			t.Errorf("%s: %v, %q", params, r, code)
		}
	}
	if got := l.stored("$.>"); len(got) != 0 {
		t.Errorf("stored: %+v", got)
	}
}

// A call whose answer is lost is sent again, and its event stored once.
func TestSendAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		p    pipeline.EventSendParams
		dup  bool
	}{
		{"without an id", pipeline.EventSendParams{EventType: "User.registered"}, false},
		{"with an id", pipeline.EventSendParams{EventType: "User.registered", ID: "e-1"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, pipelineworker.Config{Server: firstAnswers(t, "event.send")})
			l.c = client.New(l.b, client.Config{ResendAfter: 20 * time.Millisecond})
			r := call(l, pipeline.EventSend, test.p, rpc.WithTimeout(patience))
			got := l.stored("User.registered")
			if len(got) != 1 || got[0].ID != r.EventID || got[0].Sequence != r.Sequence || r.Duplicate != test.dup {
				t.Errorf("answered %+v, stored %+v", r, got)
			}
		})
	}
}

// An event that was to be sent later, and was, is not sent again by the call that
// is: however late it is.
func TestSendLaterAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	at := time.Now().Add(300 * time.Millisecond)
	params := fmt.Sprintf(`{"eventType":"User.reminded","at":%q}`, at.Format(time.RFC3339Nano))
	first, code := l.raw("event.send", params, nats.Header{"Rpc-Id": {"c-1"}})
	if code != "" || first["eventId"] != "c-1" || first["at"] == nil || first["sequence"] != nil {
		t.Fatalf("%v, %s", first, code)
	}
	again := nats.Header{"Rpc-Id": {"c-1;age=200000"}, "Rpc-Attempt": {"2"}}
	if r, code := l.raw("event.send", params, again); code != "" || r["eventId"] != "c-1" || r["duplicate"] != nil {
		t.Errorf("while it waits: %v, %s", r, code)
	}
	l.until("it was sent", func() bool { return len(l.stored("User.reminded")) > 0 })
	if r, code := l.raw("event.send", params, again); code != "" || r["eventId"] != "c-1" {
		t.Errorf("after it was sent: %v, %s", r, code)
	}
	if got := l.stored("User.reminded"); len(got) != 1 || got[0].ID != "c-1" {
		t.Errorf("%+v", got)
	}
	if r := call(l, pipeline.EventCancel, pipeline.EventCancelParams{EventID: "c-1"}); r.Cancelled {
		t.Errorf("%+v", r)
	}
	// One whose first attempt did not get here is sent.
	if r, code := l.raw("event.send", params, nats.Header{"Rpc-Id": {"c-2;age=5000"}, "Rpc-Attempt": {"2"}}); code != "" || r["sequence"] == nil {
		t.Errorf("the first to come: %v, %s", r, code)
	}
}

func TestSendTooLateAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	send := func(age string) (map[string]any, string) {
		return l.raw("event.send", `{"eventType":"User.registered"}`, nats.Header{"Rpc-Id": {"c-1" + age}, "Rpc-Attempt": {"2"}})
	}
	if r, code := send(";age=100000"); code != "aborted" {
		t.Errorf("%v, %q", r, code)
	}
	if got := l.stored("$.>"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	for _, age := range []string{"", ";age=99000"} {
		if r, code := send(age); code != "" || r["sequence"] != 1.0 {
			t.Errorf("%v, %q", r, code)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	r := call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "User.reminded", At: time.Now().Add(time.Hour)})
	if r.EventID == "" || r.Sequence != 0 || time.Until(r.At) < 50*time.Minute {
		t.Errorf("%+v", r)
	}
	for range 2 {
		if c := call(l, pipeline.EventCancel, pipeline.EventCancelParams{EventID: r.EventID}); !c.Cancelled {
			t.Error("not cancelled")
		}
	}
	refused(l, pipeline.EventCancel, pipeline.EventCancelParams{EventID: "never"}, rpc.NotFound, "never")
	refused(l, pipeline.EventCancel, pipeline.EventCancelParams{}, rpc.InvalidArgument, "eventId")
}

func TestHistory(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	for i := range 7 {
		call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "Order.placed", Payload: fmt.Appendf(nil, `{"n":%d}`, i)})
		call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "User.registered"})
	}
	for _, reverse := range []bool{false, true} {
		p := pipeline.EventHistoryParams{Patterns: []string{"Order.*"}, Limit: 3, Reverse: reverse}
		var got []string
		for pages := 1; ; pages++ {
			page := call(l, pipeline.EventHistory, p)
			for _, e := range page.Events {
				got = append(got, string(e.Data))
			}
			if page.Next == "" || pages > 5 {
				break
			}
			if len(page.Events) > 3 {
				t.Errorf("a page of %d", len(page.Events))
			}
			p.Cursor = page.Next
		}
		if reverse {
			slices.Reverse(got)
		}
		if want := `{"n":0} {"n":1} {"n":2} {"n":3} {"n":4} {"n":5} {"n":6}`; strings.Join(got, " ") != want {
			t.Errorf("reverse %v: %v", reverse, got)
		}
	}
	all := call(l, pipeline.EventHistory, pipeline.EventHistoryParams{})
	if len(all.Events) != 14 || all.Next != "" {
		t.Errorf("%d events, next %q", len(all.Events), all.Next)
	}
	from := all.Events[10].Stored
	if since := call(l, pipeline.EventHistory, pipeline.EventHistoryParams{Since: from}); len(since.Events) != 4 {
		t.Errorf("since: %d events", len(since.Events))
	}
	if until := call(l, pipeline.EventHistory, pipeline.EventHistoryParams{Until: from}); len(until.Events) != 10 {
		t.Errorf("until: %d events", len(until.Events))
	}
	if r, code := l.raw("event.history", `{"patterns":["Nobody.*"]}`, nil); code != "" || fmt.Sprint(r["events"]) != "[]" {
		t.Errorf("no events: %v, %s", r, code)
	}
}

func TestHistoryRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	now := time.Now()
	for want, p := range map[string]pipeline.EventHistoryParams{
		"patterns": {Patterns: []string{"Order..placed"}},
		"cursor":   {Cursor: "f1 OR 1=1"},
		"reverse":  {Cursor: "f1", Reverse: true},
		"limit":    {Limit: pipeline.MaxListed + 1},
		"got -1":   {Limit: -1},
		"until":    {Since: now, Until: now.Add(-time.Second)},
	} {
		refused(l, pipeline.EventHistory, p, rpc.InvalidArgument, want)
	}
	refused(l, pipeline.EventGet, pipeline.EventGetParams{}, rpc.InvalidArgument, "sequence")
	refused(l, pipeline.EventGet, pipeline.EventGetParams{Sequence: 99}, rpc.NotFound)
}

// A page has what there is room for in a message, and goes on behind it.
func TestHistoryOfLargeEvents(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	send := func(text string) {
		if _, err := l.p.Send(t.Context(), "Order.placed", json.RawMessage(strconv.Quote(text))); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		send(strings.Repeat("x", 400_000))
	}
	send(strings.Repeat("<", 400_000)) // six times that as JSON is written
	send("small")
	for _, reverse := range []bool{false, true} {
		p := pipeline.EventHistoryParams{Reverse: reverse}
		var got []string
		for pages := 1; pages == 1 || p.Cursor != "" && pages < 10; pages++ {
			page := call(l, pipeline.EventHistory, p)
			for _, e := range page.Events {
				got = append(got, fmt.Sprint(e.Sequence, e.Omitted, len(e.Data) > 4))
			}
			p.Cursor = page.Next
		}
		if reverse {
			slices.Reverse(got)
		}
		want := "1 false true,2 false true,3 false true,4 false true,5 true false,6 false true"
		if strings.Join(got, ",") != want {
			t.Errorf("reverse %v: %v", reverse, got)
		}
	}
	if e := call(l, pipeline.EventGet, pipeline.EventGetParams{Sequence: 5}); !e.Omitted || string(e.Data) != "null" {
		t.Errorf("%v, %d bytes", e.Omitted, len(e.Data))
	}
}

// Data that are not JSON are said to be there.
func TestOtherData(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	p := pipeline.New(l.b, pipeline.Config{Codec: bus.CBOR{}})
	r, err := p.Send(t.Context(), "Order.placed", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	if e := call(l, pipeline.EventGet, pipeline.EventGetParams{Sequence: r.Sequence}); !e.Omitted || !strings.Contains(e.ContentType, "cbor") {
		t.Errorf("%+v", e)
	}
}

// What is sent because of a call belongs to what the call belongs to.
func TestSource(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	for _, test := range []struct{ caller, want string }{{"", "/pipeline"}, {"a b/ü", "/a%20b%2F%C3%BC"}} {
		header := nats.Header{}
		if test.caller != "" {
			header["Rpc-Caller"] = []string{test.caller}
		}
		r, code := l.raw("event.send", `{"eventType":"User.registered"}`, header)
		if code != "" || r["eventId"] == "" {
			t.Fatalf("%v, %s", r, code)
		}
		if all := l.stored("$.>"); all[len(all)-1].Source != test.want {
			t.Errorf("%+v", all[len(all)-1])
		}
	}
}

// The service can be called something else, and its clients bound to that.
func TestName(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{Name: "pipeline-staging"})
	r, err := pipeline.EventSend.Call(t.Context(), l.c.Service("pipeline-staging"), pipeline.EventSendParams{EventType: "User.registered"})
	if err != nil || r.Sequence != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Several instances share what there is to do, a service in the same process
// included.
func TestLocal(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	b := bustest.Connect(t, l.srv)
	l.serveWorker(b, pipelineworker.Config{})
	l.c = client.New(b, client.Config{})
	r := call(l, pipeline.EventSend, pipeline.EventSendParams{EventType: "User.registered", Payload: json.RawMessage(`{"a":1}`)})
	h := call(l, pipeline.EventHistory, pipeline.EventHistoryParams{})
	if len(h.Events) != 1 || h.Events[0].ID != r.EventID || string(h.Events[0].Data) != `{"a":1}` {
		t.Errorf("%+v, %+v", r, h)
	}
}
