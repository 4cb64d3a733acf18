package client

import (
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// Config says how a client calls. The zero value works.
type Config struct {
	// Timeout is the time of a call when neither the context, the method nor
	// the call itself sets one. Defaults to 5 seconds.
	Timeout time.Duration

	// MaxAttempts bounds how often one call is sent, the first time included.
	// Tries that found no connection do not count, and with the default neither
	// do those that ResendAfter's default makes of a call of an object. Defaults
	// to 5; 1 turns retries off.
	MaxAttempts int

	// ResendAfter is how long a call of an idempotent method, or of an object,
	// waits for an answer before it is sent once more, since whoever has it may
	// have died. The first answer counts, so an idempotent method that regularly
	// takes longer runs more than once; an object recognises the call. Defaults to
	// a third of the time left, and for objects, if that is less, to 1 second, then
	// 1.5, then 2 each time, until the call's time is over; a negative value turns
	// it off.
	ResendAfter time.Duration

	// RetryBudget is how many retries to one service may be made in a row.
	// Each retry takes one from the budget and ten calls that succeed give one
	// back, so that retries can't multiply the load on a service in trouble. What
	// MaxAttempts does not count takes one for the whole call. Defaults to 100.
	RetryBudget int

	// MaxPending bounds the calls that wait for an answer. Defaults to 65,536.
	MaxPending int

	// Interceptors wrap every call; the first is the outermost.
	Interceptors []rpc.Interceptor

	// Codec writes params and reads results. Defaults to bus.JSON.
	Codec bus.Codec

	// NoShortcut sends calls to services of this process over the bus too.
	NoShortcut bool

	resendFreely bool // MaxAttempts is the default
}

func (c Config) withDefaults() Config {
	if c.Timeout <= 0 {
		c.Timeout = bus.DefaultTimeout
	}
	if c.MaxAttempts <= 0 {
		c.MaxAttempts, c.resendFreely = 5, true
	}
	if c.RetryBudget <= 0 {
		c.RetryBudget = 100
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 1 << 16
	}
	if c.Codec == nil {
		c.Codec = bus.JSON{}
	}
	return c
}
