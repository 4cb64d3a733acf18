// Package lease tells whether a member may still act as an owner.
package lease

import (
	"math"
	"sync/atomic"
	"time"
)

// Lease ends by itself: it is valid for a time that is counted from the moment
// at which the last renewal that was acknowledged had been sent, by a clock that
// goes on while the machine sleeps. Its methods may be called by many
// goroutines at once.
type Lease struct {
	until atomic.Int64 // on the clock of now; zero before the first renewal
	last  atomic.Pointer[reading]
}

// reading is one moment on two clocks.
type reading struct {
	at   time.Time     // before on was read, so that on is rather too late
	slow time.Duration // the clock of now
}

// To ask the system for the time since boot costs several times as much as
// time.Now. So for freshFor after it was asked, time.Now serves: its monotonic
// clock, which stops while the machine sleeps, as long as the wall clock, which
// does not, has gone as far.
const (
	freshFor = time.Millisecond
	maxApart = 50 * time.Microsecond
)

// Now returns this moment, or one that is at most freshFor later.
func (l *Lease) Now() Instant {
	at := time.Now()
	if r := l.last.Load(); r != nil {
		gone := at.Sub(r.at)
		slept := at.Round(0).Sub(r.at.Round(0)) - gone
		if 0 <= gone && gone < freshFor && -maxApart < slept && slept < maxApart {
			return Instant(r.slow + gone)
		}
	}
	r := &reading{at: at, slow: now()}
	l.last.Store(r)
	return Instant(r.slow)
}

// Valid reports whether the lease holds now.
func (l *Lease) Valid() bool { return int64(l.Now()) < l.until.Load() }

// Left returns how long the lease still holds, negative when it has ended.
func (l *Lease) Left() time.Duration { return time.Duration(l.until.Load()) - time.Duration(l.Now()) }

// Extend makes the lease hold for d from the moment sent.
func (l *Lease) Extend(sent Instant, d time.Duration) { l.until.Store(int64(sent) + int64(d)) }

// End ends the lease.
func (l *Lease) End() { l.until.Store(0) }

// Instant is a moment on the lease's clock.
type Instant time.Duration

// Earliest is before every other moment, those before the machine was started
// included.
const Earliest = Instant(math.MinInt64)

// Now returns this moment.
func Now() Instant { return Instant(now()) }

// Since returns how long ago it was.
func (i Instant) Since() time.Duration { return now() - time.Duration(i) }

// wall is the wall clock, for systems that have no better one.
func wall() time.Duration { return time.Duration(time.Now().UnixNano()) }
