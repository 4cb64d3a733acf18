package rpc

import "context"

// Future is the result of a call that was started with Go.
type Future[R any] struct {
	done   chan struct{}
	result R
	err    error
}

func start[R any](call func() (R, error)) *Future[R] {
	f := &Future[R]{done: make(chan struct{})}
	f.err = Internal.Errorf("the Caller ended its goroutine instead of returning")
	go func() {
		defer close(f.done)
		f.result, f.err = call()
	}()
	return f
}

// Done returns a channel that is closed when the call has ended.
func (f *Future[R]) Done() <-chan struct{} { return f.done }

// Wait waits until the call has ended and returns its result, or gives up when
// ctx ends. Giving up does not end the call; ending the context it was started
// with does. Wait may be called any number of times.
func (f *Future[R]) Wait(ctx context.Context) (R, error) {
	select {
	case <-f.done:
		return f.result, f.err
	default:
	}
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
		var zero R
		return zero, CodeOf(ctx.Err()).Errorf("gave up waiting for the call: %w", ctx.Err())
	}
}
