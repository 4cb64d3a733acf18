package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
)

// take admits one message and returns its job when that is to run now. A call
// that has to wait is left to whoever frees a place, and what can't become a
// call is answered.
func (s *Service) take(msg *nats.Msg) *job {
	now := time.Now()
	req, err := bus.ParseRequest(msg, s.name, s.config.ReplyPrefixes)
	if errors.Is(err, bus.ErrForeignReply) {
		s.log.Warn().Str("method", bus.Bounded(req.Method)).Str("reply", bus.Bounded(msg.Reply)).
			Msg("request refused: its reply subject is outside the allowed inbox prefixes")
		return nil
	}
	if err != nil {
		s.refuse(&req, err)
		return nil
	}
	ep, err := s.find(&req, now)
	if err != nil {
		s.refuse(&req, err)
		return nil
	}
	j := s.newJob(ep, req, now)
	if s.objects != nil {
		if err := s.place(j, true); err != nil {
			if err != errSilent {
				s.refuse(&req, err)
			}
			return nil
		}
	}
	switch s.admit(j) {
	case runNow:
		return j
	case shed:
		s.refuseJob(j)
	}
	return nil
}

// find returns the endpoint for a request, or why there is none.
func (s *Service) find(req *bus.Request, now time.Time) (*endpoint, error) {
	ep, ok := s.endpoints[req.Method]
	if !ok {
		return nil, rpc.Unimplemented.Errorf("Method not found")
	}
	if s.objects != nil {
		return ep, s.checkObject(req, now)
	}
	if req.Object != "" {
		return nil, rpc.Unimplemented.Errorf("%s.%s is a method of a service, not of an object", s.name, ep.name)
	}
	return ep, nil
}

// admit takes the job in. Its deadline runs from here on.
func (s *Service) admit(j *job) verdict {
	s.active.add(j)
	s.deadlines.watch(j.ctx.deadline)
	if s.early.cancelled(j.req.Reply, j.received) {
		j.cancelByCaller()
	}
	v := j.gate.enter(j)
	switch {
	case v == shed:
		s.release(j)
	case v == queued && j.answered.Load(): // meanwhile
		j.stopWaiting()
	}
	return v
}

func (s *Service) release(j *job) {
	s.active.remove(j)
	j.ctx.end(context.Canceled)
	if j.place != nil {
		j.place.Leave()
	}
}

// runFrom runs a job that has a place, and then, in the same place, those that
// wait for one.
func (s *Service) runFrom(j *job) {
	for j != nil {
		s.runOne(j)
		if j.left {
			return
		}
		j = j.gate.leave()
	}
}

// runOne survives a handler that ends its goroutine (runtime.Goexit, as
// testing's FailNow does): the place is handed on and the caller answered.
func (s *Service) runOne(j *job) {
	returned := false
	defer func() {
		if j.later {
			return
		}
		s.release(j)
		j.ep.stats.ended()
		if returned {
			return
		}
		j.log(zerolog.ErrorLevel).Msg("handler ended its goroutine")
		j.fail(j.internal())
		if j.left {
			return
		}
		if next := j.gate.leave(); next != nil {
			s.workers.Go(func() { s.runFrom(next) })
		}
	}()
	j.ep.stats.began()
	j.run()
	returned = true
}

// refuse answers a request that can't become a call.
func (s *Service) refuse(req *bus.Request, err error) {
	e := invalid(err).(*rpc.Error)
	level := zerolog.WarnLevel
	if e.Code == rpc.Unavailable && e.Retryable {
		level = zerolog.DebugLevel // an object that changes hands: the caller asks again
	}
	s.log.WithLevel(level).Str("method", bus.Bounded(req.Method)).Str("id", req.ID).Str("from", req.Caller).
		Str("code", e.Code.String()).Str("error", e.Message).Msg("request refused")
	s.answer(req.Reply, e)
}

// refuseJob answers a call that is over the bounds.
func (s *Service) refuseJob(j *job) {
	err := s.overloaded(j)
	if j.claimShed(err) {
		s.answer(j.req.Reply, err)
	}
}

// overloaded counts a shed call and returns its error. It says when a place may
// be free: after what waits has run.
func (s *Service) overloaded(j *job) *rpc.Error {
	running, waiting := j.gate.load()
	s.sheds.note(s, running, waiting)
	wait := j.ep.stats.mean() * time.Duration(waiting+1) / time.Duration(max(running, 1))
	name := j.call.Name()
	if j.place != nil {
		name = fmt.Sprintf("%s of the object %.80q", name, j.req.Object)
	}
	return rpc.ResourceExhausted.Errorf("%s is overloaded: %d calls run and %d wait", name, running, waiting).
		NotExecuted().WithRetryAfter(min(max(wait, 10*time.Millisecond), time.Second))
}

func (s *Service) answer(reply string, err *rpc.Error) {
	if reply != "" {
		s.publish(bus.EncodeError(reply, err, s.bus.MaxPayload()))
	}
}

func (s *Service) publish(msg *nats.Msg) {
	if err := s.bus.Conn().PublishMsg(msg); err != nil {
		s.log.Error().Err(err).Msg("answer can't be sent")
	}
}
