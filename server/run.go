package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// cancelGrace is how long a shutdown waits for handlers to notice that their
// contexts were cancelled.
const cancelGrace = 2 * time.Second

// flushTimeout is how long to wait until the bus has taken what was sent.
const flushTimeout = 5 * time.Second

// Run serves calls until ctx ends, then shuts down: it stops taking calls,
// finishes those it has taken within the drain timeout, cancels what is left,
// waits for WaitUntil work and sends what is buffered. A rolling restart loses
// no call.
//
// Run returns nil after a clean shutdown. It returns an error when the service
// can't start, when its bus is closed, which shuts it down too, and when handlers
// were still running at the end. It can be called once. Handlers do not see the
// values of ctx.
func (s *Service) Run(ctx context.Context) error {
	subs, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("server: start %s: %w", s.name, err)
	}
	s.log.Info().Str("version", s.config.Version).Int("methods", len(s.endpoints)).
		Strs("interceptors", names(s.config.Interceptors)).Msg("serving")
	for _, e := range s.entrypoints {
		s.log.Info().Str("entrypoint", e.name).Strs("interceptors", names(e.interceptors)).Msg("serving")
	}
	closing, done := make(chan struct{}), make(chan struct{})
	stop := s.bus.OnClose(func() { // while the connection works still
		close(closing)
		<-done
	})
	defer stop()
	defer close(done)
	select {
	case <-ctx.Done():
		return s.shutdown(subs)
	case <-closing:
		return errors.Join(fmt.Errorf("server: %s: the bus was closed", s.name), s.shutdown(subs))
	}
}

func names(interceptors []rpc.Interceptor) []string {
	all := make([]string, len(interceptors))
	for i, in := range interceptors {
		all[i] = in.Name
	}
	return all
}

// subscriptions of a running service.
type subscriptions struct {
	calls     *nats.Subscription
	cancel    *nats.Subscription
	discovery []*nats.Subscription
	stopLocal func()
}

func (s *Service) start(ctx context.Context) (*subscriptions, error) {
	if err := s.enter(registering, serving); err != nil {
		return nil, err
	}
	if err := s.startComponents(ctx); err != nil {
		return nil, err
	}
	s.intake.open()
	subs := new(subscriptions)
	if err := s.subscribe(subs); err != nil {
		subs.unsubscribe()
		s.intake.close()
		s.workers.Wait()
		return nil, errors.Join(err, stopComponents(s.components, time.Now()))
	}
	subs.stopLocal = s.bus.Local().Add(s.name, s)
	close(s.ready)
	return subs, nil
}

func (s *Service) enter(from, to state) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.state != from {
		return errors.New("a service runs once")
	}
	s.state = to
	s.started = time.Now()
	return nil
}

func (s *Service) subscribe(subs *subscriptions) error {
	conn := s.bus.Conn()
	var err error
	subject := bus.ServiceSubject(s.name)
	if subs.calls, err = conn.ChanQueueSubscribe(subject, bus.CallQueue, s.intake.msgs); err != nil {
		return err
	}
	if err := conn.FlushTimeout(flushTimeout); err != nil {
		return err
	}
	if err := s.bus.Denied(subject); err != nil {
		return err
	}
	if subs.cancel, err = conn.Subscribe(bus.CancelSubject(s.name), s.onCancel); err != nil {
		return err
	}
	err = s.subscribeDiscovery(func(subject string, handle nats.MsgHandler) error {
		sub, err := conn.Subscribe(subject, handle)
		if err == nil {
			subs.discovery = append(subs.discovery, sub)
		}
		return err
	})
	if err != nil {
		return err
	}
	return conn.FlushTimeout(flushTimeout)
}

func (subs *subscriptions) unsubscribe() {
	if subs.calls != nil {
		_ = subs.calls.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	}
	if subs.cancel != nil {
		_ = subs.cancel.Unsubscribe()
	}
	for _, sub := range subs.discovery {
		_ = sub.Unsubscribe()
	}
}

