package durable

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// Pause is what keeps the calls of an object, or of a whole class, from being
// served.
type Pause struct {
	// ID is the object's; empty for the class.
	ID     string    `json:"id,omitempty"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// maxReason bounds the reason of a pause, in bytes.
const maxReason = 1 << 10

// Pause has all calls of an object refused: with Unavailable and the reason, up
// to 1 KiB for people to read. Alarms wait. Pausing what is paused changes the
// reason. It lasts until Resume, whoever starts or stops meanwhile; an object
// need not exist to be paused.
//
// When Pause returns nil, the members that serve the class refuse the calls.
// Those that they had taken in before run to their end. A member that is cut off
// does so when it is back. When a server of the bus has just failed, Pause takes
// some seconds.
//
// Errors: DeadlineExceeded when a member has not confirmed it before ctx ended,
// or within 15 seconds, as one that does not respond at all. The pause is stored
// then, and the others go by it.
func (c *Catalogue) Pause(ctx context.Context, id, reason string) error {
	token, err := c.key(id)
	if err != nil {
		return err
	}
	return c.pause(ctx, token, reason)
}

// PauseClass has the calls of all objects refused, as Pause those of one.
func (c *Catalogue) PauseClass(ctx context.Context, reason string) error {
	return c.pause(ctx, pausedClass, reason)
}

// Resume ends what Pause began; it is no error when the object was not paused.
// It stays paused as long as its class is.
//
// Errors: as those of Pause.
func (c *Catalogue) Resume(ctx context.Context, id string) error {
	token, err := c.key(id)
	if err != nil {
		return err
	}
	return c.resume(ctx, token)
}

// ResumeClass ends what PauseClass began. Objects that were paused by themselves
// stay so.
func (c *Catalogue) ResumeClass(ctx context.Context) error { return c.resume(ctx, pausedClass) }

func (c *Catalogue) pause(ctx context.Context, token, reason string) error {
	if len(reason) > maxReason || !utf8.ValidString(reason) {
		return rpc.InvalidArgument.Errorf("reason: want UTF-8 text of at most %d bytes", maxReason)
	}
	value, err := json.Marshal(pauseRecord{reason})
	if err != nil {
		return rpc.InvalidArgument.Errorf("reason: %w", err)
	}
	return c.tell(ctx, journal.Message{Key: pausedPrefix + token, Data: value})
}

func (c *Catalogue) resume(ctx context.Context, token string) error {
	return c.tell(ctx, journal.Message{Key: pausedPrefix + token, Header: nats.Header{
		journal.HeaderOperation: {"PURGE"}, journal.HeaderRollup: {"sub"}, journal.HeaderTTL: {deletedTTL},
	}})
}

// Paused returns what is paused: the class first, then objects in the order of
// their ids.
func (c *Catalogue) Paused(ctx context.Context) ([]Pause, error) {
	all := map[string]Pause{}
	err := c.scan(ctx, journal.Follow{Match: pausedPrefix + "*"}, func(m *journal.Stored) {
		token := strings.TrimPrefix(m.Key, pausedPrefix)
		id, err := bus.Unescape(token)
		if token == pausedClass {
			id, err = "", nil
		}
		if err != nil {
			return // somebody else's
		}
		delete(all, id)
		if p := newPause(id, m); p != nil {
			all[id] = *p
		}
	})
	if err != nil {
		return nil, err
	}
	var paused []Pause
	for _, id := range sortedKeys(all) {
		paused = append(paused, all[id])
	}
	return paused, nil
}

// newPause returns what a message says about the object, or the class; nil when
// it is not paused.
func newPause(id string, m *journal.Stored) *Pause {
	r := readPause(m)
	if r == nil {
		return nil
	}
	return &Pause{ID: id, Reason: r.Reason, Since: m.Time}
}

// pausedBy returns what pauses an object.
func (c *Catalogue) pausedBy(ctx context.Context, id, key string) (*Pause, error) {
	m, err := c.journal.LeaderLast(ctx, pausedPrefix+key)
	if p := newPause(id, m); p != nil || err != nil {
		return p, err
	}
	m, err = c.journal.LeaderLast(ctx, pausedPrefix+pausedClass)
	return newPause("", m), err
}

const (
	// confirmTimeout bounds how long the members take to confirm a pause.
	confirmTimeout = 15 * time.Second
	// confirmAnswer bounds the answer to whether one has.
	confirmAnswer = time.Second
	// overdue is after which time a member that is there has noticed that the
	// server which should tell it of pauses does not answer, and has read them.
	overdue = journal.Silence + 3*time.Second
)

// tell stores a message about what is paused, and waits until all go by it.
func (c *Catalogue) tell(ctx context.Context, m journal.Message) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	seq, err := c.journal.Write(ctx, m)
	if err != nil {
		return c.failed(ctx, err)
	}
	return c.confirmed(ctx, seq)
}

// confirmed waits until all members that serve the class have dealt with the
// message. Those that begin to hear of pauses from now on have read it.
func (c *Catalogue) confirmed(ctx context.Context, sequence uint64) error {
	begun := time.Now()
	late, err := c.hearers(ctx)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err != nil {
			late, err = c.hearers(ctx)
		}
		late = slices.DeleteFunc(late, func(name string) bool {
			switch heard, err := c.heard(ctx, name, sequence); {
			case errors.Is(err, jetstream.ErrConsumerNotFound):
				return true
			case err != nil:
				return time.Since(begun) > overdue
			default:
				return heard
			}
		})
		if err == nil && len(late) == 0 {
			return nil
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		if err != nil {
			return rpc.DeadlineExceeded.Errorf("it is stored for the class %s, but who serves that can't be found out now: %w", c.class, err)
		}
		return rpc.DeadlineExceeded.Errorf("it is stored for the class %s, but %d of the members that serve it did not confirm in time: they go by it as soon as they hear of it",
			c.class, len(late))
	}
}

// hearers returns the names of the consumers by which members hear of pauses.
func (c *Catalogue) hearers(ctx context.Context) (names []string, err error) {
	stream, err := c.bus.JetStream().Stream(ctx, "KV_"+Bucket(c.class))
	if err != nil {
		return nil, err
	}
	list := stream.ConsumerNames(ctx)
	for name := range list.Name() {
		if strings.HasPrefix(name, pauseFollowers+"-") {
			names = append(names, name)
		}
	}
	return names, list.Err()
}

// heard reports whether the member has dealt with the message.
func (c *Catalogue) heard(ctx context.Context, name string, sequence uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmAnswer)
	defer cancel()
	consumer, err := c.bus.JetStream().PushConsumer(ctx, "KV_"+Bucket(c.class), name)
	if err != nil {
		return false, err
	}
	return consumer.CachedInfo().AckFloor.Stream >= sequence, nil
}
