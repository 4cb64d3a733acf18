package server_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

var (
	busyWork  = rpc.NewMethod[workParams, int]("busy.work")
	busySlow  = rpc.NewMethod[rpc.None, int]("busy.slow")
	busyQuick = rpc.NewMethod[rpc.None, int]("busy.quick")
)

type workParams struct {
	Wait bool   `json:"wait"`
	Pad  string `json:"pad,omitempty"`
}

// crew is a service whose handlers count how many of them run at once.
type crew struct {
	now, most, ran atomic.Int64
	open           chan struct{} // closed to let those that wait go
}

func newCrew() *crew { return &crew{open: make(chan struct{})} }

func (c *crew) work(ctx context.Context, p workParams) (int, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	if p.Wait {
		select {
		case <-c.open:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return int(c.ran.Add(1)), nil
}

// tally counts the outcomes of many calls.
type tally struct {
	ok, shed atomic.Int64
	other    sync.Map
}

func (n *tally) add(err error) {
	switch {
	case err == nil:
		n.ok.Add(1)
	case rpc.CodeOf(err) == rpc.ResourceExhausted:
		n.shed.Add(1)
		e, ok := err.(*rpc.Error)
		if !ok || !e.Retryable || e.RetryAfter <= 0 || e.RetryAfter > time.Second || !rpc.IsRemote(err) ||
			!strings.Contains(e.Message, "overloaded") || !strings.Contains(e.Message, "busy.") {
			n.other.Store(fmt.Sprintf("%#v", err), err)
		}
	default:
		n.other.Store(err.Error(), err)
	}
}

func (n *tally) check(t testing.TB) {
	t.Helper()
	n.other.Range(func(_, err any) bool {
		t.Errorf("a call ended with %v", err)
		return true
	})
}

// A thousand callers at once and eight places: all are answered, eight run,
// as many wait as may, and the others are told so at once.
func TestThousandCallersEightPlaces(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		const callers, places, queue = 1000, 8, 16
		srv := bustest.Server(t)
		b := bustest.Connect(t, srv)
		work := newCrew()
		svc := server.New(b, "busy", server.Config{Concurrency: places, Queue: queue})
		server.Handle(svc, busyWork, work.work)
		start(t, svc)
		from := b
		if !local {
			from = bustest.Connect(t, srv)
		}
		c := client.New(from, client.Config{MaxAttempts: 1})

		// Nobody gets done before all that are too many have been refused.
		var n tally
		var calls sync.WaitGroup
		for range callers {
			calls.Go(func() {
				_, err := busyWork.Call(t.Context(), c, workParams{Wait: true}, rpc.WithTimeout(patience))
				n.add(err)
			})
		}
		await(t, "the refusals", func() bool { return n.shed.Load() == callers-places-queue })
		if running := work.now.Load(); running != places {
			t.Errorf("%d handlers run", running)
		}
		close(work.open)
		calls.Wait()
		if ok := n.ok.Load(); ok != places+queue {
			t.Errorf("%d calls succeeded, want %d", ok, places+queue)
		}

		// The same again while calls come and go.
		for range callers {
			calls.Go(func() {
				for range 5 {
					_, err := busyWork.Call(t.Context(), c, workParams{}, rpc.WithTimeout(patience))
					n.add(err)
				}
			})
		}
		calls.Wait()
		n.check(t)
		if most := work.most.Load(); most > places {
			t.Errorf("%d handlers ran at once", most)
		}
		if ok, ran := n.ok.Load(), work.ran.Load(); ok != ran {
			t.Errorf("%d calls succeeded, %d handlers ran", ok, ran)
		}
		t.Logf("%d calls succeeded, %d were shed", n.ok.Load(), n.shed.Load())
		if _, err := busyWork.Call(t.Context(), c, workParams{}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// With retries a caller need not notice.
func TestShedCallsAreRetried(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	work := newCrew()
	svc := server.New(b, "busy", server.Config{Concurrency: 1, Queue: 1})
	server.Handle(svc, busyWork, work.work)
	start(t, svc)
	for _, c := range []*client.Client{
		client.New(b, client.Config{MaxAttempts: 1000, RetryBudget: 100_000}),
		client.New(b, client.Config{MaxAttempts: 1000, RetryBudget: 100_000, NoShortcut: true}),
	} {
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := busyWork.Call(t.Context(), c, workParams{}, rpc.WithTimeout(patience)); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	}
}

// Requests that come faster than they can be looked at are answered all the
// same: each once, and the connection never says that its reader is too slow.
func TestFlood(t *testing.T) {
	for name, wait := range map[string]bool{"quick handler": false, "stuck handler": true} {
		t.Run(name, func(t *testing.T) { flood(t, wait) })
	}
}

func flood(t *testing.T, stuck bool) {
	const requests, queue = 100_000, 32
	srv := bustest.Server(t)
	log := newLogbook()
	b := bustest.Connect(t, srv, log.option(zerolog.WarnLevel))
	work := newCrew()
	svc := server.New(b, "busy", server.Config{Concurrency: 1, Queue: queue})
	server.Handle(svc, busyWork, work.work)
	start(t, svc)

	answers := newAnswers(requests, requests-1-queue)
	receiver := plainClient(t, srv)
	inbox := receiver.conn.NewInbox()
	sub, err := receiver.conn.Subscribe(inbox+".*", answers.take)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := receiver.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	sender := plainClient(t, srv)
	msg := &nats.Msg{Subject: "rpc.busy.work", Data: fmt.Appendf(nil, `{"wait":%v}`, stuck), Header: header("Rpc-Timeout", "120000")}
	begin := time.Now()
	for i := range requests {
		msg.Reply = inbox + "." + strconv.Itoa(i)
		if err := sender.conn.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	sent := time.Since(begin)
	if stuck {
		select {
		case <-answers.refused:
		case <-time.After(patience):
			t.Errorf("only %d requests were refused", answers.shed.Load())
		}
		close(work.open)
	}
	select {
	case <-answers.all:
	case <-time.After(patience):
		t.Fatalf("%d of %d requests were answered (%d handlers ran, %d ok, %d shed); the service's connection: %v; the log ends: %s",
			answers.count.Load(), requests, work.ran.Load(), answers.ok.Load(), answers.shed.Load(), b.Conn().LastError(), log.text())
	}
	t.Logf("%d requests sent in %v, answered in %v: %d ok, %d shed",
		requests, sent.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), answers.ok.Load(), answers.shed.Load())
	if _, f := receiver.request(t, "rpc.busy.work", []byte(`{}`), nil); f != nil {
		t.Errorf("afterwards: %+v", f)
	}
	answers.check(t)
	if stuck && answers.ok.Load() != 1+queue {
		t.Errorf("%d requests succeeded, want %d", answers.ok.Load(), 1+queue)
	}
	if most := work.most.Load(); most > 1 {
		t.Errorf("%d handlers ran at once", most)
	}
	if err := b.Conn().LastError(); err != nil {
		t.Errorf("the service's connection: %v", err)
	}
	if text := log.text(); strings.Contains(text, "slow consumer") {
		t.Errorf("the log: %s", text)
	}
}

// answers counts what comes back for numbered requests.
type answers struct {
	of              []atomic.Int32
	count, ok, shed atomic.Int64
	strange         atomic.Pointer[nats.Msg]
	expected        int64         // refusals when the handler is stuck
	refused         chan struct{} // closed when there have been so many
	all             chan struct{} // closed when each request has an answer
}

func newAnswers(n, refusals int) *answers {
	return &answers{
		of: make([]atomic.Int32, n), expected: int64(refusals),
		refused: make(chan struct{}), all: make(chan struct{}),
	}
}

func (a *answers) take(msg *nats.Msg) {
	i, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	switch code := msg.Header.Get("Rpc-Code"); {
	case err != nil || i >= len(a.of):
		a.strange.Store(msg)
		return
	case code == "":
		a.ok.Add(1)
	case code == "resource_exhausted":
		if a.shed.Add(1) == a.expected {
			close(a.refused)
		}
	default:
		a.strange.Store(msg)
	}
	if a.of[i].Add(1) == 1 && a.count.Add(1) == int64(len(a.of)) {
		close(a.all)
	}
}

func (a *answers) check(t testing.TB) {
	t.Helper()
	if msg := a.strange.Load(); msg != nil {
		t.Errorf("a strange answer on %s: %v %s", msg.Subject, msg.Header, msg.Data)
	}
	for i := range a.of {
		if n := a.of[i].Load(); n != 1 {
			t.Errorf("request %d has %d answers", i, n)
			return
		}
	}
}

// A method with bounds of its own can fill them and nothing else.
func TestMethodBounds(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		b := bustest.New(t)
		release := make(chan struct{})
		entered := make(chan struct{}, 10)
		svc := server.New(b, "busy", server.Config{Concurrency: 1, Queue: 1000})
		server.Handle(svc, busySlow, func(context.Context, rpc.None) (int, error) {
			entered <- struct{}{}
			<-release
			return 1, nil
		}, server.Concurrency(2), server.Queue(3))
		server.Handle(svc, busyQuick, func(context.Context, rpc.None) (int, error) { return 2, nil })
		start(t, svc)
		c := client.New(b, client.Config{MaxAttempts: 1, NoShortcut: !local})

		var n tally
		var slow sync.WaitGroup
		for range 10 {
			slow.Go(func() {
				_, err := busySlow.Call(t.Context(), c, rpc.None{}, rpc.WithTimeout(patience))
				n.add(err)
			})
		}
		receive(t, "the first slow handler", entered)
		receive(t, "the second slow handler", entered)
		await(t, "the refusals", func() bool { return n.shed.Load() == 10-2-3 })
		for range 100 {
			if _, err := busyQuick.Call(t.Context(), c, rpc.None{}); err != nil {
				t.Fatalf("a quick call: %v", err)
			}
		}
		close(release)
		slow.Wait()
		n.check(t)
		if n.ok.Load() != 5 {
			t.Errorf("%d slow calls succeeded, want 5", n.ok.Load())
		}
	})
}

// Many handlers that wait do not keep the next call waiting.
func TestSlowHandlersDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		const slow = 200
		b := bustest.New(t)
		release := make(chan struct{})
		entered := make(chan struct{}, slow)
		svc := server.New(b, "busy", server.Config{})
		server.Handle(svc, busySlow, func(context.Context, rpc.None) (int, error) {
			entered <- struct{}{}
			<-release
			return 1, nil
		})
		server.Handle(svc, busyQuick, func(context.Context, rpc.None) (int, error) { return 2, nil })
		start(t, svc)
		c := client.New(b, client.Config{NoShortcut: !local})
		var calls sync.WaitGroup
		for i := range slow {
			calls.Go(func() {
				if _, err := busySlow.Call(t.Context(), c, rpc.None{}, rpc.WithTimeout(patience)); err != nil {
					t.Error(err)
				}
			})
			receive(t, "a slow handler", entered)
			if _, err := busyQuick.Call(t.Context(), c, rpc.None{}); err != nil {
				t.Fatalf("a quick call beside %d slow ones: %v", i+1, err)
			}
		}
		close(release)
		calls.Wait()
	})
}

