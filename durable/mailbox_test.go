package durable_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

// blocked serves pages whose turn block ends when hold is released.
func (l *lab) blocked(cfg durable.Config) (hold *barrier) {
	l.Helper()
	hold = l.barrier()
	hold.shut.Store(true)
	l.serve(cfg, turns{"add": add, "block": func(*page, durable.Context, string) (string, error) {
		hold.pass()
		return "", nil
	}}, views{"read": read})
	return hold
}

// flood sends n calls without waiting for the answers, which come to the
// subscription.
func (l *lab) flood(n int, id, method, param string) *nats.Subscription {
	l.Helper()
	conn := l.bus.Conn()
	answers, err := conn.SubscribeSync(conn.NewRespInbox())
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = answers.Unsubscribe() })
	for range n {
		l.publish(&nats.Msg{
			Subject: bus.ObjectSubject("page", id, method), Reply: answers.Subject, Data: fmt.Appendf(nil, "%q", param),
			Header: nats.Header{"Rpc-Timeout": {"60000"}},
		})
	}
	return answers
}

// What does not fit into an object's mailbox is refused, and told when to come
// back.
func TestMailboxBound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const bound, over = 5, 3
	hold := l.blocked(durable.Config{Mailbox: bound})
	blocking := l.begin("alice", "block", "", rpc.WithTimeout(labPatience))
	l.reached("the turn", hold.arrived)
	answers := l.flood(bound+over, "alice", "add", "1")
	for range over {
		err := l.coded(bus.DecodeError(l.next(answers)), rpc.ResourceExhausted, "page.add", "alice", "1 calls run", "5 wait")
		if !err.Retryable || err.RetryAfter <= 0 {
			t.Errorf("the refusal does not say to come back: %+v", err)
		}
	}
	l.want("0", "alice", "read", "") // a view does not wait
	l.want("1", "bob", "add", "1")   // nor does another object
	hold.release()
	l.end(blocking)
	for range bound {
		if err := bus.DecodeError(l.next(answers)); err != nil {
			t.Error(err)
		}
	}
	l.want(fmt.Sprint(bound), "alice", "read", "")
}

// The class as a whole has a bound, too: that on what it keeps in memory.
func TestCallsBound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const bound = 8
	hold := l.blocked(durable.Config{Calls: bound})
	var answers []*nats.Subscription
	for i := range bound / 2 {
		answers = append(answers, l.flood(2, fmt.Sprint("object ", i), "block", "")) // one runs, one waits
	}
	var refused *rpc.Error
	l.until("a call is refused", func() bool {
		_, refused = l.request(bus.ObjectSubject("page", "alice", "add"), `"0"`)
		return refused != nil
	})
	l.coded(refused, rpc.ResourceExhausted, "class page", "overloaded", fmt.Sprint(bound))
	if !refused.Retryable || refused.RetryAfter <= 0 {
		t.Errorf("the refusal does not say to come back: %+v", refused)
	}
	hold.release()
	for _, sub := range answers {
		for range 2 {
			if err := bus.DecodeError(l.next(sub)); err != nil {
				t.Error(err)
			}
		}
	}
	l.want("1", "alice", "add", "1", rpc.WithTimeout(labPatience))
}

// An object whose turns take for ever, with a full mailbox, delays no other.
func TestHotObjectDelaysNoOther(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.blocked(durable.Config{})
	hot := l.flood(1000, "hot", "block", "") // all that may wait while it comes into memory
	l.reached("the hot object's turn", hold.arrived)
	var took []time.Duration
	for i := range 200 {
		start := time.Now()
		l.want("1", fmt.Sprint("cold ", i), "add", "1")
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("median %v, slowest %v", took[len(took)/2], took[len(took)-1])
	if most := took[len(took)*19/20]; most > time.Second {
		t.Errorf("19 of 20 calls of other objects took up to %v", most)
	}
	hold.release()
	for range 1000 {
		if err := bus.DecodeError(l.next(hot)); err != nil {
			t.Fatal(err)
		}
	}
}

// An object that is busy all the time does not keep others from being served:
// each of their calls waits for its own object only.
func TestBusyObjectStarvesNoOther(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const busy, cold = 3000, 5
	var ran atomic.Int32
	l.serve(durable.Config{Mailbox: busy}, turns{"add": add, "spin": func(p *page, _ durable.Context, _ string) (string, error) {
		for begun := time.Now(); time.Since(begun) < 100*time.Microsecond; {
		}
		p.Value++
		ran.Add(1)
		return "", nil
	}}, views{"read": read})
	hot := l.flood(busy, "hot", "spin", "")
	l.next(hot)
	for i := range cold {
		l.want("1", fmt.Sprint("cold ", i), "add", "1", rpc.WithTimeout(labPatience))
		l.want("1", fmt.Sprint("cold ", i), "read", "", rpc.WithTimeout(labPatience))
	}
	if n := ran.Load(); n > busy/2 {
		t.Errorf("%d calls of others took as long as %d turns of the busy object", 2*cold, n)
	} else {
		t.Logf("%d calls of others took as long as %d turns of the busy object", 2*cold, n)
	}
	for range busy - 1 {
		if err := bus.DecodeError(l.next(hot)); err != nil {
			t.Fatal(err)
		}
	}
	l.want(fmt.Sprint(busy), "hot", "read", "")
}

// Calls that wait are in a list, not in goroutines. It is not parallel, since it
// counts all goroutines.
func TestWaitingCallsNeedNoGoroutines(t *testing.T) {
	l := newLab(t)
	hold := l.blocked(durable.Config{})
	blocking := l.begin("alice", "block", "", rpc.WithTimeout(labPatience))
	l.reached("the turn", hold.arrived)
	const waiting = 1000
	before := runtime.NumGoroutine()
	answers := l.flood(waiting+1, "alice", "add", "1")
	l.coded(bus.DecodeError(l.next(answers)), rpc.ResourceExhausted, "1000 wait") // so they do
	during := runtime.NumGoroutine() - before
	t.Logf("%d goroutines more for %d calls that wait", during, waiting)
	if during > waiting/20 {
		t.Errorf("%d goroutines more for %d calls that wait", during, waiting)
	}
	hold.release()
	l.end(blocking)
	for range waiting {
		if err := bus.DecodeError(l.next(answers)); err != nil {
			t.Fatal(err)
		}
	}
	l.want(fmt.Sprint(waiting), "alice", "read", "")
}
