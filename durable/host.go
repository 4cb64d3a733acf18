package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/ownership"
	"rpc.do/server"
)

// class is a class of objects without its type.
type class struct {
	name       string
	stored     string // the name its bucket has
	cfg        Config
	kind       kind
	bus        *bus.Bus
	log        zerolog.Logger
	service    *server.Service // rpc.<class>.*, and what runs all calls
	member     *ownership.Member
	init       func(*turn, any) error
	alarm      func(*turn, any, Alarm) error
	migrations []func(json.RawMessage) (json.RawMessage, error)

	journal *journal.Journal
	client  *client.Client // for calls that go on to another owner
	slots   [bus.Slots]slot
	calls   atomic.Int64 // at work or waiting
	sourced atomic.Int64 // unix time at which EVENTS was seen to take in what the class emits
	fresh   bool         // nothing had been stored when the class was started
	pauses  pauses
	due     *dueAlarms // nil when the class has no alarms

	life   context.Context // of what runs in the background
	cancel context.CancelFunc
	work   sync.WaitGroup
	// activations end before the service that they hand their calls to.
	activations sync.WaitGroup
	served      chan error // what came of service.Run
	ended       context.CancelFunc
}

// slot is one slot of a class, with its objects that are in memory.
type slot struct {
	mu      sync.Mutex
	serving bool
	grant   ownership.Grant
	// unsure is set when it is not known what came of a commit: it may be stored
	// later, so records are rewritten before they are relied on.
	unsure  bool
	objects map[string]*object
	users   int           // calls that have a place
	idle    chan struct{} // closed when users gets zero, or the slot is lost; nil when nobody waits
	lost    bool
	subs    []*nats.Subscription
	// feeds are all subscriptions since the slot was acquired. What came through
	// earlier ones was for whoever owned it between.
	feeds []*nats.Subscription
}

// group is what a service has for its classes: the component that starts and
// stops them together.
type group struct {
	bus     *bus.Bus
	member  *ownership.Member
	classes []*class
}

// Start makes the buckets, joins the members and serves the slots that fall to
// this one.
func (g *group) Start(ctx context.Context) error {
	for i, c := range g.classes {
		if err := c.start(ctx); err != nil {
			g.stopClasses(g.classes[:i])
			return fmt.Errorf("objects of the class %s: %w", c.name, err)
		}
	}
	if err := g.member.Start(ctx); err != nil {
		g.stopClasses(g.classes)
		return err
	}
	return nil
}

// Stop hands the slots over and ends the classes.
func (g *group) Stop(ctx context.Context) error {
	for _, c := range g.classes { // while their objects are here
		c.stopAlarms(ctx)
	}
	err := g.member.Stop(ctx)
	return errors.Join(err, g.stopClasses(g.classes))
}

func (g *group) stopClasses(classes []*class) error {
	var errs []error
	for _, c := range classes {
		errs = append(errs, c.stop())
	}
	return errors.Join(errs...)
}

// bucketVersion is the version of the config of the buckets that hold objects.
const bucketVersion = 1

// Bucket returns the name of the bucket that holds the objects of a class.
func Bucket(class string) string { return "OBJECTS_" + class }

func (c *class) start(ctx context.Context) error {
	name := Bucket(c.stored)
	stream, err := c.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, Description: "durable objects of the class " + c.stored,
		MaxMsgsPerSubject: int64(c.cfg.History), Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		AllowRollup: true, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true, AllowMsgSchedules: true, DenyDelete: true,
	}, bucketVersion)
	if err != nil {
		return err
	}
	c.fresh = stream.CachedInfo().State.LastSeq == 0
	if c.journal, err = journal.Open(c.bus, name); err != nil {
		return err
	}
	c.client = client.New(c.bus, client.Config{NoShortcut: true})
	c.life, c.cancel = context.WithCancel(context.Background())
	run, ended := context.WithCancel(context.Background())
	c.ended, c.served = ended, make(chan error, 1)
	c.work.Go(func() { c.served <- c.service.Run(run) })
	select {
	case <-c.service.Ready():
	case err := <-c.served:
		c.served <- nil
		return errors.Join(err, c.stop())
	}
	c.work.Go(c.evictIdle)
	if err := c.startSystem(ctx); err != nil {
		return errors.Join(err, c.stop())
	}
	return nil
}