// What waits is bounded in bytes too.
func TestQueueBytes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	work := newCrew()
	const bytes = 100_000
	svc := server.New(b, "busy", server.Config{Concurrency: 1, Queue: 1000, QueueBytes: bytes})
	server.Handle(svc, busyWork, work.work)
	start(t, svc)
	c := client.New(b, client.Config{MaxAttempts: 1, NoShortcut: true})
	params := workParams{Wait: true, Pad: strings.Repeat("x", 30_000)}
	var n tally
	var calls sync.WaitGroup
	call := func(p workParams) {
		calls.Go(func() {
			_, err := busyWork.Call(t.Context(), c, p, rpc.WithTimeout(patience))
			n.add(err)
		})
	}
	call(params)
	await(t, "the handler", func() bool { return work.now.Load() == 1 })
	for range 10 { // three have room to wait
		call(params)
	}
	await(t, "the refusals", func() bool { return n.shed.Load() == 7 })
	for range 50 { // there is room for small ones
		call(workParams{Wait: true})
	}
	close(work.open)
	calls.Wait()
	n.check(t)
	if n.ok.Load() != 1+3+50 || n.shed.Load() != 7 {
		t.Errorf("%d succeeded and %d were shed", n.ok.Load(), n.shed.Load())
	}
}

// A wait that a shed call is told follows from how long calls take, not from
// how fast others were refused.
func TestRetryAfterFollowsFromTheCalls(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	work := newCrew()
	svc := server.New(b, "busy", server.Config{Concurrency: 1, Queue: 1})
	server.Handle(svc, busyWork, work.work)
	start(t, svc)
	c := client.New(b, client.Config{MaxAttempts: 1, NoShortcut: true})
	begin := time.Now()
	var calls sync.WaitGroup
	// fill takes the place and the one to wait, and returns what the call that
	// is then too many is told.
	fill := func() *rpc.Error {
		t.Helper()
		refused := make(chan error, 3)
		for range 3 {
			calls.Go(func() {
				if _, err := busyWork.Call(t.Context(), c, workParams{Wait: true}, rpc.WithTimeout(patience)); err != nil {
					refused <- err
				}
			})
		}
		return requireCode(t, receive(t, "a refusal", refused), rpc.ResourceExhausted)
	}
	fill()
	for range 300 {
		_, err := busyWork.Call(t.Context(), c, workParams{})
		requireCode(t, err, rpc.ResourceExhausted)
	}
	<-time.After(time.Until(begin.Add(150 * time.Millisecond))) // that is how long the two calls take, at least
	took := time.Since(begin)
	close(work.open)
	calls.Wait()
	work.open = make(chan struct{})
	if e := fill(); e.RetryAfter < took/4 {
		t.Errorf("calls took about %v, a shed one is told to wait %v", took, e.RetryAfter)
	}
	close(work.open)
	calls.Wait()
}
