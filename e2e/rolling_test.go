//go:build unix

package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// TestRollingRestart replaces the instances of a service one after the other
// under load. No call may fail, whether it may be sent twice or not, however
// often the client would try.
func TestRollingRestart(t *testing.T) {
	b := startBus(t)
	var all, current []*process
	begin := func() *process {
		p := startWorker(t, b.url, fmt.Sprintf("worker-%d", len(all)+1))
		all = append(all, p)
		return p
	}
	for range 3 {
		current = append(current, begin())
	}
	const timeout = 10 * time.Second
	loads := []*load{
		tasks(t, b.url, "do", work.Do, 6, timeout, client.Config{}),
		tasks(t, b.url, "do, sent once", work.Do, 3, timeout, client.Config{MaxAttempts: 1}),
		tasks(t, b.url, "redo", work.Redo, 6, timeout, client.Config{}),
	}
	slow := newClient(t, b.url, client.Config{})
	loads = append(loads, startLoad(t, "slow", 4, timeout, func(ctx context.Context, _ int, n int64) (string, error) {
		done, err := work.Do.Call(ctx, slow, work.Task{N: n, Ms: 700}, rpc.WithTimeout(timeout))
		return done.By, err
	}))
	// Many short calls find the moments in which one could get lost.
	pace := time.NewTicker(200 * time.Microsecond)
	defer pace.Stop()
	loads = append(loads, startLoad(t, "short", 16, timeout, func(ctx context.Context, _ int, n int64) (string, error) {
		<-pace.C
		_, err := work.Echo.Call(ctx, slow, "", rpc.WithTimeout(timeout))
		return "", err
	}))
	loads[0].more(100)
	for range rounds(1, 10) {
		for i, p := range current {
			p.stop(t, syscall.SIGTERM)
			current[i] = begin()
			for _, l := range loads[:3] {
				l.more(50)
			}
		}
	}
	for _, l := range loads {
		records := l.end()
		t.Logf("%s: %s, by %v", l.name, summary(records), shares(records))
		if failed := failures(records); len(failed) > 0 {
			t.Errorf("%s: calls failed in a rolling restart:%s", l.name, describe(failed, records[0].start))
		}
	}
	for _, p := range current {
		p.stop(t, syscall.SIGTERM)
	}
	onceAtMost(t, "do", all...)
	b.stop(t, syscall.SIGTERM)
}
