package server

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// deadlines ends the calls whose time is over. One timer serves all of them: it
// is set for the earliest deadline. Most calls end long before theirs, so most
// of them never touch it.
type deadlines struct {
	calls *running
	epoch time.Time
	next  atomic.Int64 // when the timer fires, in nanoseconds since epoch

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool

	sweeping sync.Mutex
}

// never is when the timer fires while no call has a deadline to watch.
const never = math.MaxInt64

// sweepPause is the least time between two looks at all running calls, and so
// the most by which a deadline is late.
const sweepPause = time.Millisecond

func newDeadlines(calls *running) *deadlines {
	d := &deadlines{calls: calls, epoch: time.Now()}
	d.next.Store(never)
	d.timer = time.AfterFunc(time.Hour, d.sweep)
	d.timer.Stop()
	return d
}

// watch sees to it that a call which has been added to the running ones ends at
// its deadline.
func (d *deadlines) watch(deadline time.Time) {
	if at := int64(deadline.Sub(d.epoch)); at < d.next.Load() {
		d.wakeAt(at)
	}
}

func (d *deadlines) wakeAt(at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at < d.next.Load() && !d.stopped {
		d.next.Store(at)
		d.timer.Reset(time.Until(d.epoch.Add(time.Duration(at))))
	}
}

// sweep ends what is over and sets the timer for the next. A call that comes in
// meanwhile is either seen or sets the timer itself.
func (d *deadlines) sweep() {
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
	d.mu.Lock()
	stopped := d.stopped
	d.next.Store(never)
	d.mu.Unlock()
	if stopped {
		return
	}
	now := time.Now()
	expired, earliest := d.calls.expired(now)
	for _, j := range expired {
		j.expire()
	}
	if !earliest.IsZero() {
		d.wakeAt(max(int64(earliest.Sub(d.epoch)), int64(now.Add(sweepPause).Sub(d.epoch))))
	}
}

// stop returns when no sweep is under way and none will be.
func (d *deadlines) stop() {
	d.mu.Lock()
	d.stopped = true
	d.timer.Stop()
	d.mu.Unlock()
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
}
