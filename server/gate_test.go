package server

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"rpc.do/bus"
)

func sizedJob(bytes int) *job { return &job{req: bus.Request{Payload: make([]byte, bytes)}} }

// gateModel is a gate as one would write it without a thought of speed.
type gateModel struct {
	maxRunning, maxWaiting, maxBytes int
	running                          int
	waiting                          []*job
}

func (m *gateModel) bytes() (n int) {
	for _, j := range m.waiting {
		n += len(j.req.Payload)
	}
	return n
}

func (m *gateModel) enter(j *job) verdict {
	switch {
	case m.running < m.maxRunning:
		m.running++
		return runNow
	case len(m.waiting) == m.maxWaiting, m.bytes()+len(j.req.Payload) > m.maxBytes:
		return shed
	}
	m.waiting = append(m.waiting, j)
	return queued
}

func (m *gateModel) leave() *job {
	if len(m.waiting) == 0 {
		m.running--
		return nil
	}
	j := m.waiting[0]
	m.waiting = m.waiting[1:]
	return j
}

func (m *gateModel) clear() []*job {
	jobs := m.waiting
	m.waiting = nil
	return jobs
}

// The gate does what the model does, on schedules of all kinds.
func TestGateAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := &gateModel{maxRunning: 1 + rnd.IntN(8), maxWaiting: rnd.IntN(60), maxBytes: rnd.IntN(3000)}
		g := newGate(m.maxRunning, m.maxWaiting, int64(m.maxBytes))
		crowd := 0.3 + 0.4*rnd.Float64() // how often somebody enters rather than leaves
		for step := range 2000 {
			switch {
			case rnd.IntN(500) == 0:
				if got, want := g.clear(), m.clear(); !slices.Equal(got, want) {
					t.Fatalf("seed %d, step %d: clear returned %d jobs, want %d", seed, step, len(got), len(want))
				}
			case m.running == 0 || rnd.Float64() < crowd:
				j := sizedJob(rnd.IntN(200))
				if got, want := g.enter(j), m.enter(j); got != want {
					t.Fatalf("seed %d, step %d: enter returned %d, want %d", seed, step, got, want)
				}
			default:
				if got, want := g.leave(), m.leave(); got != want {
					t.Fatalf("seed %d, step %d: leave returned another job than the one that waited longest", seed, step)
				}
			}
			running, waiting := g.load()
			if running != m.running || waiting != len(m.waiting) || g.bytes != int64(m.bytes()) {
				t.Fatalf("seed %d, step %d: %d run and %d with %d bytes wait, want %d and %d with %d", seed, step,
					running, waiting, g.bytes, m.running, len(m.waiting), m.bytes())
			}
			if running > m.maxRunning || waiting > m.maxWaiting || g.bytes > int64(m.maxBytes) {
				t.Fatalf("seed %d, step %d: over the bounds", seed, step)
			}
		}
	}
}

// Used from many goroutines, the gate loses no job and lets no more run than
// may.
func TestGateConcurrency(t *testing.T) {
	t.Parallel()
	const maxRunning, maxWaiting, jobs = 4, 16, 2000
	g := newGate(maxRunning, maxWaiting, 1<<20)
	var now, ran, refused, most atomic.Int64
	run := func(j *job) {
		for ; j != nil; j = g.leave() {
			n := now.Add(1)
			for top := most.Load(); n > top && !most.CompareAndSwap(top, n); top = most.Load() {
			}
			if _, waiting := g.load(); waiting > maxWaiting {
				t.Errorf("%d wait", waiting)
			}
			ran.Add(1)
			now.Add(-1)
		}
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range jobs / 16 {
				j := sizedJob(10)
				switch g.enter(j) {
				case runNow:
					run(j)
				case shed:
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if ran.Load()+refused.Load() != jobs {
		t.Errorf("%d ran and %d were refused, of %d", ran.Load(), refused.Load(), jobs)
	}
	if most.Load() > maxRunning {
		t.Errorf("%d ran at once", most.Load())
	}
	if running, waiting := g.load(); running != 0 || waiting != 0 || g.bytes != 0 {
		t.Errorf("afterwards %d run and %d wait with %d bytes", running, waiting, g.bytes)
	}
}

// A call that has been answered while it waits gives its place to another, in
// whatever order that happens, and the others keep theirs.
func TestGateForgets(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		g := newGate(1, 8, 1<<20)
		if g.enter(new(job)) != runNow {
			t.Fatal("the first does not run")
		}
		var want []*job
		for range 500 {
			switch n := rnd.IntN(3); {
			case n == 0 && len(want) > 0:
				i := rnd.IntN(len(want))
				if !g.forget(want[i]) || g.forget(want[i]) {
					t.Fatalf("seed %d: a waiting job is not forgotten once", seed)
				}
				want = slices.Delete(want, i, i+1)
			case n == 1 && len(want) > 0:
				if g.leave() != want[0] {
					t.Fatalf("seed %d: not in order", seed)
				}
				want = want[1:]
			default:
				j := &job{req: bus.Request{Payload: make([]byte, rnd.IntN(100))}}
				if got := g.enter(j); (got == queued) != (len(want) < 8) {
					t.Fatalf("seed %d: %d wait, the next is %v", seed, len(want), got)
				} else if got == queued {
					want = append(want, j)
				}
			}
			var bytes int64
			for _, j := range want {
				bytes += int64(len(j.req.Payload))
			}
			if _, waiting := g.load(); waiting != len(want) || g.bytes != bytes {
				t.Fatalf("seed %d: %d wait with %d bytes, want %d with %d", seed, waiting, g.bytes, len(want), bytes)
			}
		}
	}
}
