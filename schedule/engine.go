package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"rpc.do/bus"
)

// engine takes the ticks of all schedules of a bus, together with those of other
// processes: whoever gets one decides on it.
type engine struct {
	bus   *bus.Bus
	store store
	log   zerolog.Logger
	clock clock
	now   func() time.Time // by the leader's clock

	life   context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	ticks  jetstream.ConsumeContext

	mu    sync.Mutex
	wakes map[string]time.Time // by schedule, as the bucket has them
}

const (
	// consumerName is the consumer that all processes share.
	consumerName = "rpc-schedules"

	// ackWait is how long a tick is with a process that is not heard of. To decide
	// takes milliseconds, and what a process that was stopped holds is late.
	ackWait = 2 * time.Second

	// atOnce bounds the ticks that a process decides on at a time.
	atOnce = 64

	// lateAfter is how late a tick is when it is looked for: the process that was to
	// arm it may have died before.
	lateAfter = 5 * time.Second
	sweepEach = 2 * time.Second
)

func newEngine(b *bus.Bus, log zerolog.Logger) *engine {
	e := &engine{bus: b, store: store{bus: b, js: b.JetStream()}, log: log, wakes: map[string]time.Time{}}
	e.clock.local = time.Now
	e.now = e.clock.now
	e.life, e.cancel = context.WithCancel(context.Background())
	return e
}

// start begins to take ticks.
func (e *engine) start(ctx context.Context) error {
	if _, err := e.store.open(ctx); err != nil {
		return err
	}
	if err := e.clock.look(ctx, e.store.js); err != nil {
		return err
	}
	consumer, err := e.store.js.CreateOrUpdateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		Durable: consumerName, Description: "ticks of schedules", FilterSubject: prefix + firedKey + "*",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 10_000,
	})
	if err != nil {
		return fmt.Errorf("ticks of schedules: %w", err)
	}
	places := make(chan struct{}, atOnce)
	e.ticks, err = consumer.Consume(func(msg jetstream.Msg) {
		places <- struct{}{}
		e.tasks.Go(func() {
			defer func() { <-places }()
			e.take(msg)
		})
	}, jetstream.PullMaxMessages(2*atOnce), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		e.log.Debug().Err(err).Msg("taking ticks")
	}))
	if err != nil {
		return fmt.Errorf("ticks of schedules: %w", err)
	}
	e.tasks.Go(e.sweep)
	return nil
}

// stop ends it, once the ticks that were taken are decided on or ctx ends: what is
// not decided on comes again elsewhere.
func (e *engine) stop(ctx context.Context) {
	if e.ticks != nil {
		e.ticks.Drain()
		select {
		case <-e.ticks.Closed():
		case <-ctx.Done():
			e.cancel()
			e.ticks.Stop()
			<-e.ticks.Closed()
		}
	}
	e.cancel()
	e.tasks.Wait()
}

// take decides on a tick that has come.
func (e *engine) take(msg jetstream.Msg) {
	var a armed
	if err := json.Unmarshal(msg.Data(), &a); err != nil || validName(a.Name) != nil {
		_ = msg.Term() // nobody could read it
		return
	}
	ctx, cancel := context.WithTimeout(e.life, 2*requestTimeout)
	defer cancel()
	if err := e.tick(ctx, a.Name, a.Arm); err != nil {
		if e.life.Err() == nil {
			e.log.Warn().Err(err).Str("schedule", a.Name).Msg("a tick is not decided on yet; it is tried again")
		}
		_ = msg.NakWithDelay(time.Second) // else it comes again by itself
		return
	}
	_ = msg.Ack() // else it comes again, and is known
}

// tick decides on what is due of a schedule, if the tick is the one that it waits
// for.
func (e *engine) tick(ctx context.Context, name string, arm uint64) error {
	_, err := e.change(ctx, name, func(r *record) (*record, error) {
		if r == nil || r.Arm != arm {
			return nil, nil // deleted, changed, or decided before
		}
		s, err := e.step(r)
		if err != nil {
			return nil, err
		}
		if s.now.Before(r.Wake) { // clocks differ: the server's is ahead
			s.now = r.Wake
		}
		s.advance()
		return r, nil
	})
	return err
}

// report notes how a run has ended.
func (e *engine) report(ctx context.Context, name, id, failure string) error {
	_, err := e.change(ctx, name, func(r *record) (*record, error) {
		if r == nil {
			return nil, nil
		}
		s, err := e.step(r)
		if err != nil {
			return nil, err
		}
		if !s.report(id, failure) {
			return nil, nil
		}
		s.advance()
		return r, nil
	})
	return err
}

