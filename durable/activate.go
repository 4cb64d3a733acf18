package durable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// activationTimeout bounds how long an object takes to come into memory.
const activationTimeout = 10 * time.Second

// activate reads an object into memory and lets its calls begin. Chain is that
// of the call that it is for: what begins the object is made from it too.
func (c *class) activate(o *object, chain []string) {
	ctx, cancel := context.WithTimeout(c.life, activationTimeout)
	defer cancel()
	err := errors.New("it ended its goroutine")
	defer func() { // also when the state's own code, or OnInit, panics or does that
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
		if err != nil {
			o.failed = c.notActive(o, err)
			o.discard(false)
		} else {
			o.active.Store(true)
		}
		o.queue.Open() // those that wait find out
	}()
	err = o.load(rpc.WithCallInfo(ctx, rpc.CallInfo{
		Service: c.name, Method: "$init", Object: o.id, Chain: append(chain[:len(chain):len(chain)], bus.Link(c.name, o.id)),
	}))
}

// notActive is the error of the calls of an object that can't be activated.
func (c *class) notActive(o *object, err error) *rpc.Error {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		if !e.Retryable {
			c.log.Error().Err(err).Str("object", o.id).Msg("object not activated")
		}
		return e
	}
	c.log.Warn().Err(err).Str("object", o.id).Msg("object not activated")
	return rpc.Unavailable.Errorf("the object %s/%.80s can't be read now; the service's log tells more", c.name, o.id).
		NotExecuted().WithRetryAfter(50 * time.Millisecond)
}

// load reads the record and proves that it is current. See "Reads" in
// docs/service-objects.md.
func (o *object) load(ctx context.Context) error {
	c, s := o.class, o.slot
	s.mu.Lock()
	grant, unsure := s.grant, s.unsure
	s.mu.Unlock()
	o.epoch = grant.Epoch
	o.known.since = lease.Now()
	last, err := c.journal.Last(ctx, o.key)
	if err != nil {
		return err
	}
	for {
		if !c.holds() {
			return c.moving(o.id)
		}
		rec := readRecord(last)
		c.fault("activation")
		rewrite := unsure || grant.Forced > 0 && rec.epoch < grant.Forced || rec.epoch > grant.Epoch
		end, err := o.prove(ctx, last, &rec, rewrite)
		refused, ok := errors.AsType[*journal.Refused](err)
		switch {
		case err == nil:
			return o.begin(ctx, rec, end)
		case !ok:
			return err
		}
		// What was read is old. The server may have said what the newest is.
		if last, err = o.reread(ctx, refused.Last, rec.rev); err != nil {
			return err
		}
	}
}

// reread reads the record once more, which is not the one with revision rev, but
// the one with the sequence, unless that is zero: then a write is under way, and
// what comes of it is not known yet.
func (o *object) reread(ctx context.Context, sequence, rev uint64) (*journal.Stored, error) {
	c := o.class
	if sequence == 0 {
		select {
		case <-time.After(commitRetry):
		case <-ctx.Done():
		}
		return c.journal.Last(ctx, o.key)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var m *journal.Stored
		var err error
		if sequence > 0 {
			m, err = c.journal.At(ctx, sequence)
		} else {
			m, err = c.journal.Last(ctx, o.key)
		}
		if err != nil {
			return nil, err
		}
		if m != nil && m.Sequence != rev || m == nil && sequence == 0 && rev != 0 {
			return m, nil
		}
		sequence = 0 // overwritten since, or not there yet
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("the record of %s changes faster than it can be read: %w", o.key, context.Cause(ctx))
		}
	}
}

