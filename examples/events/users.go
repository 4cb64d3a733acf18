package events

import (
	"context"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/examples/events/contract"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// NewUsers returns the service users. It keeps nothing: that a user is registered
// is the event.
func NewUsers(b *bus.Bus) *server.Service {
	u := &users{pipeline.New(b, pipeline.Config{Source: "/users"})}
	svc := server.New(b, "users", server.Config{Version: "1.0.0", Description: "Registers users."})
	server.Handle(svc, contract.Register, u.register)
	return svc
}

type users struct{ events *pipeline.Pipeline }

// register has the caller wait until the event is stored: what it is told has
// happened, whatever becomes of this instance.
func (u *users) register(ctx context.Context, user contract.User) (contract.User, error) {
	receipt, err := pipeline.Send(ctx, u.events, contract.Registered, user,
		pipeline.WithSubject(user.Email),
		pipeline.WithDedupe(user.Email)) // whoever clicks twice is registered once
	switch {
	case err != nil:
		return contract.User{}, err
	case receipt.Duplicate:
		return contract.User{}, rpc.AlreadyExists.Errorf("%s is registered", user.Email)
	}
	return user, nil
}
