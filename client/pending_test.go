package client

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

func newPending(t *testing.T, limit int) *pending {
	p := new(pending)
	p.init(bustest.New(t), limit)
	return p
}

// reply makes the message that answers call number n and says so in its payload.
func (p *pending) reply(n uint64) *nats.Msg {
	return &nats.Msg{
		Subject: p.inbox.ReplySubject(n, time.Second, time.Now()),
		Data:    strconv.AppendUint(nil, n, 10),
	}
}

// TestPendingProperty lets callers come and go while answers arrive, twice at
// times, and the connection is lost again and again. Every number that is
// waited for is answered once: with its own answer, or with its loss.
func TestPendingProperty(t *testing.T) {
	t.Parallel()
	const callers, rounds = 32, 300
	p := newPending(t, callers)
	network := make(chan uint64, callers*maxOutstanding)
	var carriers, working sync.WaitGroup
	for range 4 {
		carriers.Go(func() {
			for n := range network {
				p.deliver(p.reply(n))
				switch rand.IntN(50) {
				case 0:
					p.lost()
				case 1, 2, 3:
					p.deliver(p.reply(n))
				case 4, 5, 6:
					p.notSent(&nats.Msg{Reply: p.reply(n).Subject}, nil)
				}
			}
		})
	}
	var answered, lost, left atomic.Int64
	for range callers {
		working.Go(func() {
			for range rounds {
				w, err := p.enter(&rpc.Call{})
				if err != nil {
					t.Error(err)
					return
				}
				open := map[uint64]bool{}
				for range 1 + rand.IntN(maxOutstanding) {
					n := p.add(w)
					open[n] = true
					network <- n
				}
				patience := len(open)
				if rand.IntN(3) == 0 { // gives up early
					patience = rand.IntN(len(open))
					left.Add(1)
				}
				for range patience {
					select {
					case a := <-w.answers:
						if !open[a.number] {
							t.Errorf("an answer to %d, which this caller does not wait for", a.number)
						}
						delete(open, a.number)
						switch {
						case a.msg == lostAnswer:
							lost.Add(1)
						case a.msg == unsentAnswer:
						case string(a.msg.Data) != strconv.FormatUint(a.number, 10):
							t.Errorf("call %d got the answer to %s", a.number, a.msg.Data)
						default:
							answered.Add(1)
						}
					case <-time.After(10 * time.Second):
						t.Errorf("no answer to any of %v", open)
						return
					}
				}
				for n := range open {
					p.remove(n)
				}
				p.leave(w)
			}
		})
	}
	working.Wait()
	close(network)
	carriers.Wait()
	if n := p.count.Load(); n != 0 {
		t.Errorf("%d calls are counted as waiting after the last", n)
	}
	for i := range p.shards {
		if n := len(p.shards[i].waiters); n != 0 {
			t.Errorf("%d numbers are left in shard %d", n, i)
		}
	}
	if answered.Load() == 0 || lost.Load() == 0 || left.Load() == 0 {
		t.Errorf("%d answered, %d lost, %d gave up: the test has not shown anything", answered.Load(), lost.Load(), left.Load())
	}
}

// TestWaitersAreReusedClean leaves answers unread and looks for them in the
// waiters that come from the pool afterwards.
func TestWaitersAreReusedClean(t *testing.T) {
	t.Parallel()
	p := newPending(t, 10)
	for range 1000 {
		w, err := p.enter(&rpc.Call{})
		if err != nil {
			t.Fatal(err)
		}
		if len(w.answers) != 0 {
			t.Fatal("a waiter from the pool has an answer already")
		}
		var numbers [maxOutstanding]uint64
		for i := range numbers {
			numbers[i] = p.add(w)
		}
		p.deliver(p.reply(numbers[0]))
		p.deliver(p.reply(numbers[0])) // again: nobody waits for it
		p.deliver(p.reply(numbers[1]))
		p.lost()
		w.timer.Reset(0)
		p.leave(w)
		p.deliver(p.reply(numbers[2])) // too late
	}
}

func TestPendingIgnoresOddReplies(t *testing.T) {
	t.Parallel()
	p := newPending(t, 1)
	w, err := p.enter(&rpc.Call{})
	if err != nil {
		t.Fatal(err)
	}
	n := p.add(w)
	inbox := string(p.inbox)
	for _, subject := range []string{
		"", "elsewhere", inbox, inbox + "1", inbox + "!.t1-1", inbox + ".t1-1",
		inbox + "-1.t1-1", inbox + "zzzzzzzzzzzzzzzzzzzz.t1-1", inbox + strconv.FormatUint(n+1, 36) + ".t1-1",
	} {
		p.deliver(&nats.Msg{Subject: subject})
		p.notSent(&nats.Msg{Reply: subject}, nil)
	}
	if len(w.answers) != 0 {
		t.Errorf("an odd subject was taken for an answer: %+v", <-w.answers)
	}
	p.remove(n)
	p.leave(w)
}

func TestPendingBound(t *testing.T) {
	t.Parallel()
	const limit = 5
	p := newPending(t, limit)
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 500 {
				w, err := p.enter(&rpc.Call{Service: "calc", Method: "add"})
				if err != nil {
					if rpc.CodeOf(err) != rpc.ResourceExhausted {
						t.Error(err)
					}
					continue
				}
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				inside.Add(-1)
				p.leave(w)
			}
		})
	}
	wg.Wait()
	if most.Load() > limit {
		t.Errorf("%d calls waited at once, at most %d may", most.Load(), limit)
	}
	if _, err := p.enter(&rpc.Call{}); err != nil {
		t.Errorf("no place is free though nobody waits: %v", err)
	}
}

// TestDeniedAmongAttempts denies another subject while calls send attempt after
// attempt; the race detector sees what is shared.
func TestDeniedAmongAttempts(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	sub, err := b.Conn().SubscribeSync("rpc.calc.>") // never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	c := New(b, Config{})
	ended := rpc.NewMethod[int, int]("calc.m", rpc.Idempotent()).Go(t.Context(), c, 1, rpc.WithTimeout(200*time.Millisecond))
	for {
		select {
		case <-ended.Done():
			if _, err := ended.Wait(t.Context()); rpc.CodeOf(err) != rpc.DeadlineExceeded {
				t.Error(err)
			}
			return
		default:
			c.pending.denied(bus.Denial{Subject: "rpc.calc.other"})
		}
	}
}

func TestPendingCloses(t *testing.T) {
	t.Parallel()
	p := newPending(t, 10)
	if err := p.open(); err != nil {
		t.Fatal(err)
	}
	w, err := p.enter(&rpc.Call{})
	if err != nil {
		t.Fatal(err)
	}
	n := p.add(w)
	if p.ended() {
		t.Error("ended before it was closed")
	}
	p.close()
	if a := <-w.answers; a.number != n || a.msg != lostAnswer {
		t.Errorf("answer %+v, want the loss of %d", a, n)
	}
	if !p.ended() || p.open() == nil {
		t.Error("open after it was closed")
	}
	p.leave(w)
}
