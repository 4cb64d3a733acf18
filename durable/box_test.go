package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/durable/internal/journal"
	"rpc.do/server"
)

// box is a state whose turns and views are made up by the tests.
type box struct {
	N    int    `json:"n"`
	Text string `json:"text,omitempty"`
}

// boxPatience is how long a test waits for what must happen.
const boxPatience = 20 * time.Second

// boxes is a server with instances that serve the class box, and a caller. What
// a turn does is a function of the test: the params are its number.
type boxes struct {
	*testing.T
	server *natsd.Server
	bus    *bus.Bus // the caller's
	client *client.Client

	mu    sync.Mutex
	turns []func(*box, Context) (any, error)
	views []func(box, ReadContext) (any, error)
}

// newBoxes makes a server and a caller, without an instance.
func newBoxes(t *testing.T, opts ...bustest.Option) *boxes {
	t.Helper()
	return boxesOn(t, bustest.Server(t, opts...))
}

func boxesOn(t *testing.T, s *natsd.Server, opts ...bustest.Option) *boxes {
	t.Helper()
	x := &boxes{T: t, server: s, bus: bustest.Connect(t, s, opts...)}
	x.newClient(client.Config{NoShortcut: true, Timeout: boxPatience})
	return x
}

func (x *boxes) newClient(cfg client.Config) {
	x.client = client.New(x.bus, cfg)
	x.Cleanup(x.client.Close)
}

// mortal makes a server whose instances are to fail, with an impatient caller. The
// dead leave consumers.
func mortal(t *testing.T) *boxes {
	t.Helper()
	x := newBoxes(t, bustest.IgnoreLeaks())
	x.newClient(impatient)
	return x
}

// impatient is a client that asks again soon, as often as it takes.
var impatient = client.Config{
	NoShortcut: true, Timeout: boxPatience, ResendAfter: 200 * time.Millisecond, MaxAttempts: 1000, RetryBudget: 1 << 20,
}

// oneBox makes a server with one instance.
func oneBox(t *testing.T, cfg Config, opts ...bustest.Option) *boxes {
	t.Helper()
	x := newBoxes(t, opts...)
	x.serve(cfg)
	return x
}

func boxMethods() (turn, view rpc.ObjectMethod[int, json.RawMessage]) {
	return rpc.NewObjectMethod[int, json.RawMessage]("box.turn"), rpc.NewObjectMethod[int, json.RawMessage]("box.view")
}

// boxInstance is one instance, with a connection of its own.
type boxInstance struct {
	boxes *boxes
	bus   *bus.Bus
	class *class
	dead  atomic.Bool
	ended func() // is called before stop waits
	stop  func() // hands everything over; a clean end is required
}

// serve runs an instance until the test ends.
func (x *boxes) serve(cfg Config, opts ...bustest.Option) *boxInstance {
	x.Helper()
	i := x.instance(opts...)
	i.serve(cfg)
	return i
}

// instance makes an instance that does not run yet.
func (x *boxes) instance(opts ...bustest.Option) *boxInstance {
	x.Helper()
	return x.instanceOn(x.server, opts...)
}

func (x *boxes) instanceOn(s *natsd.Server, opts ...bustest.Option) *boxInstance {
	x.Helper()
	return &boxInstance{boxes: x, ended: func() {}, bus: bustest.Connect(x.T, s, opts...)}
}

// kill cuts the connection. How the instance ends does not matter any more.
func (i *boxInstance) kill() {
	i.dead.Store(true)
	i.bus.Conn().Close()
}

func (i *boxInstance) serve(cfg Config) {
	x := i.boxes
	x.Helper()
	turn, view := boxMethods()
	svc := server.New(i.bus, "boxing", server.Config{DrainTimeout: 5 * time.Second})
	class := Serve[box](svc, "box", cfg)
	Handle(class, turn, func(s *box, ctx Context, n int) (json.RawMessage, error) {
		x.mu.Lock()
		fn := x.turns[n]
		x.mu.Unlock()
		return encoded(fn(s, ctx))
	})
	View(class, view, func(s box, ctx ReadContext, n int) (json.RawMessage, error) {
		x.mu.Lock()
		fn := x.views[n]
		x.mu.Unlock()
		return encoded(fn(s, ctx))
	})
	OnAlarm(class, func(*box, Context, Alarm) error { return nil })
	i.class = class.class
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	i.stop = sync.OnceFunc(func() {
		i.ended()
		if i.dead.Load() {
			x.until("the calls of a dead instance to end", func() bool { return i.class.calls.Load() == 0 })
		}
		cancel()
		if err := <-done; err != nil && !i.dead.Load() {
			x.Errorf("run: %v", err)
		}
	})
	x.Cleanup(i.stop)
	x.until("the service to get ready, or to die", func() bool {
		select {
		case <-svc.Ready():
			return true
		default:
			return i.dead.Load()
		}
	})
}

