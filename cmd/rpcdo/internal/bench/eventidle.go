package bench

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"rpc.do/pipeline"
	"rpc.do/server"
)

// idle measures what handlers take that have had an event each and have nothing to
// do: the memory of the process when they are there, less what it was before. The
// bus, which may be in the process as well, has what it keeps of them before.
func (cfg *EventConfig) idle(ctx context.Context) (_ []Row, err error) {
	if cfg.Progress != nil {
		cfg.Progress(cfg.row(EventIdle), cfg.Handlers)
	}
	var open buses
	defer func() { err = firstError(err, open.close()) }()
	serving, calling, err := open.apart(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	p, name := pipeline.New(calling, pipeline.Config{}), "bench-"+nuid.Next()
	var handled atomic.Int64
	serve := func() (func() error, error) {
		svc := server.New(serving, name, server.Config{DrainTimeout: patience, Description: description})
		for i := range cfg.Handlers {
			pipeline.On(svc, registered, fmt.Sprint(handlerOf, "-", i), func(context.Context, pipeline.Event[user]) error {
				handled.Add(1)
				return nil
			})
		}
		return run(ctx, svc)
	}
	stop, err := serve()
	if err == nil {
		err = stop()
	}
	if err != nil {
		return nil, err
	}
	before, begun := inUse(), time.Now()
	if stop, err = serve(); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	if _, err = pipeline.Send(ctx, p, registered, newUser()); err == nil {
		err = resting(ctx, p, &handled, int64(cfg.Handlers))
	}
	after := inUse()
	if err := firstError(err, stop()); err != nil {
		return nil, err
	}
	return []Row{{
		Name: cfg.row(EventIdle), Concurrency: cfg.Handlers, Ops: uint64(cfg.Handlers),
		OpsPerS:         rounded(float64(cfg.Handlers)/took.Seconds(), 1),
		BytesPerHandler: math.Round((after - before) / float64(cfg.Handlers)),
	}}, nil
}

// resting waits until all handlers have had their event and nothing is under way.
func resting(ctx context.Context, p *pipeline.Pipeline, handled *atomic.Int64, n int64) error {
	for {
		if handled.Load() >= n {
			all, err := p.Handlers(ctx)
			if err != nil {
				return err
			}
			running := 0
			for _, h := range all {
				running += h.Running
			}
			if running == 0 {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// inUse is the memory that the heap and the stacks take.
func inUse() float64 {
	runtime.GC() // what has finalizers and pools needs two
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}
