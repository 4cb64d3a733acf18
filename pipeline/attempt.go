package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// maxHops is how many events may lead to one that is handled.
const maxHops = 64

// prepare reads a delivery. It reports false when no attempt is to be made with
// it: the outcome then says what became of it.
func (h *handler) prepare(d *delivery) bool {
	err := d.read()
	switch {
	case !d.again && !h.mine(typeOf(d)):
		h.passOn(d)
		return false
	case err != nil:
		h.bury(d, ReasonDecode, rpc.InvalidArgument.Errorf("%w", err))
		return false
	case d.meta.Hops > maxHops:
		h.bury(d, ReasonLoop, rpc.FailedPrecondition.Errorf("loop: %d events have led to this one, at most %d may", d.meta.Hops, maxHops))
		return false
	}
	if err := h.decode(d); err != nil {
		h.bury(d, ReasonDecode, rpc.InvalidArgument.Errorf("%w", err))
		return false
	}
	h.countAttempts(d)
	if d.attempt > h.cfg.attempts {
		h.buryDead(d)
		return false
	}
	d.ready = true
	return true
}

// choose asks the handler's filters. It reports false when no attempt is to be
// made with the delivery, as prepare does.
func (h *handler) choose(d *delivery) bool {
	keep, err := h.wanted(d)
	switch {
	case err != nil:
		h.failed(d, err)
	case !keep:
		d.answer(ackDone)
		d.out.kind = outDone
	}
	d.wanted = keep && err == nil
	return d.wanted
}

// read reads the event's attributes.
func (d *delivery) read() (err error) {
	if d.src.stream != bus.EventsStream {
		d.again = true
		d.subject, d.stored, d.header = original(d.msg, d.stored)
	}
	d.meta, d.data, err = bus.ParseEvent(d.subject, d.header, d.msg.Data, d.stored)
	return err
}

// decode reads the event's data, in code that may be the user's.
func (h *handler) decode(d *delivery) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("reading its data panicked: %v", cause)
		}
	}()
	return h.typed.decode(d)
}

// wanted asks the handler's filters.
func (h *handler) wanted(d *delivery) (keep bool, err error) {
	defer h.recovered(d, &err)
	for _, keep := range h.cfg.keep {
		if !keep(d) {
			return false, nil
		}
	}
	return true, nil
}

// setKey asks for the key of a delivery; it reports false when there is none, and
// what became of it then.
func (h *handler) setKey(d *delivery) bool {
	key, err := func() (key string, err error) {
		defer h.recovered(d, &err)
		return h.cfg.key(d), nil
	}()
	if err != nil {
		// Nobody can tell what it has to wait for, or what waits for it.
		h.bury(d, ReasonKey, err)
		return false
	}
	d.key = key
	return true
}

// recovered makes a panic of the user's code an error.
func (h *handler) recovered(d *delivery, err *error) {
	if cause := recover(); cause != nil {
		h.log.Error().Str("event", d.meta.ID).Str("panic", fmt.Sprint(cause)).Bytes("stack", debug.Stack()).Msg("handler panicked")
		*err = rpc.Internal.Errorf("panic: %.500v", cause)
	}
}

// passOn lets go of an event that the handler does not want: the consumer's
// filters take in more than the patterns, or the handler is about to be one with
// other patterns, in a newer instance, which is to have it then.
func (h *handler) passOn(d *delivery) {
	if h.workers.wantedElsewhere(h, typeOf(d)) {
		d.giveBack(time.Second)
		d.out.kind = outBack
		return
	}
	d.answer(ackDone)
	d.out.kind = outDone
}

// attempt makes one attempt with a unit.
func (h *handler) attempt(r *run) {
	live := h.prepareAll(r.unit)
	if len(live) == 0 {
		h.notBegun()
		return
	}
	if h.cfg.exclusive && !h.surelyMine(live) {
		h.conclude(live, 0)
		return
	}
	live = h.buryAgain(live)
	if len(live) == 0 {
		return
	}
	for _, d := range live {
		d.begun = true
		if d.attempt > 1 || h.cfg.attempts == 1 {
			h.workers.attempts.begin(h, d)
		}
	}
	took, over, err := h.run(r, live)
	if over {
		return // it was given up meanwhile
	}
	for i, d := range live {
		h.settle(d, errorOf(err, i))
	}
	h.conclude(live, took)
}

// prepareAll prepares a unit and returns what is left of it.
func (h *handler) prepareAll(u unit) unit {
	var ended unit
	for _, d := range u {
		if !d.ready && !h.prepare(d) || !d.wanted && !h.choose(d) {
			ended = append(ended, d)
		}
	}
	if len(ended) == 0 {
		return u
	}
	h.conclude(ended, 0)
	return slices.DeleteFunc(u, func(d *delivery) bool { return d.out.kind != outPending })
}

// buryAgain takes out of a unit what is to be a dead letter and could not be kept
// as one before.
func (h *handler) buryAgain(u unit) unit {
	for _, d := range u {
		if d.dead != nil {
			h.bury(d, d.dead.reason, d.dead.cause)
			h.conclude(unit{d}, 0)
		}
	}
	return slices.DeleteFunc(u, func(d *delivery) bool { return d.dead != nil })
}

// surelyMine waits until this instance is sure that it has all events of the
// handler; it reports false when it does not have them any more.
func (h *handler) surelyMine(u unit) bool {
	src := u[0].src
	for {
		mine, known := h.mineNow(src)
		switch {
		case mine:
			return true
		case known || h.workers.base.Err() != nil:
			for _, d := range u {
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

// mineNow reports whether this instance has all events of the handler, if that is
// known.
func (h *handler) mineNow(src *source) (mine, known bool) {
	if !src.puller.Holds(time.Now()) {
		return false, src.puller.Pin() == ""
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

// errorOf returns what the i-th of a batch has failed with.
func errorOf(err error, i int) error {
	several, ok := errors.AsType[*BatchError](err)
	if !ok {
		return err
	}
	for _, f := range several.Failed {
		if f.Index == i {
			return f.Err
		}
	}
	return nil
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
		wait = max(wait, e.RetryAfter)
	}
	return wait
}

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
