package server

import (
	"context"
	"sync"

	"rpc.do"
	"rpc.do/bus"
)

// ServeLocal runs a call from this process: the same admission, interceptors,
// deadline and errors as a call from the bus, without the bus. See
// bus.LocalService.
func (s *Service) ServeLocal(ctx context.Context, req *bus.Request, params bus.LocalParams) (any, error) {
	now := req.Sent
	ep, err := s.find(req, now)
	if err != nil {
		return nil, remote(err)
	}
	j := s.newJob(ep, *req, now)
	j.call.OneWay = false
	if s.objects != nil {
		if err := s.place(j, false); err != nil {
			return nil, remote(err)
		}
	}
	if p, r := ep.newFrame(); params.CopyTo(p) {
		j.call.Params, j.call.Result = p, r
	} else if j.req.Payload, err = params.Encode(); err != nil { // read where it runs, as a call from the bus is
		j.leavePlace()
		return nil, err
	}
	j.local = signals.Get().(chan struct{})
	defer signals.Put(j.local) // its one signal has been taken by then
	if err := s.startLocal(j); err != nil {
		return nil, remote(err)
	}
	select {
	case <-j.local:
	case <-ctx.Done():
		j.cancel(rpc.CodeOf(ctx.Err()).Errorf("the caller gave up"))
		<-j.local
	}
	if j.outcome.err != nil {
		return nil, remote(j.outcome.err)
	}
	return j.outcome.result, nil
}

var signals = sync.Pool{New: func() any { return make(chan struct{}, 1) }}

// startLocal admits the job and sees to it that somebody runs it.
func (s *Service) startLocal(j *job) error {
	s.lifecycle.RLock()
	defer s.lifecycle.RUnlock()
	if s.state != serving {
		j.leavePlace()
		return rpc.Unavailable.Errorf("this instance of %s is shutting down", s.name).NotExecuted()
	}
	switch s.admit(j) {
	case runNow:
		s.intake.call(j)
	case shed:
		err := s.overloaded(j)
		if !j.claimShed(err) { // its time ran out just now: take the signal that says so
			<-j.local
		}
		return err
	}
	return nil
}

func remote(err error) error {
	if e, ok := err.(*rpc.Error); ok {
		return e.AsRemote()
	}
	return err
}
