package journal

import (
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
)

// Writer is who wants to know what came of a message that was sent.
type Writer interface {
	// Written is called once, with what Write would return, from a goroutine that
	// must not be held up.
	Written(first uint64, err error)
}

// Send stores one message as WriteWithin does, and returns at once.
func (j *Journal) Send(timeout time.Duration, m Message, w Writer) {
	p, crowded := j.acks.promise(timeout, w)
	if p == nil {
		w.Written(0, &Rejected{Description: "the journal has ended", Passing: true})
		return
	}
	msg := &nats.Msg{Subject: j.prefix + m.Key, Reply: p.reply, Header: m.Header, Data: m.Data}
	if !j.bus.Connected() {
		j.notSent(msg, errNotSent)
		return
	}
	if crowded {
		j.outbox.Put(msg)
		return
	}
	if err := j.bus.Conn().PublishMsg(msg); err != nil {
		j.notSent(msg, err)
	}
}

// notSent ends the promise of a message that surely did not go out.
func (j *Journal) notSent(msg *nats.Msg, err error) {
	if w := j.acks.takeBack(msg.Reply); w != nil {
		w.Written(0, &Rejected{Description: err.Error(), Passing: !errors.Is(err, nats.ErrMaxPayload)})
	}
}

// promise is a write whose answer goes to its Writer.
//
// One that was kept serves again, so that the bus sees the same few subjects
// all the time: one that it has not seen costs it more than the rest of an
// answer. Sequences only grow, so an answer that comes once more says no more
// than the last one did and can't be taken for that to the next write. A promise
// that ended otherwise is not used again: its answer may be on the way.
type promise struct {
	number uint64
	reply  string
	last   uint64 // sequence of the write before
	writer Writer
	sweeps int // so many more it may wait for
}

// promises are guarded by acks.mu.
type promises struct {
	made  map[uint64]*promise
	kept  []*promise
	swept chan struct{} // closed when sweep has ended
	ended bool          // no promise is made any more
}

// maxKept bounds the promises that wait for their next use.
const maxKept = 1024

func (p *promises) open() {
	p.made, p.swept = map[uint64]*promise{}, make(chan struct{})
}

// promise makes a promise, nil when the journal has ended. It reports whether
// there are many.
func (a *acks) promise(timeout time.Duration, w Writer) (p *promise, crowded bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.promises.ended {
		return nil, false
	}
	if n := len(a.promises.kept); n > 0 {
		p = a.promises.kept[n-1]
		a.promises.kept = a.promises.kept[:n-1]
	} else {
		a.next++
		p = &promise{number: a.next, reply: a.inbox + strconv.FormatUint(a.next, 36)}
	}
	p.writer, p.sweeps = w, 1+int((timeout+sweepEvery-1)/sweepEvery)
	a.promises.made[p.number] = p
	return p, len(a.promises.made) >= bus.Crowd
}

// answered keeps a promise. It is called with a locked, and unlocks it.
func (a *acks) answered(p *promise, msg *nats.Msg) {
	seq, err := readAck(msg, 1)
	if err == nil && seq <= p.last {
		a.mu.Unlock()
		return
	}
	w := p.writer
	p.writer, p.last = nil, seq
	delete(a.promises.made, p.number)
	if err == nil && len(a.promises.kept) < maxKept {
		a.promises.kept = append(a.promises.kept, p)
	}
	a.mu.Unlock()
	w.Written(seq, err)
}

// takeBack ends the promise with that reply subject and returns who waits for
// it, if anybody still does.
func (a *acks) takeBack(reply string) Writer {
	n, _ := strconv.ParseUint(reply[len(a.inbox):], 36, 64) // it is one of ours
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.promises.made[n]
	if p == nil {
		return nil
	}
	delete(a.promises.made, n)
	return p.writer
}

// sweepEvery is by how much a promise may be late to end without an answer.
const sweepEvery = 250 * time.Millisecond

// sweep ends promises that get no answer in time, and all when the journal ends.
func (a *acks) sweep() {
	defer close(a.promises.swept)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for ended := false; !ended; {
		select {
		case <-ticker.C:
		case <-a.done:
			ended = true
		}
		var late []Writer
		a.mu.Lock()
		a.promises.ended = ended
		for n, p := range a.promises.made {
			if p.sweeps--; ended || p.sweeps <= 0 {
				delete(a.promises.made, n)
				late = append(late, p.writer)
			}
		}
		a.mu.Unlock()
		for _, w := range late {
			w.Written(0, ErrNoAnswer)
		}
	}
}
