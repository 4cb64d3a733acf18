package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/server"
)

type plusParams struct {
	A float64 `json:"a"`
	B float64 `json:"b"`
}

type plusResult struct {
	Sum float64 `json:"sum"`
}

var (
	plusMethod  = rpc.NewMethod[plusParams, plusResult]("math.plus", rpc.Idempotent(), rpc.Description("adds"), rpc.Timeout(1500*time.Millisecond))
	resetMethod = rpc.NewMethod[rpc.None, rpc.None]("math.v2.reset")
	resetTwin   = rpc.NewMethod[rpc.None, rpc.None]("math.v2_reset")
)

func doNothing(context.Context, rpc.None) (rpc.None, error) { return rpc.None{}, nil }

// newMath makes a service to be discovered.
func newMath(b *bus.Bus, config server.Config) *server.Service {
	svc := server.New(b, "math", config)
	server.Handle(svc, plusMethod, func(_ context.Context, p plusParams) (plusResult, error) {
		if p.A < 0 {
			return plusResult{}, rpc.OutOfRange.Errorf("negative")
		}
		return plusResult{p.A + p.B}, nil
	})
	server.Handle(svc, resetMethod, doNothing, server.Concurrency(3))
	server.Handle(svc, resetTwin, doNothing)
	server.Handle(svc.Entrypoint("Admin"), rpc.NewMethod[rpc.None, rpc.None]("math.reset"), doNothing)
	return svc
}

// discover sends one request and decodes the answer.
func discover[T any](t *testing.T, conn *nats.Conn, subject string) T {
	t.Helper()
	msg, err := conn.Request(subject, nil, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return decodeReply[T](t, subject, msg)
}

func decodeReply[T any](t *testing.T, subject string, msg *nats.Msg) (value T) {
	t.Helper()
	if code := msg.Header.Get(micro.ErrorCodeHeader); code != "" {
		t.Fatalf("%s: error %s: %s", subject, code, msg.Header.Get(micro.ErrorHeader))
	}
	if err := json.Unmarshal(msg.Data, &value); err != nil {
		t.Fatalf("%s: %v: %s", subject, err, msg.Data)
	}
	return value
}

// endpointSubjects returns what a service says it serves.
func endpointSubjects(t *testing.T, conn *nats.Conn, service string) (subjects []string) {
	t.Helper()
	for _, ep := range discover[micro.Info](t, conn, "$SRV.INFO."+service).Endpoints {
		subjects = append(subjects, ep.Subject)
	}
	return subjects
}

func TestDiscoveryPing(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := newMath(bustest.Connect(t, srv), server.Config{Version: "1.2.3", Metadata: map[string]string{"zone": "a"}})
	start(t, svc)
	conn := plainClient(t, srv).conn
	for _, subject := range []string{"$SRV.PING", "$SRV.PING.math", "$SRV.PING.math." + svc.ID()} {
		got := discover[micro.Ping](t, conn, subject)
		if got.Type != "io.nats.micro.v1.ping_response" || got.Name != "math" || got.ID != svc.ID() ||
			got.Version != "1.2.3" || got.Metadata["zone"] != "a" {
			t.Errorf("%s: got %+v", subject, got)
		}
	}
	for _, subject := range []string{"$SRV.PING.other", "$SRV.PING.math.other", "$SRV.INFO.other", "$SRV.OTHER"} {
		if _, err := conn.Request(subject, nil, patience); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: got %v, want nobody to listen", subject, err)
		}
	}
}

func TestDiscoveryInfo(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := newMath(bustest.Connect(t, srv), server.Config{Description: "sums"})
	server.Register(svc, func() *mathClass { return new(mathClass) })
	start(t, svc)
	conn := plainClient(t, srv).conn
	for _, subject := range []string{"$SRV.INFO", "$SRV.INFO.math", "$SRV.INFO.math." + svc.ID()} {
		got := discover[micro.Info](t, conn, subject)
		if got.Type != "io.nats.micro.v1.info_response" || got.ID != svc.ID() || got.Version != "0.0.0" ||
			got.Description != "sums" || got.Metadata == nil {
			t.Errorf("%s: got %+v", subject, got)
		}
		checkEndpoints(t, got.Endpoints)
	}
}

