package server

import (
	"container/list"
	"sync"
)

// gate bounds the calls that run and the calls that wait to run.
type gate struct {
	maxRunning int
	maxWaiting int
	maxBytes   int64

	mu      sync.Mutex
	running int
	bytes   int64     // payloads of what waits
	waiting list.List // of *job
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
	if g.waiting.Len() >= g.maxWaiting || g.bytes+size > g.maxBytes {
		return shed
	}
	g.bytes += size
	j.waited = true
	j.waiting = g.waiting.PushBack(j)
	return queued
}

// leave gives the place of a job that has ended to the one that has waited
// longest and returns it for the caller to run; nil when none waits.
func (g *gate) leave() *job {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.waiting.Front()
	if first == nil {
		g.running--
		return nil
	}
	j := first.Value.(*job)
	g.takeOut(j)
	return j
}

func (g *gate) takeOut(j *job) {
	g.waiting.Remove(j.waiting)
	j.waiting = nil
	g.bytes -= int64(len(j.req.Payload))
}

// forget takes out a job that needs no place any more; it reports false when
// the job does not wait.
func (g *gate) forget(j *job) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if j.waiting == nil {
		return false
	}
	g.takeOut(j)
	return true
}

// clear takes out the jobs that wait: nobody's leave will return them.
func (g *gate) clear() []*job {
	g.mu.Lock()
	defer g.mu.Unlock()
	var jobs []*job
	for e := g.waiting.Front(); e != nil; e = g.waiting.Front() {
		j := e.Value.(*job)
		g.takeOut(j)
		jobs = append(jobs, j)
	}
	return jobs
}

// load returns how many calls run and wait.
func (g *gate) load() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running, g.waiting.Len()
}
