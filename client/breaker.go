package client

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"rpc.do"
)

// BreakerConfig says when a circuit breaker opens. The zero value works.
type BreakerConfig struct {
	// Failures is how many calls in a row must fail. Defaults to 10.
	Failures int
	// OpenFor is how long the breaker stays open before it lets one call
	// through to see whether the service is back. Defaults to 5 seconds.
	OpenFor time.Duration
}

// Breaker returns an interceptor that stops calling a service which does not
// answer. Each service has a circuit breaker of its own: after a number of
// calls in a row that failed with Unavailable or DeadlineExceeded it opens, and
// calls fail at once with Unavailable until one that is let through succeeds.
// Errors that a handler returned do not count: a service that answers is there.
// Neither do calls that their callers gave up or that were refused here: they
// tell nothing.
func Breaker(cfg BreakerConfig) rpc.Interceptor {
	if cfg.Failures <= 0 {
		cfg.Failures = 10
	}
	if cfg.OpenFor <= 0 {
		cfg.OpenFor = 5 * time.Second
	}
	b := &breakers{config: cfg}
	b.byService.make = b.breaker
	return rpc.Interceptor{Name: "breaker", Unary: b.wrap}
}

type breakers struct {
	config    BreakerConfig
	byService perService[*gobreaker.CircuitBreaker[struct{}]]
}

func (b *breakers) wrap(next rpc.UnaryFunc) rpc.UnaryFunc {
	return func(ctx context.Context, call *rpc.Call) error {
		service := call.Service
		breaker, ok := b.byService.of(service)
		if !ok || ctx.Err() != nil { // then it fails whether the service is there or not
			return next(ctx, call)
		}
		_, err := breaker.Execute(func() (struct{}, error) {
			return struct{}{}, next(ctx, call)
		})
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			return rpc.Unavailable.Errorf("%s: not sent: the circuit breaker of %s is open, its last calls got no answer", call.Name(), service).
				NotExecuted().WithRetryAfter(b.config.OpenFor)
		}
		return err
	}
}

func (b *breakers) breaker(service string) *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         service,
		Timeout:      b.config.OpenFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(b.config.Failures) },
		IsSuccessful: answered,
		IsExcluded:   undecided,
	})
}

// answered reports whether the outcome of a call shows that the service is there.
func answered(err error) bool {
	switch rpc.CodeOf(err) {
	case rpc.Unavailable, rpc.DeadlineExceeded:
		return rpc.IsRemote(err)
	default:
		return true
	}
}

// undecided reports whether the outcome of a call shows nothing of the service.
func undecided(err error) bool {
	switch rpc.CodeOf(err) {
	case rpc.Canceled, rpc.InvalidArgument, rpc.ResourceExhausted:
		return !rpc.IsRemote(err)
	default:
		return false
	}
}
