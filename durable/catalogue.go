package durable

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable/internal/journal"
)

// Catalogue looks at the objects of a class from outside, and manages them. It
// reads the bucket, so that no object comes into memory and nobody needs to
// serve the class, but for Delete. Its methods may be called by many goroutines
// at once.
//
// What they return is an *rpc.Error, or an error of ctx: InvalidArgument for a
// malformed id, Unavailable when the bus does not answer, and what they name
// beside these.
type Catalogue struct {
	class   string
	bus     *bus.Bus
	journal *journal.Journal
	client  *client.Client

	stop func()

	mu      sync.Mutex
	closed  bool
	watches map[*Watch]struct{}
}

// Open returns the catalogue of a class, by the name that its bucket has: that
// of a class which has been renamed is the former one. It makes nothing on the
// bus. Closing the bus closes it.
//
// Errors: NotFound when the class has no bucket, as when nobody has ever served
// it.
func Open(ctx context.Context, b *bus.Bus, class string) (*Catalogue, error) {
	if err := rpc.ValidateService(class); err != nil {
		return nil, rpc.InvalidArgument.Errorf("class: %w", err)
	}
	j, err := journal.Open(b, Bucket(class))
	if err != nil {
		return nil, rpc.Unavailable.Errorf("the class %s: %w", class, err)
	}
	c := &Catalogue{class: class, bus: b, journal: j, client: client.New(b, client.Config{}), watches: map[*Watch]struct{}{}}
	c.stop = b.OnClose(c.Close)
	if _, err := j.LeaderSize(ctx); err != nil {
		c.Close()
		return nil, c.failed(ctx, err)
	}
	return c, nil
}

// Class returns the name of the class.
func (c *Catalogue) Class() string { return c.class }

// Close ends the catalogue and its watches.
func (c *Catalogue) Close() {
	c.mu.Lock()
	watches := c.watches
	c.watches = nil
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return
	}
	for w := range watches {
		w.end(c.errClosed())
	}
	c.client.Close()
	c.journal.Close()
	c.stop()
}

func (c *Catalogue) errClosed() error {
	return rpc.Unavailable.Errorf("the catalogue of the class %s was closed", c.class)
}

// add has the watch end with the catalogue.
func (c *Catalogue) add(w *Watch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.errClosed()
	}
	c.watches[w] = struct{}{}
	return nil
}

func (c *Catalogue) remove(w *Watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watches, w)
}

// failed gives an error of the bus its code.
func (c *Catalogue) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return rpc.NotFound.Errorf("there is no class %q: the bus has no bucket %s, which the first instance that serves the class makes", c.class, Bucket(c.class))
	case errors.Is(err, nats.ErrNoResponders):
		return rpc.Unavailable.Errorf("the class %s: JetStream does not answer: is it enabled on the bus (nats-server -js; rpcdo dev has it)? %w", c.class, err)
	}
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return rpc.CodeOf(ctx.Err()).Errorf("the class %s: %w", c.class, err)
	}
	return rpc.Unavailable.Errorf("the class %s can't be reached now: %w", c.class, err)
}

// key returns the key of an object.
func (c *Catalogue) key(id string) (string, error) {
	if err := rpc.ValidateObjectID(id); err != nil {
		return "", rpc.InvalidArgument.Errorf("%w", err)
	}
	return bus.Escape(id), nil
}

// Info is what is stored of an object, beside its keyed storage.
type Info struct {
	ID string `json:"id"`
	// State is JSON, unless somebody put something else there by hand.
	State json.RawMessage `json:"state"`

	// Revision is the sequence in the bucket of the last commit, Modified when it
	// was stored, by the clock of the bus.
	Revision uint64    `json:"revision"`
	Modified time.Time `json:"modified"`
	// Commit identifies it: how many the object has had, a dash, a unique part.
	// A state that somebody put there by hand has none.
	Commit string `json:"commit,omitempty"`
	// Epoch is that of the object's slot when the record was written.
	Epoch uint64 `json:"epoch"`
	// Schema is the version of the state's shape.
	Schema int `json:"schema"`

	// Alarm is when the alarm is due; nil when none is set. AlarmAttempts is how
	// often its handler has failed.
	Alarm         *time.Time `json:"alarm,omitempty"`
	AlarmAttempts int        `json:"alarmAttempts,omitempty"`
	// DeadAlarm is the dead letter of an earlier one.
	DeadAlarm *DeadAlarm `json:"deadAlarm,omitempty"`

	// Paused says what pauses the object: itself, or its class.
	Paused *Pause `json:"paused,omitempty"`
}

// State returns what is stored of an object, as the leader of the bucket has it:
// everything that a caller has been told is in it.
//
// Errors: NotFound when there is no such object.
func (c *Catalogue) State(ctx context.Context, id string) (Info, error) {
	key, err := c.key(id)
	if err != nil {
		return Info{}, err
	}
	rec, err := c.record(ctx, id, key)
	if err != nil {
		return Info{}, err
	}
	info := Info{
		ID: id, State: rec.state, Revision: rec.rev, Modified: rec.time, Commit: rec.commit, Epoch: rec.epoch, Schema: rec.schema,
		AlarmAttempts: rec.alarm.attempts,
	}
	if rec.alarm.set() {
		at := rec.alarm.at
		info.Alarm = &at
	}
	if info.Paused, err = c.pausedBy(ctx, id, key); err != nil {
		return Info{}, c.failed(ctx, err)
	}
	dead, err := c.journal.LeaderLast(ctx, deadPrefix+key)
	if err != nil {
		return Info{}, c.failed(ctx, err)
	}
	if dead != nil && !dead.Deleted() {
		info.DeadAlarm = new(DeadAlarm)
		_ = json.Unmarshal(dead.Data, info.DeadAlarm) // that there is one says enough
	}
	return info, nil
}

// record returns the record of an object that exists.
func (c *Catalogue) record(ctx context.Context, id, key string) (record, error) {
	m, err := c.journal.LeaderLast(ctx, key)
	if err != nil {
		return record{}, c.failed(ctx, err)
	}
	rec := readRecord(m)
	if !rec.exists {
		return record{}, rpc.NotFound.Errorf("the class %s has no object %.80q", c.class, id)
	}
	return rec, nil
}

// Delete has the owner of an object delete it: its state, its storage and its
// alarm, in one step and between two turns, also while the object is paused. It
// is no error when there is no such object; nothing changes then.
//
// Errors: Unavailable when nobody serves the class, DataLoss or
// FailedPrecondition when the owner can't read the object.
func (c *Catalogue) Delete(ctx context.Context, id string) error {
	if _, err := c.key(id); err != nil {
		return err
	}
	var none rpc.None
	err := c.client.Call(ctx, &rpc.Call{
		Service: c.class, Method: bus.MethodDestroy, Object: id, Params: &none, Result: &none, Idempotent: true,
	})
	e, ok := errors.AsType[*rpc.Error](err)
	if ok && e.Code == rpc.Unavailable && !e.Remote() && c.bus.Connected() {
		return rpc.Unavailable.Errorf("the object %s/%.80s was not deleted: an object is deleted by its owner, and nobody serves the class %[1]s now: start a service that does", c.class, id)
	}
	return err
}