func (c *class) stop() error {
	c.cancel()
	c.activations.Wait() // no slot is served any more: none begins
	c.ended()
	err := <-c.served
	c.work.Wait()
	c.client.Close()
	c.journal.Close()
	return err
}

// moving is the error of a call that finds no owner here: it surely did not run,
// and whoever owns the object soon will run it.
func (c *class) moving(id string) *rpc.Error {
	return rpc.Unavailable.Errorf("the object %s/%.80s is changing hands", c.name, id).NotExecuted()
}

// unsure is the error of a call of which the owner does not know whether its
// commit was stored. The one that asks again gets to know.
func (c *class) unsure(id string) *rpc.Error {
	return rpc.Unavailable.Errorf("the commit of the object %s/%.80s got no answer in time; the call may have run", c.name, id).
		WithRetryAfter(20 * time.Millisecond)
}

// Place finds the place of an object. See server.Objects.
func (c *class) Place(req *bus.Request, turn bool) (server.Place, error) {
	id := req.Object
	s := &c.slots[bus.Slot(id)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.serving || !c.holds() {
		return nil, &server.ErrElsewhere{Err: c.moving(id), Silent: s.lost || !c.holds()}
	}
	if req.Via != nil && !slices.Contains(s.feeds, req.Via) {
		return nil, &server.ErrElsewhere{Err: c.moving(id), Silent: true}
	}
	if turn {
		if err := c.cycle(req); err != nil {
			return nil, err
		}
	}
	if err := c.pauses.check(c, id, req.Method); err != nil {
		return nil, err
	}
	if n := c.calls.Load(); n >= int64(c.cfg.Calls) {
		return nil, rpc.ResourceExhausted.Errorf("the class %s is overloaded: %d calls run and wait", c.name, n).
			NotExecuted().WithRetryAfter(50 * time.Millisecond)
	}
	o := s.objects[id]
	if o == nil {
		o = newObject(c, s, id)
		s.objects[id] = o
		o.users++ // the activation
		s.users++
		c.activations.Go(func() {
			defer o.leave()
			c.activate(o, req.Chain)
		})
	}
	if !turn && !o.active.Load() { // it waits for the activation, as turns do
		if err := c.cycle(req); err != nil {
			return nil, err
		}
	}
	if turn && o.stuck.Load() {
		return nil, c.stuck(id)
	}
	o.users++
	s.users++
	c.calls.Add(1)
	if turn || !o.active.Load() {
		return o, nil
	}
	return (*reader)(o), nil
}

// holds reports whether this member may act as the owner of its slots now.
func (c *class) holds() bool { return c.cfg.unfenced || c.member.Valid() }

// cycle reports a call that would wait for itself.
func (c *class) cycle(req *bus.Request) error {
	if len(req.Chain) == 0 {
		return nil
	}
	link := bus.Link(c.name, req.Object)
	for i, l := range req.Chain {
		if l != link {
			continue
		}
		text := ""
		for _, l := range req.Chain[i:] {
			text += bus.ShowLink(l) + " → "
		}
		return rpc.FailedPrecondition.Errorf("a cycle of turns: %s%s: the object waits for the call that it is asked to serve", text, bus.ShowLink(link))
	}
	return nil
}

func (c *class) stuck(id string) *rpc.Error {
	return rpc.Unavailable.Errorf("the object %s/%.80s is stuck: a turn of it ignores its time limit of %v", c.name, id, c.cfg.TurnTimeout).
		NotExecuted().WithRetryAfter(100 * time.Millisecond)
}

// Fresh reports whether nothing of the class had ever been stored. See
// ownership.Host.
func (c *class) Fresh() bool { return c.fresh }

// Acquire serves a slot. See ownership.Host.
func (c *class) Acquire(n int, g ownership.Grant) error {
	s := &c.slots[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving, s.lost, s.unsure, s.grant = true, false, false, g
	s.objects, s.feeds = map[string]*object{}, nil
	if err := c.feed(s, n); err != nil {
		s.serving = false
		return err
	}
	return nil
}

var errSlotLost = errors.New("the slot was lost")

func unsubscribe(subs []*nats.Subscription) {
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	}
}

// feed subscribes to the calls of a slot, under all names of the class. The slot
// is locked: what comes finds out what it came through.
func (c *class) feed(s *slot, n int) error {
	names := []string{c.name}
	if c.stored != c.name {
		names = append(names, c.stored)
	}
	for _, name := range names {
		sub, err := c.service.Feed(bus.SlotSubject(name, n))
		if err != nil {
			unsubscribe(s.subs)
			s.subs = nil
			return err
		}
		s.subs, s.feeds = append(s.subs, sub), append(s.feeds, sub)
	}
	return nil
}

// Release stops serving a slot when its turns have ended. See ownership.Host.
func (c *class) Release(ctx context.Context, n int) (clean bool, err error) {
	s := &c.slots[n]
	s.mu.Lock()
	s.serving = false
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	deadline := time.Now().Add(5 * time.Second)
	if d, ok := ctx.Deadline(); ok {
		deadline = d
	}
	c.service.EndFeed(subs, deadline)
	c.fault("hand-over")
	if s.emptied(ctx) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, o := range s.objects {
			o.unwatch()
		}
		s.objects = nil
		if s.lost {
			return false, errSlotLost
		}
		return !s.unsure, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return false, errSlotLost
	}
	s.serving = true
	return false, errors.Join(fmt.Errorf("%d calls of slot %s have not ended", s.users, bus.SlotToken(n)), c.feed(s, n))
}

