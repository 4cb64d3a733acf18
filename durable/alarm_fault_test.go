package durable_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
	"rpc.do/server"
)

// An alarm that is replaced in the very moment that it fires is not lost: the
// server deletes the new one along with the one that has fired.
func TestAlarmReplacedWhileItFires(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	w.serveBells(durable.Config{}, ring)
	const bells, rounds = 40, 5
	for round := range rounds {
		first := time.Now().Add(time.Second)
		var wg sync.WaitGroup
		for i := range bells {
			id := fmt.Sprint("bell ", round, " ", i)
			wg.Go(func() {
				if err := w.order(id, bellOrder{Set: first}); err != nil {
					t.Error(err)
				}
				timer := time.NewTimer(time.Until(first) + time.Duration(i-bells/4)*500*time.Microsecond)
				defer timer.Stop()
				<-timer.C
				if err := w.order(id, bellOrder{Set: first.Add(700 * time.Millisecond)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range bells {
			id := fmt.Sprint("bell ", round, " ", i)
			w.until(id+" has no alarm", func() bool { return !w.look(id).Set })
			if n := w.look(id).Bell.Rings; n < 1 || n > 2 {
				t.Errorf("%s rang %d times", id, n)
			}
		}
	}
}

// serveUntilKilled is serveBells for an instance that loses its connection for
// good.
func (w *tower) serveUntilKilled(b *bus.Bus, cfg durable.Config, fn onBell) (kill func()) {
	w.Helper()
	svc := bellService(b, cfg, fn)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	w.Cleanup(func() {
		b.Conn().Close()
		cancel()
		<-done // with an error: nothing could be handed over
	})
	select {
	case <-svc.Ready():
	case err := <-done:
		done <- err
		w.Fatalf("run: %v", err)
	}
	return b.Conn().Close
}

// An owner that dies with an alarm at work leaves it to the next one. That runs
// it again, unless it was stored what the first run did.
func TestAlarmOfOwnerThatDies(t *testing.T) {
	t.Parallel()
	for point, runs := range map[string]int32{"commit": 2, "committed": 1} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := bustest.Server(t, bustest.IgnoreLeaks())
			w := towerOn(t, bustest.Connect(t, s))
			var ran atomic.Int32
			var armed atomic.Bool
			fn := func(b *bell, ctx durable.Context, a durable.Alarm) error {
				armed.Store(ran.Add(1) == 1)
				if a.Attempt != 1 {
					t.Errorf("attempt %d", a.Attempt)
				}
				return ring(b, ctx, a)
			}
			dying := bustest.Connect(t, s, bustest.IgnoreLeaks())
			died := make(chan struct{})
			cfg := quick(durable.Config{Lease: time.Second})
			kill := w.serveUntilKilled(dying, durable.AtEachStep(cfg, func(at string) {
				if at == point && armed.Swap(false) {
					dying.Conn().Close()
					close(died)
				}
			}), fn)
			defer kill()
			w.must("alice", bellOrder{Set: time.Now()})
			<-died
			begun := time.Now()
			w.serveBells(cfg, fn)
			w.rings("alice", 1)
			w.settled()
			t.Logf("took %v", time.Since(begun))
			if l := w.look("alice"); l.Set || l.Bell.Rings != 1 {
				t.Errorf("%+v", l)
			}
			if n := ran.Load(); n != runs {
				t.Errorf("the handler ran %d times, want %d", n, runs)
			}
		})
	}
}

// The alarms of a member that dies run in those that are left, each once.
func TestAlarmsWhileMemberDies(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.IgnoreLeaks())
	w := towerOn(t, bustest.Connect(t, s))
	cfg := quick(durable.Config{Lease: time.Second})
	const many = 100
	var ran atomic.Int32
	half := make(chan struct{})
	fn := func(b *bell, ctx durable.Context, a durable.Alarm) error {
		if ran.Add(1) == many/2 {
			close(half)
		}
		return ring(b, ctx, a)
	}
	w.serveBells(cfg, fn)
	kill := w.serveUntilKilled(bustest.Connect(t, s, bustest.IgnoreLeaks()), cfg, fn)
	at := time.Now().Add(time.Second)
	for i := range many {
		w.must(fmt.Sprint("bell ", i), bellOrder{Set: at.Add(time.Duration(i) * 5 * time.Millisecond)})
	}
	<-half
	kill()
	begun := time.Now()
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
	t.Logf("took %v", time.Since(begun))
	w.settled()
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
}

// Members come and go while alarms fire: each runs once.
func TestAlarmsWhileMembersChange(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	w := towerOn(t, bustest.Connect(t, s))
	var mu sync.Mutex
	ran := map[string]int{}
	fn := func(b *bell, ctx durable.Context, a durable.Alarm) error {
		mu.Lock()
		ran[ctx.ID()]++
		mu.Unlock()
		return ring(b, ctx, a)
	}
	w.serveBells(durable.Config{}, fn)
	const many = 200
	at := time.Now().Add(500 * time.Millisecond)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range many {
			if err := w.order(fmt.Sprint("bell ", i), bellOrder{Set: at.Add(time.Duration(i) * 10 * time.Millisecond)}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 4 {
		one, two := towerOn(t, bustest.Connect(t, s)), towerOn(t, bustest.Connect(t, s))
		stopOne := one.serveBells(durable.Config{}, fn)
		stopTwo := two.serveBells(durable.Config{}, fn)
		stopOne()
		stopTwo()
	}
	wg.Wait()
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
	w.settled()
	for i := range many {
		if n := ran[fmt.Sprint("bell ", i)]; n != 1 {
			t.Errorf("bell %d: the handler ran %d times", i, n)
		}
	}
}

// A member that stops lets the alarms end that it has asked other owners to run.
func TestStopWhileAlarmsRun(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	w, other := towerOn(t, bustest.Connect(t, s)), towerOn(t, bustest.Connect(t, s))
	const many = 30
	var begun, cancelled atomic.Int32
	held := func(release chan struct{}) onBell {
		return func(b *bell, ctx durable.Context, a durable.Alarm) error {
			begun.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
				cancelled.Add(1)
				return ctx.Err()
			}
			return ring(b, ctx, a)
		}
	}
	release, releaseOther := make(chan struct{}), make(chan struct{})
	stop := other.serveBells(durable.Config{}, held(releaseOther))
	w.serveBells(durable.Config{}, held(release))
	for i := range many {
		w.must(fmt.Sprint("bell ", i), bellOrder{Set: time.Now()})
	}
	w.until("all run", func() bool { return begun.Load() == many })
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	close(releaseOther) // nothing keeps its own objects from being handed over
	select {
	case <-stopped:
		t.Error("the instance has stopped, with alarms at work")
	case <-time.After(500 * time.Millisecond):
	}
	close(release)
	<-stopped
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
	if n := cancelled.Load(); n != 0 || begun.Load() != many {
		t.Errorf("%d handlers were cancelled, %d began, want 0 and %d", n, begun.Load(), many)
	}
}

// Alarms that are due while the server is down, or nobody serves the class, run
// afterwards; the members go on to take them when the connection was lost.
func TestAlarmsAfterRestartOfServer(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.IgnoreLeaks())
	w := towerOn(t, bustest.Connect(t, s))
	stop := w.serveBells(durable.Config{}, ring)
	w.must("nobody there", bellOrder{Set: time.Now().Add(300 * time.Millisecond)})
	stop()
	w.until("the alarm has fired", func() bool { return w.consumer().NumPending > 0 })
	w.serveBells(durable.Config{}, ring)
	w.rings("nobody there", 1)

	at := time.Now().Add(700 * time.Millisecond)
	w.must("server down", bellOrder{Set: at})
	w.must("later", bellOrder{Set: at.Add(2 * time.Second)})
	s.NATS().Shutdown()
	<-time.After(time.Until(at))
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	w.rings("server down", 1)
	t.Logf("rang %v after the restart", time.Since(begun))
	w.rings("later", 1)
	w.settled()
	if err := w.bus.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	w.must("alice", bellOrder{Set: time.Now()})
	begun = time.Now()
	w.rings("alice", 1)
	t.Logf("rang %v after the connection was lost", time.Since(begun))
}

// The consumer is the operator's once it is made; who deletes it gets it again.
func TestAlarmConsumer(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	stop := w.serveBells(durable.Config{}, ring)
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", 1)
	w.settled()
	stop()
	stream := "KV_" + durable.Bucket("bell")
	js := w.bus.JetStream()
	cfg := w.consumer().Config
	if cfg.Metadata["rpc.do/version"] != "1" || cfg.MaxAckPending < 1000 || cfg.AckWait != 10*time.Second || cfg.FilterSubject != "$KV.OBJECTS_bell._due.*" {
		t.Errorf("%+v", cfg)
	}
	cfg.AckWait, cfg.Description = 3*time.Second, "ours"
	if _, err := js.UpdateConsumer(t.Context(), stream, cfg); err != nil {
		t.Fatal(err)
	}
	w.serveBells(durable.Config{}, ring)
	if cfg := w.consumer().Config; cfg.AckWait != 3*time.Second || cfg.Description != "ours" {
		t.Errorf("%+v", cfg)
	}
	if err := js.DeleteConsumer(t.Context(), stream, "alarms"); err != nil {
		t.Fatal(err)
	}
	w.must("alice", bellOrder{Set: time.Now()})
	w.rings("alice", 2)
	w.settled()
	w.rings("alice", 2)
	mark := func(version string) {
		cfg := w.consumer().Config
		cfg.Metadata["rpc.do/version"] = version
		if _, err := js.UpdateConsumer(t.Context(), stream, cfg); err != nil {
			t.Fatal(err)
		}
	}
	mark("0")
	w.serveBells(durable.Config{}, ring)
	if version := w.consumer().Config.Metadata["rpc.do/version"]; version != "1" {
		t.Errorf("version 0 became %s", version)
	}
	mark("2")
	if err := bellService(w.bus, durable.Config{}, ring).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("version 2: %v", err)
	}
}

