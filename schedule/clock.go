package schedule

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// clock tells the time of the stream's leader, which is the one that has ticks come:
// by the clock of a process that is ahead they would be decided on before their
// time. Between two looks it goes on by what the process's own clock has gone,
// which does not jump when somebody sets it.
type clock struct {
	local func() time.Time

	mu     sync.Mutex
	at     time.Time // on the local clock
	leader time.Time // at that moment
}

const (
	// lookEach is how often the leader's time is asked for, at least, when somebody
	// needs it.
	lookEach = 10 * time.Second

	// maxLook is how long the answer may take to say something.
	maxLook = time.Second
)

// now returns the leader's time, or the local one before anybody has asked.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader.IsZero() {
		return c.local()
	}
	return c.leader.Add(c.local().Sub(c.at))
}

// old reports whether the leader is to be asked again.
func (c *clock) old() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader.IsZero() || c.local().Sub(c.at) >= lookEach
}

// look asks the leader for its time.
func (c *clock) look(ctx context.Context, js jetstream.JetStream) error {
	sent := c.local()
	stream, err := js.Stream(ctx, streamName)
	if err != nil {
		return coded(ctx, err)
	}
	took := c.local().Sub(sent)
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader := stream.CachedInfo().TimeStamp; !leader.IsZero() && (took <= maxLook || c.leader.IsZero()) {
		c.at, c.leader = sent.Add(took/2), leader
	}
	return nil
}
