package server

import (
	"context"
	"errors"
	"time"
)

// Component is something that serves along with a service, as the classes of
// objects do.
type Component interface {
	// Start is called by Run before the service takes calls. When it fails, so
	// does Run.
	Start(ctx context.Context) error
	// Stop is called when the service takes no calls any more and those that it
	// had taken have ended, and once for every Start that returned nil. It
	// returns when nothing of the component runs, at the latest soon after ctx
	// has ended, with an error that says what was left undone.
	Stop(ctx context.Context) error
}

type component struct {
	key any
	Component
}

// Attach returns the service's component with that key, a value of a type of
// the caller's own, and makes it when there is none yet. It panics when the
// service has been run.
func (s *Service) Attach(key any, make func() Component) Component {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	for _, c := range s.components {
		if c.key == key {
			return c.Component
		}
	}
	s.mustRegister("a component")
	c := component{key, make()}
	s.components = append(s.components, c)
	return c.Component
}

// startTimeout bounds how long the components take to start.
const startTimeout = 30 * time.Second

// startComponents starts all of them, or none.
func (s *Service) startComponents(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for i, c := range s.components {
		if err := c.Start(ctx); err != nil {
			return errors.Join(err, stopComponents(s.components[:i], time.Now()))
		}
	}
	return nil
}

// stopGrace is what components have to stop when draining took all the time.
const stopGrace = 5 * time.Second

func stopComponents(components []component, deadline time.Time) error {
	if least := time.Now().Add(stopGrace); deadline.Before(least) {
		deadline = least
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var errs []error
	for i := len(components) - 1; i >= 0; i-- {
		errs = append(errs, components[i].Stop(ctx))
	}
	return errors.Join(errs...)
}
