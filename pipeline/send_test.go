package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/pipeline"
)

type account struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

var (
	accountOpened = rpc.NewEvent[account]("Account.opened")
	accountClosed = rpc.NewEvent[account]("Account.closed")
)

func sender(t testing.TB, opts ...bustest.Option) (*bus.Bus, *pipeline.Pipeline) {
	t.Helper()
	b := bustest.New(t, opts...)
	return b, pipeline.New(b, pipeline.Config{})
}

// message returns an event's message as it is stored.
func message(t testing.TB, b *bus.Bus, sequence uint64) *jetstream.RawStreamMsg {
	t.Helper()
	events, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := events.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func parsed(t testing.TB, msg *jetstream.RawStreamMsg) bus.EventMeta {
	t.Helper()
	m, _, err := bus.ParseEvent(msg.Subject, msg.Header, msg.Data, bus.Stored{Stream: bus.EventsStream, Sequence: msg.Sequence, Time: msg.Time})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// stored counts the events in the stream.
func stored(t testing.TB, b *bus.Bus) uint64 {
	t.Helper()
	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := events.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

// fails checks an error of a send.
func fails(t testing.TB, err error, code rpc.Code, says ...string) {
	t.Helper()
	if _, ok := errors.AsType[*rpc.Error](err); !ok || rpc.CodeOf(err) != code {
		t.Errorf("got %v, want %v", err, code)
		return
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
}

func TestSendIsStored(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	before := time.Now()
	receipt, err := pipeline.Send(t.Context(), p, accountOpened, account{ID: "a1", Name: "Zoë"})
	if err != nil {
		t.Fatal(err)
	}
	if receipt.Sequence != 1 || receipt.Subject != "$.Account.opened" || receipt.Duplicate {
		t.Errorf("receipt %+v", receipt)
	}
	if at, ok := bus.EventIDTime(receipt.ID); !ok || at.Before(before.Truncate(time.Millisecond)) || at.After(time.Now()) {
		t.Errorf("the id %s is of %v", receipt.ID, at)
	}
	msg := message(t, b, receipt.Sequence)
	if msg.Subject != receipt.Subject || string(msg.Data) != `{"id":"a1","name":"Zoë"}` {
		t.Errorf("%s %s", msg.Subject, msg.Data)
	}
	want := map[string]string{
		"ce-specversion": "1.0", "ce-id": receipt.ID, "ce-type": "Account.opened", "ce-source": "/test",
		"ce-correlationid": receipt.ID, "Nats-Msg-Id": receipt.ID,
	}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get("ce-time"))
	if err != nil || at.Before(before) || at.After(time.Now()) {
		t.Errorf("ce-time %s: %v", msg.Header.Get("ce-time"), err)
	}
	want["ce-time"] = msg.Header.Get("ce-time")
	if got := flat(msg.Header); !maps.Equal(got, want) {
		t.Errorf("headers %v, want %v", got, want)
	}
	text, err := json.Marshal(receipt)
	if want := fmt.Sprintf(`{"id":%q,"subject":"$.Account.opened","sequence":1}`, receipt.ID); err != nil || string(text) != want {
		t.Errorf("%s, %v, want %s", text, err, want)
	}
}

// sentHeader is what was sent of the headers that a direct get returns.
func sentHeader(h nats.Header) nats.Header {
	sent := maps.Clone(h)
	for _, name := range []string{"Nats-Sequence", "Nats-Stream", "Nats-Subject", "Nats-Time-Stamp"} {
		delete(sent, name)
	}
	return sent
}

func flat(h nats.Header) map[string]string {
	all := map[string]string{}
	for name, values := range sentHeader(h) {
		all[name] = strings.Join(values, "|")
	}
	return all
}

func TestSendOptions(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.FixedZone("", 3600))
	receipt, err := pipeline.Send(t.Context(), p, accountOpened, account{},
		pipeline.WithID("order 17/ü"), pipeline.WithSubject(`Zoë "z" 100% ok`), pipeline.WithSource("https://example.com/a?b=c"),
		pipeline.WithTime(at), pipeline.WithCorrelation("first"), pipeline.WithCausation("second"),
		pipeline.WithHeader("Tenant", "a"), pipeline.WithHeader("tenant", "acme"), pipeline.WithHeader("traceparent", "00-1"))
	if err != nil {
		t.Fatal(err)
	}
	msg := message(t, b, receipt.Sequence)
	want := map[string]string{
		"ce-specversion": "1.0", "ce-id": "order%2017/%C3%BC", "ce-type": "Account.opened", "ce-source": "https://example.com/a?b=c",
		"ce-subject": "Zo%C3%AB%20%22z%22%20100%25%20ok", "ce-time": "2024-02-29T22:59:59.123456789Z",
		"ce-correlationid": "first", "ce-causationid": "second", "Nats-Msg-Id": "order 17/ü", "tenant": "acme", "traceparent": "00-1",
	}
	if got := flat(msg.Header); !maps.Equal(got, want) {
		t.Errorf("headers %v, want %v", got, want)
	}
	m := parsed(t, msg)
	if m.ID != receipt.ID || m.ID != "order 17/ü" || m.Subject != `Zoë "z" 100% ok` || !m.Time.Equal(at) ||
		m.Correlation != "first" || m.Causation != "second" || m.Source != "https://example.com/a?b=c" || m.Hops != 0 {
		t.Errorf("read again: %+v", m)
	}
}

func TestSendData(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	for _, test := range []struct {
		data any
		want string
	}{
		{json.RawMessage(" {\"b\": 1,\n\"a\":2}"), " {\"b\": 1,\n\"a\":2}"},
		{nil, "null"}, {17, "17"}, {"x", `"x"`}, {map[string]any{"a": []int{1}}, `{"a":[1]}`},
	} {
		receipt, err := p.Send(t.Context(), "Account.opened", test.data)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(message(t, b, receipt.Sequence).Data); got != test.want {
			t.Errorf("%v: stored %q, want %q", test.data, got, test.want)
		}
	}
	before := stored(t, b)
	for _, data := range []any{make(chan int), func() {}, unwritable{}} {
		_, err := p.Send(t.Context(), "Account.opened", data)
		fails(t, err, rpc.InvalidArgument, "Account.opened", "can't be written as application/json")
	}
	for _, data := range []string{"", "{", "\"\xff\"", "1 2"} {
		_, err := p.Send(t.Context(), "Account.opened", json.RawMessage(data))
		fails(t, err, rpc.InvalidArgument, "Account.opened", "not valid JSON")
	}
	if after := stored(t, b); after != before {
		t.Errorf("%d events were stored", after-before)
	}

	binary := pipeline.New(b, pipeline.Config{Codec: bus.CBOR{}, Source: "/elsewhere"})
	receipt, err := pipeline.Send(t.Context(), binary, accountOpened, account{ID: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	msg := message(t, b, receipt.Sequence)
	var got account
	if err := (bus.CBOR{}).Unmarshal(msg.Data, &got); err != nil || got.ID != "a1" || parsed(t, msg).ContentType != "application/cbor" || parsed(t, msg).Source != "/elsewhere" {
		t.Errorf("%+v, %v, %v", got, err, msg.Header)
	}
}

type unwritable struct{}

func (unwritable) MarshalJSON() ([]byte, error) { return nil, errors.New("never") }

func TestSendRefused(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	long := strings.Repeat("x", 257)
	for _, test := range []struct {
		event string
		opts  []pipeline.SendOption
		says  []string
	}{
		{"user registered", nil, []string{`' ' is not allowed`, "A-Z"}},
		{"", nil, []string{"empty"}},
		{"User", nil, []string{"2 to 6"}},
		{"User..registered", nil, []string{"a token between dots is empty"}},
		{"User.", nil, []string{"a token between dots is empty"}},
		{">", nil, []string{`'>' is not allowed`, "A-Z"}},
		{"User.*", nil, []string{`'*' is not allowed`}},
		{strings.Repeat("a.", 39) + "a", nil, []string{"40 tokens", "2 to 6"}},
		{"$", nil, []string{"begin with $"}},
		{"$.User.registered", nil, []string{"without $."}},
		{"$JS.API", nil, []string{"begin with $"}},
		{"_INBOX.x", nil, []string{"begin with _"}},
		{"User.\r\nPUB", nil, []string{"not allowed"}},
		{"User." + long, nil, []string{"too long"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithID("")}, []string{"id", "1 to 256"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithID(long)}, []string{"it has 257"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithID("a\r\nb")}, []string{"printable"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithID(" a")}, []string{"space"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithID("a\xff")}, []string{"printable"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithDedupe("")}, []string{"WithDedupe"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithDedupe(strings.Repeat("x", 249))}, []string{"it has 257"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithDedupe("a"), pipeline.WithID("b")}, []string{"one of them"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithSubject("a\nb")}, []string{"subject"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithSubject(strings.Repeat("x", 1025))}, []string{"it has 1025"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithSource("\x00")}, []string{"source"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithCorrelation(long)}, []string{"correlation"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithCausation("\t")}, []string{"causation"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithTime(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))}, []string{"year"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("a b", "")}, []string{"header name"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("a", "x\r\ny")}, []string{"header a"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("nats-msg-id", "x"), pipeline.WithHeader("b", "c")}, []string{"reserved"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("Rpc-Id", "x")}, []string{"reserved"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("Ce-Id", "x")}, []string{"begin with ce-"}},
		{"User.ok", []pipeline.SendOption{pipeline.WithHeader("Status", "503")}, []string{"bus's own"}},
	} {
		_, err := p.Send(t.Context(), test.event, 1, test.opts...)
		fails(t, err, rpc.InvalidArgument, test.says...)
		if err != nil && (len(err.Error()) > 500 || strings.Count(err.Error(), "invalid_argument") != 1) {
			t.Errorf("%.40q: the error reads %s", test.event, err)
		}
	}
	var none rpc.Event[account]
	_, err := pipeline.Send(t.Context(), p, none, account{})
	fails(t, err, rpc.InvalidArgument, "empty")
	if n := stored(t, b); n != 0 {
		t.Errorf("%d events were stored", n)
	}
	most := []pipeline.SendOption{pipeline.WithID(long[1:]), pipeline.WithSubject(strings.Repeat("x", 1024)), pipeline.WithCorrelation(long[1:])}
	if _, err := p.Send(t.Context(), "User.ok", 1, most...); err != nil {
		t.Error(err)
	}
}

// What is too large is said at once, with both sizes. The largest that is not
// leaves room for the headers that are added later.
func TestSendTooLarge(t *testing.T) {
	t.Parallel()
	b, p := sender(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 64 << 10 }))
	send := func(size int) error {
		_, err := p.Send(t.Context(), "Account.opened", json.RawMessage(`"`+strings.Repeat("x", size-2)+`"`), pipeline.WithID("large"),
			pipeline.WithTime(time.Unix(0, 0)))
		return err
	}
	const allowed = 64<<10 - 8<<10
	err := send(allowed)
	fails(t, err, rpc.ResourceExhausted, "at most 57344", "max_payload")
	var size int
	if _, err := fmt.Sscanf(err.Error(), "resource_exhausted: send Account.opened: the event has %d bytes", &size); err != nil {
		t.Fatal(err)
	}
	largest := allowed - (size - allowed)
	fails(t, send(largest+1), rpc.ResourceExhausted, "the event has 57345 bytes")
	if n := stored(t, b); n != 0 {
		t.Errorf("%d events were stored", n)
	}
	if err := send(largest); err != nil {
		t.Fatal(err)
	}
	msg := message(t, b, 1)
	again := sentHeader(msg.Header)
	again["Nats-Msg-Id"] = []string{"again"}
	again["More"] = []string{strings.Repeat("x", 8<<10-len("More: \r\n"))}
	if _, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "$.Account.again", Header: again, Data: msg.Data}); err != nil {
		t.Errorf("there is no room for headers: %v", err)
	}
}

