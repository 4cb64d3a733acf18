package pull

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func TestReadMeta(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reply string
		name  string
		seq   uint64
		times int
	}{
		{"$JS.ACK.EVENTS.shop-note.1.42.7.1700000000000000000.3", "EVENTS.shop-note", 42, 1},
		{"$JS.ACK._.hash.EVENTS.shop-note.2.42.7.1700000000000000000.3.token", "EVENTS.shop-note", 42, 2},
		{"$JS.ACK.hub.hash.EVENTS.shop-note.3.18446744.7.1700000000000000000.3", "EVENTS.shop-note", 18446744, 3},
		{"$JS.ACK.EVENTS.shop-note.1.42.7", "", 0, 0},
		{"$JS.ACK.EVENTS.shop-note.one.42.7.1700000000000000000.3", "", 0, 0},
		{"$JS.ACK.EVENTS.shop-note.1.42.7.never.3", "", 0, 0},
		{"$JS.ACK.", "", 0, 0},
		{"_INBOX.a.b", "", 0, 0},
		{"", "", 0, 0},
	} {
		m, ok := readMeta(&nats.Msg{Reply: test.reply})
		if ok != (test.name != "") || ok && (m.name != test.name || m.Sequence != test.seq || m.Delivered != test.times || m.Stored.Unix() != 1700000000) {
			t.Errorf("%s: %+v, %v", test.reply, m, ok)
		}
	}
}

func FuzzReadMeta(f *testing.F) {
	f.Add("$JS.ACK.EVENTS.shop-note.1.42.7.1700000000000000000.3")
	f.Add("$JS.ACK._.hash.EVENTS.shop-note.2.42.7.1700000000000000000.3.token")
	f.Add("$JS.ACK........")
	f.Fuzz(func(t *testing.T, reply string) {
		if m, ok := readMeta(&nats.Msg{Reply: reply}); ok && m.name == "" {
			t.Errorf("%q has no consumer", reply)
		}
	})
}

// feed is a stream with a consumer, and a hub.
type feed struct {
	*testing.T
	bus *bus.Bus
	hub *Hub

	mu     sync.Mutex
	got    []Message
	pinned int
	gone   int
}

func newFeed(t *testing.T, change func(*jetstream.ConsumerConfig)) *feed {
	t.Helper()
	f := &feed{T: t, bus: bustest.New(t)}
	js := f.bus.JetStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "NUMBERS", Subjects: []string{"numbers.>"}}); err != nil {
		t.Fatal(err)
	}
	cfg := jetstream.ConsumerConfig{Durable: "all", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second}
	if change != nil {
		change(&cfg)
	}
	if _, err := js.CreateConsumer(t.Context(), "NUMBERS", cfg); err != nil {
		t.Fatal(err)
	}
	hub, err := Open(f.bus)
	if err != nil {
		t.Fatal(err)
	}
	f.hub = hub
	ctx, cancel := context.WithCancel(context.Background())
	var ticks sync.WaitGroup
	ticks.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				hub.Tick(now)
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); ticks.Wait(); hub.Close() })
	return f
}

func (f *feed) config() Config {
	return Config{
		Stream: "NUMBERS", Consumer: "all",
		Message: func(m Message) { f.mu.Lock(); defer f.mu.Unlock(); f.got = append(f.got, m) },
		Gone:    func() { f.mu.Lock(); defer f.mu.Unlock(); f.gone++ },
		Pinned:  func() { f.mu.Lock(); defer f.mu.Unlock(); f.pinned++ },
	}
}

func (f *feed) publish(n int) {
	f.Helper()
	for i := range n {
		if _, err := f.bus.JetStream().Publish(f.Context(), "numbers.drawn", fmt.Append(nil, i)); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *feed) messages() []Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Message(nil), f.got...)
}

