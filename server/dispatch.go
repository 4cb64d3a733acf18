package server

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
)

// intakeBuffer is how many messages may lie between the connection and the
// readers. There is always a reader that takes them out within microseconds;
// the buffer only has to hold what arrives in one burst.
const intakeBuffer = 64 << 10

// spareReaders is how many readers stay to wait for messages.
const spareReaders = 2

// intake reads the service's subscription. Readers take turns: one that has
// taken a message serves it itself, which saves a hand-over between goroutines,
// and one that takes the last waiting place puts another in it first. So a slow
// handler never keeps the next message waiting.
type intake struct {
	svc  *Service
	msgs chan *nats.Msg
	idle atomic.Int32
}

func (in *intake) start() { in.svc.workers.Go(in.read) }

func (in *intake) read() {
	for {
		in.idle.Add(1)
		msg, open := <-in.msgs
		last := in.idle.Add(-1) == 0
		if !open {
			return
		}
		if last {
			in.start()
		}
		in.svc.serve(msg)
		if in.idle.Load() >= spareReaders {
			return
		}
	}
}

// serve admits one message and runs its call, or leaves it to whoever frees a
// place.
func (s *Service) serve(msg *nats.Msg) {
	now := time.Now()
	req, err := bus.ParseRequest(msg, s.name, s.config.ReplyPrefixes)
	if errors.Is(err, bus.ErrForeignReply) {
		s.log.Warn().Str("method", req.Method).Str("reply", bounded(msg.Reply)).
			Msg("request refused: its reply subject is outside the allowed inbox prefixes")
		return
	}
	if err != nil {
		s.refuse(&req, err)
		return
	}
	ep, err := s.find(&req, now)
	if err != nil {
		s.refuse(&req, err)
		return
	}
	j := s.newJob(ep, req, now)
	switch s.admit(j) {
	case runNow:
		s.runFrom(j)
	case shed:
		s.refuseJob(j)
	}
}

// find returns the endpoint for a request, or why there is none.
func (s *Service) find(req *bus.Request, now time.Time) (*endpoint, error) {
	ep, ok := s.endpoints[req.Method]
	if !ok {
		return nil, rpc.Unimplemented.Errorf("Method not found")
	}
	if req.Object != "" {
		return nil, rpc.Unimplemented.Errorf("%s.%s is a method of a service, not of an object", s.name, ep.name)
	}
	if !req.Sent.IsZero() && now.After(req.Sent.Add(req.Timeout+bus.ClockRoom)) {
		return nil, rpc.DeadlineExceeded.Errorf(
			"the request arrived %v after it was sent, with %v to go: it was held up, or the clocks of caller and service differ",
			now.Sub(req.Sent).Round(time.Millisecond), req.Timeout)
	}
	return ep, nil
}

// admit takes the job in. Its deadline runs from here on.
func (s *Service) admit(j *job) verdict {
	j.watch = startWatch(j, time.Until(j.ctx.deadline))
	s.active.add(j)
	v := j.ep.gate.enter(j)
	if v == shed {
		s.release(j)
	}
	return v
}

func (s *Service) release(j *job) {
	j.watch.stop()
	s.active.remove(j)
	j.ctx.end(context.Canceled)
}

// runFrom runs a job that has a place, and then, in the same place, those that
// wait for one.
func (s *Service) runFrom(j *job) {
	for j != nil {
		s.runOne(j)
		j = j.ep.gate.leave()
	}
}

// runOne survives a handler that ends its goroutine (runtime.Goexit, as
// testing's FailNow does): the place is handed on and the caller answered.
func (s *Service) runOne(j *job) {
	returned := false
	defer func() {
		s.release(j)
		j.ep.stats.ended()
		if returned {
			return
		}
		j.fail(j.coded(errPanic))
		if next := j.ep.gate.leave(); next != nil {
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
	s.log.Warn().Str("method", bounded(req.Method)).Str("id", req.ID).Str("caller", req.Caller).
		Str("code", e.Code.String()).Str("error", e.Message).Msg("request refused")
	s.answer(req.Reply, e)
}

// refuseJob answers a call that is over the bounds.
func (s *Service) refuseJob(j *job) {
	err := s.overloaded(j)
	if j.claim(err) {
		s.answer(j.req.Reply, err)
	}
}

// overloaded counts a shed call and returns its error. It says when a place may
// be free: after what waits has run.
func (s *Service) overloaded(j *job) *rpc.Error {
	running, waiting := j.ep.gate.load()
	s.sheds.note(s, running, waiting)
	wait := j.ep.stats.mean() * time.Duration(waiting+1) / time.Duration(max(running, 1))
	return rpc.ResourceExhausted.Errorf("%s is overloaded: %d calls run and %d wait", j.call.Name(), running, waiting).
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

func bounded(text string) string {
	if len(text) > 200 {
		return text[:200] + "…"
	}
	return text
}
