// Package sessionstore keeps sessions, each a durable object that deletes itself
// when it has not been used for a while.
//
//	sessionstore.Serve(svc)
//
//	err := sessionstore.Save.Call(ctx, c, id, sessionstore.Data{Values: values, TTL: 1800})
//	session, err := sessionstore.Load.Call(ctx, c, id, rpc.None{})
package sessionstore

import (
	"maps"
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/server"
)

// The methods of a session. Its id is a secret that the user's browser has.
var (
	Save = rpc.NewObjectMethod[Data, rpc.None]("session.save", rpc.Description("Sets values, and how long the session lives without being used."))
	Load = rpc.NewObjectMethod[rpc.None, Data]("session.load", rpc.Description("Returns the session; not_found when it has ended."))
	Keep = rpc.NewObjectMethod[rpc.None, rpc.None]("session.keep", rpc.Description("Says that the session is in use."))
	End  = rpc.NewObjectMethod[rpc.None, rpc.None]("session.end", rpc.Description("Ends the session."))
)

// Data is what a session holds.
type Data struct {
	Values map[string]string `json:"values"`
	// TTL is how many seconds the session lives without being used.
	TTL int `json:"ttl"`
}

// MaxTTL is the longest life without use, in seconds: 30 days.
const MaxTTL = 30 * 24 * 60 * 60

// Validate checks what is to be saved.
func (d Data) Validate() error {
	if d.TTL < 1 || d.TTL > MaxTTL {
		return rpc.InvalidArgument.Errorf("ttl: want 1 to %d seconds, got %d", MaxTTL, d.TTL)
	}
	return nil
}

// Serve makes svc serve the class session.
func Serve(svc *server.Service) {
	sessions := durable.Serve[session](svc, "session", durable.Config{})
	durable.Handle(sessions, Save, (*session).save)
	durable.Handle(sessions, Keep, (*session).keep)
	durable.Handle(sessions, End, (*session).end)
	durable.View(sessions, Load, session.load)
	durable.OnAlarm(sessions, (*session).expire)
}

// session is the state of one session.
type session struct {
	Data
	Expires time.Time `json:"expires"` // zero: there is none
}

func (s *session) live() bool { return time.Now().Before(s.Expires) }

func (s *session) save(ctx durable.Context, d Data) (rpc.None, error) {
	if !s.live() {
		s.Values = nil
	}
	if s.Values == nil {
		s.Values = map[string]string{}
	}
	maps.Copy(s.Values, d.Values)
	s.TTL = d.TTL
	s.prolong(ctx)
	return rpc.None{}, nil
}

func (s *session) keep(ctx durable.Context, _ rpc.None) (rpc.None, error) {
	if !s.live() {
		return rpc.None{}, errEnded(ctx.ID())
	}
	s.prolong(ctx)
	return rpc.None{}, nil
}

// prolong moves the end. The alarm stays where it is when it comes before that:
// moving it each time would make every use dearer.
func (s *session) prolong(ctx durable.Context) {
	s.Expires = time.Now().Add(time.Duration(s.TTL) * time.Second)
	if at, set := ctx.Alarm(); !set || at.After(s.Expires) {
		ctx.SetAlarm(s.Expires)
	}
}

func (s *session) expire(ctx durable.Context, _ durable.Alarm) error {
	if s.live() {
		ctx.SetAlarm(s.Expires) // it has been used since
		return nil
	}
	ctx.Destroy()
	return nil
}

func (s *session) end(ctx durable.Context, _ rpc.None) (rpc.None, error) {
	ctx.Destroy()
	return rpc.None{}, nil
}

func (s session) load(ctx durable.ReadContext, _ rpc.None) (Data, error) {
	if !s.live() {
		return Data{}, errEnded(ctx.ID())
	}
	return s.Data, nil
}

func errEnded(id string) error { return rpc.NotFound.Errorf("the session %.8s… has ended", id) }
