package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/server"
)

// patience bounds one call, and the end of what was started.
const patience = 5 * time.Second

// description is what a service says of itself while it is measured.
const description = "Runs while rpcdo bench measures."

// workload is one thing to measure, ready to run.
type workload struct {
	row  string // name of its row
	name string // of it as what another is compared with
	op   func(ctx context.Context, caller int) error
	stop func() error

	// own, when it is set, is how a round of it goes, in place of calls of op.
	own func(ctx context.Context, callers int, d time.Duration) (round, error)
}

// run starts the service and returns when it takes calls.
func run(ctx context.Context, svc *server.Service) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
		return func() error { cancel(); return <-ended }, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// listen is a raw service: a subscription in a queue group.
func listen(b *bus.Bus, subject string, handle nats.MsgHandler) error {
	if _, err := b.Conn().QueueSubscribe(subject, "bench", handle); err != nil {
		return fmt.Errorf("raw nats.go: %w", err)
	}
	if err := b.Conn().FlushTimeout(patience); err != nil {
		return fmt.Errorf("raw nats.go: %w", err)
	}
	return nil
}

// buses are connections to close at the end.
type buses []*bus.Bus

func (o *buses) connect(ctx context.Context, cfg Config) (*bus.Bus, error) {
	b, err := cfg.Connect(ctx)
	if err == nil {
		*o = append(*o, b)
	}
	return b, err
}

// pair returns the service's connection and the caller's, which for Shortcut
// are the same.
func (o *buses) pair(ctx context.Context, cfg Config) (serving, calling *bus.Bus, err error) {
	if cfg.Transport != Shortcut {
		return o.apart(ctx, cfg)
	}
	serving, err = o.connect(ctx, cfg)
	return serving, serving, err
}

// apart returns two connections.
func (o *buses) apart(ctx context.Context, cfg Config) (serving, calling *bus.Bus, err error) {
	if serving, err = o.connect(ctx, cfg); err == nil {
		calling, err = o.connect(ctx, cfg)
	}
	return serving, calling, err
}

func (o *buses) close() error {
	var first error
	for _, b := range *o {
		first = firstError(first, b.Close())
	}
	return first
}
