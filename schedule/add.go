package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// Tick is one tick, as the function that handles it gets it.
type Tick struct {
	Event
	// Attempt counts the tries from 1, see Attempts.
	Attempt int
}

// Option changes a schedule that is defined in code, or how its ticks are handled.
type Option func(*added)

type added struct {
	spec     Spec
	attempts int
	backoff  time.Duration
}

// With changes the definition: With(func(s *schedule.Spec) { s.Overlap =
// schedule.OverlapBufferOne }).
func With(change func(*Spec)) Option {
	return func(a *added) { change(&a.spec) }
}

// Zone sets the time zone of the cron line, such as "Europe/Berlin".
func Zone(name string) Option { return With(func(s *Spec) { s.Zone = name }) }

// Payload sets what goes with every tick, as JSON.
func Payload(data []byte) Option { return With(func(s *Spec) { s.Payload = data }) }

// Attempts is how often a run is tried before it has failed, the first time
// included, unless the error is terminal (rpc.Terminal). Defaults to 1: the next
// tick comes anyway.
func Attempts(n int, backoff time.Duration) Option {
	if n < 1 || backoff <= 0 {
		panic(fmt.Sprintf("schedule: Attempts(%d, %v): want 1 or more, and a pause", n, backoff))
	}
	return func(a *added) { a.attempts, a.backoff = n, backoff }
}

// Add defines a schedule in code and handles its ticks. The definition is stored
// when the service starts; one of the same name takes this definition then, its
// history stays, and a pause too. Cron is as in Spec.Cron.
//
// When fn returns nil the run has finished. When it returns an error, or panics,
// the run has failed, once Attempts are used up. Its context ends with
// Spec.RunTimeout, when the overlap policy cancels the run, or when a shutdown
// runs out of time; a run that a shutdown cuts short comes again.
//
// Add panics when the definition is malformed, or the name is taken.
func Add(svc *server.Service, name, cron string, fn func(context.Context, Tick) error, opts ...Option) {
	a := added{spec: Spec{Name: name, Cron: cron}}
	for _, opt := range opts {
		opt(&a)
	}
	a.spec = a.spec.withDefaults()
	if _, err := a.spec.check(time.Now()); err != nil {
		panic("schedule: Add: " + err.Error())
	}
	if a.spec.Event != "" {
		panic(fmt.Sprintf("schedule: Add %s: with an Event nobody handles its ticks here: use Schedules.Create", name))
	}
	t := attach(svc)
	t.defined = append(t.defined, a.spec)
	handle(svc, t, a.spec.Handler, fn, a)
}

// Handle handles the ticks of schedules that name this handler, which others
// define: see Schedules and Spec.Handler. All instances of the service share the
// runs, and so do other services that have a handler of that name. It panics when
// the name is malformed or taken.
func Handle(svc *server.Service, handler string, fn func(context.Context, Tick) error, opts ...Option) {
	var a added
	for _, opt := range opts {
		opt(&a)
	}
	if err := validHandler(handler); err != nil {
		panic("schedule: Handle: " + err.Error())
	}
	handle(svc, attach(svc), handler, fn, a)
}

// Serve has a service take the ticks of all schedules of the bus, for those that
// only send events, without handling any. Services with Add or Handle do it
// anyway.
func Serve(svc *server.Service) { attach(svc) }

func attach(svc *server.Service) *timers {
	return svc.Attach(attachedTimers{}, func() server.Component {
		return &timers{svc: svc, engine: newEngine(svc.Bus(), *svc.Logger()), runs: map[string]*running{}}
	}).(*timers)
}

// attachedTimers is the key of the component that a service has for schedules.
type attachedTimers struct{}

// timers is what a service has for schedules.
type timers struct {
	svc     *server.Service
	engine  *engine
	defined []Spec
	cancels *nats.Subscription

	mu   sync.Mutex
	runs map[string]*running // here, by id
}

// running is a run in this process.
type running struct{ cancel context.CancelCauseFunc }

// Start stores the definitions and begins to take ticks.
func (t *timers) Start(ctx context.Context) error {
	if err := t.engine.start(ctx); err != nil {
		return err
	}
	fail := func(err error) error {
		t.engine.stop(ctx)
		return err
	}
	all := Open(t.svc.Bus())
	for _, spec := range t.defined {
		_, err := all.Create(ctx, spec, true)
		if errors.Is(err, errNever) { // its end has come, which is no reason not to start
			t.svc.Logger().Warn().Err(err).Msg("a schedule is over")
		} else if err != nil {
			return fail(err)
		}
	}
	var err error
	if t.cancels, err = t.engine.onCancel(t.cancelRun); err != nil {
		return fail(err)
	}
	return nil
}

