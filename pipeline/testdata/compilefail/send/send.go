// Package send sends data that are not those of the event.
package send

import (
	"context"

	"rpc.do"
	"rpc.do/pipeline"
)

type user struct{ Name string }

type order struct{ SKU string }

var registered = rpc.NewEvent[user]("User.registered")

func send(ctx context.Context, p *pipeline.Pipeline) {
	_, _ = pipeline.Send(ctx, p, registered, order{})                // want: type order of order{} does not match inferred type user
	_, _ = pipeline.Send(ctx, p, registered, &user{})                // want: type *user of &user{} does not match inferred type user
	_, _ = pipeline.Send(ctx, p, "User.registered", user{})          // want: cannot use "User.registered"
	_, _ = pipeline.SendBatch(ctx, p, registered, []order{})         // want: type []order of []order{} does not match inferred type []user
	_, _ = pipeline.SendBatch(ctx, p, registered, user{})            // want: does not match
	_, _ = pipeline.Send(ctx, p, registered, user{}, rpc.WithID("")) // want: rpc.WithID
}