// A class that has been renamed goes on with its alarms, also while old
// instances own some of the objects.
func TestAlarmOfRenamedClass(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	w.serveBells(durable.Config{}, ring)
	svc := server.New(w.bus, "chimes", server.Config{})
	var rung atomic.Int32
	chimes := durable.Serve[bell](svc, "chime", durable.Config{Formerly: "bell"})
	durable.OnAlarm(chimes, func(b *bell, ctx durable.Context, a durable.Alarm) error {
		rung.Add(1)
		return ring(b, ctx, a)
	})
	const many = 40
	for i := range many {
		w.must(fmt.Sprint("bell ", i), bellOrder{Set: time.Now().Add(4 * time.Second)})
	}
	run(t, svc)
	catalogue, err := durable.Open(t.Context(), w.bus, "bell")
	if err != nil {
		t.Fatal(err)
	}
	defer catalogue.Close()
	for i := range many {
		id := fmt.Sprint("bell ", i)
		w.until(id+" has rung", func() bool {
			info, err := catalogue.State(t.Context(), id)
			return err == nil && string(info.State) == `{"rings":1}` && info.Alarm == nil
		})
	}
	if n := rung.Load(); n == 0 || n == many {
		t.Errorf("%d of %d alarms rang in the new instance", n, many)
	}
}

