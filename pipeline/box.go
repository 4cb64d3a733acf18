package pipeline

import (
	"slices"
	"time"
)

// box has the deliveries of one key that are prepared. Its first is ready to run,
// runs, or waits for its next attempt; the others wait for it.
type box struct{ queue []*delivery }

// burst has the last of the events of a key that come in quick succession.
type burst struct {
	last  *delivery
	first time.Time
	timer *time.Timer
}

// maxBurst is how many times the wait of a burst it goes on at most.
const maxBurst = 10

// pump prepares what comes in, in order, until there is nothing more.
func (h *handler) pump() {
	var d *delivery
	defer func() { h.pumped(d) }()
	for {
		h.mu.Lock()
		if len(h.inbound) == 0 || h.stopping {
			h.inbound, h.pumping = nil, false
			h.mu.Unlock()
			d = nil
			return
		}
		d = h.inbound[0]
		h.inbound[0] = nil
		h.inbound = h.inbound[1:]
		if d.dropped {
			h.mu.Unlock()
			continue
		}
		d.running, d.preparing = true, true
		h.mu.Unlock()
		// What a filter leaves out must not end a burst; in a box it holds up its key.
		ready := (d.ready || h.prepare(d)) && (d.keyed || h.setKey(d)) && (h.cfg.debounce == 0 || h.choose(d))
		h.mu.Lock()
		d.preparing = false
		if ready {
			d.running = false
			h.sort(d)
			h.mu.Unlock()
			continue
		}
		h.mu.Unlock()
		h.conclude(unit{d}, 0)
	}
}

// pumped goes on when the user's code has ended the goroutine of pump, at a
// delivery.
func (h *handler) pumped(d *delivery) {
	if d == nil {
		return
	}
	h.failed(d, errEnded())
	h.conclude(unit{d}, 0)
	h.mu.Lock()
	defer h.mu.Unlock()
	d.preparing = false
	if h.pumping = len(h.inbound) > 0 && !h.stopping; h.pumping {
		h.workers.tasks.Go(h.pump)
	}
}

// sort puts a delivery that is prepared where those of its key are. The handler
// is locked.
func (h *handler) sort(d *delivery) {
	switch {
	case d.dropped || h.stopping || d.pin != d.src.pin:
		d.src.remove(d)
		h.workers.attempts.untried(h, d)
		d.giveBack(0)
	case h.cfg.debounce > 0:
		h.join(d)
	default:
		h.post(d)
	}
}

// post puts a delivery into its key's box. The handler is locked.
func (h *handler) post(d *delivery) {
	b := h.boxes[d.key]
	if b == nil {
		b = &box{}
		h.boxes[d.key] = b
	}
	b.queue = append(b.queue, d)
	if len(b.queue) == 1 {
		h.push(unit{d})
	}
}

// advance takes a delivery out of its box and lets the next one run. The handler
// is locked.
func (h *handler) advance(d *delivery) {
	b := h.boxes[d.key]
	if b == nil || len(b.queue) == 0 || b.queue[0] != d {
		return
	}
	b.queue[0] = nil
	b.queue = b.queue[1:]
	if len(b.queue) == 0 {
		delete(h.boxes, d.key)
		return
	}
	h.push(unit{b.queue[0]})
}

// join makes a delivery the last of its key's burst; the one before it is done.
// The handler is locked.
func (h *handler) join(d *delivery) {
	now := time.Now()
	b := h.bursts[d.key]
	if b == nil {
		b = &burst{last: d, first: now}
		b.timer = time.AfterFunc(h.cfg.debounce, func() { h.calm(d.key, b) })
		h.bursts[d.key] = b
		return
	}
	old := b.last
	if old.dropped || old.stored.Sequence < d.stored.Sequence {
		b.last = d
	} else { // it comes again
		old = d
	}
	if !old.dropped {
		old.answer(ackDone)
		old.src.remove(old)
		old.src.done.add(old.place)
	}
	b.timer.Reset(max(min(h.cfg.debounce, time.Until(b.first.Add(maxBurst*h.cfg.debounce))), 0))
	h.fillLocked()
}

// calm ends a burst: its last event is handled.
func (h *handler) calm(key string, b *burst) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bursts[key] != b || h.stopping {
		return
	}
	delete(h.bursts, key)
	if !b.last.dropped {
		h.post(b.last)
	}
}

// prune takes what was dropped out of boxes and bursts. The handler is locked.
func (h *handler) prune() {
	for key, b := range h.bursts {
		if b.last.dropped {
			b.timer.Stop()
			delete(h.bursts, key)
		}
	}
	for key, b := range h.boxes {
		head := b.queue[0]
		b.queue = slices.DeleteFunc(b.queue, func(d *delivery) bool { return d.dropped })
		switch {
		case len(b.queue) == 0:
			delete(h.boxes, key)
		case b.queue[0] != head:
			h.push(unit{b.queue[0]})
		}
	}
}
