package faultproxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

const patience = 10 * time.Second

func start(t testing.TB, target string, seed uint64) *Proxy {
	t.Helper()
	p, err := Start(Config{Target: target, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func rule(t testing.TB, p *Proxy, r Rule) *Active {
	t.Helper()
	a, err := p.Add(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func connect(t testing.TB, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append([]nats.Option{
		nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.MaxReconnects(-1), nats.Timeout(patience),
	}, opts...)
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func subscribe(t testing.TB, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err == nil {
		err = errors.Join(sub.SetPendingLimits(-1, -1), nc.Flush())
	}
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func next(t testing.TB, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// flush publishes what is buffered and waits until the server has it.
func flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, nc *nats.Conn, subject string, data string) {
	t.Helper()
	if err := nc.Publish(subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	for limit := time.After(patience); !met(); {
		select {
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// traffic publishes n messages of many sizes, some with headers, and checks
// that they arrive as they are.
func traffic(t *testing.T, from, to *nats.Conn, n int) {
	t.Helper()
	sub := subscribe(t, to, "traffic.>")
	r := rand.New(rand.NewPCG(1, 1))
	msgs := make([]*nats.Msg, n)
	sums := make([][32]byte, n)
	for i := range n {
		size := r.IntN(500)
		switch {
		case i%500 == 0:
			size = 512 << 10
		case i%20 == 0:
			size = r.IntN(20_000)
		}
		msg := nats.NewMsg("traffic." + strconv.Itoa(i))
		msg.Data = make([]byte, size)
		for j := range msg.Data {
			msg.Data[j] = byte(r.Uint32())
		}
		if i%3 == 0 {
			msg.Header.Set("Number", strconv.Itoa(i))
			msg.Header.Set("Text", "MSG"+strings.Repeat(" PUB a 5", r.IntN(30)))
		}
		if i%5 == 0 {
			msg.Reply = "somewhere." + strconv.Itoa(i)
		}
		msgs[i], sums[i] = msg, sum(msg)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for _, msg := range msgs {
			if err := from.PublishMsg(msg); err != nil {
				t.Error(err)
			}
		}
		_ = from.Flush() // what is missing is missed
	})
	for i := range n {
		msg := next(t, sub)
		if msg.Subject != "traffic."+strconv.Itoa(i) || sum(msg) != sums[i] {
			t.Fatalf("message %d came as %s, or is another one", i, msg.Subject)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
}

func sum(msg *nats.Msg) [32]byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, msg.Subject, msg.Reply, msg.Header["Number"], msg.Header["Text"])
	b.Write(msg.Data)
	return sha256.Sum256(b.Bytes())
}

func TestProxyPasses(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	a, b := connect(t, p.URL()), connect(t, p.URL())
	if urls := a.DiscoveredServers(); len(urls) > 0 {
		t.Errorf("the server tells of %q: clients would go past the proxy", urls)
	}
	traffic(t, a, b, 10_000)
	stats := p.Stats()
	want := Stats{Accepted: 2, Open: 2, FromClients: Count{Messages: 10_000}, FromServer: Count{Messages: 10_000}}
	if stats != want {
		t.Errorf("%+v, want %+v", stats, want)
	}
	if _, err := b.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	if m, err := a.Request("echo", []byte("x"), patience); err != nil || string(m.Data) != "x" {
		t.Errorf("%v, %v", m, err)
	}
}

// bytewise is a connection that reads and writes single bytes.
type bytewise struct{ net.Conn }

func (b bytewise) Read(p []byte) (int, error) {
	return b.Conn.Read(p[:min(1, len(p))])
}

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if n, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(p), nil
}

func (b bytewise) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return bytewise{c}, err
}

func TestProxyPassesSingleBytes(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	a, b := connect(t, p.URL(), nats.SetCustomDialer(bytewise{})), connect(t, p.URL(), nats.SetCustomDialer(bytewise{}))
	sub := subscribe(t, b, "a.>")
	rest := rule(t, p, Rule{From: Server, Subject: "a.2", Action: Drop})
	go func() {
		for i := range 300 {
			msg := nats.NewMsg("a." + strconv.Itoa(i))
			msg.Header.Set("Number", strconv.Itoa(i))
			msg.Data = []byte(strings.Repeat("PUB a 5\r\n", i%7))
			_ = a.PublishMsg(msg) // it is missed otherwise
		}
	}()
	for i := range 300 {
		if strings.HasPrefix(strconv.Itoa(i), "2") {
			continue
		}
		msg := next(t, sub)
		if msg.Subject != "a."+strconv.Itoa(i) || string(msg.Data) != strings.Repeat("PUB a 5\r\n", i%7) || msg.Header.Get("Number") != strconv.Itoa(i) {
			t.Fatalf("message %d came as %s %q %q", i, msg.Subject, msg.Header, msg.Data)
		}
	}
	if err := rest.Wait(t.Context(), 111); err != nil {
		t.Error(err)
	}
	if p.Stats().FromServer.Unread+p.Stats().FromClients.Unread > 0 {
		t.Errorf("%d hits; %+v", rest.Hits(), p.Stats())
	}
}

// arrivals publishes n messages through a proxy with the rules and returns the
// numbers of those that arrive.
func arrivals(t *testing.T, s *natsd.Server, seed uint64, n int, rules ...Rule) (arrived []int, p *Proxy, active []*Active) {
	t.Helper()
	p = start(t, s.Address(), seed)
	for _, r := range rules {
		active = append(active, rule(t, p, r))
	}
	a := connect(t, p.URL())
	b := connect(t, p.URL())
	sub := subscribe(t, b, "n.*."+strconv.FormatUint(seed, 10))
	end := subscribe(t, b, "end."+strconv.FormatUint(seed, 10))
	for i := range n {
		publish(t, a, fmt.Sprintf("n.%d.%d", i, seed), "x")
	}
	publish(t, a, fmt.Sprintf("end.%d", seed), "")
	next(t, end)
	for {
		msg, err := sub.NextMsg(time.Millisecond)
		if err != nil {
			a.Close()
			b.Close()
			return arrived, p, active
		}
		i, err := strconv.Atoi(strings.Split(msg.Subject, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		arrived = append(arrived, i)
	}
}

func TestProxyDropsByChance(t *testing.T) {
	t.Parallel()
	const n = 5000
	s := bustest.Server(t)
	for _, from := range []Side{Client, Server} {
		drop := Rule{From: from, Subject: "n.", Action: Drop, Chance: 0.3}
		first, p, active := arrivals(t, s, 1, n, drop)
		again, _, _ := arrivals(t, s, 1, n, drop)
		other, _, _ := arrivals(t, s, 2, n, drop)
		if !slices.Equal(first, again) || slices.Equal(first, other) {
			t.Errorf("%v: of the same seed %d and %d arrived, of another %d", from, len(first), len(again), len(other))
		}
		lost := n - len(first)
		if lost < n*27/100 || lost > n*33/100 {
			t.Errorf("%v: of %d messages %d were lost, want about 30 %%", from, n, lost)
		}
		stats := p.Stats()
		count := map[Side]Count{Client: stats.FromClients, Server: stats.FromServer}[from]
		if active[0].Matches() != n || active[0].Hits() != lost || count.Dropped != lost {
			t.Errorf("%v: %d lost; %d matches, %d hits, %+v", from, lost, active[0].Matches(), active[0].Hits(), stats)
		}
		if !slices.IsSorted(first) {
			t.Errorf("%v: reordered", from)
		}
	}
}

// What is lost of a request is the reply: the handler has run.
func TestProxyDropsReplies(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	var ran atomic.Int32
	service := connect(t, s.URL())
	if _, err := service.Subscribe("work", func(m *nats.Msg) { ran.Add(1); _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	flush(t, service)
	caller := connect(t, p.URL())
	lost := rule(t, p, Rule{From: Server, Subject: "_INBOX.", Action: Drop, Skip: 1, Times: 1})
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if i == 1 {
			go func() {
				if err := lost.Wait(ctx, 1); err == nil {
					cancel() // no need to wait for what was lost
				}
			}()
		}
		_, err := caller.RequestWithContext(ctx, "work", nil)
		cancel()
		if (err != nil) != (i == 1) {
			t.Errorf("request %d: %v", i, err)
		}
	}
	if ran.Load() != 3 || lost.Hits() != 1 || lost.Matches() != 3 {
		t.Errorf("ran %d times; %d of %d replies lost", ran.Load(), lost.Hits(), lost.Matches())
	}
}

func TestRuleEnds(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	a, b := connect(t, p.URL()), connect(t, s.URL())
	sub := subscribe(t, b, "x")
	first := rule(t, p, Rule{From: Client, Subject: "x", Action: Drop})
	second := rule(t, p, Rule{From: Client, Subject: "x", Action: Drop})
	for i := range 3 {
		publish(t, a, "x", strconv.Itoa(i))
		flush(t, a)
		switch i {
		case 0:
			first.Remove()
		case 1:
			second.Remove()
			second.Remove()
		}
	}
	if msg := next(t, sub); string(msg.Data) != "2" || first.Hits() != 1 || second.Hits() != 1 {
		t.Errorf("%q arrived; %d and %d hits", msg.Data, first.Hits(), second.Hits())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := first.Wait(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := first.Wait(ctx, 1); err != nil {
		t.Error(err)
	}
}

func TestWrongRules(t *testing.T) {
	t.Parallel()
	p := start(t, "127.0.0.1:1", 1)
	for _, r := range []Rule{
		{Action: Drop}, {From: Client}, {From: Client, Action: Drop, Chance: 2}, {From: Client, Action: Drop, Chance: -1},
		{From: Client, Action: Delay}, {From: Client, Action: Drop, UpTo: 1}, {From: Client, Action: Drop, Skip: -1},
	} {
		if _, err := p.Add(r); err == nil {
			t.Errorf("%+v was added", r)
		}
	}
}

// A delay holds up what follows too: nothing is reordered.
func TestProxyDelays(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	begin := time.Now()
	arrived, p, active := arrivals(t, s, 3, 200, Rule{From: Client, Subject: "n.1", Action: Delay, UpTo: 2 * time.Millisecond, Chance: 0.5})
	took := time.Since(begin)
	if len(arrived) != 200 || !slices.IsSorted(arrived) {
		t.Errorf("%d arrived, %v", len(arrived), arrived)
	}
	// 111 match, half of them wait for 1 ms on average.
	if hits := active[0].Hits(); hits < 30 || hits > 80 || took < time.Duration(hits)*time.Millisecond/2 || p.Stats().FromClients.Delayed != hits {
		t.Errorf("%d delays, %v; %+v", hits, took, p.Stats())
	}
}

func TestProxyCuts(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	lost, back := make(chan error, 10), make(chan bool, 10)
	a := connect(t, p.URL(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
		nats.ReconnectHandler(func(*nats.Conn) { back <- true }))
	b := connect(t, s.URL())
	sub := subscribe(t, a, "x")
	for range 5 {
		if n := p.Cut(); n != 1 {
			t.Errorf("%d connections cut", n)
		}
		<-lost
		<-back
		flush(t, a)
		publish(t, b, "x", "after")
		if msg := next(t, sub); string(msg.Data) != "after" {
			t.Errorf("%q", msg.Data)
		}
	}
	if stats := p.Stats(); stats.Cut != 5 || stats.Accepted != 6 || stats.Open != 1 {
		t.Errorf("%+v", stats)
	}
}

// A rule can cut at a certain message: what came before it has arrived, it and
// what follows has not.
func TestProxyCutsAtMessage(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	sub := subscribe(t, connect(t, s.URL()), ">")
	a := connect(t, p.URL(), nats.NoReconnect())
	cut := rule(t, p, Rule{From: Client, Subject: "commit", Action: Cut, Skip: 2})
	for i := range 5 {
		publish(t, a, "commit", strconv.Itoa(i))
	}
	_ = a.Flush() // it is cut
	if err := cut.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	until(t, "the client notices", a.IsClosed)
	for i := range 2 {
		if msg := next(t, sub); string(msg.Data) != strconv.Itoa(i) {
			t.Errorf("message %d: %q", i, msg.Data)
		}
	}
	until(t, "the server notices", func() bool { return s.NATS().NumClients() == 1 })
	if msg, err := sub.NextMsg(time.Millisecond); err == nil {
		t.Errorf("%q arrived after the cut", msg.Data)
	}
}

func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	open := connect(t, p.URL())
	p.Refuse(true)
	if nc, err := nats.Connect(p.URL()); err == nil {
		nc.Close()
		t.Error("connected")
	}
	flush(t, open)
	p.Cut()
	until(t, "the client has tried in vain", func() bool { return p.Stats().Refused >= 3 })
	p.Refuse(false)
	flush(t, open)
}

// While held nothing passes, nothing is lost, and the server does not even see
// that clients go away.
func TestProxyHolds(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	a, b := connect(t, p.URL()), connect(t, s.URL())
	sub := subscribe(t, b, "from.a")
	back := subscribe(t, a, "to.a")
	p.Hold(true)
	for i := range 1000 {
		publish(t, a, "from.a", strconv.Itoa(i))
		publish(t, b, "to.a", strconv.Itoa(i))
	}
	flush(t, b)
	if err := a.FlushTimeout(20 * time.Millisecond); err == nil {
		t.Error("flushed through a proxy that holds")
	}
	if n, _, err := sub.Pending(); n > 0 || err != nil {
		t.Errorf("%d messages passed, %v", n, err)
	}
	if n, _, err := back.Pending(); n > 0 || err != nil {
		t.Errorf("%d messages passed, %v", n, err)
	}
	late := make(chan error, 1)
	go func() {
		nc, err := nats.Connect(p.URL(), nats.Timeout(patience))
		if err == nil {
			nc.Close()
		}
		late <- err
	}()
	until(t, "the new connection waits", func() bool { return p.Stats().Accepted == 2 })
	p.Hold(false)
	for i := range 1000 {
		if msg := next(t, sub); string(msg.Data) != strconv.Itoa(i) {
			t.Fatalf("%q, want %d", msg.Data, i)
		}
		if msg := next(t, back); string(msg.Data) != strconv.Itoa(i) {
			t.Fatalf("%q, want %d", msg.Data, i)
		}
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
	until(t, "the server sees that client go", func() bool { return s.NATS().NumClients() == 2 })

	raw, err := net.Dial("tcp", p.Address())
	if err == nil {
		_, err = io.WriteString(raw, "CONNECT {}\r\nPUB from.raw 10\r\nhel") // and no more
	}
	if err != nil {
		t.Fatal(err)
	}
	until(t, "half a message has come", func() bool { return p.Stats().FromClients.Messages == 1001 })
	p.Hold(true)
	a.Close()
	raw.Close()
	flush(t, b)
	if err := a.FlushTimeout(20 * time.Millisecond); err == nil || s.NATS().NumClients() != 3 {
		t.Errorf("%v, %d clients", err, s.NATS().NumClients())
	}
	p.Hold(false)
	until(t, "the server sees the client go", func() bool { return s.NATS().NumClients() == 1 })
	until(t, "the connections are forgotten", func() bool { return p.Stats().Open == 0 })
}

// A black hole swallows; at its end the clients connect again.
func TestProxyBlackhole(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	back := make(chan bool, 1)
	a := connect(t, p.URL(), nats.ReconnectHandler(func(*nats.Conn) { back <- true }))
	dying := connect(t, p.URL())
	b := connect(t, s.URL())
	sub, lost := subscribe(t, b, "from.a"), subscribe(t, a, "to.a")
	p.Blackhole(true)
	publish(t, b, "to.a", "swallowed")
	flush(t, b)
	publish(t, a, "from.a", "swallowed")
	if err := a.FlushTimeout(20 * time.Millisecond); err == nil {
		t.Error("flushed through a black hole")
	}
	if nc, err := nats.Connect(p.URL(), nats.Timeout(20*time.Millisecond)); err == nil {
		nc.Close()
		t.Error("connected to a black hole")
	}
	dying.Close()
	if n := s.NATS().NumClients(); n != 3 || !a.IsConnected() {
		t.Errorf("the server sees %d clients, want all 3, one of which has gone; connected: %v", n, a.IsConnected())
	}
	if n, _, err := lost.Pending(); n > 0 || err != nil {
		t.Errorf("%d messages passed, %v", n, err)
	}
	p.Blackhole(false)
	<-back
	publish(t, a, "from.a", "arrived")
	if msg := next(t, sub); string(msg.Data) != "arrived" {
		t.Errorf("%q", msg.Data)
	}
	until(t, "the server sees the client go", func() bool { return s.NATS().NumClients() == 2 })
	p.Blackhole(true) // Close ends this as well
}

// The end of a server, and no server, are passed on as well.
func TestProxyWithoutServer(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	a := connect(t, p.URL())
	flush(t, a)
	s.Shutdown()
	until(t, "the client notices", func() bool { return !a.IsConnected() })
	if nc, err := nats.Connect(p.URL()); err == nil {
		nc.Close()
		t.Error("connected to a server that is gone")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	flush(t, a)
	traffic(t, a, a, 100)
}

// The last words of a server arrive.
func TestProxyPassesErrors(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.Token = "secret"; c.MaxPayload = 1000 }))
	p := start(t, s.Address(), 1)
	if _, err := nats.Connect(p.URL(), nats.Token("wrong")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("%v", err)
	}
	raw, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := io.WriteString(raw, "CONNECT {\"auth_token\":\"secret\"}\r\nPUB a 5000\r\n"+strings.Repeat("x", 100_000)); err != nil {
		t.Logf("the server did not want to read more: %v", err)
	}
	said, _ := io.ReadAll(raw) // it may end with a reset
	if !bytes.Contains(said, []byte("-ERR 'Maximum Payload Violation'")) {
		t.Errorf("the server said %q", said)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	if p, err := Start(Config{Target: "nats://127.0.0.1:4222"}); err == nil {
		p.Close()
		t.Error("started with an URL as its target")
	}
	p := start(t, "127.0.0.1:1", 1)
	if q, err := Start(Config{Target: "127.0.0.1:1", Address: p.Address()}); err == nil {
		q.Close()
		t.Error("started at an address that is taken")
	}
}

func TestCloseEndsAll(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	p := start(t, s.Address(), 1)
	rule(t, p, Rule{From: Client, Subject: "slow", Action: Delay, UpTo: time.Hour})
	a := connect(t, p.URL(), nats.NoReconnect())
	publish(t, a, "slow", "")
	until(t, "the delay has begun", func() bool { return p.Stats().FromClients.Delayed == 1 })
	p.Hold(true)
	raw, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if stats := p.Stats(); stats.Open != 0 {
		t.Errorf("%+v", stats)
	}
	until(t, "the client is cut", a.IsClosed)
	if _, err := net.Dial("tcp", p.Address()); err == nil {
		t.Error("it still listens")
	}
}

func BenchmarkRequest(b *testing.B) {
	s := bustest.Server(b)
	p := start(b, s.Address(), 1)
	service := connect(b, s.URL())
	if _, err := service.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	flush(b, service)
	for name, url := range map[string]string{"direct": s.URL(), "proxy": p.URL()} {
		nc := connect(b, url)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := nc.Request("echo", []byte("x"), patience); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