// prove makes sure that the record is current and stays so until this owner
// writes: by rewriting it, which has every commit refused that an earlier owner
// may still have on the way, or, when there can be none, by a message that is
// stored only if the record is the last. It returns the sequence of what it has
// stored: that of the record's commit is before it, the next one's beyond it.
func (o *object) prove(ctx context.Context, last *journal.Stored, rec *record, rewrite bool) (uint64, error) {
	c := o.class
	if !rewrite || c.cfg.unfenced {
		m := o.fence(rec.rev)
		if c.cfg.unfenced {
			m.Header = nil
		}
		return c.journal.Write(ctx, m)
	}
	rec.epoch = o.epoch
	if last != nil && !last.Deleted() {
		calls, err := o.keptCalls(ctx, rec.rev)
		if err != nil {
			return 0, err
		}
		rec.calls = calls
	}
	m := journal.Message{Key: o.key, Header: rec.header(rec.rev), Data: rec.state}
	if !rec.exists {
		m.Data = nil
		m.Header[journal.HeaderOperation] = []string{"DEL"}
		if !rec.storage {
			m.Header[journal.HeaderTTL] = []string{deletedTTL}
		}
	}
	rev, err := c.journal.Write(ctx, m)
	if err != nil {
		return 0, err
	}
	rec.rev = rev
	return rev, nil
}

// maxKeptCalls bounds the bytes of the identities that a rewrite carries on.
const maxKeptCalls = 16 << 10

// keptCalls collects the calls of the commits that the stream still has, so that
// a rewrite of the record with revision rev does not push them out.
func (o *object) keptCalls(ctx context.Context, rev uint64) ([]callRecord, error) {
	history, err := o.class.journal.History(ctx, o.key)
	for pause := time.Millisecond; err == nil && (len(history) == 0 || history[len(history)-1].Sequence < rev); pause *= 2 {
		select { // the replica is behind
		case <-time.After(pause):
			history, err = o.class.journal.History(ctx, o.key)
		case <-ctx.Done():
			err = journal.ErrStale
		}
	}
	if err != nil {
		return nil, err
	}
	var calls []callRecord
	size, seen := 0, map[string]bool{}
	for i := len(history) - 1; i >= 0; i-- {
		for _, call := range readRecord(history[i]).calls {
			if size += encodedSize(call.ID) + len(call.Method) + len(call.Result); size > maxKeptCalls {
				return calls, nil
			}
			if !seen[call.ID] {
				seen[call.ID] = true
				calls = append(calls, call)
			}
		}
	}
	return calls, nil
}

// begin makes the object ready for calls from a record that is current; end is
// what prove returned.
func (o *object) begin(ctx context.Context, rec record, end uint64) error {
	c := o.class
	if !rec.exists && rec.storage { // deleted, and nobody removed the rest
		rev, err := o.clear(ctx, rec, rec.rev)
		if err != nil {
			return fmt.Errorf("remove the storage of the deleted object: %w", err)
		}
		rec.rev, rec.storage, end = rev, false, rev
	}
	state := rec.state
	if rec.exists {
		var err error
		if state, err = c.migrate(o.id, rec); err != nil {
			return err
		}
	}
	o.live = c.kind.fresh()
	if rec.exists {
		var err error
		if o.live, err = c.kind.decode(state); err != nil {
			return rpc.DataLoss.Errorf("the state of %s/%.80s can't be read: %w", c.name, o.id, err)
		}
	}
	good, err := json.Marshal(o.live)
	if err != nil {
		return rpc.Internal.Errorf("the state of %s/%.80s can't be written as JSON: %w", c.name, o.id, err)
	}
	o.good, o.alarm = good, rec.alarm
	o.rev, o.end, o.count = rec.rev, end, rec.count
	o.storage = rec.storage && rec.exists
	for _, call := range rec.calls {
		o.known.add(knownCall{id: call.ID, method: call.Method, result: call.Result, at: o.known.since})
	}
	snap := &snapshot{state: good, alarm: rec.alarm, rev: rec.rev, end: end, storage: o.storage}
	if c.kind.copy != nil {
		snap.copy = c.kind.copy(o.live)
	}
	o.view.Store(snap)
	if c.init == nil {
		return nil
	}
	t := &turn{Context: ctx, object: o, alarm: o.alarm}
	if err := o.initialise(t); err != nil {
		if e, ok := errors.AsType[*rpc.Error](err); ok {
			if e.Code == rpc.FailedPrecondition { // waiting does not help
				return e
			}
			return rpc.Unavailable.Errorf("the object %s/%.80s can't begin: %s", c.name, o.id, e.Message).NotExecuted().WithRetryAfter(50 * time.Millisecond)
		}
		return fmt.Errorf("OnInit: %w", err)
	}
	g, _, err := o.settle(t, nil, nil)
	if err != nil {
		return err
	}
	return o.await(g)
}

