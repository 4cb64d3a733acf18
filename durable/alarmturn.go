package durable

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/server"
)

// maxAlarmAttempts is how often an alarm's handler is run that fails.
const maxAlarmAttempts = 7

// alarmCall is what a due message says of an alarm: the params of the system's
// method $alarm.
type alarmCall struct {
	ID       string `json:"id"`       // of the setting of the alarm
	Due      int64  `json:"due"`      // unix ms
	Sequence uint64 `json:"sequence"` // of the due message
	// Again says that the message has been delivered before: an attempt may have
	// been begun and not ended.
	Again bool `json:"again"`
}

// alarmAnswer is the result of $alarm.
type alarmAnswer struct {
	// EarlyMS is how long the alarm is not due yet by the owner's clock. It is
	// asked for again then.
	EarlyMS int64 `json:"earlyMs,omitempty"`
}

// registerAlarm gives the class the method that runs its alarms. Any client may
// call it: unless the object's record has that very alarm, and it is due, the
// call does nothing.
func registerAlarm(c *class) {
	server.HandleSystem(c.service, bus.MethodAlarm, func(ctx context.Context, call server.ObjectCall, p alarmCall, answer *alarmAnswer) (err error) {
		*answer, err = c.alarmTurn(ctx, call, p)
		return err
	})
}

// alarmTurn is the turn of an alarm that has fired. That the record's alarm is
// still the one that the due message is about makes it happen once: the commit
// of the turn changes it, along with all the rest.
func (c *class) alarmTurn(ctx context.Context, call server.ObjectCall, p alarmCall) (alarmAnswer, error) {
	o := objectOf(call)
	if err := o.moved(); err != nil {
		return alarmAnswer{}, err
	}
	if call.Ended() {
		return alarmAnswer{}, rpc.FailedPrecondition.Errorf("the alarm of %s/%.80s: an interceptor called next again after the turn had ended", c.name, o.id)
	}
	if c.alarm == nil {
		return alarmAnswer{}, rpc.FailedPrecondition.Errorf("this instance of the class %s has no OnAlarm", c.name)
	}
	if err := o.waitForRoom(ctx); err != nil {
		return alarmAnswer{}, err
	}
	a := o.alarm
	if !a.set() || a.id != p.ID || a.due().UnixMilli() != p.Due {
		return alarmAnswer{}, o.otherAlarm(ctx, call, p)
	}
	if early := time.Until(a.due()); early > 0 {
		return alarmAnswer{EarlyMS: early.Milliseconds() + 1}, o.endAlarm(call, &turn{Context: ctx, object: o, alarm: a})
	}
	if p.Again || call.Request().Attempt > 1 {
		if a.attempts >= maxAlarmAttempts {
			return alarmAnswer{}, o.bury(ctx, call, a, "the attempt began and never ended; did the process?")
		}
		if err := o.countAttempt(ctx, &a); err != nil {
			return alarmAnswer{}, err
		}
	} else {
		a.attempts++
	}
	begun := time.Now()
	g, err := o.tryAlarm(ctx, call, a)
	if err == nil {
		call.EndTurn()
		return alarmAnswer{}, o.await(g)
	}
	if ctx.Err() != nil && time.Since(begun) < c.cfg.TurnTimeout {
		return alarmAnswer{}, err // it was cancelled: the alarm had no fair chance
	}
	if a.attempts >= maxAlarmAttempts {
		c.log.Error().Err(err).Str("object", o.id).Int("attempt", a.attempts).Msg("alarm failed for the last time; it is kept as a dead letter")
		return alarmAnswer{}, cmp.Or(o.bury(ctx, call, a, fmt.Sprint(err)), err)
	}
	pause := c.cfg.alarms.backoff << (a.attempts - 1)
	c.log.Warn().Err(err).Str("object", o.id).Int("attempt", a.attempts).Dur("retry", pause).Msg("alarm failed")
	a.retry = time.Now().Add(pause).Truncate(time.Millisecond)
	return alarmAnswer{}, cmp.Or(o.endAlarm(call, &turn{Context: ctx, object: o, alarm: a, alarmSet: true}), err)
}

// otherAlarm ends the turn for an alarm that has been handled, deleted or
// replaced. In the last case the one that is set now may have gone with it: the
// server deletes what is under the alarm's key when it has fired, even if that
// has been replaced since it decided to fire. So that one is armed once more,
// unless that was done after the fired one was stored.
func (o *object) otherAlarm(ctx context.Context, call server.ObjectCall, p alarmCall) error {
	o.mu.Lock()
	armed := o.armed
	o.mu.Unlock()
	t := &turn{Context: ctx, object: o, alarm: o.alarm}
	t.alarmSet = o.alarm.set() && p.Sequence > armed
	return o.endAlarm(call, t)
}

// countAttempt stores that one more attempt begins, so that an alarm which
// kills its process is not tried for ever. The first attempt does without.
func (o *object) countAttempt(ctx context.Context, a *alarmState) error {
	a.attempts++
	g, _, err := o.settle(&turn{Context: ctx, object: o, alarm: *a, alarmRun: true}, nil, nil)
	if err != nil {
		return err
	}
	return o.await(g)
}

// tryAlarm runs the handler and adds what it did to the next commit. When it
// fails, nothing has changed; a panic is an error.
func (o *object) tryAlarm(ctx context.Context, call server.ObjectCall, a alarmState) (g *commit, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			o.class.log.Error().Str("object", o.id).Str("panic", fmt.Sprint(cause)).Bytes("stack", debug.Stack()).Msg("OnAlarm panicked")
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	t := &turn{Context: ctx, object: o, alarmRun: true, deadSet: a.dead}
	err = o.run(t, call, func(t *turn, state any) error {
		return o.class.alarm(t, state, Alarm{Scheduled: a.at, Attempt: a.attempts})
	})
	if err != nil {
		return nil, err
	}
	g, _, err = o.settle(t, nil, nil)
	return g, err
}

// bury takes the alarm off and keeps a dead letter of it.
func (o *object) bury(ctx context.Context, call server.ObjectCall, a alarmState, why string) error {
	letter := DeadAlarm{Scheduled: a.at.UTC(), Attempts: a.attempts, Error: why, Time: time.Now().UTC()}
	return o.endAlarm(call, &turn{
		Context: ctx, object: o, alarm: alarmState{dead: true}, alarmRun: true, dead: letter.encode(), deadSet: true,
	})
}

// endAlarm stores what t asks for, ends the turn and returns when all is stored
// that it has seen.
func (o *object) endAlarm(call server.ObjectCall, t *turn) error {
	g, _, err := o.settle(t, nil, nil)
	if err != nil {
		g = o.pending()
	}
	call.EndTurn()
	return cmp.Or(o.await(g), err)
}
