package durable_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/durable"
)

// attempts notes what handlers are told.
type attempts struct {
	mu    sync.Mutex
	of    map[string][]int
	ids   map[string][]string // of the calls
	times map[string][]time.Time
}

func (a *attempts) note(ctx durable.Context, alarm durable.Alarm) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of, a.ids, a.times = map[string][]int{}, map[string][]string{}, map[string][]time.Time{}
	}
	id := ctx.ID()
	info, _ := rpc.CallInfoFrom(ctx)
	a.of[id] = append(a.of[id], alarm.Attempt)
	a.ids[id] = append(a.ids[id], info.ID)
	a.times[id] = append(a.times[id], time.Now())
	return len(a.of[id])
}

func (a *attempts) seen(id string) []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.of[id])
}

// An alarm whose handler fails is tried 7 times, changes nothing, and is kept as
// a dead letter. That stays until an alarm of the object has succeeded, or the
// object is destroyed.
func TestAlarmThatFails(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	var mended atomic.Bool
	w.serveBells(quick(durable.Config{}), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		tried.note(ctx, a)
		b.Rings++
		if mended.Load() {
			return nil
		}
		b.Notes = append(b.Notes, "spoilt")
		ctx.SetAlarm(time.Now().Add(time.Hour))
		if err := ctx.Emit("Bell.rang", 1); err != nil {
			return err
		}
		switch ctx.ID() {
		case "panic":
			panic("the rope is torn")
		case "nil":
			var err *rpc.Error
			return err
		case "long":
			return errors.New(strings.Repeat("é", 5000))
		case "coded":
			return rpc.Unavailable.Errorf("no ringer").NotExecuted()
		}
		return errors.New("no ringer")
	})
	errorsOf := map[string]string{
		"error": "no ringer", "panic": "panic: the rope is torn", "coded": "unavailable: no ringer", "nil": "nil",
		"long": strings.Repeat("é", 512) + "…", "destroyed": "no ringer",
	}
	at := time.Now().Truncate(time.Millisecond)
	for id := range errorsOf {
		w.must(id, bellOrder{Set: at})
	}
	for id, text := range errorsOf {
		w.until(id+" is dead", func() bool { return w.dead(id) != nil })
		d := w.dead(id)
		if !d.Scheduled.Equal(at) || d.Attempts != 7 || !strings.Contains(d.Error, text) || len(d.Error) > 1100 || time.Since(d.Time) > time.Minute {
			t.Errorf("%s: dead letter %+v", id, d)
		}
		if got := tried.seen(id); !slices.Equal(got, []int{1, 2, 3, 4, 5, 6, 7}) {
			t.Errorf("%s: attempts %v", id, got)
		}
		if ids := tried.ids[id]; len(slices.Compact(slices.Clone(ids))) != 1 {
			t.Errorf("%s: the attempts' identities differ: %q", id, ids)
		}
		for i := 1; i < len(tried.times[id]); i++ {
			if pause, want := tried.times[id][i].Sub(tried.times[id][i-1]), 20*time.Millisecond<<(i-1)-time.Millisecond; pause < want {
				t.Errorf("%s: attempt %d came after %v, want %v", id, i+1, pause, want)
			}
		}
		// The dead letter is there before the owner hears that it is.
		w.until(id+" has no alarm", func() bool { return !w.look(id).Set })
		if l := w.look(id); l.Set || l.Bell.Rings != 0 || l.Bell.Notes != nil {
			t.Errorf("%s: %+v", id, l)
		}
	}
	w.settled()
	if keys := w.keys("_out."); len(keys) != 0 {
		t.Errorf("emitted: %q", keys)
	}
	mended.Store(true)
	w.must("destroyed", bellOrder{Destroy: true})
	if d := w.dead("destroyed"); d != nil {
		t.Errorf("the object is destroyed, and its dead letter is there: %+v", d)
	}
	w.must("error", bellOrder{Set: time.Now().Add(2 * time.Second)})
	w.must("coded", bellOrder{Set: time.Now().Add(time.Hour)})
	w.must("coded", bellOrder{Delete: true})
	if w.dead("error") == nil || w.dead("coded") == nil {
		t.Error("a dead letter went when an alarm was set or deleted")
	}
	w.rings("error", 1)
	if d := w.dead("error"); d != nil {
		t.Errorf("a later alarm succeeded, and the dead letter is there: %+v", d)
	}
	if w.dead("coded") == nil {
		t.Error("the dead letter of another object went")
	}
}

