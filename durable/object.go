package durable

import (
	"encoding/json"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/lease"
	"rpc.do/server"
)

// object is one object in the memory of its owner. It is the Place of the calls
// that have turns; its reader is that of views.
type object struct {
	class *class
	slot  *slot
	id    string
	key   string // of its record
	epoch uint64 // of the slot, when the object was activated
	queue *server.TurnQueue

	users   int       // guarded by slot.mu
	used    time.Time // as well: when it was found to have been touched
	touched bool      // as well: called since

	active atomic.Bool // it can be read and have turns
	gone   atomic.Bool // its memory counts no more
	stuck  atomic.Bool // a turn is over its time and goes on
	view   atomic.Pointer[snapshot]

	// What follows belongs to the turn that runs, or to the activation.
	live   any        // *S, with all turns that have been run
	good   []byte     // live after the last turn that returned nil
	alarm  alarmState // as live
	failed *rpc.Error
	known  knownCalls
	life   string // unique to this stay in memory

	mu       sync.Mutex // guards what follows
	rev      uint64     // of the record
	end      uint64     // the last sequence of the commit that wrote it
	count    uint64     // of commits
	armed    uint64     // the record with which the alarm was last set; zero when that is not known
	storage  bool
	open     *commit // takes in turns
	inflight *commit
	letting  bool // the open commit waits for views
	holds    viewHolds
	running  turnWatch
	watch    *time.Timer // ends the turn's time
	watching bool        // it will fire
}

// turnWatch says which turn the timer is for.
type turnWatch struct {
	call  server.ObjectCall
	on    bool
	until time.Time
	overs bool // its time is over
}

// snapshot is an object as a commit left it.
type snapshot struct {
	state []byte // nil for one that is not
	copy  any    // *S to copy from, when that is enough
	alarm alarmState
	rev   uint64
	end   uint64
	// storage says that the object has had keyed storage.
	storage bool
}

// reader is an object as the Place of a view.
type reader object

func newObject(c *class, s *slot, id string) *object {
	return &object{class: c, slot: s, id: id, key: bus.Escape(id), queue: c.service.NewTurnQueue(c.cfg.Mailbox)}
}

// Queue returns where turns wait. See server.Place.
func (o *object) Queue() *server.TurnQueue { return o.queue }

// Leave ends a call. See server.Place.
func (o *object) Leave() {
	o.class.calls.Add(-1)
	o.leave()
}

func (o *object) leave() {
	s := o.slot
	s.mu.Lock()
	defer s.mu.Unlock()
	o.users--
	s.users--
	if o.users == 0 {
		o.touched = true
	}
	if s.users == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Queue returns nil: views don't wait for each other.
func (r *reader) Queue() *server.TurnQueue { return nil }

// Leave ends a call. See server.Place.
func (r *reader) Leave() { (*object)(r).Leave() }

// commitID names a commit. Of one stay in memory none has the number of another:
// after one that failed the object comes into memory anew.
func (o *object) commitID(count uint64) string {
	if o.life == "" {
		o.life = nuid.Next()
	}
	var room [48]byte
	b := strconv.AppendUint(room[:0], count, 10)
	b = append(b, '-')
	return string(append(b, o.life...))
}

// objectOf returns the object of a call.
func objectOf(call server.ObjectCall) *object {
	switch p := call.Place().(type) {
	case *object:
		return p
	case *reader:
		return (*object)(p)
	}
	return nil
}

// usable reports why no call of the object may go on.
func (o *object) usable() *rpc.Error {
	if o.gone.Load() || !o.class.holds() {
		if o.failed != nil && !o.active.Load() {
			return o.failed
		}
		return o.class.moving(o.id)
	}
	return nil
}

// discard makes the object's memory count no more: the next call reads the
// record. Unsure says that a commit may yet be stored.
func (o *object) discard(unsure bool) {
	o.gone.Store(true)
	o.unwatch()
	s := o.slot
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[o.id] == o {
		delete(s.objects, o.id)
	}
	s.unsure = s.unsure || unsure
}

// startWatch begins the time limit of a turn.
func (o *object) startWatch(call server.ObjectCall) {
	limit := o.class.cfg.TurnTimeout
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = turnWatch{call: call, on: true, until: time.Now().Add(limit)}
	switch {
	case o.watch == nil:
		o.watch = time.AfterFunc(min(limit, maxWatch), o.overrun)
	case !o.watching:
		o.watch.Reset(min(limit, maxWatch))
	}
	o.watching = true
}

// maxWatch bounds how long the timer keeps in memory what is not used any more.
const maxWatch = 30 * time.Second

// stopWatch ends it; it reports whether the turn took too long. The timer goes
// on: most turns are far shorter than their limit, and it finds out by itself.
func (o *object) stopWatch() (over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	over = o.running.overs
	o.running = turnWatch{}
	if o.gone.Load() {
		o.unwatchLocked()
	}
	if over {
		o.stuck.Store(false)
	}
	return over
}

// unwatch ends the timer of an object that leaves memory, which it would stay
// in otherwise. That of a turn goes on until the turn ends.
func (o *object) unwatch() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.running.on {
		o.unwatchLocked()
	}
}

