package server_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

var (
	hallTurn = rpc.NewObjectMethod[string, string]("hall.turn")
	hallView = rpc.NewObjectMethod[string, string]("hall.view")
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
