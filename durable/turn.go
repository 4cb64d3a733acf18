package durable

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/lease"
	"rpc.do/server"
)

// turn is the Context of one turn, and what the turn asked for.
type turn struct {
	context.Context
	object *object

	alarm     alarmState
	alarmSet  bool   // set or deleted
	alarmRun  bool   // it has fired, or counts one more attempt
	dead      []byte // the dead letter, nil for none
	deadSet   bool   // it has been written or deleted
	events    []event
	writes    map[string]entryWrite
	size      int // bytes of the two
	destroyed bool
	failed    error // of what has no error to return
}

func (t *turn) ID() string { return t.object.id }

func (t *turn) Destroy() { t.destroyed = true }

// effects reports whether the turn has something to store beside the state.
func (t *turn) effects() bool {
	return t.alarmSet || t.alarmRun || t.destroyed || len(t.events) > 0 || len(t.writes) > 0
}

// turn runs one turn and returns when what it did is stored, or server.ErrLater
// when the call ends along with the commit. Result points to the handler's
// result, which is set when the call had its effect before. It may be part of
// the state, which the next turn changes: detach makes a copy of it, and is nil
// when it needs none.
func (c *class) turn(ctx context.Context, call server.ObjectCall, result any, detach func() error, fn func(*turn, any) error) error {
	o := objectOf(call)
	if err := o.usable(); err != nil {
		return err
	}
	req := call.Request()
	if call.Ended() {
		return rpc.FailedPrecondition.Errorf("%s.%s of the object %.80s: an interceptor called next again after the turn had ended", c.name, req.Method, o.id)
	}
	if o.known.retried || repeated(req) {
		if done, err := o.recall(ctx, call, result); done || err != nil {
			return err
		}
	}
	if err := o.waitForRoom(ctx); err != nil {
		return err
	}
	t := &turn{Context: ctx, object: o, alarm: o.alarm}
	var g *commit
	later := false
	err := o.run(t, call, fn)
	if err == nil {
		g, later, err = o.settle(t, &call, result)
	}
	if err == nil && !later && detach != nil {
		err = detach()
	}
	if err != nil && g == nil {
		g = o.pending()
	}
	if later {
		return server.ErrLater // whoever ran this turn runs the next one
	}
	call.EndTurn()
	if failed := o.await(g); failed != nil {
		return failed // an error, too, may be due to what was not stored
	}
	return err
}

// pending returns the last commit that has not ended, nil when all is stored.
func (o *object) pending() *commit {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open != nil {
		return o.open
	}
	return o.inflight
}

// repeated reports whether the call may have been here before.
func repeated(req *bus.Request) bool {
	return req.ID != "" && (!req.Once || req.Attempt > 1 || req.Age > 0)
}

// waitForRoom waits while the next commit can take no more turns.
func (o *object) waitForRoom(ctx context.Context) error {
	for {
		o.mu.Lock()
		var wait <-chan struct{}
		last := false
		switch {
		case o.open != nil && o.open.full():
			if last = o.open.last; last {
				wait = o.open.doneLocked()
			} else {
				if o.open.sealed == nil {
					o.open.sealed = make(chan struct{})
				}
				wait = o.open.sealed
			}
		case o.inflight != nil && o.inflight.last:
			wait, last = o.inflight.doneLocked(), true
		}
		o.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
			if last {
				return o.moved()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// moved is usable without the pitfall of a nil *rpc.Error.
func (o *object) moved() error {
	if err := o.usable(); err != nil {
		return err
	}
	return nil
}

// run runs the handler. Unless it returns nil, nothing of it stays.
func (o *object) run(t *turn, call server.ObjectCall, fn func(*turn, any) error) (err error) {
	kept := false
	o.startWatch(call)
	defer func() { // also when the handler panics or ends its goroutine
		if over := o.stopWatch(); over || !kept {
			if over && err == nil {
				err = rpc.DeadlineExceeded.Errorf("%s: the turn took longer than %v; nothing was changed", o.class.name, o.class.cfg.TurnTimeout)
			}
			o.rollback(t)
		}
	}()
	if err := fn(t, o.live); err != nil {
		return err
	}
	if t.failed != nil {
		return t.failed
	}
	kept = true
	return nil
}

// rollback makes the state what it was before the turn.
func (o *object) rollback(t *turn) {
	if !o.active.Load() {
		return // it does not come to be
	}
	restored := false
	defer func() { // also when what reads the state panics
		if !restored {
			// An activation does it properly. What is on its way may yet be stored.
			o.discard(o.pending() != nil)
		}
	}()
	live, err := o.class.kind.decode(o.good)
	if err != nil { // it could be read before
		o.class.log.Error().Err(err).Str("object", o.id).Msg("the state can't be read back; it is read from the bus again")
		return
	}
	o.live = live
	if o.class.init == nil {
		restored = true
		return
	}
	again := &turn{Context: t.Context, object: o, alarm: o.alarm}
	restored = o.initialise(again) == nil && !again.effects()
}

// initialise runs the OnInit function, whose panic is an error.
func (o *object) initialise(t *turn) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			o.class.log.Error().Str("object", o.id).Interface("panic", cause).Msg("OnInit panicked")
			err = rpc.Internal.Errorf("internal error in OnInit of %s/%.80s; the service's log tells more", o.class.name, o.id)
		}
	}()
	if err := o.class.init(t, o.live); err != nil {
		return err
	}
	return t.failed
}