func (f *feed) until(what string, met func() bool) {
	f.Helper()
	limit := time.After(20 * time.Second)
	for !met() {
		select {
		case <-limit:
			f.Fatalf("waited in vain until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A puller gets as many messages as it has asked for, and no more.
func TestFill(t *testing.T) {
	t.Parallel()
	f := newFeed(t, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour })
	p := f.hub.Puller(f.config())
	f.publish(30)
	p.Fill(8, 8)
	p.Fill(8, 8) // is on its way already
	f.until("8 came", func() bool { return len(f.messages()) == 8 })
	p.Fill(1, 8) // too few for a pull of its own
	p.Fill(4, 8)
	f.until("12 came", func() bool { return len(f.messages()) == 12 })
	if err := f.bus.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	consumer, err := f.bus.JetStream().Consumer(t.Context(), "NUMBERS", "all")
	if err != nil {
		t.Fatal(err)
	}
	if n := consumer.CachedInfo().NumAckPending; n != 12 {
		t.Errorf("%d are delivered", n)
	}
	for i, m := range f.messages() {
		if m.Sequence != uint64(i+1) || m.Delivered != 1 || string(m.Data) != fmt.Sprint(i) {
			t.Errorf("message %d: %+v", i, m)
		}
	}
}

// A puller whose consumer is not there says so, and gets on when it is again.
func TestGone(t *testing.T) {
	t.Parallel()
	f := newFeed(t, nil)
	cfg := f.config()
	var p *Puller
	ready := make(chan struct{})
	cfg.Again = func() { <-ready; p.Fill(4, 4) }
	p = f.hub.Puller(cfg)
	close(ready)
	p.Fill(4, 4)
	js := f.bus.JetStream()
	f.until("the server has the pull", func() bool {
		consumer, err := js.Consumer(t.Context(), "NUMBERS", "all")
		if err != nil {
			t.Fatal(err)
		}
		return consumer.CachedInfo().NumWaiting == 1
	})
	if err := js.DeleteConsumer(t.Context(), "NUMBERS", "all"); err != nil {
		t.Fatal(err)
	}
	f.until("that is noticed", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.gone > 0 })
	if _, err := js.CreateConsumer(t.Context(), "NUMBERS", jetstream.ConsumerConfig{Durable: "all", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	f.publish(1)
	f.until("a message comes", func() bool { return len(f.messages()) == 1 })
}

// The operator's bounds on pulls are kept.
func TestRequestBounds(t *testing.T) {
	t.Parallel()
	for name, bound := range map[string]func(*jetstream.ConsumerConfig){
		"batch":   func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 5 },
		"expires": func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 2 * time.Second },
		"bytes":   func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 4 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFeed(t, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour; bound(c) })
			cfg := f.config()
			var p *Puller
			ready := make(chan struct{})
			cfg.Again = func() { <-ready; p.Fill(100-len(f.messages()), 100) }
			p = f.hub.Puller(cfg)
			close(ready)
			f.publish(20)
			p.Fill(100, 100)
			f.until("they come", func() bool {
				p.Fill(100-len(f.messages()), 100)
				return len(f.messages()) == 20
			})
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.last > 30 {
				t.Errorf("%d pulls for 20 messages", p.last)
			}
		})
	}
}

// Of two pullers of one group one gets everything, and knows it; the other
// follows when it ends.
func TestPin(t *testing.T) {
	t.Parallel()
	const pinFor = 2 * time.Second
	pinned := func(c *jetstream.ConsumerConfig) {
		c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = jetstream.PriorityPolicyPinned, []string{"one"}, pinFor
	}
	f := newFeed(t, pinned)
	other := &feed{T: t, bus: f.bus}
	hub, err := Open(f.bus)
	if err != nil {
		t.Fatal(err)
	}
	other.hub = hub
	t.Cleanup(hub.Close)
	puller := func(f *feed) *Puller {
		cfg := f.config()
		cfg.Group, cfg.PinFor = "one", pinFor
		return f.hub.Puller(cfg)
	}
	p, q := puller(f), puller(other)
	p.Fill(100, 100)
	if err := f.bus.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	q.Fill(100, 100)
	f.publish(10)
	f.until("the first has all", func() bool { return len(f.messages()) == 10 })
	f.until("it is sure", func() bool { return p.Holds(time.Now()) })
	for _, m := range f.messages() {
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	if q.Pin() != "" || q.Holds(time.Now()) || len(other.messages()) > 0 {
		t.Errorf("the other has the pin %q and %d messages", q.Pin(), len(other.messages()))
	}
	held := time.Now().Add(pinFor + pinFor/2) // longer than the pin stays by itself
	f.until("it keeps the pin at rest", func() bool {
		if !p.Holds(time.Now()) {
			t.Error("it is not sure any more")
			return true
		}
		return time.Now().After(held)
	})
	p.Close()
	f.publish(3)
	f.until("the other has what follows", func() bool { return len(other.messages()) == 3 })
	if other.pinned != 1 || f.pinned != 1 {
		t.Errorf("told of %v and %v", f.pinned, other.pinned)
	}
}
