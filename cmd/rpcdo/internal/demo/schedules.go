package demo

import (
	"context"
	"encoding/json"
	"strings"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
)

// TickHandler is the name of the handler of ticks that the greeter has.
const TickHandler = "greet"

// handleTicks has the greeter greet whom a schedule names.
func handleTicks(b *bus.Bus, svc *server.Service) {
	p := pipeline.New(b, pipeline.Config{Source: "/" + svc.Name()})
	schedule.Handle(svc, TickHandler, func(ctx context.Context, t schedule.Tick) error { return greet(ctx, p, t) })
}

// greet sends the greeting once for a tick, however often that comes in two
// minutes.
func greet(ctx context.Context, p *pipeline.Pipeline, t schedule.Tick) error {
	who := Person{}
	if len(t.Payload) > 0 {
		if err := json.Unmarshal(t.Payload, &who); err != nil {
			return rpc.InvalidArgument.Errorf("the payload is no person: %v", err)
		}
	}
	if err := who.Validate(); err != nil {
		return err
	}
	greeting, err := hello(ctx, who)
	if err != nil {
		return err
	}
	_, err = pipeline.Send(ctx, p, Greeted, greeting, pipeline.WithDedupe(t.ID), pipeline.WithSubject(strings.TrimSpace(who.Name)))
	return err
}
