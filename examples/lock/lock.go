// Package lock is a lock with a lease: who holds it and does not renew it loses
// it. Each lock is a durable object.
//
//	lock.Serve(svc)
//
//	held, err := lock.Acquire.Call(ctx, c, "nightly-import", lock.Params{Holder: "host-7", Seconds: 30})
//	// pass held.Token on to what the lock protects
//	_, err = lock.Release.Call(ctx, c, "nightly-import", lock.Params{Holder: "host-7"})
//
// A holder that is paused for longer than its lease does not know that it has
// lost the lock. So every holder gets a token that is larger than all before;
// what the lock protects should refuse work with a token smaller than one it has
// seen.
package lock

import (
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/server"
)

// The methods of a lock.
var (
	Acquire = rpc.NewObjectMethod[Params, Held]("lock.acquire", rpc.Description("Takes the lock, or renews it for its holder."))
	Release = rpc.NewObjectMethod[Params, rpc.None]("lock.release", rpc.Description("Gives the lock back; nothing happens when somebody else has it."))
	State   = rpc.NewObjectMethod[rpc.None, Held]("lock.state", rpc.Description("Tells who holds the lock; nobody when the holder is empty."))
)

// Params says who wants a lock, and for how long.
type Params struct {
	// Holder names who is to hold the lock: one of its own for each.
	Holder string `json:"holder"`
	// Seconds is the lease. Not used by Release.
	Seconds int `json:"seconds,omitempty"`
}

// MaxSeconds is the longest lease.
const MaxSeconds = 3600

// Held says who holds a lock.
type Held struct {
	Holder string `json:"holder"`
	// Token is larger than that of every earlier holder.
	Token uint64 `json:"token"`
	// Until is when the lease ends.
	Until time.Time `json:"until"`
}

// Serve makes svc serve the class lock.
func Serve(svc *server.Service) {
	locks := durable.Serve[lock](svc, "lock", durable.Config{})
	durable.Handle(locks, Acquire, (*lock).acquire)
	durable.Handle(locks, Release, (*lock).release)
	durable.View(locks, State, lock.state)
}

// lock is the state of one lock. The token outlives its holders.
type lock struct{ Held }

func (l *lock) acquire(ctx durable.Context, p Params) (Held, error) {
	if p.Holder == "" || p.Seconds < 1 || p.Seconds > MaxSeconds {
		return Held{}, rpc.InvalidArgument.Errorf("want a holder and 1 to %d seconds, got %q and %d", MaxSeconds, p.Holder, p.Seconds)
	}
	now := time.Now()
	switch {
	case l.Holder == p.Holder && now.Before(l.Until): // renewed
	case now.Before(l.Until):
		left := l.Until.Sub(now)
		return Held{}, rpc.FailedPrecondition.Errorf("the lock %.80q is held by %.80q for another %v", ctx.ID(), l.Holder, left.Round(time.Millisecond)).
			WithRetryAfter(left)
	default:
		l.Holder = p.Holder
		l.Token++
	}
	l.Until = now.Add(time.Duration(p.Seconds) * time.Second)
	return l.Held, nil
}

func (l *lock) release(_ durable.Context, p Params) (rpc.None, error) {
	if l.Holder == p.Holder {
		l.Holder, l.Until = "", time.Time{}
	}
	return rpc.None{}, nil
}

func (l lock) state(durable.ReadContext, rpc.None) (Held, error) {
	if !time.Now().Before(l.Until) {
		return Held{Token: l.Token}, nil
	}
	return l.Held, nil
}
