package pipeline

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
)

// handler is one handler of this instance.
type handler struct {
	service, name, version string
	durable                string // the name of its consumers
	cfg                    handlerConfig
	typed                  typed
	patterns               []Pattern
	workers                *workers
	log                    zerolog.Logger
	created                atomic.Int64 // when the consumer was made, in Unix nanoseconds

	mu        sync.Mutex // guards what follows
	stopping  bool
	looking   bool // at the consumers, which did not answer
	elsewhere elsewhere
	seen      seen
	main      *source
	lane      *source // nil while there is nothing in it

	inbound  []*delivery // to be prepared, in order
	pumping  bool        // somebody prepares
	boxes    map[string]*box
	bursts   map[string]*burst
	batch    []*delivery // grows until it is full, or old
	batchAt  *time.Timer
	ready    []unit // to be run
	running  map[*run]struct{}
	active   int           // goroutines that have a unit
	parked   int           // goroutines that wait for one
	offer    chan unit     // to those that are parked; nil ends one
	rested   time.Time     // when the last has parked
	leftLane time.Time     // when it was looked whether another instance is to have it
	begun    []time.Time   // when the last attempts began, for the throttle
	wakeAt   *time.Timer   // when the throttle lets the next one begin
	pace     time.Duration // of one attempt, a moving mean; 0 before the first
}

// unit is what one attempt runs.
type unit []*delivery

// run is a goroutine that runs units.
type run struct {
	unit unit
	// What follows is guarded by the handler.
	busy  bool // it has a unit
	live  unit // that the function runs with, nil while it does not
	began time.Time
	over  bool      // the attempt was given up
	told  time.Time // that it does not end
}

// aheadFor is how much work a handler holds beyond what it runs, so that nobody
// waits for the next event, and nobody else is without work for long.
const aheadFor = 100 * time.Millisecond

// maxAhead bounds what is held, however quick the handler is.
const maxAhead = 512

// maxBatches bounds the same for a handler of batches.
const maxBatches = 20 * maxBatch

// capacity is how many deliveries of one source the handler holds. The handler
// is locked.
func (h *handler) capacity() int {
	if h.cfg.exclusive {
		return pinHeld
	}
	n := 2 * h.cfg.concurrency
	if h.pace > 0 {
		ahead := min(int64(aheadFor/h.pace), math.MaxInt32)
		n = h.cfg.concurrency + int(min(max(ahead, 1)*int64(h.cfg.concurrency), maxAhead))
	}
	if h.typed.batch {
		n = max(n, 2) * h.cfg.batch
		return min(n, maxBatches)
	}
	return n
}

// fill asks for what there is room for.
func (h *handler) fill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fillLocked()
}

func (h *handler) fillLocked() {
	if h.stopping || h.main == nil {
		return
	}
	h.main.fill()
	if h.lane != nil {
		h.lane.fill()
	}
}

// fill asks for what there is room for. The handler is locked.
func (s *source) fill() {
	s.capacity = s.h.capacity()
	switch {
	case s.h.cfg.exclusive && time.Now().Before(s.avoid):
	case !s.settled && s.pin != "": // it waits for all that another instance has had, however few are left
		s.puller.Fill(max(s.capacity, s.expected)-len(s.held), 1)
	case s.bytes < maxHeldBytes:
		s.puller.Fill(s.capacity-len(s.held), s.capacity)
	}
	if s.h.cfg.exclusive && (len(s.held) >= s.capacity || s.bytes >= maxHeldBytes) && time.Since(s.full) > tellEvery {
		s.full = time.Now()
		s.h.log.Warn().Int("held", len(s.held)).Msg("so many events are not done that no more are taken in: those that fail, or wait for their key, hold up the others")
	}
}

// enqueue takes in a delivery. The handler is locked.
func (h *handler) enqueue(d *delivery) {
	switch {
	case h.cfg.key != nil:
		h.inbound = append(h.inbound, d)
		if !h.pumping {
			h.pumping = true
			h.workers.tasks.Go(h.pump)
		}
	case h.typed.batch:
		h.gather(d)
	default:
		h.push(unit{d})
	}
}

// gather makes deliveries a batch. The handler is locked.
func (h *handler) gather(d *delivery) {
	h.batch = append(h.batch, d)
	switch {
	case len(h.batch) >= h.cfg.batch:
		h.flush()
	case len(h.batch) == 1 && h.batchAt == nil:
		h.batchAt = time.AfterFunc(h.cfg.wait, h.flushOld)
	case len(h.batch) == 1:
		h.batchAt.Reset(h.cfg.wait)
	}
}

func (h *handler) flushOld() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.stopping {
		h.flush()
	}
}

// flush has what was gathered run. The handler is locked.
func (h *handler) flush() {
	if h.batchAt != nil {
		h.batchAt.Stop()
	}
	if len(h.batch) > 0 {
		u := unit(h.batch)
		h.batch = nil
		slices.SortFunc(u, func(a, b *delivery) int { return cmp.Compare(a.stored.Sequence, b.stored.Sequence) }) // some may come again
		h.push(u)
	}
}

// push has a unit run when its turn comes. The handler is locked.
func (h *handler) push(u unit) {
	h.ready = append(h.ready, u)
	h.begin()
}

