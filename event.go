package rpc

// Event describes an event: its type's name and the type of its data.
type Event[T any] struct{ name string }

// NewEvent describes the event with the name
// "<Subject>.<predicate>[.<Object>…]", such as "User.registered" or
// "User.purchased.Product". It panics when the name is malformed.
func NewEvent[T any](name string) Event[T] {
	if err := ValidateEvent(name); err != nil {
		panic("rpc: NewEvent: " + err.Error())
	}
	return Event[T]{name}
}

// Name returns the event's type, such as "User.registered".
func (e Event[T]) Name() string { return e.name }
