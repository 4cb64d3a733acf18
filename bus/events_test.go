package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func ExampleBus_SourceEvents() {
	ctx := context.Background()
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Shutdown()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{srv.URL()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	_, err = b.EnsureStream(ctx, jetstream.StreamConfig{Name: "KV_OBJECTS_cart", Subjects: []string{"$KV.OBJECTS_cart.>"}}, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.SourceEvents(ctx, "KV_OBJECTS_cart", "$KV.OBJECTS_cart._out"); err != nil {
		fmt.Println(err)
		return
	}
	js := b.JetStream()
	if _, err := js.Publish(ctx, "$KV.OBJECTS_cart._out.1.Order.placed", []byte(`{"id":7}`)); err != nil {
		fmt.Println(err)
		return
	}
	consumer, err := js.OrderedConsumer(ctx, bus.EventsStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	event, err := consumer.Next()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(event.Subject(), string(event.Data()))
	// Output: $.Order.placed {"id":7}
}

// cart is a class of objects with events.
type cart struct {
	bus     *bus.Bus
	stream  string
	prefix  string // of its events
	emitted int
}

// newCart makes the stream of a class of objects.
func newCart(t *testing.T, b *bus.Bus, class string) *cart {
	t.Helper()
	c := &cart{bus: b, stream: "KV_OBJECTS_" + class, prefix: "$KV.OBJECTS_" + class + "._out"}
	_, err := b.EnsureStream(t.Context(), jetstream.StreamConfig{
		Name:               c.stream,
		Subjects:           []string{"$KV.OBJECTS_" + class + ".>"},
		MaxMsgsPerSubject:  5,
		AllowRollup:        true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		AllowMsgTTL:        true,
		AllowMsgSchedules:  true,
		DenyDelete:         true,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// emit has an object emit an event, such as "Order.placed".
func (c *cart) emit(t *testing.T, event string, headers ...string) {
	t.Helper()
	c.emitted++
	c.put(t, "_out.n"+strconv.Itoa(c.emitted)+"."+event, event, headers...)
}

// put stores a message in the stream of the class.
func (c *cart) put(t *testing.T, key, data string, headers ...string) {
	t.Helper()
	msg := nats.NewMsg(strings.TrimSuffix(c.prefix, "_out") + key)
	msg.Data = []byte(data)
	for i := 0; i < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	if _, err := c.bus.JetStream().PublishMsg(t.Context(), msg); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
}

func (c *cart) source(t *testing.T) {
	t.Helper()
	if err := c.bus.SourceEvents(t.Context(), c.stream, c.prefix); err != nil {
		t.Fatal(err)
	}
}

// newBus returns a bus to a server of its own, for a test of sources.
func newBus(t *testing.T) *bus.Bus {
	t.Helper()
	b := bustest.New(t)
	settle(t, b)
	return b
}

// settle has the test end when the sources of EVENTS work. A server that is shut
// down before goes on for half a minute to wait for the origin's answer.
func settle(t *testing.T, b *bus.Bus) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		until(t, "the sources work", func() bool {
			stream, err := b.JetStream().Stream(ctx, bus.EventsStream)
			return err != nil || !slices.ContainsFunc(stream.CachedInfo().Sources, func(s *jetstream.StreamSourceInfo) bool {
				return s.Active < 0 && s.Error == nil
			})
		})
	})
}

// events reads the first n events of EVENTS, waiting for them.
func events(t *testing.T, b *bus.Bus, n int) []jetstream.Msg {
	t.Helper()
	js := b.JetStream()
	consumer, err := js.CreateConsumer(t.Context(), bus.EventsStream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MaxWaiting: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := js.DeleteConsumer(t.Context(), bus.EventsStream, consumer.CachedInfo().Name); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all []jetstream.Msg
	for len(all) < n {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if errors.Is(err, nats.ErrNoResponders) && ctx.Err() == nil {
			continue // in a cluster it takes a moment until the consumer listens
		}
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(all), n, err)
		}
		all = append(all, msg)
	}
	return all
}

// gets waits for the events of EVENTS to be these.
func gets(t *testing.T, b *bus.Bus, want ...string) {
	t.Helper()
	for i, msg := range events(t, b, len(want)) {
		if msg.Subject() != "$."+want[i] || string(msg.Data()) != want[i] {
			t.Errorf("event %d: %s %q, want %s", i+1, msg.Subject(), msg.Data(), want[i])
		}
	}
	counts(t, b, len(want))
}

// counts checks how many messages EVENTS has.
func counts(t *testing.T, b *bus.Bus, want int) {
	t.Helper()
	if got := info(t, b, bus.EventsStream).State.Msgs; got != uint64(want) {
		t.Errorf("EVENTS has %d messages, want %d", got, want)
	}
}

// info returns what the server has to say about a stream.
func info(t *testing.T, b *bus.Bus, name string) *jetstream.StreamInfo {
	t.Helper()
	stream, err := b.JetStream().Stream(t.Context(), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return stream.CachedInfo()
}

// edit changes a stream as an operator would.
func edit(t *testing.T, b *bus.Bus, name string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	cfg := info(t, b, name).Config
	change(&cfg)
	if _, err := b.JetStream().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// sources returns the names of the sources of EVENTS, sorted.
func sources(t *testing.T, b *bus.Bus) []string {
	t.Helper()
	var names []string
	for _, s := range info(t, b, bus.EventsStream).Config.Sources {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

func TestEnsureEvents(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for range 2 {
		stream, err := b.EnsureEvents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		if cfg.Name != "EVENTS" || !slices.Equal(cfg.Subjects, []string{"$.>"}) || cfg.Storage != jetstream.FileStorage ||
			cfg.Retention != jetstream.LimitsPolicy || !cfg.AllowDirect || cfg.Duplicates != 2*time.Minute || cfg.AllowMsgTTL ||
			cfg.MaxAge != 0 || cfg.MaxMsgs != -1 || cfg.MaxBytes != -1 {
			t.Errorf("%+v", cfg)
		}
	}
}

func TestEnsureEventsWithTTL(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"$.>"}, AllowMsgTTL: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.EnsureEvents(t.Context())
	says(t, err, "EVENTS", "allow_msg_ttl", "delete the stream")
}

// Events of 2 to 6 tokens arrive, those too that were emitted before, each once
// and in order; nothing else of the stream does.
func TestSourceEvents(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	var want []string
	emitAll := func(when string) {
		c.put(t, "alice", `{"state":1}`)
		c.put(t, "alice.item", `{}`)
		c.put(t, "_alarm.alice", "x")
		c.emit(t, "Lonely")
		c.emit(t, "One.two.three.four.five.six."+when)
		for _, event := range []string{"Order.placed", "Order.placed.", "A.b.c.", "A.b.c.d.", "A.b.c.d.e."} {
			if strings.HasSuffix(event, ".") {
				event += when
			}
			c.emit(t, event)
			want = append(want, event)
		}
		c.emit(t, "Order.placed") // on the same subject again
		want = append(want, "Order.placed")
	}
	emitAll("before")
	c.source(t)
	gets(t, b, want...)
	emitAll("after")
	gets(t, b, want...)
	c.source(t)
	emitAll("again")
	gets(t, b, want...)
}

// What the server remembers of a source is used when it starts again, and a
// source that was there before is not touched.
func TestSourceEventsAfterRestart(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	settle(t, b)
	c := newCart(t, b, "cart")
	c.emit(t, "Order.placed")
	c.source(t)
	gets(t, b, "Order.placed")
	lost := make(chan struct{}, 2)
	b.OnDisconnect(func() { lost <- struct{}{} })
	s.Shutdown()
	<-lost
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.source(t)
	c.emit(t, "Order.paid")
	gets(t, b, "Order.placed", "Order.paid")
}

// A call that finds all as it should be changes nothing.
func TestSourceEventsTwice(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	c.source(t)
	updates, err := b.Conn().SubscribeSync("$JS.EVENT.ADVISORY.STREAM.>")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = updates.Unsubscribe() })
	c.source(t)
	edit(t, b, c.stream, func(cfg *jetstream.StreamConfig) { cfg.Description = "mark" })
	msg, err := updates.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(msg.Subject, ".UPDATED."+c.stream) {
		t.Errorf("changed something: %s", msg.Subject)
	}
}

// An event outlives the TTL that it has in its origin.
func TestEventsOutliveTheirOrigin(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	c.source(t)
	c.emit(t, "Order.placed", "Nats-TTL", "1s")
	event := events(t, b, 1)[0]
	if ttl := event.Headers().Get("Nats-TTL"); ttl != "1s" {
		t.Errorf("its TTL is %q", ttl)
	}
	meta, err := event.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the event is gone from its origin, and would be from EVENTS", func() bool {
		return info(t, b, c.stream).State.Msgs == 0 && time.Since(meta.Timestamp) > 3*time.Second
	})
	gets(t, b, "Order.placed")
}

// until waits for something that nothing signals.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Events that were emitted before others have been removed from EVENTS arrive.
func TestSourceEventsLate(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	early, late := newCart(t, b, "early"), newCart(t, b, "late")
	late.emit(t, "Late.first")
	early.source(t)
	for i := range 3 {
		early.emit(t, "Early."+strconv.Itoa(i))
	}
	gets(t, b, "Early.0", "Early.1", "Early.2")
	stream, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	late.source(t)
	gets(t, b, "Early.2", "Late.first")
}

// Many processes add their sources at the same time, several of them the same.
func TestSourceEventsConcurrently(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := bustest.Server(t)
			carts := make([]*cart, n)
			for i := range carts {
				carts[i] = newCart(t, bustest.Connect(t, s), "c"+strconv.Itoa(i))
				carts[i].emit(t, "Before.c"+strconv.Itoa(i))
			}
			settle(t, carts[0].bus)
			var wg sync.WaitGroup
			for _, c := range append(carts, carts...) {
				wg.Go(func() {
					if err := c.bus.SourceEvents(t.Context(), c.stream, c.prefix); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			b := carts[0].bus
			if got := sources(t, b); len(got) != n {
				t.Fatalf("sources: %q", got)
			}
			const each = 20
			for i := range each {
				for _, c := range carts {
					c.emit(t, "During."+strconv.Itoa(i))
				}
			}
			next := map[string]int{} // by class
			for _, msg := range events(t, b, n*(1+each)) {
				origin, _, _ := strings.Cut(msg.Headers().Get("Nats-Stream-Source"), " ")
				want := "During." + strconv.Itoa(next[origin]-1)
				if next[origin] == 0 {
					want = "Before." + strings.TrimPrefix(origin, "KV_OBJECTS_")
				}
				if string(msg.Data()) != want {
					t.Errorf("%s: got %q, want %q", origin, msg.Data(), want)
				}
				next[origin]++
			}
			counts(t, b, n*(1+each))
		})
	}
}

// A source that was lost is put back at the next start, and what came meanwhile
// arrives.
func TestSourceEventsRepairs(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c, other := newCart(t, b, "cart"), newCart(t, b, "other")
	c.source(t)
	other.source(t)
	c.emit(t, "Order.placed")
	gets(t, b, "Order.placed")
	edit(t, b, "EVENTS", func(cfg *jetstream.StreamConfig) {
		cfg.Sources = slices.DeleteFunc(cfg.Sources, func(s *jetstream.StreamSource) bool { return s.Name == c.stream })
	})
	c.emit(t, "Order.paid")
	c.source(t)
	gets(t, b, "Order.placed", "Order.paid")
	if got := sources(t, b); !slices.Equal(got, []string{c.stream, other.stream}) {
		t.Errorf("sources: %q", got)
	}
}

// holder connects to a server, and holds a write that has some text in it, having
// let pass some, until it is told to release or to drop it.
type holder struct {
	server        *natsd.Server
	write         string
	pass          int
	held          chan struct{}
	release, drop chan struct{}
	once          sync.Once
}

func newHolder(s *natsd.Server, write string, pass int) *holder {
	return &holder{server: s, write: write, pass: pass,
		held: make(chan struct{}), release: make(chan struct{}), drop: make(chan struct{})}
}

// connect returns a bus that connects through h.
func (h *holder) connect(t *testing.T) *bus.Bus {
	t.Helper()
	b := bustest.Connect(t, h.server, bustest.WithConfig(func(c *bus.Config) { c.URLs, c.InProcess = nil, h }))
	t.Cleanup(h.letGo)
	return b
}

func (h *holder) letGo() { h.once.Do(func() { close(h.release) }) }

// wait waits until it holds the write, or until what should write has ended.
func (h *holder) wait(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case <-h.held:
	case err := <-ended:
		t.Fatalf("it never wrote %s: %v", h.write, err)
	}
}

