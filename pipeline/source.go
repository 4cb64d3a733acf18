package pipeline

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/pipeline/internal/pull"
)

// source is one consumer of a handler: that of EVENTS, or of its own lane.
type source struct {
	h        *handler
	stream   string
	capacity int // of deliveries held
	puller   *pull.Puller

	// What follows is guarded by the handler.
	held map[uint64]*delivery
	done recent
	last uint64 // place that was delivered, the highest
	// settled says that nothing is with another instance: before, one that has
	// got the pin runs nothing, so that what is older comes first.
	settled  bool
	settling bool
	waiting  []*delivery // until it is settled
}

// Times of a handler of which one instance has all events.
const (
	pinGroup = "owner"
	// pinFor is how long the pin stays when its holder says nothing.
	pinFor = 6 * time.Second
	// An instance that is not sure of its pin begins nothing (pull.Puller.Holds is
	// for three quarters of pinFor), before what it holds is delivered to another.
	pinAckWait = 5 * time.Second
	// pinHeld is how many deliveries the holder of the pin has at most.
	pinHeld = 1024

	settleEvery = 100 * time.Millisecond
)

// ackWait is how long the server waits for a delivery that it hears nothing of.
const ackWait = 30 * time.Second

func (h *handler) ackWait() time.Duration {
	if h.cfg.exclusive {
		return pinAckWait
	}
	return ackWait
}

// newSource makes the handler's consumer on a stream one that it is fed by. The
// handler is locked.
func (h *handler) newSource(stream string) *source {
	s := &source{h: h, stream: stream, held: map[uint64]*delivery{}, settled: !h.cfg.exclusive}
	s.capacity = h.capacity()
	cfg := pull.Config{Stream: stream, Consumer: h.durable, Message: s.message, Again: h.fill, Gone: func() { h.workers.look(h) }}
	if h.cfg.exclusive {
		cfg.Group, cfg.PinFor, cfg.Pinned = pinGroup, pinFor, s.pinned
	}
	s.puller = h.workers.hub.Puller(cfg)
	return s
}

// message takes in what was pulled.
func (s *source) message(m pull.Message) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.done.has(m.Sequence) { // the answer was lost
		d := newDelivery(s, m)
		d.answer(ackDone)
		h.fillLocked()
		return
	}
	s.last = max(s.last, m.Sequence)
	if d := s.held[m.Sequence]; d != nil { // the server has not heard of it for long
		d.reply.Store(&m.Reply)
		d.touched.Store(time.Now().UnixNano())
		d.deliveries = max(d.deliveries, m.Delivered)
		return
	}
	d := newDelivery(s, m)
	if h.stopping {
		d.giveBack(0)
		return
	}
	s.held[m.Sequence] = d
	if !s.settled {
		s.waiting = append(s.waiting, d)
		h.fillLocked()
		return
	}
	h.enqueue(d)
}

// pinned is called when this instance gets, or loses, all events of the handler.
func (s *source) pinned(got bool) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if !got {
		s.drop()
		return
	}
	if h.stopping || s.settling {
		return
	}
	s.settling = true
	h.workers.tasks.Go(s.settle)
}

// drop gives back what no attempt has begun with. The handler is locked.
func (s *source) drop() {
	s.settled = !s.h.cfg.exclusive
	s.waiting = nil
	for place, d := range s.held {
		if !d.running {
			d.dropped = true
			delete(s.held, place)
			d.giveBack(0)
		}
	}
	s.h.prune()
}

// settle waits until all that is delivered and not done is held here: what
// another instance had has come here, or has been done there. Then it lets it
// go, oldest first.
func (s *source) settle() {
	h := s.h
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	begun := time.Now()
	for warned := false; ; {
		if s.trySettle() {
			return
		}
		if !warned && time.Since(begun) > 6*pinAckWait {
			warned = true
			h.log.Warn().Msg("events are still with an instance that had them before; this one waits for them")
		}
		select {
		case <-ticker.C:
		case <-h.workers.life.Done():
			return
		}
	}
}

// trySettle reports whether there is nothing more to wait for.
func (s *source) trySettle() bool {
	h := s.h
	h.mu.Lock()
	pin, held := s.puller.Pin(), len(s.held)
	if pin == "" || h.stopping {
		s.settling = false
		h.mu.Unlock()
		return true
	}
	h.fillLocked()
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(h.workers.life, requestTimeout)
	defer cancel()
	consumer, err := h.workers.pipeline.js.Consumer(ctx, s.stream, h.durable) // asks for its state
	if err != nil || !s.puller.Holds(time.Now()) {
		return false
	}
	info := consumer.CachedInfo()
	group := slices.IndexFunc(info.PriorityGroups, func(g jetstream.PriorityGroupState) bool { return g.Group == pinGroup })
	if group < 0 || info.PriorityGroups[group].PinnedClientID != pin || info.NumAckPending > held {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.puller.Pin() != pin {
		return false
	}
	s.settled, s.settling = true, false
	waiting := s.waiting
	s.waiting = nil
	slices.SortFunc(waiting, func(a, b *delivery) int { return cmp.Compare(a.place, b.place) })
	for _, d := range waiting {
		if s.held[d.place] == d {
			h.enqueue(d)
		}
	}
	return true
}

// recent remembers the last places that are done: at least half of maxRecent.
type recent struct{ now, before map[uint64]struct{} }

const maxRecent = 1024

func (r *recent) add(place uint64) {
	if len(r.now) >= maxRecent/2 {
		r.before, r.now = r.now, nil
	}
	if r.now == nil {
		r.now = make(map[uint64]struct{}, 8)
	}
	r.now[place] = struct{}{}
}

func (r *recent) has(place uint64) bool {
	if _, ok := r.now[place]; ok {
		return true
	}
	_, ok := r.before[place]
	return ok
}
