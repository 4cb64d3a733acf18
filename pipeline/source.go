package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/pipeline/internal/pull"
)

// source is one consumer of a handler: that of EVENTS, or of its own lane.
type source struct {
	h        *handler
	stream   string
	capacity int // of deliveries held
	puller   *pull.Puller

	// What follows is guarded by the handler.
	held  map[place]*delivery
	bytes int // of what is held
	done  recent

	// The rest is for a handler of which one instance has all events.
	pin string // that was acted on last
	// settled says that nothing is with another instance: before, one that has
	// got the pin runs nothing, so that what is older comes first.
	settled  bool
	settling bool
	waiting  []*delivery // until it is settled
	expected int         // deliveries that are to be held when it is, as far as is known
	delivery uint64      // the last one's place among all of the consumer
	avoid    time.Time   // nothing is pulled before: another instance is to have it
	unpinned time.Time   // when it was said last that a message came without a pin
	full     time.Time   // when it was said last that nothing more is taken in
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

	// avoidFor is how long an instance leaves a lane to the one that has the events.
	avoidFor = 2 * time.Second

	// yieldPause is what it has to give up the pin, before the events go elsewhere.
	yieldPause = 100 * time.Millisecond
)

// maxHeldBytes is how much of the data of events a source holds before it asks
// for no more.
const maxHeldBytes = 64 << 20

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
	s := &source{h: h, stream: stream, held: map[place]*delivery{}, settled: !h.cfg.exclusive}
	s.capacity = h.capacity()
	cfg := pull.Config{Stream: stream, Consumer: h.durable, Message: s.message, Again: h.fill, Gone: func() { h.workers.look(h) }, Warn: s.warn}
	if h.cfg.exclusive {
		cfg.Group, cfg.PinFor, cfg.Pinned = pinGroup, pinFor, s.pinned
	}
	s.puller = h.workers.hub.Puller(cfg)
	return s
}

// warn says what keeps the server from delivering.
func (s *source) warn(text string) {
	s.h.log.Warn().Str("stream", s.stream).Str("status", text).Msg("the server does not take a pull")
}

// message takes in what was pulled.
func (s *source) message(m pull.Message) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	d := newDelivery(s, m)
	if h.cfg.exclusive && !s.pinnedMessage(m, d) {
		return
	}
	if s.done.has(d.place) { // the answer was lost
		d.answer(ackDone)
		h.fillLocked()
		return
	}
	if held := s.held[d.place]; held != nil { // the server has not heard of it for long
		held.reply.Store(&m.Reply)
		held.touched.Store(time.Now().UnixNano())
		held.deliveries.Store(int64(m.Delivered))
		return
	}
	if h.stopping {
		h.workers.attempts.untried(h, d)
		d.giveBack(0)
		return
	}
	s.held[d.place] = d
	s.bytes += len(m.Data)
	if !s.settled {
		s.waiting = append(s.waiting, d)
		h.fillLocked()
		return
	}
	h.enqueue(d)
}

// pinnedMessage takes in the pin under which a message has come; it reports false
// when the message is not taken. The handler is locked.
func (s *source) pinnedMessage(m pull.Message, d *delivery) bool {
	s.syncPin()
	if d.pin == "" { // the consumer is not one for a single instance, as an instance without OrderBy or the like has made it
		if now := time.Now(); now.Sub(s.unpinned) > tellEvery {
			s.unpinned = now
			s.h.log.Error().Msg("another instance has made the handler one without order: this one handles nothing; let all have the same options")
		}
		d.giveBack(time.Second)
		return false
	}
	if s.settled && m.Delivery != s.delivery+1 {
		s.settled = false // what was delivered between is lost, and comes again: before this one runs
		s.startSettling()
	}
	s.delivery = m.Delivery
	return true
}

// pinned is called when this instance may have got, or lost, all events of the
// handler.
func (s *source) pinned() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.syncPin()
}

// syncPin acts on what has become of the pin, whoever notices it. The handler is
// locked.
func (s *source) syncPin() {
	if pin := s.puller.Pin(); pin != s.pin {
		if s.pin != "" { // another may have had the events meanwhile
			s.drop(0)
		}
		s.pin = pin
	}
	s.startSettling()
}

// startSettling has the source settled if it is not. The handler is locked.
func (s *source) startSettling() {
	if s.pin == "" || s.settled || s.settling || s.h.stopping || time.Now().Before(s.avoid) {
		return
	}
	s.settling = true
	s.h.workers.tasks.Go(s.settle)
}

// drop gives back what no attempt has begun with, to come again after a while. The
// handler is locked.
func (s *source) drop(after time.Duration) {
	s.settled = !s.h.cfg.exclusive
	s.waiting, s.expected = nil, 0
	for _, d := range s.held {
		switch {
		case !d.running:
			d.dropped = true
			s.remove(d)
			s.h.workers.attempts.untried(s.h, d)
			d.giveBack(after)
		case d.preparing: // it is given back when that is done
			d.dropped = true
		}
	}
	s.h.prune()
}