func TestSendDuplicates(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	first, err := pipeline.Send(t.Context(), p, accountOpened, account{ID: "1"}, pipeline.WithID("one"))
	if err != nil || first.Duplicate {
		t.Fatal(first, err)
	}
	if again, err := pipeline.Send(t.Context(), p, accountOpened, account{ID: "2"}, pipeline.WithID("one")); err != nil ||
		!again.Duplicate || again.Sequence != first.Sequence || again.ID != "one" {
		t.Errorf("%+v, %v", again, err)
	}
	// To take the other event for this one would lose it.
	_, err = pipeline.Send(t.Context(), p, accountClosed, account{ID: "1"}, pipeline.WithID("one"))
	fails(t, err, rpc.AlreadyExists, `"one"`, "Account.opened", "sequence 1")

	for i, event := range []rpc.Event[account]{accountOpened, accountClosed, accountOpened, accountClosed} {
		receipt, err := pipeline.Send(t.Context(), p, event, account{}, pipeline.WithDedupe("a1"))
		if err != nil || receipt.ID != event.Name()+"/a1" || receipt.Duplicate != (i >= 2) {
			t.Errorf("%d: %+v, %v", i, receipt, err)
		}
	}
	if n := stored(t, b); n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
	// What it was a duplicate of may be gone already.
	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := events.DeleteMsg(t.Context(), first.Sequence); err != nil {
		t.Fatal(err)
	}
	if again, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithID("one")); err != nil || !again.Duplicate {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestSendExpectedSequence(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	send := func(event rpc.Event[account], expected uint64, opts ...pipeline.SendOption) (uint64, error) {
		receipt, err := pipeline.Send(t.Context(), p, event, account{}, append(opts, pipeline.WithExpectedSequence(expected))...)
		return receipt.Sequence, err
	}
	first, err := send(accountOpened, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := send(accountClosed, 0); err != nil { // another type does not count
		t.Error(err)
	}
	if _, err = send(accountOpened, 0); err == nil {
		t.Error("there is one")
	}
	fails(t, err, rpc.Aborted, "has the sequence 1", "expected was 0")
	third, err := send(accountOpened, first)
	if err != nil || third != 3 {
		t.Error(third, err)
	}
	_, err = send(accountOpened, 2)
	fails(t, err, rpc.Aborted, "has the sequence 3", "expected was 2")
	if n := stored(t, b); n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
	// One that was stored is known again, whatever has followed it.
	fourth, err := send(accountOpened, third, pipeline.WithID("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := send(accountOpened, fourth); err != nil {
		t.Fatal(err)
	}
	receipt, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithID("x"), pipeline.WithExpectedSequence(third))
	if err != nil || receipt.Sequence != fourth || !receipt.Duplicate {
		t.Errorf("%+v, %v", receipt, err)
	}
}

// Who expects the same sequence at the same time: one of them wins.
func TestSendExpectedSequenceRace(t *testing.T) {
	t.Parallel()
	_, p := sender(t)
	var wg sync.WaitGroup
	won := make(chan struct{}, 16)
	for range cap(won) {
		wg.Go(func() {
			switch _, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithExpectedSequence(0)); rpc.CodeOf(err) {
			case 0:
				won <- struct{}{}
			case rpc.Aborted:
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d have won", len(won))
	}
}

func callContext(ctx context.Context, h rpc.Header) context.Context {
	return rpc.WithCallInfo(ctx, rpc.CallInfo{Service: "accounts", Method: "open", Header: h})
}

// What is sent in a call, or in the handler of an event, says what led to it.
func TestSendCause(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	long := strings.Repeat("x", 5<<10)
	for name, test := range map[string]struct {
		header rpc.Header
		opts   []pipeline.SendOption
		want   map[string]string // "" is that there is none
	}{
		"an event's handler": {
			header: (&bus.EventMeta{ID: "cause", Cause: bus.Cause{Correlation: "first", Hops: 2}}).Effects(),
			want:   map[string]string{"ce-correlationid": "first", "ce-causationid": "cause", "ce-hops": "3"},
		},
		"the first event's handler": {
			header: (&bus.EventMeta{ID: "cause"}).Effects(),
			want:   map[string]string{"ce-correlationid": "cause", "ce-causationid": "cause", "ce-hops": "1"},
		},
		"a call with a trace": {
			header: rpc.Header{"Traceparent": {"00-1-2-01"}, "tracestate": {"a=b"}, "baggage": {"k=v"}, "Other": {"x"}},
			want:   map[string]string{"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "k=v", "Other": "", "ce-causationid": "", "ce-hops": ""},
		},
		"options come first": {
			header: rpc.Header{"ce-correlationid": {"first"}, "ce-causationid": {"cause"}, "ce-hops": {"7"}, "traceparent": {"00-1"}},
			opts:   []pipeline.SendOption{pipeline.WithCorrelation("mine"), pipeline.WithCausation("too"), pipeline.WithHeader("TraceParent", "00-2")},
			want:   map[string]string{"ce-correlationid": "mine", "ce-causationid": "too", "ce-hops": "7", "TraceParent": "00-2", "traceparent": ""},
		},
		"what can't be is left out": {
			header: rpc.Header{"ce-correlationid": {long}, "ce-causationid": {"a\r\nb"}, "ce-hops": {"many"}, "baggage": {long}, "traceparent": {"00-1"}},
			want:   map[string]string{"ce-causationid": "", "ce-hops": "", "baggage": "", "traceparent": "00-1"},
		},
	} {
		ctx := callContext(t.Context(), test.header)
		one, err := pipeline.Send(ctx, p, accountOpened, account{}, test.opts...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		many, err := pipeline.SendBatch(ctx, p, accountOpened, make([]account, 2), test.opts...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, receipt := range append(many, one) {
			msg := message(t, b, receipt.Sequence)
			for header, want := range test.want {
				if got := strings.Join(msg.Header[header], "|"); got != want {
					t.Errorf("%s: %s is %q, want %q", name, header, got, want)
				}
			}
			if m := parsed(t, msg); test.want["ce-correlationid"] == "" && m.Correlation != m.ID {
				t.Errorf("%s: correlation %q", name, m.Correlation)
			}
		}
	}
}

func shutDown(t testing.TB, s *natsd.Server, b *bus.Bus) {
	t.Helper()
	lost := make(chan struct{}, 2)
	defer b.OnDisconnect(func() { lost <- struct{}{} })()
	s.Shutdown()
	<-lost
}

// A send while the bus is down fails within its deadline, and surely was not
// stored.
func TestSendWhileBusIsDown(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	p := pipeline.New(b, pipeline.Config{Timeout: 150 * time.Millisecond})
	if _, err := pipeline.Send(t.Context(), p, accountOpened, account{}); err != nil {
		t.Fatal(err)
	}
	shutDown(t, s, b)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	short, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		p    *pipeline.Pipeline
		code rpc.Code
	}{
		"no deadline":    {t.Context(), p, rpc.Unavailable},
		"deadline":       {short, p, rpc.Unavailable},
		"canceled":       {canceled, p, rpc.Canceled},
		"never used yet": {t.Context(), pipeline.New(b, pipeline.Config{Timeout: 150 * time.Millisecond}), rpc.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			check := func(err error) {
				t.Helper()
				fails(t, err, test.code, "send Account.opened: not stored")
				if e, ok := errors.AsType[*rpc.Error](err); !ok || !e.Retryable || !e.Outcome() {
					t.Errorf("%v: it is not said to surely not have run", err)
				}
			}
			_, err := pipeline.Send(test.ctx, test.p, accountOpened, account{})
			check(err)
			_, err = pipeline.SendBatch(test.ctx, test.p, accountOpened, make([]account, 3))
			several, ok := errors.AsType[*pipeline.BatchError](err)
			if !ok || len(several.Failed) != 3 {
				t.Fatalf("the batch: %v", err)
			}
			for i, failed := range several.Failed {
				if failed.Index != i {
					t.Errorf("%d is in the place of %d", failed.Index, i)
				}
				check(failed.Err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, b); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
}

// A send while the bus is down succeeds when it is back, once.
func TestSendUntilBusIsBack(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	p := pipeline.New(b, pipeline.Config{Timeout: time.Minute})
	if _, err := pipeline.Send(t.Context(), p, accountOpened, account{}); err != nil {
		t.Fatal(err)
	}
	shutDown(t, s, b)
	sent := make(chan error, 2)
	go func() {
		_, err := pipeline.Send(t.Context(), p, accountOpened, account{ID: "later"})
		sent <- err
	}()
	go func() {
		_, err := pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 10))
		sent <- err
	}()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if n := stored(t, b); n != 12 {
		t.Errorf("%d events are stored, want 12", n)
	}
}

// Restarts while events are on their way: each is stored once.
func TestSendAcrossRestarts(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	p := pipeline.New(b, pipeline.Config{Timeout: time.Minute})
	const senders = 16
	stop := make(chan struct{})
	receipts := make([][]pipeline.Receipt, senders)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				receipt, err := pipeline.Send(t.Context(), p, accountOpened, account{ID: fmt.Sprint(i, n)})
				if err != nil {
					t.Error(err)
					return
				}
				receipts[i] = append(receipts[i], receipt)
			}
		})
	}
	for range 3 {
		if _, err := pipeline.Send(t.Context(), p, accountClosed, account{}); err != nil { // they are at it
			t.Error(err)
		}
		shutDown(t, s, b)
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pipeline.Send(t.Context(), p, accountClosed, account{}); err != nil {
		t.Error(err)
	}
	close(stop)
	wg.Wait()
	all := slices.Concat(receipts...)
	if n := stored(t, b); n != uint64(len(all))+4 {
		t.Errorf("%d events are stored, %d were sent", n, len(all)+4)
	}
	seen := map[uint64]bool{}
	for _, receipt := range all {
		if receipt.Duplicate || seen[receipt.Sequence] {
			t.Errorf("receipt %+v", receipt)
		}
		seen[receipt.Sequence] = true
	}
	t.Logf("%d events", len(all))
}

// impostor answers in place of the stream, which it deletes.
func impostor(t *testing.T, b *bus.Bus, p *pipeline.Pipeline, answer func(*nats.Msg)) {
	t.Helper()
	if _, err := pipeline.Send(t.Context(), p, accountClosed, account{}); err != nil {
		t.Fatal(err) // so that it is known that the stream is there
	}
	if err := b.JetStream().DeleteStream(t.Context(), bus.EventsStream); err != nil {
		t.Fatal(err)
	}
	sub, err := b.Conn().Subscribe("$.Account.opened", answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
}

// No answer: it may have been stored, and the error says how to send it again.
func TestSendWithoutAnswer(t *testing.T) {
	t.Parallel()
	b, _ := sender(t)
	p := pipeline.New(b, pipeline.Config{Timeout: 200 * time.Millisecond})
	impostor(t, b, p, func(*nats.Msg) {})
	_, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithID("one"))
	fails(t, err, rpc.DeadlineExceeded, "may have been stored", `"one"`, "two minutes")
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Retryable || !e.Outcome() {
		t.Errorf("%v: it is said to surely not have run", err)
	}
	_, err = pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 2))
	fails(t, err, rpc.DeadlineExceeded, "may have been stored")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = pipeline.Send(ctx, pipeline.New(b, pipeline.Config{}), accountClosed, account{})
	if err != nil {
		fails(t, err, rpc.Canceled) // it had not made the stream anew yet
	}
}

// What is not answered is sent again with the same id.
func TestSendAgain(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	var mu sync.Mutex
	seen := map[string]int{}
	impostor(t, b, p, func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		id := msg.Header.Get("Nats-Msg-Id")
		seen[id]++
		switch seen[id] {
		case 1: // it goes astray
		case 2:
			_ = msg.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`))
		default:
			_ = msg.Respond([]byte(`{"stream":"EVENTS","seq":7,"duplicate":true}`))
		}
	})
	receipt, err := pipeline.Send(t.Context(), p, accountOpened, account{})
	if err != nil || receipt.Sequence != 7 || receipt.Duplicate {
		t.Errorf("%+v, %v", receipt, err)
	}
	receipts, err := pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 2))
	if err != nil || receipts[1].Sequence != 7 || receipts[1].Duplicate {
		t.Errorf("%+v, %v", receipts, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range seen {
		if n != 3 {
			t.Errorf("%s was sent %d times, want 3", id, n)
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d ids, want 3", len(seen))
	}
}

// What the server says no to is no, and what each answer comes to.
func TestSendAnswers(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	impostor(t, b, p, func(msg *nats.Msg) { _ = msg.Respond([]byte(msg.Header.Get("Answer"))) })
	refusal := func(code, number int, text string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"err_code":%d,"description":%q}}`, code, number, text)
	}
	for _, test := range []struct {
		answer string
		code   rpc.Code
		says   string
	}{
		{refusal(400, 10071, "wrong last sequence: 12"), rpc.Aborted, "sequence 12"},
		{refusal(400, 10054, "message size exceeds maximum allowed"), rpc.ResourceExhausted, "message size"},
		{refusal(503, 10077, "maximum bytes exceeded"), rpc.ResourceExhausted, "maximum bytes"},
		{refusal(400, 10109, "invalid operation on sealed stream"), rpc.FailedPrecondition, "sealed"},
		{`{"stream":"OTHER","seq":1}`, rpc.FailedPrecondition, "OTHER"},
	} {
		_, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithHeader("Answer", test.answer))
		fails(t, err, test.code, "send Account.opened", test.says)
		_, err = pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 1), pipeline.WithHeader("Answer", test.answer))
		fails(t, err, test.code, "send Account.opened", test.says)
	}
}

