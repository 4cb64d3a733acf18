package pipeline

import (
	"fmt"
	"reflect"
	"time"
)

// HandlerOption changes how one handler works.
type HandlerOption func(*handlerConfig)

type handlerConfig struct {
	also        []string
	concurrency int
	attempts    int
	backoff     []time.Duration
	timeout     time.Duration
	from        Start
	keep        []func(*delivery) (bool, error)
	event       reflect.Type // of what keep and key look at, nil when they don't
	key         func(*delivery) string
	exclusive   bool
	singleton   bool
	debounce    time.Duration
	throttle    int
	per         time.Duration
	batch       int
	wait        time.Duration
}

const (
	defaultConcurrency = 16
	defaultAttempts    = 5
	defaultTimeout     = 30 * time.Second
	defaultBatch       = 100
	defaultWait        = time.Second
)

func newHandlerConfig(opts []HandlerOption) handlerConfig {
	cfg := handlerConfig{
		concurrency: defaultConcurrency, attempts: defaultAttempts, timeout: defaultTimeout,
		backoff: []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute},
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	if cfg.singleton {
		cfg.concurrency = 1
	}
	return cfg
}

// positive panics on a number that makes no sense: options are constants of the
// program.
func positive[T int | time.Duration](option string, n T) {
	if n <= 0 {
		panic(fmt.Sprintf("pipeline: %s(%v): want more than 0", option, n))
	}
}

// Also has the handler get what matches these patterns as well, each event once.
func Also(patterns ...string) HandlerOption {
	return func(c *handlerConfig) { c.also = append(c.also, patterns...) }
}

// Concurrency bounds the events, or batches, that one instance handles at once.
// Defaults to 16.
func Concurrency(n int) HandlerOption {
	positive("Concurrency", n)
	return func(c *handlerConfig) { c.concurrency = n }
}

// Attempts is how often an event is tried before it becomes a dead letter, the
// first time included. Defaults to 5.
func Attempts(n int) HandlerOption {
	positive("Attempts", n)
	return func(c *handlerConfig) { c.attempts = n }
}

// Backoff is how long to wait after each failed attempt; the last counts for all
// further ones. Each pause is up to a fifth longer or shorter, so that what
// failed together does not come back together. Defaults to 1 s, 5 s, 30 s and 2
// min.
func Backoff(pauses ...time.Duration) HandlerOption {
	if len(pauses) == 0 {
		panic("pipeline: Backoff: want one pause at least")
	}
	for _, d := range pauses {
		positive("Backoff", d)
	}
	return func(c *handlerConfig) { c.backoff = pauses }
}

// Timeout is how long an attempt may take before its context ends. The event
// stays with the handler as long as it runs. One that goes on for twice as long
// without noticing is given up: the attempt has failed, the event may be tried
// elsewhere, and its place stays taken until it returns; not so when one instance
// has all events (OrderBy and the like), of which nothing may run beside it.
// Defaults to 30 seconds.
func Timeout(d time.Duration) HandlerOption {
	positive("Timeout", d)
	return func(c *handlerConfig) { c.timeout = d }
}

// Start says where a handler begins when it is there for the first time. Later it
// goes on where it was.
type Start struct {
	all      bool
	time     time.Time
	sequence uint64
}

// StartNew begins with the events sent from now on.
func StartNew() Start { return Start{} }

// StartAll begins with the oldest event that the stream has.
func StartAll() Start { return Start{all: true} }

// StartTime begins with the first event stored at t or later.
func StartTime(t time.Time) Start { return Start{time: t} }

// StartSequence begins with the event that has that place in the stream.
func StartSequence(n uint64) Start { return Start{sequence: n} }

// From says where the handler begins when it is there for the first time.
// Defaults to StartNew.
func From(s Start) HandlerOption {
	return func(c *handlerConfig) { c.from = s }
}

// Filter has the handler get only events for which keep returns true; the others
// are done. It is called for every event that matches the pattern, from many
// goroutines at once, and must be quick. What it panics with counts as a failed
// attempt.
//
// T is that of the handler's events; any other makes On panic.
func Filter[T any](keep func(Event[T]) bool) HandlerOption {
	return func(c *handlerConfig) {
		c.looksAt(reflect.TypeFor[T](), "Filter")
		c.keep = append(c.keep, func(d *delivery) (bool, error) {
			e := *d.event.(*Event[T])
			e.Attempt = d.attempt
			return keep(e), nil
		})
	}
}

// OrderBy has the events that have the same key handled in the order of the
// stream, one at a time: also across a retry, which holds up its own key alone,
// and across instances. Other keys run meanwhile.
//
// One instance has all events of such a handler; another follows when it ends,
// or within some 10 seconds when it dies. So more instances do not make it faster.
// The instance holds at most 1,024 events that are not done: when so many of a few
// keys wait for their next attempt, the other keys wait as well. An attempt that
// ignores that its time is over holds up its key until it ends.
//
// T is that of the handler's events; any other makes On panic. Key is called from
// one goroutine at a time.
func OrderBy[T any](key func(Event[T]) string) HandlerOption {
	return func(c *handlerConfig) { c.setKey("OrderBy", reflect.TypeFor[T](), keyOf(key)) }
}

// Debounce handles the last of several events with the same key, once none has
// come for that long, or ten times that long after the first; the others are done.
// Events of one key are handled one at a time, and one instance has all of them, as
// with OrderBy.
func Debounce[T any](wait time.Duration, key func(Event[T]) string) HandlerOption {
	positive("Debounce", wait)
	return func(c *handlerConfig) {
		c.setKey("Debounce", reflect.TypeFor[T](), keyOf(key))
		c.debounce = wait
	}
}

func keyOf[T any](key func(Event[T]) string) func(*delivery) string {
	return func(d *delivery) string { return key(*d.event.(*Event[T])) }
}

func (c *handlerConfig) setKey(option string, event reflect.Type, key func(*delivery) string) {
	if c.key != nil {
		panic("pipeline: " + option + ": the handler has OrderBy or Debounce already")
	}
	c.looksAt(event, option)
	c.key, c.exclusive = key, true
}

func (c *handlerConfig) looksAt(event reflect.Type, option string) {
	if c.event != nil && c.event != event {
		panic(fmt.Sprintf("pipeline: %s: it is for events with %v, another option for %v", option, event, c.event))
	}
	c.event = event
}

// Throttle begins at most n events, or batches, in any time of that length, over
// all instances: one instance has all events of the handler, as with OrderBy.
// What comes faster waits in the stream.
func Throttle(n int, per time.Duration) HandlerOption {
	positive("Throttle", n)
	positive("Throttle", per)
	return func(c *handlerConfig) { c.throttle, c.per, c.exclusive = n, per, true }
}

// Singleton handles one event, or batch, at a time over all instances, whatever
// Concurrency says: one instance has all events of the handler, as with OrderBy.
func Singleton() HandlerOption {
	return func(c *handlerConfig) { c.singleton, c.exclusive = true, true }
}

// Batch is for OnBatch: a batch has at most size events, and no more are waited
// for once the first has waited that long. Defaults to 100 events and 1 second.
func Batch(size int, wait time.Duration) HandlerOption {
	positive("Batch", size)
	positive("Batch", wait)
	if size > maxBatch {
		panic(fmt.Sprintf("pipeline: Batch(%d): want %d at most", size, maxBatch))
	}
	return func(c *handlerConfig) { c.batch, c.wait = size, wait }
}

// maxBatch is the largest batch: what waits for it is held in memory.
const maxBatch = 1000
