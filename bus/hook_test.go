package bus

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestHooks(t *testing.T) {
	t.Parallel()
	var h hooks[struct{}]
	var got strings.Builder
	add := func(name string) func() {
		stop, ok := h.add(func(struct{}) { got.WriteString(name) })
		if !ok {
			t.Fatalf("%s was not taken", name)
		}
		return stop
	}
	add("a")
	stopB := add("b")
	add("c")
	stopB()
	stopB()
	for _, k := range h.snapshot(false) {
		k.run(struct{}{})
	}
	if got.String() != "ac" {
		t.Errorf("ran %q", got.String())
	}
	h.snapshot(true)
	if _, ok := h.add(func(struct{}) {}); ok {
		t.Error("taken after the last call")
	}
}

// A hook that another one stops is not called any more.
func TestHookStopsAnother(t *testing.T) {
	t.Parallel()
	var h hooks[struct{}]
	var stop func()
	h.add(func(struct{}) { stop() })
	stop, _ = h.add(func(struct{}) { t.Error("called after it was stopped") })
	for _, k := range h.snapshot(false) {
		k.run(struct{}{})
	}
}

func TestHooksConcurrently(t *testing.T) {
	t.Parallel()
	var h hooks[struct{}]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				stop, _ := h.add(func(struct{}) {})
				stop()
			}
		})
		wg.Go(func() {
			for range 50 {
				for _, k := range h.snapshot(false) {
					k.run(struct{}{})
				}
			}
		})
	}
	wg.Wait()
	if n := h.list.Len(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func BenchmarkHooks(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("among %d", n), func(b *testing.B) {
			var h hooks[struct{}]
			for range n {
				h.add(func(struct{}) {})
			}
			b.ReportAllocs()
			for b.Loop() {
				stop, _ := h.add(func(struct{}) {})
				stop()
			}
		})
	}
}
