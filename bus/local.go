package bus

import (
	"context"
	"sync"
)

// Local knows the services of this process, so that calls to them need not go
// over the bus.
type Local struct {
	mu       sync.RWMutex
	services map[string][]LocalService
}

func newLocal() *Local { return &Local{services: map[string][]LocalService{}} }

// LocalService serves calls from its own process.
type LocalService interface {
	// ServeLocal runs one call, made at req.Sent, which is now, and returns a
	// pointer to the handler's result.
	// It takes the params before it waits for anything, returns when the call
	// has ended or ctx has, and never touches params afterwards. Its errors are
	// those that a caller on the bus would get.
	ServeLocal(ctx context.Context, req *Request, params LocalParams) (result any, err error)
}

// LocalParams hands over the params of a local call.
type LocalParams interface {
	// CopyTo copies the params into dst, a pointer to the handler's params. It
	// reports false when their types don't allow that; then Encode is used.
	CopyTo(dst any) bool
	// Encode returns the params as the payload that would have been sent.
	Encode() ([]byte, error)
}

// Add announces a service of this process under name until stop is called.
func (l *Local) Add(name string, svc LocalService) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.services[name] = append(l.services[name][:len(l.services[name]):len(l.services[name])], svc)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		var rest []LocalService
		for _, s := range l.services[name] {
			if s != svc {
				rest = append(rest, s)
			}
		}
		if rest == nil {
			delete(l.services, name)
		} else {
			l.services[name] = rest
		}
	}
}

// Find returns a service of this process with that name, or nil.
func (l *Local) Find(name string) LocalService {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.services[name]; len(s) > 0 {
		return s[0]
	}
	return nil
}
