package durable_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
	"rpc.do/server"
)

// The calls that the next owner gets to know are those of the kept commits. A
// retry of one of them gets its result; a retry of an older one, which can't be
// told from one that never ran, is not run.
func TestRetryAtTheNextOwner(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"restarted", "handed over"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := bustest.Server(t)
			a, b := labOn(t, bustest.Connect(t, srv)), labOn(t, bustest.Connect(t, srv))
			var runs atomic.Int32
			ts := turns{"add": func(p *page, ctx durable.Context, by string) (string, error) {
				runs.Add(1)
				return add(p, ctx, by)
			}}
			stop := a.serve(durable.Config{}, ts, views{"read": read})
			begun := time.Now()
			const commits = 12 // the bucket keeps 5
			for i := range commits {
				a.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(fmt.Sprint("call ", i)))
			}
			a.want("1", "carol", "add", "1")
			if name == "restarted" {
				stop()
				b.serve(durable.Config{}, ts, views{"read": read})
			} else {
				b.serve(durable.Config{}, ts, views{"read": read})
				stop()
			}
			ran := runs.Load()
			for i := commits - 5; i < commits; i++ {
				b.wantRetry(fmt.Sprint(i+1), "alice", "add", "1", fmt.Sprint("call ", i), time.Since(begun))
				b.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(fmt.Sprint("call ", i))) // does not say that it is a retry
			}
			for i := range commits - 5 {
				got, err := b.retry("alice", "add", "1", fmt.Sprint("call ", i), time.Since(begun))
				if err == nil {
					t.Fatalf("the retry of call %d got %s", i, got)
				}
				b.coded(err, rpc.Aborted, "alice", "may have had its effect", "not run again")
				if err.Retryable {
					t.Error("the error asks to try again")
				}
			}
			if n := runs.Load() - ran; n != 0 {
				t.Errorf("%d retries ran", n)
			}
			b.want("12", "alice", "read", "")
			b.wantRetry("13", "alice", "add", "1", "first made now, and lost", 0) // it can't have run before
			// However old it is, be that more than the time since the machine was started.
			b.wantRetry("1", "bob", "add", "1", "of an object that has never been", bus.MaxTimeout)
			b.wantRetry("2", "carol", "add", "1", "of an object all of whose commits are kept", bus.MaxTimeout)
		})
	}
}

// An identity of the caller's own is recognised without being told its age.
func TestSameIdentityAtTheNextOwner(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ts, vs := turns{"add": add}, views{"read": read}
	stop := l.serve(durable.Config{}, ts, vs)
	for i := range 4 {
		l.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(fmt.Sprint("call ", i)))
	}
	stop()
	l.serve(durable.Config{}, ts, vs)
	l.want("5", "alice", "add", "1")
	<-time.After(50 * time.Millisecond) // so that the object is in memory since before the calls
	for i := range 4 {
		l.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(fmt.Sprint("call ", i)))
	}
	l.want("5", "alice", "read", "")
}

// The owner dies, and the next one takes the slots by force.
func TestRetryAfterACrash(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t, bustest.IgnoreLeaks())
	a, b := labOn(t, bustest.Connect(t, srv)), labOn(t, bustest.Connect(t, srv))
	cfg := durable.Config{Lease: time.Second, History: 3} // taking an object over by force is one message more
	ts, vs := turns{"add": add}, views{"read": read}
	kill := a.serveUntilKilled(cfg, ts, vs)
	begun := time.Now()
	for i := range 3 {
		a.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(fmt.Sprint("call ", i)))
	}
	kill()
	b.serve(cfg, ts, vs)
	for i := range 3 {
		identity := fmt.Sprint("call ", i)
		b.want(fmt.Sprint(i+1), "alice", "add", "1", rpc.WithID(identity), rpc.WithTimeout(labPatience))
		b.wantRetry(fmt.Sprint(i+1), "alice", "add", "1", identity, time.Since(begun))
	}
	b.want("3", "alice", "read", "")
	b.want("4", "alice", "add", "1")
}

// serveUntilKilled is serve for an instance that loses its connection for good.
func (l *lab) serveUntilKilled(cfg durable.Config, ts turns, vs views) (kill func()) {
	l.Helper()
	svc := server.New(l.bus, "pages", server.Config{DrainTimeout: time.Millisecond})
	l.methods(durable.Serve[page](svc, "page", cfg), ts, vs)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	kill = func() {
		l.bus.Conn().Close()
		cancel()
	}
	l.Cleanup(func() {
		kill()
		<-done // with an error: nothing could be handed over
	})
	select {
	case <-svc.Ready():
	case err := <-done:
		done <- err
		l.Fatalf("run: %v", err)
	}
	return kill
}

// An object that has left memory finds the calls in its history.
func TestRetryAfterEviction(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	begun := make(chan struct{}, 100)
	l.initialised(durable.Config{Idle: time.Millisecond}, func(*page, durable.Context) error {
		begun <- struct{}{}
		return nil
	}, turns{"add": add}, views{"read": read})
	l.want("1", "alice", "add", "1", rpc.WithID("x"))
	l.want("2", "alice", "add", "1", rpc.WithID("y"))
	l.until("the object has left memory and come back", func() bool {
		l.want("2", "alice", "read", "")
		return len(begun) > 1
	})
	l.want("1", "alice", "add", "1", rpc.WithID("x"))
	l.wantRetry("2", "alice", "add", "1", "y", time.Minute)
	l.want("2", "alice", "read", "")
}

// The next owner can't know a result that is too large to be kept. It is not made
// again.
func TestResultThatIsNotKept(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ts := turns{"grow": func(p *page, _ durable.Context, param string) (string, error) {
		p.Value++
		return strings.Repeat(param, 5000), nil
	}}
	stop := l.serve(durable.Config{}, ts, views{"read": read})
	l.want(strings.Repeat("x", 5000), "alice", "grow", "x", rpc.WithID("large"))
	l.want("", "alice", "grow", "", rpc.WithID("empty"))
	l.wantRetry(strings.Repeat("x", 5000), "alice", "grow", "x", "large", time.Minute)
	l.wantRetry("", "alice", "grow", "", "empty", time.Minute)
	stop()
	l.serve(durable.Config{}, ts, views{"read": read})
	for range 2 {
		_, err := l.retry("alice", "grow", "x", "large", time.Minute)
		l.coded(err, rpc.Aborted, "alice", "had its effect", "too large to be kept")
		l.wantRetry("", "alice", "grow", "", "empty", time.Minute)
	}
	l.want("2", "alice", "read", "")
}

// The result of a method that returns nothing is kept as well.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	touch := rpc.NewObjectMethod[rpc.None, rpc.None]("page.touch")
	serve := func() (stop func()) {
		svc := server.New(l.bus, "pages", server.Config{})
		pages := durable.Serve[page](svc, "page", durable.Config{})
		l.methods(pages, nil, views{"read": read})
		durable.Handle(pages, touch, func(p *page, _ durable.Context, _ rpc.None) (rpc.None, error) {
			p.Value++
			return rpc.None{}, nil
		})
		return run(l.T, svc)
	}
	stop := serve()
	for range 2 {
		if _, err := touch.Call(t.Context(), l.far, "alice", rpc.None{}, rpc.WithID("x")); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	serve()
	got, err := l.request(bus.ObjectSubject("page", "alice", "touch"), "", "Rpc-Id", "x;age=60000")
	if err != nil || got != "null" {
		t.Errorf("%s, %v", got, err)
	}
	l.want("1", "alice", "read", "")
}
