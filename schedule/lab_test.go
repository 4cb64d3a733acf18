package schedule_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/schedule"
	"rpc.do/server"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// lab is a bus with services on it.
type lab struct {
	*testing.T
	srv *natsd.Server
	b   *bus.Bus
	all *schedule.Schedules
}

func newLab(t *testing.T) *lab {
	t.Helper()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	return &lab{T: t, srv: srv, b: b, all: schedule.Open(b)}
}

// serve runs a service with what register puts on it, and returns what stops it.
func (l *lab) serve(register func(*server.Service)) (stop func()) {
	l.Helper()
	return l.serveAs("reports", register)
}

func (l *lab) serveAs(name string, register func(*server.Service)) (stop func()) {
	l.Helper()
	svc := server.New(bustest.Connect(l.T, l.srv), name, server.Config{DrainTimeout: 5 * time.Second})
	register(svc)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		cancel()
		l.Fatal(err)
	case <-time.After(patience):
		cancel()
		l.Fatal("the service does not get ready")
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.Error(err)
			}
		case <-time.After(patience):
			l.Error("the service does not end")
		}
	})
	l.Cleanup(stop)
	return stop
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

func (l *lab) coded(err error, code rpc.Code, words ...string) {
	l.Helper()
	if rpc.CodeOf(err) != code {
		l.Fatalf("error %v, want %v", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			l.Fatalf("error %v, want one with %q", err, w)
		}
	}
}

func (l *lab) get(name string) schedule.Info {
	l.Helper()
	info, err := l.all.Get(l.Context(), name)
	if err != nil {
		l.Fatal(err)
	}
	return info
}

func (l *lab) history(name string) []schedule.Outcome {
	l.Helper()
	list, err := l.all.History(l.Context(), name)
	if err != nil {
		l.Fatal(err)
	}
	return list
}

// ticks notes what a handler got.
type ticks struct {
	mu  sync.Mutex
	got []schedule.Tick
}

func (g *ticks) handle(_ context.Context, t schedule.Tick) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got = append(g.got, t)
	return nil
}

func (g *ticks) all() []schedule.Tick {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]schedule.Tick(nil), g.got...)
}
