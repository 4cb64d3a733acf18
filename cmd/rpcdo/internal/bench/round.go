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
}

// round has callers run the workload for d, each at least once.
func (w *workload) round(ctx context.Context, callers int, d time.Duration) (round, error) {
	times := make([]histogram, callers)
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	end := start.Add(d)
	for i := range callers {
		g.Go(func() error {
			for began := time.Now(); ; {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := w.op(ctx); err != nil {
					return err
				}
				now := time.Now()
				times[i].record(now.Sub(began))
				if began = now; !now.Before(end) {
					return nil
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return round{}, err
	}
	elapsed := time.Since(start)
	all := &times[0]
	for i := range times[1:] {
		all.merge(&times[1+i])
	}
	return round{
		ops: all.count, p50: all.percentile(0.50), p99: all.percentile(0.99),
		rate: float64(all.count) / elapsed.Seconds(),
	}, nil
}