// room is what a message needs beside the state, for headers.
const room = 20 << 10

// settle adds what a turn did to the next commit. The commit is nil when there
// is nothing to wait for; later says that the call is ended along with it.
func (o *object) settle(t *turn, call *server.ObjectCall, result any) (g *commit, later bool, err error) {
	settled := false
	defer func() { // also when what writes JSON panics
		if !settled {
			o.rollback(t)
		}
	}()
	maxPayload := o.class.bus.MaxPayload()
	state, err := json.Marshal(o.live)
	if err != nil {
		return nil, false, rpc.Internal.Errorf("the state of %s/%.80s can't be written as JSON: %w", o.class.name, o.id, err)
	}
	if size, limit := int64(len(state)), maxPayload-room; size > limit {
		return nil, false, rpc.ResourceExhausted.Errorf("the state of %s/%.80s would have %d bytes, at most %d fit into a message (max_payload less %d); nothing was changed",
			o.class.name, o.id, size, limit, room)
	}
	changed := !bytes.Equal(state, o.good)
	if !changed && !t.effects() {
		settled = true
		return o.pending(), false, nil // the result may depend on what is not stored yet
	}
	var recorded json.RawMessage
	if result != nil {
		recorded, err = json.Marshal(result)
		if err != nil {
			return nil, false, rpc.Internal.Errorf("the result of %s/%.80s can't be written as JSON: %w", o.class.name, o.id, err)
		}
		if size := int64(len(recorded)); size > maxPayload {
			return nil, false, rpc.ResourceExhausted.Errorf("the result of %s/%.80s has %d bytes, at most %d fit into a message; nothing was changed",
				o.class.name, o.id, size, maxPayload)
		}
	}
	id := ""
	if call != nil {
		id, later = call.Request().ID, call.Later(recorded) // which may run code of the result's
	}
	settled = true
	var send *commit
	defer func() {
		if send != nil {
			o.send(send)
		}
	}()
	o.mu.Lock()
	defer o.mu.Unlock()
	g = o.open
	if g == nil {
		g = &commit{object: o}
		o.open = g
	}
	if later {
		g.callers = append(g.callers, *call)
	}
	g.state = state
	if o.class.kind.copy != nil {
		g.copy = o.class.kind.copy(o.live)
	}
	o.good, o.alarm = state, t.alarm
	g.add(t)
	if id != "" {
		method := ""
		if req := call.Request(); !req.Once {
			method = req.Method // an identity of the caller's own may come with another
		}
		g.record(callRecord{ID: id, Method: method, Result: recorded})
		o.known.add(knownCall{id: id, method: method, result: recorded, at: o.class.member.Now(), commit: g})
	}
	send = o.nextLocked()
	return g, later, nil
}

