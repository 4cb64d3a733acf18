package bus

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		CallSubject("orders", "v2.place"): "rpc.orders.v2.place",
		ServiceSubject("orders"):          "rpc.orders.>",
		CancelSubject("orders"):           "$RPC.cancel.orders",
	} {
		if got != want {
			t.Errorf("subject %q, want %q", got, want)
		}
	}
}

// request is a message for the service orders.
func request(reply string, header nats.Header) *nats.Msg {
	return &nats.Msg{Subject: "rpc.orders.v2.place", Reply: reply, Header: header, Data: []byte(`{}`)}
}

var inboxes = []string{"_INBOX"}

func TestParseRequest(t *testing.T) {
	t.Parallel()
	sent := time.UnixMilli(1_700_000_000_000)
	in := NewInbox("_INBOX", "shop")
	ours := in.ReplySubject(7, 3*time.Second, sent)
	id := in.Identity("_INBOX", 7)
	const foreign = "_INBOX.abc.def"
	base := Request{Method: "v2.place", Attempt: 1, Timeout: DefaultTimeout, Payload: []byte(`{}`)}

	for _, test := range []struct {
		what   string
		reply  string
		header nats.Header
		want   func(*Request)
	}{
		{"no reply", "", nil, func(*Request) {}},
		{"another client", foreign, nil, func(r *Request) { r.Reply = foreign }},
		{"a client of ours", ours, nil, func(r *Request) {
			r.Reply, r.ID, r.Once, r.Caller, r.Timeout, r.Sent = ours, id, true, "shop", 3*time.Second, sent
		}},
		{"another client with headers", foreign, nats.Header{
			"Rpc-Timeout": {"250"}, "Rpc-Id": {"mine-1"}, "Rpc-Attempt": {"3"}, "Rpc-Caller": {"curl"},
			"Rpc-Object": {"alice"}, "Content-Type": {"application/cbor"}, "X-Tenant": {"acme", "b"}, "traceparent": {"00-1"},
		}, func(r *Request) {
			r.Reply, r.Timeout, r.ID, r.Attempt, r.Caller = foreign, 250*time.Millisecond, "mine-1", 3, "curl"
			r.Object, r.ContentType = "alice", "application/cbor"
			r.Header = rpc.Header{"X-Tenant": {"acme", "b"}, "traceparent": {"00-1"}}
		}},
		{"a retry", ours, nats.Header{"Rpc-Id": {"shop-x.1;age=1500"}, "Rpc-Attempt": {"2"}}, func(r *Request) {
			r.Reply, r.Caller, r.Timeout = ours, "shop", 3*time.Second
			r.ID, r.Attempt, r.Sent, r.Age = "shop-x.1", 2, sent, 1500*time.Millisecond
		}},
		{"an age without a moment", foreign, nats.Header{"Rpc-Id": {"x;age=1500"}}, func(r *Request) {
			r.Reply, r.ID, r.Age = foreign, "x", 1500*time.Millisecond
		}},
		{"headers over the reply subject", ours, nats.Header{"Rpc-Timeout": {"10"}, "Rpc-Caller": {"other"}}, func(r *Request) {
			r.Reply, r.ID, r.Once, r.Sent, r.Timeout, r.Caller = ours, id, true, sent, 10*time.Millisecond, "other"
		}},
		{"a very long timeout", foreign, nats.Header{"Rpc-Timeout": {"9223372036854775807"}}, func(r *Request) {
			r.Reply, r.Timeout = foreign, MaxTimeout
		}},
		{"no time left", foreign, nats.Header{"Rpc-Timeout": {"0"}}, func(r *Request) { r.Reply, r.Timeout = foreign, 0 }},
		{"empty headers say nothing", foreign, nats.Header{
			"Rpc-Timeout": {""}, "Rpc-Id": {""}, "Rpc-Attempt": {""}, "Rpc-Caller": {""}, "Rpc-Object": {""}, "Content-Type": {""},
		}, func(r *Request) { r.Reply = foreign }},
		{"system headers in any case are not the user's", foreign, nats.Header{
			"rpc-whatever": {"x"}, "NATS-Expected": {"x"}, "Rpc-": {"x"}, "Rpc": {"mine"},
		}, func(r *Request) { r.Reply, r.Header = foreign, rpc.Header{"Rpc": {"mine"}} }},
	} {
		want := base
		test.want(&want)
		got, err := ParseRequest(request(test.reply, test.header), "orders", inboxes)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", test.what, err, got, want)
		}
	}
}

