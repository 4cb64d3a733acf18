package server

import (
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// intakeBuffer is how many messages may lie between the connection and the
// readers. There is always a reader that takes them out within microseconds.
// What finds the buffer full is dropped by nats.go without a word to anybody,
// so that must not come to pass: see relieve.
const (
	intakeBuffer = 64 << 10
	intakeCrowd  = intakeBuffer / 8
)

// backlogBytes bounds what relieve holds, of messages that count messageCost
// each beside their payloads. Only when refusals can't be sent for so long that
// this is full does the buffer fill up; the bus logs what is dropped then.
const (
	backlogBytes = 256 << 20
	messageCost  = 512
)

// Readers that have nothing to do: so many wait for messages, so many more rest
// until they are needed. What is over that ends.
const (
	waitingReaders = 2
	restingReaders = 64
)

// intake reads the service's subscription. Readers take turns: one that has
// taken a message serves it itself, which saves a hand-over between goroutines,
// and one that is about to run a handler while no other waits brings one in
// first. So a slow handler never keeps the next message waiting. Calls from
// this process are run by the same readers.
//
// Few readers wait, so that one that is done finds the next message without
// going to sleep. Those that rest are called back last in, first out: their
// stacks have grown to what handlers need and are still in the caches.
type intake struct {
	svc     *Service
	msgs    chan *nats.Msg
	waiting atomic.Int32
	crowded atomic.Bool // relieve is at work

	mu      sync.Mutex
	resting []chan *job
	closed  bool
}

func (in *intake) open() {
	in.msgs = make(chan *nats.Msg, intakeBuffer)
	in.call(nil)
}

// close lets the readers end when they have served what is in the buffer.
// Nothing may be put into it any more.
func (in *intake) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	close(in.msgs)
	for _, wake := range in.resting {
		close(wake)
	}
	in.resting = nil
}

// work runs j, if there is one, and serves what comes in, until it is not
// needed any more.
func (in *intake) work(j *job) {
	wake := make(chan *job, 1)
	for {
		if j != nil {
			in.svc.runFrom(j)
		} else if !in.serveOne() {
			return
		}
		j = nil
		if in.waiting.Load() < waitingReaders {
			continue
		}
		var needed bool
		if j, needed = in.rest(wake); !needed {
			return
		}
	}
}

// serveOne takes the next message and serves it; it reports false after the
// last.
func (in *intake) serveOne() bool {
	in.waiting.Add(1)
	msg, open := <-in.msgs
	in.waiting.Add(-1)
	if !open {
		return false
	}
	j := in.svc.take(msg)
	if len(in.msgs) > intakeCrowd && in.crowded.CompareAndSwap(false, true) {
		if j != nil {
			in.call(j)
		}
		in.relieve()
		return true
	}
	if j == nil {
		return true
	}
	if in.waiting.Load() == 0 {
		in.call(nil)
	}
	in.svc.runFrom(j)
	return true
}

// relieve keeps the buffer from filling up while messages come faster than they
// can be answered, be it that they are refused: taking them out costs far less
// than that. It runs no handlers, so nothing holds it up.
func (in *intake) relieve() {
	defer in.crowded.Store(false)
	var b backlog
	for in.empty(&b); len(b.msgs) > 0; in.empty(&b) {
		if j := in.svc.take(b.pop()); j != nil {
			in.call(j)
		}
	}
}

// backlog is what relieve has taken out of the buffer.
type backlog struct {
	msgs  []*nats.Msg
	bytes int
}

func (b *backlog) push(msg *nats.Msg) {
	b.msgs = append(b.msgs, msg)
	b.bytes += len(msg.Data) + messageCost
}

func (b *backlog) pop() *nats.Msg {
	msg := b.msgs[0]
	b.msgs[0], b.msgs = nil, b.msgs[1:]
	b.bytes -= len(msg.Data) + messageCost
	return msg
}

// empty moves what is in the buffer to the backlog, as far as it has room.
func (in *intake) empty(b *backlog) {
	for b.bytes < backlogBytes {
		select {
		case msg, open := <-in.msgs:
			if !open {
				return
			}
			b.push(msg)
		default:
			return
		}
	}
}

// call brings in one more reader, which runs j first unless that is nil.
func (in *intake) call(j *job) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n := len(in.resting); n > 0 {
		wake := in.resting[n-1]
		in.resting = in.resting[:n-1]
		wake <- j // has room: a reader rests once at a time
		return
	}
	in.svc.workers.Go(func() { in.work(j) })
}

// rest waits until the reader is called, and returns what it is to run first.
// It reports false when enough of them rest.
func (in *intake) rest(wake chan *job) (j *job, needed bool) {
	in.mu.Lock()
	if in.closed || len(in.resting) >= restingReaders {
		defer in.mu.Unlock()
		return nil, in.closed // what is left in the buffer is served still
	}
	in.resting = append(in.resting, wake)
	in.mu.Unlock()
	return <-wake, true
}
