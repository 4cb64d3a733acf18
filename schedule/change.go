package schedule

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"rpc.do"
)

// maxTries bounds how often a change is tried that others get in the way of.
const maxTries = 50

// change changes a schedule: it decides on a copy of the record, writes that if
// nobody else has written meanwhile, and then does what was decided. What is left
// undone because the process dies is done by whoever changes the schedule next,
// or takes its tick.
//
// Do gets the record, nil when there is none. It returns nil to change nothing,
// and must not keep what it gets.
func (e *engine) change(ctx context.Context, name string, do func(*record) (*record, error)) (*record, error) {
	for try := 0; ; try++ {
		rec, rev, err := e.store.load(ctx, name)
		if err != nil {
			return nil, err
		}
		if rec != nil {
			// What has been decided is done before it is forgotten.
			rec.sent = len(rec.Pending) > 0
			rec.dropOld(e.now())
			if err := e.perform(ctx, rec); err != nil {
				return nil, err
			}
			rec.Pending = nil
		}
		changed, err := do(rec)
		if err != nil {
			return nil, err
		}
		if changed == nil { // what is armed may never have got there
			if rec != nil {
				err = e.store.arm(ctx, rec, rev)
			}
			if err != nil && !errors.Is(err, errChanged) {
				return nil, err
			}
			return rec, nil
		}
		changed.Updated = e.now().UTC()
		rev, err = e.store.save(ctx, changed, rev)
		if errors.Is(err, errChanged) {
			if try == maxTries {
				return nil, rpc.Aborted.Errorf("the schedule %s: others change it all the time", name)
			}
			select {
			case <-time.After(time.Duration(rand.IntN(10*(try+1))) * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, coded(ctx, context.Cause(ctx))
			}
		}
		if err != nil {
			return nil, err
		}
		e.tell(changed)
		if err := e.perform(ctx, changed); err != nil {
			return changed, err
		}
		if len(changed.Pending) > 0 && !changed.Spec.tracked() {
			// No report follows that would say so, and the next tick may be long after
			// the bucket has forgotten what was sent.
			changed.Pending = nil
			if rev, err = e.store.save(ctx, changed, rev); errors.Is(err, errChanged) {
				return changed, nil
			} else if err != nil {
				return changed, err
			}
		}
		if err := e.store.arm(ctx, changed, rev); err != nil && !errors.Is(err, errChanged) {
			return changed, err
		}
		return changed, nil
	}
}

// tell logs what did not go as the calendar has it.
func (e *engine) tell(r *record) {
	for _, o := range r.noted {
		if o.State == Skipped || o.State == Failed {
			e.log.Info().Str("schedule", r.Spec.Name).Time("nominal", o.Nominal).Str("id", o.ID).Str("reason", o.Reason).Int("ticks", max(o.Count, 1)).
				Msg("tick " + string(o.State))
		}
	}
}

// perform does what a record has decided on. It may be done again: nothing of it
// happens twice.
func (e *engine) perform(ctx context.Context, r *record) error {
	for i := range r.Pending {
		p := &r.Pending[i]
		for _, run := range p.Cancel {
			e.cancelRun(r.Spec.Name, run)
		}
		if err := e.store.send(ctx, r.Spec.Name, p); err != nil {
			return err
		}
	}
	return nil
}

// step makes decisions on a record.
func (e *engine) step(r *record) (*step, error) { return newStep(r, e.now().UTC(), e.room()) }

func (e *engine) room() int { return largestRecord(e.bus.MaxPayload()) }