func TestParseRequestMalformed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, value string }{
		{HeaderTimeout, "x"}, {HeaderTimeout, "-1"}, {HeaderTimeout, "1.5"}, {HeaderTimeout, "5s"}, {HeaderTimeout, " 5"},
		{HeaderTimeout, "9223372036854775808"}, {HeaderTimeout, "+5"}, {HeaderTimeout, "5\x00"},
		{HeaderAttempt, "0"}, {HeaderAttempt, "-1"}, {HeaderAttempt, "65536"}, {HeaderAttempt, "two"},
		{HeaderID, ";age=1"}, {HeaderID, "x;"}, {HeaderID, "x;age"}, {HeaderID, "x;age="}, {HeaderID, "x;age=-1"},
		{HeaderID, "x;age=1;age=2"}, {HeaderID, "x;other=1"}, {HeaderID, "x;age=9223372036854775808"},
		{HeaderID, "a\nb"}, {HeaderID, "a\x00"}, {HeaderID, "\xff"}, {HeaderID, strings.Repeat("x", 257)},
		{HeaderID, " x"}, {HeaderID, "x ;age=5"},
		{HeaderCaller, strings.Repeat("x", 129)}, {HeaderCaller, "\xff"},
		{HeaderObject, strings.Repeat("x", 257)}, {HeaderObject, "\xff"},
	} {
		req, err := ParseRequest(request("_INBOX.a.b", nats.Header{test.name: {test.value}}), "orders", inboxes)
		var e *rpc.Error
		if !errors.As(err, &e) || e.Code != rpc.InvalidArgument {
			t.Errorf("%s: %.40q: %v, want InvalidArgument", test.name, test.value, err)
			continue
		}
		if !strings.Contains(e.Message, test.name) && test.name != HeaderID {
			t.Errorf("%s: %.40q: the message %q does not name the header", test.name, test.value, e.Message)
		}
		if len(e.Message) > 600 || strings.ContainsAny(e.Message, "\r\n\x00") {
			t.Errorf("%s: %.40q: the message %q is unfit for a log", test.name, test.value, e.Message)
		}
		if req.Reply != "_INBOX.a.b" || req.Method != "v2.place" {
			t.Errorf("%s: %.40q: the caller can't be answered: %+v", test.name, test.value, req)
		}
	}
}

func TestParseRequestForeignReply(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"orders.>", "$SYS.x", "_INBOXX.a", "_INBOX", "_INBOX.*", "rpc.orders.place"} {
		req, err := ParseRequest(request(reply, nats.Header{HeaderTimeout: {"nonsense"}}), "orders", inboxes)
		if err != ErrForeignReply {
			t.Errorf("reply %q: %v, want ErrForeignReply", reply, err)
		}
		if req.Reply != "" {
			t.Errorf("reply %q: it is still there to be answered to", reply)
		}
	}
}

func TestParseRequestSubject(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		"rpc.orders.place":    "place",
		"rpc.orders.v2.place": "v2.place",
		"rpc.orders.":         "",
		"rpc.orders":          "",
		"":                    "",
	} {
		req, err := ParseRequest(&nats.Msg{Subject: subject}, "orders", inboxes)
		if err != nil || req.Method != want {
			t.Errorf("%q: method %q, %v; want %q", subject, req.Method, err, want)
		}
	}
}

func TestValidateID(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"x": true, "shop-abc.1z": true, "a b": true, "größe 世界": true, strings.Repeat("x", 256): true,
		"": false, strings.Repeat("x", 257): false, "a;b": false, ";": false, "a\tb": false, "a\nb": false, "\u00a0": false,
		"\xff": false, "\uFEFF": false, " ": false, " x": false, "x ": false,
	} {
		err := ValidateID(id)
		if (err == nil) != ok || err != nil && rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("ValidateID(%q) = %v", id, err)
		}
	}
}

// A retry is the same call for its receiver, whatever identity it was given.
func TestRetryID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"x", "shop-abc.1z", "a b", "age=5", strings.Repeat("x", 256)} {
		for _, age := range []time.Duration{-time.Second, 0, time.Millisecond, 90 * time.Second, 48 * time.Hour} {
			got, back, err := parseID(RetryID(id, age))
			if err != nil || got != id || back != min(max(age, 0), MaxTimeout) {
				t.Errorf("%q, %v came back as %q, %v, %v", id, age, got, back, err)
			}
		}
	}
}