// keeps reports whether a delivery that waits for its next attempt stays here: not
// when another instance is to have it. The handler is locked.
func (s *source) keeps(d *delivery) bool {
	if s.h.stopping || d.dropped || s.held[d.place] != d {
		return false
	}
	if d.pin != s.pin && s.settled { // it was with this instance all the time
		d.pin = s.pin
	}
	return d.pin == s.pin
}

// remove lets go of a delivery, if it is held. The handler is locked.
func (s *source) remove(d *delivery) {
	if s.held[d.place] == d {
		delete(s.held, d.place)
		s.bytes -= len(d.msg.Data)
	}
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
	s.syncPin()
	pin, held := s.pin, len(s.held)
	for _, d := range s.held {
		if d.dropped { // it comes again
			held--
		}
	}
	if pin == "" || h.stopping {
		s.settling = false
		h.mu.Unlock()
		return true
	}
	h.fillLocked()
	h.mu.Unlock()
	if !s.puller.Holds(time.Now()) {
		return false
	}
	ctx, cancel := context.WithTimeout(h.workers.life, requestTimeout)
	defer cancel()
	state, err := h.workers.pinState(ctx, s.stream, h.durable)
	if err == nil && state.pin != pin { // somebody has taken it, which pulls that keep it do not tell while nobody has another
		s.puller.Forgo(pin)
	}
	if err != nil || state.pin != pin {
		return false
	}
	h.mu.Lock()
	s.expected = state.pending
	h.mu.Unlock()
	if state.pending > held {
		return false
	}
	if mine, err := s.alone(ctx); err != nil || !mine {
		return s.yielded(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.syncPin()
	if s.pin != pin {
		return false
	}
	s.settled, s.settling = true, false
	waiting := s.waiting
	s.waiting = nil
	slices.SortFunc(waiting, func(a, b *delivery) int { return cmp.Compare(a.place.sequence, b.place.sequence) })
	for _, d := range waiting {
		if s.held[d.place] == d {
			h.enqueue(d)
		}
	}
	return true
}

// alone reports whether no other instance is at work for the handler. A handler
// has two consumers, and their pins may be with two instances, since a pin goes to
// whoever waits when a message comes. The one that has the pin of EVENTS is to
// have both: it begins when nothing of the lane is with another, and the other
// begins nothing from the lane any more.
func (s *source) alone(ctx context.Context) (bool, error) {
	h := s.h
	h.mu.Lock()
	main, lane := h.main, h.lane
	h.mu.Unlock()
	if s == main {
		held := 0
		if lane != nil {
			h.mu.Lock()
			held = len(lane.held)
			h.mu.Unlock()
		}
		state, err := h.workers.pinState(ctx, LaneStream, h.durable)
		return state.pending <= held, err
	}
	if main.puller.Holds(time.Now()) {
		return true, nil
	}
	state, err := h.workers.pinState(ctx, bus.EventsStream, h.durable)
	return state.pin == "" || state.pin == main.puller.Pin(), err
}

// yielded leaves a lane to the instance that has the events, unless it is not
// known whether there is one. It reports whether settling has ended.
func (s *source) yielded(err error) bool {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || s == h.main {
		return false
	}
	s.yield()
	return true
}

// yield leaves what comes to another instance for a while. The handler is locked.
func (s *source) yield() {
	if s.h.stopping {
		return
	}
	s.settling, s.avoid = false, time.Now().Add(avoidFor)
	s.drop(yieldPause) // it would come back here while the pin is here
	if pin := s.pin; pin != "" {
		s.h.workers.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(s.h.workers.life, requestTimeout)
			defer cancel()
			s.h.workers.unpin(ctx, s, pin)
		})
	}
}

// pinState is what the server says of a consumer that one instance has.
type pinState struct {
	pin     string
	pending int // delivered, and not done
}

// pinState asks for the state of a consumer. One that is not there has none.
func (w *workers) pinState(ctx context.Context, stream, name string) (pinState, error) {
	consumer, err := w.pipeline.js.Consumer(ctx, stream, name) // asks for it
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return pinState{}, nil
	}
	if err != nil {
		return pinState{}, err
	}
	info := consumer.CachedInfo()
	state := pinState{pending: info.NumAckPending}
	for _, group := range info.PriorityGroups {
		if group.Group == pinGroup {
			state.pin = group.PinnedClientID
		}
	}
	return state, nil
}

// recent remembers the last places that are done: at least half of maxRecent.
type recent struct{ now, before map[place]struct{} }

const maxRecent = 1024

func (r *recent) add(p place) {
	if len(r.now) >= maxRecent/2 {
		r.before, r.now = r.now, r.before
		clear(r.now) // to be used again: it has the size
	}
	if r.now == nil {
		r.now = make(map[place]struct{}, 8)
	}
	r.now[p] = struct{}{}
}

func (r *recent) has(p place) bool {
	if _, ok := r.now[p]; ok {
		return true
	}
	_, ok := r.before[p]
	return ok
}
