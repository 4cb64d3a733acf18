package server_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

var (
	shopOrder = rpc.NewMethod[int, int]("shop.order")
	shopWait  = rpc.NewMethod[string, string]("shop.wait")
)

// fleet is the instances of one service under load.
type fleet struct {
	t       *testing.T
	connect func() *bus.Bus
	served  atomic.Int64
	caught  atomic.Int64 // calls that were under way when their instance was told to stop
}

// launch starts one more instance and returns what stops it.
func (f *fleet) launch() (stop func()) {
	f.t.Helper()
	var draining atomic.Bool
	svc := server.New(f.connect(), "shop", server.Config{})
	server.Handle(svc, shopOrder, func(_ context.Context, n int) (int, error) {
		if n%4 == 0 { // some take their time
			<-time.After(time.Duration(n%8) * time.Millisecond)
		}
		if draining.Load() {
			f.caught.Add(1)
		}
		f.served.Add(1)
		return n + 1, nil
	})
	end := run(f.t, svc)
	return sync.OnceFunc(func() {
		draining.Store(true)
		if err := end(); err != nil {
			f.t.Errorf("Run returned %v", err)
		}
	})
}

// A rolling restart under load: no call fails, without any retry.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	t.Run("wire", func(t *testing.T) {
		t.Parallel()
		caller := client.New(bustest.Connect(t, srv), client.Config{MaxAttempts: 1})
		rollingRestart(t, caller, func() *bus.Bus { return bustest.Connect(t, srv) })
	})
	t.Run("shortcut", func(t *testing.T) {
		t.Parallel()
		shared := bustest.New(t)
		rollingRestart(t, client.New(shared, client.Config{MaxAttempts: 1}), func() *bus.Bus { return shared })
	})
}

func rollingRestart(t *testing.T, caller *client.Client, connect func() *bus.Bus) {
	const instances, callers, rounds, callsBetween = 3, 32, 3, 300
	f := &fleet{t: t, connect: connect}
	stops := make([]func(), instances)
	for i := range stops {
		stops[i] = f.launch()
	}
	var calls, failed atomic.Int64
	over := make(chan struct{})
	var load sync.WaitGroup
	for i := range callers {
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				got, err := shopOrder.Call(context.Background(), caller, n, rpc.WithTimeout(patience))
				calls.Add(1)
				if err != nil || got != n+1 {
					failed.Add(1)
					t.Errorf("call %d: %d, %v", n, got, err)
				}
			}
		})
	}
	more := func() {
		want := calls.Load() + callsBetween
		await(t, "calls", func() bool { return calls.Load() >= want || failed.Load() > 0 })
	}
	for range rounds {
		for i := range stops {
			more()
			stops[i]()
			more()
			stops[i] = f.launch()
		}
	}
	more()
	close(over)
	load.Wait()
	for _, stop := range stops {
		stop()
	}
	if f.served.Load() != calls.Load() {
		t.Errorf("%d calls were made, %d were served", calls.Load(), f.served.Load())
	}
	if f.caught.Load() == 0 {
		t.Error("no instance was told to stop while a call was under way: the load is too small to show anything")
	}
	t.Logf("%d restarts, %d calls, %d failed, %d were under way when their instance was told to stop",
		instances*rounds, calls.Load(), failed.Load(), f.caught.Load())
}

// shop is a service whose handlers wait to be let go.
type shop struct {
	svc     *server.Service
	bus     *bus.Bus
	log     *logbook
	plain   *plain
	stop    func() error
	entered chan string
	release chan struct{}
	left    chan error // what the contexts said when handlers left
}

