package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// attempt makes one attempt with a unit.
func (h *handler) attempt(r *run) {
	live := h.prepareAll(r.unit)
	if len(live) == 0 {
		h.notBegun()
		return
	}
	live = h.buryAgain(live)
	if len(live) == 0 {
		return
	}
	for _, d := range live {
		if d.attempt > 1 || h.cfg.attempts == 1 {
			h.workers.attempts.begin(h, d)
		}
	}
	if h.cfg.exclusive && !h.surelyMine(live) { // nothing that takes long comes between this and the attempt
		h.conclude(live, 0)
		return
	}
	for _, d := range live {
		d.begun = true
	}
	took, over, err := h.run(r, live)
	if over {
		return // it was given up meanwhile
	}
	for i, d := range live {
		h.settle(d, h.errorOf(err, i, len(live)))
	}
	h.conclude(live, took)
}

// prepareAll prepares a unit and returns what is left of it.
func (h *handler) prepareAll(u unit) unit {
	return h.without(u, func(d *delivery) bool {
		return !d.ready && !h.prepare(d) || !d.wanted && !h.choose(d)
	})
}

// without takes those out of a unit that have ended, and concludes them.
func (h *handler) without(u unit, ended func(*delivery) bool) unit {
	var left, out unit
	for i, d := range u {
		switch {
		case ended(d):
			if out == nil {
				left = slices.Clone(u[:i])
			}
			out = append(out, d)
		case out != nil:
			left = append(left, d)
		}
	}
	if out == nil {
		return u
	}
	h.conclude(out, 0)
	return left
}

// buryAgain takes out of a unit what is to be a dead letter and could not be kept
// as one before.
func (h *handler) buryAgain(u unit) unit {
	return h.without(u, func(d *delivery) bool {
		if d.dead == nil {
			return false
		}
		h.bury(d, d.dead.reason, d.dead.cause)
		return true
	})
}

// surelyMine waits until this instance is sure that it has all events of the
// handler; it reports false when it does not have them any more.
func (h *handler) surelyMine(u unit) bool {
	for {
		mine, known := true, true
		for i, d := range u {
			if i > 0 && d.src == u[i-1].src && d.pin == u[i-1].pin {
				continue
			}
			m, k := h.mineNow(d)
			mine, known = mine && m, known && k || k && !m
		}
		switch {
		case mine:
			return true
		case known || h.workers.base.Err() != nil:
			for _, d := range u {
				if d.last.Begun {
					h.workers.attempts.undo(h, d)
				}
				h.workers.attempts.untried(h, d)
				d.giveBack(0)
				d.out.kind = outBack
			}
			return false
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-h.workers.base.Done():
		}
	}
}

// mineNow reports whether this instance has all events of the handler, and has had
// them since the delivery came, if that is known.
func (h *handler) mineNow(d *delivery) (mine, known bool) {
	src := d.src
	h.mu.Lock()
	src.syncPin()
	same := src.keeps(d)
	h.mu.Unlock()
	if !same {
		return false, true
	}
	if !src.puller.Holds(time.Now()) {
		return false, false
	}
	if src.stream == bus.EventsStream {
		return true, true
	}
	ctx, cancel := context.WithTimeout(h.workers.life, requestTimeout)
	defer cancel()
	alone, err := src.alone(ctx)
	if err == nil && !alone {
		h.mu.Lock()
		src.yield()
		h.mu.Unlock()
	}
	return alone && err == nil, err == nil
}

// run runs the handler's function. Over says that the attempt was given up.
func (h *handler) run(r *run, u unit) (took time.Duration, over bool, err error) {
	began := time.Now()
	ctx := &handling{h: h, unit: u, deadline: began.Add(h.cfg.timeout)}
	defer ctx.end()
	h.mu.Lock()
	r.began, r.live = began, u
	h.mu.Unlock()
	err = h.call(ctx, u)
	took = time.Since(began)
	h.mu.Lock()
	defer h.mu.Unlock()
	over, r.over, r.live = r.over, false, nil
	return took, over, err
}

func (h *handler) call(ctx context.Context, u unit) (err error) {
	defer h.recovered(u[0], &err)
	return h.typed.call(ctx, u)
}

