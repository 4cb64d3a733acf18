package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// What is paused has a key "_paused.<id>" in the class's bucket, with the reason
// in its value; the class itself, which can't be an id, is "_paused._class". One
// wildcard covers all: so a member finds them without having the server look
// through the class's objects.
const (
	pausedPrefix = "_paused."
	pausedClass  = "_class"
	// pauseFollowers begins the names of the consumers by which members hear of
	// pauses.
	pauseFollowers = "pauses"
)

// pauseRecord is the value of such a key.
type pauseRecord struct {
	Reason string `json:"reason"`
}

// readPause returns what a message says; nil for one that ends a pause.
func readPause(m *journal.Stored) *pauseRecord {
	if m == nil || m.Deleted() {
		return nil
	}
	r := new(pauseRecord)
	_ = json.Unmarshal(m.Data, r) // what somebody else wrote pauses without a reason
	return r
}

// pauses is what a member knows to be paused. Mostly it is nothing.
type pauses struct {
	count  atomic.Int64
	mu     sync.RWMutex
	paused map[string]*pauseRecord // by the key's last token

	lost  atomic.Int64 // how often the connection was lost
	knows atomic.Int64 // as of which of these times it knows
}

// check reports why a call is refused. The system deletes what is paused; the
// rest waits.
func (p *pauses) check(c *class, id, method string) *rpc.Error {
	switch {
	case method == bus.MethodDestroy:
		return nil
	case p.lost.Load() != p.knows.Load() && c.bus.Connected():
		return rpc.Unavailable.Errorf("whether the object %s/%.80s is paused is not known yet: the connection to the bus is new", c.name, id).NotExecuted()
	case p.count.Load() == 0:
		return nil
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.paused[pausedClass]; r != nil {
		return rpc.Unavailable.Errorf("the class %s is paused%s", c.name, r.because())
	}
	if r := p.paused[bus.Escape(id)]; r != nil {
		return rpc.Unavailable.Errorf("the object %s/%.80s is paused%s", c.name, id, r.because())
	}
	return nil
}

func (r *pauseRecord) because() string {
	if r.Reason == "" {
		return ", no reason was given"
	}
	return ": " + r.Reason
}

// start learns what is paused, and goes on to hear of it until the class ends.
func (p *pauses) start(ctx context.Context, c *class) error {
	unhook := c.bus.OnDisconnect(func() { p.lost.Add(1) })
	f, known, err := p.load(ctx, c)
	if err != nil {
		unhook()
		return fmt.Errorf("what is paused: %w", err)
	}
	c.work.Go(func() {
		defer unhook()
		for err == nil {
			p.hear(f, known)
			before := f
			f, known, err = p.load(c.life, c)
			before.Close() // it may take a while, if its server has failed
		}
	})
	return nil
}

// hear takes in what changes after the sequence known, until the connection to
// the stream is lost.
func (p *pauses) hear(f *journal.Follower, known uint64) {
	for {
		m, err := f.Next()
		if err != nil {
			return
		}
		if m == nil {
			continue
		}
		if m.Sequence > known {
			p.mu.Lock()
			apply(p.paused, m)
			p.count.Store(int64(len(p.paused)))
			p.mu.Unlock()
		}
		f.Done()
	}
}

// apply notes what a message says in paused.
func apply(paused map[string]*pauseRecord, m *journal.Stored) {
	token := strings.TrimPrefix(m.Key, pausedPrefix)
	if r := readPause(m); r != nil {
		paused[token] = r
	} else {
		delete(paused, token)
	}
}

// load begins to follow, then learns what is paused as of the sequence known: so
// whoever pauses something either waits for this member or has done it before.
// It tries until ctx ends. When the server can't make the follower for now, what
// is paused is read with each try: better some seconds late than not to serve.
func (p *pauses) load(ctx context.Context, c *class) (f *journal.Follower, known uint64, err error) {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	for pause, patience := first, time.Second; ; pause, patience = min(2*pause, most), min(2*patience, 5*most) {
		if err = c.bus.WaitConnected(ctx); err == nil {
			f, err = p.follow(ctx, c, patience)
			var readErr error
			if known, readErr = p.read(ctx, c); err == nil && readErr == nil {
				return f, known, nil
			}
			if f != nil {
				f.Close()
			}
			err = errors.Join(err, readErr)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, 0, err
		}
		c.log.Warn().Err(err).Msg("what is paused can't be followed; trying again")
	}
}

// follow has the server tell what will be paused and resumed.
func (p *pauses) follow(ctx context.Context, c *class, patience time.Duration) (*journal.Follower, error) {
	size, err := c.journal.LeaderSize(ctx)
	if err != nil {
		return nil, err
	}
	return c.journal.Follow(c.life, journal.Follow{
		Match: pausedPrefix + "*", From: size.LastSequence + 1, Name: pauseFollowers, Acknowledged: true, Patience: patience,
	})
}

// readPauseTimeout bounds one attempt to read what is paused.
const readPauseTimeout = 5 * time.Second

// read learns what is paused as of the sequence that it returns, or later.
func (p *pauses) read(ctx context.Context, c *class) (sequence uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readPauseTimeout)
	defer cancel()
	lost := p.lost.Load()
	size, err := c.journal.LeaderSize(ctx)
	if err != nil {
		return 0, err
	}
	paused := map[string]*pauseRecord{}
	if size.LastSequence > 0 {
		last, err := lastPauses(ctx, c.journal, size.LastSequence)
		if err != nil {
			return 0, err
		}
		for _, m := range last {
			apply(paused, m)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	p.count.Store(int64(len(paused)))
	p.knows.Store(lost)
	return size.LastSequence, nil
}

// lastPauses returns the last messages about what is paused as of the stream's
// last sequence, or later.
func lastPauses(ctx context.Context, j *journal.Journal, sequence uint64) ([]*journal.Stored, error) {
	last, err := j.At(ctx, sequence)
	if err != nil {
		return nil, err
	}
	witness := pausedPrefix + pausedClass
	if last != nil {
		witness = last.Key // it may have been written again, but is there
	}
	all, err := j.LastOf(ctx, sequence, witness, pausedPrefix+"*")
	if errors.Is(err, journal.ErrTooMany) {
		var keys []string
		if keys, err = j.Keys(ctx, sequence, pausedPrefix+"*"); err != nil {
			return nil, err
		}
		for page := range slices.Chunk(keys, pageSize/4) {
			found, err := j.LastOf(ctx, sequence, witness, page...)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	return slices.DeleteFunc(all, func(m *journal.Stored) bool { return !strings.HasPrefix(m.Key, pausedPrefix) }), err
}
