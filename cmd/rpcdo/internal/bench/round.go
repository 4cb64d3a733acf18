package bench

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// round is what one round of one workload came to.
type round struct {
	ops      uint64
	p50, p99 time.Duration
	rate     float64 // per second
	cpu      float64 // microseconds of the process for each op
}

// round has callers run the workload for d, each at least once.
func (w *workload) round(ctx context.Context, callers int, d time.Duration) (round, error) {
	if w.own != nil {
		return w.own(ctx, callers, d)
	}
	end := time.Now().Add(d)
	return loop(ctx, callers, end.After, w.op)
}

// loop has callers run op, each at least once and as long as more says so.
func loop(ctx context.Context, callers int, more func(time.Time) bool, op func(ctx context.Context, caller int) error) (round, error) {
	times := make([]histogram, callers)
	g, ctx := errgroup.WithContext(ctx)
	before, start := cpuTime(), time.Now()
	for i := range callers {
		g.Go(func() error {
			for began := time.Now(); ; {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := op(ctx, i); err != nil {
					return err
				}
				now := time.Now()
				times[i].record(now.Sub(began))
				if began = now; !more(now) {
					return nil
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return round{}, err
	}
	elapsed, cpu := time.Since(start), cpuTime()-before
	all := &times[0]
	for i := range times[1:] {
		all.merge(&times[1+i])
	}
	return round{
		ops: all.count, p50: all.percentile(0.50), p99: all.percentile(0.99),
		rate: float64(all.count) / elapsed.Seconds(), cpu: float64(cpu) / 1e3 / float64(all.count),
	}, nil
}
