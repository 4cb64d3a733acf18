package durable_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/durable"
)

// An alarm runs once, soon after it is due; its handler learns for when it was
// set and finds none set; nothing of it is left in the bucket.
func TestAlarm(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	type seen struct {
		alarm durable.Alarm
		set   bool
		id    string
		info  rpc.CallInfo
		late  time.Duration
	}
	rung := make(chan seen, 10)
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		_, set := ctx.Alarm()
		info, _ := rpc.CallInfoFrom(ctx)
		rung <- seen{a, set, ctx.ID(), info, time.Since(a.Scheduled)}
		return ring(b, ctx, a)
	})
	ids := []string{"alice", "Zoë & 雪/🔔 a.b_c", strings.Repeat("é", 128), "_out", "*", ">"}
	at := time.Now().Add(2 * time.Second)
	for _, id := range ids {
		w.must(id, bellOrder{Set: at})
	}
	for _, id := range ids {
		if l := w.look(id); !l.Set || !l.Alarm.Equal(at.Truncate(time.Millisecond)) || l.Bell.Rings != 0 {
			t.Errorf("%q before the alarm: %+v", id, l)
		}
	}
	for range ids {
		s := <-rung
		t.Logf("%.20q: %v late", s.id, s.late)
		if !s.alarm.Scheduled.Equal(at.Truncate(time.Millisecond)) || s.alarm.Attempt != 1 || s.set {
			t.Errorf("%q: %+v", s.id, s)
		}
		if s.info.Method != "$alarm" || s.info.Object != s.id || !strings.HasPrefix(s.info.ID, "alarm-bell-") {
			t.Errorf("%q: %+v", s.id, s.info)
		}
		if s.late < 0 || s.late > 5*time.Second {
			t.Errorf("%q rang %v after its time", s.id, s.late)
		}
	}
	for _, id := range ids {
		w.rings(id, 1)
		if l := w.look(id); l.Set {
			t.Errorf("%q after the alarm: %+v", id, l)
		}
	}
	w.settled()
	w.until("nothing is left of the alarms", func() bool { return len(w.keys("_due."))+len(w.keys("_alarm.")) == 0 })
}

// An alarm whose time has passed is due at once.
func TestAlarmInThePast(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	rung := make(chan durable.Alarm, 1)
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		rung <- a
		return ring(b, ctx, a)
	})
	for _, at := range []time.Time{time.Unix(0, 0), time.Now().Add(-time.Hour), time.Now()} {
		begun := time.Now()
		w.must("alice", bellOrder{Set: at})
		if a := <-rung; !a.Scheduled.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("rang for %v, want %v", a.Scheduled, at)
		}
		t.Logf("%v: took %v", at, time.Since(begun))
	}
	w.rings("alice", 3)
}

// An alarm does not run that was deleted, was replaced, was set by a turn that
// failed, or whose object was destroyed.
func TestAlarmThatDoesNotRun(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	w.serveBells(durable.Config{}, ring)
	soon, later := time.Now().Add(2*time.Second), time.Now().Add(3*time.Second)
	w.must("deleted", bellOrder{Set: soon})
	w.must("deleted", bellOrder{Delete: true})
	w.must("set and deleted", bellOrder{Set: soon, Delete: true})
	w.must("destroyed", bellOrder{Set: soon})
	w.must("destroyed", bellOrder{Destroy: true})
	w.must("destroyed at once", bellOrder{Set: soon, Destroy: true})
	if err := w.order("failed", bellOrder{Set: soon, Fail: true}); rpc.CodeOf(err) != rpc.Aborted {
		t.Fatal(err)
	}
	w.must("not deleted", bellOrder{Set: soon})
	if err := w.order("not deleted", bellOrder{Delete: true, Fail: true}); rpc.CodeOf(err) != rpc.Aborted {
		t.Fatal(err)
	}
	w.must("earlier", bellOrder{Set: time.Now().Add(time.Hour)})
	w.must("earlier", bellOrder{Set: soon})
	w.must("replaced", bellOrder{Set: soon})
	w.must("replaced", bellOrder{Set: later})
	for _, id := range []string{"deleted", "set and deleted", "destroyed", "destroyed at once", "failed"} {
		if l := w.look(id); l.Set {
			t.Errorf("%s has an alarm", id)
		}
	}
	w.rings("earlier", 1)
	w.rings("not deleted", 1)
	w.rings("replaced", 1)
	if time.Now().Before(later) {
		t.Error("the alarm that was replaced rang")
	}
	w.settled()
	for id, want := range map[string]int{
		"deleted": 0, "set and deleted": 0, "destroyed": 0, "destroyed at once": 0, "failed": 0, "not deleted": 1, "earlier": 1, "replaced": 1,
	} {
		if l := w.look(id); l.Bell.Rings != want || l.Set {
			t.Errorf("%s: %+v, want %d rings and no alarm", id, l, want)
		}
	}
	if keys := w.keys("_alarm."); len(keys) != 0 {
		t.Errorf("left: %q", keys)
	}
}

// Without a handler nothing can be due.
func TestAlarmWithoutHandler(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	w.serveBells(durable.Config{}, nil)
	err := w.order("alice", bellOrder{Set: time.Now()})
	if rpc.CodeOf(err) != rpc.FailedPrecondition || !strings.Contains(err.Error(), "OnAlarm") {
		t.Errorf("%v, want FailedPrecondition that names OnAlarm", err)
	}
	if err := w.order("alice", bellOrder{Set: time.Time{}.AddDate(-1, 0, 0)}); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("%v, want InvalidArgument", err)
	}
	w.must("alice", bellOrder{Delete: true})
	if l := w.look("alice"); l.Set {
		t.Errorf("alice has an alarm")
	}
	if keys := w.keys("_alarm."); len(keys) != 0 {
		t.Errorf("stored: %q", keys)
	}
	if err := w.alarmCall("alice", map[string]any{"id": "x"}, nil); rpc.CodeOf(err) != rpc.FailedPrecondition {
		t.Errorf("%v, want FailedPrecondition", err)
	}
}

