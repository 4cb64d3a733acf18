package demo

import (
	"context"
	"strings"

	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// Handler is the name of the handler that the greeter has.
const Handler = "welcome"

// handleEvents has the greeter greet whoever registers.
func handleEvents(b *bus.Bus, svc *server.Service) {
	p := pipeline.New(b, pipeline.Config{Source: "/" + svc.Name()})
	pipeline.On(svc, Registered, Handler, func(ctx context.Context, e pipeline.Event[Person]) error { return welcome(ctx, p, e) })
}

// welcome sends the greeting once, however often it is tried in two minutes.
func welcome(ctx context.Context, p *pipeline.Pipeline, e pipeline.Event[Person]) error {
	greeting, err := hello(ctx, e.Data)
	if err != nil {
		return err
	}
	_, err = pipeline.Send(ctx, p, Greeted, greeting, pipeline.WithDedupe(e.ID), pipeline.WithSubject(strings.TrimSpace(e.Data.Name)))
	return err
}
