package client

import (
	"runtime"
	"sync"

	"github.com/nats-io/nats.go"
)

// outbox hands messages to the connection for many goroutines at once. Whoever
// finds nobody sending starts a sender, which first lets the others that are
// ready to run add their messages: the connection then writes them in one
// piece, where each on its own would cost a system call.
//
// A goroutine that sends alone is better off publishing by itself. What is in
// the outbox is bounded by the calls under way, each of which puts one message.
type outbox struct {
	conn   *nats.Conn
	failed func(msg *nats.Msg) // called for each message that could not be sent

	mu      sync.Mutex
	queue   []*nats.Msg
	spare   []*nats.Msg
	sending bool
	closed  bool
	senders sync.WaitGroup
}

// crowd is how many calls under way make an outbox worth its while.
const crowd = 8

// put takes msg to be sent soon, after those that were put before it. When the
// outbox is closed msg has failed at once.
func (o *outbox) put(msg *nats.Msg) {
	if !o.enqueue(msg) {
		o.failed(msg)
	}
}

func (o *outbox) enqueue(msg *nats.Msg) bool {
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

// close takes no more and waits until everything that was put has been sent.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.senders.Wait()
}

func (o *outbox) send() {
	for {
		runtime.Gosched()
		batch := o.take()
		if len(batch) == 0 {
			return
		}
		for i, msg := range batch {
			if err := o.conn.PublishMsg(msg); err != nil {
				o.failed(msg)
			}
			batch[i] = nil
		}
		o.giveBack(batch)
	}
}

// take returns what is to be sent. When that is nothing the sender ends.
func (o *outbox) take() []*nats.Msg {
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
func (o *outbox) giveBack(batch []*nats.Msg) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spare = batch[:0]
}