// The second attempt is made 2 seconds after the first, the third 4 seconds after
// that.
func TestAlarmBackoff(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if tried.note(ctx, a) < 3 {
			return errors.New("no ringer")
		}
		return ring(b, ctx, a)
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", 1)
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 2, 3}) {
		t.Fatalf("attempts %v", got)
	}
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second} {
		pause := tried.times["alice"][i+1].Sub(tried.times["alice"][i])
		t.Logf("attempt %d came %v after the one before", i+2, pause)
		if pause < want-time.Millisecond || pause > 2*want {
			t.Errorf("attempt %d came %v after the one before, want %v", i+2, pause, want)
		}
	}
}

// A failing alarm that is set again begins anew; one that is deleted rests.
func TestFailingAlarmIsSetAgain(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	var mended atomic.Bool
	w.serveBells(durable.WithAlarmTimes(durable.Config{}, time.Second, 0), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		tried.note(ctx, a)
		if !mended.Load() {
			return errors.New("no ringer")
		}
		return ring(b, ctx, a)
	})
	at := time.Now().Truncate(time.Millisecond)
	w.must("set", bellOrder{Set: at})
	w.must("deleted", bellOrder{Set: at})
	w.until("both have been tried twice", func() bool { return len(tried.seen("set")) == 2 && len(tried.seen("deleted")) == 2 })
	if l := w.look("set"); !l.Set || !l.Alarm.Equal(at) {
		t.Errorf("while it is tried again, the alarm is %v, want %v", l.Alarm, at)
	}
	mended.Store(true)
	w.must("deleted", bellOrder{Delete: true})
	w.must("set", bellOrder{Set: time.Now().Add(time.Second)})
	w.rings("set", 1)
	w.settled()
	if got := tried.seen("set"); !slices.Equal(got, []int{1, 2, 1}) {
		t.Errorf("attempts %v", got)
	}
	if got := tried.seen("deleted"); !slices.Equal(got, []int{1, 2}) || w.look("deleted").Set {
		t.Errorf("attempts of the deleted one: %v", got)
	}
}

// The attempts go on where they were when the instance is replaced.
func TestAlarmRetriesSurviveRestart(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	for done := 0; done < 7; {
		stop := w.serveBells(quick(durable.Config{}), func(b *bell, ctx durable.Context, a durable.Alarm) error {
			tried.note(ctx, a)
			b.Rings++
			return fmt.Errorf("attempt %d", a.Attempt)
		})
		if done == 0 {
			w.must("alice", bellOrder{Set: time.Now()})
		}
		w.until("there was one more attempt", func() bool { return len(tried.seen("alice")) > done })
		stop()
		done = len(tried.seen("alice"))
	}
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("attempts %v", got)
	}
	d := w.dead("alice")
	if d == nil || d.Attempts != 7 || d.Error != "attempt 7" {
		t.Errorf("dead letter %+v", d)
	}
}

// An alarm that ends its handler's goroutine each time, as one does that ends
// the process, is not tried for ever either.
func TestAlarmThatNeverReturns(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	w.serveBells(quick(durable.Config{}), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		tried.note(ctx, a)
		b.Rings++
		runtime.Goexit()
		return nil
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.until("there is a dead letter", func() bool { return w.dead("alice") != nil })
	if d := w.dead("alice"); d.Attempts != 7 || !strings.Contains(d.Error, "never ended") {
		t.Errorf("dead letter %+v", d)
	}
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("attempts %v", got)
	}
	w.until("the owner has heard of it", func() bool { return !w.look("alice").Set })
	if l := w.look("alice"); l.Bell.Rings != 0 {
		t.Errorf("%+v", l)
	}
}

