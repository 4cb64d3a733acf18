package read

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
)

// attemptTime bounds one request to the server that is made again.
const attemptTime = 2 * time.Second

// Retry makes requests of the server until one is answered for good or ctx ends,
// and returns the last error then.
func Retry[T any](ctx context.Context, b *bus.Bus, request func(context.Context) (T, error)) (T, error) {
	var none T
	for try := 1; ; try++ {
		if err := b.WaitConnected(ctx); err != nil {
			return none, err
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		got, err := request(attempt)
		cancel()
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil || !Temporary(err) {
			return none, err
		}
		if Pause(ctx, try) != nil {
			return none, err
		}
	}
}

// Temporary reports whether the same request may succeed later.
func Temporary(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionReconnecting) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.Code == http.StatusServiceUnavailable
}

// Pause waits before a further try, the longer the more there were.
func Pause(ctx context.Context, try int) error {
	timer := time.NewTimer(min(5*time.Millisecond<<min(try, 10), 2*time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
