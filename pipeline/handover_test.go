package pipeline_test

import (
	"slices"
	"sync"
	"testing"

	"rpc.do/pipeline"
	"rpc.do/server"
)

// What is on its way to an instance that stops is given back, and does not wait
// until the server misses it, which is after 30 seconds.
func TestStopGivesBackWhatComes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	register := func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) }
	l.serve("shop", register)
	const rounds, batches, size = 5, 20, 200
	n := 0
	for range rounds {
		stop := l.serve("shop", register)
		var stopping sync.WaitGroup
		for i := range batches {
			if i == batches/2 {
				stopping.Go(stop)
			}
			l.sendMany(between(n, n+size)...)
			n += size
		}
		stopping.Wait()
	}
	l.wantAtLeast(g, upTo(n)...)
}

// Events that the filters of a consumer let through, and that nobody wants, are
// let go; those that a newer instance wants are its own, however soon they come
// after such a one.
func TestWantedByNewerInstance(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var old, now kinds
	register := func(k *kinds, also ...string) func(*server.Service) {
		return func(svc *server.Service) {
			pipeline.OnPattern(svc, "Order.paid.*", "note", k.handle, pipeline.Also(append(also, "*.paid.card")...))
		}
	}
	l.serve("shop", register(&old))
	l.sendKinds("Refund.paid.cash", "Order.paid.cash")
	l.idle("shop", "note") // it has found that nobody wants the first
	l.serve("shop", register(&now, "Refund.paid.cash"))
	want := slices.Repeat([]string{"Refund.paid.cash"}, 20)
	l.sendKinds(want...)
	l.wantKinds(&now, want...)
	l.wantKinds(&old, "Order.paid.cash")
}