func checkEndpoints(t *testing.T, endpoints []micro.EndpointInfo) {
	t.Helper()
	allowed := regexp.MustCompile(`^[A-Za-z0-9\-_]+$`)
	subjects := map[string]string{} // by name
	metadata := map[string]map[string]string{}
	for _, ep := range endpoints {
		if !allowed.MatchString(ep.Name) || ep.QueueGroup != "rpc" || subjects[ep.Name] != "" {
			t.Errorf("endpoint %+v", ep)
		}
		subjects[ep.Name] = ep.Subject
		metadata[ep.Subject] = ep.Metadata
	}
	for name, subject := range map[string]string{
		"plus": "rpc.math.plus", "v2_reset": "rpc.math.v2_reset", "v2_reset_": "rpc.math.v2.reset", "Admin_reset": "rpc.math.Admin.reset",
	} {
		if subjects[name] != subject {
			t.Errorf("the endpoint %s has the subject %q, want %q", name, subjects[name], subject)
		}
	}
	for _, tt := range []struct{ subject, key, want string }{
		{"rpc.math.plus", server.MetadataParams, `{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]}`},
		{"rpc.math.plus", server.MetadataResult, `{"type":"object","properties":{"sum":{"type":"number"}},"required":["sum"]}`},
		{"rpc.math.plus", server.MetadataIdempotent, "true"},
		{"rpc.math.plus", server.MetadataDescription, "adds"},
		{"rpc.math.plus", server.MetadataTimeout, "1500"},
		{"rpc.math.v2.reset", server.MetadataParams, `{"type":"null"}`},
		{"rpc.math.v2.reset", server.MetadataResult, `{"type":"null"}`},
		{"rpc.math.v2.reset", server.MetadataIdempotent, "false"},
		{"rpc.math.v2.reset", server.MetadataDescription, ""},
		{"rpc.math.v2.reset", server.MetadataTimeout, ""},
		{"rpc.math.add", server.MetadataParams, `{"type":"array","prefixItems":[{"type":"number"},{"type":"number"}],"minItems":2,"maxItems":2}`},
		{"rpc.math.add", server.MetadataResult, `{"type":"number"}`},
		{"rpc.math.add", server.MetadataIdempotent, "false"},
		{"rpc.math.half", server.MetadataParams, `{"type":"number"}`},
		{"rpc.math.ping", server.MetadataParams, `{"type":"null"}`},
		{"rpc.math.echo", server.MetadataParams, `{}`},
	} {
		got := metadata[tt.subject][tt.key]
		if got != tt.want && (tt.want == "" || !equalJSON(got, tt.want)) {
			t.Errorf("%s: %s is %s, want %s", tt.subject, tt.key, got, tt.want)
		}
	}
}

// equalJSON compares two texts; those that are no JSON are compared as they are.
func equalJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	return reflect.DeepEqual(x, y)
}