type heldConn struct {
	net.Conn
	*holder
}

func (h *holder) InProcessConn() (net.Conn, error) {
	conn, err := h.server.InProcessConn()
	return heldConn{conn, h}, err
}

func (c heldConn) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.write) {
		if c.pass--; c.pass == -1 {
			close(c.held)
			select {
			case <-c.release:
			case <-c.drop:
				return len(p), nil
			}
		}
	}
	return c.Conn.Write(p)
}

// A process that is slow to write what it has read of EVENTS does not undo what
// another adds: that one waits.
func TestSourceEventsTakesTurns(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	h := newHolder(s, "STREAM.UPDATE.EVENTS ", 0)
	slow := newCart(t, h.connect(t), "slow")
	quick := newCart(t, bustest.Connect(t, s), "quick")
	settle(t, quick.bus)
	tries, err := quick.bus.Conn().SubscribeSync("$JS.EVENT.ADVISORY.API")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tries.Unsubscribe() })
	if err := quick.bus.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	for i, c := range []*cart{slow, quick} {
		go func() { done <- c.bus.SourceEvents(t.Context(), c.stream, c.prefix) }()
		if i == 0 {
			h.wait(t, done)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for locks := 0; locks < 2; { // slow's, and a try of quick
		msg, err := tries.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(msg.Data), "$JS.API.CONSUMER.CREATE.EVENTS.") {
			locks++
		}
	}
	h.letGo()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := sources(t, quick.bus); !slices.Equal(got, []string{quick.stream, slow.stream}) {
		t.Errorf("sources: %q", got)
	}
	if n := info(t, quick.bus, "EVENTS").State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

// A process that ends while it has the lock keeps others waiting, and no longer
// than it may have it.
func TestSourceEventsAfterCrash(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	if _, err := b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := b.JetStream().CreateConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{
		Name: "rpc-config-lock", InactiveThreshold: 3 * time.Second, FilterSubject: "$.rpc-config-lock",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = b.SourceEvents(ctx, c.stream, c.prefix)
	says(t, err, "stream EVENTS", "other processes")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	c.source(t)
	c.emit(t, "Order.placed")
	gets(t, b, "Order.placed")
}

// right is the source that SourceEvents adds for a class.
func right(stream string) *jetstream.StreamSource {
	prefix := "$" + strings.Replace(stream, "_", ".", 1) + "._out"
	source := &jetstream.StreamSource{Name: stream, OptStartSeq: 1}
	from, to := prefix+".*", "$"
	for n := 1; n <= 6; n++ {
		from += ".*"
		to += fmt.Sprintf(".{{wildcard(%d)}}", n+1)
		if n > 1 {
			source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{Source: from, Destination: to})
		}
	}
	return source
}

func TestSourceEventsCorrects(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string][]*jetstream.StreamSource{
		"other transforms": {{Name: "KV_OBJECTS_cart", SubjectTransforms: []jetstream.SubjectTransformConfig{
			{Source: "$KV.OBJECTS_cart._out.*.*.*", Destination: "$.wrong.{{wildcard(2)}}.{{wildcard(3)}}"}}}},
		"a filter": {{Name: "KV_OBJECTS_cart", FilterSubject: "$KV.OBJECTS_cart._none"}},
		"several": {
			{Name: "KV_OBJECTS_cart", FilterSubject: "$KV.OBJECTS_cart._none"},
			{Name: "KV_OBJECTS_cart", FilterSubject: "$KV.OBJECTS_cart._nothing"},
		},
		"one more": {right("KV_OBJECTS_cart"), {Name: "KV_OBJECTS_cart", FilterSubject: "$KV.OBJECTS_cart._none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t)
			c, other := newCart(t, b, "cart"), newCart(t, b, "other")
			other.source(t)
			other.emit(t, "Other.event")
			gets(t, b, "Other.event")
			edit(t, b, "EVENTS", func(cfg *jetstream.StreamConfig) { cfg.Sources = append(cfg.Sources, wrong...) })
			c.emit(t, "Order.placed.by.alice", "Nats-Msg-Id", "1")
			c.source(t)
			if got := info(t, b, "EVENTS").Config.Sources; len(got) != 2 || !reflect.DeepEqual(got[1], right(c.stream)) {
				t.Errorf("sources: %+v", got)
			}
			gets(t, b, "Other.event", "Order.placed.by.alice")
			c.emit(t, "Order.paid")
			gets(t, b, "Other.event", "Order.placed.by.alice", "Order.paid")
		})
	}
}

