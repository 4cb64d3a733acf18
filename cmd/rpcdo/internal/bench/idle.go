package bench

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

// restFor is how many times as long as the others Rest is measured: a member
// renews its lease every few seconds only.
const restFor = 3

// rest measures what it costs to own a class while nobody calls: messages of the
// owner's connection, and processor time.
func (cfg *ObjectConfig) rest(ctx context.Context) (rows []Row, err error) {
	sizes := []int{cfg.Objects}
	if cfg.Baseline && cfg.Objects > FewObjects {
		sizes = append(sizes, FewObjects)
	}
	var classes []*class
	defer func() {
		for _, k := range classes {
			err = firstError(err, k.stop())
		}
	}()
	for _, n := range sizes {
		k, err := cfg.serve(ctx, classConfig{objects: n})
		if err != nil {
			return nil, err
		}
		classes = append(classes, k)
		if err := k.unserve(); err != nil {
			return nil, err
		}
	}
	measured := make([]restful, len(classes))
	const rounds = 2
	for range rounds {
		for i, k := range classes {
			if err := measured[i].add(ctx, k, restFor*cfg.Duration/rounds); err != nil {
				return nil, err
			}
		}
	}
	row := measured[0].row(fmt.Sprintf("%s-%d", cfg.row(Rest), sizes[0]))
	if len(measured) > 1 {
		few := measured[1].row("")
		row.Baseline = &Baseline{Name: fmt.Sprintf("the same with %d objects", sizes[1]), OpsPerS: few.OpsPerS, CPUusPerS: few.CPUusPerS}
		row.ThroughputRatio = ratio(row.OpsPerS, few.OpsPerS)
	}
	return []Row{row}, nil
}

// restful is what was counted while nobody called.
type restful struct {
	messages uint64
	cpu      time.Duration
	elapsed  time.Duration
}

func (r *restful) add(ctx context.Context, k *class, d time.Duration) error {
	if err := k.run(); err != nil {
		return err
	}
	runtime.GC() // of what came before
	messages := func() uint64 {
		s := k.serving.Conn().Stats()
		return s.InMsgs + s.OutMsgs
	}
	beforeMsgs, beforeCPU, start := messages(), cpuTime(), time.Now()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.messages += messages() - beforeMsgs
	r.cpu += cpuTime() - beforeCPU
	r.elapsed += time.Since(start)
	return k.unserve()
}

func (r *restful) row(name string) Row {
	return Row{
		Name: name, Ops: r.messages, OpsPerS: rounded(float64(r.messages)/r.elapsed.Seconds(), 1),
		CPUusPerS: rounded(float64(r.cpu)/1e3/r.elapsed.Seconds(), 1),
	}
}

// leastObject is less than an object can take, in bytes.
const leastObject = 256

// enoughActive is from how many objects on they outweigh what else a process has
// in its heap.
const enoughActive = 20_000

// memoryCallers are how many bring the objects into memory.
const memoryCallers = 64

// memory measures what objects take that have had a turn and are idle: the heap
// less what is left of it when nobody serves them.
func (cfg *ObjectConfig) memory(ctx context.Context) (rows []Row, err error) {
	k, err := cfg.serve(ctx, classConfig{aspect: Increment, objects: cfg.Active, idle: time.Hour})
	if err != nil {
		return nil, err
	}
	defer func() { err = firstError(err, k.stop()) }()
	name := cfg.row(Memory)
	if cfg.Progress != nil {
		cfg.Progress(name, memoryCallers)
	}
	var called atomic.Int64
	r, err := loop(ctx, memoryCallers, func(time.Time) bool { return called.Load() < int64(cfg.Active) }, func(ctx context.Context, _ int) error {
		i := called.Add(1) - 1
		if i >= int64(cfg.Active) {
			return nil
		}
		_, err := k.increment.Call(ctx, k.caller, member(int(i)), by{1})
		return err
	})
	if err != nil {
		return nil, err
	}
	active := heap()
	if err := k.unserve(); err != nil {
		return nil, err
	}
	rounds := [][]round{{r}}
	row := newRow(memoryCallers, []*workload{{row: name}}, rounds).withCPU(rounds)
	row.BytesPerObject = math.Round((active - heap()) / float64(cfg.Active))
	if cfg.Active >= enoughActive && row.BytesPerObject < leastObject {
		return nil, fmt.Errorf("only %.0f bytes an object were freed when nobody served them any more: something holds them", row.BytesPerObject)
	}
	return []Row{row}, nil
}

// heap is the memory that is in use.
func heap() float64 {
	runtime.GC() // what has finalizers and pools needs two
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
