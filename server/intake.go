package server

import (
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// intakeBuffer is how many messages may lie between the connection and the
// readers. There is always a reader that takes them out within microseconds;
// the buffer only has to hold what arrives in one burst.
const intakeBuffer = 64 << 10

// Readers that have nothing to do: so many wait for messages, so many more rest
// until they are needed. What is over that ends.
const (
	waitingReaders = 2
	restingReaders = 64
)

// intake reads the service's subscription. Readers take turns: one that has
// taken a message serves it itself, which saves a hand-over between goroutines,
// and one that takes the last waiting place puts another in it first. So a slow
// handler never keeps the next message waiting.
//
// Few readers wait, so that one that is done finds the next message without
// going to sleep. Those that rest are called back last in, first out: their
// stacks have grown to what handlers need and are still in the caches.
type intake struct {
	svc     *Service
	msgs    chan *nats.Msg
	waiting atomic.Int32

	mu      sync.Mutex
	resting []chan struct{}
	closed  bool
}

func (in *intake) open() {
	in.msgs = make(chan *nats.Msg, intakeBuffer)
	in.svc.workers.Go(in.read)
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

func (in *intake) read() {
	wake := make(chan struct{}, 1)
	for {
		in.waiting.Add(1)
		msg, open := <-in.msgs
		last := in.waiting.Add(-1) == 0
		if !open {
			return
		}
		if last {
			in.call()
		}
		in.svc.serve(msg)
		if in.waiting.Load() >= waitingReaders && !in.rest(wake) {
			return
		}
	}
}

// call brings in one more reader.
func (in *intake) call() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n := len(in.resting); n > 0 {
		wake := in.resting[n-1]
		in.resting = in.resting[:n-1]
		wake <- struct{}{} // has room: a reader rests once at a time
		return
	}
	in.svc.workers.Go(in.read)
}

// rest waits until the reader is called; it reports false when enough rest.
func (in *intake) rest(wake chan struct{}) bool {
	in.mu.Lock()
	if !in.closed {
		if len(in.resting) >= restingReaders {
			in.mu.Unlock()
			return false
		}
		in.resting = append(in.resting, wake)
		in.mu.Unlock()
		<-wake
		return true
	}
	in.mu.Unlock()
	return true
}
