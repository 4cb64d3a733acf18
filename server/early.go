package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// earlyCancels remembers the cancellations that came before their calls.
// Requests and cancellations take different ways through the process, so one
// that follows its request closely may overtake it. Most of what is in here is
// for calls of other instances, or calls that have ended: nobody takes it, and
// it is forgotten.
type earlyCancels struct {
	count atomic.Int32 // lets admission pass by while there is none

	mu    sync.Mutex
	known map[string]struct{}
	ring  []string // of earlyMax, once there is one
	next  int
	last  time.Time
}

const (
	earlyMax   = 4096
	earlyValid = 2 * time.Second
)

func (e *earlyCancels) add(reply string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known, e.ring = map[string]struct{}{}, make([]string, earlyMax)
	}
	delete(e.known, e.ring[e.next])
	e.ring[e.next] = reply
	e.next = (e.next + 1) % earlyMax
	e.known[reply] = struct{}{}
	e.last = now
	e.count.Store(int32(len(e.known)))
}

// take reports whether the call with that reply subject was cancelled before.
func (e *earlyCancels) take(reply string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.remove(reply)
}

// cancelled is take for a call that comes in now; it forgets everything when
// nothing has been added for a while. It costs next to nothing while nobody
// cancels.
func (e *earlyCancels) cancelled(reply string, now time.Time) bool {
	if e.count.Load() == 0 || reply == "" {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.last) > earlyValid {
		clear(e.known)
	}
	return e.remove(reply)
}

// remove is take with the lock held.
func (e *earlyCancels) remove(reply string) bool {
	_, cancelled := e.known[reply]
	delete(e.known, reply)
	e.count.Store(int32(len(e.known)))
	return cancelled
}