// begin has what is ready, and may run, run. The handler is locked.
func (h *handler) begin() {
	for h.active < h.cfg.concurrency {
		u := h.next()
		if u == nil {
			return
		}
		h.active++
		if h.parked > 0 {
			h.parked--
			h.offer <- u // has room for all that are parked
			continue
		}
		r := &run{unit: u, busy: true}
		h.running[r] = struct{}{}
		h.workers.runs.Go(func() { h.work(r) })
	}
}

// next returns the next unit to run, nil for none. The handler is locked.
func (h *handler) next() unit {
	for !h.stopping && len(h.ready) > 0 {
		u := h.ready[0]
		if u = slices.DeleteFunc(u, func(d *delivery) bool { return d.dropped }); len(u) > 0 && h.cfg.throttle > 0 && !h.mayBegin(time.Now()) {
			h.ready[0] = u
			return nil
		}
		h.ready[0] = nil
		h.ready = h.ready[1:]
		if len(h.ready) == 0 {
			h.ready = nil // so that what it has grown to is let go
		}
		for _, d := range u {
			d.running, d.out = true, outcome{}
		}
		if len(u) > 0 {
			return u
		}
	}
	return nil
}

// mayBegin reports whether the throttle lets one more begin, and notes that it
// does. The handler is locked.
func (h *handler) mayBegin(now time.Time) bool {
	for len(h.begun) > 0 && now.Sub(h.begun[0]) >= h.cfg.per {
		h.begun = h.begun[1:]
	}
	if len(h.begun) < h.cfg.throttle {
		h.begun = append(h.begun, now)
		return true
	}
	wait := h.cfg.per - now.Sub(h.begun[0])
	if h.wakeAt == nil {
		h.wakeAt = time.AfterFunc(wait, h.wake)
	} else {
		h.wakeAt.Reset(wait)
	}
	return false
}

// notBegun takes back that an attempt has begun.
func (h *handler) notBegun() {
	if h.cfg.throttle == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.begun); n > 0 {
		h.begun = h.begun[:n-1]
	}
}

func (h *handler) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
}

// work runs one unit after the other. While there is none the goroutine is parked,
// since a new one would have to grow its stack again; unpark ends those that are
// not needed.
func (h *handler) work(r *run) {
	defer h.leave(r)
	for r.unit != nil {
		h.attempt(r)
		h.mu.Lock()
		r.unit = h.next()
		if r.unit != nil {
			h.mu.Unlock()
			continue
		}
		h.active--
		r.busy = false
		if h.stopping {
			h.mu.Unlock()
			break
		}
		h.parked++
		h.rested = time.Now()
		h.mu.Unlock()
		if r.unit = <-h.offer; r.unit != nil {
			h.mu.Lock()
			r.busy = true
			h.mu.Unlock()
		}
	}
}

// leave ends a goroutine of the handler, also when the user's code has ended it.
func (h *handler) leave(r *run) {
	h.mu.Lock()
	var left unit
	if r.busy && !r.over { // else it was given up
		left = slices.DeleteFunc(slices.Clone(r.unit), func(d *delivery) bool { return !d.running || d.out.kind != outPending })
	}
	r.live = nil
	h.mu.Unlock()
	for _, d := range left {
		h.failed(d, errEnded())
	}
	h.conclude(left, 0)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, r)
	if r.busy {
		h.active--
		h.begin()
	}
}

func errEnded() error { return rpc.Internal.Errorf("the handler ended its goroutine") }

// parkFor is how long goroutines stay parked after the last has ended its work.
const parkFor = time.Second

// unpark ends the goroutines that are parked. The handler is locked.
func (h *handler) unpark() {
	for ; h.parked > 0; h.parked-- {
		h.offer <- nil
	}
}

// conclude takes in what became of deliveries, and how long their attempt took if
// they had one.
func (h *handler) conclude(u unit, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if took > 0 {
		h.measure(took)
	}
	for _, d := range u {
		d.running = false
		if d.out.kind == outLater && !d.src.keeps(d) {
			d.giveBack(0)
			d.out.kind = outBack
		}
		if d.out.kind == outLater {
			time.AfterFunc(d.out.after, func() { h.resume(d) })
			continue
		}
		if d.src.remove(d); d.out.kind == outDone {
			d.src.done.add(d.place)
		}
		if h.cfg.key != nil && d.ready {
			h.advance(d)
		}
	}
	h.fillLocked()
}

// resume has a delivery tried again that has waited here.
func (h *handler) resume(d *delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case d.dropped || h.stopping:
	case h.cfg.key != nil && (!d.keyed || h.cfg.debounce > 0 && !d.wanted):
		h.enqueue(d)
	default:
		h.push(unit{d})
	}
}

// measure takes in how long an attempt took. The handler is locked.
func (h *handler) measure(took time.Duration) {
	took = max(took, time.Microsecond)
	if h.pace == 0 {
		h.pace = took
		return
	}
	h.pace += (took - h.pace) / 8
}

// subject is that of the handler's own lane.
func (h *handler) laneSubject() string { return laneSubject(h.service, h.name) }

// mine reports whether the handler wants events of that type.
func (h *handler) mine(eventType string) bool { return matches(h.patterns, eventType) }

func matches(patterns []Pattern, eventType string) bool {
	for _, p := range patterns {
		if p.Match(eventType) {
			return true
		}
	}
	return false
}

// typeOf returns the event's type by the subject it was sent on, which is what
// patterns are for.
func typeOf(d *delivery) string {
	name, _ := bus.EventName(d.subject)
	return name
}