// errorOf returns what the i-th of n events has failed with. A PartError that does
// not say so properly is that of all.
func (h *handler) errorOf(err error, i, n int) error {
	part, ok := errors.AsType[*PartError](err)
	if !ok || !h.typed.batch || len(part.Errs) == 0 {
		return err
	}
	for j, failed := range part.Errs {
		if j < 0 || j >= n || failed == nil {
			return err
		}
	}
	return part.Errs[i]
}

// settle tells the bus what came of an attempt.
func (h *handler) settle(d *delivery, err error) {
	switch {
	case err == nil:
		d.answer(ackDone)
		d.out.kind = outDone
		if d.attempt > 1 || h.cfg.attempts == 1 {
			h.workers.attempts.forget(h, d)
		}
	case h.workers.base.Err() != nil: // it was cancelled by the shutdown
		h.workers.attempts.undo(h, d)
		d.giveBack(0)
		d.out.kind = outBack
	default:
		h.failed(d, err)
	}
}

// failed has an event tried again later, or keeps it as a dead letter.
func (h *handler) failed(d *delivery, err error) {
	switch {
	case rpc.IsTerminal(err):
		h.bury(d, ReasonTerminal, err)
	case final(rpc.CodeOf(err)):
		h.bury(d, ReasonCode, err)
	case d.attempt >= h.cfg.attempts:
		h.bury(d, ReasonAttempts, err)
	default:
		wait := h.pause(d.attempt, err)
		h.log.Warn().Err(err).Str("event", d.meta.ID).Str("type", d.meta.Type).Int("attempt", d.attempt).Dur("again_in", wait).Msg("event not handled")
		h.workers.attempts.fail(h, d, err)
		h.putOff(d, wait)
	}
}

// putOff has an event come again after a while: from the server, or, when one
// instance has all events, from here.
func (h *handler) putOff(d *delivery, wait time.Duration) {
	if h.cfg.exclusive {
		d.attempt++
		d.out = outcome{outLater, wait}
		return
	}
	d.giveBack(wait)
	d.out.kind = outBack
}

// tellEvery is how often the log says that an attempt does not end.
const tellEvery = time.Minute

// final reports whether a code says that trying again changes nothing.
func final(c rpc.Code) bool {
	switch c {
	case rpc.InvalidArgument, rpc.NotFound, rpc.PermissionDenied, rpc.Unauthenticated, rpc.Unimplemented:
		return true
	}
	return false
}

// pause returns how long to wait after the n-th attempt.
func (h *handler) pause(n int, err error) time.Duration {
	wait := h.cfg.backoff[min(n, len(h.cfg.backoff))-1]
	wait += time.Duration((rand.Float64()*2 - 1) * float64(wait) / 5)
	if e, ok := errors.AsType[*rpc.Error](err); ok && e != nil {
		wait = max(wait, min(e.RetryAfter, maxRetryAfter))
	}
	return wait
}

// maxRetryAfter bounds the pause that an error asks for.
const maxRetryAfter = 10 * time.Minute

// giveUp ends attempts that go on long after their time, without their noticing.
// When one instance has all events, nothing of theirs may run beside them: then it
// only says so.
func (h *handler) giveUp(now time.Time) {
	h.mu.Lock()
	var late []unit
	for r := range h.running {
		if r.live == nil || r.over || now.Sub(r.began) <= 2*h.cfg.timeout {
			continue
		}
		if !h.cfg.exclusive {
			r.over = true
			late = append(late, r.live)
		} else if now.Sub(r.told) > tellEvery {
			r.told = now
			h.log.Error().Str("event", r.live[0].meta.ID).Dur("for", now.Sub(r.began)).Msg("an attempt ignores that its time is over: what is to come after it waits")
		}
	}
	h.mu.Unlock()
	for _, u := range late {
		h.workers.tasks.Go(func() {
			for _, d := range u {
				h.failed(d, rpc.DeadlineExceeded.Errorf("the attempt goes on after twice its time of %v; it was given up, and its place stays taken until it ends", h.cfg.timeout))
			}
			h.conclude(u, 0)
		})
	}
}
