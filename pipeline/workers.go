package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/pipeline/internal/pull"
	"rpc.do/server"
)

// workers is what a service has for its handlers: the component that starts and
// stops them together.
type workers struct {
	svc      *server.Service
	bus      *bus.Bus
	pipeline *Pipeline
	log      zerolog.Logger
	attempts attemptLog
	handlers []*handler

	asking sync.Mutex // for the patterns of other instances

	mu      sync.Mutex
	started bool

	hub   *pull.Hub
	lanes *nats.Subscription
	dirty chan struct{} // has room for one: there may be something in a lane

	base   context.Context // of the attempts
	cancel context.CancelFunc
	life   context.Context // of what runs in the background
	end    context.CancelFunc
	runs   sync.WaitGroup // attempts
	tasks  sync.WaitGroup // what runs in the background
}

func newWorkers(svc *server.Service) *workers {
	w := &workers{
		svc: svc, bus: svc.Bus(), log: *svc.Logger(),
		pipeline: New(svc.Bus(), Config{Source: "/" + svc.Name()}), dirty: make(chan struct{}, 1),
	}
	w.attempts.workers = w
	w.base, w.cancel = context.WithCancel(context.Background())
	w.life, w.end = context.WithCancel(context.Background())
	return w
}

// add takes in a handler; it reports false when it is too late.
func (w *workers) add(h *handler) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started {
		return false
	}
	h.workers, h.log = w, w.log.With().Str("handler", h.name).Logger()
	h.running, h.offer = map[*run]struct{}{}, make(chan unit, h.cfg.concurrency)
	if h.cfg.key != nil {
		h.boxes = map[string]*box{}
	}
	if h.cfg.debounce > 0 {
		h.bursts = map[string]*burst{}
	}
	w.handlers = append(w.handlers, h)
	return true
}

const (
	// requestTimeout bounds one request of the JetStream API.
	requestTimeout = 5 * time.Second

	// tickEvery is how often the handlers are looked after.
	tickEvery = 250 * time.Millisecond

	// lanesEvery is how often the lanes are looked at, if nothing says that there
	// is something in them.
	lanesEvery = 30 * time.Second

	// lanesAgain is for how long they are looked at when something does.
	lanesAgain = 2 * time.Second

	// startAtOnce bounds the consumers that are made at a time.
	startAtOnce = 16

	// cancelGrace is what attempts that were cancelled have to return.
	cancelGrace = 2 * time.Second
)

// Start makes the consumers and begins to pull.
func (w *workers) Start(ctx context.Context) error {
	w.mu.Lock()
	w.started = true
	w.mu.Unlock()
	stream, err := w.pipeline.events(ctx)
	if err != nil {
		return fmt.Errorf("handlers of events: %w", err)
	}
	if err := w.ensureConsumers(ctx, stream.CachedInfo().Created); err != nil {
		return err
	}
	if w.hub, err = pull.Open(w.bus); err != nil {
		return err
	}
	w.lanes, err = w.bus.Conn().Subscribe(laneSubject(w.svc.Name(), "*"), func(*nats.Msg) { w.lookAtLanes() })
	if err != nil {
		w.hub.Close()
		return err
	}
	w.lookAtLanes() // what came while nobody was here
	for _, h := range w.handlers {
		h.mu.Lock()
		h.main = h.newSource(bus.EventsStream)
		h.fillLocked()
		h.mu.Unlock()
	}
	w.tasks.Go(w.tick)
	w.tasks.Go(w.watch)
	return nil
}