func (s *Service) shutdown(subs *subscriptions) error {
	deadline := time.Now().Add(s.config.DrainTimeout)
	s.log.Info().Msg("draining")
	subs.stopLocal()
	s.lifecycle.Lock()
	s.state = draining
	s.lifecycle.Unlock()

	feeds := s.feeds.left()
	// Discovery first, so that nobody is pointed to what goes away.
	if s.bus.Connected() {
		stopIntake(append(append(subs.discovery, subs.calls), feeds...), deadline)
	} else { // there is nothing on its way
		subs.unsubscribe()
		for _, sub := range feeds {
			_ = sub.Unsubscribe()
		}
	}
	s.intake.close()

	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.workers.Wait()
		s.work.wait()
	}()
	err := s.awaitWork(finished, time.Until(deadline))
	err = errors.Join(err, stopComponents(s.components, deadline))
	s.deadlines.stop()
	subs.unsubscribe()
	err = errors.Join(err, s.flush())
	s.lifecycle.Lock()
	s.state = stopped
	s.lifecycle.Unlock()
	s.log.Info().Err(err).Msg("stopped")
	return err
}

// flush sends the answers that the connection has not sent yet.
func (s *Service) flush() error {
	conn := s.bus.Conn()
	if !s.bus.Connected() {
		if n, err := conn.Buffered(); err == nil && n > 0 {
			return fmt.Errorf("server: stop %s: the bus is not connected and %d bytes of answers are not sent", s.name, n)
		}
		return nil
	}
	if err := conn.FlushTimeout(flushTimeout); err != nil {
		return fmt.Errorf("server: stop %s: flush: %w", s.name, err)
	}
	return nil
}

// stopIntake unsubscribes, in that order, so that no message is lost: it tells
// the bus and waits until all that was on its way has arrived.
func stopIntake(subs []*nats.Subscription, deadline time.Time) {
	closed := make([]<-chan nats.SubStatus, len(subs))
	for i, sub := range subs {
		closed[i] = sub.StatusChanged(nats.SubscriptionClosed)
		if sub.Drain() != nil {
			closed[i] = nil // the connection is gone, and the subscription with it
		}
	}
	expired := time.NewTimer(time.Until(deadline))
	defer expired.Stop()
	for i := range subs {
		if closed[i] == nil {
			continue
		}
		select {
		case <-closed[i]:
		case <-expired.C:
			for _, sub := range subs[i:] {
				_ = sub.Unsubscribe()
			}
			return
		}
	}
}

// awaitWork waits until calls and background work have ended, cancels them when
// timeout is over, and gives up on those that ignore it.
func (s *Service) awaitWork(finished <-chan struct{}, timeout time.Duration) error {
	select {
	case <-finished:
		return nil
	case <-time.After(timeout):
	}
	s.abandon(errShutdown)
	for _, j := range s.clearGates() {
		s.release(j)
		j.fail(rpc.Unavailable.Errorf("%s shut down before %s began", s.name, j.ep.name).NotExecuted())
	}
	for _, j := range s.active.all() {
		j.cancel(rpc.Unavailable.Errorf("%s shut down before %s ended; it may have run in part", s.name, j.ep.name))
	}
	select {
	case <-finished:
		s.log.Warn().Msg("drain timeout: calls were cancelled")
		return nil
	case <-time.After(cancelGrace):
		return fmt.Errorf("server: stop %s: %d calls and %d functions given to WaitUntil ignore that their context is cancelled",
			s.name, len(s.active.all()), s.work.running())
	}
}

// clearGates takes out the calls that wait for a place.
func (s *Service) clearGates() []*job {
	jobs := s.gate.clear()
	for _, ep := range s.endpoints {
		jobs = append(jobs, ep.gate.clear()...)
	}
	return jobs
}

var errShutdown = errors.New("the service shut down")