// recall finds out whether a call has had its effect before. Done says that it
// has: the result is set, or the error says why there is none.
func (o *object) recall(ctx context.Context, call server.ObjectCall, result any) (done bool, err error) {
	req := call.Request()
	if done, err := o.replay(req.ID, req.Method, result); done {
		return true, err
	}
	retry := req.Age > 0 || req.Attempt > 1 // or, with an identity of the caller's own, nobody can tell
	o.known.retried = o.known.retried || retry
	first := firstAttempt(call)
	if (first < o.known.since || !retry && !req.Once) && !o.known.history {
		if err := o.readHistory(ctx); err != nil {
			return false, err
		}
		if done, err := o.replay(req.ID, req.Method, result); done {
			return true, err
		}
	}
	if retry && first < o.known.since {
		return false, rpc.Aborted.Errorf("%s.%s of the object %.80s: the first attempt was made %v ago and may have had its effect; what it returned is not kept any more, so it is not run again",
			o.class.name, req.Method, o.id, first.Since().Round(time.Millisecond))
	}
	return false, nil
}

// replay answers a call from what is known of it.
func (o *object) replay(id, method string, result any) (done bool, err error) {
	known, ok := o.known.find(id)
	if !ok {
		return false, nil
	}
	if known.method != "" && known.method != method {
		return true, rpc.InvalidArgument.Errorf("%s/%.80s: the identity %.80q was used before, for a call of %s", o.class.name, o.id, id, known.method)
	}
	if known.commit != nil {
		if err := o.await(known.commit); err != nil {
			return true, err
		}
	}
	if known.result == nil {
		return true, rpc.Aborted.Errorf("%s/%.80s: the call has had its effect before; its result was too large to be kept", o.class.name, o.id)
	}
	if err := json.Unmarshal(known.result, result); err != nil {
		return true, rpc.Aborted.Errorf("%s/%.80s: the call has had its effect before; its recorded result can't be read: %w", o.class.name, o.id, err)
	}
	return true, nil
}

// firstAttempt is when the first attempt of a call was made, at the latest. The
// age is by the caller's own clock, so what the retry took to get here is to be
// added: what the two wall clocks say of it, if that is more than nothing, and
// what it has waited here.
func firstAttempt(call server.ObjectCall) lease.Instant {
	const doubt = 10 * time.Millisecond
	req := call.Request()
	age := req.Age + doubt + time.Since(call.Received())
	if !req.Sent.IsZero() {
		age += max(call.Received().Sub(req.Sent), 0)
	}
	return lease.Now() - lease.Instant(age)
}

// view runs a handler that only reads, on what the last commit left.
func (c *class) view(ctx context.Context, call server.ObjectCall, fn func(*view, any) error) error {
	o := objectOf(call)
	if call.Place().Queue() != nil { // it waited for the activation
		call.EndTurn()
	}
	var hold hold
	defer hold.end() // also when the handler panics
	for try := 0; ; try++ {
		if err := o.usable(); err != nil {
			return err
		}
		snap := o.view.Load()
		state, err := o.stateOf(snap)
		if err != nil {
			return err
		}
		v := &view{Context: ctx, object: o, snap: snap, began: time.Now()}
		err = fn(v, state)
		if v.stale && try < maxViewTries {
			if err := hold.begin(ctx, o, try); err != nil {
				return err
			}
			continue
		}
		if v.stale {
			return rpc.Aborted.Errorf("%s/%.80s: the object is written all the time, so a view of its storage finds no moment; read what belongs together from the state, or in a turn",
				c.name, o.id)
		}
		if moved := o.moved(); moved != nil { // the lease must hold when the answer leaves, which an error is, too
			return moved
		}
		return err
	}
}

// stateOf returns a copy of the state that shares nothing with any other.
func (o *object) stateOf(snap *snapshot) (any, error) {
	switch {
	case snap.copy != nil:
		return snap.copy, nil // the handler gets it by value
	case snap.state == nil:
		return o.class.kind.fresh(), nil
	}
	state, err := o.class.kind.decode(snap.state)
	if err != nil {
		return nil, rpc.DataLoss.Errorf("the state of %s/%.80s can't be read: %w", o.class.name, o.id, err)
	}
	return state, nil
}
