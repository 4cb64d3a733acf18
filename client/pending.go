package client

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// pending knows the calls that wait for an answer. All answers come in on one
// wildcard subscription and are handed out by call number.
type pending struct {
	bus    *bus.Bus
	inbox  bus.Inbox
	max    int64
	count  atomic.Int64
	number atomic.Uint64
	shards [64]shard

	mu     sync.Mutex
	sub    *nats.Subscription
	ready  atomic.Bool
	closed bool
	done   chan struct{} // closed with it
}

type shard struct {
	mu      sync.Mutex
	waiters map[uint64]*waiter
	_       [48]byte // keeps the locks of two shards off one cache line
}

// What stands for an answer when none will come. Each is told by its address.
var (
	lostAnswer    = new(nats.Msg) // the connection that it would have come on broke
	deniedAnswer  = new(nats.Msg) // the bus does not permit the request
	noInboxAnswer = new(nats.Msg) // the bus does not permit answers to come in
	unsentAnswer  = new(nats.Msg) // the request did not go out
)

var errClosed = errors.New("the client is closed")

func (p *pending) init(b *bus.Bus, limit int) {
	p.bus, p.max, p.done = b, int64(limit), make(chan struct{})
	p.inbox = bus.NewInbox(b.InboxPrefix(), b.Name())
	for i := range p.shards {
		p.shards[i].waiters = map[uint64]*waiter{}
	}
}

// open subscribes to the inbox, once.
func (p *pending) open() error {
	if p.ready.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	if p.sub != nil {
		return nil
	}
	sub, err := p.bus.Conn().Subscribe(p.inbox.Wildcard(), p.deliver)
	if err != nil {
		return err
	}
	// Every waiting call has one answer to come: that is the bound.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	p.sub = sub
	p.ready.Store(true)
	return nil
}

func (p *pending) close() {
	p.mu.Lock()
	sub := p.sub
	p.closed = true
	close(p.done)
	p.ready.Store(false)
	p.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // fails only when the connection is gone
	}
	p.lost()
}

// ended reports whether close has been called.
func (p *pending) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// deliver hands an answer to the call it is for.
func (p *pending) deliver(msg *nats.Msg) { p.hand(msg.Subject, msg) }

// notSent tells the call that sent msg that it did not go out.
func (p *pending) notSent(msg *nats.Msg, _ error) { p.hand(msg.Reply, unsentAnswer) }

// hand gives an answer to the call with that reply subject. When nobody waits
// for it any more it is dropped.
func (p *pending) hand(reply string, msg *nats.Msg) {
	n, ok := p.inbox.CallNumber(reply)
	if !ok {
		return
	}
	s := &p.shards[n%uint64(len(p.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiters[n]; w != nil {
		delete(s.waiters, n)
		w.answers <- answer{n, msg} // has room for one a number
	}
}

// lost tells all waiting calls that their answers may never come.
func (p *pending) lost() {
	p.answerAll(lostAnswer, func(*waiter) bool { return true })
}

// denied tells the waiting calls that the bus does not permit them.
func (p *pending) denied(d bus.Denial) {
	switch {
	case !d.Subscribe:
		p.answerAll(deniedAnswer, func(w *waiter) bool { return w.subject == d.Subject })
	case d.Subject == p.inbox.Wildcard():
		p.answerAll(noInboxAnswer, func(*waiter) bool { return true })
	}
}

func (p *pending) answerAll(msg *nats.Msg, concerned func(*waiter) bool) {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		for n, w := range s.waiters {
			if concerned(w) {
				delete(s.waiters, n)
				w.answers <- answer{n, msg}
			}
		}
		s.mu.Unlock()
	}
}

func (p *pending) add(w *waiter) uint64 {
	n := p.number.Add(1)
	s := &p.shards[n%uint64(len(p.shards))]
	s.mu.Lock()
	s.waiters[n] = w
	s.mu.Unlock()
	return n
}

func (p *pending) remove(n uint64) {
	s := &p.shards[n%uint64(len(p.shards))]
	s.mu.Lock()
	delete(s.waiters, n)
	s.mu.Unlock()
}

// waiter is where a call waits. It is used again by later calls.
type waiter struct {
	subject string // of the requests whose answers it waits for
	answers chan answer
	timer   *time.Timer
}

type answer struct {
	number uint64
	msg    *nats.Msg
}

// maxOutstanding bounds the attempts of one call that are under way at once.
const maxOutstanding = 4

var waiters = sync.Pool{New: func() any {
	w := &waiter{answers: make(chan answer, maxOutstanding+1), timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	return w
}}

func (p *pending) enter(call *rpc.Call) (*waiter, error) {
	if n := p.count.Add(1); n > p.max {
		p.count.Add(-1)
		return nil, rpc.ResourceExhausted.Errorf("%s: not sent: %d calls of this client wait for answers already", call.Name(), p.max).NotExecuted()
	}
	return waiters.Get().(*waiter), nil
}

// leave gives the waiter back. No number of it may be registered any more.
func (p *pending) leave(w *waiter) {
	p.count.Add(-1)
	w.timer.Stop()
	for len(w.answers) > 0 {
		<-w.answers
	}
	waiters.Put(w)
}