// A source of another account or domain is another, also with the same name,
// and what an operator has set beside the transforms stays.
func TestSourceEventsLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	c.source(t)
	// The origin of the foreign source refuses, or the server would wait for it.
	refuse, err := b.Conn().Subscribe("$JS.far.API.>", func(msg *nats.Msg) {
		_ = msg.Respond([]byte(`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = refuse.Unsubscribe() })
	settle(t, b)
	start := time.Now().Add(-time.Hour).UTC().Round(0)
	foreign := &jetstream.StreamSource{Name: c.stream, FilterSubject: "$.x.y", External: &jetstream.ExternalStream{APIPrefix: "$JS.far.API"}}
	edit(t, b, "EVENTS", func(cfg *jetstream.StreamConfig) {
		cfg.Sources[0].OptStartSeq, cfg.Sources[0].OptStartTime = 0, &start
		cfg.Sources = append(cfg.Sources, foreign)
		cfg.MaxAge = time.Hour
	})
	before := info(t, b, "EVENTS").Config
	c.source(t)
	newCart(t, b, "other").source(t)
	after := info(t, b, "EVENTS").Config
	if len(after.Sources) != 3 || after.MaxAge != time.Hour || after.Sources[1].External == nil ||
		after.Sources[0].OptStartTime == nil || !after.Sources[0].OptStartTime.Equal(start) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestSourceEventsRefuses(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := newCart(t, b, "cart")
	for _, prefix := range []string{"", "a..b", "a.*", "a.>", "a b", ".a", "a."} {
		says(t, b.SourceEvents(t.Context(), c.stream, prefix), c.stream, strconv.Quote(prefix))
	}
	err := b.SourceEvents(t.Context(), "KV_OBJECTS_none", c.prefix)
	says(t, err, "KV_OBJECTS_none", "make it before")
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("%v", err)
	}
	says(t, b.SourceEvents(t.Context(), c.stream, "$KV.OBJECTS_kart._out"), c.stream, "$KV.OBJECTS_kart._out", "$KV.OBJECTS_cart.>")
	edit(t, b, c.stream, func(cfg *jetstream.StreamConfig) { cfg.SubjectDeleteMarkerTTL = time.Minute })
	says(t, b.SourceEvents(t.Context(), c.stream, c.prefix), c.stream, "subject_delete_marker_ttl", "set it to 0")
	if _, err := b.JetStream().Stream(t.Context(), "EVENTS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("EVENTS was made for nothing: %v", err)
	}
}

func TestSourceEventsInCluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	carts := make([]*cart, 6)
	for i := range carts {
		b := bustest.Connect(t, members[i%3], bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 }))
		carts[i] = newCart(t, b, "c"+strconv.Itoa(i))
	}
	settle(t, carts[0].bus)
	var wg sync.WaitGroup
	for i, c := range carts {
		wg.Go(func() {
			if err := c.bus.SourceEvents(t.Context(), c.stream, c.prefix); err != nil {
				t.Error(err)
				return
			}
			c.emit(t, "Order.c"+strconv.Itoa(i))
		})
	}
	wg.Wait()
	b := carts[0].bus
	if got := sources(t, b); len(got) != len(carts) {
		t.Fatalf("sources: %q", got)
	}
	events(t, b, len(carts))
	counts(t, b, len(carts))
}
