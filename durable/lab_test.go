package durable_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// page is a state with memory behind pointers. Its methods are made up by the
// tests: see lab.serve.
type page struct {
	Value  int              `json:"value"`
	Weight float64          `json:"weight,omitempty"`
	Lines  []string         `json:"lines,omitempty"`
	Marks  map[string][]int `json:"marks,omitempty"`
	Inner  *page            `json:"inner,omitempty"`
	Odd    trap             `json:"odd,omitzero"`
}

// trap is a value whose encoding panics when it is 13.
type trap int

func (v trap) MarshalJSON() ([]byte, error) {
	if v == 13 {
		panic("13 can't be written")
	}
	return strconv.AppendInt(nil, int64(v), 10), nil
}

type (
	turns = map[string]func(*page, durable.Context, string) (string, error)
	views = map[string]func(page, durable.ReadContext, string) (string, error)
)

// lab is a bus with a class of pages. Calls go over the bus with far and take
// the shortcut with near.
type lab struct {
	*testing.T
	bus       *bus.Bus
	far, near *client.Client
}

func newLab(t *testing.T, opts ...bustest.Option) *lab {
	t.Helper()
	return labOn(t, bustest.New(t, opts...))
}

func labOn(t *testing.T, b *bus.Bus) *lab {
	l := &lab{T: t, bus: b, far: client.New(b, client.Config{NoShortcut: true}), near: client.New(b, client.Config{})}
	t.Cleanup(l.far.Close)
	t.Cleanup(l.near.Close)
	return l
}

// methods registers turns and views under their names.
func (l *lab) methods(pages *durable.Class[page], ts turns, vs views) {
	for name, fn := range ts {
		durable.Handle(pages, l.method(name), fn)
	}
	for name, fn := range vs {
		durable.View(pages, l.method(name), fn)
	}
}

// serve runs an instance that serves pages until the test ends or stop is called.
func (l *lab) serve(cfg durable.Config, ts turns, vs views) (stop func()) {
	l.Helper()
	svc := server.New(l.bus, "pages", server.Config{})
	l.methods(durable.Serve[page](svc, "page", cfg), ts, vs)
	return run(l.T, svc)
}

func (l *lab) method(name string) rpc.ObjectMethod[string, string] {
	return rpc.NewObjectMethod[string, string]("page." + name)
}

func (l *lab) call(id, method, param string, opts ...rpc.CallOption) (string, error) {
	return l.method(method).Call(l.Context(), l.far, id, param, opts...)
}

func (l *lab) want(want, id, method, param string, opts ...rpc.CallOption) {
	l.Helper()
	if got, err := l.call(id, method, param, opts...); err != nil || got != want {
		l.Fatalf("%s(%q) of %q: %q, %v; want %q", method, param, id, got, err, want)
	}
}

func (l *lab) refused(code rpc.Code, id, method, param string, texts ...string) *rpc.Error {
	l.Helper()
	_, err := l.call(id, method, param)
	return l.coded(err, code, texts...)
}

// coded requires that err has a code and says texts.
func (l *lab) coded(err error, code rpc.Code, texts ...string) *rpc.Error {
	l.Helper()
	e, ok := err.(*rpc.Error)
	if !ok || e == nil || e.Code != code {
		l.Fatalf("error %v, want the code %v", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(e.Message, text) {
			l.Errorf("error %q does not say %q", e.Message, text)
		}
	}
	return e
}

type answer struct {
	result string
	err    error
	took   time.Duration
}

// begin makes a call in a goroutine of its own.
func (l *lab) begin(id, method, param string, opts ...rpc.CallOption) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		start := time.Now()
		result, err := l.call(id, method, param, opts...)
		out <- answer{result, err, time.Since(start)}
	}()
	return out
}

const labPatience = 20 * time.Second

// end waits for what begin began.
func (l *lab) end(c <-chan answer) answer {
	l.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(labPatience):
		l.Fatal("a call does not end")
		panic("unreachable")
	}
}

// reached waits for a signal.
func (l *lab) reached(what string, c <-chan struct{}) {
	l.Helper()
	select {
	case <-c:
	case <-time.After(labPatience):
		l.Fatalf("waited in vain for %s", what)
	}
}

// until waits for what nothing announces.
func (l *lab) until(what string, holds func() bool) {
	l.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	over := time.After(labPatience)
	for !holds() {
		select {
		case <-tick.C:
		case <-over:
			l.Fatalf("waited in vain until %s", what)
		}
	}
}

// last returns the last sequence of the class's stream.
func (l *lab) last() uint64 {
	l.Helper()
	stream, err := l.bus.JetStream().Stream(l.Context(), "KV_"+durable.Bucket("page"))
	if err != nil {
		l.Fatal(err)
	}
	return stream.CachedInfo().State.LastSeq
}

// stored returns an object's state as the bucket has it, by the object's key.
func (l *lab) stored(key string) string {
	l.Helper()
	kv, err := l.bus.JetStream().KeyValue(l.Context(), durable.Bucket("page"))
	if err != nil {
		l.Fatal(err)
	}
	entry, err := kv.Get(l.Context(), key)
	if err == jetstream.ErrKeyNotFound {
		return ""
	}
	if err != nil {
		l.Fatal(err)
	}
	return string(entry.Value())
}

// barrier stops whoever comes to it while it is shut.
type barrier struct {
	shut    atomic.Bool
	arrived chan struct{}
	open    chan struct{}
	once    sync.Once
}

func (l *lab) barrier() *barrier {
	b := &barrier{arrived: make(chan struct{}, 4096), open: make(chan struct{})}
	l.Cleanup(b.release)
	return b
}

func (b *barrier) pass() {
	if b.shut.Load() {
		b.arrived <- struct{}{}
		<-b.open
	}
}

// release lets all pass, for ever.
func (b *barrier) release() { b.once.Do(func() { b.shut.Store(false); close(b.open) }) }

// atCommit is a config in which commits pass the barrier.
func (b *barrier) atCommit(cfg durable.Config) durable.Config {
	return durable.AtEachStep(cfg, func(point string) {
		if point == "commit" {
			b.pass()
		}
	})
}

// add adds the param, a number, to the value and returns it.
func add(p *page, _ durable.Context, by string) (string, error) {
	n, err := strconv.Atoi(by)
	if err != nil {
		return "", rpc.InvalidArgument.Errorf("by: %w", err)
	}
	p.Value += n
	return strconv.Itoa(p.Value), nil
}

func read(p page, _ durable.ReadContext, _ string) (string, error) { return fmt.Sprint(p.Value), nil }
