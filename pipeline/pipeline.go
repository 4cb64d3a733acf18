package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// Pipeline sends events, and looks at those that were sent. Its methods may be
// called by many goroutines at once. It needs no closing: what it has on the bus
// ends with the bus.
type Pipeline struct {
	bus *bus.Bus
	js  jetstream.JetStream
	cfg Config

	turn    chan struct{} // has one place: whoever has it may use what follows
	ensured map[string]ensured
}

// ensured is a stream that was looked at.
type ensured struct {
	stream jetstream.Stream
	at     time.Time
}

// Config says how a Pipeline works. The zero value does.
type Config struct {
	// Source is what the events sent say that they come from, as a URI reference.
	// Defaults to "/" and the name of the bus.
	Source string

	// Timeout is the time of a send, or a look at the stream, whose context has
	// no deadline. Defaults to 5 seconds.
	Timeout time.Duration

	// Codec writes the data of events. Defaults to bus.JSON.
	Codec bus.Codec
}

func (c Config) withDefaults(b *bus.Bus) Config {
	if c.Source == "" {
		c.Source = "/" + b.Name()
	}
	if c.Timeout <= 0 {
		c.Timeout = bus.DefaultTimeout
	}
	if c.Codec == nil {
		c.Codec = bus.JSON{}
	}
	return c
}

// New returns a Pipeline on the bus. It does nothing yet: the stream EVENTS is
// made when it is needed first.
func New(b *bus.Bus, cfg Config) *Pipeline {
	return &Pipeline{bus: b, js: b.JetStream(), cfg: cfg.withDefaults(b), turn: make(chan struct{}, 1), ensured: map[string]ensured{}}
}

// ensureAgain is how often it is looked whether a stream is as it should be.
const ensureAgain = 10 * time.Minute

// events returns the stream EVENTS, which it makes when it is not there.
func (p *Pipeline) events(ctx context.Context) (jetstream.Stream, error) {
	return p.ensure(ctx, bus.EventsStream, p.bus.EnsureEvents)
}

// ensure returns a stream, which it makes when it is not there.
func (p *Pipeline) ensure(ctx context.Context, name string, do func(context.Context) (jetstream.Stream, error)) (jetstream.Stream, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, coded(ctx, context.Cause(ctx))
	}
	if e := p.ensured[name]; e.stream != nil && time.Since(e.at) < ensureAgain {
		return e.stream, nil
	}
	stream, err := do(ctx)
	if err != nil {
		return nil, coded(ctx, err)
	}
	p.ensured[name] = ensured{stream, time.Now()}
	return stream, nil
}

// lost makes the next use of a stream look whether it is still there.
func (p *Pipeline) lost(ctx context.Context, name string) {
	select {
	case p.turn <- struct{}{}:
		delete(p.ensured, name)
		<-p.turn
	case <-ctx.Done():
	}
}

// withTimeout bounds what has no deadline.
func (p *Pipeline) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, p.cfg.Timeout)
}

// coded gives an error of the bus a code.
func coded(ctx context.Context, err error) *rpc.Error {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return rpc.Canceled.Errorf("%w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return rpc.DeadlineExceeded.Errorf("%w", err)
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrMsgNotFound):
		return rpc.NotFound.Errorf("%w", err)
	}
	return rpc.Unavailable.Errorf("%w", err)
}