// A stream that is gone is made anew.
func TestSendWithoutStream(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	for range 2 {
		if _, err := pipeline.Send(t.Context(), p, accountOpened, account{}); err != nil {
			t.Fatal(err)
		}
		if err := b.JetStream().DeleteStream(t.Context(), bus.EventsStream); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 100)); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, b); n != 100 {
		t.Errorf("%d events are stored, want 100", n)
	}
}

func TestSendOnClosedBus(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	if _, err := pipeline.Send(t.Context(), p, accountOpened, account{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*pipeline.Pipeline{p, pipeline.New(b, pipeline.Config{})} {
		_, err := pipeline.Send(t.Context(), p, accountOpened, account{})
		fails(t, err, rpc.Unavailable, "closed")
		_, err = pipeline.SendBatch(t.Context(), p, accountOpened, make([]account, 2))
		fails(t, err, rpc.Unavailable, "closed")
	}
}

// What the bus does not permit is said at once.
func TestSendDenied(t *testing.T) {
	t.Parallel()
	for name, deny := range map[string]string{"the event": "$.Account.>", "the stream": "$JS.API.STREAM.>"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := restricted(t, deny)
			p := pipeline.New(b, pipeline.Config{Timeout: time.Minute})
			start := time.Now()
			_, err := pipeline.Send(t.Context(), p, accountOpened, account{})
			fails(t, err, rpc.PermissionDenied, "does not permit")
			_, err = p.SendBatch(t.Context(), []pipeline.Item{{Event: "Account.opened"}, {Event: "User.registered"}, {Event: "Account.opened"}})
			several, ok := errors.AsType[*pipeline.BatchError](err)
			if want := map[string]int{"the event": 2, "the stream": 3}[name]; !ok || len(several.Failed) != want {
				t.Fatalf("the batch: %v, want %d to fail", err, want)
			}
			for _, failed := range several.Failed {
				fails(t, failed.Err, rpc.PermissionDenied, "does not permit")
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// restricted returns a bus whose user may not publish on deny.
func restricted(t *testing.T, deny string) *bus.Bus {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*natsserver.User{
			{Username: "admin", Password: "secret"},
			{Username: "app", Password: "secret", Permissions: &natsserver.Permissions{
				Publish: &natsserver.SubjectPermission{Deny: []string{deny}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	connect := func(user string) *bus.Bus {
		b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{s.ClientURL()}, User: user, Password: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil && !errors.Is(err, nats.ErrPermissionViolation) { // of what was sent last
				t.Error(err)
			}
		})
		return b
	}
	if _, err := connect("admin").EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	return connect("app")
}