func (o *object) unwatchLocked() {
	if o.watch != nil {
		o.watch.Stop()
		o.watching = false
	}
}

// overrun is called when the time of a turn is over. If it is still this turn
// that runs, it can't be stopped; it can't commit any more either.
func (o *object) overrun() {
	o.mu.Lock()
	left := time.Until(o.running.until)
	if o.running.on && left > 0 { // a later turn
		o.watch.Reset(min(left, maxWatch))
		o.mu.Unlock()
		return
	}
	o.watching = false
	if !o.running.on {
		o.mu.Unlock()
		return
	}
	o.running.overs = true
	call := o.running.call
	o.stuck.Store(true)
	o.mu.Unlock()
	limit := o.class.cfg.TurnTimeout
	o.class.log.Error().Str("object", o.id).Str("method", call.Request().Method).Str("call", call.Request().ID).Dur("limit", limit).
		Msg("a turn is over its time limit: its context is cancelled, and the object takes no turns until it ends")
	call.Cancel(rpc.DeadlineExceeded.Errorf("%s.%s of the object %.80s did not end within the turn's time limit of %v; nothing was changed",
		o.class.name, call.Request().Method, o.id, limit))
	o.queue.Fail(o.class.stuck(o.id))
}

// knownCalls are the calls that the object recognises. They belong to the turn
// that runs.
type knownCalls struct {
	calls []knownCall
	bytes int
	// since says from when on all calls are known that had an effect. Before
	// the history is read, it is the activation.
	since   lease.Instant
	history bool // the kept commits have been read
	// retried says that a retry has come: the first attempt may come after it.
	retried bool
	// index has the places of the calls, counted with those that have been
	// dropped. It is made when a call is looked for, which few objects need.
	index   map[string]int
	dropped int
	settled int // so many are known to be stored
}

type knownCall struct {
	id     string
	method string          // empty for an identity that is used once
	result json.RawMessage // nil when it was not kept
	at     lease.Instant
	commit *commit // nil for those that were read
}

// settle lets go of the commit of a call when that has ended, and reports
// whether it has.
func (c *knownCall) settle() bool {
	if c.commit == nil {
		return true
	}
	if !c.commit.ended.Load() {
		return false
	}
	if c.commit.err == nil {
		c.commit = nil
	}
	return true
}

const (
	knownFor   = 2 * time.Minute
	maxKnown   = 16 << 10
	maxResults = 1 << 20
)

func (k *knownCalls) add(call knownCall) {
	for ; k.settled < len(k.calls) && k.calls[k.settled].settle(); k.settled++ {
	}
	k.calls = append(k.calls, call)
	k.bytes += len(call.result)
	if k.index != nil {
		k.index[call.id] = k.dropped + len(k.calls) - 1
	}
	for len(k.calls) > 1 && (len(k.calls) > maxKnown || k.bytes > maxResults || time.Duration(call.at-k.calls[0].at) > knownFor) {
		k.bytes -= len(k.calls[0].result)
		k.since = max(k.since, k.calls[0].at+1)
		if k.index[k.calls[0].id] == k.dropped {
			delete(k.index, k.calls[0].id)
		}
		k.dropped++
		k.settled = max(k.settled-1, 0)
		k.calls[0] = knownCall{} // the slice keeps it until it grows
		k.calls = k.calls[1:]
	}
}

// find returns the call with that identity.
func (k *knownCalls) find(id string) (knownCall, bool) {
	if k.index == nil {
		k.index = make(map[string]int, len(k.calls))
		for i, call := range k.calls {
			k.index[call.id] = k.dropped + i
		}
	}
	i, ok := k.index[id]
	if !ok {
		return knownCall{}, false
	}
	return k.calls[i-k.dropped], true
}