// In a cluster the alarms outlive the members of it that lead.
func TestAlarmsInCluster(t *testing.T) {
	t.Parallel()
	servers := bustest.Cluster(t, 3)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	b := bustest.Connect(t, servers[0], bustest.WithConfig(func(c *bus.Config) { c.Replicas, c.URLs = 3, urls }))
	w := towerOn(t, b)
	w.serveBells(durable.Config{}, ring)
	const many = 40
	at := time.Now().Add(time.Second)
	for i := range many {
		w.must(fmt.Sprint("bell ", i), bellOrder{Set: at.Add(time.Duration(i) * 50 * time.Millisecond)})
	}
	w.must("deleted", bellOrder{Set: at})
	w.must("deleted", bellOrder{Delete: true})
	stream := "KV_" + durable.Bucket("bell")
	for i, what := range []string{"STREAM.LEADER.STEPDOWN." + stream, "CONSUMER.LEADER.STEPDOWN." + stream + ".alarms", "STREAM.LEADER.STEPDOWN." + stream} {
		w.rings(fmt.Sprint("bell ", i*many/5), 1)
		api := "$JS.API." + what
		if _, err := b.Conn().RequestWithContext(t.Context(), api, nil); err != nil {
			t.Error(err)
		}
	}
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
	w.until("all due alarms are handled", func() bool {
		c, err := w.bus.JetStream().Consumer(t.Context(), stream, "alarms")
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
	for i := range many {
		w.rings(fmt.Sprint("bell ", i), 1)
	}
	if l := w.look("deleted"); l.Bell.Rings != 0 || l.Set {
		t.Errorf("deleted: %+v", l)
	}
	t.Logf("took %v beyond the last one's time", time.Since(at.Add(many*50*time.Millisecond)))
}