// An alarm that takes longer than a turn may has failed.
func TestAlarmBeyondTurnTimeout(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	release := make(chan struct{})
	w.serveBells(quick(durable.Config{TurnTimeout: 150 * time.Millisecond}), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		b.Rings++
		switch tried.note(ctx, a) {
		case 1:
			<-ctx.Done()
			return ctx.Err()
		case 2:
			<-release // it ignores that its time is over
		}
		return nil
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.until("the second attempt runs", func() bool { return len(tried.seen("alice")) == 2 })
	w.until("the object is stuck", func() bool {
		err := w.client.Call(w.Context(), &rpc.Call{Service: "bell", Method: "order", Object: "alice", Params: &bellOrder{}, Result: &rpc.None{}, Timeout: 50 * time.Millisecond})
		return err != nil && strings.Contains(err.Error(), "stuck")
	})
	close(release)
	w.rings("alice", 1)
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("attempts %v", got)
	}
}

// What a turn can't store is a failed attempt.
func TestAlarmThatCantBeStored(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	limit := int(w.bus.MaxPayload())
	w.serveBells(quick(durable.Config{}), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if tried.note(ctx, a) <= 2 {
			b.Notes = append(b.Notes, strings.Repeat("x", limit))
		}
		return ring(b, ctx, a)
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", 1)
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("attempts %v", got)
	}
}

// While an object, or its class, is paused its alarm waits, which is no attempt.
func TestAlarmOfPausedObject(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		tried.note(ctx, a)
		return ring(b, ctx, a)
	})
	catalogue, err := durable.Open(t.Context(), w.bus, "bell")
	if err != nil {
		t.Fatal(err)
	}
	defer catalogue.Close()
	for i := range 2 {
		pause, resume := catalogue.PauseClass, catalogue.ResumeClass
		if i == 0 {
			pause = func(ctx context.Context, reason string) error { return catalogue.Pause(ctx, "alice", reason) }
			resume = func(ctx context.Context) error { return catalogue.Resume(ctx, "alice") }
		}
		before := w.look("alice").Bell.Rings
		w.must("alice", bellOrder{Set: time.Now().Add(2 * time.Second)})
		if err := pause(t.Context(), "repair"); err != nil {
			t.Fatal(err)
		}
		w.until("the alarm waits", func() bool { return w.consumer().NumRedelivered > 0 })
		if err := resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.rings("alice", before+1)
		w.settled()
	}
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("attempts %v", got)
	}
}

// An interceptor sees the alarms as calls of $alarm, with the errors of their
// handlers. When it refuses one, that is no attempt; when it goes on twice, the
// handler runs once.
func TestAlarmInterceptor(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var tried attempts
	var refused, failed atomic.Int32
	cfg := durable.Config{Interceptors: []rpc.Interceptor{{Name: "twice", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if call.Method != "$alarm" {
				return next(ctx, call)
			}
			if refused.Add(1) <= 2 {
				return rpc.Unauthenticated.Errorf("who are you?")
			}
			err := next(ctx, call)
			if err != nil {
				failed.Add(1)
			}
			_ = next(ctx, call)
			return err
		}
	}}}}
	w.serveBells(quick(cfg), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if tried.note(ctx, a) == 1 {
			return rpc.Aborted.Errorf("no ringer")
		}
		return ring(b, ctx, a)
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", 1)
	w.settled()
	if got := tried.seen("alice"); !slices.Equal(got, []int{1, 2}) || failed.Load() != 1 {
		t.Errorf("attempts %v, the interceptor saw %d fail", got, failed.Load())
	}
}
