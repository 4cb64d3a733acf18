package durable

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"rpc.do"
	"rpc.do/durable/internal/journal"
	"rpc.do/server"
)

// commit is what several turns of an object changed, on its way to the bus as
// one. While one is on its way the next takes in turns.
type commit struct {
	object *object
	sealed chan struct{} // closed when no turn is taken in any more; nil while nobody waits for that
	done   chan struct{} // closed when it has ended; nil while nobody waits for that
	ended  atomic.Bool   // err says what came of it
	err    error

	// What follows is set when it is sent.
	id      string
	rev     uint64 // of the record that it replaces
	storage bool   // the object has had keyed storage
	head    *head  // nil unless it was sent by itself

	state     []byte // as the last turn left it
	copy      any
	alarm     alarmState
	alarmSet  bool
	dead      []byte
	deadSet   bool
	events    []event
	writes    map[string]entryWrite
	size      int // bytes of the two
	destroyed bool
	last      bool // the object's memory ends with it
	calls     []callRecord
	callers   []server.ObjectCall // that hear when it has ended
	turns     int
	results   int // bytes
	ids       int // bytes
}

const (
	maxTurns        = 128     // in one commit
	maxTurnResults  = 4 << 10 // bytes of results in one commit
	maxTurnIDs      = 8 << 10 // bytes of identities in one commit
	maxExtra        = 900     // events and entries of one commit, one turn's most included
	maxExtraSize    = 4 << 20 // bytes of events and entries with which a commit takes no more turns
	commitRetry     = 5 * time.Millisecond
	maxCommitRetry  = 100 * time.Millisecond
	answerTimeout   = time.Second
	commitPatience  = 2 * time.Second // beyond the lease
	readbackTimeout = 2 * time.Second
)

// doneLocked returns what is closed when the commit has ended. The object is
// locked.
func (g *commit) doneLocked() <-chan struct{} {
	if g.done == nil {
		g.done = make(chan struct{})
		if g.ended.Load() {
			close(g.done)
		}
	}
	return g.done
}

// full reports whether the commit takes no more turns.
func (g *commit) full() bool {
	return g.turns >= maxTurns || g.ids >= maxTurnIDs || g.last || g.size >= maxExtraSize ||
		len(g.events)+len(g.writes) > maxExtra-maxTurnEvents-maxTurnWrites
}

// add takes in what a turn asked for.
func (g *commit) add(t *turn) {
	g.turns++
	g.size += t.size
	g.events = append(g.events, t.events...)
	if t.alarmSet {
		g.alarmSet = true
	}
	g.alarm = t.alarm
	if t.deadSet {
		g.dead, g.deadSet = t.dead, true
	}
	for key, w := range t.writes {
		if g.writes == nil {
			g.writes = map[string]entryWrite{}
		}
		g.writes[key] = w
	}
	if t.destroyed {
		g.destroyed, g.last = true, true
		g.dead, g.deadSet = nil, g.deadSet || g.alarm.dead
		g.writes, g.alarm, g.alarmSet = nil, alarmState{}, true
	}
}

// record notes the identity and the result of a turn. It returns the result if
// that is kept.
func (g *commit) record(call callRecord) {
	if g.results+len(call.Result) > maxTurnResults {
		call.Result = nil
	}
	g.results += len(call.Result)
	g.ids += encodedSize(call.ID) + len(call.Method)
	g.calls = append(g.calls, call)
}

// encodedSize bounds what an identity takes in the header.
func encodedSize(id string) int {
	n := len(id) + len(`{"id":"","m":"","r":},`)
	for i := range len(id) {
		if c := id[i]; c == '<' || c == '>' || c == '&' || c == '"' || c == '\\' || c >= 0x80 {
			n += 5
		}
	}
	return n
}

// await returns what came of a commit.
func (o *object) await(g *commit) error {
	if g == nil {
		return o.moved()
	}
	if !g.ended.Load() {
		o.mu.Lock()
		done := g.doneLocked()
		o.mu.Unlock()
		<-done // it ends within the lease, or soon after
	}
	return o.outcome(g)
}

// outcome is what the callers of a commit that has ended may hear.
func (o *object) outcome(g *commit) error {
	if g.err != nil {
		return g.err
	}
	if !o.class.holds() {
		return o.class.unsure(o.id)
	}
	return nil
}

// nextLocked returns the open commit if it is to be sent now, which the caller
// does once the object is unlocked; it is the one in flight then.
func (o *object) nextLocked() *commit {
	if o.open == nil || o.inflight != nil || o.letting {
		return nil
	}
	if o.holds.n > 0 {
		o.letting = true
		o.class.work.Go(o.sendAfterViews)
		return nil
	}
	return o.sealLocked()
}

// sendAfterViews sends the open commit when no view keeps it waiting.
func (o *object) sendAfterViews() {
	o.letViews()
	o.letting = false
	g := o.sealLocked()
	o.mu.Unlock()
	o.send(g)
}

// sealLocked makes the open commit the one in flight.
func (o *object) sealLocked() *commit {
	g := o.open
	o.open, o.inflight = nil, g
	if g.sealed != nil {
		close(g.sealed)
	}
	return g
}

// send stores a commit. It returns at once; finish is called when it is known
// what came of it. The common one, a single message, needs no goroutine that
// waits for the answer.
func (o *object) send(g *commit) {
	c := o.class
	if o.gone.Load() {
		o.finish(g, 0, 0, c.moving(o.id))
		return
	}
	o.mu.Lock()
	g.id, g.rev, g.storage = o.commitID(o.count+1), o.rev, o.storage || len(g.writes) > 0
	o.mu.Unlock()
	if !g.plain() || c.cfg.faults != nil || c.cfg.unfenced || !c.holds() {
		msgs := o.messages(g)
		c.work.Go(func() { o.store(g, msgs, nil) })
		return
	}
	rec := o.recordOf(g)
	g.head = heads.Get().(*head)
	c.journal.Send(answerTimeout, journal.Message{Key: o.key, Header: g.head.of(&rec, g.rev), Data: rec.state}, g)
}

