package server_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// hall is a class of objects, the seats. One is elsewhere when its id says so.
// It fails the test when a call leaves its place other than once.
type hall struct {
	svc *server.Service

	mu       sync.Mutex
	seats    map[string]*seat
	forwards []string

	placed, left atomic.Int32
	inside       atomic.Int32  // turns, that say so
	release      chan struct{} // ends those that wait for it
}

// enter notes that a turn of the hall's one object runs, until leave is called.
func enter(t *testing.T, call server.ObjectCall) (leave func()) {
	h := call.Place().(*visit).hall
	if h.inside.Add(1) != 1 {
		t.Error("two turns run at once")
	}
	runtime.Gosched()
	return func() { h.inside.Add(-1) }
}

type seat struct {
	queue *server.TurnQueue
}

// visit is the Place of one call.
type visit struct {
	hall  *hall
	queue *server.TurnQueue
	gone  atomic.Bool
}

func (v *visit) Queue() *server.TurnQueue { return v.queue }

func (v *visit) Leave() {
	if v.gone.Swap(true) {
		panic("a call left its place twice")
	}
	v.hall.left.Add(1)
}

func (h *hall) Place(req *bus.Request, turn bool) (server.Place, error) {
	switch req.Object {
	case "elsewhere":
		return nil, &server.ErrElsewhere{Err: rpc.Unavailable.Errorf("it is elsewhere").NotExecuted()}
	case "nowhere":
		return nil, rpc.FailedPrecondition.Errorf("it is nowhere")
	}
	h.placed.Add(1)
	if !turn {
		return &visit{hall: h}, nil
	}
	return &visit{hall: h, queue: h.seat(req.Object).queue}, nil
}

func (h *hall) seat(id string) *seat {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seats[id] == nil {
		h.seats[id] = &seat{h.svc.NewTurnQueue(3)}
	}
	return h.seats[id]
}

func (h *hall) Forward(ctx context.Context, req *bus.Request, params []byte) ([]byte, error) {
	h.mu.Lock()
	h.forwards = append(h.forwards, fmt.Sprintf("%s %s %s", req.Object, req.Method, params))
	h.mu.Unlock()
	switch string(params) {
	case `"refused"`:
		return nil, rpc.OutOfRange.Errorf("too far")
	case `"rubbish"`:
		return []byte(`{`), nil
	case `"panic"`:
		panic("odd")
	}
	return []byte(`"from elsewhere"`), nil
}

// newHall serves the class hall; its methods turn and view run fn.
func newHall(t *testing.T, b *bus.Bus, fn func(context.Context, server.ObjectCall, string) (string, error)) *hall {
	t.Helper()
	h := &hall{svc: server.New(b, "hall", server.Config{}), seats: map[string]*seat{}, release: make(chan struct{})}
	h.svc.ServeObjects(h)
	handle := func(ctx context.Context, call server.ObjectCall, params string, result *string) (err error) {
		*result, err = fn(ctx, call, params)
		return err
	}
	server.HandleObject(h.svc, hallTurn, true, handle)
	server.HandleObject(h.svc, hallView, false, handle)
	server.HandleObject(h.svc, rpc.NewObjectMethod[rpc.None, string]("hall.none"), true,
		func(ctx context.Context, call server.ObjectCall, _ rpc.None, result *string) error {
			return handle(ctx, call, "none", result)
		})
	t.Cleanup(func() {
		await(t, "all calls have left their places", func() bool { return h.placed.Load() == h.left.Load() })
	})
	start(t, h.svc)
	return h
}

var (
	hallTurn = rpc.NewObjectMethod[string, string]("hall.turn")
	hallView = rpc.NewObjectMethod[string, string]("hall.view")
)

func repeat(_ context.Context, _ server.ObjectCall, s string) (string, error) { return s, nil }

// inHall runs a test with a class in the client's process and behind the bus.
func inHall(t *testing.T, fn func(context.Context, server.ObjectCall, string) (string, error), test func(t *testing.T, h *hall, c *client.Client)) {
	for _, shortcut := range []bool{false, true} {
		t.Run(fmt.Sprint("shortcut ", shortcut), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			c := client.New(b, client.Config{NoShortcut: !shortcut, Timeout: patience, MaxAttempts: 1})
			t.Cleanup(c.Close)
			h := newHall(t, b, fn)
			h.feed(t) // what is refused here is sent to whoever owns it
			test(t, h, c)
		})
	}
}

