package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/rs/zerolog"
)

// WaitUntil goes on with work after the call that ctx belongs to has been
// answered. The work's context has the call's values, not its deadline; it ends
// only when a shutdown runs out of time, and the shutdown waits for the work
// until then. An error or panic of the work is logged and is never the caller's.
//
// When as much background work runs as the service may run calls, and outside a
// call (as in a unit test of a handler), fn runs before WaitUntil returns.
func WaitUntil(ctx context.Context, fn func(ctx context.Context) error) {
	j, ok := ctx.Value(jobKey{}).(*job)
	if !ok {
		_ = fn(context.WithoutCancel(ctx)) // there is no service whose log could have it
		return
	}
	run := func() { j.background(context.WithoutCancel(ctx), fn) }
	if !j.svc.work.start(run) {
		run()
	}
}

func (j *job) background(ctx context.Context, fn func(context.Context) error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(j.svc.base, func() { cancel(errShutdown) })
	returned := false
	defer func() {
		stop()
		cancel(nil)
		cause := recover()
		switch {
		case cause != nil:
			j.log(zerolog.ErrorLevel).Str("panic", fmt.Sprint(cause)).Bytes("stack", debug.Stack()).Msg("background work panicked")
		case !returned:
			j.log(zerolog.ErrorLevel).Msg("background work ended its goroutine")
		}
	}()
	if err := fn(ctx); err != nil {
		j.log(zerolog.WarnLevel).Err(err).Msg("background work failed")
	}
	returned = true
}

// background bounds and awaits the work that outlives its call.
type background struct {
	places chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

func newBackground(places int) *background {
	return &background{places: make(chan struct{}, places)}
}

// start runs fn in the background; it reports false when there is no place.
func (b *background) start(fn func()) bool {
	select {
	case b.places <- struct{}{}:
	default:
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		<-b.places
		return false
	}
	b.wg.Go(func() {
		defer func() { <-b.places }()
		fn()
	})
	return true
}

func (b *background) running() int { return len(b.places) }

// wait returns when all work has ended; none begins afterwards.
func (b *background) wait() {
	b.wg.Wait() // which work that goes on may add to
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.wg.Wait()
}
