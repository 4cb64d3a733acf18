package server

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
)

const contextPatience = 10 * time.Second

func newCallContext() *callContext {
	base := context.WithValue(context.Background(), contextKey{}, "of the service")
	return &callContext{Context: base, job: new(job), deadline: time.Now().Add(time.Hour)}
}

type contextKey struct{}

func awaitClosed(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(contextPatience):
		t.Fatalf("waited in vain for %s", what)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCallContext(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		c := newCallContext()
		if d, ok := c.Deadline(); !ok || d != c.deadline {
			t.Errorf("the deadline is %v, %v", d, ok)
		}
		if c.Value(contextKey{}) != "of the service" || c.Value("nothing") != nil || c.Value(jobKey{}) != c.job {
			t.Error("the values are wrong")
		}
		if source, ok := c.Value(rpc.CallInfoKey{}).(rpc.CallInfoSource); !ok || source != rpc.CallInfoSource(c.job) {
			t.Error("the context does not know its call")
		}
		early := c.Done()
		if c.Err() != nil || isClosed(early) || context.Cause(c) != nil {
			t.Error("the context has ended before its end")
		}
		if c.Done() != early {
			t.Error("Done returns another channel each time")
		}
		c.end(cause)
		c.end(context.Canceled) // the first counts
		if c.Err() != cause || context.Cause(c) != cause || !isClosed(early) || !isClosed(c.Done()) {
			t.Errorf("ended with %v, it says %v", cause, c.Err())
		}
	}
	late := newCallContext()
	late.end(context.Canceled)
	if !isClosed(late.Done()) {
		t.Error("a channel that is asked for after the end is open")
	}
}

func TestCallContextAfterFunc(t *testing.T) {
	t.Parallel()
	c := newCallContext()
	ran := make(chan string, 10)
	c.AfterFunc(func() { ran <- "kept" })
	stop := c.AfterFunc(func() { ran <- "stopped" })
	if !stop() {
		t.Error("stop reports that the function was not pending")
	}
	if stop() {
		t.Error("stop reports twice that the function was pending")
	}
	stopKept := context.AfterFunc(c, func() { ran <- "by package context" })
	if len(ran) > 0 {
		t.Fatal("a function ran before the end")
	}
	c.end(context.Canceled)
	got := map[string]bool{}
	for range 2 {
		select {
		case name := <-ran:
			got[name] = true
		case <-time.After(contextPatience):
			t.Fatal("a function did not run at the end")
		}
	}
	if !got["kept"] || !got["by package context"] {
		t.Errorf("ran: %v", got)
	}
	if stopKept() {
		t.Error("stop reports that a function which has run was pending")
	}
	after := c.AfterFunc(func() { ran <- "late" })
	if name := <-ran; name != "late" {
		t.Errorf("%s ran", name)
	}
	if after() {
		t.Error("stop after the end reports that the function was pending")
	}
}

// Contexts that package context derives end with the call's.
func TestDerivedContexts(t *testing.T) {
	t.Parallel()
	c := newCallContext()
	cancelled, cancel := context.WithCancel(c)
	defer cancel()
	caused, cancelCause := context.WithCancelCause(cancelled)
	defer cancelCause(nil)
	timed, cancelTimed := context.WithTimeout(c, time.Minute)
	defer cancelTimed()
	longer, cancelLonger := context.WithDeadline(c, c.deadline.Add(time.Hour))
	defer cancelLonger()
	valued := context.WithValue(c, contextKey{}, "of the handler")
	below, cancelBelow := context.WithCancel(valued)
	defer cancelBelow()
	detached := context.WithoutCancel(c)
	own, cancelOwn := context.WithCancel(c)
	cancelOwn()
	if own.Err() == nil || c.Err() != nil {
		t.Error("cancelling a derived context cancels the call")
	}
	if d, _ := longer.Deadline(); d != c.deadline {
		t.Errorf("a derived context has a later deadline: %v", d)
	}
	c.end(context.DeadlineExceeded)
	for name, d := range map[string]context.Context{
		"WithCancel": cancelled, "WithCancelCause": caused, "WithTimeout": timed, "WithDeadline": longer, "WithValue": valued, "below WithValue": below,
	} {
		awaitClosed(t, "the end of "+name, d.Done())
		if d.Err() != context.DeadlineExceeded || context.Cause(d) != context.DeadlineExceeded {
			t.Errorf("%s ended with %v, cause %v", name, d.Err(), context.Cause(d))
		}
	}
	if detached.Err() != nil || detached.Value(jobKey{}) != c.job {
		t.Error("WithoutCancel does not keep the values alone")
	}
	fresh, cancelFresh := context.WithCancel(c)
	defer cancelFresh()
	if fresh.Err() != context.DeadlineExceeded {
		t.Error("a context derived after the end goes on")
	}
}

// Deriving a context costs no goroutine. Not parallel: it counts those of
// package context in the whole process.
func TestDerivedContextsHaveNoGoroutines(t *testing.T) {
	waiters := func() int {
		buf := make([]byte, 16<<20)
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "created by context.(*cancelCtx).propagateCancel")
	}
	before := waiters()
	c := newCallContext()
	var cancels []context.CancelFunc
	for range 100 {
		_, cancel := context.WithCancel(c)
		_, cancelTimed := context.WithTimeout(c, time.Hour)
		cancels = append(cancels, cancel, cancelTimed)
	}
	if n := waiters() - before; n != 0 {
		t.Errorf("%d goroutines wait for the call's end", n)
	}
	for _, cancel := range cancels {
		cancel()
	}
	if len(c.after) != 0 {
		t.Errorf("%d contexts that were cancelled are still remembered", len(c.after))
	}

	// The count sees them: a context without AfterFunc costs one each.
	foreign, cancelForeign := context.WithCancel(struct{ context.Context }{c})
	if n := waiters() - before; n != 1 {
		t.Errorf("the count found %d goroutines of a foreign context, want 1", n)
	}
	cancelForeign()
	<-foreign.Done()
}

// Many goroutines use, derive from and end one context at the same time.
func TestCallContextConcurrency(t *testing.T) {
	t.Parallel()
	for range 50 {
		c := newCallContext()
		begin := make(chan struct{})
		var wg sync.WaitGroup
		var ran, stopped atomic.Int64
		for i := range 16 {
			wg.Go(func() {
				<-begin
				for range 20 {
					switch i % 4 {
					case 0:
						d, cancel := context.WithCancel(c)
						if i == 0 {
							<-d.Done()
						}
						cancel()
					case 1:
						var fired sync.WaitGroup
						fired.Add(1)
						stop := c.AfterFunc(func() { ran.Add(1); fired.Done() })
						if i == 1 && stop() {
							stopped.Add(1)
							fired.Done()
						}
						fired.Wait()
					case 2:
						if err := c.Err(); err != nil && !isClosed(c.Done()) {
							t.Error("there is an error and the channel is open")
						}
					case 3:
						if isClosed(c.Done()) && c.Err() == nil {
							t.Error("the channel is closed and there is no error")
						}
						if i == 15 {
							c.end(context.Canceled)
						}
					}
				}
			})
		}
		close(begin)
		wg.Wait()
		if got := ran.Load() + stopped.Load(); got != 4*20 {
			t.Fatalf("%d functions ran and %d were stopped, of 80", ran.Load(), stopped.Load())
		}
		if len(c.after) != 0 {
			t.Fatalf("%d functions are left", len(c.after))
		}
	}
}
