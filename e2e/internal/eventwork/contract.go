// Package eventwork is the contract of the services that handle events in the
// end-to-end tests: the events, what a handler is told to do, and the journal in
// which a process notes its attempts.
package eventwork

import (
	"time"

	"rpc.do"
)

// The events.
var (
	Added = rpc.NewEvent[Item]("Item.added")
	// Echoed is sent again by whoever handles it, if it is told to.
	Echoed = rpc.NewEvent[Item]("Item.echoed")
)

// Item is the data of all events.
type Item struct {
	N   int    `json:"n"` // tells events apart
	Key string `json:"key,omitempty"`
	// Bad fails every attempt of handlers that are not Fixed.
	Bad bool `json:"bad,omitempty"`
	// Deadly kills the process that handles it: with SIGKILL, during the attempt.
	Deadly bool `json:"deadly,omitempty"`
	// Ms is how long an attempt takes at least.
	Ms int `json:"ms,omitempty"`
}

// Handler is what a process is to handle, and how. What is left to chance depends
// on Seed, the event and the attempt alone.
type Handler struct {
	Name    string `json:"name"`
	Pattern string `json:"pattern"` // Added when it is empty
	// Ordered has the events of one key come in their order.
	Ordered     bool          `json:"ordered,omitempty"`
	Concurrency int           `json:"concurrency,omitempty"`
	Attempts    int           `json:"attempts,omitempty"`
	Backoff     time.Duration `json:"backoff,omitempty"`
	Seed        uint64        `json:"seed,omitempty"`
	// Takes is how long an attempt takes, beside the item's own time, and Work how
	// much longer at most.
	Takes time.Duration `json:"takes,omitempty"`
	Work  time.Duration `json:"work,omitempty"`
	// Fails is how likely an attempt is to fail.
	Fails float64 `json:"fails,omitempty"`
	Fixed bool    `json:"fixed,omitempty"`
	// Echo sends the event once more.
	Echo bool `json:"echo,omitempty"`
	// Show prints each event on stdout, as "event <handler> <JSON>".
	Show bool `json:"show,omitempty"`
}

// BadError is the text of the error that bad items fail with.
const BadError = "this item is bad"
