package client

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"rpc.do"
)

// However many services are called, what is kept of them is bounded.
func TestPerService(t *testing.T) {
	t.Parallel()
	p := perService[*int]{make: func(string) *int { return new(int) }}
	first, ok := p.of("a")
	if again, _ := p.of("a"); !ok || again != first {
		t.Error("a service gets another value the second time")
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 2 * maxServices {
				p.of(strconv.Itoa(i))
			}
		})
	}
	all.Wait()
	kept := 0
	p.all.Range(func(any, any) bool { kept++; return true })
	if kept > maxServices+4 { // each goroutine may add one at the end
		t.Errorf("%d values are kept, want at most %d", kept, maxServices)
	}
	if again, ok := p.of("a"); !ok || again != first {
		t.Error("a service that has a value lost it")
	}
}

// Services over the bound share one retry budget and go without a breaker.
func TestTooManyServices(t *testing.T) {
	t.Parallel()
	c := new(Client)
	c.initBudgets(1)
	b := &breakers{config: BreakerConfig{Failures: 1}}
	b.byService.make = b.breaker
	for i := range maxServices {
		c.budget(strconv.Itoa(i))
		b.byService.of(strconv.Itoa(i))
	}
	if c.budget("x") != c.budget("y") || c.budget("x") == c.budget("1") {
		t.Error("services over the bound do not share a budget of their own")
	}
	calls := 0
	call := b.wrap(func(context.Context, *rpc.Call) error {
		calls++
		return rpc.Unavailable.Errorf("nobody is there")
	})
	for range 3 {
		if err := call(t.Context(), &rpc.Call{Service: "x", Method: "m"}); rpc.CodeOf(err) != rpc.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if calls != 3 {
		t.Errorf("%d of 3 calls were made", calls)
	}
}
