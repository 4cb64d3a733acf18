package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// order is the data of most events here.
type order struct {
	N   int    `json:"n"`
	Key string `json:"key,omitempty"`
	Bad string `json:"bad,omitempty"`
}

var placed = rpc.NewEvent[order]("Order.placed")

// lab is a bus with services on it.
type lab struct {
	*testing.T
	srv *natsd.Server
	b   *bus.Bus
	p   *pipeline.Pipeline
}

func newLab(t *testing.T) *lab {
	t.Helper()
	srv := bustest.Server(t)
	return labOn(t, srv)
}

func labOn(t *testing.T, srv *natsd.Server) *lab {
	t.Helper()
	b := bustest.Connect(t, srv)
	return &lab{T: t, srv: srv, b: b, p: pipeline.New(b, pipeline.Config{})}
}

// serve runs a service with what register puts on it, on a bus of its own, and
// returns what stops it.
func (l *lab) serve(name string, register func(*server.Service)) (stop func()) {
	l.Helper()
	return l.serveOn(bustest.Connect(l.T, l.srv), name, register)
}

func (l *lab) serveOn(b *bus.Bus, name string, register func(*server.Service)) (stop func()) {
	l.Helper()
	svc := server.New(b, name, server.Config{Version: "1.2.3", DrainTimeout: 5 * time.Second})
	register(svc)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		cancel()
		l.Fatalf("%s: %v", name, err)
	case <-time.After(patience):
		cancel()
		l.Fatalf("%s does not get ready", name)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			l.Errorf("%s does not end", name)
		}
	})
	l.Cleanup(stop)
	return stop
}

// send sends orders with these numbers.
func (l *lab) send(numbers ...int) {
	l.Helper()
	for _, n := range numbers {
		l.sendOrder(order{N: n})
	}
}

func (l *lab) sendOrder(o order) pipeline.Receipt {
	l.Helper()
	r, err := pipeline.Send(l.Context(), l.p, placed, o)
	if err != nil {
		l.Fatalf("send %+v: %v", o, err)
	}
	return r
}

// until waits for a condition that nothing announces.
func (l *lab) until(what string, met func() bool) {
	l.Helper()
	limit := time.After(patience)
	for !met() {
		select {
		case <-limit:
			l.Fatalf("waited %v in vain until %s", patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// log notes what handlers got.
type log struct {
	mu   sync.Mutex
	got  []int
	tell chan struct{}
}

func newLog() *log { return &log{tell: make(chan struct{}, 1)} }

func (g *log) note(n int) {
	g.mu.Lock()
	g.got = append(g.got, n)
	g.mu.Unlock()
	select {
	case g.tell <- struct{}{}:
	default:
	}
}

func (g *log) all() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.got)
}

// handle notes the number of each order.
func (g *log) handle(_ context.Context, e pipeline.Event[order]) error {
	g.note(e.Data.N)
	return nil
}

// want waits until the handlers got exactly these, in any order.
func (l *lab) want(g *log, numbers ...int) {
	l.Helper()
	slices.Sort(numbers)
	l.until(fmt.Sprintf("%d orders are handled (%v are)", len(numbers), len(g.all())), func() bool { return len(g.all()) >= len(numbers) })
	got := g.all()
	slices.Sort(got)
	if !slices.Equal(got, numbers) {
		l.Fatalf("handled %v, want %v", got, numbers)
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// coded wants an error with that code and these words.
func (l *lab) coded(err error, code rpc.Code, words ...string) {
	l.Helper()
	if rpc.CodeOf(err) != code {
		l.Fatalf("error %v (%v), want %v", err, rpc.CodeOf(err), code)
	}
	wantWords(l.T, err, words...)
}

var errFailed = errors.New("it failed")

// plain publishes as a client does that knows nothing of CloudEvents.
func (l *lab) plain(subject string, data []byte, header nats.Header) {
	l.Helper()
	if _, err := l.b.JetStream().PublishMsg(l.Context(), &nats.Msg{Subject: subject, Data: data, Header: header}); err != nil {
		l.Fatal(err)
	}
}

func sorted(numbers []int) []int {
	numbers = slices.Clone(numbers)
	slices.Sort(numbers)
	return numbers
}
