package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

const (
	// maxLast is how many messages the server returns the last of, at most.
	maxLast = 1024
	// maxReadBytes is when the server ends an answer. The rest is asked for then,
	// so that neither side has to hold more.
	maxReadBytes = 8 << 20
)

// directGet is a request for several messages (ADR-31).
type directGet struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

// readEnd says what an answer of several messages has left out.
type readEnd struct {
	upTo uint64 // the last sequence that the replica has; only multi_last says it
	left uint64 // how many messages follow
}

// errNothing is the error of a read that found no message. It does not say up to
// where the replica has looked.
var errNothing = errors.New("journal: no message")

// many returns messages of one replica, as of one moment. None is left out
// unless the end says so.
func (j *Journal) many(ctx context.Context, get directGet) ([]*Stored, readEnd, error) {
	fail := func(err error) ([]*Stored, readEnd, error) {
		return nil, readEnd{}, fmt.Errorf("journal: read from %s: %w", j.stream, err)
	}
	request, err := json.Marshal(get)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	g := j.gathers.enter()
	defer j.gathers.leave(g)
	if err := j.bus.Conn().PublishRequest("$JS.API.DIRECT.GET."+j.stream, g.reply, request); err != nil {
		return fail(err)
	}
	var all []*Stored
	before := uint64(0)
	for {
		msg, err := j.gathers.next(ctx, g)
		if err != nil {
			return fail(err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "", "204":
			if last, err := strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64); err != nil || last != before {
				return fail(errGap)
			}
		case "404":
			return nil, readEnd{}, errNothing
		case "413":
			return nil, readEnd{}, ErrTooMany
		default:
			return fail(fmt.Errorf("%s %s", status, msg.Header.Get("Description")))
		}
		if msg.Header.Get("Status") != "" {
			end, err := readEOB(msg)
			if err != nil {
				return fail(err)
			}
			return all, end, nil
		}
		m, err := j.stored(msg)
		if err != nil {
			return nil, readEnd{}, err
		}
		before = m.Sequence
		all = append(all, m)
	}
}

// errGap is the error of a read of whose answer a part was lost on the way, as
// when the connection was.
var errGap = errors.New("a part of the answer is missing")

func readEOB(msg *nats.Msg) (end readEnd, err error) {
	if end.left, err = strconv.ParseUint(msg.Header.Get("Nats-Num-Pending"), 10, 64); err != nil {
		return end, errors.New("the end of the answer does not say what is left")
	}
	end.upTo, _ = strconv.ParseUint(msg.Header.Get("Nats-UpTo-Sequence"), 10, 64)
	return end, nil
}

// gathers matches answers of several messages with the reads that wait for them.
type gathers struct {
	inbox string
	sub   *nats.Subscription

	mu      sync.Mutex
	closed  chan struct{}
	last    uint64
	waiting map[uint64]*gather
}

// gather is what has come of an answer.
type gather struct {
	number uint64
	reply  string
	msgs   []*nats.Msg   // guarded by gathers.mu
	more   chan struct{} // has room for one
}

func (a *gathers) open(b *bus.Bus) (err error) {
	a.inbox = b.InboxPrefix() + ".journal-" + nuid.Next() + "."
	a.waiting, a.closed = map[uint64]*gather{}, make(chan struct{})
	a.sub, err = b.Conn().Subscribe(a.inbox+"*", a.receive)
	return err
}

func (a *gathers) close() {
	_ = a.sub.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	close(a.closed)
}

func (a *gathers) enter() *gather {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	g := &gather{number: a.last, reply: a.inbox + strconv.FormatUint(a.last, 36), more: make(chan struct{}, 1)}
	a.waiting[g.number] = g
	return g
}

func (a *gathers) leave(g *gather) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, g.number)
}

func (a *gathers) receive(msg *nats.Msg) {
	n, err := strconv.ParseUint(msg.Subject[len(a.inbox):], 36, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.waiting[n]; g != nil {
		g.msgs = append(g.msgs, msg)
		select {
		case g.more <- struct{}{}:
		default:
		}
	}
}

// next returns the next message of an answer.
func (a *gathers) next(ctx context.Context, g *gather) (*nats.Msg, error) {
	for {
		a.mu.Lock()
		if len(g.msgs) > 0 {
			msg := g.msgs[0]
			g.msgs = g.msgs[1:]
			a.mu.Unlock()
			return msg, nil
		}
		a.mu.Unlock()
		select {
		case <-g.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-a.closed:
			return nil, errClosed
		}
	}
}

var errClosed = errors.New("the journal is closed")