// Stop ends what was started.
func (t *timers) Stop(ctx context.Context) error {
	_ = t.cancels.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	t.engine.stop(ctx)
	return nil
}

var errCancelled = errors.New("the next tick of the schedule cancels the run")

func (t *timers) cancelRun(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.runs[id]; r != nil {
		r.cancel(errCancelled)
	}
}

// begin makes the context of a run, which cancelRun ends.
func (t *timers) begin(ctx context.Context, id string, until time.Time) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx, stop := context.WithDeadline(ctx, until)
	r := &running{cancel}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs[id] = r
	return ctx, func() {
		stop()
		cancel(nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.runs[id] == r {
			delete(t.runs, id)
		}
	}
}

// mine reports whether a tick is to be run here: its run is still to be done, and
// no other service has it.
func (t *timers) mine(ctx context.Context, tick *Tick) (bool, error) {
	wanted, err := t.engine.wanted(ctx, tick.Schedule, tick.ID)
	if err != nil || !wanted {
		return false, err
	}
	owner, err := t.engine.store.claim(ctx, tick.ID, t.svc.Name(), time.Until(tick.Until)+time.Minute)
	return owner == t.svc.Name(), err
}

// insist does something until it succeeds, ctx ends, or the run is out of time.
func insist(ctx context.Context, until time.Time, do func() error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := do()
		if err == nil || !time.Now().Before(until) {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// handle has the service handle the events of ticks.
func handle(svc *server.Service, t *timers, handler string, fn func(context.Context, Tick) error, a added) {
	if fn == nil {
		panic(fmt.Sprintf("schedule: the function of %s is nil", handler))
	}
	attempts, backoff := max(a.attempts, 1), a.backoff
	if backoff <= 0 {
		backoff = time.Second
	}
	run := func(base context.Context, e pipeline.Event[Event]) error {
		tick := Tick{Event: e.Data, Attempt: e.Attempt}
		ctx, end := t.begin(base, tick.ID, tick.Until)
		defer end()
		mine := false
		err := insist(ctx, tick.Until, func() (err error) {
			mine, err = t.mine(ctx, &tick)
			return err
		})
		if !mine || !time.Now().Before(tick.Until) {
			if err != nil && base.Err() == nil {
				return nil // it has been cancelled, or is out of time
			}
			return err
		}
		err = protect(ctx, tick, fn)
		cancelled := errors.Is(context.Cause(ctx), errCancelled)
		switch {
		case err != nil && base.Err() != nil && time.Now().Before(tick.Until) && !cancelled:
			return err // a shutdown: it comes again
		case err != nil && !rpc.IsTerminal(err) && e.Attempt < attempts && !cancelled && ctx.Err() == nil:
			return again(err)
		}
		failure := ""
		if err != nil {
			failure = bus.Cut(err.Error(), maxFailure)
		}
		// The event stays here until it is noted how the run has ended, so that it
		// does not run again.
		err = insist(base, tick.Until, func() error {
			report, cancel := context.WithTimeout(context.WithoutCancel(base), 2*requestTimeout)
			defer cancel()
			return t.engine.report(report, tick.Schedule, tick.ID, failure)
		})
		if err != nil {
			return again(fmt.Errorf("the run of %s has ended, which could not be noted: %w", tick.Schedule, err))
		}
		return nil
	}
	pipeline.On(svc, rpc.NewEvent[Event](EventPrefix+handler), handlerPrefix+handler, run,
		pipeline.Attempts(attempts+lostReports), pipeline.Backoff(backoff), pipeline.Timeout(time.Duration(maxDuration)),
		pipeline.From(pipeline.StartTime(time.Now().Add(-lookBack))))
}

// again has an event tried again, whatever the code of the error.
func again(err error) error {
	retry := rpc.Unavailable.Errorf("%s", bus.Cut(err.Error(), maxFailure))
	if e, ok := errors.AsType[*rpc.Error](err); ok && e != nil {
		retry.RetryAfter = e.RetryAfter
	}
	return retry
}

// lookBack is how long before a handler is there for the first time a tick may
// have fired that it is to have: a run that has not timed out yet waits for it.
const lookBack = 24 * time.Hour

// lostReports is how often a run is begun again on top of its attempts because
// the process died, or could not say how it ended.
const lostReports = 3

// maxFailure is how much of a run's error the history keeps, in bytes.
const maxFailure = 300

// protect makes a panic an error.
func protect(ctx context.Context, tick Tick, fn func(context.Context, Tick) error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = rpc.Internal.Errorf("panic: %.500v", cause)
		}
	}()
	return fn(ctx, tick)
}
