package server

import (
	"fmt"
	"maps"
	"regexp"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
)

// Config says how a service runs. The zero value works.
type Config struct {
	// Version is the service's version, as SemVer. Defaults to "0.0.0".
	Version string

	// Description is one line for people who look at the service.
	Description string

	// Metadata is shown by discovery, as it is.
	Metadata map[string]string

	// Logger gets the service's log: calls at debug, failures at warn, panics at
	// error. Defaults to the bus's.
	Logger *zerolog.Logger

	// Concurrency bounds the calls that run at once in this instance. A method
	// with bounds of its own (see Concurrency) does not count. Defaults to 1,024.
	Concurrency int

	// Queue bounds the calls that wait for a place to run. What comes on top is
	// refused with ResourceExhausted. Defaults to 4,096.
	Queue int

	// QueueBytes bounds the payloads of the calls that wait. Defaults to 64 MiB.
	QueueBytes int64

	// DrainTimeout is how long a shutdown waits for calls and WaitUntil work to
	// end before it cancels their contexts. Defaults to 30 seconds.
	DrainTimeout time.Duration

	// Interceptors wrap every call of the service; the first is the outermost.
	Interceptors []rpc.Interceptor

	// ReplyPrefixes are the inbox prefixes that the service answers to.
	// Defaults to the bus's own inbox prefix.
	ReplyPrefixes []string
}

var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

func (c Config) withDefaults(inboxPrefix string) Config {
	if c.Version == "" {
		c.Version = "0.0.0"
	}
	if !semver.MatchString(c.Version) {
		panic(fmt.Sprintf("server: version %q is not SemVer, such as 1.2.0", c.Version))
	}
	c.Metadata = maps.Clone(c.Metadata)
	setDefault("Concurrency", &c.Concurrency, 1024)
	setDefault("Queue", &c.Queue, 4096)
	setDefault("QueueBytes", &c.QueueBytes, 64<<20)
	setDefault("DrainTimeout", &c.DrainTimeout, 30*time.Second)
	if len(c.ReplyPrefixes) == 0 {
		c.ReplyPrefixes = []string{inboxPrefix}
	}
	return c
}

func setDefault[T int | int64 | time.Duration](field string, value *T, def T) {
	switch {
	case *value == 0:
		*value = def
	case *value < 0:
		panic(fmt.Sprintf("server: Config.%s is negative", field))
	}
}