// feed takes in the calls of all slots.
func (h *hall) feed(t *testing.T) []*nats.Subscription {
	t.Helper()
	sub, err := h.svc.Feed("$RPC.object.hall.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.svc.Bus().Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	subs := []*nats.Subscription{sub}
	t.Cleanup(func() { h.svc.EndFeed(subs, time.Now().Add(patience)) })
	return subs
}

// Turns wait until the queue is opened, then run one by one; views don't wait.
func TestTurnQueue(t *testing.T) {
	t.Parallel()
	inHall(t, func(_ context.Context, call server.ObjectCall, s string) (string, error) {
		if s == "view" {
			return s, nil
		}
		defer enter(t, call)()
		switch s {
		case "panic":
			panic(s)
		case "goexit":
			runtime.Goexit()
		case "error":
			return "", rpc.NotFound.Errorf("no")
		}
		return s, nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		done := make(chan error, 3)
		for range cap(done) {
			go func() {
				_, err := hallTurn.Call(t.Context(), c, "a", "x")
				done <- err
			}()
		}
		queue := h.seat("a").queue
		await(t, "three turns wait", func() bool { return queue.Waiting() == 3 })
		if _, err := hallView.Call(t.Context(), c, "a", "view"); err != nil {
			t.Errorf("view: %v", err)
		}
		_, err := hallTurn.Call(t.Context(), c, "a", "x")
		e := requireCode(t, err, rpc.ResourceExhausted)
		contains(t, e.Message, "hall.turn", `object "a"`, "3 wait")
		if !e.Retryable || e.RetryAfter <= 0 {
			t.Errorf("%+v", e)
		}
		queue.Open()
		for range cap(done) {
			if err := receive(t, "a turn", done); err != nil {
				t.Error(err)
			}
		}
		for _, how := range []string{"panic", "goexit", "error", "x"} {
			_, err := hallTurn.Call(t.Context(), c, "a", how)
			want := map[string]rpc.Code{"panic": rpc.Internal, "goexit": rpc.Internal, "error": rpc.NotFound}[how]
			if want == 0 && err != nil || want != 0 && rpc.CodeOf(err) != want {
				t.Errorf("%s: %v", how, err)
			}
		}
	})
}

// A call that ends its turn goes on beside the next one, however often it says
// so.
func TestEndTurn(t *testing.T) {
	t.Parallel()
	inHall(t, func(_ context.Context, call server.ObjectCall, s string) (string, error) {
		if s != "first" {
			defer enter(t, call)()
			return s, nil
		}
		call.EndTurn()
		call.EndTurn()
		if !call.Ended() {
			t.Error("the turn has not ended")
		}
		<-call.Place().(*visit).hall.release
		return s, nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		first := make(chan error, 1)
		go func() {
			_, err := hallTurn.Call(t.Context(), c, "a", "first")
			first <- err
		}()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 50 {
					if _, err := hallTurn.Call(t.Context(), c, "a", "other"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if len(first) != 0 {
			t.Error("the first call has ended")
		}
		close(h.release)
		if err := receive(t, "the first call", first); err != nil {
			t.Error(err)
		}
	})
}

// What waits leaves its place when it is answered: because the queue fails, its
// time is over, the caller gives up or the service stops.
func TestTurnThatWaitsIsAnswered(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	inHall(t, func(context.Context, server.ObjectCall, string) (string, error) {
		ran.Add(1)
		return "", nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		queue := h.seat("a").queue
		call := func(ctx context.Context, opts ...rpc.CallOption) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := hallTurn.Call(ctx, c, "a", "x", opts...)
				done <- err
			}()
			await(t, "the turn waits", func() bool { return queue.Waiting() == 1 })
			return done
		}
		done := call(t.Context())
		queue.Fail(rpc.DataLoss.Errorf("broken"))
		requireCode(t, receive(t, "the failed call", done), rpc.DataLoss)

		done = call(t.Context(), rpc.WithTimeout(50*time.Millisecond))
		requireCode(t, receive(t, "the late call", done), rpc.DeadlineExceeded)

		ctx, cancel := context.WithCancel(t.Context())
		done = call(ctx)
		cancel()
		requireCode(t, receive(t, "the cancelled call", done), rpc.Canceled)
		await(t, "nothing waits", func() bool { return queue.Waiting() == 0 })
		if ran.Load() != 0 {
			t.Error("a turn ran")
		}
		queue.Open()
		if _, err := hallTurn.Call(t.Context(), c, "a", "x"); err != nil {
			t.Error(err)
		}
		ran.Add(-1)
	})
}

// A handler's call can be ended from outside; what it returns is dropped.
func TestObjectCallCancel(t *testing.T) {
	t.Parallel()
	inHall(t, func(ctx context.Context, call server.ObjectCall, s string) (string, error) {
		if s != "cancel" {
			return s, nil
		}
		if call.Place() == nil || call.Request().Object != "a" || time.Since(call.Received()) > patience {
			t.Errorf("the call does not know itself: %+v", call.Request())
		}
		call.Cancel(rpc.Aborted.Errorf("over"))
		<-ctx.Done()
		return "dropped", nil
	}, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		_, err := hallTurn.Call(t.Context(), c, "a", "cancel")
		requireCode(t, err, rpc.Aborted)
		if got, err := hallTurn.Call(t.Context(), c, "a", "x"); err != nil || got != "x" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A call may end after its handler has returned; its place is its own until then.
func TestCallEndsLater(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	later := map[string]server.ObjectCall{}
	wrap := rpc.Interceptor{Name: "wrap", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc { return next }}
	for name, cfg := range map[string]server.Config{"plain": {}, "intercepted": {Interceptors: []rpc.Interceptor{wrap}}} {
		b := bustest.New(t)
		h := &hall{svc: server.New(b, "hall", cfg), seats: map[string]*seat{}}
		h.svc.ServeObjects(h)
		server.HandleObject(h.svc, hallTurn, true, func(_ context.Context, call server.ObjectCall, s string, result *string) error {
			if *result = s; s == "now" || !call.Later() {
				return nil
			}
			mu.Lock()
			later[s] = call
			mu.Unlock()
			*result = "changed afterwards"
			call.EndTurn()
			return server.ErrLater
		})
		start(t, h.svc)
		h.feed(t)
		h.seat("a").queue.Open()
		near, far := client.New(b, client.Config{}), client.New(b, client.Config{NoShortcut: true, Timeout: patience, ResendAfter: -1})
		t.Cleanup(near.Close)
		t.Cleanup(far.Close)
		if got, err := hallTurn.Call(t.Context(), near, "a", "x"); err != nil || got != "x" { // has to wait
			t.Errorf("%s: shortcut: %q, %v", name, got, err)
		}
		if name == "intercepted" {
			if got, err := hallTurn.Call(t.Context(), far, "a", "x"); err != nil || got != "x" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			continue
		}
		type answer struct {
			result string
			err    error
		}
		call := func(s string, opts ...rpc.CallOption) <-chan answer {
			done := make(chan answer, 1)
			go func() {
				result, err := hallTurn.Call(t.Context(), far, "a", s, opts...)
				done <- answer{result, err}
			}()
			return done
		}
		finish := func(s string, err error) {
			var c server.ObjectCall
			await(t, "the handler of "+s, func() bool {
				mu.Lock()
				defer mu.Unlock()
				c = later[s]
				return later[s] != server.ObjectCall{}
			})
			if h.placed.Load() == h.left.Load() {
				t.Errorf("%s has left its place before its end", s)
			}
			c.Finish(err)
		}
		good, bad, odd := call("good"), call("bad"), call("odd")
		if got, err := hallTurn.Call(t.Context(), far, "a", "now"); err != nil || got != "now" { // they hold no turn
			t.Errorf("%q, %v", got, err)
		}
		late := call("late", rpc.WithTimeout(50*time.Millisecond))
		requireCode(t, receive(t, "the late call", late).err, rpc.DeadlineExceeded)
		finish("good", nil)
		finish("bad", rpc.OutOfRange.Errorf("too far"))
		finish("odd", errors.New("secret"))
		finish("late", nil) // nobody hears of it
		if a := receive(t, "the call", good); a.err != nil || a.result != "good" {
			t.Errorf("%+v", a)
		}
		requireCode(t, receive(t, "the failed call", bad).err, rpc.OutOfRange)
		requireCode(t, receive(t, "the odd call", odd).err, rpc.Internal)
		await(t, "all calls have left their places", func() bool { return h.placed.Load() == h.left.Load() })
	}
}

// Params that can't be handed over leave no place taken.
func TestObjectParamsThatCannotBeSent(t *testing.T) {
	t.Parallel()
	inHall(t, repeat, func(t *testing.T, h *hall, c *client.Client) {
		h.seat("a").queue.Open()
		for _, params := range []any{func() {}, 5} { // can't be written; can't be read
			var result string
			err := c.Call(t.Context(), &rpc.Call{Service: "hall", Method: "turn", Object: "a", Params: &params, Result: &result})
			requireCode(t, err, rpc.InvalidArgument)
		}
	})
}

func TestObjectRequests(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	h := newHall(t, b, repeat)
	h.feed(t)
	h.seat("a").queue.Open()
	p := plainClient(t, srv)
	ok := func(want, subject, body string, h nats.Header) {
		t.Helper()
		if got, f := p.request(t, subject, []byte(body), h); f != nil || string(got) != want {
			t.Errorf("%s: %s, %+v; want %s", subject, got, f, want)
		}
	}
	fails := func(code, text, subject, body string, h nats.Header) *failure {
		t.Helper()
		_, f := p.request(t, subject, []byte(body), h)
		if f == nil || f.Code != code {
			t.Fatalf("%s: %+v, want %s", subject, f, code)
		}
		contains(t, f.Message, text)
		return f
	}
	on := func(id string) nats.Header { return header("Rpc-Object", id) }
	ok(`"x"`, "rpc.hall.turn", `"x"`, on("a"))
	ok(`"x"`, bus.ObjectSubject("hall", "a", "turn"), `"x"`, nil)
	ok(`"none"`, "rpc.hall.none", ``, on("a"))
	fails("invalid_argument", "header Rpc-Object", "rpc.hall.turn", `"x"`, nil)
	fails("invalid_argument", "257 bytes", "rpc.hall.turn", `"x"`, on(strings.Repeat("x", 257)))
	fails("unimplemented", "Method not found", "rpc.hall.nothing", `"x"`, on("a"))
	fails("unimplemented", "Method not found", bus.ObjectSubject("hall", "a", "nothing"), `"x"`, nil)
	fails("failed_precondition", "nowhere", "rpc.hall.turn", `"x"`, on("nowhere"))
	fails("invalid_argument", "a string", "rpc.hall.turn", `5`, on("a"))

	// Elsewhere: passed on, unless it came on the object's own subject.
	if f := fails("unavailable", "elsewhere", bus.ObjectSubject("hall", "elsewhere", "turn"), `"x"`, nil); !f.Retryable {
		t.Errorf("%+v", f)
	}
	ok(`"from elsewhere"`, "rpc.hall.turn", `"x"`, on("elsewhere"))
	ok(`"from elsewhere"`, "rpc.hall.turn", ` {"more" : "<"} `, on("elsewhere")) // the owner may know it
	ok(`"from elsewhere"`, "rpc.hall.none", ``, on("elsewhere"))
	fails("out_of_range", "too far", "rpc.hall.turn", `"refused"`, on("elsewhere"))
	fails("internal", "log", "rpc.hall.turn", `"rubbish"`, on("elsewhere"))
	fails("internal", "log", "rpc.hall.turn", `"panic"`, on("elsewhere"))
	fails("invalid_argument", "no params", "rpc.hall.turn", ``, on("elsewhere"))
	fails("invalid_argument", "malformed", "rpc.hall.turn", `{`, on("elsewhere"))
	fails("invalid_argument", "text/odd", "rpc.hall.turn", `x`, header("Rpc-Object", "elsewhere", "Content-Type", "text/odd"))
	binary, err := cbor.Marshal("x")
	if err != nil {
		t.Fatal(err)
	}
	got, f := p.request(t, "rpc.hall.turn", binary, header("Rpc-Object", "elsewhere", "Content-Type", "application/cbor"))
	var text string
	if err := cbor.Unmarshal(got, &text); f != nil || err != nil || text != "from elsewhere" {
		t.Errorf("CBOR: %q, %+v, %v", text, f, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	want := []string{"turn \"x\"", "turn {\"more\":\"\\u003c\"}", "none null", "turn \"refused\"", "turn \"rubbish\"", "turn \"panic\"", "turn \"x\""}
	for i := range want {
		if i >= len(h.forwards) || h.forwards[i] != "elsewhere "+want[i] {
			t.Errorf("passed on: %q, want %q", h.forwards, want)
			break
		}
	}
}

// A method of a service is none of an object.
func TestObjectHeaderAtAService(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "plain", server.Config{})
	server.Handle(svc, rpc.NewMethod[string, string]("plain.echo"), func(_ context.Context, s string) (string, error) { return s, nil })
	start(t, svc)
	_, f := plainClient(t, srv).request(t, "rpc.plain.echo", []byte(`"x"`), header("Rpc-Object", "a"))
	if f == nil || f.Code != "unimplemented" {
		t.Fatalf("%+v", f)
	}
	contains(t, f.Message, "plain.echo", "not of an object")
}

// A call that is later than its deadline and the room for clocks is not run.
func TestLateObjectCall(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h := newHall(t, b, repeat)
	h.feed(t)
	h.seat("a").queue.Open()
	for late, code := range map[time.Duration]rpc.Code{
		-time.Hour: 0, 0: 0, 30 * time.Second: 0, 32 * time.Second: rpc.DeadlineExceeded, 1000 * time.Hour: rpc.DeadlineExceeded,
	} {
		in := bus.NewInbox(b.InboxPrefix(), "late")
		sub, err := b.Conn().SubscribeSync(in.Wildcard())
		if err != nil {
			t.Fatal(err)
		}
		reply := in.ReplySubject(1, time.Second, time.Now().Add(-late))
		if err := b.Conn().PublishMsg(&nats.Msg{Subject: bus.ObjectSubject("hall", "a", "turn"), Reply: reply, Data: []byte(`"x"`)}); err != nil {
			t.Fatal(err)
		}
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.DecodeError(msg); code == 0 && err != nil || code != 0 && (err == nil || err.Code != code) {
			t.Errorf("%v late: %v, want %v", late, err, code)
		} else if code != 0 {
			contains(t, err.Message, "hall.turn", "clocks", "1s")
		}
		_ = sub.Unsubscribe()
	}
}

// A feed that ends loses none of the calls that were on their way.
func TestEndFeed(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	var ran atomic.Int32
	h := newHall(t, bustest.Connect(t, srv), func(_ context.Context, _ server.ObjectCall, s string) (string, error) {
		ran.Add(1)
		return s, nil
	})
	h.seat("a").queue.Open()
	p := plainClient(t, srv)
	for round := range 20 {
		sub, err := h.svc.Feed(bus.SlotSubject("hall", bus.Slot("a")))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.svc.Bus().Conn().Flush(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var answered, refused atomic.Int32
		go func() {
			for range 200 {
				_, err := p.conn.Request(bus.ObjectSubject("hall", "a", "view"), []byte(`"x"`), patience)
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, nats.ErrNoResponders):
					refused.Add(1)
				default:
					done <- err
					return
				}
			}
			done <- nil
		}()
		await(t, "some calls", func() bool { return answered.Load() > int32(round) })
		h.svc.EndFeed([]*nats.Subscription{sub}, time.Now().Add(patience))
		if err := receive(t, "all calls", done); err != nil { // neither run nor refused: lost
			t.Fatal(err)
		}
		if ran.Swap(0) != answered.Load() {
			t.Errorf("%d calls ran, %d were answered", ran.Load(), answered.Load())
		}
	}
}
