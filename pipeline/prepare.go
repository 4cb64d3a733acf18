package pipeline

import (
	"errors"
	"fmt"
	"runtime/debug"
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
	_, unreadable := errors.AsType[*unreadable](err)
	switch {
	case unreadable:
		h.bury(d, ReasonDecode, rpc.InvalidArgument.Errorf("%w", err))
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
	d.data, err = d.meta.Read(d.subject, d.header, d.msg.Data, &d.stored)
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
		if keep, err := keep(d); err != nil || !keep {
			return false, err
		}
	}
	return true, nil
}

// setKey asks for the key of a delivery. It reports false when that fails, as
// prepare does.
func (h *handler) setKey(d *delivery) bool {
	key, err := func() (key string, err error) {
		defer h.recovered(d, &err)
		return h.cfg.key(d), nil
	}()
	if err != nil {
		h.failed(d, err) // nobody can tell what waits for it
		return false
	}
	d.key, d.keyed = key, true
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
	if h.workers.wantedElsewhere(h, d) {
		if h.cfg.exclusive { // and it is to have the others as well, since they would wait for what this one can't handle
			h.mu.Lock()
			d.src.yield()
			h.mu.Unlock()
		}
		d.giveBack(time.Second)
		d.out.kind = outBack
		return
	}
	d.answer(ackDone)
	d.out.kind = outDone
}
