package durable_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

// request is what a client that knows nothing of this library sends.
func (l *lab) request(subject, payload string, headers ...string) (string, *rpc.Error) {
	l.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = []byte(payload)
	for i := 0; i < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	var reply *nats.Msg
	l.until("somebody owns the object", func() bool {
		var err error
		if reply, err = l.bus.Conn().RequestMsg(msg, labPatience); err != nil && err != nats.ErrNoResponders {
			l.Fatalf("%s: %v", subject, err)
		}
		return err == nil
	})
	return string(reply.Data), bus.DecodeError(reply)
}

// retry sends a call once more, on the object's own subject.
func (l *lab) retry(id, method, param, identity string, age time.Duration) (string, *rpc.Error) {
	l.Helper()
	return l.request(bus.ObjectSubject("page", id, method), fmt.Sprintf("%q", param),
		"Rpc-Id", bus.RetryID(identity, age), "Rpc-Attempt", "2")
}

// wantRetry requires that a retry gets what the first attempt got.
func (l *lab) wantRetry(want, id, method, param, identity string, age time.Duration) {
	l.Helper()
	got, err := l.retry(id, method, param, identity, age)
	if err != nil || got != fmt.Sprintf("%q", want) {
		l.Fatalf("retry of %s: %s, %v; want %q", identity, got, err, want)
	}
}

// A call that is sent again has one effect and one result, however it comes.
func TestSameCallAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	direct := func(object, identity string) (string, error) {
		got, err := l.request(bus.ObjectSubject("page", object, "add"), `"1"`, "Rpc-Id", identity)
		if err != nil {
			return "", err
		}
		return strings.Trim(got, `"`), nil
	}
	ways := map[string]func(object, identity string) (string, error){
		"object subject": direct,
		"service subject": func(object, identity string) (string, error) {
			got, err := l.request("rpc.page.add", `"1"`, "Rpc-Id", identity, "Rpc-Object", object)
			if err != nil {
				return "", err
			}
			return strings.Trim(got, `"`), nil
		},
		"bus": func(object, identity string) (string, error) {
			return l.call(object, "add", "1", rpc.WithID(identity))
		},
		"shortcut": func(object, identity string) (string, error) {
			return l.method("add").Call(l.Context(), l.near, object, "1", rpc.WithID(identity))
		},
	}
	for name, call := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const ids, each = 5, 10
			var wg sync.WaitGroup
			results := make([]sync.Map, ids)
			again := func() {
				for i := range ids * each {
					wg.Go(func() {
						got, err := call(name, fmt.Sprint("call ", i%ids))
						if err != nil {
							t.Errorf("call %d: %v", i%ids, err)
						}
						results[i%ids].Store(got, true)
					})
				}
				wg.Wait()
			}
			again() // at the same time
			again() // and later
			seen := map[any]bool{}
			for i := range results {
				n := 0
				results[i].Range(func(k, _ any) bool { seen[k] = true; n++; return true })
				if n != 1 {
					t.Errorf("call %d had %d results", i, n)
				}
			}
			if len(seen) != ids {
				t.Errorf("results %v, want %d", seen, ids)
			}
			if got, err := l.call(name, "read", ""); err != nil || got != fmt.Sprint(ids) {
				t.Errorf("value %s, %v, want %d", got, err, ids)
			}
		})
	}
}

// attempt is a first attempt as a client of this library sends it, and a place
// for its answers.
func (l *lab) attempt(number uint64, sent time.Time) (identity, reply string, answers *nats.Subscription) {
	l.Helper()
	in := bus.NewInbox(l.bus.InboxPrefix(), "shop")
	answers, err := l.bus.Conn().SubscribeSync(in.Wildcard())
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = answers.Unsubscribe() })
	return in.Identity(l.bus.InboxPrefix(), number), in.ReplySubject(number, 5*time.Second, sent), answers
}

func (l *lab) publish(msg *nats.Msg) {
	l.Helper()
	if err := l.bus.Conn().PublishMsg(msg); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) next(answers *nats.Subscription) *nats.Msg {
	l.Helper()
	msg, err := answers.NextMsg(labPatience)
	if err != nil {
		l.Fatalf("no answer: %v", err)
	}
	return msg
}

func TestRetryAfterTheReplyWasLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	identity, reply, answers := l.attempt(7, time.Now())
	l.publish(&nats.Msg{Subject: bus.ObjectSubject("page", "alice", "add"), Reply: reply, Data: []byte(`"3"`)})
	first := l.next(answers) // which the caller does not get to see
	l.want("13", "alice", "add", "10")
	l.wantRetry(strings.Trim(string(first.Data), `"`), "alice", "add", "3", identity, 50*time.Millisecond)
	l.want("13", "alice", "read", "")
}

// An attempt that was held up on its way comes after its own retry.
func TestFirstAttemptAfterItsRetry(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	identity, reply, answers := l.attempt(7, time.Now())
	l.wantRetry("3", "alice", "add", "3", identity, 50*time.Millisecond)
	l.want("13", "alice", "add", "10")
	l.publish(&nats.Msg{Subject: bus.ObjectSubject("page", "alice", "add"), Reply: reply, Data: []byte(`"3"`)})
	if late := l.next(answers); string(late.Data) != `"3"` {
		t.Errorf("the late attempt got %s %v", late.Data, late.Header)
	}
	l.want("13", "alice", "read", "")
}