// recordOf returns the record that a commit writes.
func (o *object) recordOf(g *commit) record {
	return record{
		exists: !g.destroyed, state: g.state, commit: g.id, epoch: o.epoch,
		alarm: g.alarm, schema: o.class.cfg.Schema, storage: g.storage, calls: g.calls,
	}
}

// Written is called when there is an answer to a commit that was sent by
// itself, or there is none. See journal.Writer.
func (g *commit) Written(first uint64, err error) {
	o := g.object
	if err != nil { // the message may be under way still, so its headers are not used again
		msgs := o.messages(g)
		o.class.work.Go(func() { o.store(g, msgs, err) })
		return
	}
	heads.Put(g.head)
	o.finish(g, first, first, nil)
}

// finish makes known what came of a commit, and sends the next one.
func (o *object) finish(g *commit, first, end uint64, err error) {
	g.err = err
	if g.err != nil {
		o.discard(!surelyNot(g.err))
	} else if g.last {
		o.discard(false)
	}
	o.mu.Lock()
	if g.err == nil {
		o.rev, o.end, o.storage = first, end, g.storage
		o.count++
		if g.alarmSet {
			o.armed = first
		}
		o.view.Store(&snapshot{state: g.state, copy: g.copy, alarm: g.alarm, rev: first, end: end, storage: g.storage})
	}
	callers := g.callers
	g.state, g.copy, g.events, g.writes, g.calls, g.callers, g.head = nil, nil, nil, nil, nil, nil, nil
	o.inflight = nil
	next := o.nextLocked()
	g.ended.Store(true)
	if g.done != nil {
		close(g.done)
	}
	o.mu.Unlock()
	if next != nil {
		o.send(next)
	}
	for _, call := range callers {
		call.Finish(o.outcome(g))
	}
}

// surelyNot reports whether a commit with that error was not stored and will
// not be.
func surelyNot(err error) bool {
	e, ok := errors.AsType[*rpc.Error](err)
	return ok && (e.Retryable || e.RetryAfter == 0)
}

// store writes a commit and finds out what came of it. Tried is what came of a
// first try, if there was one.
func (o *object) store(g *commit, msgs []journal.Message, tried error) {
	c := o.class
	if len(g.events) > 0 {
		if err := c.sourceEvents(); err != nil {
			o.finish(g, 0, 0, err)
			return
		}
	}
	c.fault("commit")
	first, err := o.write(g.id, msgs, tried)
	if err != nil {
		o.finish(g, 0, 0, err)
		return
	}
	c.fault("committed")
	if g.destroyed && g.storage {
		if _, err := o.clear(c.life, o.recordOf(g), first); err != nil {
			c.log.Warn().Err(err).Str("object", o.id).Msg("the storage of a deleted object is not removed yet; its next call does it")
		}
	}
	o.finish(g, first, first+uint64(len(msgs))-1, nil)
}

// write sends a commit until it is known what came of it, or the lease has long
// ended.
func (o *object) write(id string, msgs []journal.Message, err error) (first uint64, _ error) {
	c := o.class
	sent := errors.Is(err, journal.ErrNoAnswer) // it may be stored
	patience := max(c.member.LeaseLeft(), 0) + commitPatience
	begun := time.Now()
	for pause := commitRetry; ; pause = min(2*pause, maxCommitRetry) {
		if !c.holds() || o.gone.Load() {
			if sent {
				return 0, c.unsure(o.id)
			}
			return 0, c.moving(o.id)
		}
		if err == nil {
			first, err = c.journal.WriteWithin(answerTimeout, msgs...)
		}
		switch e := err.(type) {
		case nil:
			return first, nil
		case *journal.Refused:
			if c.cfg.unfenced {
				return 0, c.moving(o.id)
			}
			if !sent {
				return 0, c.moving(o.id) // somebody else has written
			}
			return o.resolve(id, msgs[0].Key)
		case *journal.Rejected:
			if sent && !e.Passing { // that says nothing of the first time
				return o.resolve(id, msgs[0].Key)
			}
			if !e.Passing {
				c.log.Error().Err(err).Str("object", o.id).Msg("commit not taken")
				return 0, rpc.ResourceExhausted.Errorf("the change of %s/%.80s could not be stored: %w", c.name, o.id, err)
			}
		default:
			sent = true
		}
		err = nil
		if time.Since(begun) > patience || c.life.Err() != nil {
			if sent {
				return 0, c.unsure(o.id)
			}
			return 0, c.moving(o.id)
		}
		select {
		case <-time.After(pause):
		case <-c.life.Done():
		}
	}
}

// resolve finds out whether a commit was stored that had no answer and was
// refused when it was sent again: then either it is what was in the way, or
// somebody else's is.
func (o *object) resolve(commit, key string) (uint64, error) {
	c := o.class
	ctx, cancel := context.WithTimeout(c.life, readbackTimeout)
	defer cancel()
	for pause := commitRetry; ; pause = min(2*pause, maxCommitRetry) {
		history, err := c.journal.History(ctx, key)
		if err == nil {
			for _, m := range history {
				if m.Header.Get(headerCommit) == commit {
					if m.Sequence == history[len(history)-1].Sequence {
						return m.Sequence, nil
					}
					return 0, c.unsure(o.id) // it was stored, and others have written since
				}
			}
		}
		select {
		case <-time.After(pause): // the replica may be behind
		case <-ctx.Done():
			return 0, c.unsure(o.id)
		}
	}
}