// encoded shows the caller the error, whatever it is.
func encoded(value any, err error) (json.RawMessage, error) {
	if _, coded := errors.AsType[*rpc.Error](err); err != nil && !coded {
		err = rpc.Unknown.Errorf("%w", err)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

// prepare returns the number of a turn.
func (x *boxes) prepare(fn func(*box, Context) (any, error)) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.turns = append(x.turns, fn)
	return len(x.turns) - 1
}

// act runs fn as a turn of the object and returns what it returned.
func act[R any](x *boxes, id string, fn func(*box, Context) (R, error), opts ...rpc.CallOption) (R, error) {
	return prepared[R](x, id, x.prepare(func(s *box, ctx Context) (any, error) { return fn(s, ctx) }), opts...)
}

// prepared runs the turn with that number.
func prepared[R any](x *boxes, id string, number int, opts ...rpc.CallOption) (R, error) {
	method, _ := boxMethods()
	return decoded[R](method.Call(x.Context(), x.client, id, number, opts...))
}

// look runs fn as a view of the object and returns what it returned.
func look[R any](x *boxes, id string, fn func(box, ReadContext) (R, error), opts ...rpc.CallOption) (R, error) {
	x.mu.Lock()
	x.views = append(x.views, func(s box, ctx ReadContext) (any, error) { return fn(s, ctx) })
	number := len(x.views) - 1
	x.mu.Unlock()
	_, method := boxMethods()
	return decoded[R](method.Call(x.Context(), x.client, id, number, opts...))
}

func decoded[R any](data json.RawMessage, err error) (result R, _ error) {
	if err != nil {
		return result, err
	}
	return result, json.Unmarshal(data, &result)
}

// do runs fn as a turn that has to succeed.
func (x *boxes) do(id string, fn func(*box, Context) error) {
	x.Helper()
	if err := x.try(id, fn); err != nil {
		x.Fatalf("turn of %q: %v", id, err)
	}
}

func (x *boxes) try(id string, fn func(*box, Context) error) error {
	_, err := act(x, id, func(s *box, ctx Context) (bool, error) { return true, fn(s, ctx) })
	return err
}

// list lists the object's storage in a view, as "key=value".
func (x *boxes) list(id string, opts ListOptions) []string {
	x.Helper()
	got, err := look(x, id, func(_ box, ctx ReadContext) ([]string, error) { return listed(ctx.Storage(), opts) })
	if err != nil {
		x.Fatalf("list %q: %v", id, err)
	}
	return got
}

func listed(s ReadStorage, opts ListOptions) ([]string, error) {
	entries, err := s.List(opts)
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Key+"="+string(e.Value))
	}
	return got, err
}

// until waits for something that nothing signals.
func (x *boxes) until(what string, holds func() bool) {
	x.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(boxPatience)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			x.Fatalf("waited in vain for %s", what)
		}
	}
}

// reached waits for a signal.
func (x *boxes) reached(what string, c <-chan struct{}) {
	x.Helper()
	select {
	case <-c:
	case <-time.After(boxPatience):
		x.Fatalf("waited in vain for %s", what)
	}
}

// open returns a journal of the class's bucket, for a look at what is stored.
func (x *boxes) open() *journal.Journal {
	x.Helper()
	j, err := journal.Open(x.bus, Bucket("box"))
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(j.Close)
	return j
}

// stream returns the stream of the class's bucket, or another.
func (x *boxes) stream(name string) jetstream.Stream {
	x.Helper()
	s, err := x.bus.JetStream().Stream(x.Context(), name)
	if err != nil {
		x.Fatalf("stream %s: %v", name, err)
	}
	return s
}

// count returns how many messages of each key that matches the bucket has.
func (x *boxes) count(match string) map[string]uint64 {
	x.Helper()
	info, err := x.stream("KV_"+Bucket("box")).Info(x.Context(), jetstream.WithSubjectFilter("$KV."+Bucket("box")+"."+match))
	if err != nil {
		x.Fatal(err)
	}
	keys := map[string]uint64{}
	for subject, n := range info.State.Subjects {
		keys[strings.TrimPrefix(subject, "$KV."+Bucket("box")+".")] = n
	}
	return keys
}

// last returns the last message of a key, nil for none.
func (x *boxes) last(key string) *journal.Stored {
	x.Helper()
	m, err := x.stream("KV_"+Bucket("box")).GetLastMsgForSubject(x.Context(), "$KV."+Bucket("box")+"."+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		x.Fatalf("%s: %v", key, err)
	}
	return &journal.Stored{Key: key, Sequence: m.Sequence, Time: m.Time, Header: m.Header, Data: m.Data}
}

// events returns the events that have arrived in EVENTS, once all have that were
// stored with a commit.
func (x *boxes) events() []*jetstream.RawStreamMsg {
	x.Helper()
	stored := len(x.count(outPrefix + ".>"))
	if stored == 0 {
		return nil
	}
	stream := x.stream(bus.EventsStream)
	var last uint64
	x.until(fmt.Sprintf("%d events", stored), func() bool {
		info, err := stream.Info(x.Context())
		if err == nil {
			last = info.State.LastSeq
		}
		return err == nil && info.State.Msgs >= uint64(stored)
	})
	all := make([]*jetstream.RawStreamMsg, 0, last)
	for seq := range last {
		m, err := stream.GetMsg(x.Context(), seq+1)
		if err != nil {
			x.Fatal(err)
		}
		all = append(all, m)
	}
	if len(all) != stored {
		x.Errorf("EVENTS has %d events, %d were stored", len(all), stored)
	}
	return all
}

// want fails the test unless err has the code and its text has all of texts.
func (x *boxes) want(err error, code rpc.Code, texts ...string) {
	x.Helper()
	if rpc.CodeOf(err) != code {
		x.Fatalf("%v: want the code %v", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			x.Errorf("%q: want %q in it", err, text)
		}
	}
}
