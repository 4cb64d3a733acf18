package bus

import (
	"container/list"
	"sync"
	"sync/atomic"
)

// hooks are functions to call with an A when something happens. Adding and removing one
// costs the same however many there are.
type hooks[A any] struct {
	mu   sync.Mutex
	list list.List // of *hook[A], in order of registration
	done bool      // nothing will happen any more
}

type hook[A any] struct {
	fn      func(A)
	stopped atomic.Bool
}

// add registers fn until stop is called. It reports false when the last call
// of the hooks has begun, so that fn would not be called.
func (h *hooks[A]) add(fn func(A)) (stop func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return func() {}, false
	}
	k := &hook[A]{fn: fn}
	e := h.list.PushBack(k)
	return func() {
		if k.stopped.Swap(true) {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.list.Remove(e)
	}, true
}

// snapshot returns the hooks in order; last says that there will be no more.
func (h *hooks[A]) snapshot(last bool) []*hook[A] {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = h.done || last
	all := make([]*hook[A], 0, h.list.Len())
	for e := h.list.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*hook[A]))
	}
	return all
}

// run calls the function unless it was stopped.
func (k *hook[A]) run(a A) {
	if !k.stopped.Load() {
		k.fn(a)
	}
}