// What failed has had no effect: its retry runs.
func TestRetryOfWhatFailed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var ran atomic.Int32
	l.serve(durable.Config{}, turns{"add": func(p *page, ctx durable.Context, by string) (string, error) {
		result, err := add(p, ctx, by)
		if ran.Add(1) == 1 {
			return "", rpc.Aborted.Errorf("not yet")
		}
		return result, err
	}}, views{"read": read})
	if _, err := l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`, "Rpc-Id", "x"); rpc.CodeOf(err) != rpc.Aborted {
		t.Fatal(err)
	}
	l.wantRetry("1", "alice", "add", "1", "x", time.Millisecond)
	l.wantRetry("1", "alice", "add", "1", "x", 2*time.Millisecond)
	if n := ran.Load(); n != 2 {
		t.Errorf("the handler ran %d times, want 2", n)
	}
}

// Callers that give up all the time, and call again with the same identity, have
// one effect each. When what is known of calls is short-lived as well, some are
// told that nobody knows.
func TestImpatientCallers(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]time.Duration{"in memory": 0, "from the history": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.serve(durable.Config{Idle: idle, Mailbox: 16}, turns{"add": add}, views{"read": read})
			const callers, each = 64, 15
			var wg sync.WaitGroup
			var answered, aborted, tries atomic.Int32
			var results sync.Map
			for i := range callers {
				wg.Go(func() {
					c := l.far
					if i%2 == 0 {
						c = l.near
					}
					for n := range each {
						begun := time.Now()
						for patience := time.Millisecond; time.Since(begun) < labPatience; patience = patience * 5 / 4 {
							tries.Add(1)
							params, result := "1", ""
							err := c.Call(t.Context(), &rpc.Call{
								Service: "page", Method: "add", Object: "hot", ID: fmt.Sprint(i, "-", n), Age: max(time.Since(begun), 1),
								Timeout: patience + rand.N(3*time.Millisecond), Params: &params, Result: &result,
							})
							if err == nil {
								answered.Add(1)
								if other, taken := results.Swap(result, i); taken {
									t.Errorf("%d and %v have both had the result %s", i, other, result)
								}
								break
							}
							if rpc.CodeOf(err) == rpc.Aborted {
								aborted.Add(1)
								break
							}
						}
					}
				})
			}
			wg.Wait()
			got, err := l.call("hot", "read", "", rpc.WithTimeout(labPatience))
			if err != nil {
				t.Fatal(err)
			}
			var value int32
			if _, err := fmt.Sscan(got, &value); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d calls in %d tries: %d answered, %d aborted, %d effects", callers*each, tries.Load(), answered.Load(), aborted.Load(), value)
			if answered.Load()+aborted.Load() != callers*each {
				t.Errorf("%d answered, %d aborted, want %d together", answered.Load(), aborted.Load(), callers*each)
			}
			if value < answered.Load() || value > answered.Load()+aborted.Load() {
				t.Errorf("%d effects for %d calls that were answered and %d that were aborted", value, answered.Load(), aborted.Load())
			}
			if idle == 0 && aborted.Load() > 0 {
				t.Errorf("%d calls were aborted, of an object that knows all", aborted.Load())
			}
		})
	}
}

// A call that waited long is as old as when it came, and what it waited.
func TestRetryThatWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	ts := turns{"add": add, "slow": func(*page, durable.Context, string) (string, error) {
		hold.pass()
		return "", nil
	}}
	begun := time.Now()
	stop := l.serve(durable.Config{}, ts, nil)
	l.want("1", "alice", "add", "1", rpc.WithID("x"))
	l.want("2", "alice", "add", "1", rpc.WithID("y"))
	stop()
	l.serve(durable.Config{}, ts, nil)
	hold.shut.Store(true)
	slow := l.begin("alice", "slow", "")
	l.reached("the slow turn", hold.arrived)
	age := time.Since(begun)
	retry := make(chan string, 1)
	go func() {
		got, err := l.retry("alice", "add", "1", "x", age)
		retry <- fmt.Sprint(got, err)
	}()
	l.until("it has waited for longer than all that was before", func() bool { return time.Since(begun) > 3*age })
	hold.release()
	if a := l.end(slow); a.err != nil {
		t.Fatal(a.err)
	}
	if got := <-retry; got != `"1"<nil>` {
		t.Errorf("the retry got %s", got)
	}
	l.want("3", "alice", "add", "1")
}

// A call that comes so late that its retries may have been forgotten is not run.
func TestLateArrival(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	for _, test := range []struct {
		late time.Duration // 5 s is the timeout
		runs bool
	}{{0, true}, {34 * time.Second, true}, {36 * time.Second, false}, {-time.Hour, true}} {
		id := fmt.Sprint("sent ", test.late)
		_, reply, answers := l.attempt(1, time.Now().Add(-test.late))
		l.publish(&nats.Msg{Subject: bus.ObjectSubject("page", id, "add"), Reply: reply, Data: []byte(`"1"`)})
		err := bus.DecodeError(l.next(answers))
		if test.runs {
			if err != nil {
				t.Errorf("%s: %v", id, err)
			}
			l.want("1", id, "read", "")
			continue
		}
		l.coded(err, rpc.DeadlineExceeded, "clocks", "36", "5s")
		l.want("0", id, "read", "")
	}
}