// wanted reports whether a run that begins is still to be done: its schedule is
// there, and it has neither run out of time nor been cancelled or reported.
func (e *engine) wanted(ctx context.Context, name, id string) (bool, error) {
	r, _, err := e.store.load(ctx, name)
	if r == nil {
		return false, err
	}
	return slices.ContainsFunc(r.Running, func(run Run) bool { return run.ID == id }), nil
}

// sweep looks for schedules whose time has come and of which no tick has: the
// process that was to arm them may have died before.
func (e *engine) sweep() {
	ticker := time.NewTicker(sweepEach)
	defer ticker.Stop()
	for e.life.Err() == nil {
		if err := e.watch(ticker); err != nil && e.life.Err() == nil {
			e.log.Debug().Err(err).Msg("schedules can't be watched now")
			select {
			case <-ticker.C:
			case <-e.life.Done():
			}
		}
	}
}

// watch follows the bucket.
func (e *engine) watch(ticker *time.Ticker) error {
	// Not with e.life: a stop in the middle would leave a consumer that nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.life), requestTimeout)
	defer cancel()
	consumer, err := e.store.js.OrderedConsumer(ctx, streamName, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{prefix + "*"}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, HeadersOnly: true,
	})
	if err != nil {
		return err
	}
	records, err := consumer.Consume(e.see)
	if err != nil {
		return err
	}
	defer func() {
		records.Stop()
		<-records.Closed()
		e.forget(consumer)
	}()
	for {
		select {
		case <-e.life.Done():
			return nil
		case <-records.Closed():
			return errors.New("the consumer has ended")
		case <-ticker.C:
			if e.clock.old() && e.bus.Connected() {
				ctx, cancel := context.WithTimeout(e.life, maxLook)
				_ = e.clock.look(ctx, e.store.js) // else the clock goes on as it did
				cancel()
			}
			e.late()
		}
	}
}

// forget deletes a consumer that nobody uses any more. Else it goes by itself.
func (e *engine) forget(consumer jetstream.Consumer) {
	info := consumer.CachedInfo()
	if info == nil || !e.bus.Connected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.life), time.Second)
	defer cancel()
	_ = e.store.js.DeleteConsumer(ctx, streamName, info.Name)
}

func (e *engine) see(msg jetstream.Msg) {
	wake, err := time.Parse(time.RFC3339Nano, msg.Headers().Get(headerWake))
	e.mu.Lock()
	defer e.mu.Unlock()
	if name := nameOf(msg.Subject()); err != nil {
		delete(e.wakes, name)
	} else {
		e.wakes[name] = wake
	}
}

// late decides on schedules whose tick has not come, and does what others have
// decided on and perhaps not done.
func (e *engine) late() {
	for e.lateSome() && e.life.Err() == nil {
	}
}

// lateSome does that for some. It reports whether there may be more.
func (e *engine) lateSome() bool {
	before := e.now().Add(-lateAfter)
	failed := false
	var names []string
	e.mu.Lock()
	for name, wake := range e.wakes {
		if wake.Before(before) && len(names) < atOnce {
			names = append(names, name)
			delete(e.wakes, name) // once: what comes of it is seen
		}
	}
	e.mu.Unlock()
	for _, name := range names {
		ctx, cancel := context.WithTimeout(e.life, 2*requestTimeout)
		_, err := e.change(ctx, name, func(r *record) (*record, error) {
			if r == nil || !r.sent && (r.Wake.IsZero() || !r.Wake.Before(before)) {
				return nil, nil
			}
			s, err := e.step(r)
			if err != nil {
				return nil, err
			}
			s.advance()
			return r, nil
		})
		cancel()
		if err != nil && e.life.Err() == nil {
			failed = true
			e.log.Warn().Err(err).Str("schedule", name).Msg("a tick is late, and is not decided on yet")
			e.mu.Lock()
			if _, seen := e.wakes[name]; !seen {
				e.wakes[name] = before.Add(-time.Second)
			}
			e.mu.Unlock()
		}
	}
	return len(names) == atOnce && !failed
}

// cancelSubject is where the handlers of a schedule hear that a run is to end.
func cancelSubject(name string) string { return "$RPC.schedule.cancel." + name }

// cancelRun tells whoever runs it that a run is to end. That is lost when nobody
// hears it: the run goes on then, and counts as failed all the same.
func (e *engine) cancelRun(name, id string) {
	_ = e.bus.Conn().Publish(cancelSubject(name), []byte(id)) // fails only when the bus is closed
}

// onCancel calls fn with the runs of schedules that are to end.
func (e *engine) onCancel(fn func(id string)) (*nats.Subscription, error) {
	return e.bus.Conn().Subscribe(cancelSubject("*"), func(msg *nats.Msg) { fn(strings.Clone(string(msg.Data))) })
}
