package server

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// Calls that come and go with deadlines of all lengths: each that is still
// there ends at its deadline, never before and not much later, and none that
// has gone is touched.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := New(bustest.New(t), "late", Config{})
	ep := &endpoint{name: "m", gate: s.gate}
	defer s.deadlines.stop()
	var calls sync.WaitGroup
	for i := range 64 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		calls.Go(func() {
			for range 20 {
				timeout := time.Duration(rnd.IntN(40)) * time.Millisecond
				j := s.newJob(ep, bus.Request{Timeout: timeout}, time.Now())
				s.active.add(j)
				s.deadlines.watch(j.ctx.deadline)
				if rnd.IntN(2) == 0 { // it ends by itself
					s.release(j)
					if err := j.ctx.Err(); err == nil {
						t.Error("the context of a call that has ended goes on")
					}
					continue
				}
				select {
				case <-j.ctx.Done():
				case <-time.After(10 * time.Second):
					t.Errorf("a call with %v to go did not end", timeout)
					return
				}
				now := time.Now()
				if err := j.ctx.Err(); err != context.DeadlineExceeded {
					t.Errorf("the context ended with %v", err)
				}
				if early := j.ctx.deadline.Sub(now); early > 0 {
					t.Errorf("a call ended %v before its deadline", early)
				}
				s.release(j)
			}
		})
	}
	calls.Wait()
	if left := s.active.all(); len(left) > 0 {
		t.Errorf("%d calls are left", len(left))
	}
}

// A long deadline does not keep a shorter one that comes later waiting, and a
// call that was answered is not looked at again.
func TestDeadlineEarlier(t *testing.T) {
	t.Parallel()
	s := New(bustest.New(t), "late", Config{})
	ep := &endpoint{name: "m", gate: s.gate}
	defer s.deadlines.stop()
	admit := func(timeout time.Duration) *job {
		j := s.newJob(ep, bus.Request{Timeout: timeout}, time.Now())
		s.active.add(j)
		s.deadlines.watch(j.ctx.deadline)
		return j
	}
	long, short := admit(time.Hour), admit(5*time.Millisecond)
	answered := admit(5 * time.Millisecond)
	answered.answered.Store(true)
	select {
	case <-short.ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the short deadline was not kept")
	}
	if long.ctx.Err() != nil || answered.ctx.Err() != nil {
		t.Error("a call ended that was not over")
	}
	if at := s.deadlines.next.Load(); at == never {
		t.Error("nobody watches the long deadline any more")
	}
	s.deadlines.stop()
	s.deadlines.watch(time.Now())
	s.deadlines.sweep()
	if long.ctx.Err() != nil {
		t.Error("a call ended after stop")
	}
}
