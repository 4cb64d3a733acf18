package bus

import (
	"errors"
	"runtime"
	"sync"

	"github.com/nats-io/nats.go"
)

// Outbox hands messages to the connection for many goroutines at once. Whoever
// finds nobody sending starts a sender, which first lets the others that are
// ready to run add their messages: the connection then writes them in one
// piece, where each on its own would cost a system call.
//
// A goroutine that sends alone is better off publishing by itself: see Crowd.
// An outbox has no bound of its own; it is for messages of which each goroutine,
// or each call under way, has one in it at a time.
type Outbox struct {
	bus    *Bus
	failed func(msg *nats.Msg, err error)

	mu      sync.Mutex
	queue   []*nats.Msg
	spare   []*nats.Msg
	sending bool
	closed  bool
	senders sync.WaitGroup
}

// Crowd is how many calls under way make an outbox worth its while.
const Crowd = 8

// errOutboxClosed is why a message fails that is put after Close.
var errOutboxClosed = errors.New("bus: the outbox is closed")

// NewOutbox makes an outbox. Failed is called for each message that surely was
// not sent, with the reason; it must not wait for anything.
func NewOutbox(b *Bus, failed func(msg *nats.Msg, err error)) *Outbox {
	return &Outbox{bus: b, failed: failed}
}

// Put takes msg to be sent soon, after those that were put before it. When the
// outbox is closed msg has failed at once.
func (o *Outbox) Put(msg *nats.Msg) {
	if !o.enqueue(msg) {
		o.failed(msg, errOutboxClosed)
	}
}

func (o *Outbox) enqueue(msg *nats.Msg) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.queue = append(o.queue, msg)
	if !o.sending {
		o.sending = true
		o.senders.Go(o.send)
	}
	return true
}

// Close takes no more and waits until everything that was put has been sent.
func (o *Outbox) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.senders.Wait()
}

func (o *Outbox) send() {
	for {
		runtime.Gosched()
		batch := o.take()
		if len(batch) == 0 {
			return
		}
		for i, msg := range batch {
			if err := o.bus.conn.PublishMsg(msg); err != nil {
				o.failed(msg, err)
			}
			batch[i] = nil
		}
		o.giveBack(batch)
	}
}

// take returns what is to be sent. When that is nothing the sender ends.
func (o *Outbox) take() []*nats.Msg {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.sending = false
		return nil
	}
	batch := o.queue
	o.queue, o.spare = o.spare, nil
	return batch
}

// giveBack keeps the memory of a batch for the next.
func (o *Outbox) giveBack(batch []*nats.Msg) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spare = batch[:0]
}