// migrate brings a state to the class's schema version.
func (c *class) migrate(id string, rec record) ([]byte, error) {
	if rec.schema > c.cfg.Schema {
		return nil, rpc.Unavailable.Errorf("the state of %s/%.80s has the schema version %d, this instance knows up to %d: a newer one has written it",
			c.name, id, rec.schema, c.cfg.Schema).NotExecuted().WithRetryAfter(100 * time.Millisecond)
	}
	state := rec.state
	for v := rec.schema; v < c.cfg.Schema; v++ {
		fn := c.migrations[v]
		if fn == nil {
			return nil, rpc.FailedPrecondition.Errorf("the state of %s/%.80s has the schema version %d, and the class has no Migrate from version %d",
				c.name, id, rec.schema, v)
		}
		next, err := safely(fn, bytes.Clone(state))
		if err != nil {
			c.log.Error().Err(err).Str("object", id).Int("from", v).Msg("migration failed")
			return nil, rpc.FailedPrecondition.Errorf("the state of %s/%.80s can't be brought from schema version %d to %d; the service's log tells more", c.name, id, v, v+1)
		}
		state = next
	}
	return state, nil
}

// safely runs a migration, whose panic is an error.
func safely(fn func(json.RawMessage) (json.RawMessage, error), state []byte) (next []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	return fn(state)
}

// readHistory learns the calls of the commits that the stream still has, and
// since when that is all of them.
func (o *object) readHistory(ctx context.Context) error {
	c := o.class
	fail := func(err error) error {
		c.log.Warn().Err(err).Str("object", o.id).Msg("history not read")
		return rpc.Unavailable.Errorf("whether the call to %s/%.80s had its effect before can't be found out now", c.name, o.id).
			WithRetryAfter(50 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, readbackTimeout)
	defer cancel()
	o.mu.Lock()
	rev := o.rev
	o.mu.Unlock()
	if rev == 0 { // there is nothing, and nothing can have been lost but with the object
		o.known.history, o.known.since = true, lease.Earliest
		return nil
	}
	leader, at, err := o.leaderTime(ctx)
	if err != nil {
		return fail(err)
	}
	history, err := c.journal.History(ctx, o.key)
	if err != nil {
		return fail(err)
	}
	if len(history) == 0 || history[len(history)-1].Sequence < rev {
		return fail(journal.ErrStale)
	}
	oldest := readRecord(history[0])
	since := lease.Earliest
	if oldest.count > 1 {
		since = at - lease.Instant(leader.Sub(oldest.time))
	}
	var calls []knownCall
	for _, m := range history {
		for _, call := range readRecord(m).calls {
			if _, known := o.known.find(call.ID); !known {
				calls = append(calls, knownCall{id: call.ID, method: call.Method, result: call.Result, at: at - lease.Instant(leader.Sub(m.Time))})
			}
		}
	}
	later := o.known.calls
	o.known.calls, o.known.bytes, o.known.index, o.known.dropped = nil, 0, nil, 0
	o.known.since = min(o.known.since, since)
	for _, call := range append(calls, later...) {
		o.known.add(call)
	}
	o.known.history = true
	return nil
}

// leaderTime returns a moment by the clock of the stream's leader, and one on
// this process's clock that is not before it.
func (o *object) leaderTime(ctx context.Context) (time.Time, lease.Instant, error) {
	c := o.class
	m := o.fence(0)
	m.Header = nil // unconditional
	seq, err := c.journal.Write(ctx, m)
	if err != nil {
		return time.Time{}, 0, err
	}
	at := lease.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		stored, err := c.journal.At(ctx, seq)
		if err != nil {
			return time.Time{}, 0, err
		}
		if stored != nil {
			return stored.Time, at, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return time.Time{}, 0, journal.ErrStale
		}
	}
}
