package durable

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

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
	// pausedMark begins what a member writes to see how far it has read.
	pausedMark = "_mark-"
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
}

// check reports why a call is refused. The system deletes what is paused; the
// rest waits.
func (p *pauses) check(c *class, id, method string) *rpc.Error {
	if p.count.Load() == 0 || method == bus.MethodDestroy {
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
	f, err := p.load(ctx, c)
	if err != nil {
		return err
	}
	c.work.Go(func() {
		for f != nil {
			p.hear(f)
			f.Close()
			f = p.loadAgain(c)
		}
	})
	return nil
}

// hear takes in what changes, until the connection to the stream is lost.
func (p *pauses) hear(f *journal.Follower) {
	for {
		m, err := f.Next()
		switch {
		case err != nil:
			return
		case m != nil:
			p.mu.Lock()
			apply(p.paused, m)
			p.count.Store(int64(len(p.paused)))
			p.mu.Unlock()
			f.Done()
		}
	}
}

// apply notes what a message says in paused.
func apply(paused map[string]*pauseRecord, m *journal.Stored) {
	token := strings.TrimPrefix(m.Key, pausedPrefix)
	r := readPause(m)
	switch {
	case r == nil:
		delete(paused, token)
	case !strings.HasPrefix(token, pausedMark):
		paused[token] = r
	}
}

// loadAgain loads until that succeeds; it returns nil when the class ends.
func (p *pauses) loadAgain(c *class) *journal.Follower {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	for pause := first; c.life.Err() == nil && c.bus.WaitConnected(c.life) == nil; pause = min(2*pause, most) {
		f, err := p.load(c.life, c)
		if err == nil {
			return f
		}
		if c.life.Err() == nil {
			c.log.Warn().Err(err).Msg("what is paused can't be read; trying again")
		}
		select {
		case <-time.After(pause):
		case <-c.life.Done():
		}
	}
	return nil
}

// maxIdle bounds how often a follower may say that there is nothing while
// something must come.
const maxIdle = 5

// load reads what is paused and returns a follower that tells what comes.
func (p *pauses) load(ctx context.Context, c *class) (*journal.Follower, error) {
	f, err := c.journal.Follow(c.life, journal.Follow{Match: pausedPrefix + "*", Name: pauseFollowers, Acknowledged: true})
	if err != nil {
		return nil, err
	}
	mark, err := p.mark(ctx, c)
	paused := map[string]*pauseRecord{}
	for idle, complete := 0, mark == "" && f.Pending() == 0; err == nil && !complete; {
		var m *journal.Stored
		if m, err = f.Next(); m == nil {
			complete = mark == ""
			if idle++; err == nil && (idle == maxIdle || ctx.Err() != nil) {
				err = errors.Join(journal.ErrStale, ctx.Err())
			}
			continue
		}
		apply(paused, m)
		f.Done()
		complete = m.Key == mark || mark == "" && f.Pending() == 0
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	p.count.Store(int64(len(paused)))
	return f, nil
}

// mark writes a message of this member's own and returns its key: whoever has
// read it has read all that was there before. It is needed where several
// replicas may answer, of which some are behind; elsewhere the key is empty.
func (p *pauses) mark(ctx context.Context, c *class) (key string, err error) {
	size, err := c.journal.LeaderSize(ctx)
	if err != nil || size.Replicas <= 1 {
		return "", err
	}
	key = pausedPrefix + pausedMark + nuid.Next()
	_, err = c.journal.Write(ctx, journal.Message{Key: key, Header: nats.Header{
		journal.HeaderOperation: {"DEL"}, journal.HeaderTTL: {"60s"},
	}})
	return key, err
}