func TestDiscoveryStats(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := newMath(bustest.Connect(t, srv), server.Config{Concurrency: 7, Queue: 9})
	blocked, release := make(chan struct{}), make(chan struct{})
	hold := rpc.NewMethod[rpc.None, rpc.None]("math.hold")
	server.Handle(svc, hold, func(context.Context, rpc.None) (rpc.None, error) {
		blocked <- struct{}{}
		<-release
		return rpc.None{}, nil
	})
	begun := time.Now()
	start(t, svc)
	p := plainClient(t, srv)
	for range 4 {
		p.request(t, "rpc.math.plus", []byte(`{"a":1,"b":2}`), nil)
	}
	p.request(t, "rpc.math.plus", []byte(`{"a":-1}`), nil)
	p.request(t, "rpc.math.plus", []byte(`"x"`), nil)
	if err := p.conn.PublishRequest("rpc.math.hold", p.conn.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	receive(t, "the call that is held", blocked)
	defer close(release)
	// A call is answered before it is taken off the counts of those that run.
	await(t, "the end of the calls that were answered", func() bool {
		_, load := statsOf(t, discover[micro.Stats](t, p.conn, "$SRV.STATS.math"), "plus")
		return load.InFlight == 0 && load.Running == 1
	})

	for _, subject := range []string{"$SRV.STATS", "$SRV.STATS.math", "$SRV.STATS.math." + svc.ID()} {
		got := discover[micro.Stats](t, p.conn, subject)
		if got.Type != "io.nats.micro.v1.stats_response" || got.Name != "math" || got.ID != svc.ID() || len(got.Endpoints) != 5 {
			t.Errorf("%s: got %+v", subject, got)
		}
		if got.Started.Location() != time.UTC || got.Started.Before(begun.Add(-time.Second)) || got.Started.After(time.Now()) {
			t.Errorf("%s: started %v, want about %v in UTC", subject, got.Started, begun.UTC())
		}
		plus, load := statsOf(t, got, "plus")
		if plus.Subject != "rpc.math.plus" || plus.QueueGroup != "rpc" || plus.NumRequests != 6 || plus.NumErrors != 2 {
			t.Errorf("%s: plus has %+v", subject, plus)
		}
		contains(t, plus.LastError, "invalid_argument: params: want an object, got string")
		if plus.ProcessingTime <= 0 || plus.AverageProcessingTime != plus.ProcessingTime/6 {
			t.Errorf("%s: plus took %v, %v on average", subject, plus.ProcessingTime, plus.AverageProcessingTime)
		}
		if load.P50us < 1 || load.P90us < load.P50us || load.P99us < load.P90us || load.InFlight != 0 {
			t.Errorf("%s: plus has the load %+v", subject, load)
		}
		if load.Running != 1 || load.Waiting != 0 || load.MaxRunning != 7 || load.MaxWaiting != 9 {
			t.Errorf("%s: the shared bound has the load %+v", subject, load)
		}
		if _, load := statsOf(t, got, "hold"); load.InFlight != 1 || load.P50us != 0 {
			t.Errorf("%s: hold has the load %+v", subject, load)
		}
		if ep, load := statsOf(t, got, "v2_reset_"); load.MaxRunning != 3 || load.MaxWaiting != 12 || load.Running != 0 || ep.NumRequests != 0 {
			t.Errorf("%s: the method with a bound of its own has %+v and the load %+v", subject, ep, load)
		}
	}
}

// A call that is refused because of the bound is among the requests and errors
// and told apart from them; other refusals and failures are not shed.
func TestDiscoveryStatsTellWhatWasShed(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "narrow", server.Config{})
	blocked, release := make(chan struct{}), make(chan struct{})
	server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None]("narrow.pass"), func(context.Context, rpc.None) (rpc.None, error) {
		blocked <- struct{}{}
		<-release
		return rpc.None{}, rpc.ResourceExhausted.Errorf("the handler's own")
	}, server.Concurrency(1), server.Queue(0))
	server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None]("narrow.wide"), doNothing)
	start(t, svc)
	p := plainClient(t, srv)
	inbox, err := p.conn.SubscribeSync(p.conn.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.conn.PublishRequest("rpc.narrow.pass", inbox.Subject, nil); err != nil {
		t.Fatal(err)
	}
	receive(t, "the call that is held", blocked)
	for range 3 {
		_, f := p.request(t, "rpc.narrow.pass", nil, nil)
		requireFailure(t, f, "resource_exhausted", "overloaded")
	}
	if err := p.conn.Publish("rpc.narrow.pass", nil); err != nil { // nobody to answer to: shed all the same
		t.Fatal(err)
	}
	await(t, "the refusals", func() bool {
		_, load := statsOf(t, discover[micro.Stats](t, p.conn, "$SRV.STATS.narrow"), "pass")
		return load.Shed == 4
	})
	close(release)
	if _, err := inbox.NextMsg(patience); err != nil {
		t.Fatal(err)
	}

	got := discover[micro.Stats](t, p.conn, "$SRV.STATS.narrow")
	pass, load := statsOf(t, got, "pass")
	if load.Shed != 4 || pass.NumRequests != 5 || pass.NumErrors != 5 {
		t.Errorf("pass has %+v and the load %+v, want 4 of 5 requests to be shed", pass, load)
	}
	if _, load := statsOf(t, got, "wide"); load.Shed != 0 {
		t.Errorf("wide has the load %+v", load)
	}
}

func statsOf(t *testing.T, s micro.Stats, name string) (ep micro.EndpointStats, load server.EndpointLoad) {
	t.Helper()
	i := slices.IndexFunc(s.Endpoints, func(ep *micro.EndpointStats) bool { return ep.Name == name })
	if i < 0 {
		t.Fatalf("no stats of %s", name)
	}
	ep = *s.Endpoints[i]
	if err := json.Unmarshal(ep.Data, &load); err != nil {
		t.Fatalf("data of %s: %v: %s", name, err, ep.Data)
	}
	return ep, load
}

func TestDiscoveryFindsAllInstances(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	want := map[string]bool{}
	for range 3 {
		svc := newMath(bustest.Connect(t, srv), server.Config{})
		start(t, svc)
		want[svc.ID()] = true
	}
	other := server.New(bustest.Connect(t, srv), "greeter", server.Config{})
	start(t, other)

	conn := plainClient(t, srv).conn
	replies, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"$SRV.PING.math", "$SRV.PING"} {
		if err := conn.PublishRequest(subject, replies.Subject, nil); err != nil {
			t.Fatal(err)
		}
		if subject == "$SRV.PING" {
			want[other.ID()] = true
		}
		got := map[string]bool{}
		for range want {
			msg, err := replies.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v after %d of %d answers", subject, err, len(got), len(want))
			}
			got[decodeReply[micro.Ping](t, subject, msg).ID] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: answers from %v, want %v", subject, got, want)
		}
	}
}

