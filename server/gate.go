package server

import "sync"

// gate bounds the calls that run and the calls that wait to run.
type gate struct {
	maxRunning int
	maxWaiting int
	maxBytes   int64

	mu      sync.Mutex
	running int
	bytes   int64 // payloads of what waits
	waiting fifo
}

func newGate(running, waiting int, bytes int64) *gate {
	return &gate{maxRunning: running, maxWaiting: waiting, maxBytes: bytes}
}

type verdict int

const (
	runNow verdict = iota // the caller of enter runs the job, then calls leave
	queued                // somebody's leave will return the job
	shed                  // over the bounds
)

// enter admits a job.
func (g *gate) enter(j *job) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running < g.maxRunning {
		g.running++
		return runNow
	}
	size := int64(len(j.req.Payload))
	if g.waiting.len() >= g.maxWaiting || g.bytes+size > g.maxBytes {
		return shed
	}
	g.bytes += size
	j.waited = true
	g.waiting.push(j)
	return queued
}

// leave gives the place of a job that has ended to the one that has waited
// longest and returns it for the caller to run; nil when none waits.
func (g *gate) leave() *job {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.waiting.pop()
	if j == nil {
		g.running--
		return nil
	}
	g.bytes -= int64(len(j.req.Payload))
	return j
}

// clear takes out the jobs that wait: nobody's leave will return them.
func (g *gate) clear() []*job {
	g.mu.Lock()
	defer g.mu.Unlock()
	var jobs []*job
	for j := g.waiting.pop(); j != nil; j = g.waiting.pop() {
		jobs = append(jobs, j)
	}
	g.bytes = 0
	return jobs
}

// load returns how many calls run and wait.
func (g *gate) load() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running, g.waiting.len()
}

// fifo is a queue of jobs on a ring that grows to what was needed.
type fifo struct {
	ring  []*job
	first int
	n     int
}

func (q *fifo) len() int { return q.n }

func (q *fifo) push(j *job) {
	if q.n == len(q.ring) {
		grown := make([]*job, max(16, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.first+i)%len(q.ring)]
		}
		q.ring, q.first = grown, 0
	}
	q.ring[(q.first+q.n)%len(q.ring)] = j
	q.n++
}

func (q *fifo) pop() *job {
	if q.n == 0 {
		return nil
	}
	j := q.ring[q.first]
	q.ring[q.first] = nil
	q.first = (q.first + 1) % len(q.ring)
	q.n--
	return j
}