func newShop(t *testing.T, cfg server.Config) (*shop, *client.Client) {
	s := &shop{log: newLogbook(), entered: make(chan string, 100), release: make(chan struct{}), left: make(chan error, 100)}
	srv := bustest.Server(t)
	s.bus = bustest.Connect(t, srv, s.log.option(zerolog.DebugLevel))
	s.svc = server.New(s.bus, "shop", cfg)
	server.Handle(s.svc, shopWait, func(ctx context.Context, p string) (string, error) {
		s.entered <- p
		if p == "deaf" {
			<-s.release
			s.left <- ctx.Err()
			return p, nil
		}
		select {
		case <-s.release:
		case <-ctx.Done():
		}
		s.left <- ctx.Err()
		return p, ctx.Err()
	})
	s.stop = run(t, s.svc)
	s.plain = plainClient(t, srv)
	return s, client.New(bustest.Connect(t, srv), client.Config{MaxAttempts: 1})
}

// draining waits until the service takes no more calls.
func (s *shop) draining(t *testing.T, c *client.Client) {
	t.Helper()
	s.log.await(t, "the draining", func(l logLine) bool { return l["message"] == "draining" })
	await(t, "the end of the intake", func() bool {
		_, err := rpc.NewMethod[int, int]("shop.nope").Call(t.Context(), c, 1)
		return rpc.CodeOf(err) == rpc.Unavailable // nobody listens
	})
}

// What runs and what waits to run is finished, and answered.
func TestShutdownFinishesWhatItHasTaken(t *testing.T) {
	t.Parallel()
	s, c := newShop(t, server.Config{Concurrency: 2, Queue: 10})
	var futures []*rpc.Future[string]
	for range 8 {
		futures = append(futures, shopWait.Go(t.Context(), c, "x", rpc.WithTimeout(patience)))
	}
	receive(t, "a handler", s.entered)
	receive(t, "a handler", s.entered)
	await(t, "the others to wait", func() bool { return s.waiting(t) == 6 })
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	s.draining(t, c)
	select {
	case err := <-stopped:
		t.Fatalf("Run returned %v before its calls ended", err)
	case <-futures[0].Done():
		t.Fatal("a call ended before its handler")
	default:
	}
	close(s.release)
	if err := receive(t, "the end of Run", stopped); err != nil {
		t.Errorf("Run returned %v", err)
	}
	for i, f := range futures {
		if got, err := f.Wait(t.Context()); err != nil || got != "x" {
			t.Errorf("call %d: %q, %v", i, got, err)
		}
	}
	if n := s.bus.Conn().NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// When the drain timeout is over, contexts end and callers are told; a call
// that had not begun is told that it may be sent again.
func TestShutdownCancelsWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	const running, waiting = 2, 5
	for _, local := range []bool{false, true} {
		s, c := newShop(t, server.Config{Concurrency: running, Queue: 10, DrainTimeout: 100 * time.Millisecond})
		if local {
			c = client.New(s.bus, client.Config{MaxAttempts: 1})
		}
		results := make(chan error, running+waiting)
		for range running + waiting {
			go func() {
				_, err := shopWait.Call(context.Background(), c, "x", rpc.WithTimeout(patience))
				results <- err
			}()
		}
		receive(t, "a handler", s.entered)
		receive(t, "a handler", s.entered)
		await(t, "the others to wait", func() bool { return s.waiting(t) == waiting })
		begin := time.Now()
		if err := s.stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("calls had %v", took)
		}
		var begun, notBegun int
		for range running + waiting {
			err := receive(t, "the end of a call", results)
			e := requireCode(t, err, rpc.Unavailable)
			switch {
			case e.Retryable && (strings.Contains(e.Message, "before wait began") || strings.Contains(e.Message, "nobody listens")):
				notBegun++
			case !e.Retryable && strings.Contains(e.Message, "may have run in part"):
				begun++
			default:
				t.Errorf("a call ended with %v, retryable %v", e, e.Retryable)
			}
		}
		if begun != running || notBegun != waiting {
			t.Errorf("%d calls had begun and %d had not", begun, notBegun)
		}
		for range running {
			if err := receive(t, "a handler to leave", s.left); err != context.Canceled {
				t.Errorf("a handler left with %v", err)
			}
		}
		if len(s.entered) > 0 {
			t.Error("a call that had waited began after the drain timeout")
		}
		if n := s.bus.Conn().NumSubscriptions(); n > 1 { // the client's own inbox, when it shares the bus
			t.Errorf("%d subscriptions are left", n)
		}
	}
}