func TestDiscoveryAnswersOnlyBelowTheInboxPrefixes(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	logs := newLogbook()
	svc := newMath(bustest.Connect(t, srv, logs.option(zerolog.WarnLevel)), server.Config{ReplyPrefixes: []string{"_INBOX", "my.inbox"}})
	start(t, svc)
	conn := plainClient(t, srv).conn
	all, err := conn.SubscribeSync("my.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		if err := conn.PublishRequest("$SRV."+verb, "my.secret."+verb, nil); err != nil {
			t.Fatal(err)
		}
		logs.await(t, "the refusal of "+verb, func(l logLine) bool {
			return l.has("reply", "my.secret."+verb) && l.has("message", "outside the allowed inbox prefixes")
		})
	}
	if err := conn.Publish("$SRV.PING", nil); err != nil { // nobody to answer to
		t.Fatal(err)
	}
	if err := conn.PublishRequest("$SRV.PING", "my.inbox.1", nil); err != nil {
		t.Fatal(err)
	}
	if msg, err := all.NextMsg(patience); err != nil || msg.Subject != "my.inbox.1" {
		t.Errorf("the first answer is %+v, %v, want one on my.inbox.1", msg, err)
	}
}

func TestDiscoveryEndsBeforeTheCallsDo(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := newMath(bustest.Connect(t, srv), server.Config{})
	blocked, release := make(chan struct{}), make(chan struct{})
	server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None]("math.hold"), func(context.Context, rpc.None) (rpc.None, error) {
		blocked <- struct{}{}
		<-release
		return rpc.None{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	receive(t, "the service", svc.Ready())
	conn := plainClient(t, srv).conn
	discover[micro.Ping](t, conn, "$SRV.PING.math")
	inbox, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.PublishRequest("rpc.math.hold", inbox.Subject, nil); err != nil {
		t.Fatal(err)
	}
	receive(t, "the call", blocked)

	cancel()
	for { // the call is still held while discovery goes away
		_, err := conn.Request("$SRV.PING.math", nil, patience)
		if errors.Is(err, nats.ErrNoResponders) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("the service ended with %v before its call", err)
	default:
	}
	close(release)
	if _, err := inbox.NextMsg(patience); err != nil {
		t.Errorf("the call that ran was not answered: %v", err)
	}
	if err := receive(t, "the service's end", ended); err != nil {
		t.Error(err)
	}
}

// wide has a schema of some kilobytes.
type wide struct {
	A01, A02, A03, A04, A05, A06, A07, A08, A09, A10, A11, A12, A13, A14, A15, A16, A17, A18, A19, A20 plusParams
}

func TestDiscoveryFitsIntoAMessage(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 8 << 10 }))
	svc := server.New(bustest.Connect(t, srv), "wide", server.Config{})
	for i := range 10 {
		m := rpc.NewMethod[wide, wide](fmt.Sprintf("wide.m%d", i))
		server.Handle(svc, m, func(context.Context, wide) (wide, error) { return wide{}, nil })
	}
	start(t, svc)
	conn := plainClient(t, srv).conn
	info := discover[micro.Info](t, conn, "$SRV.INFO.wide")
	if len(info.Endpoints) != 10 {
		t.Fatalf("%d endpoints, want 10", len(info.Endpoints))
	}
	for _, ep := range info.Endpoints {
		if _, ok := ep.Metadata[server.MetadataParams]; ok || ep.Metadata[server.MetadataIdempotent] != "false" {
			t.Errorf("%s has the metadata %v, want none that is large", ep.Name, ep.Metadata)
		}
	}
}

func TestDiscoverySaysWhenAnAnswerDoesNotFit(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 8 << 10 }))
	svc := server.New(bustest.Connect(t, srv), "many", server.Config{})
	for i := range 100 {
		server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None](fmt.Sprintf("many.m%d", i)), doNothing)
	}
	start(t, svc)
	conn := plainClient(t, srv).conn
	discover[micro.Ping](t, conn, "$SRV.PING.many")
	for _, verb := range []string{"INFO", "STATS"} {
		msg, err := conn.Request("$SRV."+verb+".many", nil, patience)
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		_, f := readReply(t, msg)
		if f == nil || f.Code != "resource_exhausted" {
			t.Fatalf("%s: got %+v, want resource_exhausted", verb, f)
		}
		contains(t, f.Message, "at most 8192", "max_payload")
	}
}