func (w *workers) ensureConsumers(ctx context.Context, stream time.Time) error {
	errs := make([]error, len(w.handlers))
	places := make(chan struct{}, startAtOnce)
	var all sync.WaitGroup
	for i, h := range w.handlers {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			errs[i] = h.ensureConsumer(ctx, stream)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// watch looks at the consumers now and then, until the life of the component ends.
func (w *workers) watch() {
	ticker := time.NewTicker(seeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.life.Done():
			return
		case <-ticker.C:
			if w.bus.Connected() {
				w.seeAll()
			}
		}
	}
}

// tick looks after the handlers until the life of the component ends.
func (w *workers) tick() {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	var looked, again time.Time // until again, at every tick
	for {
		now := time.Now()
		select {
		case <-w.life.Done():
			return
		case now = <-ticker.C:
		case <-w.dirty: // it may be heard of before it is stored
			looked, again = time.Time{}, now.Add(lanesAgain)
		}
		w.hub.Tick(now)
		for _, h := range w.handlers {
			h.tick(now)
		}
		if (now.Sub(looked) >= lanesEvery || now.Before(again)) && w.bus.Connected() {
			looked = now
			w.openLanes()
		}
	}
}

// tick keeps what the handler holds and ends what takes too long.
func (h *handler) tick(now time.Time) {
	h.mu.Lock()
	if h.active == 0 && now.Sub(h.rested) > parkFor {
		h.unpark()
	}
	for _, s := range []*source{h.main, h.lane} {
		if h.cfg.exclusive && s != nil {
			s.syncPin()
		}
	}
	if h.main == nil || len(h.main.held) == 0 && (h.lane == nil || len(h.lane.held) == 0) {
		h.mu.Unlock()
		return
	}
	var held []*delivery
	for _, s := range []*source{h.main, h.lane} {
		if s == nil {
			continue
		}
		for _, d := range s.held {
			held = append(held, d)
		}
	}
	h.mu.Unlock()
	if h.workers.bus.Connected() {
		for _, d := range held {
			d.touch(now, h.ackWait()/3)
		}
	}
	h.giveUp(now)
	h.leaveLane(now)
}

// leaveEvery is how often an instance that is at work with what is in the lane, and
// does not have the events, looks whether another has them.
const leaveEvery = time.Second

// leaveLane gives back what waits from the lane when another instance has the
// events.
func (h *handler) leaveLane(now time.Time) {
	h.mu.Lock()
	lane := h.lane
	look := h.cfg.exclusive && lane != nil && len(lane.held) > 0 && now.Sub(h.leftLane) >= leaveEvery && !h.main.puller.Holds(now)
	if look {
		h.leftLane = now
	}
	h.mu.Unlock()
	if !look {
		return
	}
	h.workers.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(h.workers.life, requestTimeout)
		defer cancel()
		if alone, err := lane.alone(ctx); err == nil && !alone {
			h.mu.Lock()
			lane.yield()
			h.mu.Unlock()
		}
	})
}

// lookAtLanes has the lanes looked at soon.
func (w *workers) lookAtLanes() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// Stop gives back what no attempt has begun with, so that other instances have it
// at once, and waits for the attempts; those that are left when ctx ends are
// cancelled.
func (w *workers) Stop(ctx context.Context) error {
	w.makeAttempts(ctx)
	for _, h := range w.handlers {
		h.stop()
	}
	_ = w.lanes.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	w.hub.Close()             // what is on its way is given back
	w.unpinAll(ctx)
	w.closePullers()
	ended := make(chan struct{})
	go func() {
		w.runs.Wait()
		close(ended)
	}()
	err := w.await(ctx, ended)
	w.end()
	w.tasks.Wait()
	w.cancel()
	return err
}

func (w *workers) closePullers() {
	for _, h := range w.handlers {
		for _, s := range []*source{h.main, h.lane} {
			if s != nil {
				s.puller.Close()
			}
		}
	}
}

// makeAttempts makes the bucket of attempts when there is something that is to be
// given back, which is noted there.
func (w *workers) makeAttempts(ctx context.Context) {
	for _, h := range w.handlers {
		h.mu.Lock()
		held := len(h.main.held)
		h.mu.Unlock()
		if held > 0 && w.bus.Connected() {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = w.attempts.make(ctx) // else an event may lose an attempt
			return
		}
	}
}

func (w *workers) await(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	w.cancel()
	grace := time.NewTimer(cancelGrace)
	defer grace.Stop()
	select {
	case <-ended:
		return nil
	case <-grace.C:
	}
	n := 0
	for _, h := range w.handlers {
		h.mu.Lock()
		n += h.active
		h.mu.Unlock()
	}
	return fmt.Errorf("%d handlers of events of %s did not end in time; their events come again", n, w.svc.Name())
}

// stop takes in nothing more and gives back what waits.
func (h *handler) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
	h.unpark()
	if h.batchAt != nil {
		h.batchAt.Stop()
	}
	if h.wakeAt != nil {
		h.wakeAt.Stop()
	}
	for _, s := range []*source{h.main, h.lane} {
		if s != nil {
			s.drop(0)
		}
	}
	h.ready, h.batch, h.inbound = nil, nil, nil
}

// unpinAll lets other instances have the events of handlers at once of which this
// one had all.
func (w *workers) unpinAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unpinTime)
	defer cancel()
	places := make(chan struct{}, startAtOnce)
	var all sync.WaitGroup
	for _, h := range w.handlers {
		h.mu.Lock()
		sources := []*source{h.main, h.lane}
		h.mu.Unlock()
		for _, s := range sources {
			if s == nil || s.puller.Pin() == "" {
				continue
			}
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				w.unpin(ctx, s, s.puller.Pin())
			})
		}
	}
	all.Wait()
}

// unpinTime bounds how long a stop gives up pins.
const unpinTime = 2 * time.Second

// unpin gives up the pin of a source, if it is still that: what the server takes
// away is the pin of whoever has one.
func (w *workers) unpin(ctx context.Context, s *source, pin string) {
	if w.bus.Connected() {
		if state, err := w.pinState(ctx, s.stream, s.h.durable); err == nil && state.pin == pin {
			if stream, err := w.pipeline.js.Stream(ctx, s.stream); err == nil {
				_ = stream.UnpinConsumer(ctx, s.h.durable, pinGroup) // else the pin ends by itself
			}
		}
	}
	s.puller.Forgo(pin)
}
