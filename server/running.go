package server

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
)

// running knows the calls that have been admitted and have not ended. Calls
// come and go all the time and are cancelled rarely: so it is lists, which cost
// the former next to nothing, and the latter looks through one of them.
type running struct {
	lists [32]runningList
}

type runningList struct {
	mu    sync.Mutex
	first *job
	_     [48]byte // keeps two locks off one cache line
}

// list returns the list for a call. The last byte of a reply subject or an id
// is the most random one.
func (r *running) list(reply, id string) *runningList {
	if reply == "" {
		reply = id
	}
	if reply == "" {
		return &r.lists[0]
	}
	return &r.lists[int(reply[len(reply)-1])%len(r.lists)]
}

func (r *running) add(j *job) {
	l := r.list(j.req.Reply, j.req.ID)
	l.mu.Lock()
	defer l.mu.Unlock()
	j.next = l.first
	if j.next != nil {
		j.next.prev = j
	}
	l.first = j
}

func (r *running) remove(j *job) {
	l := r.list(j.req.Reply, j.req.ID)
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.prev != nil {
		j.prev.next = j.next
	} else if l.first == j {
		l.first = j.next
	}
	if j.next != nil {
		j.next.prev = j.prev
	}
	j.next, j.prev = nil, nil
}

// byReply returns the call with that reply subject, or nil.
func (r *running) byReply(reply string) *job {
	l := r.list(reply, "")
	l.mu.Lock()
	defer l.mu.Unlock()
	for j := l.first; j != nil; j = j.next {
		if j.req.Reply == reply {
			return j
		}
	}
	return nil
}

// expired returns the calls without an answer whose deadline is not after now,
// and the earliest deadline of the others, if any.
func (r *running) expired(now time.Time) (over []*job, earliest time.Time) {
	for i := range r.lists {
		l := &r.lists[i]
		l.mu.Lock()
		for j := l.first; j != nil; j = j.next {
			switch deadline := j.ctx.deadline; {
			case j.answered.Load():
			case !deadline.After(now):
				over = append(over, j)
			case earliest.IsZero() || deadline.Before(earliest):
				earliest = deadline
			}
		}
		l.mu.Unlock()
	}
	return over, earliest
}

func (r *running) all() []*job {
	var all []*job
	for i := range r.lists {
		l := &r.lists[i]
		l.mu.Lock()
		for j := l.first; j != nil; j = j.next {
			all = append(all, j)
		}
		l.mu.Unlock()
	}
	return all
}

// onCancel cancels the call whose reply subject is the message's payload.
func (s *Service) onCancel(msg *nats.Msg) {
	reply := string(msg.Data)
	if !bus.AllowedReply(reply, s.config.ReplyPrefixes) {
		return
	}
	s.early.add(reply, time.Now())
	if j := s.active.byReply(reply); j != nil {
		s.early.take(reply)
		j.cancelByCaller()
	}
}
