// Package sendcontrol sends what the event is for.
package sendcontrol

import (
	"context"

	"rpc.do"
	"rpc.do/pipeline"
)

type user struct{ Name string }

var registered = rpc.NewEvent[user]("User.registered")

func send(ctx context.Context, p *pipeline.Pipeline) {
	_, _ = pipeline.Send(ctx, p, registered, user{}, pipeline.WithID("1"))
	_, _ = pipeline.SendBatch(ctx, p, registered, []user{{}})
}
