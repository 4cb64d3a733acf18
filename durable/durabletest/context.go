// Package durabletest tests the methods of durable objects without a bus: it has
// a context that keeps what a method does with it.
//
//	ctx := durabletest.New(t.Context(), "alice")
//	cart := &Cart{}
//	n, err := cart.Add(ctx, Item{SKU: "abc", Quantity: 1})
//	at, set := ctx.Alarm()
//	events := ctx.Events()
//
// Nothing is rolled back: what a method that fails has done before can be looked
// at. What turns promise of each other is not to be seen here, but with a bus
// (rpc.do/bus/bustest), with Run and a client.
package durabletest

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	"rpc.do"
	"rpc.do/durable"
)

// Context is a durable.Context that keeps what is done with it. It is for one
// goroutine.
type Context struct {
	context.Context
	id        string
	alarm     time.Time
	events    []Event
	entries   map[string]json.RawMessage
	destroyed bool
}

var _ durable.Context = (*Context)(nil)

// Event is an event that was emitted.
type Event struct {
	Name string
	Data json.RawMessage
}

// Decode reads the event's data into v, a pointer.
func (e Event) Decode(v any) error { return json.Unmarshal(e.Data, v) }

// New returns the context of an object with the id, without an alarm and with
// empty storage.
func New(ctx context.Context, id string) *Context {
	return &Context{Context: ctx, id: id, entries: map[string]json.RawMessage{}}
}

// ID returns the object's id.
func (c *Context) ID() string { return c.id }

// Alarm returns the alarm that was set, if any.
func (c *Context) Alarm() (at time.Time, set bool) { return c.alarm, !c.alarm.IsZero() }

// SetAlarm sets the alarm. It does not fire: a test calls the handler.
func (c *Context) SetAlarm(at time.Time) { c.alarm = at.Truncate(time.Millisecond) }

// DeleteAlarm deletes the alarm.
func (c *Context) DeleteAlarm() { c.alarm = time.Time{} }

// Emit keeps an event.
func (c *Context) Emit(event string, data any) error {
	if err := rpc.ValidateEvent(event); err != nil {
		return rpc.InvalidArgument.Errorf("emit: %w", err)
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return rpc.InvalidArgument.Errorf("emit %s: the data can't be written as JSON: %w", event, err)
	}
	c.events = append(c.events, Event{event, encoded})
	return nil
}

// Events returns what was emitted, in order.
func (c *Context) Events() []Event { return c.events }

// Storage returns the object's keyed storage, which is in memory.
func (c *Context) Storage() durable.Storage { return storage{c} }

// Destroy deletes the alarm and the storage. The state is the test's own.
func (c *Context) Destroy() {
	c.destroyed, c.alarm = true, time.Time{}
	clear(c.entries)
}

// Destroyed reports whether Destroy was called.
func (c *Context) Destroyed() bool { return c.destroyed }

// Read returns the context of a view of the same object.
func (c *Context) Read() durable.ReadContext { return readContext{c.Context, c} }

type readContext struct {
	context.Context
	object *Context
}

func (r readContext) ID() string                   { return r.object.id }
func (r readContext) Alarm() (time.Time, bool)     { return r.object.Alarm() }
func (r readContext) Storage() durable.ReadStorage { return storage{r.object} }

type storage struct{ object *Context }

func (s storage) Get(key string, value any) (bool, error) {
	if err := durable.ValidateKey(key); err != nil {
		return false, err
	}
	data, found := s.object.entries[key]
	if !found {
		return false, nil
	}
	return true, durable.Entry{Key: key, Value: data}.Decode(value)
}

func (s storage) List(opts durable.ListOptions) ([]durable.Entry, error) {
	var all []durable.Entry
	for key, value := range maps.All(s.object.entries) {
		all = append(all, durable.Entry{Key: key, Value: value})
	}
	return opts.Apply(all), nil
}

func (s storage) Put(key string, value any) error {
	if err := durable.ValidateKey(key); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return rpc.InvalidArgument.Errorf("storage key %.80q: the value can't be written as JSON: %w", key, err)
	}
	s.object.entries[key] = data
	return nil
}

func (s storage) Delete(key string) error {
	if err := durable.ValidateKey(key); err != nil {
		return err
	}
	delete(s.object.entries, key)
	return nil
}