// waiting asks the service how many calls wait.
func (s *shop) waiting(t *testing.T) int {
	t.Helper()
	_, load := statsOf(t, discover[micro.Stats](t, s.plain.conn, "$SRV.STATS.shop"), "wait")
	return load.Waiting
}

// Handlers that ignore that their contexts are cancelled are given up on, and
// counted.
func TestShutdownGivesUpOnDeafHandlers(t *testing.T) {
	t.Parallel()
	s, c := newShop(t, server.Config{Concurrency: 2, DrainTimeout: time.Millisecond})
	results := make(chan error, 5)
	call := func() {
		_, err := shopWait.Call(context.Background(), c, "deaf", rpc.WithTimeout(patience))
		results <- err
	}
	for range 5 {
		go call()
	}
	receive(t, "a handler", s.entered)
	receive(t, "a handler", s.entered)
	await(t, "the others to wait", func() bool { return s.waiting(t) == 3 })
	err := s.stop()
	if err == nil {
		t.Fatal("Run returned nil")
	}
	contains(t, err.Error(), "shop", "2 calls", "ignore")
	for range 5 { // they are not kept waiting by that
		requireCode(t, receive(t, "the end of a call", results), rpc.Unavailable)
	}
	if n := s.bus.Conn().NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	close(s.release)
	for range 2 {
		if err := receive(t, "a handler to leave", s.left); err != context.Canceled {
			t.Errorf("a handler left with %v", err)
		}
	}
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	svc := server.New(bustest.New(t), "shop", server.Config{})
	server.Handle(svc, shopOrder, func(_ context.Context, n int) (int, error) { return n, nil })
	stop := run(t, svc)
	for range 2 {
		err := svc.Run(t.Context())
		if err == nil {
			t.Fatal("Run can be called twice")
		}
		contains(t, err.Error(), "shop", "once")
		if err := stop(); err != nil {
			t.Errorf("the first Run returned %v", err)
		}
	}
}

// A service that stops before it was ever called, or at once, leaves nothing.
func TestRunWithAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		svc := server.New(b, "shop", server.Config{})
		server.Handle(svc, shopOrder, func(_ context.Context, n int) (int, error) { return n, nil })
		if err := svc.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Conn().NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	if b.Local().Find("shop") != nil {
		t.Error("the shortcut still finds the service")
	}
}

// Run fails when the bus is closed, and says so.
func TestRunOnAClosedBus(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	svc := server.New(b, "shop", server.Config{})
	if err := svc.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "start shop") {
		t.Errorf("Run returned %v", err)
	}
}

// An instance that drains is not found by the shortcut; the call goes to
// another over the bus.
func TestShortcutAvoidsAnInstanceThatDrains(t *testing.T) {
	t.Parallel()
	s, _ := newShop(t, server.Config{})
	local := client.New(s.bus, client.Config{MaxAttempts: 1})
	first := shopWait.Go(t.Context(), local, "x", rpc.WithTimeout(patience))
	receive(t, "the handler", s.entered)

	other := server.New(s.bus, "shop", server.Config{})
	server.Handle(other, shopWait, func(context.Context, string) (string, error) { return "from the other", nil })
	start(t, other)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	s.log.await(t, "the draining", func(l logLine) bool { return l["message"] == "draining" && l["instance"] == s.svc.ID() })
	await(t, "the other instance", func() bool {
		got, err := shopWait.Call(t.Context(), local, "other", rpc.WithTimeout(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return got == "from the other"
	})
	for range 100 {
		if got, err := shopWait.Call(t.Context(), local, "y"); err != nil || got != "from the other" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(s.release)
	if got, err := first.Wait(t.Context()); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := receive(t, "the end of Run", stopped); err != nil {
		t.Error(err)
	}
}
