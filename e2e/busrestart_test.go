//go:build unix

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// TestBusRestart kills the bus under load and starts it again, at the same
// address and on the same store. Every call ends in time, with a result or with
// Unavailable, and nobody needs help to go on.
func TestBusRestart(t *testing.T) {
	b := startBus(t)
	var workers []*process
	for i := range 3 {
		workers = append(workers, startWorker(t, b.url, fmt.Sprintf("worker-%d", i+1)))
	}
	const timeout = 4 * time.Second
	loads := []*load{
		tasks(t, b.url, "do", work.Do, 8, timeout, client.Config{}),
		tasks(t, b.url, "redo", work.Redo, 8, timeout, client.Config{}),
	}
	begin := time.Now()
	for round := range rounds(2, 20) {
		for _, l := range loads {
			l.more(100)
		}
		b.kill(t)
		b.begin(t)
		back := time.Now()
		first := loads[0].ok.Load()
		until(t, "a call succeeds", func() bool { return loads[0].ok.Load() > first })
		served := time.Since(back)
		// All instances are back when each has begun a call that is new.
		before := make([]int, len(workers))
		for i, w := range workers {
			before[i] = len(w.lines())
		}
		for i, w := range workers {
			until(t, w.name+" serves again", func() bool { return len(w.lines()) > before[i] })
		}
		t.Logf("round %d: first call %v after the bus was ready again, all instances after %v",
			round, served.Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
	}
	for _, l := range loads {
		l.more(100)
	}
	for _, l := range loads {
		records := l.end()
		t.Logf("%s: %s, by %v", l.name, summary(records), shares(records))
		failed := failures(records)
		for _, r := range failed {
			if rpc.CodeOf(r.err) != rpc.Unavailable {
				t.Errorf("%s: a call failed otherwise than with unavailable:%s", l.name, describe([]record{r}, begin))
			}
		}
		if len(failed) > 0 {
			t.Logf("%s: %s", l.name, describe(failed, begin))
		}
	}
	for _, w := range workers {
		w.stop(t, syscall.SIGTERM)
	}
	onceAtMost(t, "do", workers...)
	b.stop(t, syscall.SIGTERM)
}

// TestBusStaysAway stops the bus for good: calls end at their deadlines, and
// the service still stops when asked to.
func TestBusStaysAway(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	w := startWorker(t, b.url, "worker-1")
	c := newClient(t, b.url, client.Config{})
	if _, err := work.Echo.Call(t.Context(), c, "hello"); err != nil {
		t.Fatal(err)
	}
	b.kill(t)
	for _, m := range []rpc.Method[work.Task, work.Done]{work.Do, work.Redo} {
		begin := time.Now()
		_, err := m.Call(t.Context(), c, work.Task{}, rpc.WithTimeout(500*time.Millisecond))
		if took := time.Since(begin); rpc.CodeOf(err) != rpc.Unavailable || took > 500*time.Millisecond+slack {
			t.Errorf("%s: error %v after %v, want unavailable after 500ms", m.Spec().Name(), err, took)
		}
	}
	begin := time.Now()
	w.stop(t, syscall.SIGTERM)
	// It has nothing to wait for: no call runs, and none can come.
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("without a bus the worker ended %v after SIGTERM", took)
	}
}
