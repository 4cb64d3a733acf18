package pipeline_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// The error of a batch that a handler has sent says nothing of the handler's own
// events: it has failed with all of them.
func TestBatchErrorOfHandler(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	failed := fmt.Errorf("forward: %w", &pipeline.BatchError{Failed: []pipeline.ItemError{{Index: 1, Err: rpc.Unavailable.Errorf("later")}}})
	l.serve("shop", func(svc *server.Service) {
		again := []pipeline.HandlerOption{pipeline.Attempts(2), pipeline.Backoff(time.Millisecond)}
		pipeline.On(svc, placed, "one", func(context.Context, pipeline.Event[order]) error { return failed }, again...)
		pipeline.OnBatch(svc, placed, "many", func(context.Context, []pipeline.Event[order]) error { return failed },
			append(again, pipeline.Batch(3, 20*time.Millisecond))...)
	})
	l.send(upTo(3)...)
	for _, d := range l.deadLetters(6) {
		if d.Attempts != 2 || d.Reason != pipeline.ReasonAttempts {
			t.Errorf("%s: dead after %d attempts, because of %s", d.Handler, d.Attempts, d.Reason)
		}
	}
}

// A PartError that does not say which events have failed, and with what, is that
// of all.
func TestPartErrorMalformed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const size = 4
	tests := map[string]struct {
		err  error
		dead int
	}{
		"beyond":  {&pipeline.PartError{Errs: map[int]error{size: errFailed}}, size},
		"before":  {&pipeline.PartError{Errs: map[int]error{0: errFailed, -1: errFailed}}, size},
		"nothing": {&pipeline.PartError{Errs: map[int]error{}}, size},
		"no-map":  {&pipeline.PartError{}, size},
		"nil":     {&pipeline.PartError{Errs: map[int]error{1: errFailed, 2: nil}}, size},
		"proper":  {&pipeline.PartError{Errs: map[int]error{1: errFailed, 2: errFailed}}, 2},
		"wrapped": {fmt.Errorf("forward: %w", &pipeline.PartError{Errs: map[int]error{0: errFailed}}), 1},
	}
	all := 0
	l.serve("shop", func(svc *server.Service) {
		for name, test := range tests {
			all += test.dead
			pipeline.OnBatch(svc, placed, name, func(_ context.Context, events []pipeline.Event[order]) error {
				if len(events) != size {
					t.Errorf("a batch of %d", len(events))
				}
				return test.err
			}, pipeline.Batch(size, patience), pipeline.Attempts(1))
		}
	})
	l.send(upTo(size)...)
	dead := map[string]int{}
	for _, d := range l.deadLetters(all) {
		dead[d.Handler]++
	}
	for name, test := range tests {
		if l.idle("shop", name); dead[name] != test.dead {
			t.Errorf("%s: %d dead letters, want %d", name, dead[name], test.dead)
		}
	}
}
