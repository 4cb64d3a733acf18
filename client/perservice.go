package client

import (
	"sync"
	"sync/atomic"
)

// perService keeps one T for each service that is called. Names may come from
// outside, so only maxServices of them have one.
type perService[T any] struct {
	make  func(service string) T
	all   sync.Map // service name -> T
	count atomic.Int64
}

const maxServices = 4096

// of returns what is kept for a service; false when there are too many.
func (p *perService[T]) of(service string) (T, bool) {
	if v, known := p.all.Load(service); known {
		return v.(T), true
	}
	if p.count.Load() >= maxServices {
		var none T
		return none, false
	}
	v, known := p.all.LoadOrStore(service, p.make(service))
	if !known {
		p.count.Add(1)
	}
	return v.(T), true
}
