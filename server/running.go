package server

import (
	"hash/maphash"
	"sync"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// running knows the calls that have been admitted and have not ended, by their
// reply subjects, so that they can be cancelled.
type running struct {
	seed   maphash.Seed
	shards [16]struct {
		mu   sync.Mutex
		jobs map[string]*job
		anon map[*job]struct{} // without a reply subject
	}
}

func (r *running) init() {
	r.seed = maphash.MakeSeed()
	for i := range r.shards {
		r.shards[i].jobs = map[string]*job{}
		r.shards[i].anon = map[*job]struct{}{}
	}
}

func (r *running) shard(reply string) int {
	return int(maphash.String(r.seed, reply) % uint64(len(r.shards)))
}

func (r *running) add(j *job) {
	s := &r.shards[r.shard(j.req.Reply)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.req.Reply == "" {
		s.anon[j] = struct{}{}
		return
	}
	s.jobs[j.req.Reply] = j
}

func (r *running) remove(j *job) {
	s := &r.shards[r.shard(j.req.Reply)]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.anon, j)
	if s.jobs[j.req.Reply] == j {
		delete(s.jobs, j.req.Reply)
	}
}

func (r *running) byReply(reply string) *job {
	s := &r.shards[r.shard(reply)]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[reply]
}

func (r *running) all() []*job {
	var all []*job
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, j := range s.jobs {
			all = append(all, j)
		}
		for j := range s.anon {
			all = append(all, j)
		}
		s.mu.Unlock()
	}
	return all
}

// onCancel cancels the call whose reply subject is the message's payload.
func (s *Service) onCancel(msg *nats.Msg) {
	if j := s.active.byReply(string(msg.Data)); j != nil {
		j.cancel(rpc.Canceled.Errorf("the caller gave up"))
	}
}
