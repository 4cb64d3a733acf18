package durable

import (
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
)

// Config says how a class is served. The zero value works.
type Config struct {
	// Formerly is the name that the class had when its objects were made. A
	// renamed class keeps their bucket, and is served under both names. Instances
	// that know only the old one have to be gone before callers use the new one.
	Formerly string

	// Schema is the version of the state's shape. A state that was stored with
	// an earlier one goes through the functions given to Migrate. Defaults to 0.
	Schema int

	// Idle is how long an object stays in memory after its last call. Defaults
	// to 60 seconds.
	Idle time.Duration

	// TurnTimeout bounds a turn, whatever time its call has. Defaults to 30
	// seconds.
	TurnTimeout time.Duration

	// Mailbox bounds how many calls wait for one object. Defaults to 1,000.
	Mailbox int

	// Calls bounds the calls that the class holds, running and waiting, over all
	// its objects. Defaults to 65,536.
	Calls int

	// History is how many commits of each object the bucket keeps. Retries after
	// a crash are recognised from them. Defaults to 5; at most 64. It counts when
	// the bucket is made.
	History int

	// Lease is how long a member that has died keeps others from its objects,
	// the same for all classes of a service: the first one's counts. Defaults to
	// 5 seconds; at least 1 second.
	Lease time.Duration

	// ClockMargin is by how much the clocks of the bus's servers may differ. An
	// owner stops that much before its lease ends. Defaults to a tenth of Lease.
	ClockMargin time.Duration

	// Interceptors wrap every call of the class; the first is the outermost.
	// They run within the turn. It ends when next returns: one that calls next
	// again gets FailedPrecondition.
	Interceptors []rpc.Interceptor

	// Logger defaults to the one of the bus.
	Logger *zerolog.Logger

	// faults, set by tests only, is called at the steps of a turn.
	faults func(point string)
	// alarms are set by tests only.
	alarms alarmTimes
	// unfenced, set by tests only, leaves out what keeps a paused owner from
	// doing harm.
	unfenced bool
}

const (
	defaultIdle        = 60 * time.Second
	defaultTurnTimeout = 30 * time.Second
	defaultMailbox     = 1000
	defaultCalls       = 1 << 16
	defaultHistory     = 5
	defaultLease       = 5 * time.Second
	minLease           = time.Second
)

func (c Config) withDefaults() Config {
	if c.Idle <= 0 {
		c.Idle = defaultIdle
	}
	if c.TurnTimeout <= 0 {
		c.TurnTimeout = defaultTurnTimeout
	}
	if c.Mailbox <= 0 {
		c.Mailbox = defaultMailbox
	}
	if c.Calls <= 0 {
		c.Calls = defaultCalls
	}
	if c.History <= 0 {
		c.History = defaultHistory
	}
	if c.Lease <= 0 {
		c.Lease = defaultLease
	}
	if c.ClockMargin <= 0 {
		c.ClockMargin = c.Lease / 10
	}
	c.alarms = c.alarms.withDefaults()
	c.unfenced = c.unfenced || fenceOff
	return c
}
