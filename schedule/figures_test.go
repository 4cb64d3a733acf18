package schedule_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do/bus/bustest"
	"rpc.do/schedule"
	"rpc.do/server"
)

func longer() bool { return flag.Lookup("long").Value.(flag.Getter).Get().(bool) }

// quantile of a sorted list.
func quantile(list []time.Duration, q float64) time.Duration {
	return list[int(q*float64(len(list)-1))].Round(time.Millisecond)
}

// makeMany creates schedules that never tick while the test runs.
func (l *lab) makeMany(from, to int) time.Duration {
	l.Helper()
	const callers = 8
	begin := time.Now()
	var group sync.WaitGroup
	for part := range callers {
		group.Go(func() {
			for n := from + part; n < to; n += callers {
				if _, err := l.all.Create(l.Context(), schedule.Spec{Name: fmt.Sprintf("s-%d", n), Cron: "0 3 1 1 *", Handler: "beat"}, false); err != nil {
					l.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(begin)
}

// How late one-shots are.
func TestLateness(t *testing.T) {
	t.Parallel()
	n, spread := 100, 6*time.Second
	if longer() {
		n, spread = 1000, time.Minute
	}
	l := newLab(t)
	var mu sync.Mutex
	var fired, began []time.Duration
	all := make(chan struct{})
	l.serve(func(svc *server.Service) {
		schedule.Handle(svc, "beat", func(_ context.Context, tick schedule.Tick) error {
			mu.Lock()
			defer mu.Unlock()
			fired = append(fired, tick.Fired.Sub(tick.Nominal))
			if began = append(began, time.Since(tick.Nominal)); len(began) == n {
				close(all)
			}
			return nil
		})
	})
	base := time.Now().Add(2 * time.Second)
	var group sync.WaitGroup
	for part := range 8 {
		group.Go(func() {
			for i := part; i < n; i += 8 {
				at := base.Add(time.Duration(i) * spread / time.Duration(n))
				if _, err := l.all.Create(t.Context(), schedule.Spec{Name: fmt.Sprintf("once-%d", i), At: at, Handler: "beat"}, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	select {
	case <-all:
	case <-time.After(spread + patience):
		t.Fatalf("%d of %d came", len(began), n)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(fired)
	slices.Sort(began)
	t.Logf("%d one-shots over %v are late by: decided: median %v, p99 %v; begun: median %v, p99 %v", n, spread,
		quantile(fired, 0.5), quantile(fired, 0.99), quantile(began, 0.5), quantile(began, 0.99))
	median, p99 := time.Second, patience
	if longer() {
		median, p99 = 150*time.Millisecond, 500*time.Millisecond
	}
	if fired[0] < 0 || quantile(began, 0.5) > median || quantile(began, 0.99) > p99 {
		t.Errorf("from %v to %v", fired[0], began[len(began)-1])
	}
}

// What many schedules cost: how fast they are made, how long one takes to arm
// with few beside it and with many, and what a scheduler remembers of them.
func TestMany(t *testing.T) {
	if !longer() {
		t.Skip("figures: with -long")
	}
	l := newLab(t)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	arm := func() time.Duration {
		took := make([]time.Duration, 300)
		for i := range took {
			begin := time.Now()
			_, err := l.all.Update(t.Context(), "s-1", func(s *schedule.Spec) { s.Cron = fmt.Sprintf("%d 3 1 %d *", i%60, 1+i/60) })
			if err != nil {
				t.Fatal(err)
			}
			took[i] = time.Since(begin)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	l.makeMany(0, 10)
	few := arm()
	const many = 10_000
	took := l.makeMany(10, many)
	manyArm := arm()
	before := heap()
	l.serve(schedule.Serve)
	l.until("a scheduler knows them", func() bool { return heap() > before+many*50 })
	after := heap()
	t.Logf("%d made in %v: %.0f/s; to change one takes %v with 10, %v with %d; a scheduler remembers %d bytes of each",
		many, took.Round(time.Millisecond), many/took.Seconds(), few, manyArm, many, (after-before)/many)
	if took > many*time.Second/2000 {
		t.Errorf("%d made in %v, want 2,000/s", many, took)
	}
	if manyArm > 3*few {
		t.Errorf("to change one takes %v with 10, %v with %d", few, manyArm, many)
	}
}

// Create by several callers, as it comes.
func BenchmarkCreate(b *testing.B) {
	bs := bustest.New(b)
	all := schedule.Open(bs)
	var n atomic.Int64
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			spec := schedule.Spec{Name: fmt.Sprintf("s-%d", n.Add(1)), Cron: "0 3 * * *"}
			if _, err := all.Create(b.Context(), spec, false); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "schedules/s")
}

// A trigger to its end: fired, run, reported.
func BenchmarkRun(b *testing.B) {
	srv := bustest.Server(b)
	svc := server.New(bustest.Connect(b, srv), "clock", server.Config{})
	ran := make(chan struct{}, 1)
	schedule.Handle(svc, "beat", func(context.Context, schedule.Tick) error {
		ran <- struct{}{}
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	<-svc.Ready()
	all := schedule.Open(bustest.Connect(b, srv))
	if _, err := all.Create(b.Context(), schedule.Spec{Name: "beat", Cron: "@yearly", Overlap: schedule.OverlapAllow}, false); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := all.Trigger(b.Context(), "beat", nil); err != nil {
			b.Fatal(err)
		}
		<-ran
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