// emptied waits until no call has a place any more, or the slot is lost. It
// reports false when ctx ends first.
func (s *slot) emptied(ctx context.Context) bool {
	s.mu.Lock()
	if s.users == 0 || s.lost {
		s.mu.Unlock()
		return true
	}
	idle := make(chan struct{})
	s.idle = idle
	s.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = nil
	return s.users == 0
}

// Drop stops serving a slot at once. See ownership.Host.
func (c *class) Drop(n int) {
	if c.cfg.unfenced {
		return // it goes on as if its lease had not ended
	}
	s := &c.slots[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving, s.lost = false, true
	unsubscribe(s.subs)
	s.subs = nil
	for _, o := range s.objects {
		o.gone.Store(true)
		o.unwatch()
	}
	s.objects = nil
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Forward passes a call on to the owner. See server.Objects.
func (c *class) Forward(ctx context.Context, req *bus.Request, params []byte) ([]byte, error) {
	var result json.RawMessage
	raw := json.RawMessage(params)
	call := &rpc.Call{
		Service: c.stored, Method: req.Method, Object: req.Object, ID: req.ID, Caller: req.Caller, Age: req.Age,
		Header: req.Header, Params: &raw, Result: &result,
	}
	if call.ID != "" && call.Age == 0 && req.Attempt > 1 {
		call.Age = time.Millisecond
	}
	err := c.client.Call(ctx, call)
	return result, err
}

// fault tells tests where a turn is.
func (c *class) fault(point string) {
	if c.cfg.faults != nil {
		c.cfg.faults(point)
	}
}

// evictIdle drops objects that have not been called for a while.
func (c *class) evictIdle() {
	ticker := time.NewTicker(max(c.cfg.Idle/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-c.life.Done():
			return
		case now := <-ticker.C:
			for i := range c.slots {
				c.slots[i].evict(now, c.cfg.Idle)
			}
		}
	}
}

func (s *slot) evict(now time.Time, idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.objects {
		switch {
		case o.users > 0:
		case o.touched:
			o.used, o.touched = now, false
		case now.Sub(o.used) > idle:
			o.gone.Store(true)
			o.unwatch()
			delete(s.objects, id)
		}
	}
}