func TestCopyTrace(t *testing.T) {
	t.Parallel()
	from := rpc.Header{"Traceparent": {"00-1"}, "tracestate": {"a", "b"}, "X-Tenant": {"acme"}, "Authorization": {"t"}}
	if got := CopyTrace(nil, from); !reflect.DeepEqual(got, rpc.Header{"traceparent": {"00-1"}, "tracestate": {"a", "b"}}) {
		t.Errorf("onto nothing: %v", got)
	}
	own := rpc.Header{"TRACEPARENT": {"00-2"}, "X": {"y"}}
	if got := CopyTrace(own, from); got.Get("traceparent") != "00-2" || got.Get("tracestate") != "a" || got.Get("X") != "y" || len(got) != 3 {
		t.Errorf("the call's own goes first: %v", got)
	}
	for _, none := range []rpc.Header{nil, {}, {"X-Tenant": {"acme"}}, {"traceparent": {}}} {
		if got := CopyTrace(nil, none); got != nil {
			t.Errorf("from %v: %v", none, got)
		}
	}
}

// headerOf makes headers of arbitrary bytes: lines "name: value".
func headerOf(text string) nats.Header {
	h := nats.Header{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h[name] = append(h[name], value)
		}
	}
	return h
}

func FuzzParseRequest(f *testing.F) {
	ours := NewInbox("_INBOX", "shop").ReplySubject(7, 3*time.Second, time.UnixMilli(1_700_000_000_000))
	f.Add("rpc.orders.place", ours, "", []byte(`{}`))
	f.Add("rpc.orders.place", ours, "Rpc-Id: x;age=5\nRpc-Attempt: 2\nRpc-Timeout: 10", []byte(nil))
	f.Add("rpc.orders", "_INBOX.a.b", "Content-Type: x\nX: y\nRpc-Caller: c\nRpc-Object: o", []byte{0})
	f.Add("", "", "rpc-id: 1\nNats-X: 2\n: 3", []byte("x"))
	f.Add("rpc.orders.place", "_INBOX.x;y-z.1.t5000-m4n5", "", []byte(nil))
	f.Add("rpc.orders.place", "acme.inbox.a b", "Rpc-Timeout: -1", []byte(nil))
	prefixes := []string{"_INBOX", "acme.inbox"}
	f.Fuzz(func(t *testing.T, subject, reply, header string, payload []byte) {
		msg := &nats.Msg{Subject: subject, Reply: reply, Header: headerOf(header), Data: payload}
		before := maps.Clone(msg.Header)
		req, err := ParseRequest(msg, "orders", prefixes)

		if !reflect.DeepEqual(msg.Header, before) {
			t.Fatalf("the message was changed: %v", msg.Header)
		}
		if req.Reply != "" && !AllowedReply(req.Reply, prefixes) {
			t.Fatalf("it would be answered to %q", req.Reply)
		}
		if err == ErrForeignReply {
			if req.Reply != "" {
				t.Fatalf("a foreign reply subject is kept: %q", req.Reply)
			}
			return
		}
		if req.Reply != reply {
			t.Fatalf("reply %q became %q", reply, req.Reply)
		}
		if err != nil {
			if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.InvalidArgument || len(e.Message) > 2000 {
				t.Fatalf("err = %v", err)
			}
			return
		}
		switch {
		case req.Timeout < 0 || req.Timeout > MaxTimeout:
			t.Fatalf("timeout %v", req.Timeout)
		case req.Attempt < 1 || req.Attempt > 65535:
			t.Fatalf("attempt %d", req.Attempt)
		case req.ID != "" && ValidateID(req.ID) != nil:
			t.Fatalf("id %q", req.ID)
		case len(req.Caller) > 128 || !utf8.ValidString(req.Caller):
			t.Fatalf("caller %q", req.Caller)
		case req.Object != "" && rpc.ValidateObjectID(req.Object) != nil:
			t.Fatalf("object %q", req.Object)
		case !slices.Equal(req.Payload, payload):
			t.Fatalf("payload %q", req.Payload)
		case req.Method != "" && !strings.HasSuffix(subject, req.Method):
			t.Fatalf("method %q of the subject %q", req.Method, subject)
		}
		for name := range req.Header {
			if lower := strings.ToLower(name); strings.HasPrefix(lower, "rpc-") || strings.HasPrefix(lower, "nats-") || name == HeaderContentType {
				t.Fatalf("the system's header %q is among the user's", name)
			}
		}
	})
}
