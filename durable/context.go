package durable

import (
	"context"
	"time"

	"rpc.do"
)

// Context is what a turn may do beside changing the state. It is a context that
// ends with the call's deadline, with the turn's own time limit, and when the
// caller gives up. It is for the goroutine that runs the handler, until the
// handler returns.
//
// What a turn asks for here is stored along with the state when the handler
// returns nil, and forgotten when it returns an error or panics.
type Context interface {
	context.Context

	// ID returns the object's id.
	ID() string

	// Alarm returns when the object's alarm is due; false when none is set. In
	// the alarm's own handler it is not set any more.
	Alarm() (at time.Time, set bool)
	// SetAlarm sets the one alarm of the object, in place of an earlier one. A
	// time that has passed is due at once. Times are kept to the millisecond;
	// one outside of the years 1970 to 9999 fails the turn with InvalidArgument.
	SetAlarm(at time.Time)
	// DeleteAlarm makes an alarm that has not fired never fire.
	DeleteAlarm()

	// Emit sends an event with the name, such as "Order.placed", whose data is
	// encoded as JSON. It is sent exactly once, if the turn commits. See Emit,
	// the function, for events that have a descriptor.
	//
	// Errors: InvalidArgument for a malformed name or data that JSON can't hold,
	// ResourceExhausted when it is too large or the turn has too many.
	Emit(event string, data any) error

	// Storage returns the object's keyed storage.
	Storage() Storage

	// Destroy deletes the object: its state, its storage and its alarm. What
	// the turn does to them, before or after, is dropped; its events are sent.
	// The next call finds the object as if it had never been.
	Destroy()
}

// ReadContext is what a view may do: read.
type ReadContext interface {
	context.Context

	// ID returns the object's id.
	ID() string
	// Alarm returns when the object's alarm is due; false when none is set.
	Alarm() (at time.Time, set bool)
	// Storage returns the reading half of the object's keyed storage.
	Storage() ReadStorage
}

// Emit sends an event that has a descriptor. See Context.Emit.
func Emit[T any](ctx Context, event rpc.Event[T], data T) error {
	return ctx.Emit(event.Name(), data)
}

// ReadStorage reads the keyed storage of an object: entries beside the state,
// for what is too large or too many to be in it. Keys are UTF-8 text of 1 to
// 256 bytes, values are JSON.
//
// Errors: InvalidArgument for a bad key or a value of another type, Unavailable
// when the bus does not answer in time.
type ReadStorage interface {
	// Get reads the entry into value, a pointer. It reports false, and leaves
	// value alone, when there is none. See Get, the function, for a typed one.
	Get(key string, value any) (found bool, err error)
	// List returns entries in the order of their keys' bytes.
	List(opts ListOptions) ([]Entry, error)
}

// Storage is the keyed storage of an object in a turn. It reads what the turn
// has written.
type Storage interface {
	ReadStorage
	// Put sets an entry to value, encoded as JSON.
	//
	// Errors: InvalidArgument for a bad key or value, ResourceExhausted when the
	// value does not fit into a message or the turn writes too many entries.
	Put(key string, value any) error
	// Delete deletes an entry; deleting what is not there is no error.
	Delete(key string) error
}

// ListOptions says which entries to list. The zero value lists all.
type ListOptions struct {
	// Prefix is what keys begin with.
	Prefix string
	// Start is the first key to list and End the first one not to, by their
	// bytes. Empty means no bound.
	Start, End string
	// Limit bounds how many are listed. Defaults to all.
	Limit int
	// Reverse lists from the end, without changing what Start and End mean.
	Reverse bool
}