// An alarm that its own handler sets again goes on for ever.
func TestAlarmThatRepeats(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	const times = 8
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if b.Rings++; b.Rings < times {
			ctx.SetAlarm(a.Scheduled.Add(50 * time.Millisecond))
		}
		return nil
	})
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", times)
	w.settled()
	w.rings("alice", times)
}

// What others send as $alarm does nothing.
func TestForeignAlarmCall(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	w.serveBells(durable.Config{}, ring)
	at := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	w.must("alice", bellOrder{Set: at})
	kv, err := w.bus.JetStream().KeyValue(t.Context(), durable.Bucket("bell"))
	if err != nil {
		t.Fatal(err)
	}
	before, err := kv.Get(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := w.bus.JetStream().Stream(t.Context(), "KV_"+durable.Bucket("bell"))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), before.Revision())
	if err != nil {
		t.Fatal(err)
	}
	set := msg.Header.Get("Rpc-Alarm-Id")
	for _, params := range []any{
		map[string]any{}, map[string]any{"id": set}, map[string]any{"id": "x", "due": at.UnixMilli(), "again": true},
		map[string]any{"id": set, "due": time.Now().UnixMilli()},
	} {
		if err := w.alarmCall("alice", params, nil); err != nil {
			t.Errorf("%v: %v", params, err)
		}
		if err := w.alarmCall("nobody", params, nil); err != nil {
			t.Errorf("%v: %v", params, err)
		}
	}
	var answer struct{ EarlyMS int64 }
	if err := w.alarmCall("alice", map[string]any{"id": set, "due": at.UnixMilli(), "again": true}, &answer); err != nil {
		t.Fatal(err)
	}
	if left := time.Duration(answer.EarlyMS) * time.Millisecond; left < 50*time.Minute || left > time.Hour {
		t.Errorf("the alarm is to be asked for again in %v", left)
	}
	for _, params := range []any{nil, "odd", 1} {
		if err := w.alarmCall("alice", params, nil); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("%v: %v, want InvalidArgument", params, err)
		}
	}
	after, err := kv.Get(t.Context(), "alice")
	if err != nil || after.Revision() != before.Revision() {
		t.Errorf("alice was written: revision %d, then %d, %v", before.Revision(), after.Revision(), err)
	}
	if l := w.look("alice"); l.Bell.Rings != 0 || !l.Alarm.Equal(at) {
		t.Errorf("%+v", l)
	}
	if _, err := kv.Get(t.Context(), "nobody"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("nobody was written: %v", err)
	}
}

// A slow alarm does not hold up others, nor is it run again meanwhile.
func TestSlowAlarm(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	var slow atomic.Int32
	release := make(chan struct{})
	w.serveBells(durable.WithAlarmTimes(durable.Config{}, 0, 500*time.Millisecond), func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if strings.HasPrefix(ctx.ID(), "slow") {
			slow.Add(1)
			<-release
		}
		return ring(b, ctx, a)
	})
	for i := range 10 {
		w.must(fmt.Sprint("slow ", i), bellOrder{Set: time.Now()})
	}
	w.until("the slow ones run", func() bool { return slow.Load() == 10 })
	begun := time.Now()
	for i := 0; time.Since(begun) < 3*500*time.Millisecond; i++ {
		id := fmt.Sprint("quick ", i)
		w.must(id, bellOrder{Set: time.Now()})
		w.rings(id, 1)
	}
	if n := w.consumer().NumRedelivered; n != 0 {
		t.Errorf("%d alarms that are at work were handed out again", n)
	}
	close(release)
	for i := range 10 {
		w.rings(fmt.Sprint("slow ", i), 1)
	}
	w.settled()
	if n := slow.Load(); n != 10 {
		t.Errorf("the handlers of 10 alarms ran %d times", n)
	}
}

// All alarms that are due in the same second run, each once.
func TestManyAlarms(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	const many = 1000
	var runs atomic.Int32
	done := make(chan struct{})
	var last, sum atomic.Int64
	w.serveBells(durable.Config{}, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		late := time.Since(a.Scheduled)
		sum.Add(int64(late))
		last.Store(int64(late))
		if runs.Add(1) == many {
			close(done)
		}
		return ring(b, ctx, a)
	})
	at := time.Now().Add(5 * time.Second)
	var wg sync.WaitGroup
	for k := range 50 {
		wg.Go(func() {
			for i := k; i < many; i += 50 {
				if err := w.order(fmt.Sprint("bell ", i), bellOrder{Set: at.Add(time.Duration(i) * time.Millisecond)}); err != nil {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("set %v before the first is due", time.Until(at))
	<-done
	w.settled()
	t.Logf("late: mean %v, last %v", time.Duration(sum.Load()/many), time.Duration(last.Load()))
	if n := runs.Load(); n != many {
		t.Errorf("the handlers of %d alarms ran %d times", many, n)
	}
	for i := range many {
		if l := w.look(fmt.Sprint("bell ", i)); l.Bell.Rings != 1 || l.Set {
			t.Errorf("bell %d: %+v", i, l)
		}
	}
	w.until("nothing is left of the alarms", func() bool { return len(w.keys("_due."))+len(w.keys("_alarm.")) == 0 })
}
